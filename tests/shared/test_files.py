import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import files

ROOT = Path(__file__).parents[2]


@given(st.integers(0, 10**12), st.integers(1, 1 << 20))
def test_chunk_count_is_the_least_that_holds_all(size: int, chunk_size: int) -> None:
    count = files.chunk_count(size, chunk_size)
    assert count >= 1
    assert count * chunk_size >= size
    assert count == 1 or (count - 1) * chunk_size < size


@given(st.binary(max_size=300), st.integers(1, 70))
def test_chunks_put_together_are_the_bytes(data: bytes, chunk_size: int) -> None:
    parts = list(files.chunks(data, chunk_size))
    assert b"".join(parts) == data
    assert len(parts) == files.chunk_count(len(data), chunk_size)
    assert all(len(part) == chunk_size for part in parts[:-1])
    assert len(parts[-1]) <= chunk_size
    assert parts[-1] or not data


def test_sha256_hex() -> None:
    assert files.sha256_hex(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_write_atomic_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_atomic(path, b"old")
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.json"]


def test_mode_holds_from_the_first_moment(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "secret", b"x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_write_aside_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    aside = files.write_aside(path, b"new")
    assert (aside.name, aside.read_bytes(), path.read_bytes()) == ("x.tmp", b"new", b"old")


def test_a_stale_aside_of_any_length_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.tmp").write_bytes(b"something longer, of a crash")
    files.write_atomic(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write_atomic(tmp_path / "none" / "x", b"new")


def test_target_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write_atomic(tmp_path / "x", b"new")
    assert (tmp_path / "x").is_dir()
    assert os.listdir(tmp_path) == ["x"], "the file written aside is left behind"


FULL_DISK = """
import resource, sys
from pathlib import Path
from shared import files
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    files.write_atomic(Path(sys.argv[1]), b"n" * 100_000)
except OSError as error:
    print("OSError", error.errno)
"""


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("OSError")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


READ_ONLY = """
import os, sys
from pathlib import Path
from shared import files
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    files.write_atomic(Path("x"), b"new")
except OSError as error:
    print(type(error).__name__)
"""


def test_read_only_folder_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    tmp_path.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
    finally:
        tmp_path.chmod(0o755)
    assert done.stdout == "PermissionError\n"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_the_order_is_file_rename_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut between any two steps leaves the old bytes or the new ones."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def spy_replace(source: Path, target: Path) -> None:
        assert source.read_bytes() == b"new"
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    files.write_atomic(tmp_path / "x", b"new")
    assert done == ["file", "rename", "folder"]
