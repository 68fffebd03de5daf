"""What a camera believes. A small hub signs here, with real keys; then each rule is broken in turn."""

import base64
import contextlib
import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from shared import manifest
from shared.errors import ExpiredError, ManifestError, OldReleaseError, PartError, ScopeError, SignatureError
from shared.manifest import (
    DELEGATION_TYPE,
    DESIRED_TYPE,
    MAX_SIGNED,
    PLAN_TYPE,
    RELEASE_TYPE,
    Delegation,
    Desired,
    Group,
    Manifest,
    ModelSpec,
    Packed,
    PartSpec,
    Plan,
    Reader,
    Variant,
    check_delegation,
    check_number,
    key_id,
    open_signed,
    open_unsigned,
    public_hex,
    seal,
    sign,
    taken_back,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=30)


def new_key() -> CryptoSigner:
    """A signer whose key id is the one that cameras expect."""
    signer = CryptoSigner.generate_ed25519()
    signer.public_key.keyid = key_id(public_hex(signer))
    return signer


ROOT, RELEASE, STRANGER = new_key(), new_key(), new_key()
PART = PartSpec(sha256="ab" * 32, size=1000)
MODEL = ModelSpec(backbone=PART, head=PART, golden=PART, classes=["crack", "good"])
MANIFEST = Manifest(number=7, created=NOW, expires=LATER, project="cells", model=MODEL, replaces=6)
PLAN = Plan(
    number=3, created=NOW, expires=LATER, project="cells", stage="canary",
    groups=[Group(name="canary", release=7, cameras=["site/cam-1"]), Group(name="rest", release=6)],
)  # fmt: skip
DESIRED = Desired(number=2, created=NOW, expires=LATER, project="cells", camera="site/cam-1", release=6)
READER = Reader(root=public_hex(ROOT), project="cells", camera="site/cam-1", now=NOW, clock_trusted=True)


def delegate(*signers: CryptoSigner, by: CryptoSigner = ROOT, expires: datetime = LATER) -> dict[str, Any]:
    keys = {key_id(public_hex(one)): public_hex(one) for one in signers}
    return sign(Delegation(number=1, created=NOW, expires=expires, keys=keys), DELEGATION_TYPE, by)


DELEGATION = delegate(RELEASE)
GOOD = seal(MANIFEST, RELEASE_TYPE, RELEASE, DELEGATION)


def opened(data: bytes, reader: Reader = READER) -> Manifest:
    return open_signed(data, RELEASE_TYPE, Manifest, reader).body


def other(**fields: object) -> Reader:
    return dataclasses.replace(READER, **fields)  # type: ignore[arg-type]


def changed(part: str, **fields: object) -> bytes:
    wire = json.loads(GOOD)
    wire[part].update(fields)
    return json.dumps(wire).encode()


def payload(struct: msgspec.Struct) -> str:
    return base64.b64encode(msgspec.json.encode(struct)).decode()


# ------------------------------------------------------------------------------------ accepted


def test_a_good_release_is_accepted() -> None:
    assert opened(GOOD) == MANIFEST


def test_a_good_plan_and_a_good_exception_are_accepted() -> None:
    assert open_signed(seal(PLAN, PLAN_TYPE, RELEASE, DELEGATION), PLAN_TYPE, Plan, READER).body == PLAN
    assert open_signed(seal(DESIRED, DESIRED_TYPE, RELEASE, DELEGATION), DESIRED_TYPE, Desired, READER).body == DESIRED


def test_any_of_the_delegated_keys_may_sign() -> None:
    delegation = delegate(STRANGER, RELEASE)
    for one in (STRANGER, RELEASE):
        assert opened(seal(MANIFEST, RELEASE_TYPE, one, delegation)) == MANIFEST


def test_fields_that_the_reader_does_not_know_are_ignored() -> None:
    class Newer(Manifest, frozen=True, kw_only=True):
        novelty: int = 1

    newer = Newer(number=7, created=NOW, expires=LATER, project="cells", model=MODEL, replaces=6)
    assert opened(seal(newer, RELEASE_TYPE, RELEASE, DELEGATION)).number == 7


# ------------------------------------------------------------------------------------ rule 1


