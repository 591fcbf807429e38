"""Who may come in, for what and how often: the gate before every route."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import FastAPI, Response
from fastapi.dependencies.models import Dependant
from starlette.datastructures import Headers
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access_log import AccessLog, Weight, shown_path, shown_query
from serving.alerts import clean
from serving.metrics import Metrics
from serving.problems import SECURITY_HEADERS, ProblemError, answer_to
from serving.rates import Limiter, Rate
from serving.sessions import COOKIE, Session, Sessions
from serving.settings import MEBIBYTE, AccessScope, Settings, is_loopback
from serving.tls import ClientCertificate, ServerTls
from serving.tokens import SCOPES, Token, Tokens, digest, read_tokens
from serving.watched import Watched

_log = logging.getLogger("kubehabit.api")

Need = AccessScope | Literal["nothing"]
NEEDS: Mapping[tuple[str, str], Need] = {
    ("POST", "/v1/score"): "ingest",
    ("POST", "/v1/audit"): "ingest",
    ("GET", "/v1/alerts"): "read",
    ("GET", "/v1/alerts/stream"): "read",
    ("GET", "/v1/alerts/{alert_id}"): "read",
    # What is said here teaches the next model: who may only look must not be able to make it blind.
    ("POST", "/v1/alerts/{alert_id}/feedback"): "admin",
    ("GET", "/v1/feedback"): "read",
    ("GET", "/v1/incidents"): "read",
    ("GET", "/v1/incidents/{incident_id}"): "read",
    # Closing or splitting an incident can hide it from those who look at what is open.
    ("POST", "/v1/incidents/{incident_id}/merge"): "admin",
    ("POST", "/v1/incidents/{incident_id}/split"): "admin",
    ("POST", "/v1/incidents/{incident_id}/close"): "admin",
    ("POST", "/v1/incidents/{incident_id}/notes"): "admin",
    # Who may read an incident may take it with them: the ledger and the log of access say who did.
    ("POST", "/v1/incidents/{incident_id}/evidence"): "read",
    ("GET", "/v1/glossary"): "read",
    ("GET", "/v1/principals"): "read",
    ("GET", "/v1/principals/{principal:path}"): "read",
    ("GET", "/v1/surprise/{principal:path}"): "read",
    ("GET", "/v1/habits/{principal:path}"): "read",
    ("GET", "/v1/peers/{principal:path}"): "read",
    ("GET", "/v1/events"): "read",
    ("GET", "/v1/events/touched"): "read",
    ("GET", "/v1/events/newcomers"): "read",
    ("GET", "/v1/events/principals/{principal:path}"): "read",
    ("POST", "/v1/evidence"): "read",
    ("GET", "/v1/model"): "read",
    ("GET", "/v1/model/preview"): "read",
    ("GET", "/v1/model/drift"): "read",
    ("POST", "/v1/model/reload"): "admin",
    ("GET", "/metrics"): "read",
    ("GET", "/console/"): "read",
    ("GET", "/console/stream"): "read",
    ("GET", "/console/alerts/{alert_id}"): "read",
    ("POST", "/console/alerts/{alert_id}/feedback"): "admin",
    ("GET", "/console/principals"): "read",
    ("GET", "/console/principals/{principal:path}"): "read",
    ("GET", "/console/search"): "read",
    ("POST", "/console/search/evidence"): "read",
    ("GET", "/console/model"): "read",
    ("GET", "/console/incidents"): "read",
    ("GET", "/console/incidents/{incident_id}"): "read",
    ("POST", "/console/incidents/{incident_id}/merge"): "admin",
    ("POST", "/console/incidents/{incident_id}/split"): "admin",
    ("POST", "/console/incidents/{incident_id}/close"): "admin",
    ("POST", "/console/incidents/{incident_id}/notes"): "admin",
    ("POST", "/console/incidents/{incident_id}/evidence"): "read",
    ("GET", "/console/glossary"): "read",
    ("POST", "/console/logout"): "read",
    # Who comes to these has proved nothing yet; they tell nothing, and lead to a path of the console.
    ("GET", "/console"): "nothing",
    ("GET", "/console/login"): "nothing",
    ("POST", "/console/login"): "nothing",
    ("GET", "/console/static/{name}"): "nothing",
    # Probes cannot send a token, and the API's description tells nothing about the cluster.
    ("GET", "/healthz"): "nothing",
    ("GET", "/readyz"): "nothing",
    ("GET", "/docs"): "nothing",
    ("GET", "/docs/{name}"): "nothing",
    ("GET", "/openapi.json"): "nothing",
    ("HEAD", "/openapi.json"): "nothing",
}
"""What each route asks of its caller, by method and path as declared. A route that is not here cannot be served."""

_ROUTINE = frozenset({"/v1/score", "/v1/audit", "/metrics"})
_PROBES = frozenset(
    (
        *("/healthz", "/readyz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"),
        *("/v2/models/{name}/ready", "/v2/models/{name}/versions/{version}/ready"),
    )
)
_SILENT = _PROBES | {"/docs", "/docs/{name}", "/openapi.json", "/console", "/console/static/{name}"}
"""Not in the log of access: they are open to all, and probes come every few seconds."""

_QUIET = _PROBES | {"/metrics"}
"""Asked every few seconds: told in the log at level debug only."""

_TOO_MANY_REQUESTS = 429
_HOW = "send the header 'Authorization: Bearer <token>' with that of KUBEHABIT_TOKEN or one that 'kubehabit token create' made."
_PAGES = "/console/"
"""Where browsers may come with a cookie instead of a token."""
_SHOWN = 8
_HSTS = (b"strict-transport-security", b"max-age=31536000")


@dataclass(frozen=True)
class Caller:
    """Who sends a request: the holder of a token or certificate, or (where nobody has to say) an address.

    `session` is the key of the browser's session that it came through, empty without one.
    """

    by: Literal["token", "certificate", "address"]
    name: str
    scopes: frozenset[AccessScope]
    rate: Rate
    session: str = ""

    @property
    def holder(self) -> str:
        """Whose pages and forms these are."""
        return self.session or f"{self.by}:{self.name}"


class Access:
    """The decisions: who a request comes from, whether it may be made, and what is written down of it.

    Args:
        settings: token, tokens file, certificates, rates.
        metrics: told of files that cannot be used and of lines that could not be written.
        tls: the listener's TLS, if it has one.
        clock: seconds that only rise.
        now: the time of day.

    Raises:
        KubehabitError: the tokens file cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        tls: ServerTls | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings.access
        self._token = settings.token.get_secret_value().encode() if settings.token is not None else None
        self._tls = tls
        self._now = now
        self._wanted = settings.access.tokens is not None
        path = settings.access.tokens_path
        self._tokens = Watched(
            "the tokens file", [path], self._read, lambda bad: metrics.access_file("tokens", bad), clock
        )
        rates = settings.access.rates
        self._rate = Rate(
            rates.requests_per_second, rates.megabytes_per_second * MEBIBYTE, rates.burst_seconds
        )
        self._refused = Rate(rates.refused_per_second, math.inf, rates.burst_seconds)
        self._limiter = Limiter(clock)
        console = settings.console
        self.sessions = Sessions(60 * console.idle_minutes, 3600 * console.session_hours, clock)
        self._strangers = Limiter(
            clock
        )  # of their own: many of them must not push callers' debts out of memory
        self._routes: list[tuple[re.Pattern[str], str, str, Need]] = []
        self._queries: dict[str, frozenset[str]] = {}
        self._plain: dict[tuple[str, str], tuple[str, Need]] = {}
        self.log = AccessLog(settings.access.log, metrics.access_line_lost, clock, now)

    def _read(self) -> Tokens | None:
        path = self._settings.tokens_path
        if not self._wanted and not path.exists():
            return None
        self._wanted = True  # from now on: a file that goes away opens no door
        return Tokens(read_tokens(path))

    @property
    def guarded(self) -> bool:
        """Whether callers have to say who they are."""
        return (
            self._token is not None or bool(self._settings.certificates) or self._tokens.current() is not None
        )

    def protect(self, routes: Iterable[BaseRoute]) -> None:
        """Take up the routes of an application, in their order.

        Raises:
            RuntimeError: one has no entry in `NEEDS`; better no service than one with an open door.
        """
        for route in routes:
            path, methods = getattr(route, "path", None), getattr(route, "methods", None)
            if path is None or not methods:
                raise RuntimeError(
                    f"{route!r} is no plain route, so serving.access cannot say who may use it."
                )
            for method in methods:
                need = NEEDS.get((method, path))
                if need is None:
                    raise RuntimeError(f"Say in serving.access.NEEDS which scope {method} {path} needs.")
                dependant = getattr(route, "dependant", None)
                if dependant is not None:
                    self._queries[path] = frozenset(_query_names(dependant))
                self._routes.append((route.path_regex, method, path, need))  # type: ignore[attr-defined]
        for _, method, path, _ in self._routes:
            if "{" not in path:
                found = self._search(method, path)
                assert found is not None
                self._plain[method, path] = found

    def need(self, method: str, path: str) -> tuple[str, Need] | None:
        """The route that a request is for, as declared, and what it needs; None where there is nothing."""
        return self._plain.get((method, path)) or self._search(method, path)

    def _search(self, method: str, path: str) -> tuple[str, Need] | None:
        for regex, known, declared, need in self._routes:
            if known == method and regex.match(path):
                return declared, need
        return None

    def parameters(self, route: str) -> frozenset[str]:
        """Names of the query parameters that a route has."""
        return self._queries.get(route, frozenset())

    def caller(self, scope: Scope) -> Caller:
        """Who sends a request.

        Raises:
            ProblemError: 401, nobody in particular; 403 or 421, from another web site.
        """
        headers = Headers(scope=scope)
        if not self.guarded:
            _refuse_other_sites(headers)
            return Caller("address", address_of(scope), frozenset(SCOPES), self._rate)
        sent = headers.getlist("authorization")
        if sent:
            return self._by_token(sent)
        if scope["path"].startswith(_PAGES):
            found = self._session(headers)
            if found is not None:
                return self._by_session(found)
        certificate = scope.get("kubehabit.certificate")
        if certificate is not None:
            return self._by_certificate(certificate, headers)
        raise _unknown(f"This needs a token: {_HOW}")

    def _by_token(self, sent: list[str]) -> Caller:
        scheme, _, text = sent[0].partition(" ")
        if len(sent) == 1 and scheme.lower() == "bearer":
            return self._holder(text.strip(), _HOW)
        raise _unknown(f"This is no token of this service, or one that was revoked: {_HOW}", "invalid_token")

    def _holder(self, text: str, how: str) -> Caller:
        if self._token is not None and hmac.compare_digest(text.encode("utf-8", "replace"), self._token):
            return Caller("token", "KUBEHABIT_TOKEN", frozenset(SCOPES), self._rate)
        tokens = self._tokens.current()
        token = tokens.find(text) if tokens is not None else None
        if token is not None and not token.expired(self._now()):
            return Caller("token", token.name, frozenset(token.scopes), self._rate_of(token))
        if token is not None:
            raise _unknown(f"The token {token.name!r} has expired: ask for a new one.", "invalid_token")
        raise _unknown(f"This is no token of this service, or one that was revoked: {how}", "invalid_token")

    def sign_in(self, text: str) -> tuple[Caller, str]:
        """Begin a browser's session with a token: whose it is, and what its cookie is to hold.

        Raises:
            ProblemError: 401, it is no token, or an expired one; 403, it may not read.
        """
        how = "paste that of KUBEHABIT_TOKEN, or one that 'kubehabit token create' made."
        found = self._holder(text, how)
        if "read" not in found.scopes:
            raise ProblemError(
                403,
                f"The token {found.name!r} has not the scope 'read', without which there is nothing to see.",
            )
        return found, self.sessions.begin(found.name, digest(text))

    def _session(self, headers: Headers) -> Session | None:
        """The session that a browser's cookie names, if it goes on."""
        for part in ";".join(headers.getlist("cookie")).split(";"):
            name, _, sent = part.strip().partition("=")
            if name == COOKIE:
                return self.sessions.find(sent)
        return None

    def _by_session(self, session: Session) -> Caller:
        """Its token is looked up anew each time: revoked, expired or with fewer scopes, so is the session."""
        found = self._proven(session)
        if found is None:
            self.sessions.end(session.key)
            raise _unknown(
                "The token of this session was revoked or has expired: sign in with another one.",
                "invalid_token",
            )
        return found

    def _proven(self, session: Session) -> Caller | None:
        if self._token is not None and hmac.compare_digest(session.proof, digest(self._token.decode())):
            return Caller("token", session.name, frozenset(SCOPES), self._rate, session.key)
        tokens = self._tokens.current()
        token = tokens.hashed(session.proof) if tokens is not None else None
        if token is None or token.expired(self._now()):
            return None
        return Caller("token", token.name, frozenset(token.scopes), self._rate_of(token), session.key)

    def holds(self, caller: Caller) -> bool:
        """Whether who came through a session would be let in to read now; others are asked with each request anyway."""
        if not caller.session:
            return True
        session = self.sessions.held(caller.session)
        found = self._proven(session) if session is not None else None
        return found is not None and "read" in found.scopes

    def _rate_of(self, token: Token) -> Rate:
        size = token.megabytes_per_second
        return Rate(
            token.requests_per_second or self._rate.requests,
            self._rate.bytes if size is None else size * MEBIBYTE,
            self._rate.burst,
        )

    def _by_certificate(self, certificate: ClientCertificate, headers: Headers) -> Caller:
        name = clean(certificate.name)
        if self._now().timestamp() >= certificate.expires:
            raise _unknown(
                f"The client certificate {name!r} has expired: connect with a new one.", close=True
            )
        if self._tls is None or certificate.authority != self._tls.authority:
            # The connection is older than the authority's files: whether they still vouch for it, a handshake tells. After a 401
            # kube-apiserver would give its batch up.
            detail = "The client authority or its revocations changed: connect again."
            raise ProblemError(503, detail, {"Retry-After": "1", "Connection": "close"})
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            # A browser presents its certificate by itself, whichever page sends the request.
            raise ProblemError(403, "Requests from web pages of other sites are refused.")
        scopes = frozenset(
            scope
            for known in self._settings.certificates
            if (known.common_name is not None and known.common_name == certificate.common_name)
            or (known.uri is not None and known.uri in certificate.uris)
            for scope in known.scopes
        )
        return Caller("certificate", name, scopes, self._rate)

    def stranger(self, scope: Scope) -> float:
        """Count a request that proves nobody: seconds to wait if there were too many of its address, else 0."""
        return self._strangers.request(network_of(address_of(scope)), self._refused)

    def begins(self, caller: Caller) -> float:
        """Count a request: seconds to wait if there were too many of its caller, else 0."""
        return self._limiter.request((caller.by, caller.name), caller.rate)

    def received(self, caller: Caller, size: int) -> None:
        """Count bytes of a body."""
        self._limiter.received((caller.by, caller.name), caller.rate, size)

    def close(self) -> None:
        """Close the log."""
        self.log.close()


