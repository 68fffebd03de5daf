"""Signing: a rollout's plan, and what it and exemptions name, kept as cameras accept it.

Times and delegations pass, and settings change; whatever is signed anew counts as news to every camera.
"""

import logging
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from hub import exemptions, release
from hub.keys import Keys
from hub.settings import HubSettings
from hub.tables import Release, Rollout
from shared.manifest import Group
from shared.policy import to_wire

log = logging.getLogger(__name__)


def keep(
    session: Session,
    target: Rollout,
    groups: list[Group],
    keys: Keys,
    settings: HubSettings,
    *,
    now: datetime,
    restored: bool,
) -> bool:
    """Sign anew at half time, after a restore, and where cameras would refuse it; whether any release was.

    In the caller's transaction. groups: what the plan of this rollout is to say by now. restored: from a backup.
    Releases have times of their own: a draft may have waited long, and plans change more often than releases.
    """
    days = settings.rollout.days
    soon = now + timedelta(days=days) / 2
    why = "the database was restored" if restored else release.refused(session, target, keys)
    plan = release.plan_of(target)
    numbers = [target.release, target.previous, *exemptions.numbers(session, target.project)]
    named = select(Release).where(Release.project == target.project, col(Release.number).in_(numbers))
    found = session.exec(named).all()
    stale = [one for one in found if why or one.expires_at < soon or not keys.cover(one.envelope)]
    for row in stale:
        release.renew(row, keys, now=now, days=days)
        session.add(row)
    triage = None if settings.triage is None else to_wire(settings.triage)
    other = plan is not None and plan.triage != triage
    trials = plan is not None and plan.groups != groups
    if why or other or trials or (target.plan_expires is not None and target.plan_expires < soon):
        sign(session, target, groups, keys, settings, now=now)
    if why:
        log.warning("the plan is signed anew, as number %d: %s", target.plan_number, why)
    if other:
        log.info("plan %d: cameras follow %s", target.plan_number, settings.triage or "their own edge.toml")
    return bool(stale)


def sign(
    session: Session, target: Rollout, groups: list[Group], keys: Keys, settings: HubSettings, *, now: datetime
) -> None:
    """A new plan for a rollout, in the caller's transaction, with the triage settings that the cameras shall follow."""
    release.sign_plan(session, target, groups, keys, now=now, days=settings.rollout.days, triage=settings.triage)
