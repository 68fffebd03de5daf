"""Keys are private files, made once, and sign what a camera that pins the root believes."""

import json
import os
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
