"""The route that completes names: principals and namespaces by part of the name."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI, Query

from serving.alerts.query import namespaces
from serving.api.principals import FreshHistory
from serving.history.schema import HistoryError
from serving.runtime import Service
from serving.schemas import ApiModel

NameKind = Literal["principal", "namespace"]
_ACCOUNT = "system:serviceaccount:"
_LOOKED_AT = 500
_MOST = 20


class NameList(ApiModel):
    """Names that hold what was asked for; those that begin with it first."""

    names: list[str]


def names_with(service: Service, records: FreshHistory, kind: NameKind, part: str) -> list[str]:
    """At most twenty principals or namespaces with a text in their name, in capitals or not.

    Namespaces are those that an alert touched, and those that a service account is of.
    """
    part = part.strip().lower()
    engine = service.ready()
    try:
        searched = part or (_ACCOUNT if kind == "namespace" else "")
        page = records.reader().principals(search=searched, limit=_LOOKED_AT)
        found = [row.principal for row in page.principals]
    except HistoryError:
        found = []
    if kind == "namespace":
        found = [name.removeprefix(_ACCOUNT).partition(":")[0] for name in found if name.startswith(_ACCOUNT)]
        with engine.store.reading() as connection:
            found += namespaces(connection)
    holding = sorted({name for name in found if part in name.lower()})
    return sorted(holding, key=lambda name: not name.lower().startswith(part))[:_MOST]


def add_name_routes(app: FastAPI, service: Service) -> None:
    """Add the route."""
    records: FreshHistory = app.state.records

    @app.get("/v1/names", tags=["principals"])
    def names(
        kind: Annotated[NameKind, Query(description="Of what")] = "principal",
        q: Annotated[str, Query(description="Part of the name", max_length=256)] = "",
    ) -> NameList:
        """Complete a name: principals or namespaces that hold a text."""
        return NameList(names=names_with(service, records, kind, q))
