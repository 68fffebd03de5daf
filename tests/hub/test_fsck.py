"""fsck finds each kind of damage, and nothing where all is well; a repair deletes nothing and leaves nothing wrong."""

import json
import os
import time
from pathlib import Path

import pytest
from sqlmodel import select

from hub import lost
from hub.dataset import snapshot
from hub.findings import GRACE
from hub.fsck import check
from hub.label import Desk
from hub.quarantine import Quarantine
from hub.strays import SETTLE_S
from hub.tables import Image, Release, Run
from shared.clock import SystemClock
from shared.errors import StoreError
from shared.files import sha256_hex
from tests.hub.making import CLASSES, NOW, add_image, divide, get_image

PARTS = {"backbone": b"backbone", "head": b"head", "golden": b"golden"}
CLOCK = SystemClock()
SOME = {"project": "cells", "size": 1, "ext": "png", "captured_at": NOW, "received_at": NOW, "state": "verified"}


@pytest.fixture
def good(store):
    """A store with an image, a run and a release; returns (store, image id, sha256 by name)."""
    image = add_image(store, b"an image", width=64)
    names = dict(zip(PARTS, store.blobs.put(list(PARTS.values())), strict=True))
    with store.write() as session:
        session.add(Run(project="cells", created_at=NOW, state="queued"))
        session.add(Run(project="cells", created_at=NOW, state="done", parts=names))
        model = {name: {"sha256": one} for name, one in names.items()}
        session.add(Release(project="cells", number=1, created_at=NOW, expires_at=NOW, envelope=b"", model=model))
    return store, image, {**names, "image": get_image(store, image).sha256}


def findings(store, **how):
    return sorted((one.kind, one.subject) for one in check(store, CLOCK, **how))


def age(path):
    os.utime(path, (time.time() - 2 * GRACE.total_seconds(),) * 2)
    return path


def old(store, data):
    """An old blob; its sha256."""
    [name] = store.blobs.put([data])
    age(store.blobs.path(name))
    return name


class Repair:
    """Repairs a store, and remembers what was found."""

    def __init__(self, store, meanwhile=lambda: None):
        self.store = store
        self.state = store.blobs.folder.parent
        self.waits = []
        self.meanwhile = meanwhile

    def __call__(self, **how):
        quarantine = Quarantine(self.state, CLOCK)
        found = check(self.store, CLOCK, quarantine=quarantine, wait=self.wait, **how)
        return sorted((one.kind, one.subject, one.mended) for one in found)

    def wait(self, seconds):
        self.waits.append(seconds)
        self.meanwhile()

    @property
    def kept(self):
        """What lies in the quarantine: path in the state folder -> (bytes, kind in the index)."""
        found = {}
        for folder in sorted((self.state / "quarantine").glob("*")):
            index = [json.loads(one) for one in (folder / "index.jsonl").read_text().splitlines()]
            assert all(one["why"] and one["at"] for one in index)
            kinds = {one["what"]: one["kind"] for one in index}
            for path in folder.rglob("*"):
                if path.is_file() and path.name != "index.jsonl":
                    name = str(path.relative_to(folder))
                    found[name] = (path.read_bytes(), kinds[name])
        return found


@pytest.fixture
def repair(good):
    return Repair(good[0])


def kept_as(sha256):
    return f"blobs/{sha256[:2]}/{sha256}"


# -- findings


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_found_where_all_is_well(good, deep):
    assert findings(good[0], deep=deep) == []


def test_an_empty_store_is_well(store):
    assert findings(store, deep=True) == []
    assert Repair(store)() == []


def test_a_missing_image_is_found(good):
    store, image, names = good
    store.blobs.path(names["image"]).unlink()
    assert findings(store) == [("missing", f"image {image}")]


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_part_is_found(good, name):
    store, _, names = good
    store.blobs.path(names[name]).unlink()
    assert findings(store) == [("missing", f"{name} of release 1")]


def test_a_part_of_a_run_that_was_not_released_counts_too(good):
    store, _, _ = good
    name = old(store, b"another head")
    with store.write() as session:
        session.add(Run(project="cells", created_at=NOW, state="done", parts={"head": name}))
    assert findings(store) == []
    store.blobs.path(name).unlink()
    assert findings(store) == [("missing", "head of run 3")]


