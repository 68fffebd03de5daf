"""Verify looks once at each image, keeps every byte, and touches nothing that is the operator's."""

from collections import Counter

import msgspec
import numpy as np
import pytest
from sqlmodel import select

from edge.backlog import encode_embedding
from hub.tables import Embedding, Image, Label, Look, Release, Skew
from hub.verify import Verifier
from shared.litert import Part
from shared.manifest import ModelSpec, PartSpec
from shared.preprocess import Preprocess, decode, encode_jpeg, encode_png, to_input
from tests.fakes.listener import wait_until
from tests.fakes.models import mean_backbone
from tests.hub.making import NOW, add_image, add_vector, commit, get_image, picture

HOW = Preprocess(size=16)


@pytest.fixture
def backbone():
    return Part(mean_backbone(16), name="backbone")


@pytest.fixture
def start(store, backbone):
    made = []

    def begin(find=lambda part=backbone: ("b", part)):
        verifier = Verifier(store, HOW, find, Counter())
        made.append(verifier)
        verifier.start()
        return verifier

    yield begin
    for one in made:
        one.stop()


def settled(store, *ids):
    wait_until(lambda: all(get_image(store, one).state != "new" for one in ids), f"images {ids} to be verified")


# -- the thread


def test_new_images_are_measured_and_embedded(store, start, backbone):
    data = picture(side=300)
    one, dark = add_image(store, data, state="new"), add_image(store, picture(1, mean=0, side=40), state="new")
    start()
    settled(store, one, dark)
    row = get_image(store, one)
    assert (row.state, row.width, row.height) == ("verified", 300, 300)
    assert "dark" in get_image(store, dark).flags
    with store.read() as session:
        kept = session.get(Embedding, (one, "b"))
    assert kept is not None
    expected = backbone.run(to_input(decode(data), HOW))[0]
    np.testing.assert_array_equal(np.frombuffer(kept.vector, "<f4"), expected)


def test_what_waits_is_embedded_by_the_backbone_of_a_new_release(store, start, backbone):
    old = [add_image(store, picture(one), state="verified") for one in range(20)]
    bad = add_image(store, b"not an image", state="verified")
    imported = add_image(store, picture(30), state="verified", split="train", label="good")
    in_use = ["b"]
    start(lambda: (in_use[0], backbone))

    def embedded(name):
        with store.read() as session:
            return sorted(session.exec(select(Embedding.image_id).where(Embedding.backbone == name)))

    wait_until(lambda: embedded("b") == old, "embeddings of what was verified before")
    in_use[0] = "c"
    wait_until(lambda: embedded("c") == old, "embeddings by another backbone")
    new = add_image(store, picture(40), state="new")
    settled(store, new)
    assert embedded("c") == [*old, new]
    assert {bad, imported}.isdisjoint(embedded("c")), "one cannot be decoded, the other is the runs' matter"


def test_what_cannot_be_decoded_is_marked_and_kept(store, start):
    bad, good = add_image(store, b"not an image", state="new"), add_image(store, picture(), state="new")
    verifier = start()
    settled(store, bad, good)
    assert get_image(store, bad).state == "unreadable"
    assert get_image(store, good).state == "verified"
    assert store.blobs.read(get_image(store, bad).sha256) == b"not an image"
    assert verifier._errors["image"] == 1
    with store.read() as session:
        assert session.get(Embedding, (bad, "b")) is None


def test_a_lost_blob_does_not_hold_up_the_others(store, start):
    lost = [add_image(store, state="new") for _ in range(20)]  # rows whose blobs are gone, more than a batch of them
    good = add_image(store, picture(), state="new")
    start()
    settled(store, good)
    assert {get_image(store, one).state for one in lost} == {"lost"}


def test_a_label_that_came_meanwhile_stands(store, start, backbone):
    image = add_image(store, picture(), state="new")

    class Slow:
        """A backbone; while it computes, an operator decides."""

        def run(self, x):
            with store.write() as session:
                row = session.get(Image, image)
                assert row is not None
                row.label, row.decided = "defect", True
                session.add(row)
                session.add(Label(image_id=image, name="defect", operator="Mira", at=NOW))
            return backbone.run(x)

    start(lambda: ("b", Slow()))
    settled(store, image)
    row = get_image(store, image)
    assert (row.state, row.label, row.decided) == ("verified", "defect", True)


def test_images_wait_for_the_first_backbone(store, start, backbone):
    image = add_image(store, picture(), state="new")
    there = []
    asked = []

    def find():
        asked.append(1)
        return there[0] if there else None

    verifier = start(find)
    wait_until(lambda: asked, "a question for the backbone")
    assert get_image(store, image).state == "new"
    there.append(("b", backbone))
    verifier.wake()
    settled(store, image)


