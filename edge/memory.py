"""Memory: how much of the machine's is there for the taking."""

from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def free_mb(meminfo: Path = MEMINFO) -> int | None:
    """MiB that programs can still have without swapping (Linux: MemAvailable); None where nothing tells."""
    try:
        lines = meminfo.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        name, _, amount = line.partition(":")
        if name == "MemAvailable" and amount.split()[:1] and amount.split()[0].isdigit():
            return int(amount.split()[0]) // 1024
    return None
