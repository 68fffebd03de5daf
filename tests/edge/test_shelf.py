"""The shelf of models on disk: only whole parts, numbers that are remembered, and the way back."""

from pathlib import Path

import pytest

from edge.shelf import MAX_STARTS, Kept, Shelf
from shared.errors import PartError
from tests.fakes.hub import Parts, part, parts


def kept(shelf: Shelf, release: int, model: Parts) -> Kept:
    for data in model.blobs():
        shelf.write(part(data), data)
    return Kept(release=release, model=model.spec())


def names(folder: Path) -> set[str]:
    return {one.name for one in (folder / "parts").iterdir()}


OLD, NEW, OTHER = parts(beta=1), parts(beta=2), parts(size=8, beta=3)


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    shelf, spec = Shelf(tmp_path), part(b"bytes")
    assert not shelf.has(spec)
    with pytest.raises(PartError, match="cannot be read"):
        shelf.read(spec)
    shelf.write(spec, b"bytes")
    for one in (shelf, Shelf(tmp_path)):
        assert one.has(spec)
        assert one.read(spec) == b"bytes"


@pytest.mark.parametrize("data", [b"", b"other", b"bytes and more"])
def test_only_the_right_bytes_are_kept(tmp_path: Path, data: bytes) -> None:
    shelf, spec = Shelf(tmp_path), part(b"bytes")
    with pytest.raises(PartError, match="other bytes"):
        shelf.write(spec, data)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("data", [b"", b"BYTES", b"byte"])
def test_a_part_that_is_damaged_on_disk_is_removed(tmp_path: Path, data: bytes) -> None:
    shelf, spec = Shelf(tmp_path), part(b"bytes")
    shelf.write(spec, b"bytes")
    (tmp_path / "parts" / spec.sha256).write_bytes(data)
    with pytest.raises(PartError, match="damaged on disk"):
        shelf.read(spec)
    assert names(tmp_path) == set()


def test_a_damaged_part_of_the_right_size_does_not_count_as_there(tmp_path: Path) -> None:
    """A release that shares it with the one before would fail for good, though the broker has it."""
    shelf, spec = Shelf(tmp_path), part(b"bytes")
    shelf.write(spec, b"bytes")
    (tmp_path / "parts" / spec.sha256).write_bytes(b"BYTES")
    assert not shelf.has(spec)
    shelf.write(spec, b"bytes")
    assert shelf.has(spec)


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    Shelf(tmp_path)
    (tmp_path / "parts" / ("0" * 64 + ".tmp")).write_bytes(b"half")
    Shelf(tmp_path)
    assert names(tmp_path) == set()


def test_the_state_is_remembered(tmp_path: Path) -> None:
    Shelf(tmp_path).change(floor=7, plan_floor=3, desired_floor=2, desired=5, failed=[6])
    state = Shelf(tmp_path).state
    assert (state.floor, state.plan_floor, state.desired_floor, state.desired, state.failed) == (7, 3, 2, 5, [6])


def test_floors_only_rise_and_cost_no_write_where_they_stay(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.raise_floors(plan_floor=3, delegation_floor=2)
    assert (Shelf(tmp_path).state.plan_floor, Shelf(tmp_path).state.delegation_floor) == (3, 2)
    (tmp_path / "state.json").unlink()
    shelf.raise_floors(plan_floor=3, delegation_floor=2)
    assert not (tmp_path / "state.json").exists()
    shelf.raise_floors(plan_floor=3, delegation_floor=4)
    assert Shelf(tmp_path).state.delegation_floor == 4


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"floor": "x"}'])
def test_a_damaged_state_is_set_aside(tmp_path: Path, data: bytes) -> None:
    Shelf(tmp_path).change(floor=7)
    (tmp_path / "state.json").write_bytes(data)
    shelf = Shelf(tmp_path)
    assert shelf.state.floor == 0
    assert (tmp_path / "state.damaged").read_bytes() == data
    shelf.change(floor=8)
    assert Shelf(tmp_path).state.floor == 8


