"""What a camera believes: signed manifests and plans. Bytes in, an accepted struct or a typed error out.

The rules, in this order:

1. Not longer than MAX_SIGNED bytes, and well-formed.
2. The delegation is signed by the pinned root key (DSSE, Ed25519).
3. The body is signed by a key that the delegation names, and its DSSE payload type is the expected one.
4. The body is meant for this project (and for this camera where it names one).
5. Neither has expired. Judged only here, on acceptance, and only when the clock can be trusted.
6. Numbers only grow: a lower release, plan or delegation than one accepted before is refused; so is a release under
   the number of one that was left because it failed.
7. A newer delegation that names none of the keys of the one before takes back what those keys signed: their numbers
   do not count any more. Who stole one may have raised them to the highest there is.

Source of the envelope: DSSE v1 (in-toto), of the rules: TUF 1.0, sections 5.3 to 5.6, as far as they apply.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as DsseError
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from shared.errors import ExpiredError, ManifestError, OldReleaseError, PartError, ScopeError, SignatureError
from shared.golden import Tolerances
from shared.messages import Count, Name, Positive, Sha256, UtcTime
from shared.preprocess import Preprocess

MAX_SIGNED = 64 * 1024
DELEGATION_TYPE = "application/vnd.hone.delegation+json"
RELEASE_TYPE = "application/vnd.hone.release+json"
PLAN_TYPE = "application/vnd.hone.plan+json"
DESIRED_TYPE = "application/vnd.hone.desired+json"
MAX_PART = 256 * 1024 * 1024
MAX_CHUNK = 1 << 20
MAX_NUMBER = 999_999_999
"""No plan and no release has a higher number: a camera could not report it."""
NOBODY = "-"
"""In a group's `cameras`: no camera has this name."""


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """The zlib stream of a part, a blob of its own: see `shared.packed`."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=1, le=MAX_PART)]


class PartSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One content-addressed blob: its hash, bytes, and the bytes of each retained chunk but the last.

    packed: the same bytes in fewer, under a hash of their own; None: there is nothing to be saved. The part is known
    and checked by its own hash, however it travelled.
    """

    sha256: Sha256
    size: Annotated[int, Meta(ge=1, le=MAX_PART)]
    chunk_size: Annotated[int, Meta(ge=256, le=MAX_CHUNK)] = 65536
    packed: Packed | None = None

    def travelling(self) -> "PartSpec":
        """The blob that a camera fetches for this part."""
        if self.packed is None:
            return self
        return PartSpec(sha256=self.packed.sha256, size=self.packed.size, chunk_size=self.chunk_size)


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """What depends on how the backbone computes; fields as in `ModelSpec`.

    tolerances: wider than those of float, since runtimes round int8 otherwise. Between LiteRT and tflite-runtime 2.14
    on x86 60 images of solar cells were apart by a cosine of 0.9978 and a probability of 0.052 at most.
    """

    backbone: PartSpec
    head: PartSpec
    golden: PartSpec
    references: PartSpec | None = None
    golden_probabilities: list[list[float]] = []
    tolerances: Tolerances = Tolerances(min_cosine=0.99, max_probability_difference=0.1)
    thresholds: list[Annotated[float, Meta(gt=0, le=1)]] = []

    def parts(self) -> dict[str, PartSpec]:
        """The parts by name, in the order in which they are fetched."""
        more = {"references": self.references} if self.references is not None else {}
        return {"golden": self.golden, "backbone": self.backbone, **more, "head": self.head}


