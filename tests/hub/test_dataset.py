"""A run's data: what is old and new, how many, and the same again by its name."""

from datetime import timedelta
from typing import NamedTuple

import numpy as np
import pytest

from hub.dataset import Entry, chosen, entries, entries_of, paired, recalled, snapshot
from hub.settings import TrainSettings
from hub.tables import Assignment, Image, Label, Run
from shared.errors import TrainError
from tests.hub import making
from tests.hub.making import CLASSES, NOW, add_image, divide


def balance(keep, labels):
    return np.bincount(labels[keep], minlength=2).tolist()


def test_without_wishes_everything_is_trained_on():
    assert chosen(np.array([0, 1, 1]), np.zeros(3, bool), TrainSettings()).all()


def test_new_images_are_all_kept_and_old_ones_by_their_share():
    labels = np.array([0] * 80 + [1] * 20 + [0, 1] * 5)
    old = np.arange(110) < 100
    keep = chosen(labels, old, TrainSettings(replay=0.3))
    assert keep[~old].all()
    assert balance(keep & old, labels) == [24, 6], "the classes keep their proportions"
    assert not chosen(labels, old, TrainSettings(replay=0.0))[old].any()
    other = chosen(labels, old, TrainSettings(replay=0.3, seed=1))
    assert (keep != other).any()
    assert (keep == chosen(labels, old, TrainSettings(replay=0.3))).all()


def test_so_many_images_at_most_and_the_old_go_first():
    labels = np.array([0, 1] * 50)
    old = np.arange(100) < 60
    keep = chosen(labels, old, TrainSettings(images=50))
    assert (keep.sum(), keep[~old].all()) == (50, True)
    few = chosen(labels, old, TrainSettings(images=10))
    assert (few.sum(), few[old].any()) == (10, False)
    assert balance(few, labels) == [5, 5]
    assert chosen(labels, old, TrainSettings(images=500)).all()


def label(store, image, at):
    with store.write() as session:
        session.add(Label(image_id=image, name="good", operator="Mira", at=at))


def test_old_is_what_was_labelled_before_the_last_good_run(store):
    images = [add_image(store, b"%d" % one, label="good", decided=True) for one in range(6)]
    held = add_image(store, b"held", label="defect", decided=True, split="holdout")
    for one in (*images[:3], held):
        label(store, one, NOW)
    settings = TrainSettings(replay=0.0)
    for one in images[3:]:
        label(store, one, NOW + timedelta(hours=2))
    divide(store)
    assert len(snapshot(store, "cells", CLASSES, settings).ids) == 7, "no run: all is new"
    with store.write() as session:
        session.add(Run(project="cells", state="done", created_at=NOW + timedelta(hours=1)))
        session.add(Run(project="cells", state="failed", created_at=NOW + timedelta(hours=3)))
    got = snapshot(store, "cells", CLASSES, settings)
    assert got.ids == [*images[3:], held]
    assert got.sha256 != snapshot(store, "cells", CLASSES).sha256
    assert snapshot(store, "cells", CLASSES, TrainSettings()).ids == [*images, held]


def test_the_lines_are_the_blob_of_the_snapshots_name_and_bring_it_back(store, monkeypatch):
    classes = ["good part", "defect"]
    monkeypatch.setattr(making, "CLASSES", classes)
    add_image(store, b"1", label="good part", decided=True, split="train")
    again = add_image(store, b"1", label="good part", decided=True)
    add_image(store, b"2", label="defect", decided=True, split="holdout")
    add_image(store, b"2", label="defect", decided=True)
    divide(store)
    taken = snapshot(store, "cells", classes)
    assert (taken.field_labels, taken.left_out, taken.since.tolist()) == (1, 1, [0, 0, 1])
    assert store.blobs.put([taken.lines]) == [taken.sha256]
    add_image(store, b"3", label="defect", decided=True, split="holdout")
    with store.write() as session:
        row = session.get(Image, again)
        row.label = "defect"  # another mind since then: a repeat has the label of its day
        moved = session.get(Assignment, again)
        moved.side = "out"  # nor does a bridge that was found since then change it
        session.add_all([row, moved])
    divide(store)
    back = recalled(store, "cells", classes, taken.sha256, taken.left_out)
    assert (back.ids, back.sha256, back.field_labels) == (taken.ids, taken.sha256, taken.field_labels)
    for name in ("labels", "holdout", "since"):
        assert (getattr(back, name) == getattr(taken, name)).all()
    assert back.left_out == 1


