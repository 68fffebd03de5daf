"""The attacks that TUF and Uptane name, one by one, against the real Reload. docs/security.md has the table.

The attacker owns the broker: he may publish, change, withhold and repeat whatever he likes. Where he also has a key,
the test says so.
"""

import random
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.inbox import INBOX
from edge.settings import EdgeSettings
from hub import keys
from shared import topics
from shared.files import chunk_count, sha256_hex
from shared.manifest import MAX_CHUNK, MAX_NUMBER, MAX_SIGNED, PLAN_TYPE, Group, Plan, seal
from tests.edge.reload.camera import ONE, THREE, TWO, Camera, MakeCamera, blobs, pass_time, wants
from tests.fakes.bus import FakeBroker
from tests.fakes.camera import CAMERA
from tests.fakes.clock import FakeClock
from tests.fakes.hub import PART_CHUNK, Parts, Registry, parts
from tests.fakes.listener import wait_until

DAY = 86400
THIEF = parts(beta=9)


def refused(camera: Camera, code: str) -> None:
    """The camera counts an error of this code, and goes on as before."""
    wait_until(lambda: camera.errors[code], code)
    camera.rest()
    assert camera.release == 5


def moves_on(camera: Camera, hub: Registry, number: int = 6, model: Parts = TWO) -> None:
    """The camera still follows its hub."""
    hub.release(number, model)
    hub.plan(number)
    camera.wait_release(number)


def signed_plan(hub: Registry, number: int = 100, **fields: Any) -> bytes:
    """A plan with the hub's signature, as it was seen somewhere."""
    whole = {"project": hub.project, "stage": "done", "groups": [Group(name="all", release=6)], **fields}
    return hub._seal(Plan, PLAN_TYPE, number, **whole)


@pytest.fixture
def ours(key_folder: Path, tmp_path: Path, hub: Registry) -> Path:
    """The hub's own folder of keys, with the root key at hand; the hub signs under its real delegation."""
    folder = tmp_path / "our-keys"
    shutil.copytree(key_folder, folder)
    hub.pair = keys.load(folder)
    return folder


@pytest.fixture
def thief(ours: Path, hub: Registry, running: Camera) -> Registry:
    """Somebody who has the release key, its delegation, and the broker. The camera runs 5."""
    return Registry(ours, hub.bus, hub.clock, pair=keys.load(ours), plans=hub.plans)


def rotated(folder: Path, hub: Registry, *, revoke: bool) -> None:
    hub.pair = keys.change(folder, folder / keys.ROOT, hub.clock, rotate=True, revoke=revoke)


# ------------------------------------------------------------------------------ arbitrary software


def test_arbitrary_software_installation(running: Camera, hub: Registry, tmp_path: Path) -> None:
    """A stranger signs a plan and a release with keys of his own."""
    stranger = Registry(tmp_path / "stranger", hub.bus, hub.clock, plans=50)
    stranger.release(6, THIEF)
    stranger.plan(6)
    refused(running, "signature")
    hub.plan(6)  # the hub names a release 6: what lies on its topic is still the stranger's
    running.wait_failed("is not signed by a key")
    assert running.release == 5
    moves_on(running, hub)


def test_arbitrary_software_in_the_parts(running: Camera, hub: Registry, clock: FakeClock, broker: FakeBroker) -> None:
    """The manifest is right, the bytes of its parts are another model's of the same length."""
    hub.release(6, TWO)
    for index in range(chunk_count(len(TWO.head), PART_CHUNK)):
        topic = topics.blob(sha256_hex(TWO.head), index)
        broker.retained[topic] = THIEF.head[index * PART_CHUNK : (index + 1) * PART_CHUNK]
    assert len(THIEF.head) == len(TWO.head)
    hub.plan(6)
    pass_time(running, clock, lambda: running.reload.state.state == "failed", "the end of patience")
    assert "other bytes" in running.reload.state.reason
    assert running.release == 5


