"""Which scope each route needs, looked up before anything of a request is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import BaseRoute, Route

from serving.settings import AccessScope

Need = AccessScope | Literal["nothing"]

#: Scopes that a scope includes: who may judge may look, and who may decide everything may judge.
_INCLUDES: Mapping[str, frozenset[str]] = {
    "analyst": frozenset(("read",)),
    "admin": frozenset(("analyst",)),
}


def allows(scopes: Collection[str], need: Need) -> bool:
    """Whether some scopes suffice where one is needed."""
    return need in scopes or any(need in _INCLUDES.get(scope, ()) for scope in scopes)


#: The scope that each route needs, by method and path as declared. A route that is missing here is not served.
NEEDS: Mapping[tuple[str, str], Need] = {
    ("POST", "/v1/score"): "ingest",
    ("POST", "/v1/audit"): "ingest",
    ("GET", "/v1/alerts"): "read",
    ("GET", "/v1/alerts/stream"): "read",
    ("GET", "/v1/alerts/{alert_id}"): "read",
    # Feedback teaches the next model: read access must not suffice to blind it.
    ("POST", "/v1/alerts/{alert_id}/feedback"): "analyst",
    ("GET", "/v1/feedback"): "read",
    ("GET", "/v1/exceptions"): "read",
    # An exception silences alerts before anybody has seen them.
    ("POST", "/v1/exceptions"): "admin",
    ("GET", "/v1/overview"): "read",
    ("GET", "/v1/fleet"): "read",
    ("GET", "/v1/names"): "read",
    ("GET", "/v1/rules"): "read",
    ("GET", "/v1/incidents"): "read",
    ("GET", "/v1/incidents/{incident_id}"): "read",
    ("GET", "/v1/incidents/{incident_id}/elsewhere"): "read",
    # Closing or splitting an incident can hide it from readers of the open ones.
    ("POST", "/v1/incidents/{incident_id}/merge"): "admin",
    ("POST", "/v1/incidents/{incident_id}/split"): "admin",
    ("POST", "/v1/incidents/{incident_id}/close"): "analyst",
    ("POST", "/v1/incidents/{incident_id}/notes"): "analyst",
    ("POST", "/v1/incidents/{incident_id}/acknowledge"): "analyst",
    ("POST", "/v1/incidents/{incident_id}/assign"): "analyst",
    ("POST", "/v1/incidents/{incident_id}/reopen"): "analyst",
    ("POST", "/v1/incidents/{incident_id}/outcome"): "analyst",
    # Read access includes export: the ledger and the access log record who did it.
    ("POST", "/v1/incidents/{incident_id}/evidence"): "read",
    ("GET", "/v1/incidents/{incident_id}/containment"): "read",
    ("GET", "/v1/rbac/report"): "read",
    ("GET", "/v1/rbac/who-can"): "read",
    ("GET", "/v1/rbac/paths"): "read",
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
    ("GET", "/v1/model/versions"): "read",
    ("POST", "/v1/model/reload"): "admin",
    ("GET", "/metrics"): "read",
    ("GET", "/console/"): "read",
    ("GET", "/console/alerts"): "read",
    ("GET", "/console/stream"): "read",
    ("GET", "/console/alerts/{alert_id}"): "read",
    ("POST", "/console/alerts/{alert_id}/feedback"): "analyst",
    ("POST", "/console/alerts/{alert_id}/mute"): "admin",
    ("POST", "/console/alerts/bulk"): "analyst",
    ("GET", "/console/exceptions"): "read",
    ("GET", "/console/fleet"): "read",
    ("GET", "/console/names"): "read",
    ("GET", "/console/event"): "read",
    ("POST", "/console/views"): "analyst",
    ("POST", "/console/views/remove"): "analyst",
    ("GET", "/console/principals"): "read",
    ("GET", "/console/principals/{principal:path}"): "read",
    ("GET", "/console/rights"): "read",
    ("GET", "/console/rights/subject"): "read",
    ("GET", "/console/rights/binding"): "read",
    ("GET", "/console/rights/who-can"): "read",
    ("GET", "/console/rights/incident"): "read",
    ("GET", "/console/rights/what-if"): "read",
    # It is a form because it is long: it changes nothing.
    ("POST", "/console/rights/what-if"): "read",
    ("GET", "/console/rules"): "read",
    ("GET", "/console/rules/{name}"): "read",
    ("GET", "/console/search"): "read",
    ("POST", "/console/search/evidence"): "read",
    ("GET", "/console/model"): "read",
    ("GET", "/console/model/versions"): "read",
    ("GET", "/console/incidents"): "read",
    ("GET", "/console/incidents/{incident_id}"): "read",
    ("POST", "/console/incidents/{incident_id}/merge"): "admin",
    ("POST", "/console/incidents/{incident_id}/split"): "admin",
    ("POST", "/console/incidents/{incident_id}/close"): "analyst",
    ("POST", "/console/incidents/{incident_id}/notes"): "analyst",
    ("POST", "/console/incidents/{incident_id}/acknowledge"): "analyst",
    ("POST", "/console/incidents/{incident_id}/assign"): "analyst",
    ("POST", "/console/incidents/{incident_id}/reopen"): "analyst",
    ("POST", "/console/incidents/{incident_id}/outcome"): "analyst",
    ("POST", "/console/incidents/bulk"): "analyst",
    ("POST", "/console/incidents/{incident_id}/evidence"): "read",
    ("GET", "/console/glossary"): "read",
    ("POST", "/console/logout"): "read",
    # Open before sign-in: these reveal nothing and redirect to console paths only.
    ("GET", "/"): "nothing",
    ("GET", "/console"): "nothing",
    ("GET", "/console/login"): "nothing",
    ("POST", "/console/login"): "nothing",
    ("GET", "/signin/oidc"): "nothing",
    ("GET", "/signin/oidc/callback"): "nothing",
    ("GET", "/console/static/{name}"): "nothing",
    # Probes cannot send a token; the API's description says nothing about the cluster.
    ("GET", "/healthz"): "nothing",
    ("GET", "/readyz"): "nothing",
    ("GET", "/docs"): "nothing",
    ("GET", "/docs/{name}"): "nothing",
    ("GET", "/openapi.json"): "nothing",
    ("HEAD", "/openapi.json"): "nothing",
}


class RouteScopes:
    """The routes of an application, each with the scope it needs."""

    def __init__(self) -> None:
        self._routes: list[tuple[re.Pattern[str], str, str, Need]] = []
        self._queries: dict[str, frozenset[str]] = {}
        self._plain: dict[tuple[str, str], tuple[str, Need]] = {}

    def protect(self, routes: Iterable[BaseRoute]) -> None:
        """Register an application's routes, in their order. One without an entry in `NEEDS` is an error, not an open door."""
        for route in routes:
            if not isinstance(route, Route) or not route.methods:
                raise RuntimeError(
                    f"{route!r} is no plain route, so serving.access.scopes cannot protect it."
                )
            if isinstance(route, APIRoute):
                # A path with several methods knows the parameters of each.
                self._queries[route.path] = self.parameters(route.path) | set(_query_names(route.dependant))
            for method in route.methods:
                need = NEEDS.get((method, route.path))
                if need is None:
                    raise RuntimeError(
                        f"Say in serving.access.scopes.NEEDS which scope {method} {route.path} needs."
                    )
                self._routes.append((route.path_regex, method, route.path, need))
        for _, method, path, _ in self._routes:
            if "{" not in path and (found := self._search(method, path)) is not None:
                self._plain[method, path] = found

    def find(self, method: str, path: str) -> tuple[str, Need] | None:
        """The declared path of a request's route and the scope it needs; None if no route matches."""
        return self._plain.get((method, path)) or self._search(method, path)

    def _search(self, method: str, path: str) -> tuple[str, Need] | None:
        for regex, known, declared, need in self._routes:
            if known == method and regex.match(path):
                return declared, need
        return None

    def parameters(self, route: str) -> frozenset[str]:
        """Names of a route's query parameters."""
        return self._queries.get(route, frozenset())


def add_security(app: FastAPI) -> None:
    """Describe tokens and scopes in the OpenAPI document, so that /docs can send a token."""
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
    for field in dependant.query_params:
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, info in model.model_fields.items():
                yield from {name, info.alias or name}
        else:
            yield field.alias
    for other in dependant.dependencies:
        yield from _query_names(other)
