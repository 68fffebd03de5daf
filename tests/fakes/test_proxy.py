"""The thin link itself: its rule, its back-pressure, its counts and cuts; and the reader of MQTT packets."""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from shared.mqtt import read_password
from tests.fakes.listener import wait_until
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.proxy import Line, Passed, Proxy
from tests.fakes.wire import Packet, Packets

# ---------------------------------------------------------------------------------------------- the rule


def test_a_byte_takes_its_time() -> None:
    line = Line(12_000)
    assert line.carry(1500, 100.0) == (100.0, 101.0)
    assert line.carry(750, 100.2) == (101.0, 101.5), "after those before"
    assert line.carry(1500, 105.0) == (105.0, 106.0), "an idle line saves nothing up"


@given(rate=st.integers(1000, 10_000_000), sizes=st.lists(st.integers(1, 1400), min_size=1, max_size=300))
def test_nothing_drifts_however_bytes_are_cut(rate: int, sizes: list[int]) -> None:
    line = Line(rate)
    ended = 0.0
    for size in sizes:
        _, ended = line.carry(size, 50.0)
    assert ended - 50.0 == pytest.approx(8 * sum(sizes) / rate)


def test_half_duplex_is_one_line() -> None:
    """Both directions carried in turn share the rate."""
    line = Line(8000)
    ends = [line.carry(100, 0.0)[1] for _ in range(20)]
    assert ends[-1] == pytest.approx(2.0)


# ------------------------------------------------------------------------------------------ real sockets


class Server:
    """Echoes, or only counts; remembers how connections ended."""

    def __init__(self, *, echo: bool) -> None:
        self._echo = echo
        self.got = 0
        self.ends: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    self.got += len(data)
                    if self._echo:
                        sock.sendall(data)
                self.ends.append("end")
            except ConnectionResetError:
                self.ends.append("reset")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def link() -> Iterator[Callable[..., tuple[Proxy, Server]]]:
    made: list[Proxy | Server] = []

    def make(*, echo: bool = True, **options: object) -> tuple[Proxy, Server]:
        server = Server(echo=echo)
        proxy = Proxy(server.port, **options)  # type: ignore[arg-type]
        proxy.start()
        made.extend((server, proxy))
        return proxy, server

    yield make
    for one in made:
        one.stop() if isinstance(one, Proxy) else one.close()


def connect(proxy: Proxy) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return sock


@pytest.mark.parametrize("half_duplex", [False, True])
def test_all_bytes_pass_in_order_and_are_counted(link: Callable[..., tuple[Proxy, Server]], half_duplex: bool) -> None:
    passed: list[Passed] = []
    proxy, server = link(bits_per_s=2_000_000, delay=0.01, half_duplex=half_duplex, seen=passed.append)
    data = os.urandom(100_000)
    began = time.monotonic()
    with connect(proxy) as sock:
        threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
        got = bytearray()
        while len(got) < len(data):
            got += sock.recv(65536)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "the end is passed on, and comes back"
    assert bytes(got) == data
    wait_until(lambda: len(proxy.ended) == 1, "the end")
    assert (proxy.up, proxy.down, server.got, server.ends) == (len(data), len(data), len(data), ["end"])
    for up in (True, False):
        way = [one for one in passed if one.up == up]
        assert b"".join(one.data for one in way) == data
        # By the line's own marks: as fast as it may be, never faster.
        seconds = way[-1].ended - 0.01 - way[0].began
        assert seconds >= 8 * len(data) / 2_000_000 - 1e-6
    assert time.monotonic() - began >= (2 if half_duplex else 1) * 0.4 + 0.02


def test_a_sender_feels_the_line(link: Callable[..., tuple[Proxy, Server]]) -> None:
    """Without back-pressure it could hand over a megabyte at once."""
    proxy, _ = link(echo=False, bits_per_s=8000, buffer=16_000)
    with connect(proxy) as sock:
        sock.setblocking(False)
        sent = 0
        while select.select([], [sock], [], 0.3)[1] and sent < 1_000_000:
            sent += sock.send(bytes(4096))
        assert sent < 60_000
        assert proxy.up < sent


