"""Partials on disk: what is kept comes back as it was, and whatever else lies there stops no hub."""

import errno
import logging
import os
from pathlib import Path

import msgspec
import pytest

from hub.partials import NOTE, PartialFiles
from shared.files import chunks
from shared.messages import Event
from shared.transfer import Drop, Keep
from tests.fakes.messages import event_of

CAMERA = "site/cam-1"


def half(number: int, size: int = 1000, *, camera: str = CAMERA, first: int = 0, last: int = 1) -> Keep:
    event, data = event_of(number, size=size)
    parts = dict(enumerate(chunks(data, event.chunk_size)))
    return Keep(camera, event, {index: part for index, part in parts.items() if first <= index <= last})


def recut(keep: Keep, chunk_size: int, data: bytes) -> Keep:
    event = msgspec.structs.replace(keep.event, chunk_size=chunk_size)
    return Keep(keep.camera, event, {0: data[:chunk_size]})


@pytest.fixture
def files(tmp_path: Path) -> PartialFiles:
    return PartialFiles(tmp_path / "partials")


def place(folder: Path, event: Event) -> Path:
    [found] = (folder / "partials").glob(f"*{event.id}")
    return found


def test_what_is_kept_comes_back(files: PartialFiles, tmp_path: Path) -> None:
    work = [half(1), half(2, last=0), half(1, camera="site/cam-2", first=2, last=3), half(4, first=9)]
    files.do(work)
    found = PartialFiles(tmp_path / "partials").load()
    assert sorted(found, key=str) == sorted(work, key=str)


def test_chunks_that_come_later_are_added(files: PartialFiles) -> None:
    files.do([half(1, last=0)])
    files.do([half(1, first=2, last=2)])
    [found] = files.load()
    assert sorted(found.chunks) == [0, 2]
    assert found.chunks == {**half(1, last=0).chunks, **half(1, first=2, last=2).chunks}


def test_another_cut_replaces_the_first_one(files: PartialFiles, tmp_path: Path) -> None:
    first = half(1)
    second = recut(first, 512, event_of(1)[1])
    files.do([first, second])
    assert list(files.load()) == [second]
    assert sorted(one.name for one in place(tmp_path, first.event).iterdir()) == ["0", NOTE]


def test_what_is_dropped_is_gone(files: PartialFiles, tmp_path: Path) -> None:
    files.do([half(1), half(2), half(1, camera="site/cam-2")])
    files.do([Drop(CAMERA, half(1).event.id), Drop(CAMERA, half(9).event.id)])
    assert {(one.camera, one.event.id) for one in files.load()} == {
        (CAMERA, half(2).event.id),
        ("site/cam-2", half(1).event.id),
    }
    assert len(list((tmp_path / "partials").iterdir())) == 2


def test_nothing_there_is_nothing(files: PartialFiles) -> None:
    assert list(files.load()) == []
    files.do([Drop(CAMERA, half(1).event.id)])


@pytest.mark.parametrize("damage", ["short", "long", "beyond", "stranger"])
def test_a_chunk_that_cannot_be_one_is_left_out(files: PartialFiles, tmp_path: Path, damage: str) -> None:
    keep = half(1, last=2)
    files.do([keep])
    folder = place(tmp_path, keep.event)
    name = {"short": "1", "long": "1", "beyond": "4", "stranger": "1.tmp"}[damage]
    data = {"short": b"x" * 255, "long": b"x" * 257}.get(damage, b"x" * 256)
    (folder / name).write_bytes(data)
    [found] = files.load()
    assert sorted(found.chunks) == ([0, 2] if damage in ("short", "long") else [0, 1, 2])


@pytest.mark.parametrize("damage", ["no note", "torn note", "note of garbage", "a file", "an empty folder"])
def test_what_cannot_be_read_is_deleted_and_the_others_come_back(
    files: PartialFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    good, bad = half(1), half(2)
    files.do([good, bad])
    folder = place(tmp_path, bad.event)
    match damage:
        case "no note":
            (folder / NOTE).unlink()
        case "torn note":
            (folder / NOTE).write_bytes((folder / NOTE).read_bytes()[:-9])
        case "note of garbage":
            (folder / NOTE).write_bytes(b"\xff\x00")
        case "a file":
            (tmp_path / "partials" / "a file").write_bytes(b"x")
        case "an empty folder":
            (tmp_path / "partials" / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        found = list(files.load())
    assert good in found
    assert len(found) == (2 if damage in ("a file", "an empty folder") else 1)
    assert "cannot be read" in caplog.text
    left = list((tmp_path / "partials").iterdir())
    assert len(left) == len(found)


def test_a_full_disk_costs_only_the_safety(
    files: PartialFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:

        def full(_path: Path, _data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        broken.setattr(Path, "write_bytes", full)
        files.do([half(1), Drop(CAMERA, half(3).event.id)])
    assert "No space left" in caplog.text
    files.do([half(1), half(2)])
    assert len(list(files.load())) == 2
