"""Every error that Hone raises on purpose.

    HoneError
    ├── ConfigError          a settings file or argument is wrong
    │   └── SettingError     a value that a setting cannot have, or no setting
    ├── MessageError         bytes on a topic that do not mean what the topic says
    │   └── TopicError       a topic that is not one of ours
    ├── UnknownCameraError   a camera that the hub was not told to accept
    ├── TransferError        an upload that breaks the protocol
    │   ├── ChunkError       a chunk out of range, of the wrong length, or of no known event
    │   ├── HashMismatchError  bytes that do not have the announced sha256
    │   └── TooLargeError    more bytes than a limit allows
    ├── ManifestError        a release or plan that must not be accepted
    │   ├── SignatureError   not signed by whom we trust
    │   ├── OldReleaseError  a number that was passed already
    │   ├── ExpiredError     accepted too late
    │   └── ScopeError       meant for another project or camera
    ├── PackError            a file that is no model pack
    ├── ModelError           a model part that cannot be used
    │   ├── PartError        missing, damaged, or does not load
    │   └── GoldenError      loads, but does not compute what the hub computed
    ├── ReloadError          a release that could not be taken now, and is tried again
    ├── ImageError           bytes that are not an image we can decode
    ├── StoreError           the database, a blob or the disk failed us
    ├── SpoolError           the camera's disk queue failed us
    ├── BrokerError          no broker, or it refused us
    ├── PortInUseError       an address that another program holds
    ├── TrainError           a run that cannot start or did not finish
    │   └── RunCancelledError  a run that an operator, or another process, took away
    ├── RolloutError         a rollout, or an exception from it, that cannot be as it was asked for
    └── LabelError           a label that names no image or no class

An error says what happened, to what, and what to do. `code` is the short, stable name under which it is counted.
"""

import re
from collections.abc import Mapping


class HoneError(Exception):
    """What happened, to what, and what to do, in one line; `code` names the kind for counters."""

    def __init__(self, what: str, *, subject: str = "", remedy: str = "") -> None:
        self.what = what
        self.subject = subject
        self.remedy = remedy
        text = f"{subject}: {what}" if subject else what
        super().__init__(f"{text}. {remedy}" if remedy else text)

    @property
    def code(self) -> str:
        """The class name in snake case without `Error`, for example `hash_mismatch`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__.removesuffix("Error")).lower()


class ConfigError(HoneError):
    """A settings file or argument is wrong."""


class SettingError(ConfigError):
    """A value that a setting cannot have, or no setting. fields: of each key what is wrong and what is allowed."""

    def __init__(
        self, what: str, *, subject: str = "", remedy: str = "", fields: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what, subject=subject, remedy=remedy)
        self.fields = dict(fields or {})


class MessageError(HoneError):
    """Bytes on a topic that do not mean what the topic says."""


class TopicError(MessageError):
    """A topic that is not one of ours."""


class UnknownCameraError(HoneError):
    """A camera that the hub was not told to accept."""


class TransferError(HoneError):
    """An upload that breaks the protocol."""


class ChunkError(TransferError):
    """A chunk out of range, of the wrong length, or of no known event."""


class HashMismatchError(TransferError):
    """Bytes that do not have the announced sha256."""


class TooLargeError(TransferError):
    """More bytes than a limit allows."""


class ManifestError(HoneError):
    """A release or plan that must not be accepted."""


class SignatureError(ManifestError):
    """Not signed by whom we trust."""


class OldReleaseError(ManifestError):
    """A number that was passed already."""


class ExpiredError(ManifestError):
    """Accepted too late."""


class ScopeError(ManifestError):
    """Meant for another project or camera."""


class PackError(HoneError):
    """A file that is no model pack."""


class ModelError(HoneError):
    """A model part that cannot be used."""


class PartError(ModelError):
    """Missing, damaged, or does not load."""


class GoldenError(ModelError):
    """Loads, but does not compute what the hub computed."""


class ReloadError(HoneError):
    """A release that could not be taken now, and is tried again."""


class ImageError(HoneError):
    """Bytes that are not an image we can decode."""


class StoreError(HoneError):
    """The database, a blob or the disk failed us."""


class SpoolError(HoneError):
    """The camera's disk queue failed us."""


class BrokerError(HoneError):
    """No broker, or it refused us."""


class PortInUseError(HoneError):
    """An address that another program holds."""


class TrainError(HoneError):
    """A run that cannot start or did not finish."""


class RunCancelledError(TrainError):
    """A run that an operator, or another process, took away."""


class RolloutError(HoneError):
    """A rollout, or an exception from it, that cannot be as it was asked for."""


class LabelError(HoneError):
    """A label that names no image or no class."""
