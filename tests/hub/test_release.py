"""Releases are numbered, signed and complete; what cameras need is on retained topics, whatever the broker forgot."""

import hashlib
import random
import threading
import tracemalloc
from datetime import timedelta

import msgspec
import pytest
from sqlmodel import select

from hub import keys, named, release
from hub.progress import Progress
from hub.rollout import groups
from hub.settings import RolloutSettings
from hub.tables import Camera, Exemption, Retained, Rollout, Run
from shared import topics
from shared.clock import SystemClock
from shared.errors import StoreError, TrainError
from shared.manifest import (
    PLAN_TYPE,
    RELEASE_TYPE,
    Group,
    Manifest,
    ModelSpec,
    Plan,
    Reader,
    open_signed,
)
from shared.messages import Want
from shared.mqtt import PahoBus
from shared.preprocess import Preprocess
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.listener import Recorder, wait_until
from tests.hub.making import CLASSES, NOW, planned

HOW = Preprocess()
BACKBONE, GOLDEN = random.Random(0).randbytes(204_800), b"golden" * 40  # these are 4 chunks and 1


@pytest.fixture
def pair(tmp_path, clock):
    clock.set_utc(NOW)
    keys.make(tmp_path / "keys", clock)
    return keys.load(tmp_path / "keys")


def finished_run(store, head, backbone=BACKBONE, golden=GOLDEN, **more):
    parts = {"backbone": backbone, "head": head, "golden": golden, **more}
    names = store.blobs.put(list(parts.values()))
    with store.write() as session:
        run = Run(
            project="cells",
            state="done",
            created_at=NOW,
            parts=dict(zip(parts, names, strict=True)),
            golden_probabilities=[[0.25, 0.75]],
            settings={"classes": CLASSES, "preprocess": msgspec.to_builtins(HOW)},
        )
        session.add(run)
        session.flush()
        return run


def make_release(store, pair, head=b"head", note="", **parts):
    run = finished_run(store, head, **parts)
    model = release.model_of(run, store)
    with store.write() as session:
        return release.create(session, run, model, pair, now=NOW, days=90, note=note)


def make_rollout(store, pair, number, previous=0):
    progress = Progress(number, previous, "canary" if previous else "everyone", NOW, canaries=("site/cam-1",))
    with store.write() as session:
        row = Rollout(project="cells", release=number, previous=previous, stage=progress.stage, since=NOW)
        release.sign_plan(session, row, groups(progress, RolloutSettings()), pair, now=NOW, days=90)
        return row


def reader(pair, now=NOW):
    return Reader(root=pair.root_public, project="cells", camera="site/cam-1", now=now, clock_trusted=True)


# -- numbers and signatures


