"""Takes a stream of MQTT 3.1.1 apart into packets, so that a bench can say where its bytes went."""

from dataclasses import dataclass

KINDS = (
    "reserved", "connect", "connack", "publish", "puback", "pubrec", "pubrel", "pubcomp",
    "subscribe", "suback", "unsubscribe", "unsuback", "pingreq", "pingresp", "disconnect", "reserved",
)  # fmt: skip
PUBLISH = 3


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. size: all its bytes. began, ended: when its first and last byte were seen."""

    kind: str
    size: int
    began: float
    ended: float
    topic: str = ""
    payload: bytes = b""
    retained: bool = False
    repeated: bool = False  # the DUP flag


class Packets:
    """One direction of one connection; fed with bytes as they come."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._began = 0.0

    @property
    def rest(self) -> int:
        """Bytes of a packet that is not complete."""
        return len(self._data)

    def feed(self, data: bytes, began: float, ended: float) -> list[Packet]:
        """More bytes, seen from `began` to `ended`; returns the packets that are complete now."""
        if not self._data:
            self._began = began
        self._data += data
        found = []
        while (head := self._head()) is not None and len(self._data) >= sum(head):
            size = sum(head)
            found.append(_packet(bytes(self._data[:size]), head[0], self._began, ended))
            del self._data[:size]
            self._began = began  # the next one began within these same bytes
        return found

    def _head(self) -> tuple[int, int] | None:
        """Bytes of the fixed header and of what follows it; None while the header is not complete."""
        length = 0
        for index, byte in enumerate(self._data[1:5]):
            length |= (byte & 127) << 7 * index
            if byte < 128:
                return index + 2, length
        return None


def _packet(data: bytes, start: int, began: float, ended: float) -> Packet:
    kind = KINDS[data[0] >> 4]
    if data[0] >> 4 != PUBLISH:
        return Packet(kind, len(data), began, ended)
    end = start + 2 + int.from_bytes(data[start : start + 2])
    payload = data[end + (2 if data[0] & 6 else 0) :]
    topic = data[start + 2 : end].decode()
    return Packet(kind, len(data), began, ended, topic, payload, bool(data[0] & 1), bool(data[0] & 8))