VariantName = Literal["float", "int8"]


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model: its parts, classes in order of the head's outputs, preprocessing, and what it must compute.

    golden_probabilities: what the head gives for each golden input, [inputs][classes]. references: embeddings that
    stand for the training images, see `shared.references`; None: cameras cannot tell what is new. thresholds: one a
    class; the label is the class whose probability is the largest multiple of its threshold. Empty: the most probable
    class. int8: the same model with whole numbers inside, its head made for it; None: there is none.
    """

    backbone: PartSpec
    head: PartSpec
    golden: PartSpec
    references: PartSpec | None = None
    classes: Annotated[list[str], Meta(min_length=2, max_length=1000)]
    preprocess: Preprocess = Preprocess()
    golden_probabilities: list[list[float]] = []
    tolerances: Tolerances = Tolerances()
    thresholds: list[Annotated[float, Meta(gt=0, le=1)]] = []
    int8: Variant | None = None

    def variant(self, name: VariantName = "float") -> Variant:
        """What a camera runs that goes by this variant; PartError when the model does not have it."""
        if name == "int8":
            if self.int8 is None:
                raise PartError("is not part of this model", subject="variant int8", remedy="Run its float variant")
            return self.int8
        return Variant(
            backbone=self.backbone,
            head=self.head,
            golden=self.golden,
            references=self.references,
            golden_probabilities=self.golden_probabilities,
            tolerances=self.tolerances,
            thresholds=self.thresholds,
        )

    def parts(self, variant: VariantName = "float") -> dict[str, PartSpec]:
        """The parts by name that this variant needs, in the order in which they are fetched; PartError as above."""
        return self.variant(variant).parts()

    def all_parts(self) -> dict[str, PartSpec]:
        """The parts of all variants; those of int8 are named so."""
        int8 = self.int8.parts() if self.int8 is not None else {}
        return {**self.parts(), **{f"int8 {name}": one for name, one in int8.items()}}

    def blobs(self) -> list[PartSpec]:
        """All that is published for this model, each once: parts as they are, for cameras that cannot unpack, and
        packed ones.
        """
        parts = self.all_parts().values()
        return list({blob.sha256: blob for one in parts for blob in (one, one.travelling())}.values())


class _Dated(msgspec.Struct, frozen=True, kw_only=True):
    v: Literal[1] = 1
    number: Positive
    created: UtcTime
    expires: UtcTime


class Delegation(_Dated, frozen=True, kw_only=True):
    """The root key names the keys that may sign releases and plans. keys: id -> raw Ed25519 public key in hex."""

    keys: dict[str, str]


class Manifest(_Dated, frozen=True, kw_only=True):
    """A release: a number that only grows and the model under it. replaces: the number it was compared with."""

    number: Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
    project: Name
    model: ModelSpec
    replaces: Count = 0
    note: Annotated[str, Meta(max_length=2000)] = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A second model that a camera runs beside its own, in spare time and for comparison alone.

    release: its number. share: of all frames, drawn at random, that both models judge. ask: frames that the two call
    by different labels become events, see `shared.policy.PAIR`.
    """

    release: Positive
    share: Annotated[float, Meta(gt=0, le=1)]
    ask: bool = False


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Which cameras run which release. A camera is in it that is named, or that has the labels and the place.

    cameras: `site/camera` names. labels: a camera must have all of these among its own. percent: its place in this
    release's order (`place_of`) must be below. With neither names nor labels nor percent: every other camera.
    trial: what these cameras compare their model with. An older agent knows only `cameras`: where labels or percent
    decide, these hold NOBODY, so that it takes the group for one of other cameras.
    """

    name: Name
    release: Positive
    cameras: list[str] = []
    labels: dict[str, str] = {}
    percent: Annotated[float, Meta(ge=0, le=100)] | None = None
    trial: Trial | None = None

    def holds(self, camera: str, labels: Mapping[str, str]) -> bool:
        """Whether a camera of this name, with these labels, is in the group."""
        if camera in self.cameras:
            return True
        if not self.labels and self.percent is None:
            return not self.cameras
        have = labels_of(camera, labels)
        labelled = all(have.get(name) == value for name, value in self.labels.items())
        return labelled and (self.percent is None or place_of(self.release, camera) < self.percent)


class Plan(_Dated, frozen=True, kw_only=True):
    """The way of releases through a project's fleet. The first group that holds a camera decides.

    triage: which frames become events, by every camera of the project, as `shared.policy.to_wire` writes it; None: each
    goes by its own settings. Read apart, by `from_wire`: what a camera cannot follow must not keep it from its release.
    """

    number: Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
    project: Name
    stage: str
    groups: list[Group]
    triage: dict[str, Any] | None = None

    def group_for(self, camera: str, labels: Mapping[str, str]) -> Group | None:
        """The first group that holds this camera; None when the plan does not speak of it."""
        return next((one for one in self.groups if one.holds(camera, labels)), None)


class Desired(_Dated, frozen=True, kw_only=True):
    """A signed exception: this camera runs that release, with a reason; release 0 ends the exception."""

    project: Name
    camera: str
    release: Count
    reason: str = ""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """On the wire: the root's delegation and the body, both DSSE envelopes in JSON form."""

    v: Literal[1] = 1
    delegation: dict[str, Any]
    body: dict[str, Any]


def labels_of(camera: str, own: Mapping[str, str]) -> dict[str, str]:
    """The labels by which a camera is grouped: its own, and `site`, the first part of its name."""
    return {**own, "site": camera.partition("/")[0]}


def place_of(release: int, camera: str) -> float:
    """A camera's place in the order of a release, 0 to below 100: another order with each release, the same for ever.

    The first 8 bytes of the SHA-256 of "release/camera", as a share of all that there are.
    """
    first = hashlib.sha256(f"{release}/{camera}".encode()).digest()[:8]
    return int.from_bytes(first, "big") / 2**64 * 100


@dataclass(frozen=True, slots=True)
class Reader:
    """What a camera pins and knows: root public key (hex), its project and name, the time and if that is trusted."""

    root: str
    project: str
    camera: str
    now: datetime
    clock_trusted: bool


B = TypeVar("B", bound=_Dated)


@dataclass(frozen=True, slots=True)
class Opened(Generic[B]):
    """What passed rules 1 to 5. delegation, keys: number and public keys of the one under which it was signed."""

    body: B
    delegation: int
    keys: tuple[str, ...]


def key_id(public: str) -> str:
    """Name of a public key: the first 16 hex digits of its hex form."""
    return public[:16]


def sign(body: msgspec.Struct, payload_type: str, signer: CryptoSigner) -> dict[str, Any]:
    """Wrap a struct in a DSSE envelope signed by `signer`; returns its JSON form."""
    envelope = Envelope(msgspec.json.encode(body), payload_type, {})
    envelope.sign(signer)
    wrapped: dict[str, Any] = envelope.to_dict()
    return wrapped


