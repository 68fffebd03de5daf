"""Read models of what proves a model, and of what casts doubt on it: holdout, accuracy in the field, drift."""

from collections.abc import Sequence

import msgspec
from sqlmodel import Session, col, func, select

from hub.drift import Drift
from hub.evaluate import Interval as Measured
from hub.field import in_the_field
from hub.figures import Interval
from hub.policies import Policies
from hub.split import VERDICTS
from hub.store import Store
from hub.tables import HoldoutVersion, Release, Run, Watch
from hub.web.models import DriftView, FieldView, HoldoutView, MeasureView

RELEASES = 3
"""So many of the newest releases are looked at in the field."""


class Proofs:
    """Of one project."""

    def __init__(self, policies: Policies, store: Store) -> None:
        self._project = policies.file.project.name
        self._policies = policies
        self._store = store

    def holdout(self) -> list[HoldoutView]:
        """The versions of the holdout, the newest first."""
        limit = self._policies.now().split.max_verdicts
        with self._store.read() as session:
            rows = session.exec(
                select(HoldoutVersion)
                .where(HoldoutVersion.project == self._project)
                .order_by(col(HoldoutVersion.number).desc())
            ).all()
            verdicts = self._verdicts(session, rows)
        sizes = {row.number: row.images for row in rows}
        return [
            HoldoutView(
                number=row.number,
                base=row.base,
                created_at=row.created_at,
                why=row.why,
                images=row.images,
                deciding=row.images - sizes.get(row.base, 0),
                verdicts=verdicts.get(row.base, 0),
                limit=limit,
                worn=verdicts.get(row.base, 0) >= limit,
            )
            for row in rows
        ]

    def _verdicts(self, session: Session, versions: Sequence[HoldoutVersion]) -> dict[int, int]:
        """Base -> verdicts that were given on versions with it."""
        base = {one.number: one.base for one in versions}
        found: dict[int, int] = {}
        for number, count in session.exec(
            select(Run.holdout, func.count())
            .where(Run.project == self._project, col(Run.verdict).in_(VERDICTS), Run.holdout > 0)
            .group_by(col(Run.holdout))
        ):
            found[base.get(number, 0)] = found.get(base.get(number, 0), 0) + count
        return found

    def field(self) -> list[FieldView]:
        """The newest releases in the field, the newest first; of each all cameras together before each one."""
        with self._store.read() as session:
            releases = session.exec(
                select(Release.number)
                .where(Release.project == self._project)
                .order_by(col(Release.number).desc())
                .limit(RELEASES)
            ).all()
            return [
                FieldView(
                    release=one.release,
                    camera=one.camera,
                    audits=one.audits,
                    labelled=one.labelled,
                    accuracy=_interval(one.accuracy),
                )
                for one in in_the_field(session, self._project, releases)
            ]

    def drift(self) -> list[DriftView]:
        """The latest look at each camera, by name."""
        with self._store.read() as session:
            rows = session.exec(select(Watch).where(Watch.project == self._project).order_by(Watch.camera)).all()
        return [
            DriftView(
                camera=row.camera,
                release=row.release,
                at=row.at,
                n=found.n,
                own=found.own,
                drifted=found.drifted,
                level=found.level,
                reason=found.reason,
                measures=[MeasureView(**msgspec.to_builtins(one)) for one in found.measures],
            )
            for row, found in ((row, msgspec.convert(row.data, Drift)) for row in rows)
        ]


def _interval(found: Measured | None) -> Interval | None:
    return None if found is None else Interval(value=found.value, low=found.low, high=found.high)
