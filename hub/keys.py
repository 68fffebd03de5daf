"""The hub's keys: a root key, pinned by cameras and best kept offline, delegates to the key that signs releases."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey

from shared.clock import Clock
from shared.errors import ConfigError
from shared.files import write_atomic
from shared.manifest import DELEGATION_TYPE, Delegation, key_id, sign

ROOT = "root.pem"
RELEASE = "release.pem"
DELEGATION = "delegation.json"
DELEGATION_DAYS = 3650


@dataclass(frozen=True, slots=True)
class Keys:
    """What signing needs. root_public: hex, for the cameras' `root_key`. delegation: DSSE envelope by the root."""

    root_public: str
    signer: CryptoSigner
    delegation: dict[str, Any]


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
    now = clock.utc()
    delegation = Delegation(
        number=1, created=now, expires=now + timedelta(days=DELEGATION_DAYS), keys={key_id(public): public}
    )
    write_atomic(folder / ROOT, root.private_bytes, mode=0o600)
    write_atomic(folder / RELEASE, release.private_bytes, mode=0o600)
    record = {
        "root": str(root.public_key.keyval["public"]),
        "delegation": sign(delegation, DELEGATION_TYPE, root),
    }
    write_atomic(folder / DELEGATION, msgspec.json.encode(record), mode=0o600)


def load(folder: Path) -> Keys:
    """Read the release key and its delegation; the root key may be elsewhere. ConfigError says what is missing."""
    try:
        record = msgspec.json.decode((folder / DELEGATION).read_bytes())
        signer = CryptoSigner(load_pem_private_key((folder / RELEASE).read_bytes(), None))
        return Keys(str(record["root"]), _named(signer), record["delegation"])
    except FileNotFoundError as error:
        raise ConfigError(
            "has no keys", subject=str(folder), remedy="Make them with: hone-hub keys --config hub.toml"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"keys cannot be read ({error})", subject=str(folder)) from error
