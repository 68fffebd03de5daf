"""A real PostgreSQL on a free loopback port: a private cluster in a folder of its own, gone with the test."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from hub.broker import free_port

PLACES = Path("/usr/lib/postgresql")
"""Where Debian puts the programs, a folder for each version; they are not on PATH."""


def programs() -> Path | None:
    """The folder with initdb, of the newest version; None where PostgreSQL is not installed."""
    found = sorted(PLACES.glob("*/bin/initdb"), key=lambda one: float(one.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class Postgres:
    """One server; it will not run as root, so it belongs to the user nobody there."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="hone-postgres-"))  # pytest's own are closed to others
        self._databases = 0
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self.port = free_port()
        try:
            self._run("initdb", "--auth=trust", "--username=hone", "--encoding=UTF8", "--no-locale", "-D", "data")
            options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories="
            self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", "60", "-o", options, "start")
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def url(self) -> str:
        """The URL of a fresh database."""
        self._databases += 1
        name = f"hone{self._databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "hone", name)
        return f"postgresql+psycopg://hone@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        """End it, and delete its folder."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}
        # To a file: the server would keep a pipe open.
        with open(self._folder / "said", "w+b") as said:
            done = subprocess.run(
                [self._programs / program, *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                check=False,
                **as_user,
            )
            said.seek(0)
            assert done.returncode == 0, said.read().decode(errors="replace")
