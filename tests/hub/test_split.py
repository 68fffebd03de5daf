"""The split: near-copies never on both sides, chance alone extends the holdout, and what was given stays."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import select

from hub.settings import SplitSettings
from hub.split import Item, Standing, assign, links, share_of
from hub.tables import Assignment, HoldoutVersion, Image, Run
from tests.hub.making import NOW, add_image, divide, sides

ALL, NONE, HALF = SplitSettings(share=1), SplitSettings(share=0), SplitSettings(share=0.5)


def item(number, why="audit", split="pool", **fields):
    given = {"camera": "site/a", "at": NOW, "sha256": f"{number:064x}", **fields}
    return Item(id=number, split=split, why=why, **given)


def plan(items, pairs=(), settings=ALL):
    """Image id -> (group, side) after what changes."""
    made = assign(items, pairs, settings, "cells")
    before = {one.id: (one.near, one.side) for one in items}
    return {**before, **made.changed}, made.bridges


def after(items, pairs=(), settings=ALL, *, since=1):
    """The items as they are once a plan is in force."""
    now, _ = plan(items, pairs, settings)
    return [
        Item(**{**vars_of(one), "near": now[one.id][0], "side": now[one.id][1],
                "since": one.since or since * (now[one.id][1] == "holdout")})
        for one in items
    ]  # fmt: skip


def vars_of(one):
    return {name: getattr(one, name) for name in Item.__dataclass_fields__}


def side(items, pairs=(), settings=ALL):
    return {one: given for one, (_, given) in plan(items, pairs, settings)[0].items()}


# -- who is drawn


def test_only_random_audit_images_and_imported_ones_are_held_out():
    items = [
        item(1),
        item(2, "low_score"),
        item(3, "novel"),
        item(4, "import", "train"),
        item(5, "import", "holdout"),
        item(6, "random"),
    ]
    assert side(items) == {1: "holdout", 2: "train", 3: "train", 4: "train", 5: "holdout", 6: "train"}
    assert side(items, settings=NONE) == {1: "train", 2: "train", 3: "train", 4: "train", 5: "holdout", 6: "train"}


def test_the_hash_draws_the_share_and_the_same_again():
    items = [item(number) for number in range(1, 2001)]
    drawn = side(items, settings=SplitSettings(share=0.3))
    count = sum(one == "holdout" for one in drawn.values())
    assert abs(count - 600) < 3 * np.sqrt(2000 * 0.3 * 0.7)
    assert drawn == side(items, settings=SplitSettings(share=0.3))
    assert share_of("cells", "x") != share_of("welds", "x"), "projects draw apart"


def test_near_copies_are_one_group_named_by_the_smallest_hash():
    items = [item(7), item(3), item(5), item(9), item(1, sha256=f"{9:064x}")]
    now, _ = plan(items, [(7, 3), (3, 5)])
    assert {now[one][0] for one in (7, 3, 5)} == {f"{3:064x}"}
    assert now[9] == now[1] == (f"{9:064x}", "holdout"), "equal bytes"


def test_what_is_no_sample_is_left_out_of_a_held_out_group():
    items = [item(1), item(2, "low_score"), item(3, "low_score")]
    assert side(items, [(1, 2)]) == {1: "holdout", 2: "out", 3: "train"}


def test_an_audit_image_that_looks_like_a_trained_one_is_trained_on_too():
    trained = after([item(1, "low_score"), item(2, "import", "train")])
    assert side([*trained, item(3), item(4)], [(3, 1), (4, 2)]) == {1: "train", 2: "train", 3: "train", 4: "train"}
    assert side([item(2, "import", "train"), item(3)], [(2, 3)]) == {2: "train", 3: "train"}, "also when both are new"


def test_an_audit_image_that_looks_like_a_held_out_one_joins_it():
    held = after([item(1, "import", "holdout")])
    now, bridges = plan([*held, item(2), item(3, "low_score")], [(2, 1), (3, 1)], NONE)
    assert {one: given for one, (_, given) in now.items()} == {1: "holdout", 2: "holdout", 3: "out"}
    assert {near for near, _ in now.values()} == {held[0].near}
    assert bridges == []


def test_imported_copies_on_both_sides_teach_nothing():
    items = [item(1, "import", "train"), item(2, "import", "holdout"), item(3, "import", "train")]
    assert side(items, [(1, 2)]) == {1: "out", 2: "holdout", 3: "train"}


@pytest.mark.parametrize("by", ["camera", "time"])
def test_a_camera_or_a_day_that_is_held_out_teaches_nothing(by):
    def made(number, key, why="audit"):
        place = {"camera": f"site/{key}"} if by == "camera" else {"at": NOW + timedelta(days=key, minutes=number)}
        return item(number, why, **place)

    settings = SplitSettings(share=0.5, by=by)
    items = [made(number, number % 20, "audit" if number % 3 else "low_score") for number in range(1, 601)]
    got = side(items, settings=settings)
    keys = {}
    for number, where in got.items():
        keys.setdefault(number % 20, set()).add((where, number % 3 > 0))
    held = {key for key, found in keys.items() if ("holdout", True) in found}
    assert 3 < len(held) < 17
    for key, found in keys.items():
        wanted = {("holdout", True), ("out", False)} if key in held else {("train", True), ("train", False)}
        assert found == wanted


# -- what stays, and what changes it


def test_a_side_stays_whatever_the_settings_say_later():
    items = after([item(number, "audit" if number % 2 else "low_score") for number in range(1, 60)], settings=HALF)
    for later in (ALL, NONE, SplitSettings(by="camera", share=1)):
        assert assign(items, [], later, "cells").changed == {}


def test_a_bridge_takes_the_trained_group_out_and_says_since_when():
    trained = after([item(4, "low_score"), item(5, "low_score")], [(4, 5)])
    held = after([item(1), item(2)], [(1, 2)], since=3)
    bridge = item(6)
    now, bridges = plan([*trained, *held, bridge], [(6, 5), (6, 1)])
    assert {one: given for one, (_, given) in now.items()} == {1: "holdout", 2: "holdout", 4: "out", 5: "out", 6: "out"}
    assert {near for near, _ in now.values()} == {held[0].near}, "the held-out group keeps its name"
    [found] = bridges
    assert (found.since, found.trained, found.held) == (3, 2, 2)


def test_two_trained_groups_that_meet_stay_in_training():
    items = [*after([item(4, "low_score")]), *after([item(5, "low_score")]), item(6)]
    now, bridges = plan(items, [(6, 4), (6, 5)])
    assert set(now.values()) == {(f"{4:064x}", "train")}
    assert bridges == []


def test_what_was_labelled_before_there_were_sides_is_never_held_out():
    old = item(1, near="", side="train")
    assert side([old, item(2)]) == {1: "train", 2: "holdout"}
    assert plan([old], [])[0][1] == (f"{1:064x}", "train"), "but it has a group from now on"
    assert side([old, item(2)], [(1, 2)]) == {1: "train", 2: "train"}


@given(st.data())
def test_no_near_copy_is_ever_on_both_sides(data):
    """Images come in rounds, with any near-copies among them and any settings."""
    items, pairs = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        for _ in range(data.draw(st.integers(0, 6))):
            number = len(items) + 1
            split = data.draw(st.sampled_from(["pool", "pool", "pool", "train", "holdout"]))
            items.append(item(number, data.draw(st.sampled_from(["audit", "low_score"])), split,
                              sha256=f"{data.draw(st.integers(0, 9)):064x}"))  # fmt: skip
            if number > 1 and data.draw(st.booleans()):
                pairs.append((number, data.draw(st.integers(1, number - 1))))
        settings = SplitSettings(share=data.draw(st.sampled_from([0.0, 0.5, 1.0])))
        before = {one.id: one.side for one in items}
        items = after(items, pairs, settings)
        now = {one.id: one for one in items}
        assert all(one.near for one in items)
        for a, b in [*pairs, *((a, b) for a in now for b in now if now[a].sha256 == now[b].sha256)]:
            assert now[a].near == now[b].near
            assert {now[a].side, now[b].side} != {"train", "holdout"}
        for one in items:
            assert one.side != "holdout" or one.split == "holdout" or one.why == "audit"
            if before[one.id] is not None:
                assert one.side in (before[one.id], "out")


# -- near-copies by embedding


def test_links_are_pairs_above_the_cosine():
    rng = np.random.default_rng(0)
    vectors = {one: rng.normal(size=64).astype(np.float32) for one in range(40)}
    vectors[50] = 3 * vectors[7] + 0.01
    vectors[51] = vectors[50] + 0.001
    assert links(vectors, [50, 51], 0.99) == [(50, 7), (50, 51), (51, 7), (51, 50)]
    assert links(vectors, [7], 0.99) == [(7, 50), (7, 51)]
    assert links(vectors, [50], 1.01) == links(vectors, [], 0.5) == []


# -- the shell


def labelled(store, why="audit", label="good", **fields):
    return add_image(store, label=label, decided=True, why=why, **fields)


def versions(store):
    with store.read() as session:
        rows = session.exec(select(HoldoutVersion).order_by(HoldoutVersion.number)).all()
        return [(one.number, one.base, one.images) for one in rows]


def judged(store, version, verdict="same", **fields):
    with store.write() as session:
        run = Run(project="cells", created_at=NOW, state="done", verdict=verdict, holdout=version, **fields)
        session.add(run)
        session.flush()
        return run.id


def doubt(store, run):
    with store.read() as session:
        return session.get(Run, run).doubt


def test_the_holdout_grows_in_numbered_versions(store):
    assert divide(store) == Standing()
    first = [labelled(store, "import", split="holdout") for _ in range(3)]
    taught = labelled(store, "low_score")
    assert divide(store, share=1) == Standing(1, 0, 3, 0, False)
    assert divide(store, share=1).number == 1, "nothing new, no new version"
    labelled(store, "low_score")
    assert divide(store, share=1).number == 1
    new = [labelled(store), labelled(store)]
    assert divide(store, share=1) == Standing(2, 0, 5, 0, False)
    assert versions(store) == [(1, 0, 3), (2, 0, 5)]
    with store.read() as session:
        since = {one.image_id: one.since for one in session.exec(select(Assignment))}
    assert [since[one] for one in (*first, taught, *new)] == [1, 1, 1, 0, 2, 2]


def test_an_image_that_cannot_be_compared_has_no_side_until_it_can(store, clock):
    from hub import split

    number = labelled(store)
    assert split.divide(store, "cells", {}, ALL, clock) == Standing()
    assert sides(store) == {}
    divide(store, share=1)
    assert sides(store) == {number: "holdout"}


def test_a_worn_holdout_gives_way_to_fresh_images(store):
    for _ in range(3):
        labelled(store)
    assert divide(store, share=1, max_verdicts=3).worn is False
    for verdict in ("first", "not enough data", "better", "same"):
        judged(store, 1, verdict)
    assert divide(store, share=1, max_verdicts=3) == Standing(1, 0, 3, 2, False)
    labelled(store)
    assert divide(store, share=1, max_verdicts=3) == Standing(2, 0, 4, 2, False), "the old images still count"
    judged(store, 2, "worse")
    assert divide(store, share=1, max_verdicts=3) == Standing(2, 0, 4, 3, True)
    labelled(store)
    assert divide(store, share=1, max_verdicts=3) == Standing(3, 2, 5, 0, False), "from here only fresh ones decide"
    judged(store, 3)
    assert divide(store, share=1, max_verdicts=3).verdicts == 1
    assert versions(store) == [(1, 0, 3), (2, 0, 4), (3, 2, 5)]


def test_a_bridge_marks_the_runs_that_were_judged_on_its_images(store):
    early = labelled(store, "import", split="holdout")
    divide(store)
    before = judged(store, 1)
    held = labelled(store, split="holdout")
    taught = labelled(store, "low_score")
    far = {early: [-1, 0], held: [1, 0], taught: [0, 1]}
    divide(store, near=0.7, vectors=far)
    on_them, failed = judged(store, 2), judged(store, 0)
    bridge = labelled(store, "low_score")
    assert divide(store, near=0.7, vectors={**far, bridge: [1, 1]}).number == 2
    assert sides(store) == {early: "holdout", held: "holdout", taught: "out", bridge: "out"}
    assert "1 held-out image of version 2 and later turned out to be near-copies of 1" in doubt(store, on_them)
    assert doubt(store, before) == doubt(store, failed) == ""


def test_a_label_that_was_taken_back_still_links(store):
    gone = labelled(store, "low_score")
    divide(store, vectors={gone: [1, 0]})
    with store.write() as session:
        row = session.get(Image, gone)
        row.label = None
        session.add(row)
    copy = labelled(store)
    divide(store, share=1, vectors={gone: [1, 0], copy: [1, 0]})
    assert sides(store) == {gone: "train", copy: "train"}, "a model has learnt from it"


def test_days_are_days_in_utc():
    late = item(1, at=datetime(2026, 3, 1, 23, 59, tzinfo=UTC))
    early = item(2, at=datetime(2026, 3, 2, 0, 1, tzinfo=UTC))
    drawn = {day: share_of("cells", day) < 0.5 for day in ("2026-03-01", "2026-03-02")}
    assert side([late, early], settings=SplitSettings(by="time")) == {
        1: "holdout" if drawn["2026-03-01"] else "train",
        2: "holdout" if drawn["2026-03-02"] else "train",
    }
