"""The format of packs: what the standard library's tar reads, and nothing but plain files."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PackError
from shared.manifest import PartSpec
from shared.pack import BLOCK, Member, header, padding, part_name, read_header
from tests.fakes.pack import archive


def test_a_header_comes_back() -> None:
    block = header("head." + "0" * 64, 22_000)
    assert len(block) == BLOCK
    assert read_header(block) == Member("head." + "0" * 64, 22_000)
    assert header("a", 5) == header("a", 5), "no time, no owner: the same pack twice is the same file"


def test_a_pack_is_a_tar_that_others_read() -> None:
    whole = [("manifest.json", b"{}"), ("head.00", bytes(513)), ("golden.00", b"")]
    with tarfile.open(fileobj=io.BytesIO(archive(whole)), mode="r:") as file:
        members = file.getmembers()
        assert [one.name for one in members] == [name for name, _ in whole]
        assert [file.extractfile(one).read() for one in members] == [data for _, data in whole]  # type: ignore[union-attr]


def test_names_fit() -> None:
    assert len(part_name("references", PartSpec(sha256="0" * 64, size=1))) < 100


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_members_begin_at_a_block(size: int) -> None:
    assert (size + padding(size)) % BLOCK == 0
    assert 0 <= padding(size) < BLOCK


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE,
     tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE],
)  # fmt: skip
def test_what_is_no_plain_file_is_refused(kind: bytes) -> None:
    info = tarfile.TarInfo("manifest.json")
    info.type, info.linkname, info.size = kind, "/etc/passwd", 100
    with pytest.raises(PackError, match="no plain file"):
        read_header(info.tobuf(tarfile.USTAR_FORMAT))


def test_a_size_below_zero_is_refused() -> None:
    """GNU tar's own way of writing numbers knows a sign; a reader that adds it to its place reads for ever."""
    info = tarfile.TarInfo("manifest.json")
    info.size = -512
    with pytest.raises(PackError):
        read_header(info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize("block", [b"", b"x", bytes(BLOCK), b"\xff" * BLOCK, header("a", 1)[:-1], b"PK\x03\x04" * 128])
def test_what_is_no_header_is_refused(block: bytes) -> None:
    with pytest.raises(PackError):
        read_header(block)


@given(st.binary(min_size=BLOCK, max_size=BLOCK))
def test_any_block_is_a_pack_error_or_a_member(block: bytes) -> None:
    with contextlib.suppress(PackError):
        assert read_header(block).size >= 0


@given(st.integers(0, BLOCK - 1), st.integers(0, 255))
def test_a_damaged_header_is_a_pack_error_or_the_same(place: int, value: int) -> None:
    block = bytearray(header("head.00", 700))
    block[place] = value
    with contextlib.suppress(PackError):
        assert read_header(bytes(block)).size >= 0
