"""A hub on a disk that is full to the last byte, for `test_full_disk`; run it in a mount namespace of its own.

    unshare --mount python -m tests.e2e.full_disk CONFIG ended|killed kept|none

The state folder of CONFIG is a small tmpfs. A hub is set up in it, ends well or is killed, the disk is filled, and
`hone-hub serve` is run; kept, none: whether it had a reserve. The line "free" on stdin frees the disk, "end" asks the
hub to end. Exit status: the hub's.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

from hub import epoch, keys
from hub.settings import read
from hub.store import open_store
from hub.tables import Camera
from shared.clock import SystemClock
from tests.bench.plant.disk import SmallDisk
from tests.hub.making import NOW, add_image, picture

DISK = 64 << 20


def prepare(config: Path, end: str, reserve: str) -> None:
    """A hub with an image and a camera that was there; it ends as `end` says."""
    settings = read(config)
    keys.make(settings.state_folder / "keys", SystemClock())
    store = open_store(settings)
    epoch.current(store, SystemClock())
    add_image(store, picture(), state="verified")
    with store.write() as session:
        session.add(Camera(name="site/cam-1", project="cells", online=True, first_seen=NOW, last_seen=NOW))
    if reserve == "kept":
        store.reserve.keep()
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    store.close()


def main() -> int:
    """All of it."""
    config, end, reserve = Path(sys.argv[1]), *sys.argv[2:]
    disk = SmallDisk(read(config).state_folder, DISK)
    assert disk.mounted, disk.why
    child = multiprocessing.get_context("spawn").Process(target=prepare, args=(config, end, reserve))
    child.start()
    child.join()
    assert child.exitcode == (-signal.SIGKILL if end == "killed" else 0)
    disk.fill(0)
    assert disk.room == 0
    hub = subprocess.Popen([sys.executable, "-m", "hub", "serve", "--config", str(config)], stdin=subprocess.DEVNULL)
    for line in sys.stdin:
        if line.strip() == "free":
            disk.free()
        elif line.strip() == "end":
            hub.send_signal(signal.SIGTERM)
    return hub.wait(60)


if __name__ == "__main__":
    sys.exit(main())
