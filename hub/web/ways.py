"""Read models of rollouts: queries from the database to the structs of `hub.web.rollouts`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlmodel import Session, col, func, select

from hub import rollout
from hub.evidence import asked, from_row
from hub.progress import Progress
from hub.registry import views
from hub.rollouts import current, load, runs_after
from hub.seen import CameraView, Evidence
from hub.settings import RolloutSettings
from hub.store import Store
from hub.tables import Camera, Exemption, Image, Rollout, Trial
from hub.web import standing
from hub.web.rollouts import (
    DifferencePage,
    DifferenceView,
    EntryView,
    ExemptionView,
    RolloutDetail,
    RolloutPage,
    RolloutView,
    TrialView,
)
from hub.web.trials import difference_view, keeping, proof_view, trial_views
from shared.clock import Clock
from shared.manifest import Group

SHOWN = 24
"""Differences that come with a rollout itself."""
ROWS = 500
"""Images that are asked for at once."""


class Ways:
    """The rollouts of one project. settings: those in force. `None` means: no such thing."""

    def __init__(self, project: str, store: Store, clock: Clock, settings: Callable[[], RolloutSettings]) -> None:
        self._project = project
        self._store = store
        self._clock = clock
        self._settings = settings

    def page(self, limit: int, offset: int = 0) -> RolloutPage:
        """Rollouts, the newest first."""
        mine = Rollout.project == self._project
        with self._store.read() as session:
            total = session.exec(select(func.count()).select_from(Rollout).where(mine)).one()
            rows = session.exec(
                select(Rollout).where(mine).order_by(col(Rollout.id).desc()).limit(limit).offset(offset)
            ).all()
            items = self.summaries(session, rows)
        return RolloutPage(total=total, limit=limit, offset=offset, items=items)

    def summaries(self, session: Session, rows: Sequence[Rollout]) -> list[RolloutView]:
        """These rollouts in short."""
        cameras = self._cameras(session)
        return [self._summary(session, row, cameras) for row in rows]

    def in_short(self) -> RolloutView | None:
        """The rollout that an operator's word would be about, or else the last one."""
        with self._store.read() as session:
            row = self.subject(session)
            return None if row is None else self._summary(session, row, self._cameras(session))

    def now(self) -> RolloutDetail | None:
        """The same one with everything."""
        with self._store.read() as session:
            row = self.subject(session)
            return None if row is None else self._detail(session, row)

    def one(self, release: int) -> RolloutDetail | None:
        """The rollout of a release."""
        with self._store.read() as session:
            row = self._row(session, release)
            return None if row is None else self._detail(session, row)

    def waiting(self) -> list[RolloutView]:
        """The drafts that wait for their turn, or for an operator, the newest first."""
        with self._store.read() as session:
            return self.summaries(session, self._drafts(session))

    def differences(self, release: int, limit: int, offset: int = 0) -> DifferencePage | None:
        """Images on which a release and the one before differ on its canaries, the newest first."""
        with self._store.read() as session:
            row = self._row(session, release)
            if row is None:
                return None
            found = self._differences(session, load(row))
        return DifferencePage(total=len(found), limit=limit, offset=offset, items=found[offset : offset + limit])

    def groups(self, session: Session) -> list[Group]:
        """The groups of the plan in force."""
        row = current(session, self._project)
        return [] if row is None else rollout.groups(load(row), self._settings())

    def exemptions(self, session: Session) -> dict[str, ExemptionView]:
        """Camera -> the release that it runs whatever the plan says."""
        rows = session.exec(
            select(Exemption, Camera.release)
            .join(Camera, col(Camera.name) == col(Exemption.camera))
            .where(Exemption.project == self._project, col(Exemption.release) > 0)
            .order_by(Exemption.camera)
        )
        return {
            one.camera: ExemptionView(
                camera=one.camera,
                release=one.release,
                reason=one.reason,
                operator=one.operator,
                at=one.at,
                taken=runs == one.release,
            )
            for one, runs in rows
        }

    def subject(self, session: Session) -> Rollout | None:
        """The rollout that an operator's word is about: the one under way, else the newest draft, else the last."""
        last = current(session, self._project)
        if last is not None and not load(last).ended:
            return last
        drafts = self._drafts(session)
        return drafts[0] if drafts else last

    def fingerprint(self, session: Session) -> list[Any]:
        """What is another value when pages about rollouts would look different."""
        rows = session.exec(
            select(Rollout.state, Rollout.reason, Rollout.since, Rollout.evidence)
            .where(Rollout.project == self._project)
            .order_by(col(Rollout.id).desc())
            .limit(10)
        )
        exempt = session.exec(
            select(Exemption.camera, Exemption.number)
            .where(Exemption.project == self._project)
            .order_by(Exemption.camera)
        )
        return [*rows, *exempt]

    # -- below the surface

    def _cameras(self, session: Session) -> list[CameraView]:
        return views(session.connection(), self._project)

    def _drafts(self, session: Session) -> list[Rollout]:
        waits = col(Rollout.state).in_(["running", "held"])
        rows = select(Rollout).where(Rollout.project == self._project, Rollout.stage == "draft", waits)
        return list(session.exec(rows.order_by(col(Rollout.release).desc())))

    def _row(self, session: Session, release: int) -> Rollout | None:
        mine = Rollout.project == self._project
        rows = select(Rollout).where(mine, Rollout.release == release).order_by(col(Rollout.id).desc())
        return session.exec(rows).first()

    def _progress(self, session: Session, row: Rollout) -> Progress:
        """What a row holds; a draft goes from what the fleet runs when its turn comes."""
        progress = load(row)
        last = current(session, self._project) if progress.stage == "draft" and not progress.ended else None
        return progress if last is None else replace(progress, previous=runs_after(load(last)))

    def _summary(self, session: Session, row: Rollout, cameras: Sequence[CameraView]) -> RolloutView:
        gone = self._row(session, row.reverts) if row.reverts else None
        return standing.summary(
            self._progress(session, row), cameras, from_row(row.evidence), load(gone) if gone else None
        )

    def _detail(self, session: Session, row: Rollout) -> RolloutDetail:
        settings, cameras = self._settings(), self._cameras(session)
        progress, evidence = self._progress(session, row), from_row(row.evidence)
        upgrade = progress.kind == "upgrade" and progress.previous > 0
        found = self._differences(session, progress) if upgrade and settings.quality else []
        shadow, canary = self._trials(session, progress, evidence, settings) if upgrade else ([], [])
        at_work = {"shadow": shadow, "canary": canary}.get(progress.stage, []) if not progress.ended else []
        shadow, canary = ([one for one in some if one.frames or one in at_work] for some in (shadow, canary))
        waiting = sum(one.right == "open" for one in found)
        proves = upgrade and settings.quality and (progress.stage == "canary" or evidence.pairs.frames)
        return RolloutDetail(
            **self._summary(session, row, cameras).model_dump(),
            proving=standing.proving(progress, settings),
            waits_for=standing.waits_for(progress, cameras, evidence, settings, self._clock.utc()),
            next=standing.next_words(progress, settings),
            can=standing.acts(progress),
            stages=standing.stages(progress, cameras, settings),
            history=[EntryView(**one) for one in row.history],
            shadow=shadow,
            canary=canary,
            proof=proof_view(evidence, waiting, settings, paused=bool(row.evidence.get("paused"))) if proves else None,
            keeping=keeping(progress, cameras) if upgrade and progress.stage != "draft" else [],
            skipping={one.camera: one.skipped for one in at_work if one.skipped},
            exemptions=list(self.exemptions(session).values()),
            differences=[one for one in found if one.right != "open"][:SHOWN],
        )

    def _trials(
        self, session: Session, progress: Progress, evidence: Evidence, settings: RolloutSettings
    ) -> tuple[list[TrialView], list[TrialView]]:
        """What shadow cameras and canaries counted."""
        new, old = progress.release, progress.previous
        rows = session.exec(
            select(Trial).where(
                Trial.project == self._project, col(Trial.release).in_([new, old]), col(Trial.other).in_([new, old])
            )
        ).all()
        shadow, canary = ([one for one in rows if one.release == using] for using in (old, new))
        return (
            trial_views("new", progress.shadows, evidence.shadow, shadow, settings.shadow_frames),
            trial_views("old", progress.canaries, evidence.canary, canary, settings.canary_frames),
        )

    def _differences(self, session: Session, progress: Progress) -> list[DifferenceView]:
        """Those that an operator is asked about, the newest first."""
        found = {one.image: one for one in asked(session, self._project, progress, self._settings().settle)}
        shown = []
        every = sorted(found, reverse=True)
        for start in range(0, len(every), ROWS):
            some = every[start : start + ROWS]
            rows = {one.id: one for one in session.exec(select(Image).where(col(Image.id).in_(some)))}
            shown += [difference_view(found[one], rows[one]) for one in some]
        return shown
