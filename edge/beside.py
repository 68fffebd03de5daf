"""Beside: bring a second model, whose parts are on the shelf, to run beside the one in use; or say why it cannot."""

import logging
from collections.abc import Callable

from edge.assemble import assemble
from edge.infer import Engine, Running
from edge.memory import free_mb
from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from edge.trial import TrialRun, judge_of
from shared.errors import ReloadError

log = logging.getLogger(__name__)


class ShortOfMemoryError(ReloadError):
    """Not enough for a second backbone, for now."""


def join(
    kept: Kept,
    *,
    engine: Engine,
    shelf: Shelf,
    trial: TrialRun,
    settings: EdgeSettings,
    free: Callable[[], int | None] = free_mb,
) -> None:
    """Load and check a release as for use, and hand it to the trial beside the model in use.

    ShortOfMemoryError where it needs a backbone of its own and there is no room. ModelError where it is no good, or
    ended the agent again and again.
    """
    main = engine.running
    if main is None:
        raise ReloadError("cannot be tried, no release is in use", subject=f"release {kept.release}")
    shelf.keep_trial(kept)
    head_alone = _same_embedding(kept, main)
    needed, room = settings.trial_memory_mb, free()
    if not head_alone and room is not None and room < needed:
        raise ShortOfMemoryError(f"{room} MB of memory free, {needed} needed for a second backbone")
    shelf.start_trial()
    other = assemble(kept, shelf, threads=settings.threads, pause=engine.spare.wait).running
    trial.begin(main.facts, other.facts, judge_of(other, head_alone=head_alone))
    log.info("release %d runs on trial beside release %d", other.release, main.release)
    engine.spare.wait()
    del other  # where its head is enough, its backbone goes: that takes a while


def _same_embedding(kept: Kept, main: Running) -> bool:
    """Whether one pass of the backbone is enough for both heads."""
    return kept.model.backbone.sha256 == main.facts.backbone and kept.model.preprocess == main.model.preprocess
