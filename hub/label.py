"""Label: which image an operator sees next, and what becomes of the answer. Decisions are appended, never changed."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, func, select

from hub import again, evidence
from hub.decisions import undone
from hub.queue import Planner, waits
from hub.settings import LabelSettings
from hub.store import Store
from hub.tables import Image, Label
from shared.clock import Clock
from shared.errors import LabelError

HOLD_S = 300.0
"""So long an image that an operator was given is not given to another one."""


@dataclass(frozen=True, slots=True)
class Counts:
    """waiting: verified images without a decision. labelled, skipped: decisions in force on images from the field."""

    waiting: int
    labelled: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Question:
    """An image to ask about. ask: why, as in table `Label`; with anything but "" what was said of it stays hidden.

    urgent: the rollout under way waits for it, since two releases differ on it.
    """

    image: Image
    ask: again.Ask
    urgent: bool = False


class Desk:
    """The operators' desk of one project: hands out images and takes decisions. Safe to use from several threads.

    settings: asked before each batch is chosen, so that another order holds from the next batch on. settle: share of
    the frames on which two releases differ that a rollout waits for, see `hub.evidence`: these come before all others.
    """

    def __init__(
        self,
        store: Store,
        project: str,
        classes: Sequence[str],
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
        *,
        settings: Callable[[], LabelSettings] = LabelSettings,
        settle: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._settings = settings
        self._settle = settle
        self._store = store
        self._project = project
        self._classes = tuple(classes)
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._planner = Planner(project, store.blobs.read)
        self._order: list[int] = []
        self._again: dict[int, again.Ask] = {}
        self._held: dict[int, tuple[str, float]] = {}  # which operator has it in front of him, and until when

    def next(self, count: int = 1, *, exclude: Sequence[int] = (), operator: str = "") -> list[Image]:
        """Up to `count` images to decide, as `questions`."""
        return [one.image for one in self.questions(count, exclude=exclude, operator=operator)]

    def questions(self, count: int = 1, *, exclude: Sequence[int] = (), operator: str = "") -> list[Question]:
        """Up to `count` images that wait for a decision, the most useful first; `exclude`: ids that the caller has.

        Among them are some that were decided before, see `hub.again`. operator: nobody else is asked about what he was
        given, or says he has, within HOLD_S; "": no such claim is made.
        """
        settings, now = self._settings(), self._clock.monotonic()
        with self._lock, self._store.read() as session:
            self._held = {one: held for one, held in self._held.items() if held[1] > now}
            away = {one for one, (whose, _) in self._held.items() if whose != operator} | set(exclude)
            first = evidence.urgent(session, self._project, waits(self._project), self._settle())
            urgent = set(first)
            self._order = [*first, *(one for one in self._order if one not in urgent)]
            found = self._take(session, count, away)
            if len(found) < count:
                plan = self._planner.plan(session, count, away, settings)
                self._order = [*first, *(one for one in plan.order if one not in urgent)]
                self._again = plan.again
                found = self._take(session, count, away)
            if operator:
                mine = [one.id for one in found if one.id is not None] + [
                    one for one in exclude if self._held.get(one, (operator, 0))[0] == operator
                ]
                self._held |= dict.fromkeys(mine, (operator, now + HOLD_S))
            return [Question(one, self._again.get(one.id or 0, ""), one.id in urgent) for one in found]

    def asked(self, image_id: int) -> again.Ask:
        """Why this image is asked about again at present; a program that leaves `ask` out of its answer means this."""
        with self._lock:
            return self._again.get(image_id, "")

    def counts(self) -> Counts:
        """How many images wait and how many are decided."""
        with self._store.read() as session:
            base = select(func.count()).select_from(Image)
            field = base.where(Image.project == self._project, Image.split == "pool")
            decided = field.where(col(Image.decided).is_(True))
            return Counts(
                waiting=session.exec(field.where(Image.state == "verified", col(Image.decided).is_(False))).one(),
                labelled=session.exec(decided.where(col(Image.label).is_not(None))).one(),
                skipped=session.exec(decided.where(col(Image.label).is_(None))).one(),
            )

    def decide(
        self, image_id: int, name: str, *, operator: str, seconds: float | None = None, ask: again.Ask = ""
    ) -> Label:
        """Append "this image is `name`"; LabelError for an unknown image or class."""
        self._check(name, f"image {image_id}")
        now = self._clock.utc()
        made = Label(image_id=image_id, name=name, operator=operator, at=now, seconds=seconds, ask=ask)
        return self._append(image_id, made)

    def decide_all(self, image_ids: Sequence[int], name: str, *, operator: str, bulk: str) -> list[Label]:
        """Append one decision on many images, "" for "cannot tell", as one that can be taken back at once.

        Images that somebody has decided meanwhile are left alone. bulk: an id of the caller's; when it was used before,
        nothing is done and what was appended then is returned. LabelError for an unknown image or class.
        """
        if name:
            self._check(name, f"{len(image_ids)} images")
        kind, now = "label" if name else "skip", self._clock.utc()
        with self._lock, self._store.write() as session:
            before = session.exec(
                select(Label).where(Label.bulk == bulk, Label.kind != "undo").order_by(col(Label.id))
            ).all()
            if before:
                return list(before)
            made = []
            for image in [self._image(session, one) for one in dict.fromkeys(image_ids)]:
                if image.decided or image.id is None:
                    continue
                image.decided, image.label = True, name or None
                made.append(Label(image_id=image.id, kind=kind, name=name, operator=operator, at=now, bulk=bulk))
            session.add_all(made)
            session.flush()
            self._drop({one.image_id for one in made})
        self._changed()
        return made

    def _check(self, name: str, subject: str) -> None:
        if name not in self._classes:
            raise LabelError(
                f"{name!r} is not a class of project {self._project}",
                subject=subject,
                remedy=f"Use one of: {', '.join(self._classes)}",
            )

    def skip(self, image_id: int, *, operator: str, ask: again.Ask = "") -> Label:
        """Append "cannot tell": the image leaves the queue without a class. LabelError for an unknown image."""
        now = self._clock.utc()
        return self._append(image_id, Label(image_id=image_id, kind="skip", operator=operator, at=now, ask=ask))

    def undo(self, *, operator: str, label: int | None = None) -> Label:
        """Append the undoing of this operator's last decision that still stands; LabelError when there is none.

        One that was made on many images at once is taken back on all of them. label: the decision that the operator
        means; LabelError when the last one is another.
        """
        with self._lock, self._store.write() as session:
            last = session.exec(
                select(Label)
                .where(Label.operator == operator, Label.kind != "undo", col(Label.id).not_in(undone()))
                .order_by(col(Label.id).desc())
            ).first()
            if last is None:
                raise LabelError("has no decision to undo", subject=f"operator {operator!r}")
            if label is not None and last.id != label:
                raise LabelError(f"decision {label} is not the last one that stands", subject=f"operator {operator!r}")
            if last.bulk:
                undo = self._take_back(session, self._standing(session, last.bulk), operator)[-1]
            else:
                [undo] = self._take_back(session, [last], operator)
        self._changed()
        return undo

    def undo_all(self, bulk: str, *, operator: str) -> list[Label]:
        """Append the undoing of all that still stands of a decision on many images. Repeats undo nothing more.

        LabelError for an unknown bulk, or another operator's.
        """
        with self._lock, self._store.write() as session:
            whose = session.exec(select(Label.operator).where(Label.bulk == bulk)).first()
            if whose != operator:
                raise LabelError("has made no such decision", subject=f"operator {operator!r}")
            undone = self._take_back(session, self._standing(session, bulk), operator)
        self._changed()
        return undone

    def _standing(self, session: Session, bulk: str) -> list[Label]:
        rows = select(Label).where(Label.bulk == bulk, Label.kind != "undo", col(Label.id).not_in(undone()))
        return list(session.exec(rows.order_by(col(Label.id))))

    def _take_back(self, session: Session, labels: Sequence[Label], operator: str) -> list[Label]:
        """Append the undoing of each; what was decided before is in force again, and the images come next."""
        made = []
        for one in labels:
            image = self._image(session, one.image_id)
            undo = Label(image_id=one.image_id, kind="undo", operator=operator, at=self._clock.utc(), undoes=one.id)
            session.add(undo)
            session.flush()
            before = session.exec(
                select(Label)
                .where(Label.image_id == one.image_id, Label.kind != "undo", col(Label.id).not_in(undone()))
                .order_by(col(Label.id).desc())
            ).first()
            image.decided = before is not None
            image.label = before.name if before is not None and before.kind == "label" else None
            session.add(image)
            if one.ask:
                self._again[one.image_id] = "second" if one.ask == "second" else "repeat"
            made.append(undo)
        first = [one.image_id for one in labels]
        self._order = [*first, *(one for one in self._order if one not in first)]
        return made

    def _append(self, image_id: int, label: Label) -> Label:
        with self._lock, self._store.write() as session:
            image = self._image(session, image_id)
            session.add(label)
            image.decided = True
            image.label = label.name if label.kind == "label" else None
            session.add(image)
            session.flush()
            self._drop({image_id})
        self._changed()
        return label

    def _drop(self, image_ids: set[int]) -> None:
        """These are decided: nobody needs to be asked about them any more."""
        self._order = [one for one in self._order if one not in image_ids]
        for one in image_ids:
            self._again.pop(one, None)
            self._held.pop(one, None)

    def _image(self, session: Session, image_id: int) -> Image:
        image = session.get(Image, image_id)
        if image is None or image.project != self._project:
            raise LabelError("is not an image of this project", subject=f"image {image_id}")
        return image

    def _take(self, session: Session, count: int, exclude: set[int]) -> list[Image]:
        """The first images of the present order that still wait, or are asked about again."""
        wanted = [one for one in self._order if one not in exclude][:count]
        known = [one for one in wanted if one in self._again]
        found = {
            one.id: one for one in session.exec(select(Image).where(*waits(self._project), col(Image.id).in_(wanted)))
        }
        found |= {one.id: one for one in session.exec(select(Image).where(col(Image.id).in_(known)))}
        return [found[one] for one in wanted if one in found]
