"""Watch: each full block of a camera's audit images is looked at once, against the reference of what it runs."""

import msgspec
import numpy as np
import pytest

from hub.drift import basis, sample
from hub.settings import DriftSettings
from hub.tables import Assignment, Camera, Embedding, Image, Reference, Release, Run
from hub.watch import MOST, audits, load, look, remember
from tests.hub.making import NOW, add_image, add_vector

SETTINGS = DriftSettings(block=20, false_alarm=0.01)
RNG = np.random.default_rng(11)
AXES = basis("b", RNG.normal(size=(80, 12)).astype(np.float32))


@pytest.fixture
def fleet(store):
    """Release 1 with a reference for all and one for site/a, and two cameras that run it."""
    with store.write() as session:
        session.add(Run(project="cells", created_at=NOW, state="done"))
        session.flush()
        session.add(
            Release(project="cells", number=1, run_id=1, created_at=NOW, expires_at=NOW, envelope=b"", model={})
        )
        for name in ("site/a", "site/b"):
            session.add(Camera(name=name, project="cells", first_seen=NOW, last_seen=NOW, release=1))
        remember(session, 1, AXES, {"": seen("good"), "site/a": seen("defect")})
    return store


def seen(name, n=60):
    points = np.random.default_rng(1).normal(size=(n, 12)).astype(np.float32)
    return sample([0.9] * n, [name] * n, AXES.project(points))


def send(store, camera, guess, count=20, *, score=0.9, release=1, **fields):
    for _ in range(count):
        one = add_image(store, camera=camera, guess=guess, score=score, release=release, **{"why": "audit", **fields})
        add_vector(store, one, RNG.normal(size=12).tolist())


def test_each_camera_is_held_to_its_own_reference_where_it_has_one(fleet, clock):
    send(fleet, "site/a", "good")
    send(fleet, "site/b", "good")
    a, b = sorted(look(fleet, "cells", SETTINGS, clock), key=lambda one: one.camera)
    assert (a.camera, a.own, a.drifted, a.n) == ("site/a", True, True, 20)
    assert (b.camera, b.own, b.drifted, b.n) == ("site/b", False, False, 20)
    assert [one.name for one in a.measures] == ["low_score", "class_mix", "embedding"]
    with fleet.read() as session:
        assert load(session, "cells") == [a, b]
        assert load(session, "welds") == []


def test_a_block_is_looked_at_once_when_it_is_full(fleet, clock):
    send(fleet, "site/b", "good", 19)
    assert look(fleet, "cells", SETTINGS, clock) == []
    send(fleet, "site/b", "good", 1)
    send(fleet, "site/b", "defect", 5, why="low_score")
    assert [one.drifted for one in look(fleet, "cells", SETTINGS, clock)] == [False]
    assert look(fleet, "cells", SETTINGS, clock) == []
    send(fleet, "site/b", "defect", 19)
    assert look(fleet, "cells", SETTINGS, clock) == []
    send(fleet, "site/b", "defect", 1)
    [second] = look(fleet, "cells", SETTINGS, clock)
    assert second.drifted, "the second block alone"
    with fleet.read() as session:
        assert load(session, "cells") == [second]


def test_a_few_cameras_at_a_time(fleet, clock):
    send(fleet, "site/a", "good")
    send(fleet, "site/b", "good")
    assert [[one.camera for one in look(fleet, "cells", SETTINGS, clock, 1)] for _ in range(3)] == [
        ["site/a"],
        ["site/b"],
        [],
    ]


def test_images_that_are_not_verified_yet_wait(fleet, clock):
    send(fleet, "site/b", "defect", 25, state="new")
    assert look(fleet, "cells", SETTINGS, clock) == []
    send(fleet, "site/b", "good", 20)
    [found] = look(fleet, "cells", SETTINGS, clock)
    assert (found.n, found.drifted) == (20, False)


def test_a_release_without_a_reference_and_a_level_of_zero_raise_nothing(fleet, clock):
    send(fleet, "site/a", "good")
    assert look(fleet, "cells", msgspec.structs.replace(SETTINGS, false_alarm=0.0), clock) == []
    with fleet.write() as session:
        for one in ("", "site/a", "basis"):
            session.delete(session.get(Reference, (1, one)))
    assert look(fleet, "cells", SETTINGS, clock) == []


def test_the_cameras_own_threshold_counts(fleet, clock):
    send(fleet, "site/b", "good", score=0.7)
    [by_default] = look(fleet, "cells", SETTINGS, clock)
    assert by_default.measures[0].now == 1.0
    with fleet.write() as session:
        camera = session.get(Camera, "site/b")
        camera.reported = {"settings": {"low_score": 0.6}}
        session.add(camera)
    send(fleet, "site/b", "good", score=0.7)
    [by_its_own] = look(fleet, "cells", SETTINGS, clock)
    assert (by_its_own.measures[0].now, by_its_own.drifted) == (0.0, False)


def test_only_the_release_that_it_runs_counts(fleet, clock):
    send(fleet, "site/b", "good", release=2)
    assert look(fleet, "cells", SETTINGS, clock) == []


def test_references_are_made_of_audit_images_that_no_model_has_learnt(store):
    send(store, "site/a", "good", 25)
    send(store, "site/b", "good", 19)
    send(store, "site/a", "good", 30, why="low_score")
    with store.write() as session:
        for number, side in ((1, "train"), (2, "holdout"), (3, "out")):
            session.add(Assignment(image_id=number, project="cells", near="x", side=side))
        row = session.get(Embedding, (4, "b"))
        session.delete(row)
    with store.read() as session:
        found = audits(session, "cells", "b", 20)
        assert set(found) == {"site/a"}
        assert sorted(found["site/a"]) == [2, *range(5, 26)]
        assert audits(session, "cells", "another", 20) == {}


def test_a_reference_holds_the_newest_images(store):
    with store.write() as session:
        for number in range(1, MOST + 11):
            session.add(
                Image(
                    id=number, camera="site/a", event_id=f"e{number}", project="cells", sha256=f"{number}", size=1,
                    ext="png", captured_at=NOW, received_at=NOW, state="verified", why="audit",
                )
            )  # fmt: skip
        session.flush()
        for number in range(1, MOST + 11):
            session.add(Embedding(image_id=number, backbone="b", vector=b"\0" * 8))
    with store.read() as session:
        assert set(audits(session, "cells", "b", 20)["site/a"]) == set(range(11, MOST + 11))
