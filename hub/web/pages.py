"""The pages: read models poured into templates. Pages change nothing; their buttons call the API."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, Response
from starlette.templating import Jinja2Templates

from hub.looks import FLAGS
from hub.policies import Policies
from hub.settings import HubSettings
from hub.web import stream, words
from hub.web.api import RowId, Text
from hub.web.cameras import audits_lost
from hub.web.fleet import PreviewCounts
from hub.web.models import PreviewState
from hub.web.policies import changes, settings_view
from hub.web.previews import Order
from hub.web.views import Views
from shared.clock import Clock
from shared.errors import HoneError

TEMPLATES = Path(__file__).parent / "templates"
PER_PAGE = 48
FILTERS = {
    "": "All",
    "waiting": "Waiting for a label",
    "labelled": "Labelled",
    "skipped": "Skipped",
    "new": "Not checked yet",
    "unreadable": "Unreadable",
    "lost": "Lost",
}
PREVIEWS = {"": "All", "waiting": "Waiting", "asked": "Asked for", "gone": "Gone"}
ORDERS: dict[str, Order] = {"": "newest", "value": "value"}
PageNumber = Annotated[int, Query(ge=1, le=100_000)]


class Pages:
    """All pages of one hub."""

    def __init__(self, settings: HubSettings, views: Views, clock: Clock, policies: Policies) -> None:
        self._settings = settings
        self._policies = policies
        self._views = views
        self._clock = clock
        self._templates = Jinja2Templates(directory=TEMPLATES)
        words.install(self._templates.env)

    def routes(self) -> APIRouter:
        """All paths that a person opens."""
        pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        views = self._views

        @pages.get("/")
        def overview(request: Request) -> Response:
            return self._page(request, "overview.html", data=views.overview())

        @pages.get("/cameras")
        def cameras(request: Request) -> Response:
            found = views.cameras()
            return self._page(
                request,
                "cameras.html",
                cameras=found,
                lost=audits_lost(found),
                drift={one.camera: one for one in views.proofs.drift()},
                field=views.proofs.field(),
                settings=self._policies.now().drift,
                releases=views.releases(20),
            )

        @pages.get("/label")
        def label(request: Request) -> Response:
            return self._page(request, "label.html", classes=self._settings.project.classes)

        @pages.get("/label/clusters")
        def clusters(request: Request) -> Response:
            return self._page(request, "clusters.html", classes=self._settings.project.classes)

        @pages.get("/images")
        def images(
            request: Request,
            *,
            page: PageNumber = 1,
            state: Text = "",
            label: Text = "",
            split: Text = "",
            camera: Text = "",
            flag: Text = "",
            suspect: Text = "",
        ) -> Response:
            chosen: dict[str, Any] = {"state": state, "label": label, "split": split, "camera": camera}
            chosen |= {"flag": flag, "suspect": "1" if suspect else ""}
            wanted = {
                "state": state if state and state in FILTERS else None,
                "flag": flag if flag in FLAGS else None,
                "suspect": bool(suspect),
            }
            found = views.images.page(**{**chosen, **wanted}, limit=PER_PAGE, offset=(page - 1) * PER_PAGE)

            return self._page(
                request,
                "images.html",
                found=found,
                chosen=chosen,
                page=page,
                pages=-(-found.total // PER_PAGE),
                link=partial(_link, "/images", chosen),
                filters=FILTERS,
                classes=self._settings.project.classes,
                cameras=[one.name for one in views.cameras()],
                flags=FLAGS,
                previews=views.preview_counts(),
            )

        @pages.get("/images/previews")
        def previews(
            request: Request, *, page: PageNumber = 1, state: Text = "", camera: Text = "", order: Text = ""
        ) -> Response:
            chosen = {"state": state, "camera": camera, "order": order}
            cameras = views.cameras()
            found = views.previews.page(
                state=cast("PreviewState", state) if state and state in PREVIEWS else None,
                camera=camera,
                order=ORDERS.get(order, "newest"),
                limit=PER_PAGE,
                offset=(page - 1) * PER_PAGE,
            )

            return self._page(
                request,
                "previews.html",
                found=found,
                chosen=chosen,
                page=page,
                pages=-(-found.total // PER_PAGE),
                link=partial(_link, "/images/previews", chosen),
                filters=PREVIEWS,
                counts=views.preview_counts(),
                cameras=[one.name for one in cameras if one.previews != PreviewCounts()],
                online={one.name for one in cameras if one.online},
                every=self._settings.collect.fetch_per_hour,
            )

        @pages.get("/images/{image}")
        def one_image(request: Request, image: RowId) -> Response:
            found = _found(views.images.one(image), f"image {image}")
            return self._page(
                request,
                "image.html",
                image=found,
                lineage=views.lineage.of_image(image),
                classes=self._settings.project.classes,
            )

        @pages.get("/runs")
        def runs(request: Request) -> Response:
            return self._page(
                request, "runs.html", runs=views.runs(100), queue=views.counts(), holdout=views.proofs.holdout()
            )

        @pages.get("/runs/{run}")
        def one_run(request: Request, run: RowId) -> Response:
            found = _found(views.run(run), f"run {run}")
            return self._page(request, "run.html", run=found, classes=self._settings.project.classes)

        @pages.get("/releases")
        def releases(request: Request) -> Response:
            return self._page(
                request,
                "releases.html",
                releases=views.releases(100),
                rollout=(rollout := views.ways.now()),
                gone=views.ways.one(rollout.reverts) if rollout and rollout.reverts else None,
                drafts=views.ways.waiting(),
                cameras=len(views.cameras()),
                every=self._policies.now().retrain,
            )

        @pages.get("/releases/{number}/card")
        def card(request: Request, number: RowId) -> Response:
            return self._page(request, "card.html", card=_found(views.card(number), f"release {number}"))

        @pages.get("/settings")
        def settings(request: Request) -> Response:
            return self._page(
                request,
                "settings.html",
                view=settings_view(self._policies),
                changes=changes(self._policies, 20),
                cameras=views.cameras(),
            )

        return pages

    def error(self, request: Request, status: int, code: str, message: str) -> Response:
        """What a person sees instead of a page."""
        try:
            return self._page(request, "error.html", status=status, code=code, message=message)
        except HoneError:  # the database is away: even the frame of a page needs it
            return HTMLResponse(f"<h1>{status}</h1><p>The hub cannot read its database.</p>", status)

    def _page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        """Render a page, and with it what the frame around it shows."""
        state = stream.name(self._views.fingerprints())
        frame = {
            "project": self._settings.project.name,
            "hub": self._views.hub(),
            "now": self._clock.utc(),
            "seen": state,
            "here": request.url.path,
            "self_url": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            "waiting": self._views.counts().waiting,
            "status": status,
        }
        return self._templates.TemplateResponse(request, template, {**frame, **values}, status_code=status)


def _link(path: str, chosen: Mapping[str, object], **changes: object) -> str:
    """The address of a list with what is chosen in it; empty choices are left out."""
    query = {key: value for key, value in {**chosen, **changes}.items() if value}
    return f"{path}?{urlencode(query)}" if query else path


def _found(what: Any, name: str) -> Any:
    if what is None:
        raise HTTPException(404, f"There is no {name}.")
    return what
