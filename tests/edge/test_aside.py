"""Aside: files of whatever kind, never more than the limit, the oldest go first, also after opening again."""

from pathlib import Path

from edge.aside import BLOCK, Aside


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def make(folder: Path, name: str, size: int = 10) -> Path:
    (folder / name).write_bytes(b"x" * size)
    return folder / name


def test_the_oldest_go_first_also_after_opening_again(tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    aside = Aside(folder, 3 * BLOCK)
    for name in "abcd":
        aside.move(make(tmp_path, name))
    assert names(folder) == set("bcd")
    aside = Aside(folder, 3 * BLOCK)
    aside.move(make(tmp_path, "e", BLOCK + 1))
    assert names(folder) == {"d", "e"}
    Aside(folder, BLOCK)
    assert names(folder) == set()


def test_the_same_name_again_takes_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    aside = Aside(folder, 3 * BLOCK)
    for _ in range(5):
        aside.move(make(tmp_path, "a"))
        aside.write("b", "why")
    aside.move(make(tmp_path, "c"))
    assert names(folder) == {"a", "b", "c"}
    assert (folder / "b").read_text() == "why\n"


def test_what_is_not_there_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    aside = Aside(folder, 3 * BLOCK)
    path = make(tmp_path, "a")
    aside.move(path)
    aside.move(path)
    assert names(folder) == {"a"}


def test_folders_count_with_all_that_is_in_them(tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    aside = Aside(folder, 4 * BLOCK)
    (tmp_path / "whole").mkdir()
    make(tmp_path / "whole", "one", BLOCK + 1)
    aside.move(tmp_path / "whole")
    aside.move(make(tmp_path, "a"))
    assert names(folder) == {"whole", "a"}
    aside.move(make(tmp_path, "b"))
    assert names(folder) == {"a", "b"}