def test_oversize() -> None:
    with pytest.raises(ManifestError, match="65536 are allowed"):
        opened(GOOD + b" " * MAX_SIGNED)
    assert opened(GOOD + b" " * (MAX_SIGNED - len(GOOD))) == MANIFEST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"\xff\xff",
        GOOD[:-1],
        GOOD[1:],
        b'{"delegation": 1, "body": 2}',
        b'{"delegation": {}, "body": {}}',
        b"[" * 60_000,
        b'{"delegation": {"x": ' + b"[" * 60_000,
        b'{"delegation": {}, "body": {}, "other": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"v": 2, "delegation": {}, "body": {}}',
    ],
    ids=lambda data: repr(data[:30]),
)
def test_garbage(data: bytes) -> None:
    with pytest.raises(ManifestError, match=r"manifest|delegation"):
        opened(data)


# ------------------------------------------------------------------------------------ rule 2


def test_another_root_is_not_trusted() -> None:
    with pytest.raises(SignatureError, match=r"^delegation: is not signed.*root_key"):
        opened(GOOD, other(root=public_hex(STRANGER)))
    with pytest.raises(SignatureError, match=r"^delegation"):
        opened(seal(MANIFEST, RELEASE_TYPE, RELEASE, delegate(RELEASE, by=STRANGER)))


def test_a_stranger_under_the_roots_key_id_is_not_trusted() -> None:
    impostor = new_key()
    impostor.public_key.keyid = key_id(public_hex(ROOT))
    with pytest.raises(SignatureError, match=r"^delegation"):
        opened(seal(MANIFEST, RELEASE_TYPE, STRANGER, delegate(STRANGER, by=impostor)))


@pytest.mark.parametrize("root", ["", "zz", "ab", "ab" * 31, "ä" * 32])
def test_a_pinned_key_that_is_no_key_trusts_nobody(root: str) -> None:
    with pytest.raises(SignatureError):
        opened(GOOD, other(root=root))


def test_the_release_key_cannot_delegate() -> None:
    with pytest.raises(SignatureError, match=r"^delegation"):
        opened(seal(MANIFEST, RELEASE_TYPE, STRANGER, delegate(STRANGER, by=RELEASE)))


def test_a_delegation_with_other_keys_does_not_keep_the_roots_signature() -> None:
    keys = {key_id(public_hex(STRANGER)): public_hex(STRANGER)}
    forged = payload(Delegation(number=1, created=NOW, expires=LATER, keys=keys))
    with pytest.raises(SignatureError, match=r"^delegation"):
        opened(changed("delegation", payload=forged))


def test_a_release_signed_by_the_root_is_no_delegation() -> None:
    with pytest.raises(SignatureError, match=r"^delegation"):
        opened(seal(MANIFEST, RELEASE_TYPE, RELEASE, sign(MANIFEST, RELEASE_TYPE, ROOT)))


# ------------------------------------------------------------------------------------ rule 3


def test_swapped_keys() -> None:
    with pytest.raises(SignatureError):
        opened(seal(MANIFEST, RELEASE_TYPE, ROOT, delegate(RELEASE, by=RELEASE)))
    with pytest.raises(SignatureError, match=r"^manifest"):
        opened(seal(MANIFEST, RELEASE_TYPE, ROOT, DELEGATION))


def test_a_stranger_cannot_sign() -> None:
    with pytest.raises(SignatureError, match=r"^manifest: is not signed"):
        opened(seal(MANIFEST, RELEASE_TYPE, STRANGER, DELEGATION))


def test_a_key_of_another_delegation_cannot_sign() -> None:
    with pytest.raises(SignatureError):
        opened(seal(MANIFEST, RELEASE_TYPE, RELEASE, delegate(STRANGER)))


def test_nobody_may_sign() -> None:
    with pytest.raises(SignatureError, match="no key"):
        opened(seal(MANIFEST, RELEASE_TYPE, RELEASE, delegate()))


def test_a_tampered_payload() -> None:
    forged = msgspec.structs.replace(MANIFEST, number=9)
    with pytest.raises(SignatureError, match=r"^manifest"):
        opened(changed("body", payload=payload(forged)))


