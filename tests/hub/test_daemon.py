"""The daemon with a real broker and a real store: from labels to retained topics, and what goes wrong on the way."""

import os
import shutil
import signal
from datetime import timedelta

import msgspec
import numpy as np
import pytest
from sqlmodel import delete, select

from hub import backup, drift, keys, previews, settings, watch
from hub.daemon import Daemon
from hub.policies import Policies
from hub.registry import CameraView
from hub.restore import restore
from hub.runs import MAX_ATTEMPTS
from hub.store import open_store
from hub.tables import Camera, Image, Lease, Preview, Release, Rollout, Run
from shared import topics
from shared.clock import SystemClock
from shared.errors import ConfigError, RolloutError, TrainError
from shared.files import sha256_hex
from shared.manifest import (
    MAX_NUMBER,
    PLAN_TYPE,
    RELEASE_TYPE,
    Manifest,
    Plan,
    Reader,
    open_signed,
)
from shared.messages import HubStatus, Reply, Rival, Status, TrialState, Want, decode, encode
from shared.mqtt import PahoBus
from tests.fakes.hub import parts
from tests.fakes.listener import Recorder, wait_until
from tests.hub.conftest import CACHE
from tests.hub.making import NOW, add_image, event_of, get_image, picture, planned, reported, toml_in

CAMERA = "site/cam-1"
FAST = (
    "[train]\nl2 = [0.01]\nfolds = 2\n[rollout]\nshadow = 0\ncanary = 1\nquality = false\ngroups = []\nsoak_s = 0\n"
    "[retrain]\nevery_labels = 3\n"
)


class Scene:
    """A broker of its own, a state folder, a daemon, and a camera on the broker."""

    def __init__(self, folder, broker, clock, more=""):
        self.folder, self.broker, self.clock = folder, broker, clock
        password = broker.folder / "clear" / "hub"
        self.config = toml_in(folder, mqtt=broker.port, password=str(password), more=f'cache = "{CACHE}"\n{more}')
        self.settings = settings.read(self.config)
        self.keys = self.settings.state_folder / "keys"
        if not self.keys.exists():
            keys.make(self.keys, SystemClock())
        self.store = open_store(self.settings)
        self.daemon = None
        self.bus = PahoBus(broker.settings_for("hub"), client_id="watcher", max_delay=1)
        self.camera = PahoBus(broker.settings_for(CAMERA), client_id="camera", max_delay=1)
        self.seen, self.heard = Recorder(), Recorder()

    def start(self, *, config=None):
        self.daemon = Daemon(self.settings, config or self.config, self.store, self.clock)
        self.daemon.start()
        return self.daemon

    def watch(self):
        self.bus.subscribe(["hone/hub/+/status", "hone/release/#", "hone/plan/#", "hone/blob/#"])
        self.bus.start(self.seen)
        self.camera.subscribe([topics.reply(CAMERA)])
        self.camera.start(self.heard)
        self.heard.wait_connected()
        self.seen.wait_connected()

    def stop(self):
        if self.daemon is not None:
            self.daemon.stop()
        self.bus.stop()
        self.camera.stop()
        self.store.close()

    def latest(self, topic):
        return next((one.payload for one in reversed(self.seen.messages) if one.topic == topic), b"")

    def count(self, topic):
        return sum(one.topic == topic for one in self.seen.messages)

    def rows(self, table):
        with self.store.read() as session:
            return session.exec(select(table).order_by(table.id)).all()

    def run(self, number):
        with self.store.read() as session:
            return session.get(Run, number)

    def plan(self):
        data = self.latest(topics.plan("cells"))
        return open_signed(data, PLAN_TYPE, Plan, self.reader()).body if data else None

    def reader(self):
        return Reader(keys.load(self.keys).root_public, "cells", CAMERA, now=self.clock.utc(), clock_trusted=True)

    def report(self, release, **reload):
        self.camera.publish(topics.reported(CAMERA), encode(reported(release, **reload)), retain=True)

    def add_run(self, **fields):
        with self.store.write() as session:
            run = Run(**{"project": "cells", "created_at": NOW, **fields})
            session.add(run)
            session.flush()
            return run.id

    def finished_run(self, head, backbone=b"backbone" * 20_000):
        names = self.store.blobs.put([backbone, head, b"golden"])
        parts = dict(zip(("backbone", "head", "golden"), names, strict=True))
        settings = {
            "classes": self.settings.project.classes,
            "preprocess": msgspec.to_builtins(self.settings.project.preprocess),
        }
        return self.add_run(state="done", parts=parts, settings=settings)


@pytest.fixture
def scene(tmp_path, make_broker):
    """Make scenes; each is stopped at the end."""
    made = []

    def make(*, clock=None, more="", started=True, taught=None):
        broker = make_broker()
        if started:
            broker.start()
        if taught is not None:
            shutil.copytree(taught / "state", tmp_path / "state")
        made.append(Scene(tmp_path, broker, clock or SystemClock(), more))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def until(true, what, seconds=60):
    wait_until(true, what, seconds=seconds)


# -- coming and going


