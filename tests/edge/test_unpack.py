"""Unpack: nothing of a pack is used before its manifest was accepted, and no part that is not whole."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.pack import PackFile
from edge.settings import EdgeSettings
from edge.shelf import Shelf
from edge.trust import Trust
from edge.unpack import unpack
from shared.errors import HoneError, PackError, PartError, SignatureError
from shared.files import sha256_hex
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Registry, parts
from tests.fakes.pack import archive, members, pack

MODEL = parts()


@pytest.fixture
def take(
    make_settings: Callable[..., EdgeSettings], clock: FakeClock, tmp_path: Path
) -> Callable[[bytes], tuple[Shelf, int]]:
    settings = make_settings()
    shelf = Shelf(tmp_path / "shelf")
    trust = Trust(settings, shelf=shelf, clock=clock, clock_trusted=lambda: True)

    def one(data: bytes) -> tuple[Shelf, int]:
        path = tmp_path / "one.pack"
        path.write_bytes(data)
        return shelf, unpack(
            PackFile(path), trust=trust, shelf=shelf, unsigned=False, variant=lambda _: "float"
        ).release

    one.shelf = shelf  # type: ignore[attr-defined]
    return one


@pytest.fixture
def hub(key_folder: Path, clock: FakeClock) -> Registry:
    return Registry(key_folder, None, clock)  # type: ignore[arg-type]


def test_all_parts_come_to_the_shelf(take: Callable[[bytes], tuple[Shelf, int]], hub: Registry) -> None:
    shelf, number = take(pack(hub.manifest(3, MODEL), MODEL))
    assert number == 3
    assert all(shelf.has(one) for one in MODEL.spec().parts().values())
    assert (shelf.state.delegation_floor, shelf.state.floor) == (1, 0), "the release counts when it runs"


def test_not_a_part_is_read_before_the_manifest_is_accepted(
    take: Callable[[bytes], tuple[Shelf, int]], hub: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Registry(tmp_path / "stranger", None, hub.clock)  # type: ignore[arg-type]
    read: list[str] = []
    monkeypatch.setattr(PackFile, "part", lambda _, name, __: read.append(name))
    with pytest.raises(SignatureError):
        take(pack(stranger.manifest(3, MODEL), MODEL))
    assert read == []


@pytest.mark.parametrize("wrong", ["order", "missing", "damaged", "double"])
def test_parts_that_are_not_as_signed(take: Callable[[bytes], tuple[Shelf, int]], hub: Registry, wrong: str) -> None:
    held = members(hub.manifest(3, MODEL), MODEL)
    if wrong == "order":
        held[1], held[2] = held[2], held[1]
    elif wrong == "missing":
        del held[2]
    elif wrong == "double":
        held.insert(1, held[1])
    else:
        held[-1] = held[-1][0], bytes(len(held[-1][1]))
    kind: type[HoneError] = PartError if wrong == "damaged" else PackError
    with pytest.raises(kind):
        take(archive(held))
    shelf: Shelf = take.shelf  # type: ignore[attr-defined]
    assert not shelf.has(MODEL.spec().head)
    assert sha256_hex(MODEL.head) == MODEL.spec().head.sha256
