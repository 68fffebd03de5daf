"""Accept: numbers only grow, an exception goes before the plan, and a plan that stays away is told of once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.accept import Accepted
from edge.settings import EdgeSettings
from edge.shelf import Shelf
from edge.trust import Trust
from shared import topics
from shared.errors import ExpiredError, ManifestError, OldReleaseError
from shared.manifest import Trial
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Registry, parts
from tests.fakes.listener import Recorder

TRIAL = Trial(release=6, share=0.5)
DAYS = 86400


class Told:
    """What one camera accepted, its shelf, and a hub whose retained messages are read from the broker."""

    def __init__(self, settings: EdgeSettings, key_folder: Path, clock: FakeClock) -> None:
        self.broker = FakeBroker()
        bus = FakeBus(self.broker, "hub")
        bus.start(Recorder())
        self.hub = Registry(key_folder, bus, clock)
        self.shelf = Shelf(settings.state_folder)
        trust = Trust(settings, shelf=self.shelf, clock=clock, clock_trusted=lambda: True)
        self.accepted = Accepted(settings, trust=trust, shelf=self.shelf, errors=Counter())

    def plan(self, release: int, *, number: int | None = None, trial: Trial | None = None) -> None:
        self.hub.plan(release, number=number, trial=trial)
        self.accepted.take_plan(self.broker.retained[topics.plan("cells")])

    def desired(self, release: int) -> None:
        self.hub.desired(CAMERA, release)
        self.accepted.take_desired(self.broker.retained[topics.desired(CAMERA)])


@pytest.fixture
def told(make_settings: Callable[..., EdgeSettings], key_folder: Path, clock: FakeClock) -> Told:
    return Told(make_settings(), key_folder, clock)


def test_nothing_is_named_before_the_first_plan(told: Told) -> None:
    assert (told.accepted.release, told.accepted.trial, told.accepted.group) == (None, None, None)
    told.accepted.notice_silence()


def test_an_exception_goes_before_the_plan_until_it_ends(told: Told) -> None:
    told.plan(5, trial=TRIAL)
    assert (told.accepted.release, told.accepted.trial) == (5, TRIAL)
    told.desired(4)
    assert (told.accepted.release, told.accepted.trial) == (4, None)
    told.desired(0)
    assert (told.accepted.release, told.accepted.trial) == (5, TRIAL)


def test_an_older_plan_changes_nothing(told: Told) -> None:
    told.plan(5, number=8)
    with pytest.raises(OldReleaseError):
        told.plan(4, number=7)
    assert (told.accepted.release, told.shelf.state.plan_floor) == (5, 8)


def test_a_manifest_is_of_its_topic_and_older_only_on_trial(told: Told) -> None:
    data = told.hub.manifest(3, parts())
    with pytest.raises(ManifestError, match="says 3 on the topic of 4"):
        told.accepted.manifest(4, data, trying=False)
    told.shelf.change(floor=5)
    with pytest.raises(OldReleaseError):
        told.accepted.manifest(3, data, trying=False)
    assert told.accepted.manifest(3, data, trying=True).number == 3
    told.shelf.fail(3)
    with pytest.raises(ManifestError, match="failed"):
        told.accepted.manifest(3, data, trying=True)


def test_a_plan_that_stays_away_is_told_of_once(told: Told, clock: FakeClock) -> None:
    told.plan(5)
    told.accepted.notice_silence()
    clock.advance(31 * DAYS)
    with pytest.raises(ExpiredError, match="no newer one came"):
        told.accepted.notice_silence()
    told.accepted.notice_silence()
    told.plan(5)
    clock.advance(31 * DAYS)
    with pytest.raises(ExpiredError):
        told.accepted.notice_silence()
