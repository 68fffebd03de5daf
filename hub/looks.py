"""All findings on one image, against what its camera and its project have shown before. Pure but for its memory.

    flag    | score                                              | rule
    --------|----------------------------------------------------|------------------------------
    small   | shorter side in pixels                             | `hub.quality`
    dark    | mean light, 0..1                                   | `hub.dim`, the camera's history; `hub.quality`
    bright  | mean light, 0..1                                   | `hub.quality`, the camera's history
    blurred | robust standard deviations towards blur            | `hub.blur`, the project's pictures
    copy    | correlation with an earlier image laid over it     | `hub.nearcopies`, the project's last images
    novel   | cosine distance to the nearest training image      | `hub.novelty`, the training images
    view    | correlation with the camera's usual view           | `hub.framing`, the camera's history

A flag says that somebody may want to look; it deletes nothing and holds nothing back.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from hub import blur, dim, framing, nearcopies, novelty, quality
from hub.framing import View
from hub.quality import Floats, Light
from shared.preprocess import Pixels

Flag = Literal["small", "dark", "bright", "blurred", "copy", "novel", "view"]
FLAGS: tuple[Flag, ...] = get_args(Flag)
HISTORY = 200
"""Pictures of a camera that say what is usual for it."""
LESSONS = 512
"""Pictures of a project that blur is learnt from."""
LEARN_EVERY = 32
WINDOW = 4096
"""Last images of a project among which copies are looked for: 21 MB of embeddings."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of an image so that later ones can be compared: table `Look`. copy_of: id, or None."""

    bits: int
    light: Light
    view: View
    sharp: Floats
    soft: Floats
    copy_of: int | None = None


@dataclass(slots=True)
class _Camera:
    lights: deque[Light] = field(default_factory=lambda: deque(maxlen=HISTORY))
    levels: deque[Floats] = field(default_factory=lambda: deque(maxlen=HISTORY))
    views: deque[View] = field(default_factory=lambda: deque(maxlen=HISTORY))


class Checker:
    """The memory of one project: feed it images in the order in which they came. Not thread-safe.

    earlier: gives the grey picture (`quality.grey_of`) of an image by id, or None where it is gone.
    """

    def __init__(self, earlier: Callable[[int], Floats | None]) -> None:
        self._earlier = earlier
        self._cameras: dict[str, _Camera] = {}
        self._lessons: deque[tuple[Floats, Floats]] = deque(maxlen=LESSONS)
        self._rule: blur.Rule | None = None
        self._since = 0
        self._reference: novelty.Reference | None = None
        self._forget()

    def _forget(self, dims: int = 0) -> None:
        self._ids: deque[int] = deque(maxlen=WINDOW)
        self._units = np.zeros((WINDOW, dims), np.float32)
        self._hashes = np.zeros(WINDOW, np.uint64)
        self._seen = 0

    def taught(self, vectors: Floats) -> None:
        """What the model was trained on: embeddings float32 [n, dims] by the backbone in use."""
        self._reference = novelty.Reference(vectors) if len(vectors) >= novelty.ENOUGH else None

    def look(self, camera: str, pixels: Pixels, vector: Floats) -> tuple[dict[str, float], Look]:
        """Flag -> score, and what to keep. vector: embedding, float32 [dims]. Nothing is remembered yet: see `add`."""
        grey = quality.grey_of(pixels)
        known = self._cameras.get(camera, _Camera())
        bits = nearcopies.phash(grey)
        sharp = quality.sharpness(grey)
        look = Look(
            bits=bits,
            light=quality.light_of(grey),
            view=framing.view_of(grey),
            sharp=sharp,
            soft=quality.sharpness(blur.soften(grey, bits)),
        )
        flags = quality.flags_of(pixels, grey, known.lights)
        dimness = dim.dimness(dim.levels(look.light, sharp), known.levels)
        if dimness is not None and dimness > dim.LIMIT:
            flags["dark"] = round(float(grey.mean()) / 255, 3)
        if (how := self._blurred(grey, sharp)) is not None:
            flags["blurred"] = round(how, 2)
        if (found := self._copy(grey, bits, vector)) is not None:
            flags["copy"] = round(found[1], 4)
            look = Look(look.bits, look.light, look.view, look.sharp, look.soft, copy_of=found[0])
        if self._reference is not None:
            far = self._reference.distance(vector)
            if self._reference.score(far) > novelty.LIMIT:
                flags["novel"] = round(far, 4)
        framed = framing.likeness(look.view, known.views)
        if framed is not None and framed[0] < framing.UNLIKE_BELOW and framed[1] > framing.LIMIT:
            flags["view"] = round(framed[0], 3)
        return flags, look

    def add(self, image: int, camera: str, look: Look, vector: Floats | None) -> None:
        """Remember an image; the oldest one is forgotten for it. vector: None for one of another backbone."""
        known = self._cameras.setdefault(camera, _Camera())
        known.lights.append(look.light)
        known.views.append(look.view)
        # Of pictures that an older Hone measured, neither levels nor lessons are known.
        if len(look.sharp) == len(look.soft) == quality.SHARPNESS:
            known.levels.append(dim.levels(look.light, look.sharp))
            self._lessons.append((look.sharp, look.soft))
            self._since += 1
        if len(self._lessons) >= blur.ENOUGH and (self._rule is None or self._since >= LEARN_EVERY):
            self._rule, self._since = blur.Rule(*zip(*self._lessons, strict=True)), 0
        if vector is None:
            return
        if self._units.shape[1] != len(vector):
            self._forget(len(vector))
        place = self._seen % WINDOW
        self._units[place], self._hashes[place] = novelty.unit(vector), look.bits
        self._ids.append(image)
        self._seen += 1

    def _blurred(self, grey: Floats, sharp: Floats) -> float | None:
        if self._rule is None:
            flat = blur.flatness(grey)
            return flat if flat < blur.FLAT_BELOW else None
        score = self._rule.score(sharp)
        return score if score > blur.LIMIT else None

    def _copy(self, grey: Floats, bits: int, vector: Floats) -> tuple[int, float] | None:
        """Id of the earlier image that this one repeats, and how alike they are."""
        count = len(self._ids)
        if not count or self._units.shape[1] != len(vector):
            return None
        found = nearcopies.candidates(bits, novelty.unit(vector), self._hashes[:count], self._units[:count])
        earlier = [(image, other) for image in map(self._id_at, found) if (other := self._earlier(image)) is not None]
        mine = nearcopies.phases(grey)
        matches = [nearcopies.match(mine, nearcopies.phases(other)) for _, other in earlier]
        best = max(range(len(matches)), key=lambda one: matches[one].peak, default=None)
        if best is None or matches[best].peak <= nearcopies.PEAK_ABOVE:
            return None
        alike = nearcopies.likeness(grey, earlier[best][1], matches[best])
        return (earlier[best][0], alike) if alike > nearcopies.ALIKE_ABOVE else None

    def _id_at(self, place: int) -> int:
        """The image in a row of the ring."""
        oldest = self._seen - len(self._ids)
        return self._ids[(place - oldest) % WINDOW]
