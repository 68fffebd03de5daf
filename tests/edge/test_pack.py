"""Packs in a folder: each is taken once, whole and alone, and put where it belongs. Paths in a pack mean nothing."""

import os
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.pack import PackFile, Packs
from shared.errors import ConfigError, PackError
from shared.manifest import MAX_SIGNED, PartSpec
from shared.pack import UNSIGNED, header
from tests.fakes.hub import part
from tests.fakes.listener import wait_until
from tests.fakes.pack import archive

HEAD = b"head" * 300
SPEC = part(HEAD)
NAME = f"head.{SPEC.sha256}"
GOOD = [("manifest.json", b"signed"), (NAME, HEAD)]


def read(path: Path, spec: PartSpec = SPEC) -> tuple[bytes, bool, bytes]:
    with PackFile(path) as pack:
        return (*pack.manifest(), pack.part("head", spec))


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        (tmp_path / "one.pack").write_bytes(data)
        return tmp_path / "one.pack"

    return write


# ------------------------------------------------------------------------------------ one file


def test_a_pack_is_read_in_order(written: Callable[[bytes], Path]) -> None:
    assert read(written(archive(GOOD))) == (b"signed", True, HEAD)
    assert read(written(archive([(UNSIGNED, b"bare"), (NAME, HEAD)]))) == (b"bare", False, HEAD)


@pytest.mark.parametrize("cut", [0, 100, 512, 515, 1024, 1100, 1536, 2000, 2700])
def test_a_pack_that_was_not_copied_to_the_end(written: Callable[[bytes], Path], cut: int) -> None:
    with pytest.raises(PackError, match=r"^pack one\.pack: .*ends too early"):
        read(written(archive(GOOD)[:cut]))


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([], "is no pack"),
        (GOOD[1:], "not with a manifest"),
        ([("../../manifest.json", b"")], "not with a manifest"),
        ([("/etc/passwd", b"")], "not with a manifest"),
        ([("manifest.json", bytes(MAX_SIGNED + 1))], f"{MAX_SIGNED} are allowed"),
        ([GOOD[0], (f"../{NAME}", HEAD)], "where head"),
        ([GOOD[0], (f"./{NAME}", HEAD)], "where head"),
        ([GOOD[0], (f"backbone.{SPEC.sha256}", HEAD)], "where head"),
        ([GOOD[0], (f"head.{'0' * 64}", HEAD)], "where head"),
        ([GOOD[0], (NAME, HEAD + b"1")], "where head"),
        ([GOOD[0], (NAME, HEAD[:-1])], "where head"),
        ([GOOD[0]], "is no pack"),
    ],
)
def test_a_pack_with_another_content(
    written: Callable[[bytes], Path], members: list[tuple[str, bytes]], says: str
) -> None:
    with pytest.raises(PackError, match=says):
        read(written(archive(members)))


