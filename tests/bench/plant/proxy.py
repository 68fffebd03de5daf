"""A TCP proxy in a process of its own whose connections can be cut, all at once and in the middle of a message."""

import asyncio
import multiprocessing
import socket
import struct
from collections.abc import Mapping
from typing import Any

from tests.bench.plant.processes import die_with_parent

PIECE = 1 << 16


class Proxy:
    """Listens on a loopback port for each of `sides`, and passes everything on to `port`.

    sides: name -> "down" or "up", the direction in which the hub's words go there (down: from the broker).
    """

    def __init__(self, port: int, sides: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(port, dict(sides), theirs), daemon=True)
        self._process.start()
        self.ports: dict[str, int] = self._pipe.recv()

    def mute(self, side: str) -> None:
        """Pass on nothing more of what the hub says, only what the cameras say, until the side is cut."""
        self._ask("mute", side)

    def cut(self, side: str) -> int:
        """Reset every connection of a side; what was on its way is lost. Returns how many there were."""
        return self._ask("cut", side)

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join(10)

    def _ask(self, what: str, side: str) -> int:
        self._pipe.send((what, side))
        if not self._pipe.poll(10):
            raise TimeoutError("the proxy does not answer")
        count: int = self._pipe.recv()
        return count


def _run(port: int, sides: Mapping[str, str], pipe: Any) -> None:
    die_with_parent()
    asyncio.run(_serve(port, sides, pipe))


async def _serve(port: int, sides: Mapping[str, str], pipe: Any) -> None:
    open_ones: dict[str, set[asyncio.StreamWriter]] = {one: set() for one in sides}
    speaks = {one: asyncio.Event() for one in sides}
    always = asyncio.Event()
    always.set()
    ports = {}
    for side, direction in sides.items():
        speaks[side].set()
        up, down = (speaks[side], always) if direction == "up" else (always, speaks[side])

        async def accept(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            there: set[asyncio.StreamWriter] = open_ones[side],
            up: asyncio.Event = up,
            down: asyncio.Event = down,
        ) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:  # the broker is down
                writer.close()
                return
            both = {writer, far_writer}
            there |= both
            await asyncio.gather(_pass_on(reader, far_writer, up), _pass_on(far_reader, writer, down))
            there -= both

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        ports[side] = server.sockets[0].getsockname()[1]

    def obey() -> None:
        what, side = pipe.recv()
        if what == "mute":
            speaks[side].clear()
        else:
            for writer in open_ones[side]:
                if not writer.is_closing():
                    _reset(writer)
            speaks[side].set()
        pipe.send(len(open_ones[side]) // 2)

    asyncio.get_running_loop().add_reader(pipe.fileno(), obey)
    pipe.send(ports)
    await asyncio.Event().wait()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, speaks: asyncio.Event) -> None:
    """Until one end closes, then the other is closed too."""
    try:
        while data := await reader.read(PIECE):
            await speaks.wait()
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, sending nothing more."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