@pytest.mark.parametrize("part", ["delegation", "body"])
def test_every_byte_of_a_signature_counts(part: str) -> None:
    good = bytearray(base64.b64decode(json.loads(GOOD)[part]["signatures"][0]["sig"]))
    for position in (0, 31, 32, 62):
        bad = bytearray(good)
        bad[position] ^= 1
        signatures = [{**json.loads(GOOD)[part]["signatures"][0], "sig": base64.b64encode(bad).decode()}]
        with pytest.raises(SignatureError):
            opened(changed(part, signatures=signatures))


@pytest.mark.parametrize("signatures", [[], {}, None, "x", [1], [{}], [{"sig": "!", "keyid": "x"}], [[]]], ids=repr)
def test_broken_signatures(signatures: object) -> None:
    with pytest.raises(SignatureError):
        opened(changed("body", signatures=signatures))


@pytest.mark.parametrize("kind", [PLAN_TYPE, "", None, 7, "\ud800", {}], ids=ascii)
def test_a_changed_payload_type(kind: object) -> None:
    with pytest.raises(ManifestError if kind == "\ud800" else SignatureError):
        opened(changed("body", payloadType=kind))


@pytest.mark.parametrize(("struct", "kind"), [(PLAN, PLAN_TYPE), (DESIRED, DESIRED_TYPE), (MANIFEST, PLAN_TYPE)])
def test_payload_type_confusion(struct: msgspec.Struct, kind: str) -> None:
    """Signed in good faith as something else: it must not pass as a release."""
    with pytest.raises(SignatureError, match=r"is a application/vnd\.hone\.\w+\+json, expected .*release"):
        opened(seal(struct, kind, RELEASE, DELEGATION))


def test_well_signed_and_not_what_it_says() -> None:
    with pytest.raises(ManifestError, match=r"^manifest: "):
        opened(seal(PLAN, RELEASE_TYPE, RELEASE, DELEGATION))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (msgspec.structs.replace(MODEL, classes=["one"]), "classes"),
        (msgspec.structs.replace(MODEL, head=PartSpec(sha256="../x", size=1)), "sha256"),
        (msgspec.structs.replace(MODEL, head=PartSpec(sha256="ab" * 32 + "\n", size=1)), "sha256"),
        (msgspec.structs.replace(MODEL, head=PartSpec(sha256="ab" * 32, size=2**40)), "size"),
        (msgspec.structs.replace(MODEL, head=PartSpec(sha256="ab" * 32, size=9, chunk_size=1)), "chunk_size"),
    ],
)
def test_a_model_that_no_camera_could_run(model: ModelSpec, says: str) -> None:
    body = msgspec.structs.replace(MANIFEST, model=model)
    with pytest.raises(ManifestError, match=says):
        opened(seal(body, RELEASE_TYPE, RELEASE, DELEGATION))


# ------------------------------------------------------------------------------------ rule 4


def test_wrong_project() -> None:
    with pytest.raises(ScopeError, match="for project cells, this camera serves wafers"):
        opened(GOOD, other(project="wafers"))


def test_wrong_camera() -> None:
    data = seal(DESIRED, DESIRED_TYPE, RELEASE, DELEGATION)
    with pytest.raises(ScopeError, match="for camera site/cam-1, this is site/cam-2"):
        open_signed(data, DESIRED_TYPE, Desired, other(camera="site/cam-2"))


# ------------------------------------------------------------------------------------ rule 5


@pytest.mark.parametrize(("seconds", "accepted"), [(-1, True), (0, False), (1, False)])
def test_expired(seconds: int, accepted: bool) -> None:
    reader = other(now=LATER + timedelta(seconds=seconds))
    if accepted:
        assert opened(GOOD, reader) == MANIFEST
    else:
        with pytest.raises(ExpiredError, match=r"expired at 2026-03-31 12:00 UTC.*clock"):
            opened(GOOD, reader)


def test_without_a_clock_to_trust_expiry_is_not_judged() -> None:
    assert opened(GOOD, other(now=LATER + timedelta(days=9999), clock_trusted=False)) == MANIFEST


