"""Who may come in: the gate before every route."""

from __future__ import annotations

import hmac
import logging
import time
from urllib.parse import urlsplit

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Metrics
from serving.problems import problem
from serving.settings import Settings, is_loopback

_log = logging.getLogger("kubehabit.api")
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
"""Answered without a token: probes cannot send one, and the API's description tells nothing about the cluster."""


class Gate:
    """Lets in who may come in, and notes every answer in log and metrics.

    With a token, every path but probes and documentation needs it. Without one the service is on loopback, where a web page in
    the user's browser is the stranger to fear: foreign `Host` (DNS rebinding) and `Origin` headers are refused.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        token = settings.token
        self._token = token.get_secret_value().encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self._refusal(scope)
            await (refused or self._app)(scope, receive, note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._metrics.request(route, status, seconds)
            level = logging.DEBUG if route in ("/healthz", "/readyz", "/metrics") else logging.INFO
            milliseconds = round(1000 * seconds, 1)
            # The path without its query: filters name principals.
            extra = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "milliseconds": milliseconds,
            }
            _log.log(level, "request", extra=extra)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._token is not None:
            if scope["path"] in _OPEN_PATHS:
                return None
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
                return None
            detail = "This needs a token: send the header 'Authorization: Bearer <token>' with that of KUBEHABIT_TOKEN."
            return problem(401, detail, {"WWW-Authenticate": "Bearer"})
        host = urlsplit("//" + headers.get("host", "")).hostname or ""
        if not is_loopback(host):
            return problem(
                421, f"This service answers on loopback only, not as {host[:80]!r}. Ask 127.0.0.1."
            )
        origin = headers.get("origin")
        if origin is not None and not is_loopback(urlsplit(origin).hostname or ""):
            return problem(403, "Requests from web pages of other sites are refused.")
        return None
