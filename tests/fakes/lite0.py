"""The models that a hub releases for elpv cells: Lite0, trained heads, golden parts and references."""

from pathlib import Path

import numpy as np

from hub.demo import cells
from hub.export import export_backbone, export_head, golden_part
from hub.references import references_part
from hub.run import GOLDEN_IMAGES
from hub.settings import TrainSettings
from hub.train import train_head
from shared.golden import decode, golden_outputs
from shared.litert import Model, Part
from shared.preprocess import Preprocess, to_input
from shared.preprocess import decode as decode_image
from tests.fakes.hub import Parts

TAUGHT = 100


def releases(cache: Path, count: int) -> list[Parts]:
    """So many models for the demo's classes, each with another backbone file and head. cache: of converted backbones.

    All backbones compute the same: a few bytes at the end of the file, which LiteRT does not read, give each a hash of
    its own.
    """
    how = Preprocess()
    data = export_backbone(cache, how)
    backbone = Part(data, name="backbone")
    some = cells.split(cells.load(), 0, 1).start[:TAUGHT]
    images = [decode_image(one.path.read_bytes()) for one in some]
    x = np.concatenate([backbone.run(to_input(one, how)) for one in images])
    y = np.array([cells.CLASSES.index(one.label) for one in some])
    golden = golden_part(images[:GOLDEN_IMAGES], backbone, how)
    made = []
    for number in range(count):
        settings = TrainSettings(seed=number, l2=(0.1 / (number + 1),))
        head = export_head(train_head(x, y, len(cells.CLASSES), settings, lambda _: None).head)
        model = Model(backbone, Part(head, name="head"), cells.CLASSES, how)
        made.append(
            Parts(
                data + number.to_bytes(16, "little"),
                head,
                golden,
                golden_outputs(model, decode(golden)),
                how.size,
                references_part(x) or b"",
                cells.CLASSES,
            )
        )
    return made
