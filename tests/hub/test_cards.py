"""A card from the database: images of the snapshot, who labelled them, cameras that run the release."""

from datetime import timedelta

import msgspec
import pytest

import hub.lineage
from hub.cards import card_of
from hub.dataset import snapshot
from hub.tables import Camera, Label, Release, Run
from shared.manifest import ModelSpec, PartSpec
from tests.hub.making import CLASSES, NOW, add_image, divide, settings_in


def add(store, *rows):
    with store.write() as session:
        session.add_all(rows)
        session.flush()
        return [one.id for one in rows if hasattr(one, "id")]


def label(image, name, operator="Mira", days=0):
    return Label(image_id=image, name=name, operator=operator, at=NOW + timedelta(days=days))


def released(store, snapshot_name, number=1):
    part = PartSpec(sha256="ab" * 32, size=7)
    model = msgspec.to_builtins(ModelSpec(backbone=part, head=part, golden=part, classes=CLASSES))
    run = Run(project="cells", state="done", created_at=NOW, ended_at=NOW, snapshot=snapshot_name)
    [run_id] = add(store, run)
    fields = {"created_at": NOW, "expires_at": NOW, "envelope": b"", "model": model}
    add(store, Release(project="cells", number=number, run_id=run_id, **fields))
    return run_id


def kept(store):
    """Three labelled images, as a run would keep them."""
    rows = [
        add_image(store, b"1", label="good", decided=True, camera="site/a"),
        add_image(store, b"2", label="defect", decided=True, camera="site/b"),
        add_image(store, b"3", label="defect", decided=True, camera="", split="holdout"),
    ]
    divide(store)
    data = snapshot(store, "cells", CLASSES)
    store.blobs.put([data.lines])
    return rows, data.sha256


@pytest.mark.parametrize("many", [0, 5000], ids=["read on", "looked up"])
def test_a_card_is_made_of_what_the_database_has(store, tmp_path, monkeypatch, many):
    monkeypatch.setattr(hub.lineage, "MANY", many)
    (first, second, _), name = kept(store)
    add(store, label(first, "good"), label(second, "defect", "Noor"), label(first, "good", "too late", days=1))
    released(store, name)
    camera = {"project": "cells", "first_seen": NOW, "last_seen": NOW}
    add(store, Camera(name="site/a", release=1, **camera), Camera(name="site/b", release=9, **camera))
    made = card_of(settings_in(tmp_path), store, 1)
    assert (made.data.training.images, made.data.holdout.images, made.data.operators) == (2, 1, 2)
    assert [one.camera for one in made.data.training.sources] == ["site/a", "site/b"]
    assert made.cameras == ["site/a"]


def test_a_snapshot_that_was_not_kept_is_said_so(store, tmp_path):
    released(store, "cd" * 32)
    made = card_of(settings_in(tmp_path), store, 1)
    assert not made.data.kept
    assert made.data.training is None


def test_there_is_no_card_of_no_release(store, tmp_path):
    assert card_of(settings_in(tmp_path), store, 1) is None