def test_near_copies_to_train_on_are_groups_of_the_snapshot_for_good(store):
    classes = CLASSES
    images = [add_image(store, b"%d" % one, label=classes[one % 2], decided=True) for one in range(5)]
    held = [add_image(store, b"h%d" % one, label="good", decided=True, split="holdout") for one in range(2)]
    divide(store)
    plain = snapshot(store, "cells", classes)
    assert len(set(plain.near.tolist())) == 7
    assert all(len(line.split(" ")) == 3 for line in plain.lines.decode().splitlines()), "as ever"
    with store.write() as session:
        for members in (images[1:4], held):
            name = session.get(Assignment, members[0]).near
            for one in members:
                row = session.get(Assignment, one)
                row.near = name
                session.add(row)
    taken = snapshot(store, "cells", classes)
    of = dict(zip(taken.ids, taken.near.tolist(), strict=True))
    assert len({of[one] for one in images[1:4]}) == 1
    assert len(set(of.values())) == 5, "of those held out nobody asks"
    assert taken.sha256 != plain.sha256
    store.blobs.put([taken.lines, plain.lines])
    with store.write() as session:
        row = session.get(Assignment, images[4])
        row.near = session.get(Assignment, images[1]).near  # a bridge was found since then
        session.add(row)
    for one in (taken, plain):
        back = recalled(store, "cells", classes, one.sha256)
        assert (back.ids, back.sha256, back.labels.tolist()) == (one.ids, one.sha256, one.labels.tolist())
        pairs = set(zip(back.near.tolist(), one.near.tolist(), strict=True))
        assert len(pairs) == len(set(one.near.tolist())) == len(set(back.near.tolist())), "the same groups"


def test_what_is_gone_is_told(store):
    first = add_image(store, b"1", label="good", decided=True)
    add_image(store, b"2", label="defect", decided=True)
    divide(store)
    taken = snapshot(store, "cells", CLASSES)
    assert recalled(store, "cells", CLASSES, taken.sha256) is None, "the lines were not kept"
    store.blobs.put([taken.lines])
    with pytest.raises(TrainError, match="1 of its 2 images"):
        recalled(store, "cells", ["good", "crack"], taken.sha256)
    with store.write() as session:
        row = session.get(Image, first)
        row.state = "lost"
        session.add(row)
    with pytest.raises(TrainError, match="1 of its 2 images are gone"):
        recalled(store, "cells", CLASSES, taken.sha256)


def test_the_lines_of_one_image_are_found_among_all():
    first, second, third = (letter * 64 for letter in "abc")
    lines = f"{first} good train\n{second} a crack holdout\n{second} good train\n{third} good train {first}\n".encode()
    every = entries(lines)
    assert every[1] == (second, "a crack", "holdout", "")
    assert every[3] == (third, "good", "train", first), "in a group that is named by another image"
    assert entries_of(lines, first) == every[:1]
    assert entries_of(lines, second) == every[1:3]
    assert entries_of(lines, third) == every[3:]
    assert entries_of(lines, "d" * 64) == []
    assert entries(b"") == []


def test_images_with_the_same_bytes_are_paired_by_their_side_first():
    class One(NamedTuple):
        id: int
        side: str

    lines = [
        Entry("a", "good", "holdout"),
        Entry("a", "good", "train"),
        Entry("a", "good", "train"),
        Entry("b", "x", ""),
    ]
    there = {"a": [One(1, "train"), One(2, "holdout")]}
    assert paired(lines, there) == [there["a"][1], there["a"][0], None, None]
