"""The camera's shelf of models on disk: parts by their hash, what was accepted, and which release to start with.

`state.json` is replaced atomically. A release is counted as started before it is loaded and as good once it ran; one
that was started MAX_STARTS times without ever being good is left for the one before.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import PartError, StoreError
from shared.files import TMP, sha256_hex, write_atomic
from shared.manifest import ModelSpec, PartSpec, VariantName

log = logging.getLogger(__name__)
MAX_STARTS = 3
WELL_FRAMES, WELL_SECONDS = 100, 30.0
"""After so many frames, or so long, a release counts as one that does not kill the agent."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is complete on disk, as far as this variant of it goes."""

    release: int
    model: ModelSpec
    variant: VariantName = "float"


class Reverted(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was left after it had been in use, and why."""

    release: int
    reason: str


class ShelfState(msgspec.Struct, frozen=True, kw_only=True):
    """floor: highest release number ever accepted; plan_floor, desired_floor, delegation_floor: of plans, exceptions
    and delegations.

    failed: release numbers that are not tried again. starts: of `current` since it was last known to be good. trying:
    the release that is being loaded for the first time, and how often it was begun; 0 when none is. good: the release
    that once ran well; power cuts later do not speak against it. triage: of the last plan that could be
    followed, as it came. keys: public keys of the last delegation accepted. signed: the latest time at which something
    accepted was signed. distrusted: `current` was signed by a key that has been taken back since. brought: a release
    that a pack brought and that waits for its plan. trial: the last release that was tried beside another one, and
    trial_starts: how often since it was last known to be good. reverted: the release that was left last, until another
    one is adopted. speeds: variant -> median ms of a prediction when it last ran, see `edge.variant`.
    """

    floor: int = 0
    plan_floor: int = 0
    desired_floor: int = 0
    delegation_floor: int = 0
    desired: int = 0
    current: Kept | None = None
    previous: Kept | None = None
    failed: list[int] = []
    starts: int = 0
    trying: int = 0
    tries: int = 0
    good: int = 0
    triage: dict[str, Any] | None = None
    keys: tuple[str, ...] = ()
    signed: datetime = datetime.fromtimestamp(0, UTC)
    distrusted: bool = False
    brought: Kept | None = None
    trial: Kept | None = None
    trial_starts: int = 0
    reverted: Reverted | None = None
    speeds: dict[str, float] = {}


class Shelf:
    """Parts and state in one folder; used by the reload thread alone, `floor` and `current` by anyone.

    pause: called before a part is read or written, which can take some milliseconds.
    """

    def __init__(self, folder: Path, pause: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._pause = pause
        self._parts = folder / "parts"
        self._file = folder / "state.json"
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            for leftover in self._parts.glob(f"*{TMP}"):
                leftover.unlink()
        except OSError as error:
            raise StoreError(f"cannot be used ({error.strerror})", subject=str(folder)) from error
        try:
            self.state = msgspec.json.decode(self._file.read_bytes(), type=ShelfState)
        except FileNotFoundError:
            self.state = ShelfState()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("%s is damaged (%s); starting without a model, releases are accepted anew", self._file, error)
            self._file.replace(self._file.with_suffix(".damaged"))
            self.state = ShelfState()

    def change(self, **fields: object) -> None:
        """Replace fields of the state, durably."""
        self.state = msgspec.structs.replace(self.state, **fields)
        write_atomic(self._file, msgspec.json.encode(self.state))

    def raise_floors(self, **floors: int | datetime) -> None:
        """Remember numbers and times that were accepted, durably; nothing is written where none of them has grown."""
        grown = {name: one for name, one in floors.items() if one > getattr(self.state, name)}
        if grown:
            self.change(**grown)

    def take_back(self, delegation: int, keys: tuple[str, ...]) -> None:
        """Forget all that was signed by keys which `delegation` no longer names; the model in use stays until another
        one comes, and is not gone back to.
        """
        state = self.state
        self.state = ShelfState(
            current=state.current, starts=state.starts, triage=state.triage, distrusted=state.current is not None
        )
        self.change(delegation_floor=delegation, keys=keys)

    def has(self, part: PartSpec) -> bool:
        """Whether a part is whole on disk; a damaged one is removed."""
        try:
            self.read(part)
        except PartError:
            return False
        return True

    def read(self, part: PartSpec) -> bytes:
        """The bytes of a part; PartError (and the file is removed) when they do not have its hash."""
        path = self._parts / part.sha256
        self._pause()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PartError(f"cannot be read ({error.strerror})", subject=f"model part {part.sha256[:12]}") from error
        if sha256_hex(data) != part.sha256:
            path.unlink()
            raise PartError("is damaged on disk and is fetched again", subject=f"model part {part.sha256[:12]}")
        return data

    def write(self, part: PartSpec, data: bytes) -> None:
        """Keep a part; PartError when the bytes do not have its hash or size."""
        self._pause()
        if len(data) != part.size or sha256_hex(data) != part.sha256:
            raise PartError(
                f"has other bytes ({len(data)}) than the manifest says", subject=f"model part {part.sha256[:12]}"
            )
        write_atomic(self._parts / part.sha256, data)

    def fail(self, release: int) -> None:
        """Never try this release again; the last 100 are remembered."""
        trial = self.state.trial if self.state.trial and self.state.trial.release != release else None
        failed = [*(one for one in self.state.failed if one != release), release][-100:]
        self.change(trying=0, tries=0, failed=failed, trial=trial)

    def try_release(self, release: int) -> None:
        """Mark, durably, that a release is about to be loaded for the first time.

        PartError when that killed the agent MAX_STARTS times: nobody else could tell, after a crash in native code.
        """
        tries = self.state.tries + 1 if self.state.trying == release else 1
        if tries > MAX_STARTS:
            raise PartError(f"ended the agent {MAX_STARTS} times while it was loaded", subject=f"release {release}")
        self.change(trying=release, tries=tries)

    def adopt(self, kept: Kept) -> None:
        """This release runs now; the one before is kept to go back to, and one that is tried and newer.

        Parts of others are deleted.
        """
        state = self.state
        before = state.current if state.current and state.current.release != kept.release else None
        previous = None if state.distrusted else before or state.previous
        trial = state.trial if state.trial and state.trial.release > kept.release else None
        brought = state.brought if state.brought and state.brought.release > kept.release else None
        fresh = {"starts": 0, "trying": 0, "tries": 0, "reverted": None, "distrusted": False}
        self.change(current=kept, previous=previous, trial=trial, brought=brought, **fresh)
        self.sweep()

    def find(self, release: int) -> Kept | None:
        """A release, beside the one in use, whose parts are here."""
        state = self.state
        return next((one for one in (state.trial, state.previous) if one and one.release == release), None)

    def keep_trial(self, kept: Kept) -> None:
        """Keep the parts of this release, which is to be tried beside the one in use; those of the last go."""
        if self.state.trial != kept:
            self.change(trial=kept, trial_starts=0)
        self.sweep()

    def start_trial(self) -> None:
        """Mark, durably, that the release of the trial is about to be loaded beside the one in use.

        PartError when that ended the agent MAX_STARTS times before it had judged enough frames.
        """
        if self.state.trial_starts >= MAX_STARTS:
            release = self.state.trial.release if self.state.trial else 0
            raise PartError(f"ended the agent {MAX_STARTS} times on trial", subject=f"release {release}")
        self.change(trial_starts=self.state.trial_starts + 1)

    def trial_ran_well(self) -> None:
        """The release of the trial has proven that it does not kill the agent."""
        if self.state.trial_starts:
            self.change(trial_starts=0)

    def sweep(self, wanted: Iterable[PartSpec] = ()) -> None:
        """Delete the parts of releases that are not in use, gone back to, tried, brought or wanted."""
        kept = (self.state.current, self.state.previous, self.state.trial, self.state.brought)
        used = {part.sha256 for one in kept if one is not None for part in one.model.parts(one.variant).values()}
        used |= {one.sha256 for one in wanted}
        for path in self._parts.iterdir():
            if path.name not in used:
                path.unlink()

    def to_start(self) -> Kept | None:
        """What to load on boot, counting the start.

        A release that never ran well in MAX_STARTS starts is left for the one before.
        """
        state = self.state
        if state.current is not None and state.current.release != state.good and state.starts >= MAX_STARTS:
            left = Reverted(
                release=state.current.release,
                reason=f"release {state.current.release} never ran well in {state.starts} starts and was left",
            )
            log.error("%s", left.reason)
            self.fail(left.release)
            self.change(current=state.previous, previous=None, starts=0, reverted=left)
        if self.state.current is not None:
            self.change(starts=self.state.starts + 1)
        return self.state.current

    def ran_well(self) -> None:
        """The current release has proven that it does not kill the agent."""
        current = self.state.current.release if self.state.current is not None else 0
        if self.state.starts or self.state.good != current:
            self.change(starts=0, good=current)
