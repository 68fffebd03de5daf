"""What the page may ask of the daemon beside it; the web never trains, signs or publishes by itself."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HubState:
    """How the daemon is. broker: connected to it. errors: counts by code since start.
    up, down: bytes of MQTT payload."""

    broker: bool
    boot: str
    errors: dict[str, int]
    up: int
    down: int
    version: str


class Actions(Protocol):
    """Commands of the daemon; each raises a HoneError that says why not."""

    def state(self) -> HubState:
        """How the daemon is right now."""
        ...

    def start_run(self, why: str) -> int:
        """Queue a training run; returns its id. TrainError when one is under way already."""
        ...

    def cancel_run(self, run_id: int) -> None:
        """Cancel a queued or running run."""
        ...

    def resume_run(self, run_id: int) -> None:
        """Queue a cancelled or failed run once more, to go on from its checkpoint; TrainError when that cannot be."""
        ...

    def repeat_run(self, run_id: int) -> int:
        """Queue a run with the settings and data of this one; returns its id. TrainError when that cannot be."""
        ...

    def release_run(self, run_id: int, note: str, start: bool = True) -> int:
        """Release the model of a finished run; returns its number. start: its rollout begins when its turn comes."""
        ...

    def ask_preview(self, preview_id: int) -> None:
        """Have the image of a preview sent, as soon as its camera is there. Nothing where it is gone or stored."""
        ...

    def resume_rollout(self) -> None:
        """Let a held rollout go on, or a held draft have its turn; RolloutError when there is none."""
        ...

    def pause_rollout(self) -> None:
        """Hold the rollout under way; RolloutError when there is none."""
        ...

    def promote_rollout(self) -> None:
        """Let the rollout under way into its next stage, whatever has been proven; RolloutError when there is none."""
        ...

    def abort_rollout(self, why: str) -> None:
        """End the rollout under way, or a draft; what is in use goes back to the model before. RolloutError."""
        ...

    def exempt(self, camera: str, release: int, reason: str, operator: str) -> None:
        """One release for one camera, whatever the plan says; release 0 ends that. RolloutError."""
        ...
