"""Send: the real thread and spool against a small hub, over a broker in memory that can be cut."""

import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from edge.aside import BLOCK
from edge.journal import Journal, Line
from edge.link import FIRST_CHUNK
from edge.send import Sending
from edge.spool import Spool
from edge.waiting import offer_of
from shared import topics
from shared.clock import Clock, SystemClock
from shared.messages import Event, HubStatus, Reply, encode
from shared.mqtt import PahoBus
from shared.transfer import Limits
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA, Wires
from tests.fakes.clock import QuickClock
from tests.fakes.hub import FakeHub
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.messages import event_of, ident
from tests.fakes.mosquitto import Mosquitto


@dataclass
class Camera:
    bus: FakeBus
    spool: Spool
    sending: Sending
    wires: Wires
    errors: Counter[str]
    stopped: bool = False

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.sending.stop()
            self.bus.stop()

    def add(self, *numbers: int, size: int = 1000, held: bool = False, chunk_size: int = 256) -> None:
        for n in numbers:
            event, data = event_of(n, size=size, chunk_size=chunk_size)
            self.spool.add(event, data)
            self.sending.spooled(replace(offer_of(event), held=held))

    def wait_empty(self) -> None:
        wait_until(lambda: self.spool.state().left == 0, "an empty spool")


MakeCamera = Callable[..., Camera]


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def make_camera(broker: FakeBroker, tmp_path: Path) -> Iterator[MakeCamera]:
    made: list[Camera] = []

    def make(
        *,
        limit: int = 1 << 20,
        quarantine: int = 1 << 20,
        keep_s: float = 0.0,
        clock: Clock | None = None,
        memory: Path | None = None,
    ) -> Camera:
        bus = FakeBus(broker, f"camera-{len(made)}")
        clock = clock or SystemClock()
        spool = Spool(tmp_path / "spool", limit=limit, quarantine_limit=quarantine, keep_s=keep_s, clock=clock)
        errors: Counter[str] = Counter()
        sending = Sending(CAMERA, bus, spool, clock, errors, memory=memory)
        wires = Wires(bus, sending=sending)
        made.append(Camera(bus, spool, sending, wires, errors))
        sending.start()
        bus.start(wires)
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def make_hub(broker: FakeBroker) -> Iterator[Callable[..., FakeHub]]:
    made: list[FakeHub] = []

    def make(limits: Limits | None = None, *, name: str = "hub", clock: Clock | None = None) -> FakeHub:
        bus = FakeBus(broker, f"hub-{len(made)}")
        made.append(FakeHub(bus, clock or SystemClock(), name=name, limits=limits))
        return made[-1].start()

    yield make
    for one in made:
        one.stop()


def whole(hub: FakeHub, numbers: range, size: int = 1000) -> None:
    """What the hub has is what the camera had, byte for byte, and nothing else."""
    assert hub.stored == {ident(n) for n in numbers}
    for n in numbers:
        event, data = event_of(n, size=size)
        told, kept = hub.disk[CAMERA, ident(n)]
        assert kept == data
        # With its image an event does not carry what a preview shows.
        sent = msgspec.structs.replace(event, embedding=None)
        assert msgspec.structs.replace(told, follows=True, held=False, chunk_size=256) == sent
    assert hub.problems == []
    assert hub.bad == []


def test_stored_is_deleted(make_camera: MakeCamera, make_hub: Callable[..., FakeHub], tmp_path: Path) -> None:
    camera, hub = make_camera(), make_hub()
    camera.add(*range(20))
    camera.wait_empty()
    whole(hub, range(20))
    state = camera.spool.state()
    assert (state.spooled, state.stored) == (20, 20)
    wait_until(lambda: not list((tmp_path / "spool").glob("*_*")), "the copies to go")
    assert camera.errors == {}


