"""Read models: queries from the database to the structs of `hub.web.models`. API and pages both use these."""

import hashlib
from collections.abc import Sequence

from sqlmodel import Session, col, func, select

from hub import again, skew
from hub.card import Card
from hub.cards import card_of
from hub.figures import figures, gain, ids, number, slices
from hub.label import Desk
from hub.policies import Policies
from hub.registry import labels_since_run
from hub.retrain import rules
from hub.rollouts import current
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Camera, Image, Label, Preview, Release, Rollout, Run, Skew, Watch
from hub.web.actions import Actions
from hub.web.cameras import Wanted, camera_view, rollout_view
from hub.web.clusters import Clusters
from hub.web.images import Images
from hub.web.lineage import Lineage
from hub.web.models import (
    AgainView,
    AgreementView,
    CameraView,
    HubView,
    Overview,
    PreviewCounts,
    QueueCounts,
    ReleaseView,
    RolloutView,
    RunDetail,
    RunView,
    Totals,
)
from hub.web.previews import Previews
from hub.web.proofs import Proofs
from shared.clock import Clock

_UNDER_WAY = ("queued", "running")
_LIVE = ("loss", "metric", "eta_s")
"""What a row's fit tells while the run goes on; see `hub.underway`."""


class Views:
    """All that can be seen of one project. `None` means: no such thing."""

    def __init__(
        self, settings: HubSettings, store: Store, desk: Desk, actions: Actions, clock: Clock, *, policies: Policies
    ) -> None:
        self._policies = policies
        self._settings = settings
        self._project = settings.project.name
        self._classes = settings.project.classes
        self._store = store
        self._desk = desk
        self._actions = actions
        self._clock = clock
        self.images = Images(self._project, store, desk)
        self.previews = Previews(self._project, store)
        self.proofs = Proofs(policies, store)
        self.lineage = Lineage(self._project, store)
        self.clusters = Clusters(self._project, store)

    def overview(self) -> Overview:
        """The front page."""
        counts = self.counts()
        with self._store.read() as session:
            runs = self._runs(session, 5, 0)
            cameras, rollout = self._fleet(session)
            wanted = self._wanted()
            releases = self._releases(session, 5, 0)
            held, skews = self.previews.counts(session), _skews(session)
            return Overview(
                project=self._project,
                classes=self._classes,
                now=self._clock.utc(),
                hub=self.hub(),
                cameras=[camera_view(one, rollout, held.get(one.name), wanted, skews.get(one.name)) for one in cameras],
                queue=counts,
                totals=self._totals(session),
                previews=self.previews.totals(session),
                current=next((one for one in runs if one.state in _UNDER_WAY), None),
                runs=runs,
                latest=releases[0].number if releases else 0,
                releases=releases,
                rollout=rollout_view(rollout, cameras) if rollout else None,
                again=self._again(session),
            )

    def again(self) -> AgainView:
        """What was asked again, and how far operators agreed."""
        with self._store.read() as session:
            return self._again(session)

    def _again(self, session: Session) -> AgainView:
        def figures_of(ask: again.Ask, own: bool | None = None) -> AgreementView | None:
            found = again.agreement(again.pairs(session, self._project, ask, own=own))
            return AgreementView(n=found.n, share=found.share, kappa=found.kappa) if found else None

        return AgainView(
            repeats=figures_of("repeat"),
            own=figures_of("repeat", own=True),
            others=figures_of("repeat", own=False),
            second=figures_of("second"),
            suspects=again.suspected(session, self._project),
        )

    def hub(self) -> HubView:
        """The daemon beside the page."""
        state = self._actions.state()
        return HubView(
            name=self._settings.name,
            version=state.version,
            boot=state.boot,
            broker=state.broker,
            errors=state.errors,
            up=state.up,
            down=state.down,
        )

    def counts(self) -> QueueCounts:
        """The label queue."""
        counts, settings = self._desk.counts(), self._policies.now().retrain
        with self._store.read() as session:
            since = labels_since_run(session, self._project)
        return QueueCounts(
            waiting=counts.waiting,
            labelled=counts.labelled,
            skipped=counts.skipped,
            since_run=since,
            every=settings.every_labels,
            starts=rules(settings),
        )

    def cameras(self) -> list[CameraView]:
        """All cameras, by name."""
        with self._store.read() as session:
            cameras, rollout = self._fleet(session)
            held, skews = self.previews.counts(session), _skews(session)
            wanted = self._wanted()
            return [camera_view(one, rollout, held.get(one.name), wanted, skews.get(one.name)) for one in cameras]

    def camera(self, name: str) -> CameraView | None:
        """One camera by `site/camera`."""
        return next((one for one in self.cameras() if one.name == name), None)

    def preview_counts(self) -> PreviewCounts:
        """How many previews are in which state."""
        with self._store.read() as session:
            return self.previews.totals(session)

    def runs(self, limit: int, offset: int = 0) -> list[RunView]:
        """Runs, the newest first."""
        with self._store.read() as session:
            return self._runs(session, limit, offset)

    def run(self, run_id: int) -> RunDetail | None:
        """One run with all that was kept of it."""
        with self._store.read() as session:
            run = session.get(Run, run_id)
            if run is None or run.project != self._project:
                return None
            return RunDetail(
                **self._run(run, self._released(session, [run_id])).model_dump(),
                attempts=run.attempts,
                snapshot=run.snapshot,
                slices=slices(run.slices),
                fixed=ids(run.comparison.get("fixed")),
                broken=ids(run.comparison.get("broken")),
                curve=run.curve,
                fit=run.fit,
                settings=run.settings,
                versions=run.versions,
            )

    def releases(self, limit: int, offset: int = 0) -> list[ReleaseView]:
        """Releases, the newest first."""
        with self._store.read() as session:
            return self._releases(session, limit, offset)

    def card(self, number: int) -> Card | None:
        """The model card of a release."""
        return card_of(self._policies.now(), self._store, number)

    def rollout(self) -> RolloutView | None:
        """The rollout in force."""
        with self._store.read() as session:
            cameras, rollout = self._fleet(session)
            return rollout_view(rollout, cameras) if rollout else None

    def fingerprints(self) -> dict[str, str]:
        """Topic -> a short value that is another one when pages about it would look different. Cheap."""
        state = self._actions.state()
        mine = Image.project == self._project
        with self._store.read() as session:
            cameras = session.exec(
                select(Camera.name, Camera.last_seen, Camera.online, Camera.release).order_by(Camera.name)
            ).all()
            newest = session.exec(select(func.max(Image.id)).where(mine)).one()
            unchecked = session.exec(select(func.count()).where(mine, Image.state == "new")).one()
            decided = session.exec(select(func.max(Label.id))).one()
            runs = session.exec(
                select(Run.id, Run.state, Run.progress, Run.step).order_by(col(Run.id).desc()).limit(20)
            ).all()
            release = session.exec(select(func.max(Release.number)).where(Release.project == self._project)).one()
            rollout = current(session, self._project)
            looks = session.exec(select(Watch.camera, Watch.at).order_by(Watch.camera)).all()
            held = self.previews.counts(session)
            shown = session.exec(select(func.max(Preview.id))).one()
        settings = self._policies.in_force().version
        way = None if rollout is None else (rollout.id, rollout.stage, rollout.state, rollout.reason, rollout.since)
        return {
            "hub": _short(state.broker, state.boot, sorted(state.errors.items())),
            "cameras": _short(cameras, looks),
            "images": _short(newest, unchecked),
            "labels": _short(decided),
            "previews": _short(shown, sorted((name, *dict(one).values()) for name, one in held.items())),
            "runs": _short(runs),
            "releases": _short(release, way),
            "settings": _short(settings),
        }

    def _wanted(self) -> Wanted:
        """The triage settings that cameras shall follow."""
        last = self._policies.last_change("triage")
        return Wanted(self._policies.now().triage, last[0] if last else 0)

    def _fleet(self, session: Session) -> tuple[list[Camera], Rollout | None]:
        mine = col(Camera.project).in_(("", self._project))
        return list(session.exec(select(Camera).where(mine).order_by(Camera.name))), current(session, self._project)

    def _totals(self, session: Session) -> Totals:
        rows = session.exec(
            select(Image.split, Image.state, func.count())
            .where(Image.project == self._project)
            .group_by(Image.split, Image.state)
        ).all()
        split = {"pool": 0, "train": 0, "holdout": 0}
        for name, _, count in rows:
            split[name] = split.get(name, 0) + count
        return Totals(
            stored=sum(split.values()),
            unreadable=sum(count for _, state, count in rows if state == "unreadable"),
            lost=sum(count for _, state, count in rows if state == "lost"),
            unchecked=sum(count for _, state, count in rows if state == "new"),
            by_split=split,
        )

    def _runs(self, session: Session, limit: int, offset: int) -> list[RunView]:
        rows = session.exec(
            select(Run).where(Run.project == self._project).order_by(col(Run.id).desc()).limit(limit).offset(offset)
        ).all()
        released = self._released(session, [one.id for one in rows if one.id is not None])
        return [self._run(one, released) for one in rows]

    def _released(self, session: Session, runs: Sequence[int]) -> dict[int, int]:
        """Run -> the number of its last release."""
        rows = session.exec(
            select(Release.run_id, func.max(Release.number))
            .where(Release.project == self._project, col(Release.run_id).in_(runs))
            .group_by(col(Release.run_id))
        ).all()
        return {run: number for run, number in rows if run is not None}

    def _run(self, run: Run, released: dict[int, int]) -> RunView:
        assert run.id is not None
        end = run.ended_at or (self._clock.utc() if run.state == "running" else None)
        return RunView(
            id=run.id,
            state=run.state,
            why=run.why,
            created_at=run.created_at,
            started_at=run.started_at,
            ended_at=run.ended_at,
            seconds=(end - run.started_at).total_seconds() if end and run.started_at else None,
            progress=min(max(run.progress, 0.0), 1.0),
            step=run.step,
            **({name: number(run.fit.get(name)) for name in _LIVE} if run.state == "running" else {}),
            labels=run.labels,
            train_images=run.train_images,
            holdout_images=run.holdout_images,
            holdout=run.holdout,
            left_out=run.left_out,
            doubt=run.doubt,
            against=run.against,
            release=released.get(run.id),
            verdict=run.verdict,
            reason=run.reason,
            error=run.error,
            before=figures(run.before, self._classes),
            evaluation=figures(run.evaluation, self._classes),
            comparison=gain(run.comparison),
        )

    def _releases(self, session: Session, limit: int, offset: int) -> list[ReleaseView]:
        rows = session.exec(
            select(Release)
            .where(Release.project == self._project)
            .order_by(col(Release.number).desc())
            .limit(limit)
            .offset(offset)
        ).all()
        runs = {
            one.id: one for one in session.exec(select(Run).where(col(Run.id).in_([row.run_id for row in rows]))).all()
        }
        cameras, _ = self._fleet(session)
        ways: dict[int, Rollout] = {
            one.release: one
            for one in session.exec(
                select(Rollout)
                .where(Rollout.project == self._project, col(Rollout.release).in_([row.number for row in rows]))
                .order_by(col(Rollout.id))
            )
        }
        return [
            ReleaseView(
                number=row.number,
                created_at=row.created_at,
                expires_at=row.expires_at,
                run=row.run_id,
                note=row.note,
                size=row.size,
                new_bytes=row.new_bytes,
                cameras=sum(one.release == row.number for one in cameras),
                holdout=row.holdout,
                doubt=one.doubt if (one := runs.get(row.run_id)) else "",
                verdict=run.verdict if (run := runs.get(row.run_id)) else "",
                before=figures(run.before, self._classes) if run else None,
                after=figures(run.evaluation, self._classes) if run else None,
                rollout=rollout_view(way, cameras) if (way := ways.get(row.number)) else None,
            )
            for row in rows
        ]


def _skews(session: Session) -> dict[str, skew.Skew]:
    """Camera -> its skew, over the last images of each that were compared."""
    rows = session.exec(
        select(Skew.camera, Skew.distance).where(col(Skew.distance).is_not(None)).order_by(col(Skew.event_id))
    )
    found: dict[str, list[float]] = {}
    for camera, distance in rows:
        if distance is not None:
            found.setdefault(camera, []).append(distance)
    return {camera: one for camera, all_of in found.items() if (one := skew.of(all_of[-skew.LAST :]))}


def _short(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:10]
