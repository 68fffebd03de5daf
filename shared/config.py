"""Read a TOML settings file into a frozen struct; every mistake is one clear line."""

from pathlib import Path
from typing import TypeVar

import msgspec

from shared.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)


def load(path: Path, kind: type[S]) -> S:
    """Decode a TOML file as `kind`; ConfigError names the file, the key and what it should be."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", subject=str(path), remedy="Give the file with --config"
        ) from error
    try:
        return msgspec.toml.decode(data, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            str(error), subject=str(path), remedy="See docs/operations.md for every key and its type"
        ) from error