def test_a_huge_size_costs_no_memory(written: Callable[[bytes], Path]) -> None:
    """What a header announces is believed only where something signed says the same."""
    path = written(archive(GOOD[:1])[:1024] + header(NAME, (8 << 30) - 1) + bytes(4096))
    tracemalloc.start()
    try:
        with pytest.raises(PackError, match="where head"):
            read(path)
        with pytest.raises(PackError, match="are allowed"):
            read(written(header("manifest.json", (8 << 30) - 1) + bytes(4096)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", ["link", "pipe", "folder", "gone"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, how: str) -> None:
    path = tmp_path / "one.pack"
    if how == "link":
        (tmp_path / "elsewhere").write_bytes(archive(GOOD))
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    with pytest.raises((PackError, OSError)):
        read(path)


# ------------------------------------------------------------------------------------ the folder


class Told:
    """What the reload would be given, with an answer at once; `answers` by file name, else good."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.answers: dict[str, tuple[bool, str]] = {}

    def __call__(self, pack: PackFile, told: Callable[[bool, str], None]) -> None:
        self.came.append(pack.path.name)
        told(*self.answers.get(pack.path.name, (True, f"{pack.path.name} runs")))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "packs"


@pytest.fixture
def watched(folder: Path, told: Told) -> Iterator[Callable[[], Counter[str]]]:
    made: list[Packs] = []

    def watch() -> Counter[str]:
        errors: Counter[str] = Counter()
        made.append(Packs(folder, told, errors, grace=0))
        made[-1].start()
        return errors

    yield watch
    for one in made:
        one.stop()


def names(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file() or one.is_symlink()}


def rest(folder: Path, wanted: set[str]) -> None:
    wait_until(lambda: names(folder) == wanted, f"{wanted}, not {names(folder)}")


def test_written_moved_in_or_there_already(
    folder: Path, tmp_path: Path, told: Told, watched: Callable[[], Counter[str]]
) -> None:
    folder.mkdir()
    (folder / "before.pack").write_bytes(b"1")
    watched()
    (folder / "copied.pack").write_bytes(b"2")
    (tmp_path / "elsewhere").write_bytes(b"3")
    (tmp_path / "elsewhere").rename(folder / "moved.pack")
    (folder / ".partial").write_bytes(b"4")
    (folder / ".partial").rename(folder / "renamed.pack")
    all_four = ["before.pack", "copied.pack", "moved.pack", "renamed.pack"]
    rest(folder, {f"done/{one}{end}" for one in all_four for end in ("", ".txt")})
    assert sorted(told.came) == all_four, "each once, though it is moved within what is watched"
    assert (folder / "done" / "moved.pack.txt").read_text() == "moved.pack runs\n"


def test_a_refused_pack_has_its_reason_beside_it(folder: Path, told: Told, watched: Callable[[], Counter[str]]) -> None:
    told.answers["bad.pack"] = (False, "is not signed")
    watched()
    (folder / "bad.pack").write_bytes(b"1")
    rest(folder, {"failed/bad.pack", "failed/bad.pack.txt"})
    assert (folder / "failed" / "bad.pack.txt").read_text() == "is not signed\n"
    (folder / "bad.pack").write_bytes(b"2")  # once more, under the same name
    wait_until(lambda: len(told.came) == 2, "another try")
    rest(folder, {"failed/bad.pack", "failed/bad.pack.txt"})
    assert (folder / "failed" / "bad.pack").read_bytes() == b"2"


def test_a_file_that_is_still_written_is_waited_for(
    folder: Path, told: Told, watched: Callable[[], Counter[str]]
) -> None:
    watched()
    with (folder / "slow.pack").open("wb") as file:
        file.write(b"1")
        file.flush()
        (folder / "quick.pack").write_bytes(b"2")
        wait_until(lambda: told.came, "the quick one")
        assert told.came == ["quick.pack"]
    wait_until(lambda: told.came == ["quick.pack", "slow.pack"], "the slow one")


def test_hidden_files_and_folders_are_left_alone(
    folder: Path, tmp_path: Path, told: Told, watched: Callable[[], Counter[str]]
) -> None:
    watched()
    (folder / ".hidden").write_bytes(b"1")
    (folder / "sub").mkdir()
    (folder / "sub" / "one.pack").write_bytes(b"2")
    (folder / "done" / "again.pack").write_bytes(b"3")
    (folder / "away.pack").write_bytes(b"4")
    wait_until(lambda: told.came, "the last one")
    shutil.move(folder / "done" / "again.pack", tmp_path / "out.pack")
    (folder / "last.pack").write_bytes(b"5")
    wait_until(lambda: told.came[-1] == "last.pack", "the last one")
    assert told.came == ["away.pack", "last.pack"]


def test_a_pack_that_cannot_be_moved_is_not_taken_for_ever(
    folder: Path, told: Told, watched: Callable[[], Counter[str]]
) -> None:
    errors = watched()
    (folder / "done" / "one.pack").mkdir()  # in the way
    (folder / "one.pack").write_bytes(b"1")
    wait_until(lambda: errors["disk"], "the error")
    (folder / "one.pack").write_bytes(b"2")
    (folder / "two.pack").write_bytes(b"2")
    wait_until((folder / "done" / "two.pack").exists, "the other one")
    assert told.came == ["one.pack", "two.pack"]


def test_packs_wait_until_a_plan_could_have_come(folder: Path, told: Told) -> None:
    folder.mkdir()
    (folder / "one.pack").write_bytes(b"1")
    packs = Packs(folder, told, Counter(), grace=60)
    packs.start()
    packs.stop()
    assert told.came == []
    assert names(folder) == {"one.pack"}


def test_a_folder_that_cannot_be_used(tmp_path: Path, told: Told) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="packs cannot be used"):
        Packs(tmp_path / "file", told, Counter()).start()