def test_what_waits_from_before_is_sent(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    first = make_camera()
    first.add(*range(5))
    first.stop()
    camera, hub = make_camera(), make_hub()
    camera.wait_empty()
    whole(hub, range(5))


def test_without_a_living_hub_nothing_is_sent(broker: FakeBroker, make_camera: MakeCamera) -> None:
    """A retained `online` of a hub that died with the broker."""
    broker.retained[topics.hub_status("hub")] = encode(HubStatus(online=True, boot="ghost", beat=7))
    camera = make_camera()
    camera.add(1)
    for _ in range(3):
        camera.bus.cut()
        camera.bus.mend()
    wait_until(camera.sending._inbox.empty, "the notes to be read")
    assert {one.topic for one in broker.seen} == {topics.status(CAMERA)}
    assert camera.spool.state().left == 1


def test_refused_goes_to_the_quarantine_and_others_go_on(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], tmp_path: Path
) -> None:
    camera, hub = make_camera(quarantine=6 * BLOCK), make_hub()

    def refuses(event: Event) -> str | None:
        return "is not wanted" if int(event.id[-2:], 16) % 2 else None

    hub.refuses = refuses
    camera.add(*range(12))
    camera.wait_empty()
    assert hub.stored == {ident(n) for n in range(0, 12, 2)}
    state = camera.spool.state()
    assert (state.stored, state.quarantined) == (6, 6)
    assert camera.errors == {"refused": 6}
    aside = tmp_path / "spool" / "quarantine"
    wait_until(lambda: not list((tmp_path / "spool").glob("*_*")), "the last one to be moved")
    kept = list(aside.iterdir())
    assert 0 < len(kept) <= 6, "each takes a block"
    reasons = [one for one in kept if one.name.endswith(".reason.txt")]
    assert {one.read_text() for one in reasons} == {"is not wanted\n"}


@pytest.mark.parametrize("damage", ["image gone", "image short", "note gone", "note torn"])
def test_a_corrupt_file_does_not_hold_up_the_others(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], tmp_path: Path, damage: str
) -> None:
    camera = make_camera()
    camera.add(*range(6))
    what, how = damage.split()
    path = tmp_path / "spool" / f"{ident(3)}{'_IM.png' if what == 'image' else '_MD.json'}"
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-1])
    hub = make_hub()
    camera.wait_empty()
    assert hub.stored == {ident(n) for n in range(6) if n != 3}
    state = camera.spool.state()
    assert (state.stored, state.dropped, state.torn) == (5, 1, 1)


def test_bytes_that_changed_on_disk_are_refused_by_their_hash(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], tmp_path: Path
) -> None:
    camera = make_camera()
    camera.add(1, 2)
    (tmp_path / "spool" / f"{ident(1)}_IM.png").write_bytes(b"x" * 1000)
    hub = make_hub()
    camera.wait_empty()
    assert hub.stored == {ident(2)}
    assert camera.spool.state().quarantined == 1
    assert {one.code for one in hub.problems} == {"hash_mismatch"}


