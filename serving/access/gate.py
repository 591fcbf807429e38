"""The gate before every route: authentication, scopes, rate limits and the access log."""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access.access_log import AccessLog, shown_path, shown_query
from serving.access.oidc import OidcSignIn
from serving.access.rate_limit import CallerRate, Limiter, network_of
from serving.access.reloading_file import ReloadingFile
from serving.access.scopes import Need, RouteScopes, allows
from serving.access.sessions import COOKIE, BrowserSession, Sessions
from serving.access.tls import ClientCertificate, ServerTls
from serving.access.tokens import SCOPES, Token, Tokens, digest, read_tokens
from serving.http.body import too_large
from serving.http.problems import SECURITY_HEADERS, ProblemError, answer_to, not_known
from serving.schemas import clean
from serving.settings import MEBIBYTE, AccessScope, Settings, is_loopback
from serving.telemetry.metrics import Metrics

_log = logging.getLogger("kubehabit.api")

_ROUTINE = frozenset({"/v1/score", "/v1/audit", "/metrics"})
_PROBES = frozenset(("/healthz", "/readyz"))
_SILENT = _PROBES | {"/docs", "/docs/{name}", "/openapi.json", "/console", "/console/static/{name}"}
# Requested every few seconds: logged at level debug.
# Parameters of these are not checked: programs send them all the time, or they are files.
_UNCHECKED = _ROUTINE | _SILENT
_QUIET = _PROBES | {"/metrics"}

_HOW = "send the header 'Authorization: Bearer <token>' with that of KUBEHABIT_TOKEN or one that 'kubehabit token create' made."
# Browsers may send a session cookie instead of a token below this path.
_PAGES = "/console/"
_SHOWN = 8
# Of a Content-Length; Python refuses to convert very long ones.
_DIGITS = 20
_HSTS = (b"strict-transport-security", b"max-age=31536000")


@dataclass(frozen=True)
class Caller:
    """Who sends a request: the holder of a token or certificate, a person who signed in, or an address if none is required.

    `session` is the key of the browser session it came through, or "".
    """

    by: Literal["token", "certificate", "person", "address"]
    name: str
    scopes: frozenset[AccessScope]
    rate: CallerRate
    session: str = ""

    @property
    def holder(self) -> str:
        """The owner of the pages and forms served to this caller."""
        return self.session or f"{self.by}:{self.name}"

    def may(self, need: Need) -> bool:
        """Whether the caller's scopes suffice where one is needed."""
        return allows(self.scopes, need)


