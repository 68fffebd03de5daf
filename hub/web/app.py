"""The web application: one object built from its parts, without globals. Never imports torch or LiteRT."""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles

from hub.label import Desk
from hub.policies import Policies
from hub.settings import HubSettings
from hub.store import Store
from hub.web import api, api_rollouts, faults, pages
from hub.web.actions import Actions
from hub.web.guard import Guard
from hub.web.stream import Stream
from hub.web.views import Views
from shared.clock import Clock

STATIC = Path(__file__).parent / "static"


def create_app(settings: HubSettings, store: Store, desk: Desk, actions: Actions, clock: Clock) -> FastAPI:
    """API at /api, its description at /openapi.json, pages at /. `app.state.stream.close()` ends the live streams."""
    policies = Policies(settings, store, clock)
    views = Views(settings, store, desk, actions, clock, policies=policies)
    stream = Stream(views.fingerprints, clock)
    app = FastAPI(
        title="Hone hub",
        version=actions.state().version,
        description="Fleets of smart cameras that learn from the images they are unsure about.",
        docs_url=None,  # these pages load scripts from another host
        redoc_url=None,
    )
    app.state.stream = stream
    shown = pages.Pages(settings, views, clock, policies)
    faults.install(app, shown.error)
    app.add_middleware(Guard, host=settings.web.host)
    app.include_router(api.routes(views, store, desk, actions, policies))
    app.include_router(api_rollouts.routes(views, actions))
    app.include_router(shown.routes())
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/stream", include_in_schema=False)
    async def live(request: Request, seen: str = "") -> StreamingResponse:
        """Server-sent events: the topics that changed since the state `seen`."""
        events = stream.events(request.headers.get("last-event-id", seen))
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    return app