def test_an_expired_delegation() -> None:
    data = seal(MANIFEST, RELEASE_TYPE, RELEASE, delegate(RELEASE, expires=NOW - timedelta(days=1)))
    with pytest.raises(ExpiredError, match=r"^delegation 1"):
        opened(data)


def test_an_expiry_is_told_in_utc() -> None:
    there = LATER.astimezone(timezone(timedelta(hours=5)))
    data = seal(msgspec.structs.replace(MANIFEST, expires=there), RELEASE_TYPE, RELEASE, DELEGATION)
    with pytest.raises(ExpiredError, match="2026-03-31 12:00 UTC"):
        opened(data, other(now=LATER + timedelta(days=1)))


def test_what_is_not_ours_is_said_before_that_it_is_old() -> None:
    with pytest.raises(ScopeError):
        opened(GOOD, other(project="wafers", now=LATER + timedelta(days=1)))


# ------------------------------------------------------------------------------------ rule 6


def test_numbers_only_grow() -> None:
    check_number("release", 7, 0)
    check_number("release", 7, 7)
    with pytest.raises(OldReleaseError, match=r"^release 6: is older than 7"):
        check_number("release", 6, 7)


def test_delegations_only_grow() -> None:
    number = open_signed(GOOD, RELEASE_TYPE, Manifest, READER).delegation
    assert number == 1
    check_delegation(number, 0)
    check_delegation(number, 1)
    with pytest.raises(OldReleaseError, match=r"^delegation 1: is older than 2, .*present delegation"):
        check_delegation(number, 2)


def test_a_number_that_failed_is_not_tried_again() -> None:
    check_number("release", 8, 7, frozenset({7}))
    with pytest.raises(OldReleaseError, match=r"^release 7: failed"):
        check_number("release", 7, 7, frozenset({7}))


@pytest.mark.parametrize("number", [0, -1, manifest.MAX_NUMBER + 1, 2**53])
def test_a_number_that_could_not_be_reported_is_refused(number: int) -> None:
    with pytest.raises(ManifestError):
        opened(seal(msgspec.structs.replace(MANIFEST, number=number), RELEASE_TYPE, RELEASE, DELEGATION))


# ------------------------------------------------------------------------------------ rule 7


def test_keys_are_taken_back_when_none_is_left() -> None:
    assert open_signed(GOOD, RELEASE_TYPE, Manifest, READER).keys == (public_hex(RELEASE),)
    both = seal(MANIFEST, RELEASE_TYPE, RELEASE, delegate(RELEASE, STRANGER))
    assert set(open_signed(both, RELEASE_TYPE, Manifest, READER).keys) == {public_hex(RELEASE), public_hex(STRANGER)}
    assert taken_back(("a", "b"), ("c",))
    assert not taken_back(("a", "b"), ("b", "c"))
    assert not taken_back((), ("c",)), "nothing was known before"


# ------------------------------------------------------------------------------------ nobody signed


def test_unsigned_ones_pass_the_rules_that_are_left() -> None:
    bare = msgspec.json.encode(MANIFEST)
    assert open_unsigned(bare, Manifest, READER) == MANIFEST
    for data, reader, kind in (
        (bare, other(project="bottles"), ScopeError),
        (bare, other(now=LATER), ExpiredError),
        (bare + b" " * manifest.MAX_SIGNED, READER, ManifestError),
        (GOOD, READER, ManifestError),
        (b"[" * 5000, READER, ManifestError),
        (b"\xff", READER, ManifestError),
    ):
        with pytest.raises(kind):
            open_unsigned(data, Manifest, reader)


# ------------------------------------------------------------------------------------ the plan


def test_the_first_group_that_holds_a_camera_decides() -> None:
    assert PLAN.group_for("site/cam-1", {}) is PLAN.groups[0]
    assert PLAN.group_for("site/cam-2", {}) is PLAN.groups[1]
    assert msgspec.structs.replace(PLAN, groups=PLAN.groups[:1]).group_for("site/cam-2", {}) is None


def test_parts_by_name() -> None:
    assert list(MODEL.parts()) == ["golden", "backbone", "head"]
    more = msgspec.structs.replace(MODEL, references=MODEL.golden)
    assert list(more.parts()) == ["golden", "backbone", "references", "head"]