def test_adopting_keeps_the_one_before_and_no_older(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for release, model in ((1, OTHER), (2, OLD), (3, NEW)):
        shelf.adopt(kept(shelf, release, model))
    state = Shelf(tmp_path).state
    assert state.current is not None
    assert state.previous is not None
    assert (state.current.release, state.previous.release) == (3, 2)
    assert names(tmp_path) == {part(one).sha256 for model in (OLD, NEW) for one in model.blobs()}
    assert len(names(tmp_path)) == 4, "backbone and golden part are shared"


def test_adopting_the_same_again_forgets_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    shelf.adopt(kept(shelf, 2, NEW))
    shelf.adopt(kept(shelf, 2, NEW))
    assert shelf.state.previous is not None
    assert shelf.state.previous.release == 1


def test_a_release_that_keeps_dying_is_left_for_the_one_before(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    shelf.adopt(kept(shelf, 2, NEW))
    for _ in range(MAX_STARTS):
        start = Shelf(tmp_path).to_start()
        assert start is not None
        assert start.release == 2
    start = Shelf(tmp_path).to_start()
    assert start is not None
    assert start.release == 1
    state = Shelf(tmp_path).state
    assert (state.failed, state.previous) == ([2], None)


def test_the_last_one_that_keeps_dying_leaves_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    for _ in range(MAX_STARTS):
        assert Shelf(tmp_path).to_start()
    assert Shelf(tmp_path).to_start() is None


def test_one_that_ran_well_may_start_again(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    for _ in range(3 * MAX_STARTS):
        one = Shelf(tmp_path)
        assert one.to_start()
        one.ran_well()
    assert shelf.state.failed == []


def test_failed_ones_are_remembered_up_to_a_bound(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for n in [*range(1, 150), 60]:
        shelf.fail(n)
    assert len(shelf.state.failed) == 100
    assert shelf.state.failed[-1] == 60
    assert Shelf(tmp_path).state.failed.count(60) == 1


def test_power_cuts_do_not_speak_against_a_release_that_once_ran_well(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    shelf.adopt(kept(shelf, 2, NEW))
    assert shelf.to_start() is not None
    shelf.ran_well()
    for _ in range(3 * MAX_STARTS):  # each of these lives is cut short
        started = Shelf(tmp_path).to_start()
        assert started is not None
        assert started.release == 2
    assert Shelf(tmp_path).state.failed == []


def test_of_several_floors_only_those_rise_that_have_grown(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.raise_floors(plan_floor=5, delegation_floor=7)
    shelf.raise_floors(plan_floor=6, delegation_floor=3)
    assert (shelf.state.plan_floor, shelf.state.delegation_floor) == (6, 7)


def test_sweeping_keeps_what_is_in_use_brought_or_wanted(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    shelf.change(brought=kept(shelf, 3, OTHER))
    for data in (b"wanted", b"failed"):
        shelf.write(part(data), data)
    shelf.sweep([part(b"wanted")])
    assert names(tmp_path) == {part(one).sha256 for one in (*OLD.blobs(), *OTHER.blobs(), b"wanted")}
    shelf.adopt(kept(shelf, 2, NEW))
    assert shelf.state.brought is not None, "it waits still"
    shelf.adopt(Kept(release=3, model=OTHER.spec()))
    assert shelf.state.brought is None


def test_one_that_is_left_is_remembered_until_another_is_adopted(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    shelf.adopt(kept(shelf, 2, NEW))
    for _ in range(MAX_STARTS + 1):
        Shelf(tmp_path).to_start()
    left = Shelf(tmp_path).state.reverted
    assert left is not None
    assert (left.release, left.reason) == (2, "release 2 never ran well in 3 starts and was left")
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 3, OTHER))
    assert Shelf(tmp_path).state.reverted is None


# ------------------------------------------------------------------------------------ a release on trial


def test_the_parts_of_a_trial_are_kept_beside_those_in_use(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 2, OLD))
    other = kept(shelf, 3, OTHER)
    shelf.keep_trial(other)
    assert Shelf(tmp_path).find(3) == other
    assert Shelf(tmp_path).find(2) is None, "the one in use"
    shelf.adopt(kept(shelf, 1, NEW))
    assert names(tmp_path) == {part(one).sha256 for model in (OLD, NEW, OTHER) for one in model.blobs()}
    assert shelf.find(2) == shelf.state.previous
    shelf.adopt(other)
    assert shelf.state.trial is None, "it is in use now"
    assert names(tmp_path) == {part(one).sha256 for model in (NEW, OTHER) for one in model.blobs()}


def test_an_older_release_on_trial_goes_with_the_next_one_adopted(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 2, OLD))
    shelf.keep_trial(kept(shelf, 1, OTHER))
    shelf.adopt(kept(shelf, 3, NEW))
    assert shelf.state.trial is None
    assert names(tmp_path) == {part(one).sha256 for model in (OLD, NEW) for one in model.blobs()}


def test_another_trial_takes_the_place_of_the_last(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    shelf.keep_trial(kept(shelf, 2, OTHER))
    shelf.start_trial()
    shelf.keep_trial(kept(shelf, 3, NEW))
    assert shelf.state.trial_starts == 0
    assert shelf.find(2) is None
    assert names(tmp_path) == {part(one).sha256 for model in (OLD, NEW) for one in model.blobs()}


def test_a_trial_that_keeps_dying_ends(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.adopt(kept(shelf, 1, OLD))
    shelf.keep_trial(kept(shelf, 2, NEW))
    for _ in range(2):
        for _ in range(MAX_STARTS):
            Shelf(tmp_path).start_trial()
        with pytest.raises(PartError, match="release 2: ended the agent 3 times on trial"):
            Shelf(tmp_path).start_trial()
        Shelf(tmp_path).trial_ran_well()
    shelf = Shelf(tmp_path)
    shelf.fail(2)
    assert (shelf.state.trial, shelf.state.failed) == (None, [2])
