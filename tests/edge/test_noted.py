"""Which previews the hub keeps, through restarts, full disks and files that make no sense."""

from pathlib import Path

import pytest

from edge.noted import SPARE, Noted
from tests.fakes.messages import ident

A, B, C = ident(1), ident(2), ident(3)


def reopened(path: Path, *present: str) -> dict[str, int | None]:
    again = Noted(path)
    again.load(set(present))
    return {one: again.get(one) for one in (A, B, C)}


def test_what_was_noted_is_known_after_a_restart_with_its_chunk_size(tmp_path: Path) -> None:
    noted = Noted(tmp_path / "noted")
    noted.add({A: 8192, B: 1024})
    noted.add({C: 2048})
    assert noted.get(B) == 1024
    assert reopened(tmp_path / "noted", A, B, C) == {A: 8192, B: 1024, C: 2048}


def test_the_last_word_counts(tmp_path: Path) -> None:
    noted = Noted(tmp_path / "noted")
    noted.add({A: 8192})
    noted.add({A: 1024})
    assert reopened(tmp_path / "noted", A)[A] == 1024


def test_what_has_left_the_spool_is_not_known(tmp_path: Path) -> None:
    noted = Noted(tmp_path / "noted")
    noted.add({A: 8192, B: 1024})
    noted.forget(A)
    noted.forget(C)
    assert noted.get(A) is None
    assert reopened(tmp_path / "noted", B, C) == {A: None, B: 1024, C: None}


def test_nothing_is_known_once_it_is_cleared(tmp_path: Path) -> None:
    noted = Noted(tmp_path / "noted")
    noted.clear()
    noted.add({A: 8192})
    noted.clear()
    assert noted.get(A) is None
    assert reopened(tmp_path / "noted", A)[A] is None
    noted.add({A: 512})
    assert reopened(tmp_path / "noted", A)[A] == 512


def test_without_a_file_nothing_is_known_and_in_memory_it_works_too(tmp_path: Path) -> None:
    assert reopened(tmp_path / "none", A)[A] is None
    noted = Noted(None)
    noted.load({A})
    noted.add({A: 1})
    assert noted.get(A) == 1
    noted.clear()
    assert noted.get(A) is None


@pytest.mark.parametrize(
    "line",
    [b"", b"\0\0\0\0\n", b"\xff\xfe 3\n", A.encode() + b"\n", A.encode() + b" x\n", A.encode() + b" 0\n",
     A.encode() + b" -5\n", A.encode() + " ²\n".encode(), A[:20].encode() + B.encode() + b" 5\n"],
)  # fmt: skip
def test_lines_that_make_no_sense_are_left_out(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "noted").write_bytes(line + f"{C} 7\n".encode())
    assert reopened(tmp_path / "noted", A, C) in ({A: None, B: None, C: 7}, {A: None, B: None, C: None})
    if line.endswith(b"\n"):
        assert reopened(tmp_path / "noted", A, C)[C] == 7


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    noted = Noted(tmp_path / "noted")
    for number in range(3 * SPARE):
        noted.add({ident(number): 8192})
        if number != 5:
            noted.forget(ident(number))
    assert (tmp_path / "noted").read_bytes().count(b"\n") <= SPARE + 3
    again = Noted(tmp_path / "noted")
    again.load({ident(5)})
    assert again.get(ident(5)) == 8192


def test_a_full_disk_costs_only_repeats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noted = Noted(tmp_path / "away" / "noted")
    noted.add({A: 8192})
    assert noted.get(A) == 8192
    assert "cannot be written" in caplog.text
    (tmp_path / "folder").mkdir()
    broken = Noted(tmp_path / "folder")
    broken.load({A})
    assert "previews are offered again" in caplog.text
