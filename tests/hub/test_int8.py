"""The int8 variant, by the real quantizer under real LiteRT: made once, judged beside float, released, run."""

import os
import shutil

import msgspec
import numpy as np
import pytest
from sqlmodel import select

from hub import int8, keys, named, release, repeat
from hub.export import export_backbone
from hub.run import execute
from hub.tables import INT8, Camera, Embedding, Image, Release, Rollout
from shared import topics
from shared.clock import SystemClock
from shared.errors import ModelError
from shared.golden import check, golden_outputs
from shared.golden import decode as decode_golden
from shared.litert import Model, Part
from shared.manifest import MAX_SIGNED, Group, ModelSpec
from shared.messages import Want
from shared.preprocess import Preprocess, decode, to_input
from shared.references import decode as decode_references
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.models import mean_backbone
from tests.hub.conftest import CACHE
from tests.hub.making import CLASSES, NOW, add_image, picture
from tests.hub.test_run import get_run, queue

HOW = Preprocess()


def inputs(count, start=0):
    return [to_input(decode(picture(start + one, defect=one % 2 == 1, side=200)), HOW) for one in range(count)]


@pytest.fixture(scope="module")
def backbone():
    return export_backbone(CACHE, HOW)


@pytest.fixture(scope="module")
def made(backbone, tmp_path_factory):
    return int8.quantized(tmp_path_factory.mktemp("cache"), "cells", backbone, lambda: inputs(12))


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_it_is_a_third_of_the_size_and_gives_about_the_same_embeddings(backbone, made):
    assert len(made) < len(backbone) / 3
    whole, small = Part(backbone, name="float"), Part(made, name="int8")
    assert (small.input_shape, small.output_shape) == (whole.input_shape, whole.output_shape)
    found = [cosine(whole.run(one)[0], small.run(one)[0]) for one in inputs(8, start=900)]
    assert 0.8 < np.median(found) < 0.9999, "much the same, and not the same: it is quantized"


def test_it_is_made_once_for_a_backbone_and_a_project(tmp_path, backbone, made):
    asked = []

    def shown(count=12):
        return lambda: asked.append(count) or inputs(count)

    assert int8.quantized(tmp_path, "cells", backbone, shown()) == made, "the same bytes for the same images"
    assert int8.quantized(tmp_path, "cells", backbone, shown(3)) == made
    assert asked == [12], "a cached one needs no images"
    other = int8.quantized(tmp_path, "welds", backbone, shown(3))
    assert other != made, "another project's images are others"
    assert asked == [12, 3]


def test_a_backbone_that_cannot_be_quantized_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"the backbone: has 0 signatures, must have 1.*train\.int8 = false"):
        int8.quantized(tmp_path, "cells", mean_backbone(224), lambda: inputs(1))
    assert list(tmp_path.iterdir()) == []


# -- a whole run


@pytest.fixture
def with_int8(learned, backbone, tmp_path):
    """A hub with the setting, and a cache of its own that has the float backbone."""
    settings, store = learned
    cache = tmp_path / "cache"
    shutil.copytree(CACHE, cache, copy_function=os.link, ignore=shutil.ignore_patterns("int8-*", "run-*"))
    train = msgspec.structs.replace(settings.train, int8=True)
    return msgspec.structs.replace(settings, train=train, cache=str(cache)), store


@pytest.fixture
def pair(tmp_path, clock):
    clock.set_utc(NOW)
    keys.make(tmp_path / "keys", clock)
    return keys.load(tmp_path / "keys")


def released(store, pair, number):
    run = get_run(store, number)
    model = release.model_of(run, store)
    with store.write() as session:
        return release.create(session, run, model, pair, now=NOW, days=90)


def model_of(store, spec, variant):
    parts = spec.variant(variant)
    backbone, head = (Part(store.blobs.read(one.sha256), name=variant) for one in (parts.backbone, parts.head))
    return Model(backbone, head, spec.classes, spec.preprocess, parts.thresholds)


def test_a_run_makes_judges_and_releases_both_variants(with_int8, clock, pair):
    settings, store = with_int8
    execute(settings, store, queue(store), clock)
    run = get_run(store, 2)
    assert run.state == "done"
    assert run.evaluation["n"] == run.evaluation["int8"]["n"] == 44
    assert run.evaluation["int8"]["auc"]["value"] > 0.95
    assert run.fit["int8"]["left_out"] == ""
    row = released(store, pair, 2)
    spec = msgspec.convert(row.model, ModelSpec)
    assert len(row.envelope) < MAX_SIGNED / 4
    names = {"golden", "backbone", "references", "head"}
    assert set(spec.all_parts()) == names | {f"int8 {one}" for one in names}
    assert set(spec.parts("int8")) == names
    assert len({one.sha256 for one in spec.all_parts().values()}) == 8, "nothing is shared"
    golden = decode_golden(store.blobs.read(spec.int8.golden.sha256))
    small, whole = model_of(store, spec, "int8"), model_of(store, spec, "float")
    told = check(small, golden, spec.int8.golden_probabilities, spec.int8.tolerances)
    assert told.worst_cosine > 0.9999
    assert golden_outputs(small, golden) == spec.int8.golden_probabilities
    images = [decode(one) for one in golden.inputs]
    assert {whole.predict(one).best for one in images} == {0, 1}
    assert [small.predict(one).best for one in images] == [whole.predict(one).best for one in images]
    rows = decode_references(store.blobs.read(spec.int8.references.sha256), 1280)
    ours = [cosine(small.embed(images[0]), one) for one in rows]
    assert max(ours) > 0.9, "references are embeddings by this backbone"
    with store.read() as session:
        known = named.parts(session)
    assert {one.sha256 for one in spec.blobs()} <= set(known), "no blob of it is an orphan"
    packed = [one for one in spec.all_parts().values() if one.packed is not None]
    assert spec.int8.backbone in packed
    assert spec.backbone not in packed
    assert row.size == len(row.envelope) + sum(one.travelling().size for one in spec.parts().values())


