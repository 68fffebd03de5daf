"""Run the application beside the daemon, in a thread of its own."""

import asyncio
import errno
import socket
import threading

import uvicorn
from fastapi import FastAPI

from shared.errors import ConfigError, PortInUseError


class _Server(uvicorn.Server):
    """Ends live streams first when it shuts down: they would keep it waiting."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._hone = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hone.state.stream.close()
        await super().shutdown(sockets)


class WebServer:
    """Serves until `stop`. The address is taken at once: `url` is right from the start, also for port 0."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._socket = _listen(host, port)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
            server_header=False,
            ws="none",
        )
        self._server = _Server(config, app)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)

    def start(self) -> None:
        """Begin to serve; requests that come earlier wait."""
        self._thread.start()

    def stop(self) -> None:
        """End open streams, finish requests, let go of the address."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket; PortInUseError or ConfigError says why not."""
    place = f"{host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(address)
            made.listen(128)
        except OSError:
            made.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                "is used by another program", subject=place, remedy="Set web.port, or stop the other program"
            ) from error
        raise ConfigError(f"cannot be listened on ({error.strerror})", subject=place, remedy="Set web.host") from error
    return made
