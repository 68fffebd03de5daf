"""A thin link: a TCP proxy with the rate, the delay, the small buffer and the cuts of a modem.

    client --- small socket buffers --- modem's buffer === line (rate, delay) === server, and the same way back

What the proxy has taken from a client and the line has not carried is never more than the modem's buffer and a few
kilobytes of the kernel, so a sender feels the line by TCP's back-pressure and not a fast proxy.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

SLICE_S = 0.02
SEGMENT = 1400
SOCKET_BUFFER = 4096
CUT = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
"""SO_LINGER of 0 s: closing resets the connection, and what was not sent is lost."""


class Line:
    """The rule: bytes go one after the other, each takes 8 / bits_per_s seconds. One for both directions: half-duplex.

    Moments are absolute, so a caller who wakes up late loses nothing and nothing drifts.
    """

    def __init__(self, bits_per_s: float) -> None:
        self._bits_per_s = bits_per_s
        self._free = float("-inf")

    def carry(self, nbytes: int, ready: float) -> tuple[float, float]:
        """Bytes that were ready at a moment: when the line begins with them, and when they are through."""
        began = max(ready, self._free)
        self._free = began + 8 * nbytes / self._bits_per_s
        return began, self._free


@dataclass(frozen=True, slots=True)
class Passed:
    """Bytes that came out of the line. up: from the client. began, ended: when the line took and delivered them."""

    connection: int
    up: bool
    data: bytes
    began: float
    ended: float


@dataclass(slots=True, eq=False)
class _Link:
    """One connection through the proxy: the two sockets and the tasks between them."""

    number: int
    client: socket.socket
    server: socket.socket
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Proxy:
    """Listens on `port` and carries every connection to host:target. `start` and `stop`; a thread of its own.

    bits_per_s: of each direction, or of both together when half_duplex. delay: one way, seconds. buffer: bytes that
    the modem holds for a direction of a connection. seen: called in the proxy's thread for all that came through.
    """

    def __init__(
        self,
        target: int,
        *,
        bits_per_s: float,
        delay: float = 0.0,
        buffer: int = 16_000,
        half_duplex: bool = False,
        host: str = "127.0.0.1",
        seen: Callable[[Passed], None] = lambda _: None,
    ) -> None:
        self._target = (host, target)
        self._delay = delay
        self._buffer = buffer
        self._slice = max(64, min(SEGMENT, int(bits_per_s / 8 * SLICE_S)))
        self._lines = {True: Line(bits_per_s)}
        self._lines[False] = self._lines[True] if half_duplex else Line(bits_per_s)
        self._seen = seen
        self._links: set[_Link] = set()
        self._listener = _bound(0)
        self._listener.listen()
        self._listening = True
        self.port: int = self._listener.getsockname()[1]
        self.up = self.down = 0  # bytes that came through
        self.connections = 0
        self.cuts: list[tuple[float, float]] = []  # (when, until when nobody got in), time.monotonic
        self.ended: list[float] = []  # connections that one of the two sides ended, when
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cut everything and end the thread."""
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(10)
        self._loop.close()

    def cut(self, seconds: float = 0.0) -> None:
        """Reset all connections, with what the modems hold, and refuse new ones for so long."""
        done = threading.Event()

        def cut() -> None:
            now = time.monotonic()
            self.cuts.append((now, now + seconds))
            self._reset_all()
            self._listener.close()
            self._listening = False
            self._listener = _bound(self.port)  # refuses, and keeps the port from others
            done.set()

        self._loop.call_soon_threadsafe(cut)
        assert done.wait(5), "the proxy's thread is stuck"

    # -- the proxy's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._accept())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        self._reset_all()
        self._listener.close()
        left = asyncio.all_tasks(self._loop)
        for one in left:
            one.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    async def _accept(self) -> None:
        while True:
            if not self._listening and time.monotonic() >= self.cuts[-1][1]:
                self._listener.listen()
                self._listening = True
            try:
                client, _ = self._listener.accept()
            except OSError:  # nobody is there, or it does not listen
                await asyncio.sleep(0.02)
                continue
            server = socket.socket()
            _make_small(server)
            client.setblocking(False)
            server.setblocking(False)
            try:
                await self._loop.sock_connect(server, self._target)
            except OSError:
                client.close()
                server.close()
                continue
            self.connections += 1
            link = _Link(self.connections, client, server)
            self._links.add(link)
            ways = [self._way(link, client, server, up=True), self._way(link, server, client, up=False)]
            link.tasks = [self._loop.create_task(one) for one in ways]

    async def _way(self, link: _Link, source: socket.socket, sink: socket.socket, *, up: bool) -> None:
        """One direction of a connection: three tasks hand bytes on, and the end of them."""
        held: deque[tuple[float, bytes]] = deque()  # the modem's buffer: (when it came, slice)
        flying: asyncio.Queue[tuple[float, float, bytes]] = asyncio.Queue()
        room, filled = asyncio.Event(), asyncio.Event()
        size = 0

        async def fill() -> None:
            nonlocal size
            while True:
                while size >= self._buffer:
                    room.clear()
                    await room.wait()
                data = await self._loop.sock_recv(source, min(SEGMENT, self._buffer - size))
                now = time.monotonic()
                size += len(data)
                held.extend((now, data[at : at + self._slice]) for at in range(0, len(data), self._slice))
                if not data:
                    held.append((now, b""))
                filled.set()
                if not data:
                    return

        async def carry() -> None:
            nonlocal size
            while True:
                while not held:
                    filled.clear()
                    await filled.wait()
                ready, data = held.popleft()
                began, ended = self._lines[up].carry(len(data), ready)
                await asyncio.sleep(max(0.0, ended - time.monotonic()))
                size -= len(data)
                room.set()
                flying.put_nowait((began, ended + self._delay, data))
                if not data:
                    return

        async def deliver() -> None:
            while True:
                began, ended, data = await flying.get()
                await asyncio.sleep(max(0.0, ended - time.monotonic()))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await self._loop.sock_sendall(sink, data)
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                self._seen(Passed(link.number, up, data, began, ended))

        tasks = [self._loop.create_task(one()) for one in (fill, carry, deliver)]
        try:
            await asyncio.gather(*tasks)
        except OSError:
            self._end(link, how=CUT)
        finally:
            for one in tasks:
                one.cancel()
        link.tasks = [one for one in link.tasks if one is not asyncio.current_task()]
        if not link.tasks:
            self._end(link)

    def _end(self, link: _Link, how: bytes | None = None) -> None:
        """One of the two sides ended a connection."""
        if link in self._links:
            self.ended.append(time.monotonic())
            self._close(link, how)

    def _reset_all(self) -> None:
        for link in list(self._links):
            self._close(link, CUT)

    def _close(self, link: _Link, how: bytes | None) -> None:
        self._links.discard(link)
        for one in link.tasks:
            if one is not asyncio.current_task(self._loop):
                one.cancel()
        for sock in (link.client, link.server):
            if how is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()


def _bound(port: int) -> socket.socket:
    """A socket on a loopback port (0: a free one) that does not listen yet."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _make_small(sock)  # before it listens: accepted sockets inherit, and the window is negotiated by it
    sock.bind(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def _make_small(sock: socket.socket) -> None:
    """Leave the kernel little to hide: small buffers, segments as on a real link."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
