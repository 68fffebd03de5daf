"""A run once more, with the settings and the data that its row names: taken up again, or repeated as another run."""

import msgspec

from hub.dataset import recalled
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Run
from shared.clock import Clock
from shared.errors import TrainError

KEPT_PARTS = ("backbone", "golden", "references", "int8 backbone", "int8 golden", "int8 references")
"""Parts that a repeated run begins with: which release was in use on the day of the first one decided them as well."""
ENDED = ("cancelled", "failed")
"""States of a run that can be taken up again."""


def again(settings: HubSettings, store: Store, run_id: int, clock: Clock) -> int:
    """Queue a run with the settings and the data of an earlier one; returns its id. TrainError when that cannot be."""
    old = _run(settings, store, run_id)
    if not old.snapshot:
        raise TrainError("did not keep its data", subject=f"run {run_id}", remedy="Start a new run")
    _check(settings, store, old)
    with store.write() as session:
        run = Run(
            project=old.project,
            why=f"run {run_id} again",
            created_at=clock.utc(),
            snapshot=old.snapshot,
            settings=old.settings,
            holdout=old.holdout,
            left_out=old.left_out,
            doubt=old.doubt,
            parts={name: old.parts[name] for name in KEPT_PARTS if name in old.parts},
        )
        session.add(run)
        session.flush()
    return run.id or 0


def resume(settings: HubSettings, store: Store, run_id: int) -> None:
    """Queue a cancelled or failed run once more, in its own row, so that it goes on from its checkpoint where one is
    left. One that ended before it had data begins with those of today. TrainError when that cannot be.
    """
    old = _run(settings, store, run_id)
    if old.state in ENDED and old.snapshot:
        _check(settings, store, old)
    with store.write() as session:
        run = session.get(Run, run_id)
        if run is None or run.state not in ENDED:
            raise TrainError(
                "cannot be resumed",
                subject=f"run {run_id}",
                remedy=f"It is {run.state if run else 'gone'}; only a cancelled or failed run can be",
            )
        # Without its pid a process that has not seen yet that it was cancelled loses the row, see `hub.underway.Lease`.
        run.sqlmodel_update(
            {
                "state": "queued",
                "step": "waiting to start",
                "progress": 0.0,
                "attempts": 0,
                "error": "",
                "pid": None,
                "lease_until": None,
                "started_at": None,
                "ended_at": None,
            }
        )
        session.add(run)


def _run(settings: HubSettings, store: Store, run_id: int) -> Run:
    with store.read() as session:
        run = session.get(Run, run_id)
    if run is None or run.project != settings.project.name:
        raise TrainError("does not exist", subject=f"run {run_id}")
    return run


def _check(settings: HubSettings, store: Store, run: Run) -> None:
    """TrainError when the data of a run is gone, or the project is another one now."""
    project = settings.project
    if recalled(store, project.name, project.classes, run.snapshot) is None:
        raise TrainError("did not keep its data", subject=f"run {run.id}", remedy="Start a new run")
    same = {"classes": project.classes, "preprocess": msgspec.to_builtins(project.preprocess)}
    if differ := [name for name, value in same.items() if run.settings.get(name) != value]:
        raise TrainError(
            f"had another project.{' and project.'.join(differ)}", subject=f"run {run.id}", remedy="Set that as it was"
        )
