"""Keys are private files, made once, and sign what a camera that pins the root believes."""

import json
import os
import shutil
from datetime import timedelta

import pytest

from hub import keys
from shared.errors import ConfigError, ExpiredError, SignatureError
from shared.manifest import PLAN_TYPE, RELEASE_TYPE, Group, Plan, Reader, open_signed, seal
from tests.hub.making import NOW

MADE = (keys.ROOT, keys.RELEASE, keys.DELEGATION)


@pytest.fixture
def folder(tmp_path, clock):
    clock.set_utc(NOW)
    keys.make(tmp_path / "keys", clock)
    return tmp_path / "keys"


def plan_by(pair, *, payload_type=PLAN_TYPE):
    plan = Plan(
        number=1, created=NOW, expires=NOW + timedelta(days=1), project="cells", stage="done",
        groups=[Group(name="all", release=1)],
    )  # fmt: skip
    return seal(plan, payload_type, pair.signer, pair.delegation)


def reader(root, now=NOW):
    return Reader(root=root, project="cells", camera="site/cam-1", now=now, clock_trusted=True)


def test_all_files_are_for_the_owner_alone(tmp_path, clock):
    before = os.umask(0)
    try:
        keys.make(tmp_path / "keys", clock)
    finally:
        os.umask(before)
    assert {path.name for path in (tmp_path / "keys").iterdir()} == set(MADE)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "keys").iterdir()} == {"0o600"}
    assert oct((tmp_path / "keys").stat().st_mode & 0o777) == "0o700"


def test_what_is_signed_verifies_under_the_pinned_root(folder):
    pair = keys.load(folder)
    assert open_signed(plan_by(pair), PLAN_TYPE, Plan, reader(pair.root_public)).body.groups[0].release == 1


def test_the_root_key_may_be_taken_away(folder):
    (folder / keys.ROOT).unlink()
    pair = keys.load(folder)
    assert open_signed(plan_by(pair), PLAN_TYPE, Plan, reader(pair.root_public)).body


def test_another_hubs_signature_is_refused(folder, tmp_path, clock):
    keys.make(tmp_path / "other", clock)
    ours, theirs = keys.load(folder), keys.load(tmp_path / "other")
    with pytest.raises(SignatureError):
        open_signed(plan_by(theirs), PLAN_TYPE, Plan, reader(ours.root_public))
    mixed = keys.Keys(ours.root_public, theirs.signer, ours.delegation)
    with pytest.raises(SignatureError):
        open_signed(plan_by(mixed), PLAN_TYPE, Plan, reader(ours.root_public))


def test_a_plan_is_not_taken_for_a_release(folder):
    pair = keys.load(folder)
    with pytest.raises(SignatureError, match="expected"):
        open_signed(plan_by(pair), RELEASE_TYPE, Plan, reader(pair.root_public))


def test_the_delegation_ends_after_its_years(folder):
    pair = keys.load(folder)
    late = NOW + timedelta(days=keys.DELEGATION_DAYS)
    with pytest.raises(ExpiredError):
        open_signed(plan_by(pair), PLAN_TYPE, Plan, reader(pair.root_public, late))


@pytest.mark.parametrize("lost", [(), (keys.DELEGATION,), (keys.ROOT, keys.DELEGATION), (keys.ROOT,)])
def test_no_key_is_ever_overwritten(folder, clock, lost):
    for name in lost:
        (folder / name).unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=r"holds keys already.*Move them away"):
        keys.make(folder, clock)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_missing_keys_say_how_to_make_them(tmp_path):
    with pytest.raises(ConfigError, match=r"has no keys.*hone-hub keys"):
        keys.load(tmp_path)