def test_a_changed_byte_anywhere_in_a_signed_message(running: Camera, hub: Registry) -> None:
    good = signed_plan(hub)
    rng = random.Random(4)
    for place in (rng.randrange(len(good)) for _ in range(40)):
        bad = bytes((*good[:place], good[place] ^ 1, *good[place + 1 :]))
        running.reload.plan(bad)
        running.rest()
        # What stays the same message under another key id or field order is still the hub's own word.
        assert running.release == 5
    assert sum(running.errors.values()) >= 35


def test_a_message_of_one_kind_is_not_taken_for_another(running: Camera, hub: Registry) -> None:
    hub.bus.publish(topics.plan("cells"), hub.manifest(6, TWO), retain=True)
    refused(running, "signature")
    moves_on(running, hub)


# ------------------------------------------------------------------------------ old words


def test_rollback(running: Camera, hub: Registry, make_camera: MakeCamera) -> None:
    """An old release with known faults, signed by the hub itself, under a new plan or by its old one."""
    moves_on(running, hub)
    hub.plan(5)
    running.wait_failed("is older than 6")
    camera = make_camera()
    camera.wait_failed("is older than 6")
    assert camera.release == 6


def test_replay_of_an_old_plan(running: Camera, hub: Registry, broker: FakeBroker, make_camera: MakeCamera) -> None:
    old = broker.retained[topics.plan("cells")]
    moves_on(running, hub)
    hub.bus.publish(topics.plan("cells"), old, retain=True)
    running.wait_failed("plan 1: is older than 2")
    camera = make_camera()
    camera.wait_failed("plan 1: is older than 2")
    assert camera.release == 6


@pytest.mark.usefixtures("ours")
def test_freeze(running: Camera, hub: Registry, clock: FakeClock, make_camera: MakeCamera) -> None:
    """The same plan for ever: the camera goes on working, says so, and never takes it for news after its time."""
    running.rest()
    assert running.reload.state.reason == ""
    clock.advance(31 * DAY)
    wait_until(lambda: "no newer one came" in running.reload.state.reason, "the camera to notice")
    running.rest()
    assert (running.release, running.reload.state.state, running.errors) == (5, "running", {"expired": 1})
    again = make_camera()
    again.wait_failed("plan 1: expired")
    assert (again.release, again.reload.state.state) == (5, "running"), "what is installed does not expire"
    moves_on(again, hub)
    assert again.reload.state.reason == ""


def test_a_freeze_that_ends_is_no_longer_reported(running: Camera, hub: Registry, clock: FakeClock) -> None:
    clock.advance(31 * DAY)
    wait_until(lambda: "no newer one came" in running.reload.state.reason, "the camera to notice")
    hub.plan(5)
    wait_until(lambda: running.reload.state.reason == "", "the reason to go")
    running.rest()
    assert running.errors == {"expired": 1}


@pytest.mark.usefixtures("ours")
def test_freeze_by_a_clock_that_is_set_back(
    running: Camera, hub: Registry, clock: FakeClock, make_camera: MakeCamera
) -> None:
    """A plan that was withheld until it expired comes with the clock of the day on which it was signed."""
    begin = clock.utc()
    withheld = signed_plan(hub, number=9)
    clock.advance(40 * DAY)
    hub.plan(5, number=8)
    wait_until(lambda: running.reload.plan_floor == 8, "the plan")
    running.rest()
    clock.set_utc(begin)
    running.reload.plan(withheld)
    running.wait_failed("plan 9: expired")
    camera = make_camera()
    camera.reload.plan(withheld)
    camera.wait_failed("plan 9: expired")
    assert camera.release == 5


@pytest.mark.usefixtures("ours")
def test_freeze_by_a_clock_from_before_this_version(hub: Registry, make_camera: MakeCamera, clock: FakeClock) -> None:
    """A camera without a battery starts in 1970: what expired before its own code was made is still old."""
    clock.set_utc(clock.utc() - timedelta(days=400))
    old = signed_plan(hub)
    camera = make_camera()
    camera.reload.plan(old)
    camera.wait_failed("plan 100: expired")


