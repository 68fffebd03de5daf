"""Identifiers: event ids (UUIDv7), boot ids, and names that fit into a topic level."""

import re
import secrets
from datetime import datetime
from uuid import UUID

from shared.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
EVENT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def event_id(at: datetime) -> str:
    """UUIDv7 (RFC 9562, 5.7) of a moment: 48 bits of milliseconds, then random; sorts by time."""
    millis = int(at.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    value = millis << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(UUID(int=value))


def boot_id() -> str:
    """A fresh id for one start of a process: 16 hex digits."""
    return secrets.token_hex(8)


def check_name(name: str, what: str) -> str:
    """Return `name` if it may be one topic level; ConfigError otherwise."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a valid {what}", remedy="Use letters, digits, '.', '_' and '-', 63 at most")
    return name


def check_camera(camera: str) -> str:
    """Return `camera` if it has the form `site/camera`; ConfigError otherwise."""
    site, slash, name = camera.partition("/")
    if not slash:
        raise ConfigError(f"{camera!r} is not a camera", remedy="Write it as site/camera")
    check_name(site, "site")
    check_name(name, "camera name")
    return camera