RSA = """-----BEGIN PRIVATE KEY-----
not a key
-----END PRIVATE KEY-----
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (keys.RELEASE, b"nonsense"),
        (keys.RELEASE, RSA.encode()),
        (keys.DELEGATION, b"{"),
        (keys.DELEGATION, b"[]"),
        (keys.DELEGATION, b"{}"),
        (keys.DELEGATION, json.dumps({"root": "ab"}).encode()),
    ],
)
def test_damaged_keys_are_an_error_of_ours(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.load(folder)


# -- rotation and revocation


def rotated(folder, clock, *, root=None, rotate=True, revoke=False):
    return keys.change(folder, root or folder / keys.ROOT, clock, rotate=rotate, revoke=revoke)


def opened(data, root):
    return open_signed(data, PLAN_TYPE, Plan, reader(root))


def test_a_rotation_makes_a_new_key_and_keeps_the_old_one_delegated(folder, clock):
    old = keys.load(folder)
    new = rotated(folder, clock)
    assert new.root_public == old.root_public
    assert new.number > old.number
    assert new.delegated == [new.signer.public_key.keyid, old.signer.public_key.keyid]
    assert new.delegated[0] != old.delegated[0]
    assert keys.load(folder).delegation == new.delegation
    assert opened(plan_by(new), old.root_public).delegation == new.number
    overlap = keys.Keys(new.root_public, old.signer, new.delegation)
    assert opened(plan_by(overlap), old.root_public).body


def test_a_revoked_key_signs_nothing_under_the_new_delegation(folder, clock):
    old = keys.load(folder)
    new = rotated(folder, clock, revoke=True)
    assert new.delegated == [new.signer.public_key.keyid]
    with pytest.raises(SignatureError):
        opened(plan_by(keys.Keys(new.root_public, old.signer, new.delegation)), old.root_public)


def test_an_overlap_is_ended_without_another_key(folder, clock):
    both = rotated(folder, clock)
    alone = rotated(folder, clock, rotate=False, revoke=True)
    assert alone.number > both.number
    assert alone.delegated == both.delegated[:1]


def test_numbers_grow_also_within_a_minute_and_over_a_restored_backup(folder, clock, tmp_path):
    shutil.copytree(folder, tmp_path / "backup")
    first, second = rotated(folder, clock), rotated(folder, clock)
    assert second.number == first.number + 1
    clock.advance(3600)
    assert rotated(tmp_path / "backup", clock, revoke=True).number > second.number


def test_the_root_key_may_be_elsewhere(folder, clock, tmp_path):
    root = tmp_path / "stick.pem"
    (folder / keys.ROOT).rename(root)
    with pytest.raises(ConfigError, match=r"root\.pem: keys cannot be read"):
        rotated(folder, clock)
    assert rotated(folder, clock, root=root).number > 1
    assert not (folder / keys.ROOT).exists(), "it is not copied to the hub"


def test_another_root_key_is_refused(folder, clock, tmp_path):
    keys.make(tmp_path / "other", clock)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="is not the root key that the cameras of this hub pin"):
        rotated(folder, clock, root=tmp_path / "other" / keys.ROOT)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_hub_that_lost_all_keys_needs_the_root_alone(folder, clock, tmp_path):
    lost = keys.load(folder)
    new = rotated(tmp_path / "new hub", clock, root=folder / keys.ROOT, revoke=True)
    assert new.root_public == lost.root_public
    assert new.number > lost.number
    assert opened(plan_by(new), lost.root_public).body
    with pytest.raises(ConfigError, match="has no keys"):
        rotated(tmp_path / "another", clock, root=folder / keys.ROOT, rotate=False, revoke=True)


def test_new_files_are_for_the_owner_alone(folder, clock):
    before = os.umask(0)
    try:
        rotated(folder, clock)
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == dict.fromkeys(MADE, "0o600")


@pytest.mark.parametrize("cut", ["key", "delegation"])
def test_a_rotation_that_is_cut_short_leaves_keys_that_fit(folder, clock, monkeypatch, cut):
    old = keys.load(folder)

    def power_cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(keys, "_put_in_place" if cut == "delegation" else "_delegate", power_cut)
    with pytest.raises(KeyboardInterrupt):
        rotated(folder, clock, revoke=True)
    monkeypatch.undo()
    now = keys.load(folder)
    assert (now.number == old.number) == (cut == "key")
    assert opened(plan_by(now), old.root_public).body
    again = rotated(folder, clock)
    assert again.delegated[1:] == now.delegated
    assert {path.name for path in folder.iterdir()} == set(MADE)
    assert opened(plan_by(keys.load(folder)), old.root_public).delegation == again.number