def test_another_length_is_found_without_reading_all(good):
    store, image, names = good
    store.blobs.path(names["image"]).write_bytes(b"")
    assert findings(store) == [("damaged", f"image {image}")]


def test_a_changed_byte_is_found_by_reading(good):
    store, image, names = good
    store.blobs.path(names["image"]).write_bytes(b"an imagE")
    store.blobs.path(names["head"]).write_bytes(b"heaD")
    assert findings(store) == []
    assert findings(store, deep=True) == [("damaged", "head of release 1"), ("damaged", f"image {image}")]


def test_what_a_crash_left_is_found_and_called_harmless(good):
    store, _, _ = good
    orphan = old(store, b"no row names me")
    half = store.blobs.path(orphan).with_name(f"{orphan}.123.tmp")
    half.write_bytes(b"no r")
    age(half)
    found = list(check(store, CLOCK))
    place = f"{orphan[:2]}/{orphan}"
    assert sorted((one.kind, one.subject) for one in found) == [("leftover", f"{place}.123.tmp"), ("orphan", place)]
    assert all("harmless" in one.text for one in found)


def test_foreign_files_are_found_wherever_they_lie(good):
    store, _, names = good
    folder = store.blobs.folder
    misplaced = "00" if names["image"][:2] != "00" else "01"
    (folder / misplaced).mkdir(exist_ok=True)
    for path in (folder / "notes.txt", folder / misplaced / "Thumbs.db", folder / misplaced / names["image"]):
        path.write_bytes(b"x")
        age(path)
    (folder / "lost+found").mkdir()  # a disk's own
    age(folder / "lost+found")
    assert findings(store) == [
        ("foreign", f"{misplaced}/Thumbs.db"),
        ("foreign", f"{misplaced}/{names['image']}"),
        ("foreign", "notes.txt"),
    ]


def test_young_files_are_not_judged(good):
    store, _, _ = good
    [young] = store.blobs.put([b"its row is under way"])
    store.blobs.path(young).with_name(f"{young}.tmp").write_bytes(b"being written")
    assert findings(store) == []
    assert Repair(store)() == []
    age(store.blobs.path(young))
    assert [kind for kind, _ in findings(store)] == ["orphan"]


def test_orphans_are_not_judged_while_a_run_is_under_way(good):
    store, _, _ = good
    orphan = old(store, b"a head that is being evaluated")
    with store.write() as session:
        session.add(Run(project="cells", created_at=NOW, state="running"))
    assert Repair(store)() == []
    assert store.blobs.has(orphan)


def test_it_only_reads_unless_told(good):
    store, image, names = good
    store.blobs.path(names["image"]).unlink()
    old(store, b"orphan")
    before = findings(store, deep=True)
    assert findings(store, deep=True) == before
    assert len(before) == 2
    assert get_image(store, image).state == "verified"
    assert not (store.blobs.folder.parent / "quarantine").exists()


def test_progress_counts_to_the_end(good):
    store, _, _ = good
    seen = []
    list(check(store, CLOCK, progress=lambda *one: seen.append(one)))
    assert [done for done, _ in seen] == [1, 2, 3, 4]
    assert {total for _, total in seen} == {4}


def test_no_permission_is_no_verdict(good, monkeypatch):
    store, image, names = good

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    for method in ("read_bytes", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refused)
            with pytest.raises(StoreError, match="Permission denied"):
                Repair(store)(deep=True)
    assert get_image(store, image).state == "verified"
    assert store.blobs.has(names["image"])


# -- repair


def test_a_missing_image_is_marked_and_nothing_is_wrong_any_more(good, repair):
    store, image, names = good
    store.blobs.path(names["image"]).unlink()
    assert repair() == [("missing", f"image {image}", True)]
    assert get_image(store, image).state == "lost"
    assert repair() == [("lost", f"image {image}", True)]
    assert [(one.kind, one.mended) for one in check(store, CLOCK)] == [("lost", True)]
    assert repair.kept == {}


