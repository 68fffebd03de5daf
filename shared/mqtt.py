"""The bus over paho-mqtt. paho keeps no queue for us: what cannot be sent now is refused (see `Bus.publish`)."""

import logging
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from shared.bus import Listener, Message
from shared.errors import BrokerError

log = logging.getLogger(__name__)


class MqttSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the broker. keepalive in seconds. A ca file turns TLS on; cert and key add a client certificate."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    username: str = ""
    password_file: str = ""
    keepalive: Annotated[int, msgspec.Meta(ge=5, le=120)] = 15
    ca: str = ""
    cert: str = ""
    key: str = ""


def read_password(settings: MqttSettings) -> str:
    """First line of the password file, "" where none is set; BrokerError when it is missing, unreadable or empty."""
    if not settings.password_file:
        return ""
    try:
        password = Path(settings.password_file).read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(
            f"password file cannot be read ({getattr(error, 'strerror', None) or error})",
            subject=settings.password_file,
            remedy="Create it"
            if isinstance(error, FileNotFoundError)
            else "Make it a text file that this user may read",
        ) from error
    if not password:
        raise BrokerError(
            "password file is empty in its first line",
            subject=settings.password_file,
            remedy="Write the account's password into it",
        )
    return password


def password_is_open(settings: MqttSettings) -> bool:
    """Whether every user of this machine may read the password file, which must be there."""
    return bool(settings.password_file) and bool(Path(settings.password_file).stat().st_mode & stat.S_IROTH)


def _send_at_once(_client: paho.Client, _data: Any, sock: Any) -> None:
    """Without Nagle's algorithm: with it the tail of a message waits 40 ms for the other end's delayed ACK."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class PahoBus:
    """`shared.bus.Bus` over one paho client (MQTT 3.1.1, clean session, reconnects by itself)."""

    def __init__(
        self, settings: MqttSettings, *, client_id: str, will: tuple[str, bytes] | None = None, max_delay: int = 10
    ) -> None:
        self._settings = settings
        self._listener: Listener | None = None
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[int, Callable[[], None] | None]] = {}
        self._early: set[int] = set()
        self._publishing = 0
        self._filters: dict[str, None] = {}
        self._unacked = 0
        self._sent = 0
        self._received = 0
        self._online = False
        self._complained = ""
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv311)
        if settings.username:
            client.username_pw_set(settings.username, read_password(settings) or None)
        if settings.ca:
            try:
                client.tls_set(
                    settings.ca, settings.cert or None, settings.key or None, tls_version=ssl.PROTOCOL_TLS_CLIENT
                )
            except (OSError, ValueError) as error:
                raise BrokerError(f"TLS files cannot be used ({error})", subject=settings.ca) from error
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        # A window of ours bounds what is on its way (`unacked`); paho's, of 20 messages, would only slow it down.
        client.max_inflight_messages_set(1000)
        client.reconnect_delay_set(1, max_delay)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        self._client = client

    @property
    def online(self) -> bool:
        """Whether the broker has accepted us."""
        return self._online

    @property
    def unacked(self) -> int:
        """Bytes published at QoS 1 that the broker has not acknowledged."""
        return self._unacked

    @property
    def sent(self) -> int:
        """Bytes of payload published since start."""
        return self._sent

    @property
    def received(self) -> int:
        """Bytes of payload received since start."""
        return self._received

    def start(self, listener: Listener) -> None:
        """Connect in the background and keep connected."""
        self._listener = listener
        self._client.connect_async(self._settings.host, self._settings.port, self._settings.keepalive)
        self._client.loop_start()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        delivered: Callable[[], None] | None = None,
    ) -> bool:
        """Hand a message to the broker; False when offline, and then it was not queued either."""
        if not self._online:
            return False
        with self._lock:
            self._publishing += 1
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        early = False
        with self._lock:
            self._publishing -= 1
            # An acknowledgement that overtook us is only looked for while a publish is under way: ids come again.
            early = info.mid in self._early
            self._early.discard(info.mid)
            if not self._publishing:
                self._early.clear()
            if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and qos and not early:
                self._waiting[info.mid] = (len(payload), delivered)
                self._unacked += len(payload)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            # The connection broke this moment: paho has queued it (at QoS 1) and sends it on the next connect.
            return qos > 0 and info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN
        self._sent += len(payload)
        if early and delivered is not None:
            delivered()
        return True

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe at QoS 1, now and again on every connect."""
        with self._lock:
            self._filters.update(dict.fromkeys(filters))
        if self._online and filters:
            self._client.subscribe([(one, 1) for one in filters])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Undo `subscribe`."""
        with self._lock:
            for one in filters:
                self._filters.pop(one, None)
        if self._online and filters:
            self._client.unsubscribe(list(filters))

    def stop(self, last_words: Sequence[tuple[str, bytes]] = ()) -> None:
        """Publish retained last words (2 s at most), disconnect and end the background thread."""
        if self._online:
            for topic, payload in last_words:
                info = self._client.publish(topic, payload, qos=1, retain=True)
                if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                    info.wait_for_publish(2)
        self._client.disconnect()
        self._client.loop_stop()
        self._online = False

    def _where(self) -> str:
        return f"broker {self._settings.host}:{self._settings.port}"

    def _complain(self, error: BrokerError) -> None:
        """Log a trouble once, not at each retry."""
        if str(error) != self._complained:
            self._complained = str(error)
            log.warning("%s", error)

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, code: Any, _props: Any) -> None:
        if code.is_failure:
            self._complain(BrokerError(f"refused us ({code})", subject=self._where(), remedy="Check user and password"))
            return
        self._complained = ""
        with self._lock:
            self._online = True
            filters = list(self._filters)
        if filters:
            client.subscribe([(one, 1) for one in filters])
        if self._listener is not None:
            self._listener.connected()

    def _on_connect_fail(self, _client: paho.Client, _data: Any) -> None:
        self._complain(
            BrokerError("is not there yet", subject=self._where(), remedy="Start it, or check [mqtt]; trying on")
        )

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, code: Any, _props: Any) -> None:
        self._online = False
        with self._lock:
            # paho itself sends these again; nobody here waits for them any longer.
            self._waiting.clear()
            self._early.clear()
            self._unacked = 0
        if self._listener is not None:
            self._listener.disconnected(str(code))

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._received += len(message.payload)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "?"
        if self._listener is not None:
            self._listener.message(Message(topic, bytes(message.payload), bool(message.retain)))

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, _code: Any, _props: Any) -> None:
        with self._lock:
            entry = self._waiting.pop(mid, None)
            if entry is None:
                if self._publishing:
                    self._early.add(mid)
                return
            self._unacked -= entry[0]
        if entry[1] is not None:
            entry[1]()