def test_a_new_head_ships_no_new_int8_backbone_even_without_the_cache(with_int8, clock, pair):
    settings, store = with_int8
    execute(settings, store, queue(store), clock)
    released(store, pair, 2)
    for path in settings.cache_folder.glob("int8-*"):
        path.unlink()
    for seed in range(6):
        add_image(store, picture(7000 + seed, defect=True), label="defect", decided=True)
    execute(settings, store, queue(store), clock)
    one, two = get_run(store, 2).parts, get_run(store, 3).parts
    assert one["int8 head"] != two["int8 head"]
    assert (one["int8 backbone"], one["int8 golden"]) == (two["int8 backbone"], two["int8 golden"])
    again = repeat.again(settings, store, 3, clock)
    execute(settings, store, again, clock)
    assert get_run(store, again).parts == two


def test_embeddings_by_int8_are_kept_apart_from_those_that_queue_and_skew_go_by(with_int8, clock):
    settings, store = with_int8
    execute(settings, store, queue(store), clock)
    parts = get_run(store, 2).parts
    with store.read() as session:
        names = set(session.exec(select(Embedding.backbone)))
        count = len(session.exec(select(Embedding).where(Embedding.backbone == INT8 + parts["int8 backbone"])).all())
        images = len(session.exec(select(Image)).all())
    assert names == {parts["backbone"], INT8 + parts["int8 backbone"]}
    assert count == images == 60


def test_a_variant_that_is_proven_worse_is_left_out(with_int8, clock, pair, monkeypatch):
    """As a quantized backbone that sees nothing any more would be."""
    settings, store = with_int8
    blind = int8.export_head

    def crossed(head):
        return blind(type(head)(-head.weights, -head.bias, head.temperature, center=head.center, gain=head.gain))

    monkeypatch.setattr(int8, "export_head", crossed)
    execute(settings, store, queue(store), clock)
    run = get_run(store, 2)
    assert run.state == "done"
    assert "int8" in run.fit["int8"]["left_out"]
    assert run.evaluation["int8"]["auc"]["value"] < 0.1
    row = released(store, pair, 2)
    assert msgspec.convert(row.model, ModelSpec).int8 is None


def test_without_the_setting_there_is_none(learned, pair):
    _, store = learned
    row = released(store, pair, 1)
    assert row.model["int8"] is None
    with store.read() as session:
        assert session.exec(select(Release)).one().number == 1
    assert "int8" not in get_run(store, 1).fit
    assert row.model["classes"] == CLASSES


# -- what the hub publishes


def published(store, pair, number):
    """A publisher that has put a plan for this release, and all that it names, on a broker."""
    with store.write() as session:
        row = Rollout(project="cells", release=number, previous=0, stage="everyone", since=NOW)
        release.sign_plan(session, row, [Group(name="all", release=number)], pair, now=NOW, days=90)
    broker = FakeBroker()
    bus = FakeBus(broker, "hub")
    publisher = release.Publisher(store, bus, "cells", SystemClock())
    bus.start(Recorder())
    publisher.start()
    publisher.everything()
    return broker, publisher


def named_on(broker):
    """The blobs of which chunks are retained."""
    return {topic.split("/")[2] for topic, data in broker.retained.items() if topic.startswith("hone/blob/") and data}


def test_all_forms_of_all_variants_are_published_again_when_wanted_and_cleared(with_int8, clock, pair):
    settings, store = with_int8
    released(store, pair, 1)
    execute(settings, store, queue(store), clock)
    row = released(store, pair, 2)
    spec = msgspec.convert(row.model, ModelSpec)
    broker, publisher = published(store, pair, row.number)

    def until(true, what):
        wait_until(lambda: (broker.pump(), true())[1], what, seconds=30)

    try:
        until(lambda: topics.plan("cells") in broker.retained, "the plan")
        assert named_on(broker) == {one.sha256 for one in spec.blobs()}
        int8_only = {blob.sha256 for one in spec.parts("int8").values() for blob in (one, one.travelling())}
        assert len(named_on(broker) & int8_only) == len(int8_only) > 4
        packed = spec.int8.head.packed.sha256
        del broker.retained[topics.blob(packed, 0)]
        publisher.want(Want(sha256=packed, ranges=[(0, 3)]))
        until(lambda: topics.blob(packed, 0) in broker.retained, "what was wanted")
        with store.write() as session:
            session.add(Camera(name="site/a", project="cells", release=2, first_seen=NOW, last_seen=NOW))
            later = Rollout(project="cells", release=1, previous=0, stage="everyone", since=NOW)
            release.sign_plan(session, later, [Group(name="all", release=1)], pair, now=NOW, days=90)
        publisher.everything()
        until(lambda: later.plan == broker.retained[topics.plan("cells")], "the next plan")
        assert int8_only <= named_on(broker), "a camera says that it runs this release"
        with store.write() as session:
            session.get(Camera, "site/a").release = 1
        publisher.everything()
        until(lambda: not int8_only & named_on(broker), "the end of what nobody runs")
        first = msgspec.convert(release_row(store, 1).model, ModelSpec)
        assert {one.sha256 for one in first.blobs()} == named_on(broker)
    finally:
        publisher.stop()


def release_row(store, number):
    with store.read() as session:
        return session.exec(select(Release).where(Release.number == number)).one()
