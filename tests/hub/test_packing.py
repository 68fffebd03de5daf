"""A pack holds what cameras take: signed under the delegation in force, each part whole."""

from datetime import timedelta

import pytest

from edge.pack import PackFile
from hub import keys, release
from hub.packing import write_pack
from shared.errors import ConfigError, StoreError
from shared.manifest import RELEASE_TYPE, Manifest, Reader, open_signed, open_unsigned
from tests.hub.making import NOW
from tests.hub.test_release import BACKBONE, GOLDEN, finished_run


@pytest.fixture
def folder(settings, clock):
    clock.set_utc(NOW)
    keys.make(settings.state_folder / "keys", clock)
    return settings.state_folder / "keys"


@pytest.fixture
def released(store, folder, clock):
    """Release 1, signed when the hub was new."""
    run = finished_run(store, b"head" * 200)
    with store.write() as session:
        release.create(session, run, release.model_of(run, store), keys.load(folder), now=clock.utc(), days=30)
    return folder


def reader(folder, now):
    return Reader(keys.load(folder).root_public, "cells", "site/cam-1", now, clock_trusted=True)


def test_a_pack_of_a_release(settings, store, released, clock, tmp_path):
    path = tmp_path / "out" / "one.pack"
    path.parent.mkdir()
    clock.advance(29 * 86400)
    assert write_pack(settings, store, 1, path, clock, days=90) == path.stat().st_size
    with PackFile(path) as pack:
        data, signed = pack.manifest()
        assert signed
        manifest = open_signed(data, RELEASE_TYPE, Manifest, reader(released, clock.utc() + timedelta(days=89))).body
        found = {name: pack.part(name, spec) for name, spec in manifest.model.parts().items()}
    assert found == {"backbone": BACKBONE, "head": b"head" * 200, "golden": GOLDEN}
    assert manifest.number == 1
    assert [one.name for one in path.parent.iterdir()] == ["one.pack"]


def test_it_is_signed_under_the_delegation_in_force(settings, store, released, clock, tmp_path):
    number = keys.change(released, released / keys.ROOT, clock, rotate=True, revoke=True).number
    write_pack(settings, store, 1, tmp_path / "one.pack", clock, days=90)
    with PackFile(tmp_path / "one.pack") as pack:
        opened = open_signed(pack.manifest()[0], RELEASE_TYPE, Manifest, reader(released, clock.utc()))
    assert opened.delegation == number


def test_the_same_release_is_the_same_pack(settings, store, released, clock, tmp_path):
    for name in ("one", "two"):
        write_pack(settings, store, 1, tmp_path / name, clock, days=90)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_unsigned_pack_needs_no_keys(settings, store, released, clock, tmp_path):
    for one in released.iterdir():
        one.unlink()
    write_pack(settings, store, 1, tmp_path / "one.pack", clock, days=90, signed=False)
    with PackFile(tmp_path / "one.pack") as pack:
        data, signed = pack.manifest()
    assert not signed
    who = Reader("0" * 64, "cells", "site/cam-1", clock.utc(), clock_trusted=True)
    assert open_unsigned(data, Manifest, who).number == 1
    with pytest.raises(ConfigError, match="has no keys"):
        write_pack(settings, store, 1, tmp_path / "one.pack", clock, days=90)


def test_what_cannot_be_packed(settings, store, released, clock, tmp_path):
    with pytest.raises(StoreError, match="release 2: does not exist"):
        write_pack(settings, store, 2, tmp_path / "one.pack", clock, days=90)
    with pytest.raises(StoreError, match="cannot be written"):
        write_pack(settings, store, 1, tmp_path / "nowhere" / "one.pack", clock, days=90)
    (tmp_path / "old.pack").write_bytes(b"old")
    with store.read() as session:
        part = release.manifest_of(session.get(release.Release, 1)).model.head.sha256
    store.blobs.path(part).unlink()
    with pytest.raises(StoreError):
        write_pack(settings, store, 1, tmp_path / "old.pack", clock, days=90)
    assert (tmp_path / "old.pack").read_bytes() == b"old", "half a pack is none"
    assert {one.name for one in tmp_path.glob(".*")} == set()
