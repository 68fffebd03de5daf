"""The JSON API. Reads come from `views`, decisions go to the label desk, commands to the daemon.

Labels and undos may be repeated: a client that heard no answer sends the same again, and it counts once.
"""

from typing import Annotated, Any, TypeVar

import cv2
import numpy as np
from fastapi import APIRouter, Body, HTTPException, Path, Query
from fastapi.responses import Response

from hub.card import Card
from hub.cardtext import markdown
from hub.label import Desk
from hub.looks import Flag
from hub.options import options
from hub.policies import Policies
from hub.store import Store
from hub.web.actions import Actions
from hub.web.asks import MAX_ID, BulkAsk, BulkUndoAsk, LabelAsk, ReleaseAsk, RunAsk, SkipAsk, UndoAsk
from hub.web.fleet import CameraView
from hub.web.images import State, label_view
from hub.web.models import (
    AgainView,
    ClusterView,
    Done,
    DriftView,
    Fault,
    FieldView,
    Health,
    HoldoutView,
    ImageDetail,
    ImageLineage,
    ImagePage,
    LabelView,
    Number,
    Overview,
    PreviewPage,
    PreviewState,
    QueueView,
    ReleaseImages,
    ReleaseView,
    RunDetail,
    RunView,
    SettingChange,
    SettingsView,
)
from hub.web.policies import changes, settings_view
from hub.web.previews import Order
from hub.web.views import Views
from shared.errors import LabelError, StoreError
from shared.preprocess import Pixels, decode, encode_jpeg

RowId = Annotated[int, Path(ge=1, le=MAX_ID)]
Limit = Annotated[int, Query(ge=1, le=200)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]
Text = Annotated[str, Query(max_length=200)]
TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "tif": "image/tiff",
    "tiff": "image/tiff",
}
FOREVER = {"cache-control": "public, max-age=31536000, immutable"}
"""An image never changes: its row names it by its hash."""
T = TypeVar("T")


By = Annotated[str, Query(max_length=100)]
MERGE = {"triage": {"low_score": 0.7}, "retrain": {"every_labels": None}}


