"""Every answer that is not a success: {"error": code, "message": text} under /api, a page elsewhere."""

import logging
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from hub.web.models import Fault
from shared import errors
from shared.errors import HoneError

log = logging.getLogger(__name__)

Page = Callable[[Request, int, str, str], Response]
"""request, status, code, message -> what a person sees."""

_STATUS: dict[type[HoneError], int] = {
    errors.LabelError: 422,
    errors.ConfigError: 422,
    errors.ImageError: 422,
    errors.TrainError: 409,
    errors.RolloutError: 409,
    errors.ManifestError: 409,
    errors.ModelError: 409,
    errors.StoreError: 503,
    errors.BrokerError: 503,
}
_CODES = {404: "not_found", 405: "method_not_allowed", 409: "conflict"}


def status_of(error: HoneError) -> int:
    """The HTTP status of an error: its own kind's, or that of the kind above it."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def fault(status: int, code: str, message: str, fields: dict[str, str] | None = None) -> JSONResponse:
    """The JSON answer."""
    told = Fault(error=code, message=message, fields=fields or {})
    return JSONResponse(told.model_dump(exclude_defaults=True), status)


def install(app: FastAPI, page: Page) -> None:
    """Answer every error in our own shape; `page` for those that a person would see."""

    def answer(request: Request, status: int, code: str, message: str) -> Response:
        if request.url.path.startswith(("/api", "/stream", "/openapi")):
            return fault(status, code, message)
        return page(request, status, code, message)

    @app.exception_handler(HoneError)
    def on_hone_error(request: Request, error: HoneError) -> Response:
        status = status_of(error)
        if status >= 500:
            log.error("%s %s: %s", request.method, request.url.path, error)
        if isinstance(error, errors.SettingError) and request.url.path.startswith("/api"):
            return fault(status, error.code, str(error), error.fields)
        return answer(request, status, error.code, str(error))

    @app.exception_handler(RequestValidationError)
    def on_invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        lines = [f"{'.'.join(str(part) for part in one['loc'][1:]) or one['loc'][0]}: {one['msg']}" for one in found]
        return answer(request, 422, "invalid", "; ".join(lines[:5]))

    @app.exception_handler(HTTPException)
    def on_http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == 404 and detail == "Not Found":
            detail = f"nothing is at {request.url.path[:200]}"
        return answer(request, error.status_code, _CODES.get(error.status_code, "http"), detail)

    @app.exception_handler(Exception)
    def on_bug(request: Request, error: Exception) -> Response:  # the server logs it with its traceback
        return answer(request, 500, "internal", f"{type(error).__name__}; the hub's log says more")
