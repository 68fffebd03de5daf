"""Messages that a camera could have sent."""

from datetime import UTC, datetime

from shared.messages import Event

EVENT_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
NOW = datetime(2026, 3, 1, 12, 30, 1, 250_000, tzinfo=UTC)
EVENT = Event(
    id=EVENT_ID, project="cells", release=3, time=NOW, clock="synchronised", label="crack", score=0.5,
    scores={"crack": 0.5, "good": 0.5}, why="unsure", probability=0.1, value=0.7, size=70_000, sha256="ab" * 32,
    ext="png", chunk_size=65536, embedding="AAAA",
)  # fmt: skip
