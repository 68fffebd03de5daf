"""The golden check of a release in a folder, as a program: `python -m tests.fakes.golden FOLDER`, for other runtimes.

The folder holds `model.json` and each part under its hash. Prints a JSON object; a GoldenError ends it.
"""

import json
import sys
from pathlib import Path

import msgspec
import numpy as np

from shared.golden import check, decode
from shared.litert import Interpreter, Model, Part
from shared.manifest import ModelSpec


def main(folder: Path) -> None:
    spec = msgspec.json.decode((folder / "model.json").read_bytes(), type=ModelSpec)
    backbone, head = (
        Part((folder / one.sha256).read_bytes(), name=name)
        for name, one in (("backbone", spec.backbone), ("head", spec.head))
    )
    model = Model(backbone, head, spec.classes, spec.preprocess, spec.thresholds)
    golden = decode((folder / spec.golden.sha256).read_bytes())
    result = check(model, golden, spec.golden_probabilities, spec.tolerances)
    print(
        json.dumps(
            {
                "runtime": Interpreter.__module__,
                "numpy": np.__version__,
                "inputs": len(golden.inputs),
                "cosine": result.worst_cosine,
                "difference": result.worst_difference,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
