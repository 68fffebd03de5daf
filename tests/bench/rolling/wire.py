"""A broker in memory for thousands of clients in one thread, which counts the bytes of every MQTT packet.

A packet's size is by the formula of MQTT 3.1.1 at QoS 1; TLS, TCP and pings are not among it. Topics that a client
names in full are looked up, so that a fleet of a thousand costs no more than its messages; wildcards are for the hub.
"""

from collections import Counter, defaultdict, deque

from shared.bus import Message
from tests.fakes.bus import matches

ACK = 4
"""Bytes of PUBACK and of UNSUBACK."""
KINDS = {"blob": "parts", "release": "manifests", "plan": "plans", "hub": "beats"}


def packet(rest):
    """Bytes of a packet whose variable header and payload have `rest` bytes."""
    return 1 + (1 if rest < 128 else 2 if rest < 16_384 else 3 if rest < 2_097_152 else 4) + rest


def published(topic, payload):
    """Bytes of a PUBLISH at QoS 1."""
    return packet(2 + len(topic) + 2 + len(payload))


def kind_of(topic):
    """What a message is about, for the account: "plans", "parts", … or a camera's leaf."""
    parts = topic.split("/")
    return KINDS.get(parts[1]) or parts[4]


class Broker:
    """Retains, and carries messages in the order in which they came, within the first `publish` of all."""

    def __init__(self):
        self.retained = {}
        self._exact = defaultdict(dict)
        self._wild = []
        self._queue = deque()
        self._carrying = False

    def subscribe(self, bus, filters):
        for one in filters:
            if "+" in one or "#" in one:
                self._wild.append((one, bus))
                found = [topic for topic in self.retained if matches(one, topic)]
            else:
                self._exact[one][bus] = None
                found = [one] if one in self.retained else []
            self._queue.extend((bus, topic, self.retained[topic], True, 1) for topic in found)
        self.carry()

    def unsubscribe(self, bus, filters):
        for one in filters:
            clients = self._exact.get(one, {})
            clients.pop(bus, None)
            if not clients:
                self._exact.pop(one, None)

    def publish(self, topic, payload, *, retain, times):
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        receivers = [*self._exact.get(topic, ()), *(bus for one, bus in self._wild if matches(one, topic))]
        self._queue.extend((bus, topic, payload, False, times) for bus in receivers)
        self.carry()

    def carry(self):
        if self._carrying:
            return
        self._carrying = True
        while self._queue:
            bus, *what = self._queue.popleft()
            bus.deliver(*what)
        self._carrying = False


class CountedBus:
    """`shared.bus.Bus` on a Broker. out, into: bytes on this client's line by kind, since `forget`."""

    online = True
    unacked = 0

    def __init__(self, broker):
        self.out, self.into = Counter(), Counter()
        self._broker = broker
        self._listener = None

    @property
    def sent(self):
        return self.out.total()

    @property
    def received(self):
        return self.into.total()

    def forget(self):
        self.out.clear()
        self.into.clear()

    def start(self, listener):
        self._listener = listener

    def publish(self, topic, payload, *, qos=1, retain=False, delivered=None, times=1):
        """times: the same once more, counted and not carried."""
        self.out[kind_of(topic)] += published(topic, payload) * times
        self.into["acks"] += ACK * times
        self._broker.publish(topic, payload, retain=retain, times=times)
        if delivered is not None:
            delivered()
        return True

    def subscribe(self, filters):
        if filters:
            self.out["subscriptions"] += packet(2 + sum(3 + len(one) for one in filters))
            self.into["subscriptions"] += packet(2 + len(filters))
            self._broker.subscribe(self, filters)

    def unsubscribe(self, filters):
        if filters:
            self.out["subscriptions"] += packet(2 + sum(2 + len(one) for one in filters))
            self.into["subscriptions"] += ACK
            self._broker.unsubscribe(self, filters)

    def deliver(self, topic, payload, retained, times):
        kind = kind_of(topic)
        self.into[kind] += published(topic, payload) * times
        # What is acknowledged is told apart: a report costs its acknowledgement whether there is a rollout or not.
        self.out["acks" if kind in ("event", "chunk") else f"acks of {kind}"] += ACK * times
        self._listener.message(Message(topic, payload, retained))

    def stop(self, last_words=()):
        pass