def test_an_event_that_was_evicted_is_not_offered(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    camera = make_camera(limit=7 * 2 * BLOCK)
    camera.add(*range(20))
    left = {one.id for one in camera.spool.offers()}
    hub = make_hub()
    camera.wait_empty()
    assert hub.stored == left
    assert set(hub.offers) == left
    assert camera.spool.state().dropped == 20 - len(left)


def test_a_hub_that_restarts(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    camera = make_camera()
    hub = make_hub(Limits(credit_camera=6000))
    camera.add(*range(4))
    camera.wait_empty()
    hub.deaf = True  # it hangs, and what is on its way is lost
    camera.add(*range(4, 12))
    wait_until(lambda: camera.bus.unacked == 0, "the broker to take it")
    hub.restart()
    hub.deaf = False
    camera.wait_empty()
    assert hub.stored == {ident(n) for n in range(12)}


def test_cuts_of_the_broker(broker: FakeBroker, make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    camera = make_camera()
    hub = make_hub(Limits(credit_camera=5000))
    for round_ in range(6):
        camera.add(*range(round_ * 5, round_ * 5 + 5), size=3000)
        wait_until(lambda r=round_: len(hub.stored) > r * 2, "something to arrive")
        if round_ % 2:
            broker.stop(forget=round_ == 3)
            broker.start()
        else:
            camera.bus.cut()
            camera.bus.mend()
    camera.wait_empty()
    assert hub.stored == {ident(n) for n in range(30)}
    for n in range(30):
        assert hub.disk[CAMERA, ident(n)][1] == event_of(n, size=3000)[1]


def test_credit_bounds_what_is_on_its_way(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    camera = make_camera()
    hub = make_hub(Limits(credit_camera=4000, partial_bytes=4000))
    camera.add(*range(40))
    camera.wait_empty()
    whole(hub, range(40))
    assert len(hub.offers) <= 42, "no offer was without room, bar those before the credit was known"


def test_paho_is_given_only_what_fits(broker: FakeBroker, make_camera: MakeCamera) -> None:
    """The broker acknowledges nothing: the queue stays ours."""
    camera = make_camera()
    other = FakeBus(broker, "other")
    other.start(Recorder())
    for beat in (1, 2, 3):
        other.publish(topics.hub_status("hub"), encode(HubStatus(online=True, boot="b", beat=beat, beat_s=60)))
    other.publish(topics.reply(CAMERA), encode(Reply(credit=1 << 24)))
    broker.auto = False
    camera.add(*range(4), size=200_000)
    wait_until(lambda: camera.bus.unacked >= FIRST_CHUNK, "a full connection")
    wait_until(camera.sending._inbox.empty, "rest")
    assert camera.bus.unacked < 2 * FIRST_CHUNK + 1000, "of a link of which nothing is known yet"
    broker.auto = True
    broker.kick()
    wait_until(lambda: camera.bus.sent > 800_000, "the rest to be sent")


def test_a_disk_that_fails_for_a_while(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal cannot be written when `stored` comes: the thread lives, and the event ends later, once."""
    camera = make_camera()
    append = Journal.append
    failures: list[int] = []

    def full(journal: Journal, lines: Sequence[Line]) -> None:
        if not failures:
            failures.append(1)
            raise OSError(errno.EIO, "Input/output error")
        append(journal, lines)

    monkeypatch.setattr(Journal, "append", full)
    hub = make_hub()
    camera.add(1, 2)
    camera.wait_empty()
    assert camera.errors["spool"] >= 1
    assert hub.stored == {ident(1), ident(2)}
    assert camera.spool.state().stored == 2


def test_replies_about_nothing_we_have(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    camera, hub = make_camera(), make_hub()
    camera.sending.reply(
        Reply(stored=[ident(9)], refuse={ident(8): "x"}, resend={ident(7): [(0, 10**9)]}, credit=1 << 20)
    )
    camera.add(1)
    camera.wait_empty()
    whole(hub, range(1, 2))


def test_an_image_that_fits_goes_with_its_event(
    broker: FakeBroker, make_camera: MakeCamera, make_hub: Callable[..., FakeHub]
) -> None:
    camera, hub = make_camera(), make_hub()
    camera.add(*range(10), size=200)
    camera.wait_empty()
    whole(hub, range(10), size=200)
    assert hub.attached == hub.offers
    assert not [one for one in broker.seen if "/chunk/" in one.topic]


def test_what_the_hub_does_not_take_with_the_event_follows_it(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub]
) -> None:
    camera, hub = make_camera(), make_hub()
    hub.attach = 255
    wait_until(lambda: camera.sending._sender.hub_lives(SystemClock().monotonic()), "the hub")
    wait_until(lambda: camera.sending._sender._hubs["hub"].attach == 255, "its word")
    camera.add(*range(10))
    camera.wait_empty()
    whole(hub, range(10))
    assert hub.attached == []


@pytest.mark.parametrize("attach", [0, 1 << 20])
def test_an_image_is_cut_to_what_the_link_is_known_to_carry(
    broker: FakeBroker, make_camera: MakeCamera, make_hub: Callable[..., FakeHub], attach: int
) -> None:
    """Of a new link nothing is known: small pieces. Later, on a good one, large ones."""
    camera, hub = make_camera(), make_hub()
    hub.attach = attach
    wait_until(lambda: "hub" in camera.sending._sender._hubs, "the hub")
    wait_until(lambda: camera.sending._sender._hubs["hub"].attach == attach, "its word")
    camera.add(1, size=50_000, chunk_size=65536)
    camera.wait_empty()
    told, data = hub.disk[CAMERA, ident(1)]
    assert told.chunk_size == 7143, "seven equal pieces of at most 8192"
    assert data == event_of(1, size=50_000)[1]
    camera.add(2, size=50_000, chunk_size=65536)
    camera.wait_empty()
    told, data = hub.disk[CAMERA, ident(2)]
    assert told.chunk_size == 65536
    assert data == event_of(2, size=50_000)[1]
    assert hub.problems == []


# -- what a hub may do to a camera; clocks run fast, since patience is long

SPEED = 20.0
FEW = Limits(credit_first=4000, credit_camera=4000)


def test_a_hub_that_beats_and_stores_nothing_gets_its_credit_and_no_more(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub]
) -> None:
    clock = QuickClock(SPEED)
    camera, hub = make_camera(clock=clock), make_hub(FEW, clock=clock)
    hub.stores = False
    camera.add(*range(20))
    wait_until(lambda: len(hub.offers) >= 4 * 3, "each to be asked for twice", seconds=20)
    assert len(set(hub.offers)) == 4
    assert camera.spool.state().left == 20
    hub.stores = True
    camera.wait_empty()
    whole(hub, range(20))


def test_a_hub_that_beats_and_hears_nothing_gets_its_credit_and_no_more(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], broker: FakeBroker
) -> None:
    """The broker acknowledges all, and the hub never sees it."""
    clock = QuickClock(SPEED)
    camera, hub = make_camera(clock=clock), make_hub(FEW, clock=clock)
    hub.hears = False
    camera.add(*range(20))

    def offered() -> list[str]:
        return [
            one.payload.partition(b'"id":"')[2][:36].decode() for one in broker.seen if one.topic.endswith("/event")
        ]

    wait_until(lambda: len(offered()) >= 4 * 3, "each to be asked for twice", seconds=20)
    assert len(set(offered())) == 4
    hub.hears = True
    camera.wait_empty()
    whole(hub, range(20))


def test_a_hub_that_no_longer_beats_is_sent_nothing_more(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub]
) -> None:
    clock = QuickClock(SPEED)
    camera, hub = make_camera(clock=clock), make_hub(FEW, clock=clock)
    hub.stores = False
    camera.add(*range(20))
    wait_until(lambda: len(set(hub.offers)) == 4, "all of the credit")
    hub.beats = False
    wait_until(lambda: not camera.sending._sender.hub_lives(clock.monotonic()), "the silence to be noticed")
    said = len(hub.offers)
    until = clock.monotonic() + 60.0
    wait_until(lambda: clock.monotonic() > until, "a minute")
    assert len(hub.offers) == said, "not even a question"
    hub.stores = hub.beats = True
    camera.wait_empty()
    whole(hub, range(20))


def test_lost_replies_are_made_good(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    """The first word on each event is lost, and every word on credit until then."""
    clock = QuickClock(SPEED)
    camera, hub = make_camera(clock=clock), make_hub(FEW, clock=clock)
    lost: list[Reply] = []
    told: set[str] = set()

    def loses(reply: Reply) -> bool:
        fresh = {*reply.stored, *reply.resend} - told
        told.update(fresh)
        if fresh:
            lost.append(reply)
        return bool(fresh)

    hub.loses = loses
    camera.add(*range(8))
    wait_until(lambda: camera.spool.state().left == 0, "an empty spool", seconds=25)
    whole(hub, range(8))
    assert {event_id for one in lost for event_id in one.stored} == {ident(n) for n in range(8)}
    assert any(one.credit for one in lost)


def test_a_hub_whose_disk_is_full_is_sent_nothing_until_there_is_room(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub]
) -> None:
    camera, hub = make_camera(), make_hub()
    hub.accepts = False
    camera.add(*range(10))
    wait_until(lambda: "hub" in camera.sending._sender._hubs, "the hub's word")
    wait_until(camera.sending._inbox.empty, "rest")
    assert camera.sending._sender.hub_lives(SystemClock().monotonic()) or hub.offers == []
    assert hub.offers == []
    hub.accepts = True
    camera.wait_empty()
    whole(hub, range(10))


def test_another_hub_takes_the_site_over(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    clock = QuickClock(SPEED)
    camera, one, two = (
        make_camera(clock=clock),
        make_hub(FEW, name="one", clock=clock),
        make_hub(FEW, name="two", clock=clock),
    )
    one.sites, two.sites, two.hears = ["site"], ["elsewhere"], False
    camera.add(*range(5))
    camera.wait_empty()
    assert one.stored == {ident(n) for n in range(5)}
    one.stores = False
    camera.add(*range(5, 15))
    wait_until(lambda: len(set(one.offers)) == 9, "all of the credit")
    one.deaf = True  # it is dead, and its retained status a ghost
    two.sites, two.hears = ["elsewhere", "site"], True
    two.restart()
    camera.wait_empty()
    assert two.stored == {ident(n) for n in range(5, 15)}


def test_a_hub_that_was_restored_from_a_backup_gets_the_kept_copies_again(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], tmp_path: Path
) -> None:
    memory = tmp_path / "epoch"
    camera, hub = make_camera(keep_s=3600, memory=memory), make_hub()
    camera.add(*range(10))
    camera.wait_empty()
    wait_until(lambda: memory.exists() and memory.read_text() == "epoch-1", "the epoch to be noted")
    for n in range(4, 10):
        del hub.disk[CAMERA, ident(n)]
    hub.restart()
    hub.epoch = "epoch-2"
    wait_until(lambda: len(hub.disk) == 10, "the copies")
    camera.wait_empty()
    for n in range(10):
        assert hub.disk[CAMERA, ident(n)][1] == event_of(n)[1]
    assert {one.code for one in hub.problems} <= {"chunk"}, "chunks of what is stored already, at worst"
    assert memory.read_text() == "epoch-2"
    assert camera.spool.state().stored == 10


def test_the_epoch_of_a_hub_that_serves_other_sites_means_nothing(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], tmp_path: Path
) -> None:
    """A camera hears all hubs; each of them has a history of its own."""
    memory = tmp_path / "epoch"
    camera, ours, other = make_camera(keep_s=3600, memory=memory), make_hub(name="one"), make_hub(name="two")
    ours.sites, ours.epoch = ["site"], "epoch-1"
    other.sites, other.epoch, other.hears = ["elsewhere"], "epoch-2", False
    camera.add(*range(5))
    camera.wait_empty()
    wait_until(lambda: memory.exists() and memory.read_text() == "epoch-1", "the epoch to be noted")
    said = len(ours.offers)
    heard: list[str] = []
    really = camera.sending._take_hub

    def take(name: str, status: HubStatus, *, retained: bool) -> None:
        really(name, status, retained=retained)
        heard.append(name)

    camera.sending._take_hub = take  # type: ignore[method-assign]
    wait_until(lambda: heard.count("one") > 4 and heard.count("two") > 4, "beats of both")
    assert memory.read_text() == "epoch-1"
    assert len(ours.offers) == said, "no copy is offered again"


def test_a_disk_that_is_slow_to_let_go_does_not_hold_up_the_line(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    camera, hub = make_camera(), make_hub(FEW)
    stored, free, inside = camera.spool.stored, threading.Event(), threading.Event()

    def slow(event_ids: Sequence[str]) -> None:
        if event_ids:
            inside.set()
            assert free.wait(20)
        stored(event_ids)

    monkeypatch.setattr(camera.spool, "stored", slow)
    camera.add(*range(20))
    assert inside.wait(10)
    wait_until(lambda: len(hub.stored) == 20, "all to be stored meanwhile")
    assert camera.spool.state().stored == 0
    free.set()
    camera.wait_empty()
    whole(hub, range(20))


def test_held_images_wait_until_they_are_asked_for(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    camera, hub = make_camera(), make_hub()
    camera.add(*range(5), held=True)
    wait_until(lambda: len(hub.previews) == 5, "the previews")
    camera.add(7)
    wait_until(lambda: hub.stored == {ident(7)}, "an image that is not held")
    hub.ask_for(CAMERA, ident(2))
    wait_until(lambda: ident(2) in hub.stored, "the image")
    assert hub.disk[CAMERA, ident(2)][1] == event_of(2)[1]
    wait_until(lambda: camera.spool.state().left == 4, "its end in the spool")
    assert hub.problems == []


def test_a_held_image_that_had_to_go_is_said_to_be_gone(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub]
) -> None:
    camera, hub = make_camera(), make_hub()
    camera.add(1, held=True)
    wait_until(lambda: hub.previews, "the preview")
    camera.sending.evicted(ident(1))
    hub.ask_for(CAMERA, ident(1))
    wait_until(lambda: hub.gone == [ident(1)], "the word")


# -- over a real broker


def test_a_ghost_on_a_real_broker_is_sent_nothing_and_the_hub_that_comes_gets_all(
    make_broker: Callable[[], Mosquitto], tmp_path: Path
) -> None:
    real = make_broker()
    real.start()
    ghost = PahoBus(real.settings_for("hub"), client_id="ghost", max_delay=1)
    seen = Recorder()
    ghost.subscribe(topics.uploads())
    ghost.start(seen)
    seen.wait_connected()
    ghost.publish(
        topics.hub_status("hub"), encode(HubStatus(online=True, boot="b", beat=7, credit=1 << 20)), retain=True
    )
    bus = PahoBus(real.settings_for(CAMERA), client_id=CAMERA, max_delay=1)
    spool = Spool(tmp_path / "spool", limit=1 << 20, quarantine_limit=0, keep_s=0, clock=SystemClock())
    sending = Sending(CAMERA, bus, spool, SystemClock(), Counter())
    camera = Camera(bus, spool, sending, Wires(bus, sending=sending), Counter())  # type: ignore[arg-type]
    camera.add(*range(10))
    sending.start()
    bus.start(camera.wires)
    hub = None
    try:
        seen.wait_message(topics.status(CAMERA))
        wait_until(lambda: "hub" in sending._sender._hubs, "the retained status")
        real.kill()
        wait_until(lambda: not bus.online, "the cut")
        real.start()
        seen.wait_connected(2)
        wait_until(lambda: seen.topics.count(topics.status(CAMERA)) >= 2, "the camera to be back")
        wait_until(sending._inbox.empty, "rest")
        assert set(seen.topics) == {topics.status(CAMERA)}
        ghost.stop()
        hub = FakeHub(PahoBus(real.settings_for("hub"), client_id="hub", max_delay=1), SystemClock()).start()
        camera.wait_empty()
        whole(hub, range(10))
    finally:
        camera.stop()
        ghost.stop()
        if hub is not None:
            hub.stop()


# ------------------------------------------------------------------------------------ values that change


def test_what_waits_goes_by_its_new_value(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    camera = make_camera()
    camera.add(*range(6))
    camera.sending.revalued(camera.spool.revalue({ident(n): n / 10 for n in range(6)}))
    hub = make_hub()
    camera.wait_empty()
    assert hub.offers == [ident(n) for n in (5, 4, 3, 2, 1, 0)]
    assert {event.id: event.value for event, _ in hub.disk.values()} == {ident(n): n / 10 for n in range(6)}


def test_what_is_being_sent_is_left_as_it_is(make_camera: MakeCamera, make_hub: Callable[..., FakeHub]) -> None:
    hub = make_hub(Limits(credit_total=3000, credit_camera=3000, credit_first=3000))
    hub.stores = False
    camera = make_camera()
    camera.add(0, 1, 2, size=2500)
    wait_until(lambda: hub.offers, "the first offer")
    camera.sending.revalued(camera.spool.revalue({ident(0): 0.0, ident(1): 0.1, ident(2): 0.9}))
    hub.stores = True
    camera.wait_empty()
    assert [one for n, one in enumerate(hub.offers) if one not in hub.offers[:n]] == [ident(0), ident(2), ident(1)]
    assert {data for _, data in hub.disk.values()} == {event_of(n, size=2500)[1] for n in range(3)}


def test_a_more_valuable_one_overtakes_what_the_sender_was_told_of(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub]
) -> None:
    hub = make_hub()
    hub.accepts = False
    camera = make_camera()
    wait_until(lambda: camera.sending._sender.hub_lives(SystemClock().monotonic()), "the hub")
    camera.add(0)
    wait_until(lambda: camera.sending._next, "the sender to be told")
    camera.spool.add(*(late := event_of(9, value=0.95)))
    camera.sending.spooled(offer_of(late[0]))
    hub.accepts = True
    camera.wait_empty()
    assert hub.offers == [ident(9), ident(0)]
    assert camera.sending._next == {}
