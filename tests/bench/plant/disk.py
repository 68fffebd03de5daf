"""A small disk for the hub: a tmpfs of its own, filled with a ballast file and freed again."""

import os
import subprocess
from pathlib import Path


class SmallDisk:
    """`size` bytes, mounted on `folder`. It may be mounted only in a mount namespace of our own: then it goes with us,
    whatever happens. `mounted` is False, and `why` says why, where the system does not let us.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "hone-chaos", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        self.mounted = done.returncode == 0
        self.why = done.stderr.strip().partition("\n")[0]
        self._ballast = folder / "ballast"

    @property
    def room(self) -> int:
        """Bytes that are free."""
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def fill(self, room: int) -> None:
        """Leave no more than `room` bytes free."""
        handle = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        try:
            while (more := self.room - room) > 0:
                try:
                    os.posix_fallocate(handle, os.fstat(handle).st_size, more)
                except OSError:
                    room += 4096  # somebody else took some of it meanwhile
        finally:
            os.close(handle)

    def free(self) -> None:
        """Take the ballast away."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Let go of it, and of all that is on it."""
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)
            self.mounted = False
