"""Progress: where a rollout is, as a value, and which cameras that is about. `hub.rollout` has the rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from hub.seen import CameraView
from hub.stages import in_group, read_spec

Kind = Literal["upgrade", "first", "back"]
Stage = Literal["draft", "shadow", "canary", "group", "everyone", "done"]
State = Literal["running", "held", "superseded", "reverted", "aborted"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a rollout is. previous: the release everyone else runs meanwhile, 0 for none. since: of the stage.

    group: the one of `specs` that stage "group" has come to. named: cameras of the groups so far that are a number of
    cameras, one tuple a group. healthy_since: since when all cameras of the stage run it without a break. forgiven:
    cameras whose failure an operator accepted. before_ms: a camera's inference when the rollout began.
    """

    release: int
    previous: int
    stage: Stage
    since: datetime
    kind: Kind = "upgrade"
    state: State = "running"
    reason: str = ""
    shadows: tuple[str, ...] = ()
    canaries: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    group: int = 0
    named: tuple[tuple[str, ...], ...] = ()
    healthy_since: datetime | None = None
    forgiven: tuple[str, ...] = ()
    before_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.stage == "done" or self.state in ("superseded", "reverted", "aborted")

    @property
    def in_use(self) -> bool:
        """Whether a camera may run it, not only beside another."""
        return self.stage in ("canary", "group", "everyone", "done")


def of_stage(progress: Progress, cameras: Sequence[CameraView]) -> list[CameraView]:
    """The cameras that the present stage is about."""
    first = set(progress.shadows if progress.stage == "shadow" else progress.canaries)
    if progress.stage in ("shadow", "canary"):
        return [one for one in cameras if one.name in first]
    if progress.stage == "group":
        specs = [read_spec(one) for one in progress.specs[: progress.group + 1]]
        groups = [(spec, set(named)) for spec, named in zip(specs, progress.named, strict=True)]
        return [
            one
            for one in cameras
            if one.name in first or any(in_group(spec, progress.release, one, named) for spec, named in groups)
        ]
    return list(cameras)


def refused(camera: CameraView, progress: Progress) -> bool:
    """Whether a camera could not take the release."""
    return camera.reload == "failed" and camera.reload_release == progress.release


def left_it(camera: CameraView, progress: Progress) -> bool:
    """Whether a camera went back from the release after it had run it."""
    return camera.reload == "reverted" and camera.reload_release == progress.release
