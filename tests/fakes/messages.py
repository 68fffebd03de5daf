"""Messages that a camera could have sent."""

import random
from datetime import UTC, datetime

import msgspec

from shared.files import sha256_hex
from shared.messages import Event

EVENT_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
NOW = datetime(2026, 3, 1, 12, 30, 1, 250_000, tzinfo=UTC)
EVENT = Event(
    id=EVENT_ID, project="cells", release=3, time=NOW, clock="synchronised", label="crack", score=0.5,
    scores={"crack": 0.5, "good": 0.5}, why="unsure", probability=0.1, value=0.7, size=70_000, sha256="ab" * 32,
    ext="png", chunk_size=65536, embedding="AAAA",
)  # fmt: skip


def ident(number: int) -> str:
    """An event id of its own for each number; they sort by it."""
    return f"01890a5d-ac96-774b-bcce-{number:012x}"


def event_of(number: int, *, size: int = 1000, value: float = 0.5, **fields: object) -> tuple[Event, bytes]:
    """An event and bytes that belong to it, different for each number."""
    data = random.Random(number).randbytes(size)
    whole = {"id": ident(number), "size": size, "value": value, "sha256": sha256_hex(data), "chunk_size": 256, **fields}
    return msgspec.structs.replace(EVENT, **whole), data  # type: ignore[arg-type]
