"""The reserve: kept where there is plenty of room, given up where there is none."""

from collections import namedtuple

import pytest

from hub import reserve
from hub.reserve import NAME, RESERVE_BYTES, ROOMY, SCARCE_BYTES, Reserve

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """Have the disk be one of any size."""

    def make(free):
        monkeypatch.setattr(reserve.shutil, "disk_usage", lambda _folder: Usage(1 << 40, 0, free))

    return make


def test_it_takes_its_room_on_the_disk_once(tmp_path, disk):
    disk(ROOMY * RESERVE_BYTES)
    one = Reserve(tmp_path)
    one.keep()
    made = (tmp_path / NAME).stat()
    assert (made.st_size, made.st_mode & 0o777) == (RESERVE_BYTES, 0o600)
    assert made.st_blocks * 512 >= RESERVE_BYTES, "allocated, not a hole"
    Reserve(tmp_path).keep()
    assert (tmp_path / NAME).stat().st_ino == made.st_ino


def test_it_is_not_made_of_the_last_room(tmp_path, disk):
    disk(ROOMY * RESERVE_BYTES - 1)
    Reserve(tmp_path).keep()
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(("free", "there"), [(SCARCE_BYTES, True), (SCARCE_BYTES - 1, False), (0, False)])
def test_it_is_given_up_on_a_full_disk_alone(tmp_path, disk, free, there):
    disk(1 << 40)
    one = Reserve(tmp_path)
    one.keep()
    disk(free)
    one.spend()
    assert (tmp_path / NAME).exists() == there


def test_a_folder_that_is_not_there_has_no_room(tmp_path):
    one = Reserve(tmp_path / "none")
    assert one.room == 0
    one.keep()
    one.spend()
    assert not (tmp_path / "none").exists()