class Gate:
    """Lets in who may come in, and notes every answer in log, metrics and the log of access.

    Without tokens and certificates the service is on loopback, where a web page in the user's browser is the stranger to fear:
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
            raise RuntimeError(f"Nothing here speaks {scope['type']}.")
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
            if not status:  # the answer is given outside, or nobody waits for one
                status = 500
                visit.note(status)
            seconds = time.perf_counter() - started
            self._metrics.request(visit.route, status, seconds)
            level = logging.DEBUG if visit.route in _QUIET else logging.INFO
            # The path without its query: filters name principals.
            extra: dict[str, Any] = {
                "method": scope["method"],
                "route": visit.route,
                "status": status,
                "milliseconds": round(1000 * seconds, 1),
            }
            if visit.caller is not None and visit.caller.by != "address":
                extra["caller"] = visit.caller.name
            _log.log(level, "request", extra=extra)


class _Visit:
    """One request on its way through the gate."""

    def __init__(self, access: Access, scope: Scope) -> None:
        self._access = access
        self._scope = scope
        self.caller: Caller | None = None
        found = access.need(scope["method"], scope["path"])
        self.route: str = found[0] if found is not None else "other"
        self._need: Need | None = found[1] if found is not None else None
        self._why = ""

    def refusal(self) -> Response | None:
        """The answer to who may not come in; None for who may."""
        if self._need == "nothing" and self._access.guarded:
            return None
        try:
            self._enter()
        except ProblemError as error:
            self._why = error.detail
            return answer_to(self._scope, error.status, error.detail, error.headers)
        return None

    def _enter(self) -> None:
        access = self._access
        try:
            self.caller = access.caller(self._scope)
            self._scope["kubehabit.visitor"] = self.caller
            if self.caller.by != "address":
                self._scope["kubehabit.caller"] = self.caller.name
        except ProblemError:
            wait = access.stranger(self._scope)
            if wait:
                raise _too_many(wait, "requests that prove nobody, from this address") from None
            raise
        wait = access.begins(self.caller)
        if wait:
            raise _too_many(wait, f"requests or bytes of this {self.caller.by}")
        need = self._need
        if need is None or need == "nothing" or need in self.caller.scopes:
            return  # where there is nothing, the application says so
        detail = (
            f"This needs the scope '{need}', which the {self.caller.by} {self.caller.name!r} does not have: "
            f"{', '.join(sorted(self.caller.scopes)) or 'none'}."
        )
        challenge = f'Bearer error="insufficient_scope", scope="{need}"'
        raise ProblemError(403, detail, {"WWW-Authenticate": challenge})

    def counting(self, receive: Receive) -> Receive:
        """`receive` that counts what comes."""
        caller = self.caller
        if caller is None:
            return receive

        async def counted() -> Message:
            message = await receive()
            if body := message.get("body"):
                self._access.received(caller, len(body))
            return message

        return counted

    def note(self, status: int) -> None:
        """Write the request down."""
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
            entry["query"] = shown_query(scope["query_string"], self._access.parameters(self.route))
        if caller is not None and caller.session:
            entry["session"] = caller.session[:_SHOWN]
        why = self._why or scope.get("kubehabit.refused", "")
        if why:
            entry["refused"] = why
        weight: Weight = "always"
        if why:
            weight = "refusal"
        elif self.route in _ROUTINE or self.route in _SILENT:
            weight = "routine"
        self._access.log.write(entry, weight)


def add_security(app: FastAPI) -> None:
    """Describe tokens and scopes in the API's own description, so that /docs can send one."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        api = describe()
        schemes = api.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {
            "type": "http",
            "scheme": "bearer",
            "description": "Not asked for where none is set.",
        }
        for (method, declared), need in NEEDS.items():
            path = re.sub(r":\w+}", "}", declared)
            operation = api["paths"].get(path, {}).get(method.lower())
            if operation is not None and need != "nothing":
                operation["security"] = [{"token": [need]}]
        return api

    app.openapi = described  # type: ignore[method-assign]


