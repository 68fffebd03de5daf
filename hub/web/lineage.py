"""Read models of lineage: from an image to the cameras that run what learned from it, and back from a release."""

from collections import defaultdict

from sqlmodel import col, select

from hub.dataset import Entry
from hub.lineage import Member, cameras_on, labellers, members, releases_of, run_of, snapshot_of, uses
from hub.store import Store
from hub.tables import Image, Label, Release
from hub.web.models import ImageLineage, MemberView, ReleaseImages, ReleaseUse, RunUse


class Lineage:
    """Of one project. `None` means: no such thing."""

    def __init__(self, project: str, store: Store) -> None:
        self._project = project
        self._store = store

    def of_image(self, image_id: int) -> ImageLineage | None:
        """Where an image went."""
        with self._store.read() as session:
            image = session.get(Image, image_id)
            if image is None or image.project != self._project:
                return None
            found = uses(self._store, session, image)
            releases = releases_of(session, self._project, [one.run.id for one in found if one.run.id is not None])
            numbers = [number for some in releases.values() for number in some]
            cameras = cameras_on(session, self._project, numbers)
            given = labellers(session, [image_id], None).get((image_id, image.label or ""))
        return ImageLineage(
            image=image_id,
            sha256=image.sha256,
            camera=image.camera,
            label=image.label,
            operator=given.operator if given else "",
            decided_at=given.at if given else None,
            runs=[
                RunUse(
                    run=run.id,
                    at=run.ended_at or run.created_at,
                    side=side,
                    label=label,
                    releases=[ReleaseUse(number=one, cameras=cameras.get(one, [])) for one in releases.get(run.id, [])],
                )
                for run, label, side in found
                if run.id is not None
            ],
        )

    def of_release(
        self, number: int, *, limit: int, offset: int = 0, side: str = "", label: str = ""
    ) -> ReleaseImages | None:
        """What a release comes from, by hash."""
        with self._store.read() as session:
            release = session.exec(
                select(Release).where(Release.project == self._project, col(Release.number) == number)
            ).first()
            if release is None:
                return None
            run = run_of(session, release)
            entries = snapshot_of(self._store, run.snapshot) if run else None
            chosen = [one for one in entries or [] if side in ("", one.side) and label in ("", one.label)]
            page = chosen[offset : offset + limit]
            # All lines of the hashes on this page: images with the same bytes are told apart by all of them.
            hashes = {one.sha256 for one in page}
            near = [one for one in entries or [] if one.sha256 in hashes]
            images = members(session, self._project, near)
            ids = [one.id for one in images if one is not None]
            given = labellers(session, ids, run.ended_at if run else None)
        left: dict[Entry, list[MemberView]] = defaultdict(list)
        for entry, image in zip(near, images, strict=True):
            left[entry].append(_member(entry, image, given.get((image.id, entry.label)) if image else None))
        if page:  # the same bytes, label and side may have begun on the page before
            del left[page[0]][: chosen[:offset].count(page[0])]
        return ReleaseImages(
            release=number,
            run=release.run_id,
            snapshot=run.snapshot if run else "",
            kept=entries is not None,
            total=len(chosen),
            limit=limit,
            offset=offset,
            items=[left[one].pop(0) for one in page],
        )


def _member(entry: Entry, image: Member | None, given: Label | None) -> MemberView:
    return MemberView(
        image=image.id if image else None,
        camera=image.camera if image else None,
        sha256=entry.sha256,
        label=entry.label,
        side=entry.side,
        operator=given.operator if given else "",
        at=given.at if given else None,
    )
