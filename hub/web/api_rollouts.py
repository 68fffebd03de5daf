"""The JSON API of rollouts and of exceptions from them: what is told comes from `views`, the daemon does the rest."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query

from hub.web.actions import Actions
from hub.web.api import Limit, Offset, RowId
from hub.web.asks import AbortAsk, ExemptionAsk
from hub.web.models import Done, Fault
from hub.web.rollouts import DifferencePage, RolloutDetail, RolloutPage
from hub.web.views import Views

By = Annotated[str, Query(max_length=100)]


def routes(views: Views, actions: Actions) -> APIRouter:
    """All paths under /api/rollout, /api/rollouts, and the exemptions of cameras."""
    api = APIRouter(prefix="/api", responses={code: {"model": Fault} for code in (404, 409, 422, 503)})

    @api.get("/rollouts")
    def rollouts(limit: Limit = 50, offset: Offset = 0) -> RolloutPage:
        """Rollouts in short, the newest first."""
        return views.ways.page(limit, offset)

    @api.get("/rollouts/{release}")
    def one_rollout(release: RowId) -> RolloutDetail:
        """The rollout of a release with all stages, what was proven, and how it ended."""
        return _found(views.ways.one(release))

    @api.get("/rollouts/{release}/differences")
    def differences(release: RowId, limit: Limit = 50, offset: Offset = 0) -> DifferencePage:
        """The images on which a release and the one before it differ on its canaries, and who was right."""
        found = views.ways.differences(release, limit, offset)
        if found is None:
            raise HTTPException(404, "there is no such rollout")
        return found

    @api.get("/rollout")
    def rollout() -> RolloutDetail:
        """The rollout under way, or else the newest draft, or else the last one; 404 before the first."""
        return _found(views.ways.now())

    @api.post("/rollout/pause")
    def pause() -> Done:
        """Hold the rollout under way: cameras keep what they run."""
        actions.pause_rollout()
        return Done()

    @api.post("/rollout/resume")
    def resume() -> Done:
        """Let a held rollout go on, or a draft have its turn; cameras that failed so far may."""
        actions.resume_rollout()
        return Done()

    @api.post("/rollout/promote")
    def promote() -> Done:
        """Let the rollout under way into its next stage, whatever has been proven."""
        actions.promote_rollout()
        return Done()

    @api.post("/rollout/abort")
    def abort(ask: AbortAsk) -> Done:
        """End the rollout under way, or a draft. What is in use goes back to the model before, as a new release."""
        actions.abort_rollout(ask.why)
        return Done()

    @api.post("/cameras/{site}/{camera}/exemption")
    def exempt(site: str, camera: str, ask: ExemptionAsk) -> Done:
        """Have one camera run a release whatever the plan says, until that is ended, which release 0 does as well."""
        actions.exempt(f"{site}/{camera}", ask.release, ask.reason, ask.operator)
        return Done()

    @api.delete("/cameras/{site}/{camera}/exemption")
    def end_exemption(site: str, camera: str, operator: By = "the API") -> Done:
        """Have a camera run again what the plan says."""
        actions.exempt(f"{site}/{camera}", 0, f"ended by {operator}", operator)
        return Done()

    return api


def _found(what: RolloutDetail | None) -> RolloutDetail:
    if what is None:
        raise HTTPException(404, "there is no such rollout")
    return what