class Access:
    """Decides who a request comes from and whether it is allowed; raises KubehabitError for an unusable tokens file."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        tls: ServerTls | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings.access
        self._own: Token | None = None
        if settings.token is not None:
            sha256 = digest(settings.token.get_secret_value())
            self._own = Token(name="KUBEHABIT_TOKEN", sha256=sha256, scopes=SCOPES, created=now())
        self._tls = tls
        self._now = now
        self._wanted = settings.access.tokens is not None
        path = settings.access.tokens_path
        self._tokens = ReloadingFile(
            "the tokens file", [path], self._read, lambda bad: metrics.access_file("tokens", bad), clock
        )
        rates = settings.access.rates
        size = rates.megabytes_per_second * MEBIBYTE
        self._rate = CallerRate(rates.requests_per_second, size, rates.burst_seconds)
        self._refused = CallerRate(rates.refused_per_second, math.inf, rates.burst_seconds)
        self._limiter = Limiter(clock)
        self.oidc = OidcSignIn.of(settings.access.oidc)
        console = settings.console
        self.body_bytes = settings.limits.body_bytes
        self.sessions = Sessions(60 * console.idle_minutes, 3600 * console.session_hours, clock)
        # Separate, so that many strangers cannot push the callers' debts out of memory.
        self._strangers = Limiter(clock)
        self.routes = RouteScopes()
        self.log = AccessLog(settings.access.log, metrics.access_line_lost, clock, now)

    def _read(self) -> Tokens | None:
        path = self._settings.tokens_path
        if not self._wanted and not path.exists():
            return None
        self._wanted = True  # a file that disappears later opens no door
        return Tokens(read_tokens(path))

    @property
    def guarded(self) -> bool:
        """Whether callers must authenticate."""
        return (
            self._own is not None
            or self.oidc is not None
            or bool(self._settings.certificates)
            or self._tokens.current() is not None
        )

    def caller(self, scope: Scope) -> Caller:
        """Authenticate a request; ProblemError 401 without valid credentials, 403 or 421 from another web site."""
        headers = Headers(scope=scope)
        if not self.guarded:
            _refuse_other_sites(headers)
            return Caller("address", address_of(scope), frozenset(SCOPES), self._rate)
        if sent := headers.getlist("authorization"):
            scheme, _, text = sent[0].partition(" ")
            return self._holder(text.strip() if len(sent) == 1 and scheme.lower() == "bearer" else "", _HOW)
        if scope["path"].startswith(_PAGES) and (session := self._session(headers)) is not None:
            return self._by_session(session)
        certificate = scope.get("kubehabit.certificate")
        if certificate is not None:
            return self._by_certificate(certificate, headers)
        raise _unknown(f"This needs a token: {_HOW}")

    def _holder(self, text: str, how: str) -> Caller:
        tokens = self._tokens.current()
        token = self._own_by(digest(text)) or (tokens.find(text) if tokens is not None else None)
        if token is None:
            raise _unknown(
                f"This is no token of this service, or one that was revoked: {how}", "invalid_token"
            )
        if token.expired(self._now()):
            raise _unknown(f"The token {token.name!r} has expired: ask for a new one.", "invalid_token")
        return self._holder_of(token)

    def _own_by(self, proof: str) -> Token | None:
        return self._own if self._own is not None and hmac.compare_digest(proof, self._own.sha256) else None

    def _holder_of(self, token: Token, session: str = "") -> Caller:
        size = token.megabytes_per_second
        rate = CallerRate(
            token.requests_per_second or self._rate.requests,
            self._rate.bytes if size is None else size * MEBIBYTE,
            self._rate.burst,
        )
        return Caller("token", token.name, frozenset(token.scopes), rate, session)

    def sign_in(self, text: str) -> tuple[Caller, str]:
        """Start a browser session with a token. Returns the caller and the cookie's value.

        Raises:
            ProblemError: 401 for an unknown or expired token, 403 for one without the scope `read`.
        """
        how = "paste that of KUBEHABIT_TOKEN, or one that 'kubehabit token create' made."
        found = self._holder(text, how)
        if not found.may("read"):
            raise ProblemError(
                403,
                f"The token {found.name!r} has not the scope 'read', without which there is nothing to see.",
            )
        return found, self.sessions.start(found.name, digest(text))

    def begin_session(self, name: str, scopes: frozenset[AccessScope]) -> tuple[Caller, str]:
        """Start a browser session of a person whom a provider has signed in. Returns the caller and the cookie's value.

        Raises:
            ProblemError: 403 without the scope `read`.
        """
        if "read" not in scopes:
            raise ProblemError(
                403, f"{name} has not the scope 'read', without which there is nothing to see."
            )
        sent = self.sessions.start(name, f"person:{name}", scopes)
        session = self.sessions.find(sent)
        return Caller("person", name, scopes, self._rate, session.key if session is not None else ""), sent

    def _session(self, headers: Headers) -> BrowserSession | None:
        cookies = (part.strip().partition("=") for part in ";".join(headers.getlist("cookie")).split(";"))
        return next((self.sessions.find(sent) for name, _, sent in cookies if name == COOKIE), None)

    def _by_session(self, session: BrowserSession) -> Caller:
        # The token is looked up for every request, so revoking or narrowing it takes effect at once.
        if (found := self._proven(session)) is None:
            self.sessions.end(session.key)
            raise _unknown(
                "The token of this session was revoked or has expired: sign in with another one.",
                "invalid_token",
            )
        return found

    def _proven(self, session: BrowserSession) -> Caller | None:
        if session.granted is not None:
            return Caller("person", session.name, session.granted, self._rate, session.key)
        tokens = self._tokens.current()
        found = self._own_by(session.proof) or (tokens.hashed(session.proof) if tokens is not None else None)
        usable = found is not None and not found.expired(self._now())
        return self._holder_of(found, session.key) if found is not None and usable else None

    def holds(self, caller: Caller) -> bool:
        """Whether a caller's session may still read; callers without a session authenticate with each request."""
        if not caller.session:
            return True
        session = self.sessions.held(caller.session)
        found = self._proven(session) if session is not None else None
        return found is not None and found.may("read")

    def _by_certificate(self, certificate: ClientCertificate, headers: Headers) -> Caller:
        name = clean(certificate.name)
        if self._now().timestamp() >= certificate.expires:
            raise _unknown(
                f"The client certificate {name!r} has expired: connect with a new one.", close=True
            )
        if self._tls is None or certificate.authority != self._tls.authority:
            # The connection is older than the authority's files; only a new handshake can check it against them. On a 401
            # kube-apiserver would drop its batch.
            detail = "The client authority or its revocations changed: connect again."
            raise ProblemError(503, detail, {"Retry-After": "1", "Connection": "close"})
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            # A browser presents its certificate for any page that sends the request.
            raise _other_site()
        scopes = frozenset(
            scope
            for known in self._settings.certificates
            if (known.common_name is not None and known.common_name == certificate.common_name)
            or (known.uri is not None and known.uri in certificate.uris)
            for scope in known.scopes
        )
        return Caller("certificate", name, scopes, self._rate)

    def stranger(self, scope: Scope) -> float:
        """Count an unauthenticated request. Returns the seconds to wait if its address sent too many, else 0."""
        return self._strangers.request(network_of(address_of(scope)), self._refused)

    def admit(self, caller: Caller) -> float:
        """Count a request. Returns the seconds to wait if its caller sent too many, else 0."""
        return self._limiter.request((caller.by, caller.name), caller.rate)

    def received(self, caller: Caller, size: int) -> None:
        """Count bytes of a body."""
        self._limiter.received((caller.by, caller.name), caller.rate, size)

    def close(self) -> None:
        """Close the log."""
        self.log.close()


