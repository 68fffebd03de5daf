"""Trust: what was accepted is remembered, what was taken back is forgotten, and the time never goes back."""

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from edge.trust import Trust
from hub import keys
from shared.clock import BUILT
from shared.errors import ExpiredError, OldReleaseError
from shared.manifest import PLAN_TYPE, Group, Plan, seal
from tests.fakes.clock import FakeClock
from tests.fakes.hub import parts

MODEL = parts().spec()


class Pinned:
    """A camera's trust and shelf, and the hub's keys."""

    def __init__(self, settings: EdgeSettings, folder: Path, clock: FakeClock) -> None:
        self.settings, self.folder, self.clock = settings, folder, clock
        self.synchronised = True
        self.restart()

    def restart(self) -> None:
        self.shelf = Shelf(self.settings.state_folder)
        self.trust = Trust(self.settings, shelf=self.shelf, clock=self.clock, clock_trusted=lambda: self.synchronised)

    def plan(self, number: int, *, by: keys.Keys | None = None, days: int = 30) -> bytes:
        now, pair = self.clock.utc(), by or keys.load(self.folder)
        plan = Plan(
            number=number, created=now, expires=now + timedelta(days=days), project="cells", stage="done",
            groups=[Group(name="all", release=1)],
        )  # fmt: skip
        return seal(plan, PLAN_TYPE, pair.signer, pair.delegation)

    def take(self, data: bytes) -> None:
        opened = self.trust.open(data, PLAN_TYPE, Plan)
        self.trust.accept(opened, plan_floor=opened.body.number)

    def rotate(self, *, revoke: bool) -> keys.Keys:
        return keys.change(self.folder, self.folder / keys.ROOT, self.clock, rotate=True, revoke=revoke)

    @property
    def now(self) -> datetime:
        return self.trust.reader().now


@pytest.fixture
def pinned(make_settings: Callable[..., EdgeSettings], key_folder: Path, tmp_path: Path, clock: FakeClock) -> Pinned:
    settings = make_settings()
    shutil.copytree(key_folder, tmp_path / "keys")
    return Pinned(settings, tmp_path / "keys", clock)


def test_what_was_accepted_is_remembered_and_costs_one_write(pinned: Pinned) -> None:
    data = pinned.plan(4)
    pinned.take(data)
    pinned.restart()
    state = pinned.shelf.state
    assert (state.plan_floor, state.delegation_floor, state.signed) == (4, 1, pinned.clock.utc())
    assert len(state.keys) == 1
    (pinned.settings.state_folder / "state.json").unlink()
    pinned.take(data)
    assert not (pinned.settings.state_folder / "state.json").exists(), "each reconnect brings it again"


def test_the_time_is_the_largest_of_system_build_and_signed(pinned: Pinned) -> None:
    begin = pinned.clock.utc()
    assert pinned.now == begin
    pinned.clock.set_utc(begin.replace(year=1970))
    assert pinned.now == BUILT
    pinned.clock.set_utc(begin + timedelta(days=50))
    pinned.take(pinned.plan(1))
    pinned.clock.set_utc(begin)
    assert pinned.now == begin + timedelta(days=50)
    with pytest.raises(ExpiredError):
        pinned.take(pinned.plan(2))
    pinned.restart()
    with pytest.raises(ExpiredError):
        pinned.take(pinned.plan(2))
    pinned.clock.set_utc(begin + timedelta(days=51))
    assert pinned.now == begin + timedelta(days=51)


def test_a_time_of_signing_counts_up_to_now_and_by_a_clock_that_is_trusted(pinned: Pinned) -> None:
    begin = pinned.clock.utc()
    pinned.clock.set_utc(begin + timedelta(days=900))
    first, second = pinned.plan(1), pinned.plan(2)
    pinned.clock.set_utc(begin)
    pinned.synchronised = False
    pinned.take(first)
    assert pinned.shelf.state.signed < begin
    pinned.synchronised = True
    pinned.take(second)
    assert pinned.shelf.state.signed == begin


def test_a_clock_that_is_not_trusted_judges_no_expiry(pinned: Pinned) -> None:
    old = pinned.plan(1)
    pinned.clock.advance(400 * 86400)
    pinned.synchronised = False
    pinned.take(old)


def fill(shelf: Shelf) -> None:
    kept = Kept(release=5, model=MODEL)
    shelf.change(
        floor=9, plan_floor=9, desired_floor=9, desired=9, failed=[9], good=5, current=kept, previous=kept, brought=kept
    )


def test_a_new_delegation_without_the_old_keys_takes_back_what_they_signed(pinned: Pinned) -> None:
    pinned.take(pinned.plan(1))
    fill(pinned.shelf)
    new = pinned.rotate(revoke=True)
    pinned.take(pinned.plan(1))
    pinned.restart()
    state = pinned.shelf.state
    assert (state.floor, state.plan_floor, state.desired_floor, state.desired, state.failed) == (0, 1, 0, 0, [])
    assert (state.previous, state.brought, state.good, state.delegation_floor) == (None, None, 0, new.number)
    assert state.distrusted
    assert state.current is not None, "the line does not stop"
    pinned.shelf.adopt(Kept(release=5, model=MODEL))
    assert not pinned.shelf.state.distrusted
    assert pinned.shelf.state.previous is None


def test_an_overlap_takes_nothing_back(pinned: Pinned) -> None:
    pinned.take(pinned.plan(1))
    fill(pinned.shelf)
    pinned.rotate(revoke=False)
    pinned.take(pinned.plan(10))
    assert (pinned.shelf.state.floor, pinned.shelf.state.desired, pinned.shelf.state.distrusted) == (9, 9, False)


def test_who_knows_no_keys_takes_nothing_back(pinned: Pinned) -> None:
    """The state of an agent from before it remembered them, and a camera's first delegation."""
    fill(pinned.shelf)
    pinned.take(pinned.plan(9))
    assert (pinned.shelf.state.floor, pinned.shelf.state.distrusted) == (9, False)


def test_an_old_delegation_is_refused_whatever_its_keys(pinned: Pinned) -> None:
    old = keys.load(pinned.folder)
    pinned.rotate(revoke=True)
    pinned.take(pinned.plan(1))
    with pytest.raises(OldReleaseError, match="delegation 1: is older"):
        pinned.take(pinned.plan(2, by=old))
