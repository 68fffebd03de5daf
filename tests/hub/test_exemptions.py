"""Exemptions are signed anew where cameras would refuse them."""

from datetime import timedelta

import pytest

from hub import exemptions, keys, release
from hub.tables import Camera, Exemption
from shared.manifest import DESIRED_TYPE, Desired, Reader, open_signed
from tests.hub.making import NOW
from tests.hub.test_release import finished_run

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