def test_imported_images_and_the_verified_are_left_alone(store, start):
    imported = add_image(store, picture(1), state="new", split="holdout")
    done = add_image(store, b"broken later", state="verified")
    new = add_image(store, picture(2), state="new")
    start()
    settled(store, new)
    assert get_image(store, imported).state == "new"
    assert get_image(store, done).state == "verified"
    with store.read() as session:
        assert [one.image_id for one in session.exec(select(Embedding)).all()] == [new]


def test_trouble_with_the_disk_is_counted_and_the_thread_goes_on(store, start):
    image = add_image(store, picture(), state="new")
    path = store.blobs.path(get_image(store, image).sha256)
    data = path.read_bytes()
    path.unlink()
    path.mkdir()  # is there, cannot be read
    store.blobs.has = lambda _sha256: True
    verifier = start()
    wait_until(lambda: verifier._errors["store"], "the trouble")
    assert get_image(store, image).state == "new"
    path.rmdir()
    path.write_bytes(data)
    verifier.wake()
    settled(store, image)
    assert get_image(store, image).state == "verified"


def test_a_copy_is_found_also_after_a_restart_and_nothing_is_deleted(store, start):
    data = picture(7, defect=True, side=300)
    first = add_image(store, data, state="new")
    start()
    settled(store, first)
    start()  # a fresh memory: what it knows comes from the database
    again = add_image(store, encode_jpeg(decode(data), 80), state="new", ext="jpg")
    settled(store, again)
    assert get_image(store, first).flags.get("copy") is None
    assert get_image(store, again).flags["copy"] > 0.5
    with store.read() as session:
        assert session.get(Look, again).copy_of == first
    assert store.blobs.has(get_image(store, again).sha256)


def released(store, number, backbone):
    how = PartSpec(sha256=backbone, size=1)
    spec = ModelSpec(
        backbone=how, head=how, golden=how, classes=["good", "defect"], preprocess=HOW,
        golden_probabilities=[[0.5, 0.5]],
    )  # fmt: skip
    with store.write() as session:
        session.add(
            Release(
                project="cells", number=number, created_at=NOW, expires_at=NOW, envelope=b"",
                model=msgspec.to_builtins(spec),
            )
        )  # fmt: skip


@pytest.mark.parametrize(("name", "compared"), [("b" * 64, True), ("c" * 64, False)])
def test_the_embedding_that_the_camera_sent_is_compared(store, start, backbone, name, compared):
    """Only where the camera ran the backbone that the hub embeds with."""
    data = picture(3, side=300)
    own = backbone.run(to_input(decode(data), HOW))[0]
    image = add_image(store, data, state="new", event_id="e1", release=4)
    with store.write() as session:
        session.add(Skew(camera="site/cam-1", event_id="e1", vector=own.astype("<f2").tobytes()))
    released(store, 4, "b" * 64)
    start(lambda: (name, backbone))
    settled(store, image)
    with store.read() as session:
        found = session.get(Skew, ("site/cam-1", "e1"))
    if not compared:
        assert found is None
        return
    assert found.vector == b""
    assert 0 <= found.distance < 1e-6


def test_a_camera_without_previews_is_compared_by_what_its_audit_events_bring(store, start, backbone):
    data = picture(3, side=300)
    own = backbone.run(to_input(decode(data), HOW))[0]
    released(store, 3, "b" * 64)
    [event] = commit(store, data, why="audit", embedding=encode_embedding(own), backbone="b" * 64)
    start(lambda: ("b" * 64, backbone))
    settled(store, 1)
    with store.read() as session:
        assert 0 <= session.get(Skew, ("site/cam-1", event)).distance < 1e-6


def test_what_is_far_from_the_training_images_is_novel(store, start, backbone):
    """Training images are dark red to bright red; a blue one is something else to a backbone that sees mean colours."""
    for seed in range(30):
        made = add_image(store, split="train", label="good")
        shade = np.full((16, 16, 3), (120 + seed, 20 + seed % 5, 25 - seed % 7), np.uint8)
        add_vector(store, made, backbone.run(to_input(shade, HOW))[0].tolist())
    red = add_image(store, encode_png(np.full((64, 64, 3), (133, 22, 23), np.uint8)), state="new")
    blue = add_image(store, encode_png(np.full((64, 64, 3), (20, 30, 140), np.uint8)), state="new")
    start()
    settled(store, red, blue)
    assert "novel" in get_image(store, blue).flags
    assert "novel" not in get_image(store, red).flags
