"""Which images come when: audits by a hash, copies last, what an operator has in front of him to nobody else."""

import numpy as np
import pytest
from sqlmodel import select

from hub.decisions import news
from hub.label import HOLD_S, Desk
from hub.queue import MOST_WAITING, Planner
from hub.registry import labels_since_run
from hub.settings import LabelSettings
from hub.split import share_of
from hub.tables import INT8, Image, Label, Look
from tests.hub.making import CLASSES, add_image, add_vector


def desk_with(store, clock, **settings):
    wanted = LabelSettings(**{"repeat": 0, "second_look": 0, **settings})
    return Desk(store, "cells", CLASSES, clock, settings=lambda: wanted)


def add(store, count, **fields):
    """Images that wait, of rising score."""
    rng = np.random.default_rng(count)
    ids = []
    for number in range(count):
        ids.append(add_image(store, **{"score": 0.5 + number / (2 * count), **fields}))
        add_vector(store, ids[-1], rng.normal(size=4).tolist())
    return ids


def audits_of(store):
    with store.read() as session:
        return {one.id: one for one in session.exec(select(Image).where(Image.why == "audit"))}


@pytest.mark.parametrize("order", ["mix", "halves", "uncertainty", "cluster", "camera", "random"])
def test_a_hash_says_which_audits_are_asked_about_whatever_the_model_says(store, clock, order):
    add(store, 60)
    add(store, 40, why="audit", probability=0.02)
    desk = desk_with(store, clock, order=order, audit=0.2, batch=10)
    audits, asked = audits_of(store), []
    for _ in range(50):
        [image] = desk.next()
        asked.append(image.id)
        desk.decide(image.id, "good", operator="Mira")
    chosen = [one for one in asked if one in audits]
    by_hash = sorted(audits, key=lambda one: share_of("audit", audits[one].event_id))
    assert set(chosen) == set(by_hash[:10]), "a fifth of all decisions"
    for start in range(0, 50, 10):
        assert sum(one in audits for one in asked[start : start + 10]) == 2, "spread over the batches"


def test_without_a_share_audits_come_when_there_is_nothing_else(store, clock):
    field, audits = add(store, 5), add(store, 3, why="audit", probability=0.02, score=0.1)
    asked = [one.id for one in desk_with(store, clock, audit=0).next(8)]
    assert (set(asked[:5]), set(asked[5:])) == (set(field), set(audits))


def test_after_a_time_without_audits_they_do_not_come_all_at_once(store, clock):
    desk = desk_with(store, clock, audit=0.1, batch=10)
    for one in add(store, 100):
        desk.decide(one, "good", operator="Mira")
    field, audits = add(store, 30), add(store, 30, why="audit", probability=0.02)
    asked = [one.id for one in desk.next(10)]
    assert sum(one in audits for one in asked) == 2, "at most twice the share"
    assert sum(one in field for one in asked) == 8


@pytest.mark.parametrize("order", ["mix", "uncertainty", "camera", "random"])
def test_copies_are_asked_about_last(store, clock, order):
    ids = add(store, 6)
    with store.write() as session:
        for copy in ids[:2]:
            session.add(Look(image_id=copy, bits=b"", up=0, down=0, view=b"", sharp=b"", soft=b"", copy_of=ids[3]))
    asked = [one.id for one in desk_with(store, clock, order=order).next(6)]
    assert (set(asked[:4]), set(asked[4:])) == (set(ids[2:]), set(ids[:2]))


def test_embeddings_by_an_int8_backbone_have_no_say(store, clock):
    """They are of labelled images alone, and the newest image may have been labelled."""
    waiting = add(store, 8)
    last = add_image(store, label="good", decided=True)
    add_vector(store, last, [1.0, 0.0, 0.0, 0.0], backbone=f"{INT8}a")
    add_vector(store, last, [1.0, 0.0, 0.0, 0.0])
    planner = Planner("cells", lambda _: b"")
    with store.read() as session:
        assert planner._backbone(session) == "b"
    assert {one.id for one in desk_with(store, clock, order="cluster").next(8)} == set(waiting)


def test_what_an_operator_has_is_given_to_nobody_else(store, clock):
    first, second = add(store, 2)
    desk = desk_with(store, clock, order="uncertainty")
    assert [one.id for one in desk.next(operator="Mira")] == [first]
    assert [one.id for one in desk.next(operator="Tom")] == [second]
    assert desk.next(operator="Ann") == []
    assert [one.id for one in desk.next(operator="Mira")] == [first], "his own, once more"
    clock.advance(HOLD_S - 1)
    assert desk.next(exclude=[second], operator="Tom") == [], "still his, and he says so"
    clock.advance(2)
    assert [one.id for one in desk.next(operator="Ann")] == [first], "Mira has gone"
    desk.decide(second, "good", operator="Tom")
    desk.undo(operator="Tom")
    assert [one.id for one in desk.next(operator="Ann", exclude=[first])] == [second]


def test_who_gives_no_name_holds_nothing(store, clock):
    [only] = add(store, 1)
    desk = desk_with(store, clock)
    assert [one.id for one in desk.next()] == [one.id for one in desk.next()] == [only]
    assert [one.id for one in desk.next(operator="Mira")] == [only]
    assert desk.next() == []


def test_of_too_many_the_newest_are_looked_at(store, clock, monkeypatch):
    monkeypatch.setattr("hub.queue.MOST_WAITING", 3)
    ids = add(store, 5)
    planner = Planner("cells", store.blobs.read)
    with store.read() as session:
        plan = planner.plan(session, 5, set(), LabelSettings(order="uncertainty"))
    assert plan.order == ids[2:]
    assert MOST_WAITING >= 1000


def test_the_same_answer_again_is_no_news(store, clock):
    ids = add(store, 2)
    desk = desk_with(store, clock)
    for one in ids:
        desk.decide(one, "good", operator="Mira")
        desk.decide(one, "good", operator="Tom", ask="repeat")
    with store.read() as session:
        assert session.exec(select(Label.operator).where(news())).all() == ["Mira", "Mira"]
        assert labels_since_run(session, "cells") == 2
    desk.decide(ids[1], "defect", operator="Tom", ask="second")
    with store.read() as session:
        assert session.exec(select(Label.name).where(news())).all() == ["good", "good", "defect"]