def routes(views: Views, store: Store, desk: Desk, actions: Actions, policies: Policies) -> APIRouter:
    """All paths under /api."""
    api = APIRouter(prefix="/api", responses={code: {"model": Fault} for code in (404, 409, 422, 503)})

    @api.get("/overview")
    def overview() -> Overview:
        """Everything that the front page shows."""
        return views.overview()

    @api.get("/health")
    def health(response: Response) -> Health:
        """200 when database and broker are there, 503 otherwise."""
        state = actions.state()
        try:
            views.runs(1)
            database = True
        except StoreError:
            database = False
        ok = database and state.broker
        response.status_code = 200 if ok else 503
        return Health(ok=ok, database=database, broker=state.broker, version=state.version)

    @api.get("/cameras")
    def cameras() -> list[CameraView]:
        """All cameras, by name."""
        return views.cameras()

    @api.get("/cameras/{site}/{camera}")
    def one_camera(site: str, camera: str) -> CameraView:
        """One camera."""
        return _found(views.camera(f"{site}/{camera}"), "camera")

    @api.get("/drift")
    def drift() -> list[DriftView]:
        """The latest look at each camera's drift, by name; a camera that has sent too few audit images has none."""
        return views.proofs.drift()

    @api.get("/field")
    def field() -> list[FieldView]:
        """How often the newest releases are right in the field, by camera and on all of them."""
        return views.proofs.field()

    @api.get("/holdout")
    def holdout() -> list[HoldoutView]:
        """The versions of the holdout, the newest first."""
        return views.proofs.holdout()

    @api.get("/images")
    def images(
        *,
        limit: Limit = 50,
        offset: Offset = 0,
        state: State | None = None,
        label: Text = "",
        split: Text = "",
        camera: Text = "",
        flag: Flag | None = None,
        suspect: bool = False,
    ) -> ImagePage:
        """Stored images, the newest first. state: of the file, or where it stands in the label queue. flag: a finding
        that they have, such as `dark`. suspect: only those whose label the newest run doubts, and nobody looked again.
        """
        return views.images.page(
            limit=limit,
            offset=offset,
            state=state,
            label=label,
            split=split,
            camera=camera,
            flag=flag,
            suspect=suspect,
        )

    @api.get("/images/{image}")
    def one_image(image: RowId) -> ImageDetail:
        """One image and its decisions."""
        return _found(views.images.one(image), "image")

    @api.get("/images/{image}/lineage")
    def lineage(image: RowId) -> ImageLineage:
        """Where an image went: its label, the runs that used it, their releases, the cameras that run them."""
        return _found(views.lineage.of_image(image), "image")

    @api.get("/images/{image}/file", response_class=Response)
    def file(image: RowId, width: Annotated[int | None, Query(ge=16, le=4096)] = None) -> Response:
        """The bytes as the camera sent them; with `width` a JPEG that is no wider (pixels)."""
        found = _found(views.images.one(image), "image")
        data = store.blobs.read(found.sha256)
        if width is not None:
            return Response(shrink(data, width), media_type="image/jpeg", headers=FOREVER)
        kind = TYPES.get(found.ext)
        headers = FOREVER if kind else {**FOREVER, "content-disposition": "attachment"}
        return Response(data, media_type=kind or "application/octet-stream", headers=headers)

    @api.get("/previews")
    def previews(
        *,
        limit: Limit = 50,
        offset: Offset = 0,
        state: PreviewState | None = None,
        camera: Text = "",
        order: Order = "newest",
    ) -> PreviewPage:
        """Events whose images wait on their cameras, the newest or the most valuable first."""
        return views.previews.page(limit=limit, offset=offset, state=state, camera=camera, order=order)

    @api.get("/previews/{preview}/thumbnail", response_class=Response)
    def thumbnail(preview: RowId) -> Response:
        """The small picture of a preview, a JPEG."""
        data = _found(views.previews.thumbnail(preview), "thumbnail")
        return Response(data, media_type="image/jpeg", headers=FOREVER)

    @api.post("/previews/{preview}/ask")
    def ask_preview(preview: RowId) -> Done:
        """Have the image sent, as soon as its camera is there; once it is stored the preview goes. Repeats are fine."""
        if _found(views.previews.one(preview), "preview").state == "gone":
            raise HTTPException(409, "the camera has let this image go")
        actions.ask_preview(preview)
        return Done()

    @api.get("/queue")
    def queue(
        count: Annotated[int, Query(ge=1, le=50)] = 1,
        exclude: Annotated[list[Annotated[int, Query(ge=1, le=MAX_ID)]] | None, Query(max_length=200)] = None,
        operator: Annotated[str, Query(max_length=100)] = "",
    ) -> QueueView:
        """The next images to label, the most useful first. exclude: may be repeated; images that you have already.

        operator: nobody else is given these images for five minutes, nor those that you exclude.
        """
        return views.images.queue(count, exclude or [], operator.strip())

    @api.get("/labels")
    def labels(limit: Limit = 50) -> list[LabelView]:
        """The last decisions, the newest first."""
        return views.images.labels(limit)

    @api.post("/labels")
    def label(ask: LabelAsk) -> LabelView:
        """Label an image. The same label by the same operator again is answered with the one in force."""
        _found(views.images.one(ask.image), "image")
        now, asked = views.images.standing(ask.image), ask.ask or desk.asked(ask.image)
        same = now is not None and (now.kind, now.name, now.operator) == ("label", ask.name, ask.operator)
        if now is not None and same and asked in ("", now.ask):
            return now
        made = desk.decide(ask.image, ask.name, operator=ask.operator, seconds=ask.seconds, ask=asked)
        return label_view(made, ())

    @api.post("/skips")
    def skip(ask: SkipAsk) -> LabelView:
        """Take an image off the queue without a class. Repeats as for labels."""
        _found(views.images.one(ask.image), "image")
        now, asked = views.images.standing(ask.image), ask.ask or desk.asked(ask.image)
        if now is not None and (now.kind, now.operator) == ("skip", ask.operator) and asked in ("", now.ask):
            return now
        return label_view(desk.skip(ask.image, operator=ask.operator, ask=asked), ())

    @api.get("/clusters")
    def clusters(count: Annotated[int, Query(ge=1, le=30)] = 12) -> list[ClusterView]:
        """What waits for a label in so many groups that look alike, the largest first."""
        return views.clusters.all(count)

    @api.post("/bulk")
    def bulk(ask: BulkAsk) -> list[LabelView]:
        """One decision on many images; those that are decided already are left alone. The same `bulk` counts once."""
        made = desk.decide_all(ask.images, ask.name, operator=ask.operator, bulk=ask.bulk)
        return [label_view(one, ()) for one in made]

    @api.post("/bulk/undo")
    def undo_bulk(ask: BulkUndoAsk) -> list[LabelView]:
        """Take back all that stands of a decision on many images; empty when nothing did."""
        return [label_view(one, ()) for one in desk.undo_all(ask.bulk, operator=ask.operator)]

    @api.get("/agreement")
    def agreement() -> AgainView:
        """How far operators agree on images that they were asked about again."""
        return views.again()

    @api.post("/undo")
    def undo(ask: UndoAsk) -> LabelView:
        """Take back an operator's last decision. With `label`: only if it is that one; again is answered the same."""
        try:
            return label_view(desk.undo(operator=ask.operator, label=ask.label), ())
        except LabelError as error:
            if ask.label is None:
                raise
            # The same request may have come before, or twice at once: the other one did it.
            if (done := views.images.undone_by(ask.label)) is not None:
                return done
            raise HTTPException(409, error.what) from error

    @api.get("/runs")
    def runs(limit: Limit = 50, offset: Offset = 0) -> list[RunView]:
        """Runs, the newest first."""
        return views.runs(limit, offset)

    @api.post("/runs", status_code=201)
    def start(ask: RunAsk) -> Number:
        """Queue a run; 409 when one is under way."""
        return Number(id=actions.start_run(ask.why))

    @api.get("/runs/{run}")
    def one_run(run: RowId) -> RunDetail:
        """One run with curve, figures and settings."""
        return _found(views.run(run), "run")

    @api.post("/runs/{run}/cancel")
    def cancel(run: RowId) -> Done:
        """Cancel a run that is queued or running."""
        if _found(views.run(run), "run").state not in ("queued", "running"):
            raise HTTPException(409, f"run {run} has ended already")
        actions.cancel_run(run)
        return Done()

    @api.post("/runs/{run}/resume")
    def resume_run(run: RowId) -> Done:
        """Queue a cancelled or failed run once more, with its settings and data; it goes on from its checkpoint."""
        if (state := _found(views.run(run), "run").state) not in ("cancelled", "failed"):
            raise HTTPException(409, f"run {run} is {state}; only a cancelled or failed run can be resumed")
        actions.resume_run(run)
        return Done()

    @api.post("/runs/{run}/again", status_code=201)
    def repeat_run(run: RowId) -> Number:
        """Queue another run with the settings and data of this one; 409 when it did not keep them."""
        if not _found(views.run(run), "run").snapshot:
            raise HTTPException(409, f"run {run} did not keep its data; start a new one")
        return Number(id=actions.repeat_run(run))

    @api.get("/releases")
    def releases(limit: Limit = 50, offset: Offset = 0) -> list[ReleaseView]:
        """Releases, the newest first."""
        return views.releases(limit, offset)

    @api.post("/releases", status_code=201)
    def release(ask: ReleaseAsk) -> Number:
        """Release what a finished run made. `start` false: as a draft, which nothing happens to until it is resumed."""
        if _found(views.run(ask.run), "run").state != "done":
            raise HTTPException(409, f"run {ask.run} is not done")
        return Number(id=actions.release_run(ask.run, ask.note, ask.start))

    @api.get("/releases/{number}/card")
    def card(number: RowId) -> Card:
        """The model card of a release: what it is for, what it learned from, how good it is and where not."""
        return _found(views.card(number), "release")

    @api.get("/releases/{number}/card.md", response_class=Response)
    def card_text(number: RowId) -> Response:
        """The model card as Markdown."""
        text = markdown(_found(views.card(number), "release"))
        return Response(text, media_type="text/markdown; charset=utf-8")

    @api.get("/releases/{number}/images")
    def release_images(
        number: RowId, *, limit: Limit = 50, offset: Offset = 0, side: Text = "", label: Text = ""
    ) -> ReleaseImages:
        """The images that a release comes from, by hash, with their labels and who gave them. side: train, holdout."""
        found = views.lineage.of_release(number, limit=limit, offset=offset, side=side, label=label)
        return _found(found, "release")

    @api.get("/settings")
    def settings() -> SettingsView:
        """The settings that can be changed while the hub runs: value, default, where it comes from, what is allowed."""
        return settings_view(policies)

    @api.patch("/settings")
    def change_settings(
        merge: Annotated[dict[str, Any], Body(examples=[MERGE])], operator: By = "the API"
    ) -> SettingsView:
        """Change settings, all that are named or none: a JSON merge, where null means: as hub.toml says."""
        policies.change(merge, operator=operator)
        return settings_view(policies)

    @api.delete("/settings/{key}")
    def clear_setting(key: Annotated[str, Path(max_length=200)], operator: By = "the API") -> SettingsView:
        """A setting, such as `triage.low_score`, is again as hub.toml says. Repeats are fine."""
        if key not in options():
            raise HTTPException(404, f"there is no setting {key!r}")
        policies.set({key: None}, operator=operator)
        return settings_view(policies)

    @api.get("/settings/history")
    def history(limit: Limit = 50) -> list[SettingChange]:
        """The last changes of settings, the newest first."""
        return changes(policies, limit)

    return api


def shrink(data: bytes, width: int) -> bytes:
    """An image file as JPEG of at most `width` pixels across; ImageError when it cannot be decoded."""
    pixels = decode(data)
    high, wide = pixels.shape[:2]
    if wide > width:
        size = (width, max(1, round(high * width / wide)))
        small: Pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        return encode_jpeg(small, 88)
    return encode_jpeg(pixels, 88)


def _found(what: T | None, kind: str) -> T:
    if what is None:
        raise HTTPException(404, f"there is no such {kind}")
    return what
