"""Routes of exceptions by hand: which there are, what they allowed, and one more."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import ConfigDict, Field

from data.errors import KubehabitError
from detection.exceptions import HabitException
from serving.alerts.exceptions import AllowedDeed, ExceptionList, ExceptionReport, append_exception
from serving.http.body import documented, read_model
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.schemas import ApiModel, clean
from serving.storage.allowed import latest, uses

_LATEST = 10
_log = logging.getLogger("kubehabit.api")
_turn = threading.Lock()
_Patterns = Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=50, default_factory=list)]


class NewException(ApiModel):
    """What may be done for a while without an alert. Lists that are empty match anything."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "name": "migration",
                "principal": "alice@corp",
                "verbs": ["list"],
                "resources": ["secrets"],
                "namespaces": ["payments"],
                "reason": "CHG-1021",
                "expires": "2026-12-24",
                "by": "bob@corp",
            }
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=64, description="unique; cited by what it allowed")]
    reason: Annotated[str, Field(min_length=1, max_length=1000, description="such as a change's number")]
    expires: Annotated[str, Field(max_length=40, description="last day, or an RFC 3339 time, of the events")]
    principal: Annotated[str, Field(max_length=512, description="who, or a prefix that ends with *")] = ""
    group: Annotated[str, Field(max_length=512, description="peer group; empty for any")] = ""
    verbs: _Patterns
    resources: _Patterns
    namespaces: _Patterns
    names: _Patterns
    by: Annotated[str, Field(max_length=256, description="who makes the exception")] = ""


def allow(service: Service, wanted: NewException) -> HabitException:
    """Add an exception to the file of `alerts.exceptions`; the service holds to it from the next batch on.

    Raises:
        KubehabitError: the exception is wrong, or the file cannot hold it.
        ProblemError: 409, the file cannot be written here.
    """
    service.ready()
    lists = {name: tuple(getattr(wanted, name)) for name in ("verbs", "resources", "namespaces", "names")}
    entry = HabitException(
        name=wanted.name,
        reason=wanted.reason,
        expires=wanted.expires,
        principal=wanted.principal,
        group=wanted.group,
        by=wanted.by,
        **lists,
    )
    if not entry.principal and not entry.group:
        raise KubehabitError("Say for whom: an exception names a principal or a peer group.")
    path = service.settings.alerts.exceptions_path
    try:
        with _turn:
            append_exception(path, entry)
    except OSError as error:
        detail = (
            f"The file of exceptions cannot be written here ({error.strerror}): add the exception where the file comes from, "
            "with `kubehabit allow add`."
        )
        raise ProblemError(409, detail) from error
    _log.info("exception added", extra={"exception": clean(entry.name), "principal": clean(entry.principal)})
    return entry


def list_exceptions(service: Service) -> ExceptionList:
    """What may be done without an alert, and what it has allowed."""
    engine = service.ready()
    engine.flush()
    now = datetime.now(UTC)
    found = [ExceptionReport.of(entry, now) for entry in engine.exceptions().entries]
    with engine.store.reading() as connection:
        counted = uses(connection)
        for one in found:
            if one.name in counted:
                one.uses, one.last_used = counted[one.name].count, counted[one.name].last
                one.latest = [
                    AllowedDeed(principal=principal, action=action)
                    for principal, action in latest(connection, one.name, _LATEST)
                ]
    return ExceptionList(exceptions=found)


def add_exception_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.get("/v1/exceptions", tags=["alerts"])
    def exceptions() -> ExceptionList:
        """List what may be done for a while without an alert, until when and why, and what would have been flagged.

        The file is that of `alerts.exceptions`; `kubehabit allow` adds to it, and the service reads it again when it changes.
        """
        return list_exceptions(service)

    @app.post("/v1/exceptions", tags=["alerts"], status_code=201, openapi_extra=documented(NewException))
    async def add_exception(request: Request) -> ExceptionReport:
        """Allow something for a while: it raises no alert and becomes no habit; what would have been flagged is kept and counted.

        It is added to the file of `alerts.exceptions`, as `kubehabit allow add` does. What was flagged before stays an alert.
        """
        service.ready()
        wanted = await read_model(request, NewException)
        entry = await asyncio.to_thread(allow, service, wanted)
        return ExceptionReport.of(entry, datetime.now(UTC))
