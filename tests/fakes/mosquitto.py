"""A real mosquitto with Hone's own configuration, run and ended by tests."""

import signal
import subprocess
from pathlib import Path

from hub import broker
from shared.mqtt import MqttSettings

USERS = ["hub", "scada", "site/cam-1", "site/cam-2", "site/cam-3"]


class Mosquitto:
    """One broker process on a free loopback port; can be killed, frozen and started again on the same port."""

    def __init__(self, folder: Path, users: list[str] | None = None) -> None:
        self.folder = folder
        self.port = broker.free_port()
        self.configuration = broker.write_configuration(
            folder, port=self.port, passwords=broker.new_passwords(users or USERS)
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        assert self._process is None
        with open(self.folder / "mosquitto.log", "ab") as log:
            self._process = subprocess.Popen(broker.command(self.configuration), stdout=log, stderr=log)
        broker.wait_ready(self.port)

    def kill(self) -> None:
        """Power cut: SIGKILL, nothing is saved."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order, if it runs."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """The broker hangs: connections stay up, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def settings_for(self, user: str, **other: object) -> MqttSettings:
        """Settings with which `user` may connect."""
        fields: dict[str, object] = {
            "port": self.port,
            "username": user,
            "password_file": str(self.folder / "clear" / user.replace("/", "__")),
            "keepalive": 5,
            **other,
        }
        return MqttSettings(**fields)  # type: ignore[arg-type]

    @property
    def log(self) -> str:
        """What the broker wrote so far."""
        return (self.folder / "mosquitto.log").read_text(encoding="utf-8", errors="replace")

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(10)
            self._process = None
