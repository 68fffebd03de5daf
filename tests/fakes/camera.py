"""What an agent's listener does, without the agent: words from the bus go to the step under test."""

from collections import Counter

from edge.reload import Reload
from edge.send import Sending
from shared import topics
from shared.bus import Bus, Message
from shared.errors import HoneError
from shared.messages import HubStatus, Reply, Status, decode, encode
from shared.topics import BlobTopic, CameraTopic, HubTopic, PlanTopic, ReleaseTopic

CAMERA = "site/cam-1"


class Wires:
    """`shared.bus.Listener` that knows a Sending, a Reload, or both."""

    def __init__(self, bus: Bus, *, sending: Sending | None = None, reload: Reload | None = None) -> None:
        self.bus = bus
        self.sending = sending
        self.reload = reload
        self.errors: Counter[str] = Counter()
        bus.subscribe([topics.hub_status("+"), topics.reply(CAMERA)])

    def connected(self) -> None:
        self.bus.publish(topics.status(CAMERA), encode(Status(online=True, boot="1")), retain=True)
        if self.sending:
            self.sending.connected()

    def disconnected(self, reason: str) -> None:
        if self.sending:
            self.sending.disconnected()

    def message(self, message: Message) -> None:
        try:
            self._take(message)
        except HoneError as error:
            self.errors[error.code] += 1

    def _take(self, message: Message) -> None:
        sending, reload = self.sending, self.reload
        match topics.parse(message.topic):
            case HubTopic(name=name) if sending:
                sending.hub(name, decode(message.payload, HubStatus), retained=message.retained)
            case CameraTopic(leaf="reply") if sending:
                sending.reply(decode(message.payload, Reply))
            case CameraTopic(leaf="desired") if reload:
                reload.desired(message.payload)
            case PlanTopic() if reload:
                reload.plan(message.payload)
            case ReleaseTopic(number=number) if reload:
                reload.manifest(number, message.payload)
            case BlobTopic(sha256=sha256, index=index) if reload:
                reload.chunk(sha256, index, message.payload)