def seal(body: msgspec.Struct, payload_type: str, signer: CryptoSigner, delegation: dict[str, Any]) -> bytes:
    """The bytes that travel: the body's envelope with the delegation that lets `signer` sign it."""
    return msgspec.json.encode(Signed(delegation=delegation, body=sign(body, payload_type, signer)))


def public_hex(signer: CryptoSigner) -> str:
    """Raw Ed25519 public key of a signer, in hex."""
    return str(signer.public_key.keyval["public"])


def open_signed(data: bytes, payload_type: str, kind: type[B], reader: Reader) -> Opened[B]:
    """Apply rules 1 to 5 to bytes from the broker or a pack; a ManifestError says which one failed."""
    what = kind.__name__.lower()
    if len(data) > MAX_SIGNED:
        raise ManifestError(f"has {len(data)} bytes, {MAX_SIGNED} are allowed", subject=what)
    try:
        signed = msgspec.json.decode(data, type=Signed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"is not a signed message ({error})", subject=what) from error
    delegation = _open(signed.delegation, DELEGATION_TYPE, Delegation, {key_id(reader.root): reader.root})
    body = _open(signed.body, payload_type, kind, delegation.keys)
    _check_meant(body, what, reader)
    _check_fresh([(delegation, "delegation"), (body, what)], reader)
    return Opened(body, delegation.number, tuple(sorted(delegation.keys.values())))


def open_unsigned(data: bytes, kind: type[B], reader: Reader) -> B:
    """Apply rules 1, 4 and 5 to a body that nobody signed; only where that was asked for. ManifestError."""
    what = kind.__name__.lower()
    if len(data) > MAX_SIGNED:
        raise ManifestError(f"has {len(data)} bytes, {MAX_SIGNED} are allowed", subject=what)
    try:
        body = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(str(error), subject=what) from error
    _check_meant(body, what, reader)
    _check_fresh([(body, what)], reader)
    return body


def _check_meant(body: _Dated, what: str, reader: Reader) -> None:
    """Rule 4."""
    project = getattr(body, "project", reader.project)
    if project != reader.project:
        raise ScopeError(f"is for project {project}, this camera serves {reader.project}", subject=what)
    camera = getattr(body, "camera", reader.camera)
    if camera != reader.camera:
        raise ScopeError(f"is for camera {camera}, this is {reader.camera}", subject=what)


def _check_fresh(all_dated: Sequence[tuple[_Dated, str]], reader: Reader) -> None:
    """Rule 5."""
    if reader.clock_trusted:
        for dated, name in all_dated:
            if dated.expires <= reader.now:
                raise ExpiredError(
                    f"expired at {dated.expires:%Y-%m-%d %H:%M} UTC",
                    subject=f"{name} {dated.number}",
                    remedy="Have the hub sign it again, or check this machine's clock",
                )


def check_delegation(number: int, floor: int) -> None:
    """Rule 6: OldReleaseError when a delegation's `number` is below `floor`: its keys may be in other hands by now."""
    if number < floor:
        raise OldReleaseError(
            f"is older than {floor}, which was accepted before",
            subject=f"delegation {number}",
            remedy="Have the hub sign under its present delegation",
        )


def taken_back(before: Collection[str], now: Collection[str]) -> bool:
    """Rule 7: whether a newer delegation's keys leave none of the public keys `before`, where any are known."""
    return bool(before) and not set(before) & set(now)


def check_number(what: str, number: int, floor: int, failed: frozenset[int] = frozenset()) -> None:
    """Rule 6: OldReleaseError when `number` is below `floor`, or among those that failed here."""
    if number < floor:
        raise OldReleaseError(
            f"is older than {floor}, which was accepted before",
            subject=f"{what} {number}",
            remedy="To go back, release the old model under a new number",
        )
    if number in failed:
        raise OldReleaseError(
            "failed on this camera before and is not tried again",
            subject=f"{what} {number}",
            remedy="Release it under a new number",
        )


def _open(wrapped: dict[str, Any], payload_type: str, kind: type[B], keys: dict[str, str]) -> B:
    """Check one envelope against keys (id -> public hex) and decode its payload."""
    what = kind.__name__.lower()
    try:
        envelope = Envelope.from_dict(wrapped)
        known: list[Key] = [SSlibKey(one, "ed25519", "ed25519", {"public": public}) for one, public in keys.items()]
        if not known:
            raise SignatureError("no key may sign this", subject=what)
        envelope.verify(known, 1)
    except (VerificationError, UnverifiedSignatureError) as error:
        raise SignatureError(
            "is not signed by a key that this camera trusts",
            subject=what,
            remedy="Check that the hub's keys and the camera's root_key belong together",
        ) from error
    except (DsseError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise SignatureError(f"is not a DSSE envelope ({error})", subject=what) from error
    if envelope.payload_type != payload_type:
        raise SignatureError(f"is a {envelope.payload_type}, expected {payload_type}", subject=what)
    try:
        return msgspec.json.decode(envelope.payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(str(error), subject=what) from error
