"""The private broker: mosquitto with Hone's configuration and access list, for the demo, tests and small plants."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from string import Template

from shared.errors import BrokerError, PortInUseError
from shared.files import write_atomic

HUB_USER = "hub"
SCADA_USER = "scada"


def _sources() -> Path:
    """The folder with the configuration: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "mosquitto"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "mosquitto"


def find_program(name: str) -> str:
    """Path of a mosquitto program, also where sbin is not on PATH; BrokerError says how to install it."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise BrokerError("is not installed", subject=name, remedy="Run: sudo apt-get install mosquitto")
    return path


def check_port_free(host: str, port: int) -> None:
    """PortInUseError when something listens on host:port already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"cannot be used ({error.strerror})", subject=f"{host}:{port}", remedy="Choose another port, or 0"
            ) from error


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def new_passwords(users: list[str]) -> dict[str, str]:
    """A random password for each user."""
    return {user: secrets.token_urlsafe(18) for user in users}


def write_configuration(folder: Path, *, port: int, passwords: Mapping[str, str], host: str = "127.0.0.1") -> Path:
    """Write mosquitto.conf, acl and the hashed passwords into `folder`; returns the path of mosquitto.conf.

    Each user's clear password goes to `folder`/clear/NAME (mode 0600, `/` in the name becomes `__`), to be carried
    to its camera.
    """
    folder = folder.resolve()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    clear = folder / "clear"
    clear.mkdir(mode=0o700, exist_ok=True)
    for user, password in passwords.items():
        write_atomic(clear / user.replace("/", "__"), password.encode() + b"\n", mode=0o600)
    lines = "".join(f"{user}:{password}\n" for user, password in passwords.items())
    write_atomic(folder / "passwords", lines.encode(), mode=0o600)
    hashed = subprocess.run(
        [find_program("mosquitto_passwd"), "-U", str(folder / "passwords")], capture_output=True, text=True, check=False
    )
    if hashed.returncode:
        raise BrokerError(f"mosquitto_passwd failed ({hashed.stderr.strip()})", subject=str(folder / "passwords"))
    write_atomic(folder / "acl", (_sources() / "acl").read_bytes(), mode=0o600)
    template = Template((_sources() / "mosquitto.conf.in").read_text(encoding="utf-8"))
    # Started as root, mosquitto would become another user, who cannot read a private folder.
    user_line = f"user {getpass.getuser()}" if os.geteuid() == 0 else "# user: the one who starts it"
    text = template.substitute(port=port, host=host, folder=folder, user_line=user_line)
    write_atomic(folder / "mosquitto.conf", text.encode())
    return folder / "mosquitto.conf"


def command(configuration: Path) -> list[str]:
    """The command line that runs the broker in the foreground."""
    return [find_program("mosquitto"), "-c", str(configuration)]


def wait_ready(port: int, *, host: str = "127.0.0.1", seconds: float = 10.0) -> None:
    """Return once the broker takes connections; BrokerError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise BrokerError("did not start", subject=f"mosquitto on {host}:{port}") from error
            time.sleep(0.05)
        else:
            return
