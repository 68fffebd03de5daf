"""From the database to a release's model card."""

from sqlmodel import select

from hub import split
from hub.card import Card, Facts, card
from hub.lineage import cameras_on, members, operators, run_of, snapshot_of
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Release


def card_of(settings: HubSettings, store: Store, number: int) -> Card | None:
    """The model card of a release; None when there is no such release."""
    project, limit = settings.project.name, settings.split.max_verdicts
    with store.read() as session:
        release = session.exec(select(Release).where(Release.project == project, Release.number == number)).first()
        if release is None:
            return None
        run = run_of(session, release)
        entries = snapshot_of(store, run.snapshot) if run else None
        images = members(session, project, entries or [])
        field = [one.id for one in images if one is not None and one.camera]
        facts = Facts(
            release=release,
            run=run,
            intended_use=settings.project.intended_use,
            standing=split.standing(session, project, limit, release.holdout),
            limit=limit,
            entries=entries,
            members=images,
            operators=len(operators(session, field, run.ended_at if run else None)),
            cameras=cameras_on(session, project, [number]).get(number, []),
        )
    return card(facts)