def test_a_hub_whose_clock_was_wrong_once_does_not_lock_cameras_out(
    running: Camera, hub: Registry, clock: FakeClock
) -> None:
    """A time of signing in the future does not make the present look old."""
    now = clock.utc()
    clock.set_utc(now + timedelta(days=4000))
    ahead = signed_plan(hub, number=9, groups=[Group(name="all", release=5)])
    clock.set_utc(now)
    running.reload.plan(ahead)
    wait_until(lambda: running.reload.plan_floor == 9, "the plan")
    hub.plans = 9
    moves_on(running, hub)


# ------------------------------------------------------------------------------ the wrong mixture


def test_mix_and_match(running: Camera, hub: Registry) -> None:
    """Signed pieces of two releases: the manifest of one on the topic of the other."""
    hub.release(6, TWO)
    hub.bus.publish(topics.release("cells", 7), hub.manifest(6, TWO), retain=True)
    hub.plan(7)
    running.wait_failed("says 6 on the topic of 7")
    assert running.release == 5


def test_mix_and_match_of_the_parts(running: Camera, hub: Registry, broker: FakeBroker, clock: FakeClock) -> None:
    """One release's head under another release's hash."""
    hub.release(6, THREE)
    for index in range(chunk_count(len(THREE.head), PART_CHUNK)):
        broker.retained[topics.blob(sha256_hex(THREE.head), index)] = broker.retained[
            topics.blob(sha256_hex(ONE.head), index)
        ]
    hub.plan(6)
    pass_time(running, clock, lambda: running.reload.state.state == "failed", "the end of patience")
    assert running.release == 5


def test_mix_and_match_of_body_and_delegation(running: Camera, hub: Registry, tmp_path: Path) -> None:
    """Our delegation round a stranger's plan."""
    keys.make(tmp_path / "stranger", hub.clock)
    stranger = keys.load(tmp_path / "stranger")
    ours = msgspec.json.decode(signed_plan(hub))["delegation"]
    theirs = msgspec.json.decode(signed_plan(Registry(tmp_path / "stranger", hub.bus, hub.clock, pair=stranger)))
    running.reload.plan(msgspec.json.encode({**theirs, "delegation": ours}))
    refused(running, "signature")


def test_wrong_target_another_project(running: Camera, hub: Registry) -> None:
    """The same hub's plan for another project, on our topic."""
    hub.release(6, TWO)
    running.reload.plan(signed_plan(hub, project="bottles"))
    refused(running, "scope")
    moves_on(running, hub)


def test_wrong_target_release_of_another_project(running: Camera, hub: Registry) -> None:
    other = Registry(hub.folder, hub.bus, hub.clock, project="bottles")
    hub.bus.publish(topics.release("cells", 6), other.manifest(6, TWO), retain=True)
    hub.plan(6)
    running.wait_failed("is for project bottles")
    assert running.release == 5


def test_wrong_target_exception_of_another_camera(running: Camera, hub: Registry, broker: FakeBroker) -> None:
    hub.release(6, TWO)
    hub.desired("site/cam-2", 6)
    running.reload.desired(broker.retained[topics.desired("site/cam-2")])
    refused(running, "scope")
    moves_on(running, hub)


def test_mixed_bundles_stolen_broker_skips_the_canary(running: Camera, hub: Registry, broker: FakeBroker) -> None:
    """Stage and groups are signed: a broker can neither put this camera among the canaries nor change its settings."""
    hub.release(6, TWO)
    canary = [Group(name="canary", release=6, cameras=["site/cam-9"]), Group(name="rest", release=5)]
    plan = signed_plan(hub, number=2, stage="canary", groups=canary)
    running.reload.plan(plan)
    wait_until(lambda: running.reload.plan_floor == 2, "the plan")
    running.asked.clear()
    running.reload.manifest(6, broker.retained[topics.release("cells", 6)])  # pushed at us
    running.rest()
    assert (running.release, running.asked) == (5, [])
    told = msgspec.json.decode(plan)
    for change in (
        {"groups": [{"name": "all", "release": 6}]},
        {"stage": "done", "groups": [{"name": "all", "release": 6}]},
        {"triage": {"low_score": 0.01}},
    ):
        body = {**msgspec.json.decode(b64decode(told["body"]["payload"])), "number": 3, **change}
        payload = b64encode(msgspec.json.encode(body)).decode()
        running.reload.plan(msgspec.json.encode({**told, "body": {**told["body"], "payload": payload}}))
    wait_until(lambda: running.errors["signature"] == 3, "three refusals")
    running.rest()
    assert (running.release, running.reload.plan_floor, running.reload.policy.triage) == (5, 2, None)