def test_it_needs_keys(scene):
    one = scene(started=False)
    shutil.rmtree(one.keys)
    with pytest.raises(ConfigError, match="has no keys"):
        Daemon(one.settings, one.config, one.store, one.clock)


def test_it_beats_while_it_lives_and_says_goodbye(scene):
    one = scene()
    one.watch()
    daemon = one.start()
    topic = topics.hub_status(one.settings.name)

    def beats():
        return [decode(m.payload, HubStatus) for m in one.seen.messages if m.topic == topic]

    until(lambda: len(beats()) >= 3, "three beats")
    numbers = [beat.beat for beat in beats()]
    assert numbers == sorted(set(numbers))
    assert {(beat.online, beat.boot) for beat in beats()} == {(True, daemon.state().boot)}
    assert daemon.state().broker
    daemon.stop()
    until(lambda: not beats()[-1].online, "the goodbye")
    assert beats()[-1].boot == daemon.state().boot
    one.daemon = None
    first = daemon.state().boot
    second = one.start()
    until(lambda: beats()[-1].online, "the next start")
    assert beats()[-1].boot == second.state().boot != first


def test_an_image_goes_through_a_real_broker_into_the_store(scene):
    one = scene()
    one.watch()
    one.start()
    until(lambda: one.daemon.state().broker, "the hub on the broker")
    data = picture()
    event = event_of(data, chunk_size=4096)
    one.camera.publish(topics.status(CAMERA), encode(Status(online=True, boot="b")), retain=True)

    def send():
        one.camera.publish(topics.event(CAMERA), encode(event))
        for index in range(0, len(data), 4096):
            one.camera.publish(topics.chunk(CAMERA, event.id, index // 4096), data[index : index + 4096])
        return any(event.id in decode(m.payload, Reply).stored for m in one.heard.messages)

    until(send, "stored")
    [row] = one.rows(Image)
    assert (row.camera, row.sha256) == (CAMERA, sha256_hex(data))
    assert one.store.blobs.read(row.sha256) == data


def test_garbage_from_a_camera_is_counted_and_everything_goes_on(scene):
    one = scene()
    one.watch()
    daemon = one.start()
    until(lambda: daemon.state().broker, "the hub on the broker")
    for leaf in ("status", "reported", "event", "want"):
        one.camera.publish(f"hone/camera/{CAMERA}/{leaf}", b"\xff garbage")
    strange = msgspec.structs.replace(reported(3), release=1 << 63)
    one.camera.publish(topics.reported(CAMERA), encode(strange))
    one.camera.publish(topics.want(CAMERA), encode(Want(sha256="ab" * 32, ranges=[(0, 1 << 52)])))
    until(lambda: daemon.state().errors.get("message") == 5, "five messages counted")
    one.camera.publish(topics.status(CAMERA), encode(Status(online=True, boot="b")), retain=True)
    one.report(0)
    until(lambda: daemon._registry.cameras("cells") == [CameraView(CAMERA, True, 0, "running", 0, "")], "the report")
    for thread in (daemon._thread, daemon._collector._thread, daemon._verifier._thread, daemon._publisher._thread):
        assert thread.is_alive(), thread.name


def test_the_broker_may_come_later_and_come_back_empty(scene):
    one = scene(started=False)
    daemon = one.start()
    daemon.release_run(one.finished_run(b"head"), "by hand")
    assert not daemon.state().broker
    one.broker.start()
    until(lambda: daemon.state().broker, "the broker")
    one.watch()
    plan = topics.plan("cells")
    until(lambda: one.latest(plan), "the plan")
    one.broker.kill()
    for path in (one.broker.folder / "data").iterdir():
        path.unlink()
    one.seen.messages.clear()
    one.broker.start()
    until(lambda: one.latest(plan), "the plan again")
    release = one.rows(Release)[0]
    assert one.latest(topics.release("cells", 1)) == release.envelope
    assert one.latest(topics.blob(release.model["head"]["sha256"], 0)) == b"head"


# -- releases and rollout


PLAIN = "[rollout]\nshadow = 0\ncanary = 1\nquality = false\ngroups = []\nsoak_s = 0.0\n"
AT_ONCE = "[rollout]\nshadow = 0\ncanary = 0\ngroups = []\n"


def test_releases_roll_out_as_the_camera_reports(scene):
    one = scene(more=PLAIN)
    one.watch()
    daemon = one.start()
    assert daemon.release_run(one.finished_run(b"head 1"), "first") == 1
    until(one.plan, "the first plan")
    manifest = open_signed(one.latest(topics.release("cells", 1)), RELEASE_TYPE, Manifest, one.reader()).body
    assert (manifest.number, manifest.note) == (1, "first")
    assert planned(one.plan(), CAMERA) == 1
    one.camera.publish(topics.status(CAMERA), encode(Status(online=True, boot="b")), retain=True)
    one.report(1)
    until(lambda: one.rows(Rollout)[-1].stage == "done", "the first rollout")

    assert daemon.release_run(one.finished_run(b"head 2"), "second") == 2
    until(lambda: one.plan().number >= 2, "the canary plan")
    assert (planned(one.plan(), CAMERA), planned(one.plan(), "site/cam-2")) == (2, 1)
    one.report(1, state="failed", reload_release=2, reason="golden check")
    until(lambda: one.rows(Rollout)[-1].state == "held", "the hold")
    assert one.rows(Rollout)[-1].reason == f"{CAMERA} could not take it: golden check"
    assert planned(one.plan(), "site/cam-2") == 1, "the others keep what they run"
    with pytest.raises(TrainError, match="run 99: does not exist"):
        daemon.release_run(99, "")

    assert daemon.release_run(one.finished_run(b"head 3"), "third") == 3
    assert [(row.stage, row.state) for row in one.rows(Rollout)[1:]] == [("canary", "held"), ("draft", "running")]
    daemon.abort_rollout("golden check")
    until(lambda: planned(one.plan(), "site/cam-2") == 4, "the way back, for everyone")
    assert [(row.release, row.kind) for row in one.rows(Rollout)][-1] == (4, "back")
    one.report(4)
    until(lambda: planned(one.plan(), CAMERA) == 5, "the third, under a number above the way back")
    assert one.rows(Rollout)[-1].previous == 4
    one.report(5)
    until(lambda: one.rows(Rollout)[-1].stage == "done", "the third rollout")
    until(lambda: planned(one.plan(), "site/cam-2") == 5, "the plan for everyone")
    numbers = [
        open_signed(m.payload, PLAN_TYPE, Plan, one.reader()).body.number
        for m in one.seen.messages
        if m.topic == topics.plan("cells")
    ]
    assert numbers == sorted(numbers)


def test_a_held_rollout_is_resumed_by_an_operator_only(scene):
    one = scene()
    one.watch()
    daemon = one.start()
    with pytest.raises(RolloutError, match="has no rollout that is held"):
        daemon.resume_rollout()
    daemon.release_run(one.finished_run(b"head"), "")
    one.camera.publish(topics.status(CAMERA), encode(Status(online=True, boot="b")), retain=True)
    one.report(0, state="failed", reload_release=1, reason="no memory")
    until(lambda: one.rows(Rollout)[-1].state == "held", "the hold")
    daemon.resume_rollout()
    row = one.rows(Rollout)[-1]
    assert (row.state, row.stage, row.forgiven) == ("running", "everyone", [CAMERA])


class Canary:
    """A camera by script: it runs what the plan names to it, runs a trial beside, and sends what the two differ on."""

    def __init__(self, one):
        self.one = one
        self.count = 0
        self.frames = {}
        self.differed = {}
        self.sent = []
        one.camera.publish(topics.status(CAMERA), encode(Status(online=True, boot="b1")), retain=True)
        one.report(0)

    def run(self, frames=0, differ=0, new="defect", old="good"):
        """Do as the plan says; judge so many frames more with both, and send so many differences."""
        plan = self.one.plan()
        group = None if plan is None else plan.group_for(CAMERA, {})
        if group is None:
            return
        release, trial, told = group.release, None, group.trial
        if told is not None:
            pair = (release, told.release)
            self.frames[pair] = self.frames.get(pair, 0) + frames
            if told.ask:
                for _ in range(differ):
                    self.differed[pair] = self.differed.get(pair, 0) + 1
                    self.send(release, told.release, new, old, self.differed[pair])
            trial = TrialState(
                release=pair[0], other=pair[1], id=f"{pair[0]}-{pair[1]}", frames=self.frames[pair],
                differed=self.differed.get(pair, 0),
            )  # fmt: skip
        said = msgspec.structs.replace(reported(release), trial=trial)
        self.one.camera.publish(topics.reported(CAMERA), encode(said), retain=True)

    def send(self, release, other, new, old, number):
        """One event with a rival, and all of its image, until it is stored."""
        self.count += 1
        data = picture(self.count)
        event = event_of(
            data, release=release, label=new, why="pair", chunk_size=1 << 20,
            rival=Rival(release=other, label=old, score=0.5, trial=f"{release}-{other}", number=number),
        )  # fmt: skip

        def upload():
            self.one.camera.publish(topics.event(CAMERA), encode(event))
            self.one.camera.publish(topics.chunk(CAMERA, event.id, 0), data)
            return any(event.id in decode(m.payload, Reply).stored for m in self.one.heard.messages)

        until(upload, "stored")
        self.sent.append(event.id)


JUDGED = (
    "[rollout]\nshadow = 1\nshadow_frames = 10\ncanary = 1\ncanary_frames = 20\nsoak_s = 0.0\n"
    'groups = ["site=site"]\n[project.preprocess]\nsize = 16\n'
)


def on_the_way(one, canary):
    """The first release is everywhere; the second one has been in the shadow and is with its canary."""
    daemon = one.daemon
    backbone = parts(beta=1.0).backbone  # images are looked at with it, before they are asked about
    assert daemon.release_run(one.finished_run(b"head 1", backbone), "first") == 1
    until(lambda: canary.run() or one.rows(Rollout)[-1].stage == "done", "the first rollout")
    assert daemon.release_run(one.finished_run(b"head 2", backbone), "second") == 2
    until(lambda: one.plan().stage == "shadow", "the shadow")
    group = one.plan().group_for(CAMERA, {})
    assert (group.release, group.trial.release, group.trial.ask) == (1, 2, False)
    until(lambda: canary.run(frames=5) or one.plan().stage == "canary", "enough frames in the shadow")
    group = one.plan().group_for(CAMERA, {})
    assert (group.release, group.trial.release, group.trial.ask) == (2, 1, True)
    assert planned(one.plan(), "site/other") == 1


def settle(one, label, count):
    """An operator labels what the rollout waits for."""
    for _ in range(count):
        until(lambda: [image.why for image in one.daemon.desk.next(1)] == ["pair"], "a difference, before all others")
        [image] = one.daemon.desk.next(1)
        one.daemon.desk.decide(image.id, label, operator="Mira")


def test_a_good_release_goes_from_the_shadow_to_everyone_as_an_operator_settles_the_differences(scene):
    one = scene(more=JUDGED)
    one.watch()
    daemon = one.start()
    canary = Canary(one)
    on_the_way(one, canary)
    ids = [add_image(one.store, camera="site/other", score=0.5) for _ in range(3)]
    canary.run(frames=500, differ=4)

    def pairs():
        return one.rows(Rollout)[-1].evidence.get("pairs", {})

    until(lambda: pairs().get("open") == 4, "the differences")
    assert one.rows(Rollout)[-1].stage == "canary", "not while nobody has said what they are"
    settle(one, "defect", 4)
    until(lambda: one.rows(Rollout)[-1].stage == "group", "the proof")
    assert one.rows(Rollout)[-1].evidence["verdict"] == "safe"
    until(lambda: (pairs()["mended"], pairs()["broken"], pairs()["open"]) == (4, 0, 0), "all four: they go on counting")
    until(lambda: planned(one.plan(), "site/other") == 2, "the group's plan")
    until(lambda: canary.run() or one.rows(Rollout)[-1].stage == "done", "the end")
    assert [entry["stage"] for entry in one.rows(Rollout)[-1].history] == [
        "shadow", "canary", "group", "everyone", "done",
    ]  # fmt: skip
    assert {image.id for image in daemon.desk.next(9)} == set(ids), "the rest waits as ever"


def test_a_bad_release_is_taken_back_by_itself_and_says_why(scene):
    one = scene(more=JUDGED)
    one.watch()
    one.start()
    canary = Canary(one)
    on_the_way(one, canary)
    canary.run(frames=60, differ=8)
    until(lambda: one.rows(Rollout)[-1].evidence.get("pairs", {}).get("open") == 8, "the differences")
    settle(one, "good", 8)
    until(lambda: one.rows(Rollout)[-1].kind == "back", "the way back")
    gone, back = one.rows(Rollout)[-2:]
    assert (gone.release, gone.stage, gone.state) == (2, "canary", "reverted")
    assert gone.reason == (
        "it is worse: of 8 frames that only one of the two called right, release 1 was right on 8 and release 2 on 0"
    )
    assert (back.release, back.reverts, back.stage) == (3, 2, "everyone")
    assert back.evidence["pairs"]["broken"] == 8
    until(lambda: planned(one.plan(), CAMERA) == 3, "the plan")
    first, _, third = one.rows(Release)
    assert third.model == first.model
    until(lambda: canary.run() or one.rows(Rollout)[-1].stage == "done", "the old model under a new number")


@pytest.mark.parametrize("days", [1, 30])
def test_a_plan_is_signed_again_at_half_time_and_not_before(scene, clock, days):
    one = scene(clock=clock, more=f"[rollout]\ndays = {days}\n")
    clock.set_utc(SystemClock().utc())
    daemon = one.start()
    daemon.release_run(one.finished_run(b"head"), "")
    clock.advance(86_400 * days * 0.45)
    for _ in range(3):
        daemon._roll_out()
    assert one.rows(Rollout)[-1].plan_number == 1
    clock.advance(86_400 * days * 0.1)
    until(lambda: one.rows(Rollout)[-1].plan_number == 2, "the new signature")
    for _ in range(3):
        daemon._roll_out()
    row = one.rows(Rollout)[-1]
    assert (row.plan_number, row.plan_expires) == (2, clock.utc() + timedelta(days=days))


# -- previews that nobody asked for


def test_old_previews_go_in_batches_by_the_daemons_loop(scene, clock, monkeypatch):
    monkeypatch.setattr(previews, "EXPIRE_BATCH", 4)
    one = scene(clock=clock, more="[collect]\npreview_days = 7\n", started=False)
    now = clock.utc()

    def add(age, count):
        with one.store.write() as session:
            for _ in range(count):
                row = previews.row(CAMERA, event_of(picture(), held=True), now - timedelta(days=age), None)
                session.add(Preview(**row))

    add(8, 10)
    add(6, 3)
    daemon = Daemon(one.settings, one.config, one.store, clock)  # its loop is walked by hand
    left = []
    for _ in range(4):
        daemon._expire()
        left.append(len(one.rows(Preview)))
    assert left == [9, 5, 3, 3]
    clock.advance(2 * 86_400)
    daemon._expire()
    daemon._expire()
    assert one.rows(Preview) == []


def test_previews_stay_for_ever_where_no_time_is_set(scene, clock):
    one = scene(clock=clock, more="[collect]\npreview_days = 0\n", started=False)
    with one.store.write() as session:
        session.add(Preview(**previews.row(CAMERA, event_of(picture(), held=True), NOW - timedelta(days=9999), None)))
    Daemon(one.settings, one.config, one.store, clock)._expire()
    assert len(one.rows(Preview)) == 1


# -- after a restore


def test_a_restore_under_a_running_hub_has_it_sign_the_plan_anew_above_every_number(scene, tmp_path):
    one = scene(more=AT_ONCE)
    one.watch()
    daemon = one.start()
    daemon.release_run(one.finished_run(b"head 1"), "")
    backup.make(one.settings, one.config, tmp_path / "backups", SystemClock())
    for number in (2, 3):
        daemon.promote_rollout()  # nobody is online who could take it
        assert daemon.release_run(one.finished_run(b"head %d" % number), "") == number
    until(lambda: planned(one.plan(), CAMERA) == 3, "the third release")
    before = one.plan()
    manifests = one.count(topics.release("cells", 1))
    restore(one.settings, tmp_path / "backups", SystemClock(), force=True)
    until(lambda: one.plan().number > before.number, "a plan that cameras take")
    assert planned(one.plan(), CAMERA) == 1, "what the hub knows of now"
    until(lambda: one.count(topics.release("cells", 1)) > manifests, "its manifest, which the broker may have lost")
    assert one.latest(topics.release("cells", 1)) == one.rows(Release)[0].envelope
    number = one.rows(Rollout)[-1].plan_number
    for _ in range(3):
        daemon._mind_the_epoch()
        daemon._roll_out()
    assert one.rows(Rollout)[-1].plan_number == number, "once"
    assert daemon.release_run(one.finished_run(b"head 4"), "") == 4, "numbers never go back"


def test_a_plan_below_what_a_camera_accepted_is_signed_anew(scene):
    """A hub that was restored while it did not run, into an empty folder: it learns from the reports."""
    one = scene()
    one.watch()
    daemon = one.start()
    daemon.release_run(one.finished_run(b"head"), "")
    until(one.plan, "the plan")
    one.report(1, plan_floor=41)
    until(lambda: one.plan().number == 42, "the plan above it")
    one.report(1, plan_floor=42)
    for _ in range(3):
        daemon._roll_out()
    assert one.rows(Rollout)[-1].plan_number == 42


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is stopped"])
def test_under_a_new_delegation_all_that_is_in_use_is_signed_anew(scene, running):
    one = scene()
    one.watch()
    one.start().release_run(one.finished_run(b"head"), "")
    until(one.plan, "the plan")
    first = one.plan().number
    if not running:
        one.daemon.stop()
    number = keys.change(one.keys, one.keys / keys.ROOT, SystemClock(), rotate=True, revoke=True).number
    if not running:
        one.start()

    def under(topic, payload_type, kind):
        return open_signed(one.latest(topic), payload_type, kind, one.reader()).delegation

    until(lambda: under(topics.plan("cells"), PLAN_TYPE, Plan) == number, "the plan under the new one")
    assert under(topics.release("cells", 1), RELEASE_TYPE, Manifest) == number
    assert one.plan().number == first + 1


def test_a_thiefs_highest_numbers_do_not_end_the_hubs(scene):
    """Cameras report them until they hear of the new delegation."""
    one = scene()
    one.watch()
    daemon = one.start()
    daemon.release_run(one.finished_run(b"head"), "")
    until(one.plan, "the plan")
    first = one.plan().number
    report = msgspec.structs.replace(reported(1), floor=MAX_NUMBER, plan_floor=MAX_NUMBER)
    one.camera.publish(topics.reported(CAMERA), encode(report), retain=True)

    def floor():
        with one.store.read() as session:
            return session.exec(select(Camera.plan_floor)).all()

    until(lambda: floor() == [MAX_NUMBER], "the report")
    for _ in range(3):
        daemon._roll_out()
    assert one.plan().number == first, "no plan would be high enough"
    assert daemon.release_run(one.finished_run(b"head 2"), "") == 2


def test_a_release_whose_part_is_lost_is_refused_and_the_loop_lives(scene):
    one = scene()
    number = one.finished_run(b"head")
    one.store.blobs.path(one.run(number).parts["head"]).unlink()
    with one.store.write() as session:
        run = session.get(Run, number)
        run.verdict = "first"  # to be released by itself
        session.add(run)
    daemon = one.start()
    until(lambda: daemon.state().errors.get("store", 0) >= 2, "the trouble, counted at each try")
    assert daemon._thread.is_alive()
    assert one.rows(Release) == []


# -- settings while it runs


def test_triage_settings_go_out_with_a_new_plan_and_come_back(scene):
    one = scene()
    one.watch()
    daemon = one.start()
    policies = Policies(one.settings, one.store, one.clock)
    policies.set({"triage.low_score": 0.7}, operator="Mira")
    daemon.release_run(one.finished_run(b"head"), "")
    until(one.plan, "the plan")
    first = one.plan()
    assert (first.triage, planned(first, CAMERA)) == ({"low_score": 0.7}, 1), "the first plan has them already"
    policies.set({"triage.audit": 0.5, "retrain.auto_release": False}, operator="Mira")
    until(lambda: one.plan().triage == {"low_score": 0.7, "audit": 0.5}, "another plan")
    assert one.plan().number > first.number
    assert planned(one.plan(), CAMERA) == 1
    number = one.plan().number
    policies.set({"retrain.auto_release": None}, operator="Mira")
    for _ in range(3):
        daemon._roll_out()
    assert one.rows(Rollout)[-1].plan_number == number, "no plan for what cameras need not know"
    policies.set({"triage.audit": None, "triage.low_score": None}, operator="Mira")
    until(lambda: one.plan().triage is None, "silence")


def test_the_rollout_goes_by_the_settings_in_force(scene):
    one = scene(more=AT_ONCE)
    daemon = one.start()
    daemon.release_run(one.finished_run(b"head 1"), "")
    one.watch()
    one.camera.publish(topics.status(CAMERA), encode(Status(online=True, boot="b")), retain=True)
    one.report(1)
    until(lambda: one.rows(Rollout)[-1].stage == "done", "the first rollout")
    Policies(one.settings, one.store, one.clock).set({"rollout.canary": 1, "rollout.days": 3}, operator="")
    daemon.release_run(one.finished_run(b"head 2"), "")
    row = one.rows(Rollout)[-1]
    assert (row.stage, row.cameras) == ("canary", [CAMERA])
    assert row.plan_expires - one.clock.utc() < timedelta(days=3, minutes=1)


def test_retrain_rules_are_followed_at_once_and_not_endlessly(scene, clock):
    one = scene(started=False, clock=clock, more="[retrain]\nevery_labels = 0\n")
    drift = []
    daemon = Daemon(one.settings, one.config, one.store, one.clock, drift=lambda: drift)
    policies = Policies(one.settings, one.store, one.clock)
    done = one.add_run(state="done", train_images=40, created_at=clock.utc())

    def label(name, count):
        clock.advance(1)
        for _ in range(count):
            daemon.desk.decide(add_image(one.store), name, operator="Mira")

    def whys():
        daemon._retrain()
        return [run.why for run in one.rows(Run) if run.id != done]

    def end(state):
        with one.store.write() as session:
            run = session.get(Run, one.rows(Run)[-1].id)
            run.state = state
            session.add(run)
        clock.advance(1)

    label("good", 4)
    label("defect", 3)
    assert whys() == [], "nothing is on"
    policies.set({"retrain.every_positives": 4, "retrain.positive": "good", "retrain.at_least": 2}, operator="")
    assert whys() == ["4 new positives"]
    label("good", 9)
    assert len(whys()) == 1, "one at a time"
    end("failed")
    policies.set({"retrain.every_positives": None, "retrain.on_drift": True}, operator="")
    assert len(whys()) == 1, "no drift"
    drift.append("site/cam-1: class mix")
    assert whys()[-1] == "drift: site/cam-1: class mix"
    end("failed")
    label("good", 3)
    assert len(whys()) == 2, "two have failed: four new labels are needed"
    label("defect", 1)
    assert len(whys()) == 3
    end("done")
    policies.set({"retrain.on_drift": None, "retrain.new_share": 0.1}, operator="")
    label("good", 3)
    assert len(whys()) == 3, "3 of 40 are less than a tenth"
    label("good", 1)
    assert whys()[-1] == "4 new labels, 10 % of what the last run learned from"
    end("done")
    policies.set({"retrain.new_share": None, "retrain.every_hours": 2}, operator="")
    label("good", 2)
    assert len(whys()) == 4
    clock.advance(7200)
    assert whys()[-1] == "2 h after the last run"


def test_label_batches_are_as_large_as_is_set(scene):
    one = scene(started=False)
    daemon = Daemon(one.settings, one.config, one.store, one.clock)
    for _ in range(8):
        add_image(one.store)
    Policies(one.settings, one.store, one.clock).set({"label.batch": 3}, operator="")
    daemon.desk.next()
    assert len(daemon.desk._order) == 3


# -- runs


def test_labels_start_a_run_that_trains_and_its_model_is_released(scene, taught):
    one = scene(taught=taught, more=FAST)
    with one.store.write() as session:
        session.exec(delete(Run))
        session.exec(delete(Image).where(Image.split == "none"))
    one.watch()
    daemon = one.start()
    Policies(one.settings, one.store, one.clock).set({"train.l2": [0.02]}, operator="Mira")
    assert daemon.start_run("the first model") == 1
    with pytest.raises(TrainError, match="run 1: is under way already"):
        daemon.start_run("another")
    until(lambda: one.run(1).state == "done", "the first run")
    until(one.plan, "the release")
    assert (one.run(1).settings["l2"], one.run(1).settings["folds"]) == ([0.02], 2), "its own, and the file's"
    release = one.rows(Release)[0]
    assert (release.run_id, release.number, one.run(1).verdict) == (1, 1, "first")
    manifest = open_signed(one.latest(topics.release("cells", 1)), RELEASE_TYPE, Manifest, one.reader()).body
    for part in manifest.model.parts().values():
        count = -(-part.size // part.chunk_size)
        until(lambda part=part, last=count - 1: one.latest(topics.blob(part.sha256, last)), "the last chunk")
        chunks = [one.latest(topics.blob(part.sha256, index)) for index in range(count)]
        assert sha256_hex(b"".join(chunks)) == part.sha256

    new = [add_image(one.store, picture(8000 + number), state="new") for number in range(3)]
    daemon._verifier.wake()
    until(lambda: all(get_image(one.store, image).state == "verified" for image in new), "verified and embedded")
    for image in new[:2]:
        daemon.desk.decide(image, "good", operator="Mira")
    daemon._retrain()
    assert len(one.rows(Run)) == 1, "two labels are not three"
    daemon.desk.decide(new[2], "good", operator="Mira")
    until(lambda: len(one.rows(Run)) == 2, "the run that the policy starts")
    until(lambda: one.run(2).state == "done", "the second run")
    run = one.run(2)
    assert (run.why, run.labels, run.train_images) == ("3 new labels", 3, 19)
    assert (run.verdict, run.against) == ("same", 1)
    for step in (daemon._retrain, daemon._release_better):
        step()
    assert (len(one.rows(Run)), len(one.rows(Release))) == (2, 1), "no better, so nothing is released"


def test_a_run_is_cancelled_while_it_trains(scene, taught):
    one = scene(taught=taught, more=FAST)
    daemon = one.start()
    number = daemon.start_run("to be cancelled")
    until(lambda: one.run(number).state == "running", "the process")
    daemon.cancel_run(number)
    until(lambda: daemon._runs.process is None, "the end of the process")
    row = one.run(number)
    assert (row.state, row.ended_at is not None, row.parts) == ("cancelled", True, {})
    with pytest.raises(TrainError, match="cannot be cancelled"):
        daemon.cancel_run(number)
    with pytest.raises(TrainError, match="does not exist"):
        daemon.cancel_run(99)


def test_a_run_is_resumed_and_repeated_one_at_a_time(scene, taught):
    one = scene(taught=taught, more=FAST)
    daemon = Daemon(one.settings, one.config, one.store, one.clock)  # not started: nothing takes a run
    number = daemon.start_run("to be cancelled")
    daemon.cancel_run(number)
    assert daemon.repeat_run(1) == number + 1
    for refused in (lambda: daemon.resume_run(number), lambda: daemon.repeat_run(1)):
        with pytest.raises(TrainError, match=f"run {number + 1}: is under way already"):
            refused()
    daemon.cancel_run(number + 1)
    daemon.resume_run(number)
    assert [(row.state, row.why) for row in one.rows(Run)][1:] == [
        ("queued", "to be cancelled"),
        ("cancelled", "run 1 again"),
    ]
    daemon.cancel_run(number)
    with pytest.raises(TrainError, match=f"run {number}: did not keep its data"):
        daemon.repeat_run(number)


def test_what_is_left_of_a_cancelled_run_is_ended_before_it_is_resumed(scene, taught):
    one = scene(taught=taught, more=FAST)
    daemon = one.start()
    number = daemon.start_run("to be cancelled")
    until(lambda: one.run(number).state == "running", "the process")
    process = daemon._runs.process
    daemon.cancel_run(number)
    daemon.resume_run(number)
    assert process.returncode is not None
    until(lambda: one.run(number).state == "done", "the resumed run")
    assert one.run(number).pid != process.pid


def test_a_queued_run_is_cancelled_and_the_policy_does_not_start_it_anew(scene, clock):
    one = scene(clock=clock, more="[retrain]\nevery_labels = 3\n")
    ids = [add_image(one.store, state="verified") for _ in range(8)]
    daemon = Daemon(one.settings, one.config, one.store, one.clock)  # not started: nothing takes the run

    def label(*images):
        clock.advance(1)
        for image in images:
            daemon.desk.decide(image, "good", operator="Mira")
        clock.advance(1)
        daemon._retrain()
        return [(row.state, row.why) for row in one.rows(Run)]

    assert label(*ids[:2]) == []
    assert label(ids[2]) == [("queued", "3 new labels")]
    assert label(*ids[3:5]) == [("queued", "3 new labels")], "one at a time"
    daemon.cancel_run(1)
    daemon._retrain()
    assert [row.state for row in one.rows(Run)] == ["cancelled"]
    assert label(ids[0]) == [("cancelled", "3 new labels"), ("queued", "3 new labels")]


def test_a_run_whose_process_is_killed_is_tried_again_and_then_failed(scene, taught):
    one = scene(taught=taught, more=FAST)
    daemon = one.start()
    number = daemon.start_run("to be killed")
    killed = set()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        until(lambda: one.run(number).state == "running" and one.run(number).pid not in {None, *killed}, "a process")
        pid = one.run(number).pid
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        assert one.run(number).attempts == attempt
        ended: list[Run] = []
        until(lambda: ended.append(one.run(number)) or ended[-1].error, "the word of its end")  # noqa: B023
        assert ended[-1].lease_until is None, "nobody waits for a lease of the dead"
    until(lambda: one.run(number).state == "failed", "the end")
    assert one.run(number).error == "its process ended with status -9"
    assert len(killed) == MAX_ATTEMPTS


def test_a_run_whose_process_cannot_even_start_is_failed(scene):
    one = scene()
    daemon = one.start(config=one.folder / "gone.toml")
    number = daemon.start_run("hopeless")
    until(lambda: one.run(number).state == "failed", "the end")
    assert "ended 2 times without a result" in one.run(number).error
    assert one.run(number).attempts == MAX_ATTEMPTS + 1


def test_what_a_killed_hub_left_is_taken_up_once_its_lease_ran_out(scene, clock):
    one = scene(clock=clock)
    leased = one.add_run(state="running", attempts=1, lease_until=clock.utc() + timedelta(seconds=30), pid=1)
    daemon = Daemon(one.settings, one.folder / "gone.toml", one.store, clock)  # its loop is walked by hand
    daemon._runs.supervise()
    assert daemon._runs.process is None, "another process has it"
    clock.advance(31)
    daemon._runs.supervise()
    assert daemon._runs.process is not None
    daemon._runs.process.wait(60)
    assert (one.run(leased).state, one.run(leased).attempts) == ("running", 2)
    daemon._runs.supervise()
    assert one.run(leased).state == "failed"
    assert one.run(leased).error == "its process ended with status 1"


def test_the_end_of_the_hub_ends_the_run_which_is_taken_up_at_the_next_start(scene, taught):
    one = scene(taught=taught, more=FAST)
    daemon = one.start()
    number = daemon.start_run("interrupted")
    until(lambda: one.run(number).state == "running", "the process")
    process = daemon._runs.process
    one.stop()
    assert process.returncode is not None
    one.store = open_store(one.settings)
    row = one.run(number)
    assert (row.state, row.attempts, row.lease_until) == ("queued", 0, None), "ending the hub is no failed attempt"


# -- beside collectors


def test_a_hub_that_does_not_collect_sees_every_camera_and_asks_none_for_images(scene):
    one = scene(more="[collect]\nenabled = false\n")
    one.watch()
    daemon = one.start()
    until(lambda: daemon.state().broker, "the hub on the broker")
    one.camera.publish(topics.status(CAMERA), encode(Status(online=True, boot="b")), retain=True)
    one.report(0)
    until(lambda: daemon._registry.cameras("cells"), "the report")
    data = picture()
    one.camera.publish(topics.event(CAMERA), encode(event_of(data)))
    one.camera.publish(topics.want(CAMERA), b"what follows the event on the same line")
    until(lambda: daemon.state().errors == {"message": 1}, "what came after the event")
    assert one.heard.messages == []
    assert not [m for m in one.seen.messages if m.topic == topics.hub_status(one.settings.name)]


def test_a_hub_that_collects_from_some_sites_holds_leases_as_any_collector(scene):
    one = scene(more='[collect]\nsites = ["site", "other"]\n')
    one.watch()
    daemon = one.start()
    until(lambda: one.latest(topics.hub_status(one.settings.name)), "a sign of life")
    beat = decode(one.latest(topics.hub_status(one.settings.name)), HubStatus)
    assert beat.sites == ["other", "site"]
    with one.store.read() as session:
        leases = session.exec(select(Lease)).all()
    assert {(row.site, row.owner, row.home) for row in leases} == {
        ("other", one.settings.name, True),
        ("site", one.settings.name, True),
    }
    data = picture()
    event = event_of(data, chunk_size=1 << 20)
    one.camera.publish(topics.event(CAMERA), encode(event))
    one.camera.publish(topics.chunk(CAMERA, event.id, 0), data)
    until(lambda: any(event.id in decode(m.payload, Reply).stored for m in one.heard.messages), "stored")
    daemon.stop()
    one.daemon = None
    with one.store.read() as session:
        assert {row.owner for row in session.exec(select(Lease))} == {""}


def test_a_camera_that_drifts_is_seen_by_the_loop(scene):
    one = scene(more="[drift]\nblock = 20")
    run = one.finished_run(b"head")
    axes = drift.basis("b", np.eye(8, dtype=np.float32))
    with one.store.write() as session:
        watch.remember(session, run, axes, {"": drift.sample([0.9] * 60, ["good"] * 60, np.zeros((0, 7), np.float32))})
        session.add(Camera(name=CAMERA, project="cells", first_seen=NOW, last_seen=NOW, release=1))
    for number in range(20):
        add_image(one.store, camera=CAMERA, release=1, why="audit", guess="defect", score=0.9, event_id=f"e{number}")
    daemon = one.start()
    assert daemon.release_run(run, "by hand") == 1
    daemon._next_look = 0.0

    def found():
        with one.store.read() as session:
            return watch.load(session, "cells")

    until(found, "a look at the camera")
    [look] = found()
    assert (look.camera, look.drifted, look.own) == (CAMERA, True, False)
    assert [one.name for one in look.measures] == ["low_score", "class_mix"]
    assert daemon._drift() == [f"{CAMERA}: {look.reason}"], "what the retrain policy goes by"
    with one.store.write() as session:
        camera = session.get(Camera, CAMERA)
        camera.release = 2
        session.add(camera)
    assert daemon._drift() == [], "of a release that it no longer runs"