def test_a_cut_resets_both_ends_loses_the_buffer_and_refuses(link: Callable[..., tuple[Proxy, Server]]) -> None:
    proxy, server = link(echo=False, bits_per_s=8000)
    sock = connect(proxy)
    sock.sendall(bytes(12_000))
    wait_until(lambda: server.got > 0, "the first bytes")
    proxy.cut(3600)
    wait_until(lambda: server.ends == ["reset"], "the server to see it")
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    sock.close()
    assert proxy.up < 12_000
    assert proxy.ended == [], "nobody but the proxy ended it"
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", proxy.port))


def test_after_a_cut_connections_come_through_again(link: Callable[..., tuple[Proxy, Server]]) -> None:
    proxy, server = link(bits_per_s=1_000_000)
    connect(proxy).close()
    proxy.cut(0.05)
    wait_until(lambda: _echoes(proxy), "the line to be back")
    assert server.got >= 1
    assert len(proxy.cuts) == 1


def _echoes(proxy: Proxy) -> bool:
    try:
        with connect(proxy) as sock:
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    except OSError:
        return False


# ----------------------------------------------------------------------------------------------- packets


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=50))
def test_packets_are_found_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = (
        b"\x20\x02\x00\x00"  # connack
        + b"\x33\x0a\x00\x03a/b\x00\x07xyz"  # publish, QoS 1, retained
        + b"\x30\xcd\x01\x00\x03c/d" + bytes(200)  # publish, QoS 0, a length of two bytes
        + b"\x3a\x07\x00\x03a/b\x00\x08"  # publish, QoS 1, again, empty
        + b"\xd0\x00"
    )  # fmt: skip
    packets = Packets()
    found: list[Packet] = []
    at = now = 0
    while at < len(stream):
        size = cuts[now % len(cuts)]
        found += packets.feed(stream[at : at + size], now, now + 1)
        at, now = at + size, now + 1
    assert [one.kind for one in found] == ["connack", "publish", "publish", "publish", "pingresp"]
    assert [one.topic for one in found[1:4]] == ["a/b", "c/d", "a/b"]
    assert [one.payload for one in found[1:4]] == [b"xyz", bytes(200), b""]
    assert [(one.retained, one.repeated) for one in found[1:4]] == [(True, False), (False, False), (False, True)]
    assert sum(one.size for one in found) == len(stream)
    assert packets.rest == 0
    assert all(one.began < one.ended for one in found)
    packets.feed(b"\x30\xcd", now, now + 1)
    assert packets.rest == 2


def test_a_real_client_through_the_link(
    broker: Mosquitto,
) -> None:
    """Every byte that paho and mosquitto exchange belongs to a packet."""
    ways = {True: Packets(), False: Packets()}
    found: dict[bool, list[Packet]] = {True: [], False: []}
    proxy = Proxy(
        broker.port,
        bits_per_s=1_000_000,
        seen=lambda one: found[one.up].extend(ways[one.up].feed(one.data, one.began, one.ended)),
    )
    proxy.start()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="thin-proxy", protocol=paho.MQTTv311)
    client.username_pw_set("hub", read_password(broker.settings_for("hub")))
    client.connect("127.0.0.1", proxy.port)
    client.loop_start()
    try:
        wait_until(client.is_connected, "a connection")
        client.publish("hone/thin/proxy", bytes(5000), 1).wait_for_publish(10)
    finally:
        client.disconnect()
        client.loop_stop()
    wait_until(lambda: bool(proxy.ended), "the end")
    proxy.stop()
    assert [one.kind for one in found[True]] == ["connect", "publish", "disconnect"]
    assert [one.kind for one in found[False]] == ["connack", "puback"]
    assert found[True][1].payload == bytes(5000)
    assert sum(one.size for one in found[True]) == proxy.up
    assert sum(one.size for one in found[False]) == proxy.down
