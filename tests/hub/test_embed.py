"""Embeddings are computed once for each image and backbone."""

import numpy as np
import pytest

from hub import embed
from shared.litert import Part
from shared.preprocess import Preprocess, decode, to_input
from tests.fakes.models import mean_backbone
from tests.hub.making import add_image, add_vector, picture

HOW = Preprocess(size=16)


class Counting:
    """A backbone that counts its runs."""

    def __init__(self):
        self.part = Part(mean_backbone(16), name="backbone")
        self.runs = 0

    def run(self, x):
        self.runs += 1
        return self.part.run(x)


@pytest.fixture
def backbone():
    return Counting()


def test_what_lacks_is_computed_and_kept(store, backbone):
    ids = [add_image(store, picture(one)) for one in range(3)]
    add_vector(store, ids[1], [1, 2, 3])
    told = []
    got = embed.complete(store, "b", backbone, HOW, ids, progress=lambda *args: told.append(args))
    assert backbone.runs == 2
    assert told == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(got[ids[1]], [1, 2, 3])
    np.testing.assert_allclose(got[ids[0]], backbone.part.run(to_input(decode(picture(0)), HOW))[0])
    again = embed.complete(store, "b", backbone, HOW, ids, progress=lambda *_: None)
    assert backbone.runs == 2
    assert {one: vector.tolist() for one, vector in again.items()} == {
        one: vector.tolist() for one, vector in got.items()
    }


def test_backbones_do_not_mix(store, backbone):
    image = add_image(store, picture())
    add_vector(store, image, [9, 9, 9], backbone="another")
    assert embed.load(store, "b", [image]) == {}
    got = embed.complete(store, "b", backbone, HOW, [image], progress=lambda *_: None)
    assert got[image].tolist() != [9, 9, 9]
    assert embed.load(store, "another", [image])[image].tolist() == [9, 9, 9]


def test_an_image_that_cannot_be_read_has_none_and_the_others_do(store, backbone):
    bad, lost, good = add_image(store, b"no image"), add_image(store), add_image(store, picture())
    told = []
    got = embed.complete(store, "b", backbone, HOW, [bad, lost, good], progress=lambda *args: told.append(args))
    assert list(got) == [good]
    assert told[-1] == (3, 3)


def test_what_progress_raises_ends_it_and_what_was_kept_stays(store, backbone):
    ids = [add_image(store, picture(one)) for one in range(40)]

    class StopError(Exception):
        pass

    def stop(done, _total):
        if done == 36:
            raise StopError

    with pytest.raises(StopError):
        embed.complete(store, "b", backbone, HOW, ids, progress=stop)
    assert sorted(embed.load(store, "b", ids)) == ids[:32]


def test_more_images_than_a_query_takes(store, monkeypatch):
    monkeypatch.setattr(embed, "ROWS", 2)
    ids = [add_image(store) for _ in range(5)]
    for one in ids:
        add_vector(store, one, [one, 0])
    assert {one: vector[0] for one, vector in embed.load(store, "b", ids).items()} == {one: one for one in ids}
