"""Verdict: which release a new model has to be better than, with a real database."""

import pytest

from hub.verdict import latest
from tests.hub.rolling import Fleet


@pytest.fixture
def fleet(settings, store, clock):
    made = Fleet(settings, store, clock, shadow=1, canary=1, groups=(), soak_s=0)
    made.first("a", "b")
    return made


def against(fleet):
    found = latest(fleet.store, "cells")
    return found.number if found is not None else 0


def test_before_the_first_release_there_is_none(settings, store, clock):
    assert against(Fleet(settings, store, clock)) == 0


def test_a_release_on_its_way_counts(fleet):
    assert against(fleet) == 1
    fleet.release(b"head 2")
    assert against(fleet) == 2


def test_one_that_was_aborted_in_the_shadow_does_not(fleet):
    fleet.release(b"head 2")
    assert fleet.progress().stage == "shadow"
    fleet.rollouts.abort("worse")
    assert against(fleet) == 1


def test_a_draft_that_was_aborted_does_not(fleet):
    fleet.release(b"head 2", start=False)
    fleet.rollouts.abort("not this one")
    assert against(fleet) == 1


def test_one_that_was_taken_back_is_followed_by_the_model_before(fleet):
    fleet.release(b"head 2")
    fleet.rollouts.promote()
    assert fleet.progress().stage == "canary"
    fleet.rollouts.abort("worse")
    assert against(fleet) == 3
