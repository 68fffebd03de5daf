"""Rollouts: releases on their way through the fleet, with the database and the signatures that this takes.

The rules are in `hub.rollout`. One rollout is under way at a time; later releases wait as drafts, and when their turn
comes the newest one begins and the older ones are superseded. The one under way, or the last that was, is the row with
the highest plan number. What is reverted is followed at once by a release of the model before, under a new number.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from hub import evidence, exemptions, release, rollout, signing
from hub.keys import Keys
from hub.progress import Progress
from hub.registry import Registry
from hub.seen import CameraView
from hub.settings import HubSettings, RolloutSettings
from hub.store import Store
from hub.tables import Exemption, Release, Rollout, Run
from shared.clock import Clock
from shared.errors import RolloutError
from shared.manifest import ModelSpec

log = logging.getLogger(__name__)
Word = Callable[[Progress, Sequence[CameraView], RolloutSettings, datetime], Progress]
"""What an operator makes of a rollout, see `hub.rollout`."""


class Rollouts:
    """Of one project. settings: those in force. changed: called when there is something new to publish.

    Not safe to share by threads: the daemon's lock is around all of it.
    """

    def __init__(
        self,
        store: Store,
        project: str,
        keys: Keys,
        registry: Registry,
        clock: Clock,
        *,
        settings: Callable[[], HubSettings],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._project = project
        self._keys = keys
        self._registry = registry
        self._clock = clock
        self._settings = settings
        self._changed = changed

    def use(self, keys: Keys) -> None:
        """Sign with these keys from now on; `look` signs anew what is in use."""
        self._keys = keys

    def release(self, run: Run, note: str, *, start: bool = True) -> int:
        """Number and sign a run's model, and have it wait for its turn; start: without an operator's word."""
        model = release.model_of(run, self._store)
        with self._store.write() as session:
            row = self._create(session, run, model, note)
            _add(session, rollout.draft(row.number, 0, self._clock.utc(), held=not start), self._project)
        log.info("release %d: run %d, %d bytes, %d of them new", row.number, run.id or 0, row.size, row.new_bytes)
        self.look(restored=False)
        return row.number

    def look(self, *, restored: bool) -> None:
        """Move on what can be moved, and keep what is signed good. restored: from a backup, so all is signed anew."""
        now, days = self._clock.utc(), self._settings().rollout.days
        with self._store.write() as session:
            target = current(session, self._project)
            number = target.plan_number if target is not None else 0
            if target is None or load(target).ended:
                target = self._begin_next(session, target) or target
            else:
                self._step(session, target)
                target = current(session, self._project)
            fresh = target is not None and self._keep_signed(session, target, restored=restored)
            fresh |= target is not None and target.plan_number != number
            fresh |= exemptions.keep(session, self._project, self._keys, now=now, days=days, restored=restored)
        if fresh:
            self._changed()

    # -- an operator's word

    def resume(self) -> None:
        """Let a held rollout, or else the newest held draft, go on; RolloutError when there is none."""
        self._say("held", rollout.resume)

    def pause(self) -> None:
        """Stop the rollout under way, or else the newest draft, where it is; RolloutError when there is none."""
        self._say("running", lambda one, *_: rollout.pause(one))

    def promote(self) -> None:
        """Let the rollout under way into its next stage, whatever has been proven; or else the newest draft begin."""
        self._say("", rollout.promote)

    def abort(self, why: str) -> None:
        """End the rollout under way, or else the newest draft; what is in use goes back to the model before."""
        self._say("", lambda one, _cameras, _settings, now: rollout.abort(one, why, now))

    def exempt(self, camera: str, number: int, reason: str, operator: str) -> None:
        """One release for one camera, whatever the plan says; number 0 ends that. RolloutError for an unknown one."""
        with self._store.write() as session:
            wish = exemptions.Wish(camera, number, reason, operator)
            days, now = self._settings().rollout.days, self._clock.utc()
            exemptions.make(session, self._project, self._keys, wish, now=now, days=days)
        self._changed()

    # -- below the surface

    def _say(self, state: str, change: Word) -> None:
        """Do as an operator says. state: that the rollout has to be in; "" for any."""
        with self._store.write() as session:
            target = current(session, self._project)
            if target is None or load(target).ended or (state == "held" and target.state != state):
                drafts = [one for one in _drafts(session, self._project) if not state or one.state == state]
                target = drafts[-1] if drafts else None
            if target is None or (state and target.state != state):
                what = "held" if state == "held" else "under way"
                raise RolloutError(f"has no rollout that is {what}", subject=f"project {self._project}")
            now, settings = self._clock.utc(), self._settings().rollout
            self._move(session, target, change(load(target), self._cameras(session), settings, now))
        self.look(restored=False)
        self._changed()

    def _cameras(self, session: Session) -> list[CameraView]:
        """The cameras that a rollout is about: one with an exemption runs what that says."""
        away = set(session.exec(select(Exemption.camera).where(Exemption.release > 0)))
        return [one for one in self._registry.cameras(self._project) if one.name not in away]

    def _create(self, session: Session, run: Run, model: ModelSpec, note: str) -> Release:
        days = self._settings().rollout.days
        return release.create(session, run, model, self._keys, now=self._clock.utc(), days=days, note=note)

    def _anew(self, session: Session, old: Release, note: str) -> Release:
        """The model of a release once more, under a new number; its run may be gone."""
        run = None if old.run_id is None else session.get(Run, old.run_id)
        if run is None:
            run = Run(project=self._project, created_at=old.created_at, holdout=old.holdout)
        return self._create(session, run, msgspec.convert(old.model, ModelSpec), note)

    def _begin_next(self, session: Session, last: Rollout | None) -> Rollout | None:
        """Begin the newest draft; None while there is none, or it waits for a camera."""
        drafts = [one for one in _drafts(session, self._project) if one.state == "running"]
        if not drafts:
            return None
        *older, target = drafts
        for one in older:
            one.state, one.reason = "superseded", f"release {target.release} came before its turn"
            session.add(one)
        row = _release(session, self._project, target.release)
        if row is None:
            target.state, target.reason = "aborted", f"release {target.release} does not exist"
            session.add(target)
            return None
        if last is not None and last.release > target.release:
            target = self._numbered_anew(session, target, row)
        before = 0 if last is None else runs_after(load(last))
        draft = replace(load(target), previous=before)
        now = self._clock.utc()
        progress = rollout.begin(draft, self._cameras(session), self._settings().rollout, now)
        if progress.stage == "draft":
            if progress != draft:
                save(target, progress)
                session.add(target)
            return None
        self._move(session, target, progress)
        return target

    def _numbered_anew(self, session: Session, draft: Rollout, row: Release) -> Rollout:
        """A release that cameras would refuse by now, since they have accepted a higher one, gets a number above."""
        fresh = self._anew(session, row, row.note)
        draft.state, draft.reason = "superseded", f"released anew as {fresh.number}"
        session.add(draft)
        return _add(session, rollout.draft(fresh.number, 0, self._clock.utc()), self._project)

    def _step(self, session: Session, target: Rollout) -> None:
        """Note what cameras show, also while it is held: one that restarts forgets it. Move on if that is due."""
        before, settings = load(target), self._settings().rollout
        paused = bool(target.evidence.get("paused", False))
        found, paused = evidence.look(session, self._project, before, settings, paused=paused)
        if (told := evidence.to_row(found, paused=paused)) != target.evidence:
            target.evidence = told
            session.add(target)
        after = rollout.step(before, self._cameras(session), found, settings, self._clock.utc())
        if after != before:
            self._move(session, target, after)

    def _move(self, session: Session, target: Rollout, after: Progress) -> None:
        """Save what a rollout has become, sign its plan, and follow a reverted one by the model before."""
        before = load(target)
        old = _release(session, self._project, after.previous) if after.state == "reverted" else None
        if after.state == "reverted" and old is None:
            why = f"{after.reason}; release {after.previous} does not exist, so that there is no way back"
            after = replace(after, state="held", reason=why)
        if (after.stage, after.group, after.state) != (before.stage, before.group, before.state):
            log.info("rollout of release %d: %s, %s: %s", after.release, after.stage, after.state, after.reason)
            target.history = [*target.history, _entry(after, self._clock.utc())]
        settings = self._settings()
        planned = target.plan_number and rollout.groups(before, settings.rollout)
        save(target, after)
        session.add(target)
        if after.stage != "draft" and planned != rollout.groups(after, settings.rollout) and after.state != "reverted":
            self._sign(session, target)
        if old is not None:
            self._go_back(session, target, after, old)

    def _go_back(self, session: Session, target: Rollout, after: Progress, old: Release) -> None:
        """Release the model before once more, above every number that cameras have seen, to everyone."""
        note = f"back from release {after.release} to the model of release {after.previous}: {after.reason}"
        row = self._anew(session, old, note[:2000])
        now = self._clock.utc()
        begun = rollout.begin(
            rollout.draft(row.number, after.previous, now, kind="back"), [], self._settings().rollout, now
        )
        back = _add(session, begun, self._project)
        back.reverts, back.evidence = after.release, target.evidence
        back.history = [_entry(begun, now)]
        self._sign(session, back)
        log.warning("release %d: %s", row.number, note)

    def _keep_signed(self, session: Session, target: Rollout, *, restored: bool) -> bool:
        settings, now = self._settings(), self._clock.utc()
        groups = rollout.groups(load(target), settings.rollout)
        return signing.keep(session, target, groups, self._keys, settings, now=now, restored=restored)

    def _sign(self, session: Session, target: Rollout) -> None:
        settings, now = self._settings(), self._clock.utc()
        groups = rollout.groups(load(target), settings.rollout)
        signing.sign(session, target, groups, self._keys, settings, now=now)


def current(session: Session, project: str) -> Rollout | None:
    """The rollout under way, or the last one that was; None before the first."""
    return session.exec(
        select(Rollout)
        .where(Rollout.project == project, Rollout.plan_number > 0)
        .order_by(col(Rollout.plan_number).desc())
    ).first()


def busy(session: Session, project: str) -> str:
    """The state of the rollout under way, or of the newest draft; "" when there is none of both."""
    target = current(session, project)
    if target is not None and not load(target).ended:
        return target.state
    drafts = _drafts(session, project)
    return drafts[-1].state if drafts else ""


def runs_after(last: Progress) -> int:
    """The release that the fleet runs after a rollout has ended, as far as it got."""
    reached = last.stage in ("everyone", "done") and last.state != "reverted"
    return last.release if reached else last.previous


def load(row: Rollout) -> Progress:
    """The progress that a row holds."""
    fields = {
        **row.details,
        "release": row.release,
        "previous": row.previous,
        "stage": row.stage,
        "since": row.since,
        "kind": row.kind,
        "state": row.state,
        "reason": row.reason,
        "canaries": row.cameras,
        "healthy_since": row.healthy_since,
        "forgiven": row.forgiven,
    }
    return msgspec.convert(fields, Progress)


def save(row: Rollout, progress: Progress) -> None:
    """Have a row hold a progress; the caller adds it to the session."""
    row.release, row.previous, row.stage, row.kind = progress.release, progress.previous, progress.stage, progress.kind
    row.since, row.healthy_since, row.reason = progress.since, progress.healthy_since, progress.reason
    row.cameras, row.forgiven, row.state = list(progress.canaries), list(progress.forgiven), progress.state
    row.details = {
        "shadows": list(progress.shadows),
        "specs": list(progress.specs),
        "group": progress.group,
        "named": [list(one) for one in progress.named],
        "before_ms": dict(progress.before_ms),
    }


def _drafts(session: Session, project: str) -> list[Rollout]:
    return list(
        session.exec(
            select(Rollout)
            .where(
                Rollout.project == project,
                Rollout.stage == "draft",
                col(Rollout.state).in_(["running", "held"]),
            )
            .order_by(col(Rollout.release))
        )
    )


def _add(session: Session, progress: Progress, project: str) -> Rollout:
    row = Rollout(project=project, release=progress.release, since=progress.since)
    save(row, progress)
    session.add(row)
    session.flush()
    return row


def _entry(progress: Progress, now: datetime) -> dict[str, Any]:
    """One line of a rollout's history."""
    return {
        "at": now.isoformat(),
        "stage": progress.stage,
        "group": progress.specs[progress.group] if progress.stage == "group" else "",
        "state": progress.state,
        "reason": progress.reason,
    }


def _release(session: Session, project: str, number: int) -> Release | None:
    return session.exec(select(Release).where(Release.project == project, Release.number == number)).first()
