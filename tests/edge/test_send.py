"""Send: the real thread and spool against a small hub, over a broker in memory that can be cut."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from edge.journal import Journal, Line
from edge.send import IN_FLIGHT, Sending
from edge.spool import Spool
from edge.waiting import offer_of
from shared import topics
from shared.clock import SystemClock
from shared.messages import Event, HubStatus, Reply, encode
from shared.transfer import Limits
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA, Wires
from tests.fakes.hub import FakeHub
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.messages import event_of, ident


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

    def add(self, *numbers: int, size: int = 1000) -> None:
        for n in numbers:
            event, data = event_of(n, size=size)
            self.spool.add(event, data)
            self.sending.spooled(offer_of(event))

    def wait_empty(self) -> None:
        wait_until(lambda: self.spool.state().left == 0, "an empty spool")


MakeCamera = Callable[..., Camera]


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def make_camera(broker: FakeBroker, tmp_path: Path) -> Iterator[MakeCamera]:
    made: list[Camera] = []

    def make(*, limit: int = 1 << 20, quarantine: int = 1 << 20) -> Camera:
        bus = FakeBus(broker, f"camera-{len(made)}")
        spool = Spool(tmp_path / "spool", limit=limit, quarantine_limit=quarantine, keep_s=0.0, clock=SystemClock())
        errors: Counter[str] = Counter()
        sending = Sending(CAMERA, bus, spool, SystemClock(), errors)
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

    def make(limits: Limits | None = None) -> FakeHub:
        made.append(FakeHub(FakeBus(broker, f"hub-{len(made)}"), SystemClock(), limits=limits))
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
        assert msgspec.structs.replace(told, follows=True) == event
    assert hub.problems == []
    assert hub.bad == []


def test_stored_is_deleted(make_camera: MakeCamera, make_hub: Callable[..., FakeHub], tmp_path: Path) -> None:
    camera, hub = make_camera(), make_hub()
    camera.add(*range(20))
    camera.wait_empty()
    whole(hub, range(20))
    state = camera.spool.state()
    assert (state.spooled, state.stored) == (20, 20)
    wait_until(lambda: not list((tmp_path / "spool").glob("*_*")), "the sweep")
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
        camera.sending.reply(Reply(credit=1 << 20))
    wait_until(camera.sending._inbox.empty, "the notes to be read")
    assert {one.topic for one in broker.seen} == {topics.status(CAMERA)}
    assert camera.spool.state().left == 1


def test_refused_goes_to_the_quarantine_and_others_go_on(
    make_camera: MakeCamera, make_hub: Callable[..., FakeHub], tmp_path: Path
) -> None:
    camera, hub = make_camera(quarantine=20_000), make_hub()

    def refuses(event: Event) -> str | None:
        return "is not wanted" if int(event.id[-2:], 16) % 2 else None

    hub.refuses = refuses
    camera.add(*range(12))
    camera.wait_empty()
    assert hub.stored == {ident(n) for n in range(0, 12, 2)}
    state = camera.spool.state()
    assert (state.stored, state.quarantined) == (6, 6)
    assert camera.errors == {"refused": 6}
    kept = list((tmp_path / "spool" / "quarantine").iterdir())
    assert sum(one.stat().st_size for one in kept) <= 20_000
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
    camera = make_camera(limit=50_000)
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
    wait_until(lambda: camera.bus.unacked >= IN_FLIGHT, "a full connection")
    wait_until(camera.sending._inbox.empty, "rest")
    assert camera.bus.unacked < IN_FLIGHT + 1000
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
            raise OSError(28, "No space left on device")
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
