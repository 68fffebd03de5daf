"""A collector between a FakeBroker and a real store, and what it had stored at the moment at which it said so."""

from collections import Counter
from collections.abc import Callable

from sqlmodel import col, select

from hub.collect import Collector
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Image, Preview
from shared import topics
from shared.clock import SystemClock
from shared.messages import Reply, decode
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.listener import wait_until


class Watched(FakeBus):
    """Notes, at the moment a `stored` is published, whether row and blob are there (proofs: id, row, blob), and for a
    `noted` whether the preview's row is (noted: id, row).
    """

    def __init__(self, broker: FakeBroker, store: Store) -> None:
        super().__init__(broker, "hub")
        self._store = store
        self.proofs: list[tuple[str, bool, bool]] = []
        self.noted: list[tuple[str, bool]] = []

    def publish(self, topic: str, payload: bytes, **more: object) -> bool:
        if topic.endswith("/reply"):
            reply = decode(payload, Reply)
            self.proofs += [(one, *self._stored(one)) for one in reply.stored]
            self.noted += [(one, self._kept(one)) for one in reply.noted]
        return super().publish(topic, payload, **more)  # type: ignore[arg-type]

    def _stored(self, event_id: str) -> tuple[bool, bool]:
        with self._store.read() as session:
            found = session.exec(select(Image.sha256).where(Image.event_id == event_id)).first()
        return found is not None, found is not None and self._store.blobs.has(found)

    def _kept(self, event_id: str) -> bool:
        with self._store.read() as session:
            return session.exec(select(Preview.id).where(Preview.event_id == event_id)).first() is not None


class Hub:
    """A collector between a FakeBroker and a store."""

    def __init__(self, settings: HubSettings, store: Store) -> None:
        self.broker = FakeBroker()
        self.store = store
        self.bus = Watched(self.broker, store)
        self.errors: Counter[str] = Counter()
        self.collector = Collector(settings, store=store, bus=self.bus, clock=SystemClock(), errors=self.errors)
        self.bus.subscribe(topics.uploads())
        self.bus.start(self.collector)

    def wait(self, true: Callable[[], object], what: str) -> None:
        def look() -> object:
            self.broker.pump()
            return true()

        wait_until(look, f"{what}; errors so far: {dict(self.errors)}", seconds=20)

    def rows(self) -> list[Image]:
        with self.store.read() as session:
            return list(session.exec(select(Image).order_by(col(Image.id))))

    def previews(self) -> dict[str, Preview]:
        with self.store.read() as session:
            return {one.event_id: one for one in session.exec(select(Preview).order_by(col(Preview.id)))}