def _query_names(dependant: Dependant) -> Iterator[str]:
    """Names of query parameters that a route takes, or what it depends on does."""
    yield from (field.alias for field in dependant.query_params)
    for other in dependant.dependencies:
        yield from _query_names(other)


def address_of(scope: Scope) -> str:
    """The address that a request came from; a proxy's, where there is one."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def network_of(address: str) -> str:
    """What stands for one customer of the net: an IPv4 address, or the /64 of an IPv6 address, which one host may fill."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _refuse_other_sites(headers: Headers) -> None:
    host = urlsplit("//" + headers.get("host", "")).hostname or ""
    if not is_loopback(host):
        detail = f"This service answers on loopback only, not as {host[:80]!r}. Ask 127.0.0.1."
        raise ProblemError(421, detail)
    origin = headers.get("origin")
    if origin is not None and not is_loopback(urlsplit(origin).hostname or ""):
        raise ProblemError(403, "Requests from web pages of other sites are refused.")


def _unknown(detail: str, error: str = "", *, close: bool = False) -> ProblemError:
    challenge = f'Bearer error="{error}"' if error else "Bearer"
    return ProblemError(
        401, detail, {"WWW-Authenticate": challenge} | ({"Connection": "close"} if close else {})
    )


def _too_many(wait: float, what: str) -> ProblemError:
    seconds = max(1, math.ceil(min(wait, 3600.0)))
    detail = f"Too many {what}: send it again in {seconds} s (access.rates in serve.yaml)."
    return ProblemError(_TOO_MANY_REQUESTS, detail, {"Retry-After": str(seconds)})


def _secure(message: Message, scheme: str) -> None:
    """Add the security headers that the answer does not have already."""
    headers: list[tuple[bytes, bytes]] = list(message.get("headers", []))
    present = {name.lower() for name, _ in headers}
    headers += [pair for pair in SECURITY_HEADERS if pair[0] not in present]
    if scheme == "https":
        headers.append(_HSTS)
    message["headers"] = headers
