"""fsck finds each kind of damage, and nothing where there is none."""

import pytest

from hub.fsck import check
from hub.tables import Release, Run
from tests.hub.making import NOW, add_image, get_image

PARTS = {"backbone": b"backbone", "head": b"head", "golden": b"golden"}


@pytest.fixture
def good(store):
    """A store with an image, a run and a release; returns (store, image id, sha256 by name)."""
    image = add_image(store, b"an image")
    names = dict(zip(PARTS, store.blobs.put(list(PARTS.values())), strict=True))
    with store.write() as session:
        session.add(Run(project="cells", created_at=NOW, state="queued"))
        session.add(Run(project="cells", created_at=NOW, state="done", parts=names))
        model = {name: {"sha256": one} for name, one in names.items()}
        session.add(Release(project="cells", number=1, created_at=NOW, expires_at=NOW, envelope=b"", model=model))
    return store, image, {**names, "image": get_image(store, image).sha256}


def findings(store, **how):
    return [(one.kind, one.subject) for one in check(store, **how)]


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_found_where_all_is_well(good, deep):
    assert findings(good[0], deep=deep) == []


def test_an_empty_store_is_well(store):
    assert findings(store, deep=True) == []


def test_a_missing_image_is_found(good):
    store, image, names = good
    store.blobs.path(names["image"]).unlink()
    assert findings(store) == [("missing", f"image {image}")]


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_part_is_found(good, name):
    store, _, names = good
    store.blobs.path(names[name]).unlink()
    assert findings(store) == [("missing", f"release part {name}")]


def test_a_part_of_a_run_that_was_not_released_counts_too(good):
    store, _, _ = good
    [lost] = store.blobs.put([b"another head"])
    with store.write() as session:
        session.add(Run(project="cells", created_at=NOW, state="done", parts={"head": lost}))
    assert findings(store) == []
    store.blobs.path(lost).unlink()
    assert findings(store) == [("missing", "run part head")]


def test_another_length_is_found_without_reading(good):
    store, image, names = good
    store.blobs.path(names["image"]).write_bytes(b"short")
    assert findings(store) == [("size", f"image {image}")]


def test_a_changed_byte_is_found_by_reading(good):
    store, image, names = good
    store.blobs.path(names["image"]).write_bytes(b"an imagE")
    store.blobs.path(names["head"]).write_bytes(b"heaD")
    assert findings(store) == []
    assert findings(store, deep=True) == [("damaged", f"image {image}"), ("damaged", "release part head")]


def test_what_a_crash_left_is_found_and_called_harmless(good):
    store, _, _ = good
    [orphan] = store.blobs.put([b"no row names me"])
    half = store.blobs.path(orphan).with_name(f"{orphan}.123.tmp")
    half.write_bytes(b"no r")
    found = list(check(store))
    assert [(one.kind, one.subject) for one in found] == [("orphan", f"blob {orphan}"), ("leftover", str(half))]
    assert all("harmless" in one.text for one in found)


def test_it_only_reads(good):
    store, _, names = good
    store.blobs.path(names["image"]).unlink()
    store.blobs.put([b"orphan"])
    assert findings(store) == findings(store)
