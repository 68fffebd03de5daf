"""Policies: which settings of the project are in force now, and their change while the hub runs.

In force is what was set for the project (table `ProjectSetting`: through the API, the page or `hone-hub settings`),
else what hub.toml says, else the default. Whoever needs a setting asks `now()` for it each time. All processes of a hub
see a change with their next look into the database.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlmodel import Session, col, func, select

from hub.options import applied, checked, flatten, options, refusal, value_of
from hub.registry import next_number
from hub.settings import HubSettings, crossed
from hub.store import Store
from hub.tables import ProjectSetting
from shared.clock import Clock
from shared.errors import SettingError

log = logging.getLogger(__name__)
Source = Literal["default", "hub.toml", "project"]


@dataclass(frozen=True, slots=True)
class InForce:
    """The settings; of them the project's own: key -> value; and the version of these, 0: none was ever set."""

    settings: HubSettings
    own: Mapping[str, Any]
    version: int

    def source(self, key: str, file: HubSettings) -> Source:
        """Where the value of a key comes from; hub.toml is not named where it says no more than the default."""
        if key in self.own:
            return "project"
        return "default" if value_of(file, key) == options()[key].default else "hub.toml"


class Policies:
    """The changeable settings of one project. Safe to use from several threads and processes.

    file: what hub.toml says.
    """

    def __init__(self, file: HubSettings, store: Store, clock: Clock) -> None:
        self.file = file
        self._project = file.project.name
        self._store = store
        self._clock = clock
        self._known: InForce | None = None

    def now(self) -> HubSettings:
        """The settings in force. StoreError."""
        return self.in_force().settings

    def in_force(self) -> InForce:
        """The settings in force, and where they come from. StoreError."""
        with self._store.read() as session:
            version = self._version(session)
            known = self._known
            if known is None or known.version != version:
                known = self._known = InForce(*_tolerant(self.file, self._own(session)), version)
        return known

    def change(self, body: Mapping[str, Any], *, operator: str) -> InForce:
        """Set a tree of settings, {"train": {"folds": 3}}; as `set`."""
        return self.set(flatten(body), operator=operator)

    def set(self, values: Mapping[str, Any], *, operator: str) -> InForce:
        """Set values by key, {"train.folds": 3}, all of them or none; None: as hub.toml says.

        SettingError names every key that is wrong, and what is allowed.
        """
        wrong: dict[str, str] = {}
        asked: dict[str, Any] = {}
        for key, value in values.items():
            try:
                asked[key] = checked(key, value)
            except SettingError as error:
                wrong |= error.fields
        if wrong:
            raise refusal(wrong)
        with self._store.write() as session:
            _, own = _tolerant(self.file, self._own(session))
            after = {key: value for key, value in {**own, **asked}.items() if value is not None}
            _there(_whole(self.file, after), asked)
            fresh = {key: value for key, value in asked.items() if own.get(key) != value}
            if fresh:
                version = next_number(session, f"settings/{self._project}", above=self._version(session))
                now = self._clock.utc()
                for key, value in fresh.items():
                    session.add(
                        ProjectSetting(
                            project=self._project,
                            version=version,
                            key=key,
                            value=value,
                            cleared=value is None,
                            changed_at=now,
                            operator=operator,
                        )
                    )
                log.info("settings %d by %s: %s", version, operator, fresh)
        return self.in_force()

    def history(self, limit: int) -> list[ProjectSetting]:
        """The last changes, the newest first."""
        with self._store.read() as session:
            rows = select(ProjectSetting).where(ProjectSetting.project == self._project)
            return list(session.exec(rows.order_by(col(ProjectSetting.id).desc()).limit(limit)))

    def last_change(self, section: str) -> tuple[int, datetime] | None:
        """Version and time of the last change in a section."""
        with self._store.read() as session:
            row = session.exec(
                select(ProjectSetting.version, ProjectSetting.changed_at)
                .where(ProjectSetting.project == self._project, col(ProjectSetting.key).startswith(f"{section}."))
                .order_by(col(ProjectSetting.id).desc())
            ).first()
        return None if row is None else (row[0], row[1])

    def _version(self, session: Session) -> int:
        mine = ProjectSetting.project == self._project
        return session.exec(select(func.max(ProjectSetting.version)).where(mine)).one() or 0

    def _own(self, session: Session) -> dict[str, Any]:
        """Key -> the value set last."""
        found: dict[str, Any] = {}
        mine = ProjectSetting.project == self._project
        for row in session.exec(select(ProjectSetting).where(mine).order_by(col(ProjectSetting.id))):
            if row.cleared:
                found.pop(row.key, None)
            else:
                found[row.key] = row.value
        return found


def _whole(file: HubSettings, own: Mapping[str, Any]) -> HubSettings:
    """The settings in force; SettingError when they do not go together."""
    settings = applied(file, own)
    train = msgspec.structs.replace(settings.train, backbone=file.place(settings.train.backbone))
    settings = msgspec.structs.replace(settings, train=train)
    if wrong := crossed(settings):
        raise refusal(wrong)
    return settings


def _there(settings: HubSettings, asked: Mapping[str, Any]) -> None:
    """SettingError when a file is asked for that is not there. Only then: one that went later shall fail the run that
    needs it, and not be left out, which would train another backbone without a word."""
    path = settings.train.backbone
    if asked.get("train.backbone") and not Path(path).is_file():
        raise refusal({"train.backbone": f"is {path!r}, which is no file here; allowed: a file that the hub can read"})


def _tolerant(file: HubSettings, own: Mapping[str, Any]) -> tuple[HubSettings, dict[str, Any]]:
    """The settings in force, and the project's own without those that no longer fit: hub.toml or Hone has changed."""
    good: dict[str, Any] = {}
    for key, value in own.items():
        try:
            good[key] = checked(key, value)
        except SettingError as error:
            log.warning("a setting of the project is left out: %s", error)
    while True:
        try:
            return _whole(file, good), good
        except SettingError as error:
            bad = error.fields.keys() & good.keys()
            section = next(iter(error.fields)).partition(".")[0]
            bad = bad or {key for key in good if key.startswith(f"{section}.")}
            if not bad:
                raise
            log.warning("a setting of the project is left out: %s", error)
            good = {key: value for key, value in good.items() if key not in bad}