# ------------------------------------------------------------------------------ too much, too little


@pytest.mark.parametrize("kind", ["plan", "desired", "manifest"])
def test_endless_data_in_signed_messages(running: Camera, hub: Registry, kind: str) -> None:
    """Whatever its length, no more than the longest that is allowed, and a byte, waits or is parsed."""
    hub.plan(6)  # so that a manifest is waited for
    wait_until(lambda: running.reload.state.state == "fetching", "the wait")
    taken: list[int] = []
    inner = getattr(running.reload, f"_take_{kind}")

    def noted(*arguments: Any) -> None:
        taken.append(len(arguments[-1]))
        inner(*arguments)

    setattr(running.reload, f"_take_{kind}", noted)
    message = b" " * (8 << 20)
    running.reload.manifest(6, message) if kind == "manifest" else getattr(running.reload, kind)(message)
    running.wait_failed(f"{MAX_SIGNED} are allowed")
    assert taken == [MAX_SIGNED + 1]
    assert running.release == 5


def test_endless_data_in_chunks(running: Camera, hub: Registry, broker: FakeBroker, clock: FakeClock) -> None:
    """A chunk that is longer than the manifest says is thrown away at once, not kept until the part is whole."""
    hub.release(6, THREE, manifest=True)
    topic = topics.blob(sha256_hex(THREE.backbone), 0)
    broker.retained[topic] += bytes(8 << 20)
    kept: list[int] = []
    fetch = running.reload._pursuit._fetch
    take = fetch.take

    def noted(sha256: str, index: int, data: bytes) -> bool:
        done = take(sha256, index, data)
        assert len(data) <= MAX_CHUNK + 1
        part = fetch._parts.get(sha256)
        kept.append(sum(len(one) for one in part.chunks if one is not None) if part is not None else 0)
        return done

    fetch.take = noted  # type: ignore[method-assign]
    hub.plan(6)
    pass_time(running, clock, lambda: running.reload.state.state == "failed", "the end of patience")
    assert max(kept) <= max(len(one) for one in THREE.blobs())
    assert "other bytes" in running.reload.state.reason or "has a chunk of" in running.reload.state.reason
    assert running.release == 5


def test_endless_data_in_number(running: Camera, hub: Registry) -> None:
    """More messages than the camera looks at: they are counted, and no memory holds them."""
    started, go = [], []

    def busy() -> None:
        started.append(True)
        wait_until(lambda: go, "the flood's end")

    running.reload._tell(busy)
    wait_until(lambda: started, "the thread to be busy")
    for number in range(1000):
        running.reload.plan(b"x" * 1000)
        running.reload.chunk("0" * 64, number, bytes(1000))
    assert running.reload._inbox._steps.qsize() <= INBOX
    assert running.errors["flood"] == 2000 - INBOX
    go.append(True)
    running.rest()
    moves_on(running, hub)


def test_endless_data_on_the_disk(
    running: Camera, hub: Registry, thief: Registry, make_settings: Callable[..., EdgeSettings]
) -> None:
    """Releases that all fail, with the stolen key: each finds as much room as the one before."""
    folder = make_settings().state_folder / "models" / "parts"
    sizes = []
    for number in range(6, 12):
        model = parts(size=16 + number, beta=number)
        thief.release(number, Parts(model.backbone, model.head, model.golden, model.probabilities[:1], model.size))
        thief.plan(number)
        running.wait_failed("must name 2 x 3")
        wait_until(lambda number=number: running.reload.state.release == number, "this one")  # type: ignore[misc]
        running.rest()
        sizes.append(len(list(folder.iterdir())))
    assert max(sizes) <= len(ONE.blobs()) + 3


