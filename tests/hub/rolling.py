"""A fleet that is played by hand before the rollouts of a hub with a real database."""

from collections.abc import Iterable

import msgspec
from sqlmodel import col, select

from hub import keys, rollouts
from hub.policies import Policies
from hub.progress import Progress
from hub.registry import Registry
from hub.rollouts import Rollouts
from hub.settings import HubSettings, RolloutSettings
from hub.store import Store
from hub.tables import Camera, Image, Pair, Release, Rollout, Run
from shared.manifest import PLAN_TYPE, Plan, Reader, open_signed
from shared.messages import Status, TrialState
from tests.fakes.clock import FakeClock
from tests.hub.making import CLASSES, NOW, add_image, reported


class Fleet:
    """Cameras that say what they are told to, operators that label, and the rollouts that look at both."""

    def __init__(self, settings: HubSettings, store: Store, clock: FakeClock, **rules: object) -> None:
        self.settings = msgspec.structs.replace(settings, rollout=RolloutSettings(**rules))
        self.store = store
        self.clock = clock
        self.keys = settings.state_folder / "keys"
        if not self.keys.exists():
            keys.make(self.keys, clock)
        self.published = 0
        self.begin()

    def begin(self) -> None:
        """The hub starts, again."""
        self.registry = Registry(self.store, self.clock)
        self.registry.start()
        self.rollouts = Rollouts(
            self.store,
            "cells",
            keys.load(self.keys),
            self.registry,
            self.clock,
            settings=Policies(self.settings, self.store, self.clock).now,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.published += 1

    # -- cameras

    def say(self, name: str, release: int, *, online: bool = True, boot: str = "b1", **more: object) -> None:
        """A camera of site `site` reports. more: trial, labels, floor, plan_floor, project, or fields of its reload."""
        fields = {key: more.pop(key) for key in ("trial", "labels", "rates") if key in more}
        said = msgspec.structs.replace(reported(release, **more), boot=boot, **fields)  # type: ignore[arg-type]
        self.registry.status(f"site/{name}", Status(online=online, boot=boot))
        self.registry.reported(f"site/{name}", said)
        self.registry.flush()

    def shadow(
        self, name: str, frames: int, *, new: int = 2, old: int = 1, trial: str = "s1", **counts: object
    ) -> None:
        """A camera that runs the old release says how the new one does beside it."""
        self.say(name, old, trial=TrialState(release=old, other=new, id=trial, frames=frames, **counts))

    def canary(
        self, name: str, frames: int, *, new: int = 2, old: int = 1, trial: str = "t1", **counts: object
    ) -> None:
        """A camera that runs the new release says how it does beside the old one."""
        self.say(name, new, trial=TrialState(release=new, other=old, id=trial, frames=frames, **counts))

    def differ(
        self,
        name: str,
        *,
        new: str = "defect",
        old: str = "good",
        says: str | None = None,
        pair: tuple[int, int] = (2, 1),
        trial: str = "t1",
        number: int = 0,
    ) -> int:
        """An image comes on which both differ; returns its id.

        says: an operator's label, "" for "cannot tell". pair: releases in use and beside. number: 0 for the next one.
        """
        image = add_image(self.store, camera=f"site/{name}", decided=says is not None, label=says or None)
        with self.store.write() as session:
            event = session.get(Image, image).event_id
            before = session.exec(select(Pair).where(Pair.camera == f"site/{name}", Pair.trial == trial)).all()
            session.add(
                Pair(
                    camera=f"site/{name}", event_id=event, project="cells", release=pair[0], label=new, other=pair[1],
                    other_label=old, trial=trial, number=number or len(before) + 1,
                )
            )  # fmt: skip
        return image

    def settle(self, image: int, says: str | None) -> None:
        """An operator says what an image is; None: takes it back."""
        with self.store.write() as session:
            row = session.get(Image, image)
            row.label, row.decided = says or None, says is not None
            session.add(row)

    # -- releases

    def run(self, head: bytes) -> Run:
        """A finished run."""
        parts = {"backbone": b"backbone" * 99, "head": head, "golden": b"golden"}
        names = self.store.blobs.put(list(parts.values()))
        with self.store.write() as session:
            run = Run(
                project="cells", state="done", created_at=NOW, parts=dict(zip(parts, names, strict=True)),
                settings={"classes": CLASSES, "preprocess": {}}, holdout=3,
            )  # fmt: skip
            session.add(run)
            session.flush()
            return run

    def release(self, head: bytes, *, start: bool = True) -> int:
        """Release a run with this head."""
        return self.rollouts.release(self.run(head), "by hand", start=start)

    def first(self, *names: str) -> None:
        """Release 1 runs on these cameras, and its rollout is done."""
        assert self.release(b"head 1") == 1
        for name in names:
            self.say(name, 1)
        self.look()
        assert self.row().stage == "done"

    def look(self, seconds: float = 1.0) -> Rollout:
        """Time passes, and the hub looks; returns the row of the newest plan."""
        self.clock.advance(seconds)
        self.rollouts.look(restored=False)
        return self.row()

    def row(self, release: int | None = None) -> Rollout:
        """The row whose plan is in force, or that of a release."""
        with self.store.read() as session:
            if release is None:
                found = rollouts.current(session, "cells")
            else:
                found = session.exec(select(Rollout).where(Rollout.release == release)).one()
        assert found is not None
        return found

    def progress(self) -> Progress:
        """Where the rollout under way is."""
        return rollouts.load(self.row())

    def at(self) -> tuple[int, str, str]:
        """Release, stage and state of the rollout whose plan is in force."""
        row = self.row()
        return row.release, row.stage, row.state

    def plan(self) -> Plan:
        """The plan in force, as a camera opens it."""
        pinned = keys.load(self.keys).root_public
        reader = Reader(pinned, "cells", "site/a", now=self.clock.utc(), clock_trusted=True)
        return open_signed(self.row().plan, PLAN_TYPE, Plan, reader).body

    def planned(self, names: Iterable[str]) -> dict[str, int]:
        """The release that the plan names to each camera."""
        plan = self.plan()
        found = {one: plan.group_for(f"site/{one}", {}) for one in names}
        return {one: group.release for one, group in found.items() if group is not None}

    def releases(self) -> list[Release]:
        """All of them, by number."""
        with self.store.read() as session:
            return list(session.exec(select(Release).order_by(col(Release.number))))

    def camera(self, name: str) -> Camera:
        """A camera's row."""
        with self.store.read() as session:
            found = session.get(Camera, f"site/{name}")
        assert found is not None
        return found
