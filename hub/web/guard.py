"""What stands before every request. There is no login, so other sites open in the same browser must get nowhere.

1. On a loopback address only loopback names and the configured host are answered (DNS rebinding).
2. A request that changes something comes from our own page or from no page at all, as JSON (but for a DELETE without
   a body), and is small.
3. Every answer says: scripts, styles and images from here only, no frames, no guessing of types.
"""

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.web.faults import fault

MAX_BODY = 64 * 1024
"""No request has a longer body (bytes)."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware. host: the address that the page listens on."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._hosts = {"localhost", "127.0.0.1", "::1", host.lower()} if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on and complete its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        refused = self._refuse(scope["method"], Headers(scope=scope))
        if refused is None:
            await self._app(scope, receive, answer)
        else:
            await fault(*refused)(scope, receive, answer)

    def _refuse(self, method: str, headers: Headers) -> tuple[int, str, str] | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return 421, "host", f"this hub does not answer to the name {host[:100]!r}"
        if method in _SAFE:
            return None
        if not _same_origin(headers, host):
            return 403, "origin", "only the hub's own page may change anything"
        if method == "DELETE" and "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
            return None  # no other site's page can send one, and it carries nothing
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, "content_type", "send JSON, with content-type: application/json"
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            return 411, "length", "send a content-length"
        if int(length[:12]) > MAX_BODY:
            return 413, "too_large", f"the body has {length[:12]} bytes, {MAX_BODY} are allowed"
        return None


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name(host: str) -> str:
    """The name of a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _same_origin(headers: Headers, host: str) -> bool:
    """What the browser says of where a request comes from; other programs say nothing and are let in."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == host.lower()