def test_slow_retrieval(running: Camera, hub: Registry, clock: FakeClock, broker: FakeBroker) -> None:
    """One chunk an hour: the model in use goes on, the hub is asked, and a newer plan ends the wait."""
    hub.release(6, THREE, chunks=False)
    hub.plan(6)
    for index in range(3):
        hub.chunks(sha256_hex(THREE.golden), [index])
        clock.advance(3600)
        pass_time(running, clock, lambda index=index: len(wants(broker)) > index, "the camera to ask")  # type: ignore[misc]
    running.rest()
    assert (running.release, running.reload.state.state) == (5, "fetching")
    moves_on(running, hub, 7)


def test_partial_bundle_installation(
    running: Camera, hub: Registry, clock: FakeClock, make_camera: MakeCamera, broker: FakeBroker
) -> None:
    """All parts but the last: nothing of the release runs, also not after a restart; a model is swapped as a whole."""
    hub.release(6, THREE)
    held_back = topics.blob(sha256_hex(THREE.head), 0)
    last = broker.retained.pop(held_back)
    hub.plan(6)
    pass_time(running, clock, lambda: wants(broker), "the camera to ask")
    assert (running.release, running.reload.state.state) == (5, "fetching")
    camera = make_camera(connect=False)
    camera.wait_release(5)
    camera.bus.restore()
    hub.bus.publish(held_back, last, retain=True)
    camera.wait_release(6)
    assert sha256_hex(THREE.backbone) not in blobs(camera.asked), "what was whole is not fetched again"


def test_drop_request(running: Camera, hub: Registry, broker: FakeBroker, clock: FakeClock) -> None:
    """Manifest and chunks never come: the model in use goes on."""
    hub.plan(6)
    pass_time(running, clock, lambda: any(one.release == 6 for one in wants(broker)), "the camera to ask")
    assert (running.release, running.reload.state.state) == (5, "fetching")
    moves_on(running, hub)


# ------------------------------------------------------------------------------ stolen keys


def test_key_compromise_ends_with_a_new_delegation(
    ours: Path, thief: Registry, hub: Registry, running: Camera, make_camera: MakeCamera
) -> None:
    """With the key a thief rules, until the camera hears of the delegation that takes the key back."""
    thief.release(6, THIEF)
    thief.plan(6)
    running.wait_release(6)
    hub.plans = thief.plans
    rotated(ours, hub, revoke=True)
    moves_on(running, hub, 7)
    running.errors.clear()
    thief.release(8, THIEF)
    thief.plan(8, number=50)
    wait_until(lambda: running.errors, "the refusal")
    running.rest()
    assert running.errors == {"old_release": 1}, "replayed with the old delegation"
    mixed = Registry(ours, hub.bus, hub.clock, pair=keys.Keys(hub.root, thief.pair.signer, hub.pair.delegation))  # type: ignore[union-attr]
    mixed.plan(8, number=51)
    wait_until(lambda: running.errors["signature"], "and with the new one")
    running.rest()
    assert running.release == 7
    again = make_camera()
    thief.plan(8, number=52)
    wait_until(lambda: again.errors["old_release"], "remembered through a restart")
    again.rest()
    assert again.release == 7


def test_key_compromise_of_a_delegation_needs_the_root(thief: Registry, running: Camera, tmp_path: Path) -> None:
    """A thief with the release key cannot make a delegation of his own."""
    assert thief.pair is not None
    keys.make(tmp_path / "thief", thief.clock)
    own = keys.load(tmp_path / "thief")
    data = seal(msgspec.json.decode(b64decode(own.delegation["payload"])), PLAN_TYPE, thief.pair.signer, own.delegation)  # type: ignore[arg-type]
    running.reload.plan(data)
    refused(running, "signature")


