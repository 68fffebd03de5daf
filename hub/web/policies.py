"""Read models of the settings that can be changed while the hub runs."""

from collections.abc import Sequence

from hub.options import SECTIONS, Option, doc_of, options, value_of
from hub.policies import InForce, Policies
from hub.tables import ProjectSetting
from hub.web.models import SectionView, SettingChange, SettingsView, SettingView

HISTORY = 10_000
"""Changes that are looked through, at most, for the value before."""
CLASS_KEYS = ("triage.rare", "retrain.positive")
"""Settings that name a class of the project, or nothing."""


def settings_view(policies: Policies) -> SettingsView:
    """Every setting, with its value in force and where it comes from."""
    now = policies.in_force()
    last = policies.history(1)
    return SettingsView(
        version=now.version,
        changed_at=last[0].changed_at if last else None,
        operator=last[0].operator if last else "",
        sections=[
            SectionView(name=name, doc=doc_of(kind), settings=_section(policies, now, name))
            for name, kind in SECTIONS.items()
        ],
    )


def _section(policies: Policies, now: InForce, section: str) -> list[SettingView]:
    classes = policies.file.project.classes
    return [_setting(one, policies, now, classes) for one in options().values() if one.section == section]


def _setting(one: Option, policies: Policies, now: InForce, classes: Sequence[str]) -> SettingView:
    """A setting; one that names a class is a choice among those of the project, or none."""
    named = one.key in CLASS_KEYS
    return SettingView(
        key=one.key,
        name=one.key.partition(".")[2],
        kind="choice" if named else one.kind,
        value=value_of(now.settings, one.key),
        source=now.source(one.key, policies.file),
        file=value_of(policies.file, one.key),
        default=one.default,
        allowed=f"one of {', '.join(classes)}, or nothing" if named else one.allowed,
        choices=["", *classes] if named else list(one.choices),
        low=one.low,
        high=one.high,
        doc=one.doc,
    )


def changes(policies: Policies, limit: int) -> list[SettingChange]:
    """The last changes, the newest first, each with what was set before."""
    rows = policies.history(HISTORY)
    before: dict[str, ProjectSetting] = {}
    found: list[SettingChange] = []
    for row in reversed(rows):
        was = before.get(row.key)
        found.append(
            SettingChange(
                version=row.version,
                key=row.key,
                value=row.value,
                cleared=row.cleared,
                before=None if was is None or was.cleared else was.value,
                changed_at=row.changed_at,
                operator=row.operator,
            )
        )
        before[row.key] = row
    return found[::-1][:limit]