def blob(number: int, *, packed: bool = False) -> PartSpec:
    form = Packed(sha256=f"{number:02x}" * 32, size=1) if packed else None
    return PartSpec(sha256=f"{number + 1:02x}" * 32, size=10, packed=form)


def test_each_variant_has_its_own_parts_and_the_hub_publishes_all_of_them() -> None:
    int8 = Variant(backbone=blob(1, packed=True), head=blob(3), golden=blob(5), thresholds=[0.5, 0.5])
    both = msgspec.structs.replace(MODEL, int8=int8)
    assert both.parts() == MODEL.parts() == both.variant().parts()
    assert both.parts("int8") == int8.parts()
    assert both.variant("int8").thresholds == [0.5, 0.5]
    assert both.variant("float").tolerances == MODEL.tolerances
    assert list(both.all_parts()) == [*MODEL.parts(), "int8 golden", "int8 backbone", "int8 head"]
    assert [one.sha256 for one in both.blobs()] == [
        PART.sha256, blob(5).sha256, blob(1).sha256, f"{1:02x}" * 32, blob(3).sha256
    ]  # fmt: skip
    with pytest.raises(PartError, match="variant int8: is not part of this model"):
        MODEL.parts("int8")


def test_what_travels_is_the_packed_blob_in_chunks_of_the_same_size() -> None:
    part = PartSpec(sha256="a" * 64, size=100_000, chunk_size=1024, packed=Packed(sha256="b" * 64, size=3000))
    assert part.travelling() == PartSpec(sha256="b" * 64, size=3000, chunk_size=1024)
    assert part.travelling().travelling() == part.travelling()


def test_who_knows_nothing_of_variants_and_packing_reads_the_rest() -> None:
    """An agent of before, by the fields that it knew."""

    class OldPart(msgspec.Struct):
        sha256: str
        size: int
        chunk_size: int = 65536

    class OldModel(msgspec.Struct):
        backbone: OldPart
        head: OldPart
        golden: OldPart
        classes: list[str]

    packed = blob(1, packed=True)
    new = msgspec.structs.replace(MODEL, head=packed, int8=Variant(backbone=PART, head=PART, golden=PART))
    old = msgspec.json.decode(msgspec.json.encode(new), type=OldModel)
    assert (old.head.sha256, old.head.size) == (packed.sha256, packed.size)
    assert msgspec.json.decode(msgspec.json.encode(old), type=ModelSpec).int8 is None


# ------------------------------------------------------------------------------------ anything at all


def refuses(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        assert opened(data) == MANIFEST, "something else was accepted"


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    refuses(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=150)
def test_any_byte_changed(position: int, flip: int) -> None:
    data = bytearray(GOOD)
    data[position] ^= flip
    refuses(bytes(data))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from([DELEGATION, "AAAA", "ab" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sig", "keyid", "x"]), inner),
    max_leaves=6,
)


@given(
    st.sampled_from(["delegation", "body"]),
    st.sampled_from(["payload", "payloadType", "signatures", "other"]),
    anything,
)
@settings(max_examples=150)
def test_any_value_in_an_envelope(part: str, name: str, value: object) -> None:
    refuses(changed(part, **{name: value}))


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=70) | st.just("ab" * 32), max_size=3))
@settings(max_examples=50)
def test_any_keys_in_a_well_signed_delegation(keys: dict[str, str]) -> None:
    delegation = sign(Delegation(number=1, created=NOW, expires=LATER, keys=keys), DELEGATION_TYPE, ROOT)
    with pytest.raises(SignatureError):
        opened(seal(MANIFEST, RELEASE_TYPE, RELEASE, delegation))


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
@settings(max_examples=50)
def test_any_well_signed_payload(value: object) -> None:
    class Odd(msgspec.Struct):
        number: object

    with pytest.raises(ManifestError):
        opened(seal(Odd(value), RELEASE_TYPE, RELEASE, DELEGATION))


def test_what_is_signed_is_small() -> None:
    assert len(GOOD) < 4096
    assert manifest.MAX_SIGNED <= 64 * 1024
