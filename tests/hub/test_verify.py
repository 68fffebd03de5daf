"""Verify looks once at each image, keeps every byte, and touches nothing that is the operator's."""

from collections import Counter

import cv2
import numpy as np
import pytest
from sqlmodel import select

from hub.tables import Embedding, Image, Label
from hub.verify import Verifier, flags_of
from shared.litert import Part
from shared.preprocess import Preprocess, decode, to_input
from tests.fakes.listener import wait_until
from tests.fakes.models import mean_backbone
from tests.hub.making import NOW, add_image, get_image, picture

HOW = Preprocess(size=16)


def grain(side=300, mean=128.0, spread=30.0, seed=0):
    pixels = np.random.default_rng(seed).normal(mean, spread, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


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


# -- flags


def test_a_good_picture_has_no_flags():
    assert flags_of(grain()) == {}


@pytest.mark.parametrize(
    ("pixels", "flags"),
    [
        (cv2.GaussianBlur(grain(), (0, 0), 8), {"blurred"}),
        (grain(mean=5, spread=12), {"dark"}),
        (grain(mean=252, spread=25), {"bright"}),
        (grain(side=31), {"small"}),
        (np.zeros((200, 200, 3), np.uint8), {"blurred", "dark"}),
        (np.full((200, 200, 3), 255, np.uint8), {"blurred", "bright"}),
        (np.zeros((1, 4000, 3), np.uint8), {"small", "blurred", "dark"}),
    ],
)
def test_each_fault_has_its_flag(pixels, flags):
    assert set(flags_of(pixels)) == flags


def test_flags_say_what_was_measured():
    assert flags_of(grain(side=20))["small"] == 20
    assert flags_of(np.zeros((200, 200, 3), np.uint8)) == {"blurred": 0.0, "dark": 0.0}
    assert flags_of(np.full((200, 200, 3), 255, np.uint8))["bright"] == 1.0


def test_the_same_blur_is_found_at_every_size():
    soft = cv2.GaussianBlur(grain(side=400), (0, 0), 12)
    for side in (200, 400, 1200):
        assert "blurred" in flags_of(cv2.resize(soft, (side, side), interpolation=cv2.INTER_LINEAR))


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
