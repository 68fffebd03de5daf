"""Earlier: parts of the model before by the same backbone, which cameras have and need not fetch again."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from hub.int8 import Kept
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Run
from hub.verdict import latest
from shared.errors import StoreError
from shared.manifest import ModelSpec, PartSpec


@dataclass(frozen=True, slots=True)
class Earlier:
    """None where there are none to go on with. int8: those of the int8 variant."""

    golden: bytes | None = None
    references: bytes | None = None
    int8: Kept = field(default_factory=Kept)


def earlier_parts(store: Store, settings: HubSettings, run_id: int, backbone: str) -> Earlier:
    """What a repeated run had, or else what is released, as far as it is by this float backbone (its sha256)."""
    with store.read() as session:
        run = session.get(Run, run_id)
    if run is not None and run.parts:
        mine = run.parts if run.parts.get("backbone") == backbone else {}
        return _earlier(lambda name: _kept(store, mine.get(name, "")))
    release = latest(store, settings.project.name)
    spec = msgspec.convert(release.model, ModelSpec) if release is not None else None
    if spec is None or spec.backbone.sha256 != backbone:
        return Earlier()
    same = spec.preprocess == settings.project.preprocess
    parts = {name: one for name, one in spec.all_parts().items() if same or not name.endswith("golden")}
    return _earlier(lambda name: _read(store, parts.get(name)))


def _earlier(part: Callable[[str], bytes | None]) -> Earlier:
    quantized = part("int8 backbone")
    if quantized is None:
        return Earlier(part("golden"), part("references"))
    variant = Kept(quantized, part("int8 golden"), part("int8 references"))
    return Earlier(part("golden"), part("references"), variant)


def _read(store: Store, part: PartSpec | None) -> bytes | None:
    return store.blobs.read(part.sha256) if part is not None else None


def _kept(store: Store, sha256: str) -> bytes | None:
    """None where a repeated run had no such part, or it is gone: it is made anew, and the comparison tells."""
    try:
        return store.blobs.read(sha256) if sha256 else None
    except StoreError:
        return None
