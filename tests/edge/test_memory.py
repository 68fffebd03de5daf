"""Memory: what the machine says is free, in MiB; nothing where it does not say."""

from pathlib import Path

import pytest

from edge.memory import free_mb


def test_this_machine_says() -> None:
    free = free_mb()
    assert free is not None
    assert free > 0


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("MemTotal:        1024000 kB\nMemFree:           10000 kB\nMemAvailable:      49151 kB\n", 47),
        ("MemAvailable:          0 kB\n", 0),
        ("MemTotal:        1024000 kB\nMemFree:           10000 kB\n", None),
        ("MemAvailable:\n", None),
        ("MemAvailable: much kB\n", None),
        ("", None),
        ("MemAvailable: \N{SUPERSCRIPT TWO} kB\n", None),
    ],
)
def test_what_meminfo_says(tmp_path: Path, text: str, free: int | None) -> None:
    (tmp_path / "meminfo").write_text(text)
    assert free_mb(tmp_path / "meminfo") == free


def test_no_meminfo_at_all(tmp_path: Path) -> None:
    assert free_mb(tmp_path / "meminfo") is None