def test_every_image_of_a_damaged_blob_is_marked_and_the_bytes_are_kept(good, repair):
    store, image, names = good
    twin = add_image(store, b"an image", event_id="twin")
    other = add_image(store, b"another", event_id="other")
    store.blobs.path(names["image"]).write_bytes(b"an imagE")
    assert repair() == []
    assert repair(deep=True) == [("damaged", f"image {image}", True), ("damaged", f"image {twin}", True)]
    assert [get_image(store, one).state for one in (image, twin, other)] == ["lost", "lost", "verified"]
    assert repair.kept == {kept_as(names["image"]): (b"an imagE", "damaged")}
    assert not store.blobs.has(names["image"])


def test_the_same_bytes_again_heal(good, repair):
    store, image, names = good
    store.blobs.path(names["image"]).write_bytes(b"short")
    unseen = add_image(store, b"not verified yet", state="new")
    store.blobs.path(get_image(store, unseen).sha256).unlink()
    repair()
    store.blobs.put([b"an image", b"not verified yet"])
    found = [("found", f"image {one}") for one in sorted([image, unseen])]
    assert findings(store) == found  # told, not done
    assert [one.mended for one in check(store, CLOCK)] == [False, False]
    assert repair() == [(*one, True) for one in found]
    assert (get_image(store, image).state, get_image(store, unseen).state) == ("verified", "new")
    assert findings(store) == []


def test_a_lost_image_whose_blob_came_back_damaged_stays_lost(good, repair):
    store, image, names = good
    store.blobs.path(names["image"]).unlink()
    repair()
    store.blobs.path(names["image"]).write_bytes(b"an imagE")
    assert repair() == [("damaged", f"image {image}", True)]
    assert get_image(store, image).state == "lost"


def test_a_damaged_part_goes_so_that_a_good_one_can_come_and_stays_wrong(good, repair):
    store, _, names = good
    store.blobs.path(names["head"]).write_bytes(b"heaD")
    assert repair(deep=True) == [("damaged", "head of release 1", False)]
    assert repair.kept == {kept_as(names["head"]): (b"heaD", "damaged")}
    assert repair() == [("missing", "head of release 1", False)]
    store.blobs.put([b"head"])
    assert repair(deep=True) == []


def test_strays_are_moved_with_a_reason_and_come_no_more(good, repair):
    store, _, _ = good
    orphan = old(store, b"orphan")
    half = age_new(store.blobs.path(orphan).with_name(f"{orphan}.1.tmp"), b"orp")
    notes = age_new(store.blobs.folder / "notes.txt", b"hello")
    found = repair()
    assert [(kind, mended) for kind, _, mended in found] == [("foreign", True), ("leftover", True), ("orphan", True)]
    assert repair.kept == {
        kept_as(orphan): (b"orphan", "orphan"),
        f"{kept_as(orphan)}.1.tmp": (b"orp", "leftover"),
        "blobs/notes.txt": (b"hello", "foreign"),
    }
    assert not store.blobs.has(orphan)
    assert not half.exists()
    assert not notes.exists()
    assert repair() == []


def age_new(path, data):
    path.write_bytes(data)
    return age(path)


def test_an_orphan_that_somebody_names_meanwhile_is_given_back(good):
    store, _, _ = good
    orphan = old(store, b"the same bytes again")
    rows = []

    def collected():  # `put` saw the file before it was moved, so it wrote nothing
        assert not store.blobs.has(orphan)
        rows.append(add_image(store, event_id="again", sha256=orphan, size=20, state="new"))

    repair = Repair(store, collected)
    place = f"{orphan[:2]}/{orphan}"
    assert repair() == [("found", orphan, True), ("orphan", place, True)]
    assert repair.waits == [SETTLE_S]
    assert store.blobs.read(orphan) == b"the same bytes again"
    assert get_image(store, rows[0]).state == "new"
    assert repair.kept == {}
    assert findings(store, deep=True) == []


def test_a_row_that_comes_between_the_look_and_the_mark_is_left_alone(good, monkeypatch):
    store, image, names = good
    data = store.blobs.read(names["image"])
    store.blobs.path(names["image"]).unlink()
    write = store.write

    def late():
        store.blobs.put([data])  # as a collector that stores the same image of another event
        monkeypatch.setattr(store, "write", write)
        return write()

    monkeypatch.setattr(store, "write", late)
    assert Repair(store)() == [("missing", f"image {image}", False)]
    assert get_image(store, image).state == "verified"
    assert findings(store) == []