class Gate:
    """ASGI middleware that admits or refuses requests and records every answer in log, metrics and access log.

    Without tokens and certificates the service listens on loopback only, where the threat is a web page in the user's browser:
    foreign `Host` (DNS rebinding) and `Origin` headers are refused.
    """

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"The service does not speak {scope['type']}.")
        started = time.perf_counter()
        visit = _Visit(self._access, scope)
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _secure(message, scope["scheme"])
                visit.note(status)
            await send(message)

        try:
            refused = visit.refusal()
            if refused is not None:
                await refused(scope, receive, note)
            else:
                await self._app(scope, visit.counting(receive), note)
        finally:
            if not status:  # answered by an outer layer, or the client is gone
                status = 500
                visit.note(status)
            seconds = time.perf_counter() - started
            self._metrics.request(visit.route, status, seconds)
            # The route, not the path or query: those name principals.
            extra: dict[str, Any] = {
                "method": scope["method"],
                "route": visit.route,
                "status": status,
                "milliseconds": round(1000 * seconds, 1),
            }
            if visit.caller is not None and visit.caller.by != "address":
                extra["caller"] = visit.caller.name
            _log.log(logging.DEBUG if visit.route in _QUIET else logging.INFO, "request", extra=extra)


class _Visit:
    """One request on its way through the gate."""

    def __init__(self, access: Access, scope: Scope) -> None:
        self._access = access
        self._scope = scope
        self.caller: Caller | None = None
        self.route: str
        self._need: Need | None
        self.route, self._need = access.routes.find(scope["method"], scope["path"]) or ("other", None)
        self._why = ""

    def refusal(self) -> Response | None:
        """The error response if the request is not allowed, else None."""
        try:
            if self._need != "nothing" or not self._access.guarded:
                self._admit()
            self._check()
        except ProblemError as error:
            self._why = error.detail
            return answer_to(self._scope, error.status, error.detail, error.headers)
        return None

    def _admit(self) -> None:
        access = self._access
        try:
            self.caller = access.caller(self._scope)
            self._scope["kubehabit.visitor"] = self.caller
            if self.caller.by != "address":
                self._scope["kubehabit.caller"] = self.caller.name
                if (prove := self._scope.get("kubehabit.prove")) is not None:
                    prove((self.caller.by, self.caller.name))
        except ProblemError:
            if wait := access.stranger(self._scope):
                raise _too_many(wait, "requests without valid credentials, from this address") from None
            raise
        wait = 0.0 if self.route in _PROBES else access.admit(self.caller)
        if wait:
            raise _too_many(wait, f"requests or bytes of this {self.caller.by}")
        need = self._need
        if need is None or need == "nothing" or self.caller.may(need):
            return  # without a route, the application answers 404 or 405
        detail = (
            f"This needs the scope '{need}', which the {self.caller.by} {self.caller.name!r} does not have: "
            f"{', '.join(sorted(self.caller.scopes)) or 'none'}."
        )
        challenge = f'Bearer error="insufficient_scope", scope="{need}"'
        raise ProblemError(403, detail, {"WWW-Authenticate": challenge})

    def _check(self) -> None:
        """Refuse before the body is read what cannot be answered after it."""
        declared = Headers(scope=self._scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:_DIGITS]) > self._access.body_bytes:
            raise too_large(self._access.body_bytes)
        if not self.route.startswith(("/v1/", _PAGES)) or self.route in _UNCHECKED:
            return
        known = self._access.routes.parameters(self.route)
        sent = parse_qsl(self._scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if unknown := next((name for name, _ in sent if name not in known), None):
            raise ProblemError(422, f"{unknown[:64]!r} {not_known(known)} See /docs for what is accepted.")

    def counting(self, receive: Receive) -> Receive:
        """`receive` that counts the bytes of the body, and ends with a problem if there are too many."""
        caller, access = self.caller, self._access
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            if body := message.get("body"):
                total += len(body)
                if caller is not None:
                    access.received(caller, len(body))
                if total > access.body_bytes:
                    raise too_large(access.body_bytes)
            return message

        return counted

    def note(self, status: int) -> None:
        """Write the request to the access log."""
        if self.route in _SILENT and status < 400:
            return
        scope, caller = self._scope, self.caller or self._scope.get("kubehabit.visitor")
        entry: dict[str, object] = {
            "by": caller.by if caller is not None else "nobody",
            "name": caller.name if caller is not None and caller.by != "address" else "",
            "address": address_of(scope),
            "method": clean(scope["method"], 16),
            "route": self.route,
            "path": shown_path(scope["path"]),
            "status": status,
        }
        if scope["query_string"]:
            entry["query"] = shown_query(scope["query_string"], self._access.routes.parameters(self.route))
        if caller is not None and caller.session:
            entry["session"] = caller.session[:_SHOWN]
        if why := self._why or scope.get("kubehabit.refused", ""):
            entry["refused"] = why
        routine = self.route in _ROUTINE or self.route in _SILENT
        self._access.log.write(entry, "refusal" if why else "routine" if routine else "always")


def address_of(scope: Scope) -> str:
    """The peer address of a request, which may be a proxy's."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _refuse_other_sites(headers: Headers) -> None:
    host = _host_of("//" + headers.get("host", ""))
    if not is_loopback(host):
        raise ProblemError(
            421, f"This service answers on loopback only, not as {host[:80]!r}. Ask 127.0.0.1."
        )
    origin = headers.get("origin")
    if origin is not None and not is_loopback(_host_of(origin)):
        raise _other_site()


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # half an IPv6 address
        return ""


def _other_site() -> ProblemError:
    return ProblemError(403, "Requests from web pages of other sites are refused.")


def _unknown(detail: str, error: str = "", *, close: bool = False) -> ProblemError:
    headers = {"WWW-Authenticate": f'Bearer error="{error}"' if error else "Bearer"}
    return ProblemError(401, detail, headers | ({"Connection": "close"} if close else {}))


def _too_many(wait: float, what: str) -> ProblemError:
    seconds = max(1, math.ceil(min(wait, 3600.0)))
    detail = f"Too many {what}: send it again in {seconds} s (access.rates in serve.yaml)."
    return ProblemError(429, detail, {"Retry-After": str(seconds)})


def _secure(message: Message, scheme: str) -> None:
    """Add the security headers that the response lacks."""
    headers: list[tuple[bytes, bytes]] = list(message.get("headers", []))
    present = {name.lower() for name, _ in headers}
    ours = (*SECURITY_HEADERS, _HSTS) if scheme == "https" else SECURITY_HEADERS
    message["headers"] = headers + [pair for pair in ours if pair[0] not in present]
