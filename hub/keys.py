"""The hub's keys: a root key, pinned by cameras and best kept offline, delegates to the key that signs releases.

A rotation writes the new key aside, then the delegation that names it, then puts the key in its place: whenever it is
cut short, `load` finds a key that the delegation names.
"""

import os
from base64 import b64decode
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey

from shared.clock import Clock
from shared.errors import ConfigError
from shared.files import sync_folder, write_atomic
from shared.manifest import DELEGATION_TYPE, Delegation, Signed, key_id, sign

ROOT = "root.pem"
RELEASE = "release.pem"
NEXT = "release-next.pem"
DELEGATION = "delegation.json"
DELEGATION_DAYS = 3650


@dataclass(frozen=True, slots=True)
class Keys:
    """What signing needs. root_public: hex, for the cameras' `root_key`. delegation: DSSE envelope by the root."""

    root_public: str
    signer: CryptoSigner
    delegation: dict[str, Any]

    def cover(self, envelope: bytes) -> bool:
        """Whether what is sealed there (`shared.manifest.seal`) was signed under this delegation."""
        return bool(msgspec.json.decode(envelope, type=Signed).delegation == self.delegation)

    @property
    def number(self) -> int:
        """Number of the delegation."""
        return _decoded(self.delegation).number

    @property
    def delegated(self) -> list[str]:
        """Ids of the keys that may sign, this hub's first."""
        own = str(self.signer.public_key.keyid)
        return [own, *(one for one in _decoded(self.delegation).keys if one != own)]


def _generate() -> CryptoSigner:
    return _named(CryptoSigner.generate_ed25519())


def _named(signer: CryptoSigner) -> CryptoSigner:
    """The same key under our own id of it."""
    public = str(signer.public_key.keyval["public"])
    key = SSlibKey(key_id(public), "ed25519", "ed25519", {"public": public})
    return CryptoSigner(load_pem_private_key(signer.private_bytes, None), key)


def make(folder: Path, clock: Clock) -> None:
    """Make root key, release key and delegation in `folder` (mode 0600); ConfigError when there are keys already."""
    if any((folder / one).exists() for one in (ROOT, RELEASE, DELEGATION)):
        raise ConfigError("holds keys already", subject=str(folder), remedy="Move them away to start anew")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    root, release = _generate(), _generate()
    public = str(release.public_key.keyval["public"])
    write_atomic(folder / ROOT, root.private_bytes, mode=0o600)
    write_atomic(folder / RELEASE, release.private_bytes, mode=0o600)
    _delegate(folder, root, 1, {key_id(public): public}, clock)


def change(folder: Path, root_file: Path, clock: Clock, *, rotate: bool, revoke: bool) -> Keys:
    """Sign a new delegation with the root key. rotate: to a new release key. revoke: to this hub's release key alone.

    Without `revoke` the keys that were delegated stay so. Where the hub lost all its keys, the root key is enough to
    rotate. ConfigError when a key is missing or is not ours.
    """
    root, before = _read(root_file), None
    if (folder / DELEGATION).exists() or not rotate:
        before = load(folder)
        if str(root.public_key.keyval["public"]) != before.root_public:
            raise ConfigError(
                "is not the root key that the cameras of this hub pin",
                subject=str(root_file),
                remedy=f"Give the one whose public key is {before.root_public}",
            )
        if str(_read(folder / RELEASE).public_key.keyid) != before.delegated[0]:
            _put_in_place(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    signer = before.signer if before is not None and not rotate else _generate()
    own = str(signer.public_key.keyval["public"])
    others = {} if before is None or revoke else _decoded(before.delegation).keys
    # Above the last one, and above those that a restored backup does not know: by the minute since 1970.
    number = max(1 if before is None else before.number + 1, int(clock.utc().timestamp() // 60))
    if rotate:
        write_atomic(folder / NEXT, signer.private_bytes, mode=0o600)
    _delegate(folder, root, number, {key_id(own): own} | others, clock)
    if rotate:
        _put_in_place(folder)
    return load(folder)


def _put_in_place(folder: Path) -> None:
    """The last step of a rotation."""
    os.replace(folder / NEXT, folder / RELEASE)
    sync_folder(folder)


def changed_at(folder: Path) -> int:
    """When the delegation was last written (ns of its file); 0 where there is none."""
    try:
        return (folder / DELEGATION).stat().st_mtime_ns
    except OSError:
        return 0


def load(folder: Path) -> Keys:
    """Read the release key and its delegation; the root key may be elsewhere. ConfigError says what is missing."""
    try:
        record = msgspec.json.decode((folder / DELEGATION).read_bytes())
        keys = Keys(str(record["root"]), _read(folder / RELEASE), record["delegation"])
        if (folder / NEXT).exists():  # a rotation was cut short
            following = _read(folder / NEXT)
            if following.public_key.keyid in _decoded(keys.delegation).keys:
                return Keys(keys.root_public, following, keys.delegation)
        return keys
    except FileNotFoundError as error:
        raise ConfigError(
            "has no keys", subject=str(folder), remedy="Make them with: hone-hub keys --config hub.toml"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"keys cannot be read ({error})", subject=str(folder)) from error


def _read(file: Path) -> CryptoSigner:
    """A private key from a file; ConfigError says which cannot be read."""
    try:
        return _named(CryptoSigner(load_pem_private_key(file.read_bytes(), None)))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"keys cannot be read ({error})", subject=str(file)) from error


def _decoded(delegation: dict[str, Any]) -> Delegation:
    """What is in our own delegation's envelope."""
    return msgspec.json.decode(b64decode(delegation["payload"]), type=Delegation)


def _delegate(folder: Path, root: CryptoSigner, number: int, keys: dict[str, str], clock: Clock) -> None:
    """Write the delegation of these keys, signed by the root key."""
    now = clock.utc()
    delegation = Delegation(number=number, created=now, expires=now + timedelta(days=DELEGATION_DAYS), keys=keys)
    record = {
        "root": str(root.public_key.keyval["public"]),
        "delegation": sign(delegation, DELEGATION_TYPE, root),
    }
    write_atomic(folder / DELEGATION, msgspec.json.encode(record), mode=0o600)
