"""One release for one camera: signed, ended, and kept good, with a real database and as the camera opens it."""

from datetime import timedelta

import pytest
from sqlmodel import select

from hub import exemptions, keys, release
from hub.tables import Camera, Exemption
from shared.errors import RolloutError
from shared.manifest import DESIRED_TYPE, Desired, Reader, open_signed
from tests.hub.making import NOW
from tests.hub.rolling import Fleet
from tests.hub.test_release import finished_run

DAYS = 10


@pytest.fixture
def fleet(settings, store, clock):
    made = Fleet(settings, store, clock, shadow=0, canary=0, groups=(), days=DAYS)
    made.first("a", "b")
    made.release(b"head 2", start=False)
    return made


def row(fleet, name="a"):
    with fleet.store.read() as session:
        return session.get(Exemption, f"site/{name}")


def desired(fleet, name="a"):
    """As the camera opens it."""
    pinned = keys.load(fleet.keys).root_public
    reader = Reader(pinned, "cells", f"site/{name}", now=fleet.clock.utc(), clock_trusted=True)
    return open_signed(row(fleet, name).envelope, DESIRED_TYPE, Desired, reader).body


def exempt(fleet, release, reason="trial on a", name="a"):
    fleet.rollouts.exempt(f"site/{name}", release, reason, "Mira")


def test_an_exemption_is_signed_for_its_camera(fleet):
    before = fleet.published
    exempt(fleet, 2, "  trial on a ")
    got = desired(fleet)
    assert (got.camera, got.release, got.reason, got.project) == ("site/a", 2, "trial on a", "cells")
    assert got.expires == row(fleet).expires_at == fleet.clock.utc() + timedelta(days=DAYS)
    assert (row(fleet).operator, row(fleet).at) == ("Mira", fleet.clock.utc())
    assert fleet.published > before


@pytest.mark.parametrize(
    ("camera", "release", "reason", "error"),
    [
        ("site/z", 2, "why", "camera site/z: is not a camera of this project"),
        ("site/foreign", 2, "why", "camera site/foreign: is not a camera of this project"),
        ("site/a", 9, "why", "release 9: does not exist"),
        ("site/a", 2, " ", "an exemption of site/a: needs a reason"),
        ("site/a", 0, "why", "camera site/a: has no exemption"),
    ],
)
def test_what_cannot_be_is_an_error_and_signs_nothing(fleet, camera, release, reason, error):
    fleet.say("foreign", 1, project="welds")
    before = fleet.published
    with pytest.raises(RolloutError, match=error):
        fleet.rollouts.exempt(camera, release, reason, "Mira")
    with fleet.store.read() as session:
        assert session.exec(select(Exemption)).all() == []
    assert fleet.published == before


def test_an_ended_exemption_stays_as_release_0_since_a_camera_remembers_the_last(fleet):
    exempt(fleet, 2)
    first = desired(fleet)
    exempt(fleet, 0, "trial is over")
    got = desired(fleet)
    assert (got.release, got.reason) == (0, "trial is over")
    assert got.number > first.number
    exempt(fleet, 1, "once more")
    assert desired(fleet).number > got.number


def test_numbers_grow_also_within_a_second_and_over_a_restore(fleet):
    numbers = []
    for number in (2, 1, 2):
        exempt(fleet, number)
        numbers.append(desired(fleet).number)
    assert numbers == sorted(set(numbers))
    with fleet.store.write() as session:  # as a backup of long ago, that knows nothing of these
        session.delete(session.get(Exemption, "site/a"))
    fleet.clock.advance(60)
    exempt(fleet, 1)
    assert desired(fleet).number > numbers[-1]


def test_it_is_signed_anew_at_half_time_and_not_before(fleet):
    exempt(fleet, 2)
    exempt(fleet, 0, "over")
    first = row(fleet)
    fleet.look(86_400 * DAYS * 0.45)
    assert row(fleet).envelope == first.envelope
    before = fleet.published
    fleet.look(86_400 * DAYS * 0.1)
    got = row(fleet)
    assert got.number > first.number
    assert got.expires_at == fleet.clock.utc() + timedelta(days=DAYS)
    assert (desired(fleet).release, desired(fleet).reason) == (0, "over")
    assert got.at == first.at, "when the operator said so"
    assert fleet.published > before
    fleet.look()
    assert row(fleet).number == got.number


def test_the_release_of_an_exemption_is_signed_anew_as_well(fleet):
    exempt(fleet, 2)
    fleet.look(86_400 * DAYS * 0.9)
    assert [one.expires_at > fleet.clock.utc() + timedelta(days=DAYS * 0.9) for one in fleet.releases()] == [True, True]


def test_it_is_signed_anew_after_a_restore(fleet):
    exempt(fleet, 2)
    first = row(fleet)
    fleet.clock.advance(5)
    fleet.rollouts.look(restored=True)
    assert row(fleet).number > first.number
    assert desired(fleet).release == 2


def test_exemptions_are_kept_good_before_there_is_any_rollout(settings, store, clock):
    fleet = Fleet(settings, store, clock, days=DAYS)
    fleet.say("a", 0)
    fleet.release(b"head 1", start=False)
    exempt(fleet, 1)
    number = row(fleet).number
    fleet.clock.advance(86_400 * DAYS * 0.6)
    fleet.rollouts.look(restored=False)
    assert row(fleet).number > number


# -- another delegation

CAMERA = "site/cam-1"


@pytest.fixture
def folder(settings, store, clock):
    """The keys of a hub with one release, and one exemption for it."""
    clock.set_utc(NOW)
    folder = settings.state_folder / "keys"
    keys.make(folder, clock)
    run, pair = finished_run(store, b"head"), keys.load(folder)
    with store.write() as session:
        session.add(Camera(name=CAMERA, project="cells", first_seen=NOW, last_seen=NOW))
        release.create(session, run, release.model_of(run, store), pair, now=NOW, days=30)
        exemptions.make(session, "cells", pair, exemptions.Wish(CAMERA, 1, "a trial", "Mira"), now=NOW, days=30)
    return folder


def kept(store, folder, now, *, restored=False):
    """Whether it was signed anew, and what a camera reads of it then."""
    pair = keys.load(folder)
    with store.write() as session:
        fresh = exemptions.keep(session, "cells", pair, now=now, days=30, restored=restored)
        envelope = session.get(Exemption, CAMERA).envelope
    reader = Reader(pair.root_public, "cells", CAMERA, now, clock_trusted=True)
    return fresh, open_signed(envelope, DESIRED_TYPE, Desired, reader)


def test_what_is_good_stays(store, folder):
    fresh, opened = kept(store, folder, NOW + timedelta(days=14))
    assert not fresh
    assert (opened.body.release, opened.body.reason, opened.delegation) == (1, "a trial", 1)


@pytest.mark.parametrize(("days", "restored"), [(16, False), (1, True)], ids=["half time", "restored"])
def test_signed_anew(store, folder, days, restored):
    before = kept(store, folder, NOW)[1].body.number
    fresh, opened = kept(store, folder, NOW + timedelta(days=days), restored=restored)
    assert fresh
    assert opened.body.number > before


def test_signed_anew_under_another_delegation(store, folder, clock):
    before = kept(store, folder, NOW)[1].body.number
    number = keys.change(folder, folder / keys.ROOT, clock, rotate=True, revoke=True).number
    fresh, opened = kept(store, folder, NOW)
    assert fresh
    assert (opened.delegation, opened.body.release) == (number, 1)
    assert opened.body.number > before
    assert not kept(store, folder, NOW)[0]