def test_a_row_with_a_wrong_size_is_corrected_and_its_blob_stays(good, repair):
    store, image, names = good
    with store.write() as session:
        row = session.get(Image, image)
        row.size = 7
        session.add(row)
    assert findings(store) == [("size", f"image {image}")]
    assert repair() == [("size", f"image {image}", True)]
    assert get_image(store, image).size == len(b"an image")
    assert store.blobs.has(names["image"])
    assert findings(store) == []


def test_a_disk_that_is_not_mounted_does_not_mark_everything_lost(good, repair):
    store, image, _ = good
    store.blobs.folder.rename(store.blobs.folder.with_name("elsewhere"))
    store.blobs.folder.mkdir()
    with pytest.raises(StoreError, match="mounted"):
        repair()
    assert get_image(store, image).state == "verified"
    assert ("missing", f"image {image}") in findings(store)


def test_what_cannot_be_moved_is_told_and_stays_wrong(good, monkeypatch):
    store, _, _ = good
    old(store, b"orphan")

    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("hub.quarantine.os.rename", refused)
    [found] = check(store, CLOCK, quarantine=Quarantine(store.blobs.folder.parent, CLOCK), wait=lambda _: None)
    assert (found.kind, found.mended) == ("orphan", False)
    assert "Read-only" in found.text


def test_the_quarantine_may_be_on_another_disk(good, monkeypatch, repair):
    store, _, _ = good
    orphan = old(store, b"orphan")

    def other_disk(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("hub.quarantine.os.rename", other_disk)
    assert repair() == [("orphan", f"{orphan[:2]}/{orphan}", True)]
    assert repair.kept == {kept_as(orphan): (b"orphan", "orphan")}
    assert not store.blobs.has(orphan)


def test_two_repairs_of_one_second_do_not_share_a_folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    first, second = Quarantine(tmp_path, CLOCK), Quarantine(tmp_path, CLOCK)
    assert first.move(tmp_path / "a", "foreign", "x").parent != second.move(tmp_path / "b", "foreign", "x").parent


# -- nothing trips over a lost image


def test_a_lost_image_is_neither_asked_about_nor_learned_from_and_keeps_its_label(store):
    waits = add_image(store, b"waits", event_id="w", width=64)
    taught = add_image(store, b"taught", event_id="t", label="good", decided=True)
    kept = add_image(store, b"kept", event_id="k", label="defect", decided=True)
    add_image(store, b"there", event_id="x")
    for one in (waits, taught):
        store.blobs.path(get_image(store, one).sha256).unlink()
    desk = Desk(store, "cells", CLASSES, CLOCK)
    assert desk.counts().waiting == 2
    divide(store)
    assert set(snapshot(store, "cells", CLASSES).ids) == {taught, kept}
    Repair(store)()
    assert waits not in {one.id for one in desk.next(10)}
    assert desk.counts().waiting == 1
    assert snapshot(store, "cells", CLASSES).ids == [kept]
    assert get_image(store, taught).label == "good"
    store.blobs.put([b"taught", b"waits"])
    Repair(store)()
    assert desk.counts().waiting == 2
    assert set(snapshot(store, "cells", CLASSES).ids) == {taught, kept}


def test_marking_and_healing_many_at_once(store):
    with store.write() as session:
        for number in range(1200):
            fields = {"event_id": str(number), "sha256": sha256_hex(b"%d" % number), "split": "train"}
            session.add(Image(**fields, **SOME))
    hashes = [sha256_hex(b"%d" % number) for number in range(1100)]
    with store.write() as session:
        assert lost.mark(session, hashes) == 1100
        assert lost.mark(session, hashes) == 0
    with store.write() as session:
        assert lost.heal(session, hashes[:600]) == 600
    with store.read() as session:
        states = session.exec(select(Image.state)).all()
    assert (states.count("lost"), states.count("verified")) == (500, 700)