def test_a_manifest_verifies_and_names_everything(store, pair):
    row = make_release(store, pair, note="first")
    got = open_signed(row.envelope, RELEASE_TYPE, Manifest, reader(pair)).body
    assert (got.number, got.project, got.replaces, got.note) == (1, "cells", 0, "first")
    assert got.expires == row.expires_at == NOW + timedelta(days=90)
    assert (got.model.classes, got.model.preprocess) == (CLASSES, HOW)
    assert got.model.golden_probabilities == [[0.25, 0.75]]
    for name, data in (("backbone", BACKBONE), ("head", b"head"), ("golden", GOLDEN)):
        part = got.model.parts()[name]
        assert (part.sha256, part.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert msgspec.convert(row.model, ModelSpec) == got.model


def test_references_travel_with_the_release_and_cost_nothing_twice(store, pair):
    rows = [make_release(store, pair, head=b"head %d" % one, references=b"rows" * 99) for one in range(2)]
    got = open_signed(rows[1].envelope, RELEASE_TYPE, Manifest, reader(pair)).body.model.references
    assert (got.sha256, got.size) == (hashlib.sha256(b"rows" * 99).hexdigest(), 396)
    assert rows[1].new_bytes == len(b"head 1") + len(rows[1].envelope)
    bare = make_release(store, pair, head=b"head 2")
    assert open_signed(bare.envelope, RELEASE_TYPE, Manifest, reader(pair)).body.model.references is None
    with store.read() as session:
        assert named.parts(session)[got.sha256] == "references of release 1"


def test_numbers_grow_and_each_release_names_the_one_before(store, pair):
    rows = [make_release(store, pair, head=b"head %d" % one) for one in range(3)]
    assert [one.number for one in rows] == [1, 2, 3]
    replaced = [open_signed(one.envelope, RELEASE_TYPE, Manifest, reader(pair)).body.replaces for one in rows]
    assert replaced == [0, 1, 2]


def test_after_a_restore_from_backup_the_number_is_above_what_cameras_saw(store, pair):
    with store.write() as session:
        for name, project, floor in (("site/a", "cells", 41), ("site/b", "welds", 99)):
            session.add(Camera(name=name, project=project, floor=floor, first_seen=NOW, last_seen=NOW))
    assert make_release(store, pair).number == 42


def test_only_parts_that_the_release_before_lacked_are_new_bytes(store, pair):
    first = make_release(store, pair, head=b"head 1")
    second = make_release(store, pair, head=b"head two")
    rollback = make_release(store, pair, head=b"head two")
    assert first.new_bytes == first.size == len(BACKBONE) + len(GOLDEN) + 6 + len(first.envelope)
    assert second.size == len(BACKBONE) + len(GOLDEN) + 8 + len(second.envelope)
    assert second.new_bytes == 8 + len(second.envelope)
    assert rollback.new_bytes == len(rollback.envelope)


def test_a_run_without_a_model_is_not_released(store):
    for state, parts in (("failed", {"head": "x"}), ("running", {}), ("done", {})):
        run = Run(id=3, project="cells", state=state, created_at=NOW, parts=parts)
        with pytest.raises(TrainError, match=f"run 3: is {state} and has no model"):
            release.model_of(run, store)


def test_a_run_whose_part_is_lost_is_an_error_of_ours(store):
    run = finished_run(store, b"head")
    store.blobs.path(run.parts["head"]).unlink()
    with pytest.raises(StoreError):
        release.model_of(run, store)


def test_plans_have_growing_numbers_of_their_own_and_verify(store, pair):
    rows = [make_rollout(store, pair, 1), make_rollout(store, pair, 2, previous=1)]
    plans = [open_signed(one.plan, PLAN_TYPE, Plan, reader(pair)).body for one in rows]
    assert [one.number for one in plans] == [one.plan_number for one in rows] == [1, 2]
    assert plans[0].groups == [Group(name="all", release=1)]
    assert (planned(plans[1], "site/cam-1"), planned(plans[1], "site/cam-2")) == (2, 1)
    assert (plans[1].stage, plans[1].expires) == ("canary", rows[1].plan_expires)


# -- what is published


class Publishing:
    """A publisher on a FakeBroker."""

    def __init__(self, store):
        self.broker = FakeBroker()
        self.bus = FakeBus(self.broker, "hub")
        self.publisher = release.Publisher(store, self.bus, "cells", SystemClock())
        self.bus.start(Recorder())
        self.publisher.start()

    def wait(self, true, what, seconds=15):
        def look():
            self.broker.pump()
            return true()

        wait_until(look, what, seconds=seconds)

    @property
    def retained(self):
        return self.broker.retained


@pytest.fixture
def publishing(store):
    made = Publishing(store)
    yield made
    made.publisher.stop()


def expected(store, pair, *rows, plan):
    """Every retained message that these releases and the plan need."""
    everything = {topics.plan("cells"): plan.plan}
    for row in rows:
        everything[topics.release("cells", row.number)] = row.envelope
        for part in msgspec.convert(row.model, ModelSpec).blobs():
            data = store.blobs.read(part.sha256)
            for index in range(0, len(data), part.chunk_size):
                topic = topics.blob(part.sha256, index // part.chunk_size)
                everything[topic] = data[index : index + part.chunk_size]
    return everything


def test_all_that_the_plan_names_is_retained_the_plan_last(store, pair, publishing):
    old, new = make_release(store, pair, head=b"old"), make_release(store, pair, head=b"new")
    forgotten = make_release(store, pair, head=b"not in the plan")
    plan = make_rollout(store, pair, new.number, previous=old.number)
    publishing.publisher.everything()
    publishing.wait(lambda: topics.plan("cells") in publishing.retained, "the plan")
    assert publishing.retained == expected(store, pair, old, new, plan=plan)
    assert topics.release("cells", forgotten.number) not in publishing.retained
    order = [one.topic for one in publishing.broker.seen]
    assert order[-1] == topics.plan("cells")
    assert len(order) == len(set(order)), "shared parts are sent once"
    for row in (old, new):
        manifest = order.index(topics.release("cells", row.number))
        for part in msgspec.convert(row.model, ModelSpec).blobs():
            assert order.index(topics.blob(part.sha256, 0)) < manifest


def test_a_broker_that_lost_everything_gets_everything_back(store, pair, publishing):
    row = make_release(store, pair)
    plan = make_rollout(store, pair, row.number)
    publishing.publisher.everything()
    publishing.wait(lambda: len(publishing.retained) == 8, "all")
    publishing.broker.stop(forget=True)
    assert publishing.retained == {}
    publishing.publisher.everything()  # while it is away: nothing comes of it, and nothing breaks
    publishing.broker.start()
    publishing.publisher.everything()  # as the daemon does on every connect
    publishing.wait(lambda: topics.plan("cells") in publishing.retained, "the plan")
    assert publishing.retained == expected(store, pair, row, plan=plan)


def test_the_next_stage_costs_a_plan_and_not_the_models_again(store, pair, publishing):
    old, new = make_release(store, pair, head=b"old"), make_release(store, pair, head=b"new")
    first = make_rollout(store, pair, new.number, previous=old.number)
    publishing.publisher.everything()
    publishing.wait(lambda: publishing.retained.get(topics.plan("cells")) == first.plan, "the first plan")
    publishing.broker.seen.clear()
    second = make_rollout(store, pair, new.number, previous=old.number)
    publishing.publisher.changed()
    publishing.wait(lambda: publishing.retained.get(topics.plan("cells")) == second.plan, "the second plan")
    assert published(publishing) == [topics.plan("cells")]
    newer = make_release(store, pair, head=b"newer")
    third = make_rollout(store, pair, newer.number, previous=new.number)
    publishing.broker.seen.clear()
    publishing.publisher.changed()
    publishing.wait(lambda: publishing.retained.get(topics.plan("cells")) == third.plan, "the third plan")
    publishing.wait(lambda: topics.release("cells", old.number) not in publishing.retained, "the old one's end")
    sent = [one.topic for one in publishing.broker.seen if one.payload]
    head = topics.blob(newer.model["head"]["sha256"], 0)
    assert sent == [head, topics.release("cells", newer.number), topics.plan("cells")]
    back = make_rollout(store, pair, old.number, previous=newer.number)
    publishing.publisher.changed()
    publishing.wait(lambda: publishing.retained.get(topics.plan("cells")) == back.plan, "the way back")
    assert topics.blob(old.model["head"]["sha256"], 0) in publishing.retained, "what was cleared comes again"


def test_nothing_is_published_before_there_is_a_rollout(store, pair, publishing):
    row = make_release(store, pair)
    publishing.publisher.everything()
    publishing.publisher.want(Want(sha256=row.model["head"]["sha256"], ranges=[(0, 9)]))
    plan = make_rollout(store, pair, row.number)
    publishing.publisher.everything()
    publishing.wait(lambda: topics.plan("cells") in publishing.retained, "the plan")
    assert publishing.retained == expected(store, pair, row, plan=plan)


def published(publishing):
    return [one.topic for one in publishing.broker.seen]


def test_a_camera_gets_the_chunks_that_it_misses_and_no_others(store, pair, publishing):
    row = make_release(store, pair)
    make_rollout(store, pair, row.number)
    sha256 = row.model["backbone"]["sha256"]
    publishing.publisher.want(Want(sha256=sha256, ranges=[(1, 1), (3, 3)]))
    publishing.wait(lambda: len(published(publishing)) >= 2, "two chunks")
    assert published(publishing) == [topics.blob(sha256, 1), topics.blob(sha256, 3)]
    assert publishing.retained[topics.blob(sha256, 3)] == BACKBONE[3 * 65536 :]


def test_a_missing_manifest_comes_again_alone_if_it_is_in_use(store, pair, publishing):
    forgotten, row = make_release(store, pair, head=b"forgotten"), make_release(store, pair)
    make_rollout(store, pair, row.number)
    publishing.publisher.want(Want(project="welds", release=row.number))
    publishing.publisher.want(Want(project="cells", release=forgotten.number))
    publishing.publisher.want(Want(project="cells", release=row.number))
    publishing.wait(lambda: publishing.retained, "the manifest")
    assert publishing.retained == {topics.release("cells", row.number): row.envelope}


def test_hostile_wishes_cost_little_and_bring_only_what_is_in_use(store, pair, publishing):
    row = make_release(store, pair)
    make_rollout(store, pair, row.number)
    sha256, other = row.model["backbone"]["sha256"], store.blobs.put([b"a secret"])[0]
    tracemalloc.start()
    try:
        for one in range(20):
            many = [(number * 5000 + one, number * 5000 + 5000) for number in range(15_000)]
            publishing.publisher.want(Want(sha256="ab" * 32, ranges=many))
            publishing.publisher.want(Want(sha256=other, ranges=[(0, 1 << 62)]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20, "bounded, whatever is asked for"
    # The thread may be busy with all of that: an honest camera asks again until it has its chunk.
    publishing.wait(
        lambda: publishing.publisher.want(Want(sha256=sha256, ranges=[(2, 1 << 62), (9, 3)])) or publishing.retained,
        "an honest wish",
    )
    publishing.wait(lambda: len(publishing.retained) == 2, "both chunks")
    assert set(publishing.retained) == {topics.blob(sha256, 2), topics.blob(sha256, 3)}


def test_a_lost_part_does_not_end_the_publisher(store, pair, publishing):
    row = make_release(store, pair)
    plan = make_rollout(store, pair, row.number)
    path = store.blobs.path(row.model["head"]["sha256"])
    data = path.read_bytes()
    path.unlink()
    publishing.publisher.everything()
    golden = topics.blob(row.model["golden"]["sha256"], 0)
    publishing.wait(lambda: golden in publishing.retained, "what is there")
    threading.Event().wait(0.05)
    assert topics.plan("cells") not in publishing.retained, "no plan for what cannot be fetched"
    path.write_bytes(data)
    publishing.wait(lambda: topics.plan("cells") in publishing.retained, "the plan, once the part is back")
    assert publishing.retained == expected(store, pair, row, plan=plan)


def test_the_publisher_waits_for_a_slow_broker(store, pair, publishing):
    row = make_release(store, pair, head=b"h" * (3 << 20))
    make_rollout(store, pair, row.number)
    publishing.broker.auto = False
    publishing.publisher.everything()
    wait_until(lambda: publishing.bus.unacked > release.IN_FLIGHT, "a full window")
    threading.Event().wait(0.1)
    assert publishing.bus.unacked <= release.IN_FLIGHT + 65536
    publishing.wait(lambda: topics.plan("cells") in publishing.retained, "all of it")


def test_the_publisher_stops_while_the_broker_hangs(store, pair, publishing):
    row = make_release(store, pair, head=b"h" * (3 << 20))
    make_rollout(store, pair, row.number)
    publishing.broker.auto = False
    publishing.publisher.everything()
    wait_until(lambda: publishing.bus.unacked > release.IN_FLIGHT, "a full window")
    publishing.publisher.stop()
    assert not publishing.publisher._thread.is_alive()


# -- what is cleared


class OnBroker:
    """A publisher on a real mosquitto, and a client that asks it what is retained."""

    def __init__(self, store, broker):
        self.store, self.broker = store, broker
        broker.start()
        self.begin()

    def begin(self):
        self.bus = PahoBus(self.broker.settings_for("hub"), client_id="hub", max_delay=1)
        self.publisher = release.Publisher(self.store, self.bus, "cells", SystemClock())
        heard = Recorder()
        self.bus.start(heard)
        heard.wait_connected()
        self.publisher.start()

    def stop(self):
        self.publisher.stop()
        self.bus.stop()

    def retained(self):
        """Topics that a fresh client finds, but the plan, which comes before what is cleared goes."""
        bus, seen = PahoBus(self.broker.settings_for("hub"), client_id="reader", max_delay=1), Recorder()
        bus.subscribe(["hone/release/#", "hone/blob/#", "hone/plan/#"])
        bus.start(seen)
        seen.wait_message(topics.plan("cells"))
        bus.stop()
        return {one.topic for one in seen.messages if one.retained} - {topics.plan("cells")}

    def publish(self, *kept):
        """Publish everything; wait until what is on the broker, and noted, is exactly what these releases need."""
        self.publisher.everything()
        wanted = {topics.release("cells", one.number) for one in kept}
        names = {str(one.number) for one in kept}
        for one in kept:
            for part in msgspec.convert(one.model, ModelSpec).parts().values():
                names.add(part.sha256)
                count = -(-part.size // part.chunk_size)
                wanted |= {topics.blob(part.sha256, index) for index in range(count)}
        wait_until(lambda: set(self.noted()) == names, "the notes", seconds=30)
        wait_until(lambda: self.retained() == wanted, "what is retained", seconds=30)

    def noted(self):
        with self.store.read() as session:
            return session.exec(select(Retained.name).where(Retained.project == "cells")).all()


@pytest.fixture
def on_broker(store, make_broker):
    made = OnBroker(store, make_broker())
    yield made
    made.stop()


def camera_runs(store, name, number, project="cells"):
    with store.write() as session:
        row = session.get(Camera, name) or Camera(name=name, project=project, first_seen=NOW, last_seen=NOW)
        row.release = number
        session.add(row)


def exempt(store, pair, number):
    with store.write() as session:
        row = session.get(Exemption, "site/cam-2") or Exemption(
            camera="site/cam-2", project="cells", number=0, release=0, reason="", at=NOW, expires_at=NOW, envelope=b""
        )
        row.number, row.release, row.envelope = row.number + 1, number, b"signed"
        session.add(row)


def test_a_release_is_cleared_once_no_plan_no_exemption_and_no_camera_names_it(store, pair, on_broker):
    first, second = make_release(store, pair, head=b"one"), make_release(store, pair, head=b"two")
    third = make_release(store, pair, head=b"three")
    make_rollout(store, pair, first.number)
    on_broker.publish(first)
    make_rollout(store, pair, second.number, previous=first.number)
    on_broker.publish(first, second)
    camera_runs(store, "site/cam-1", first.number)
    exempt(store, pair, first.number)
    make_rollout(store, pair, third.number, previous=second.number)
    on_broker.publish(first, second, third)
    exempt(store, pair, 0)
    make_rollout(store, pair, third.number)
    on_broker.publish(first, third)
    camera_runs(store, "site/cam-1", third.number)
    on_broker.publish(third)
    make_rollout(store, pair, second.number)
    on_broker.publish(second, third)


def test_what_was_published_before_a_restart_is_cleared_after_it(store, pair, on_broker):
    first, second = make_release(store, pair, head=b"one"), make_release(store, pair, head=b"two")
    make_rollout(store, pair, first.number)
    on_broker.publish(first)
    on_broker.stop()
    make_rollout(store, pair, second.number)
    on_broker.begin()
    on_broker.publish(second)
    assert len(on_broker.noted()) == 4, "three parts, two of them shared, and the release"


def test_nothing_is_cleared_while_the_broker_is_away(store, pair, publishing):
    first, second = make_release(store, pair, head=b"one"), make_release(store, pair, head=b"two")
    plan = make_rollout(store, pair, first.number)
    publishing.publisher.everything()
    publishing.wait(lambda: topics.plan("cells") in publishing.retained, "the plan")
    publishing.broker.stop()
    make_rollout(store, pair, second.number)
    publishing.publisher.everything()
    threading.Event().wait(0.2)
    publishing.broker.start()
    assert publishing.retained == expected(store, pair, first, plan=plan)
    with store.read() as session:
        assert str(first.number) in session.exec(select(Retained.name)).all(), "else nobody would ever clear it"


def test_a_part_that_another_project_has_put_there_too_is_left_alone(store, pair, on_broker):
    first, second = make_release(store, pair, head=b"one"), make_release(store, pair, head=b"two")
    head = first.model["head"]["sha256"]
    with store.write() as session:
        session.add(Retained(project="welds", name=head, count=1))
    make_rollout(store, pair, first.number)
    on_broker.publish(first)
    make_rollout(store, pair, second.number)
    on_broker.publisher.everything()
    wait_until(lambda: head not in on_broker.noted(), "that we have no part in it any more", seconds=30)
    assert topics.blob(head, 0) in on_broker.retained()
    with store.read() as session:
        assert [one.name for one in session.exec(select(Retained).where(Retained.project == "welds"))] == [head]