def test_fast_forward(ours: Path, thief: Registry, hub: Registry, running: Camera, make_camera: MakeCamera) -> None:
    """The thief raises every number to the highest there is; with his key the camera forgets them."""
    thief.release(MAX_NUMBER, THIEF)
    thief.exceptions = 2**53 - 1
    thief.desired(CAMERA, MAX_NUMBER)
    running.wait_release(MAX_NUMBER)
    thief.plan(MAX_NUMBER, number=MAX_NUMBER)
    wait_until(lambda: running.reload.plan_floor == MAX_NUMBER, "the plan")
    assert running.reload.floor == MAX_NUMBER
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_failed(f"is older than {MAX_NUMBER}")
    rotated(ours, hub, revoke=True)
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_release(6)
    state = running.reload._shelf.state
    assert (state.floor, state.plan_floor, state.desired, state.desired_floor) == (6, hub.plans, 0, 0)
    assert state.previous is None, "the thief's model is not gone back to"
    running.errors.clear()
    thief.plan(MAX_NUMBER, number=MAX_NUMBER)
    wait_until(lambda: running.errors["old_release"], "the refusal")
    again = make_camera()
    again.wait_release(6)


def test_fast_forward_beyond_the_highest_number(thief: Registry, running: Camera) -> None:
    """Such a number could not be reported, and the hub would not hear of the camera any more."""
    thief.plan(5, number=MAX_NUMBER + 1)
    wait_until(lambda: running.errors["manifest"], "the refusal")
    running.rest()
    assert running.reload.plan_floor == 1


def test_fast_forward_under_the_number_that_the_hub_uses(
    ours: Path, thief: Registry, hub: Registry, running: Camera
) -> None:
    """The thief's release 6 runs here, the hub's own is another: the same number must not hide that."""
    thief.release(6, THIEF)
    thief.plan(6)
    running.wait_release(6)
    before = running.engine.running
    rotated(ours, hub, revoke=True)
    hub.release(6, TWO)
    hub.plan(6)
    wait_until(lambda: running.engine.running is not before, "the hub's model")
    running.wait_release(6)
    kept = running.reload._shelf.state.current
    assert kept is not None
    assert kept.model.head.sha256 == sha256_hex(TWO.head)


def test_failed_on_purpose(ours: Path, thief: Registry, hub: Registry, running: Camera) -> None:
    """The thief uses up the hub's next number with a release that fails; with his key that is forgotten too."""
    thief.release(6, Parts(TWO.backbone, TWO.head, TWO.golden, TWO.probabilities[:1], TWO.size))
    thief.plan(6)
    running.wait_failed("must name 2 x 3")
    rotated(ours, hub, revoke=True)
    moves_on(running, hub)


def test_a_planned_rotation_keeps_the_numbers(ours: Path, hub: Registry, running: Camera) -> None:
    """While the old key stays delegated nothing is forgotten: what it signed could come again."""
    hub.plans = 10
    old = keys.load(ours)
    moves_on(running, hub)
    floor = running.reload.plan_floor
    rotated(ours, hub, revoke=False)
    moves_on(running, hub, 7, ONE)
    assert hub.pair is not None
    overlap = Registry(ours, hub.bus, hub.clock, pair=keys.Keys(hub.root, old.signer, hub.pair.delegation))
    overlap.plan(5, number=floor - 1)
    wait_until(lambda: running.errors["old_release"], "the refusal")
    overlap.release(8, TWO)
    overlap.plan(8, number=floor + 5)
    running.wait_release(8)
    hub.plans = floor + 5
    hub.pair = keys.change(ours, ours / keys.ROOT, hub.clock, rotate=False, revoke=True)
    moves_on(running, hub, 9, ONE)
    running.errors.clear()
    overlap.plan(8, number=floor + 50)
    wait_until(lambda: running.errors["old_release"], "the overlap's end")
    running.rest()
    assert (running.release, running.reload._shelf.state.previous is not None) == (9, True)
