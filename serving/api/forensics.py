"""The event store over HTTP: questions about what happened, and exports of evidence."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Query, Request, Response
from pydantic import ConfigDict, Field

from data.errors import UnknownPrincipalError
from serving.api.parameters import EventQuery, Moment, Text, span_of
from serving.api.principals import FreshHistory
from serving.forensics import clock
from serving.forensics.evidence.csv_table import as_csv
from serving.forensics.evidence.export import Subject
from serving.forensics.evidence.page import render
from serving.forensics.principal_habits import compared, habits_of
from serving.forensics.queries import EventFilter, EventQueries, moment_of, resource_of
from serving.forensics.records import EventRecord
from serving.http.body import documented, read_model
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.schemas import ApiModel, clean

_MAX_NOTE = 2000
Why = Annotated[str, Field(max_length=_MAX_NOTE, description="reason; kept in the ledger")]
Who = Annotated[str, Field(max_length=256, description="name of the person who exports; kept in the ledger")]
EvidenceForm = Literal["json", "html", "csv"]
Form = Annotated[
    EvidenceForm,
    Query(description="html: a page to read and print; csv: the events as a table, without proof"),
]


class EvidenceRequest(ApiModel):
    """What evidence is wanted of: alerts, requests, or a principal and a span of time."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"alerts": ["7d0c6a1f52b8e934"], "note": "INC-7"}}
    )

    alerts: Annotated[list[str], Field(default_factory=list, max_length=1000)]
    audit_ids: Annotated[list[str], Field(default_factory=list, max_length=10_000)]
    principal: Annotated[str | None, Field(max_length=512)] = None
    since: Annotated[str | None, Field(max_length=40)] = None
    until: Annotated[str | None, Field(max_length=40)] = None
    note: Why = ""
    by: Who = ""


class IncidentEvidenceRequest(ApiModel):
    """Why an incident is exported, and by whom; both may be left out."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"note": "INC-7", "by": "alice@corp"}}
    )

    note: Why = ""
    by: Who = ""


def document_of(record: EventRecord, *, original: bool) -> dict[str, Any]:
    """A record as the API and `--json` give it, by the names of audit.k8s.io/v1 where it has them."""
    about = {
        "apiGroup": record.api_group,
        "resource": record.resource,
        "subresource": record.subresource,
        "namespace": record.namespace,
        "name": record.name,
    }
    document: dict[str, Any] = {
        "number": record.number,
        "auditID": record.audit_id,
        "time": clock.written(record.time),
        "received": clock.written(record.received),
        "principal": record.principal,
        "username": record.username,
        "impersonatedUser": record.impersonated or None,
        "verb": record.verb,
        "objectRef": about if record.resource else None,
        "requestURI": record.path,
        "code": record.code,
        "decision": record.decision,
        "sourceIPs": record.source_ips.split(",") if record.source_ips else [],
        "userAgent": record.user_agent,
        "stage": record.stage,
        "credentialID": record.credential or None,
        "issuedCredentialID": record.issued or None,
        "alertID": record.alert or None,
        "cluster": record.cluster or None,
        "redactions": record.redactions,
    }
    if original:
        document["original"] = msgspec.Raw(record.event.encode())
    return document


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of the event store to an application."""
    desk = service.forensics
    app.state.desk = desk  # the console's pages ask at the same one

    @app.get("/v1/events", tags=["forensics"])
    def events(query: Annotated[EventQuery, Query()]) -> Response:
        """List events that were received, in the order of the API server's time."""
        wanted, newest = query.filter(), query.order == "newest"
        page = desk.ask(
            lambda questions: questions.events(
                wanted, limit=query.limit, cursor=query.cursor, newest=newest, texts=query.original
            )
        )
        documents = [document_of(record, original=query.original) for record in page.records]
        return _json({"events": documents, "cursor": page.cursor})

    @app.get("/v1/events/touched", tags=["forensics"])
    def touched(
        resource: Annotated[
            str, Query(description="As logged, or as kubectl takes it: secret", max_length=256)
        ],
        namespace: Text = None,
        name: Text = None,
        since: Moment = None,
        until: Moment = None,
        listings: Annotated[
            bool, Query(description="Include principals that listed or watched the whole kind")
        ] = True,
    ) -> Response:
        """List who touched an object or a kind of objects, how, how often and from where."""
        begin, end = span_of(since, until)
        wanted = EventFilter(
            since=begin, until=end, resource=resource_of(resource), namespace=namespace, name=name
        )
        return _json({"touched": desk.ask(lambda questions: questions.touched(wanted, listings=listings))})

    @app.get("/v1/events/newcomers", tags=["forensics"])
    def newcomers(
        namespace: Annotated[str, Query(max_length=256)],
        since: Annotated[str, Query(max_length=40)],
        until: Moment = None,
    ) -> Response:
        """List principals that came to a namespace and were never seen in it before, as far back as the store goes."""
        begin, (_, end) = moment_of(since), span_of(None, until)

        def ask(questions: EventQueries) -> dict[str, Any]:
            reach = questions.extent().earliest
            return {
                "newcomers": questions.newcomers(namespace, begin, end),
                "storeBegins": None if reach is None else clock.written(reach),
            }

        return _json(desk.ask(ask))

    @app.get("/v1/events/principals/{principal:path}", tags=["forensics"])
    def life(principal: str, since: Moment = None, until: Moment = None) -> Response:
        """Summarise what a principal did, from the stored events."""
        begin, end = span_of(since, until)
        return _found(desk.ask(lambda questions: questions.life(principal, begin, end)))

    @app.get("/v1/habits/{principal:path}", tags=["principals"])
    def habits(principal: str, since: Moment = None, until: Moment = None) -> Response:
        """Show when a principal acts, where, what it does, from where and with what, and what it is refused."""
        begin, end = span_of(since, until)
        return _found(desk.ask(lambda questions: habits_of(questions, principal, begin, end)))

    @app.get("/v1/peers/{principal:path}", tags=["principals"])
    def peers(principal: str, since: Moment = None, until: Moment = None) -> Response:
        """Compare a principal with its peers, at most fifty of them: what they do that it does and does not."""
        records: FreshHistory = app.state.records
        begin, end = span_of(since, until)
        others = records.reader().peers(principal)
        return _json(desk.ask(lambda questions: compared(questions, principal, others, begin, end)))

    _add_evidence_routes(app, service)


def _add_evidence_routes(app: FastAPI, service: Service) -> None:
    desk = service.forensics

    @app.post(
        "/v1/evidence", tags=["forensics"], response_class=Response, openapi_extra=documented(EvidenceRequest)
    )
    async def evidence(request: Request, form: Form = "json") -> Response:
        """Export evidence: the events with their originals, checksums and proof, the alerts, the model, and who exported it."""
        engine = service.ready()
        wanted = await read_model(request, EvidenceRequest)
        since, until = span_of(wanted.since, wanted.until)
        subject = Subject(
            alerts=tuple(wanted.alerts),
            audit_ids=tuple(wanted.audit_ids),
            principal=wanted.principal,
            since=since,
            until=until,
            note=clean(wanted.note, _MAX_NOTE),
        )

        def make() -> bytes:
            for alert_id in subject.alerts:
                if engine.store.get(alert_id) is None:
                    raise ProblemError(
                        404,
                        f"There is no alert {alert_id!r}. It may have been deleted after the retention time.",
                    )
            return desk.evidence(subject, by=caller_of(request, wanted.by))

        return as_file(await asyncio.to_thread(make), form, "evidence")

    @app.post(
        "/v1/incidents/{incident_id}/evidence",
        tags=["incidents"],
        response_class=Response,
        openapi_extra=documented(IncidentEvidenceRequest),
    )
    async def incident_evidence(incident_id: str, request: Request, form: Form = "json") -> Response:
        """Export an incident as evidence: its story, every event of it with its original and proof, models, clocks, custody.

        The export is noted in the store's ledger. The HTML page holds the JSON file that it was made of.
        """
        service.ready()
        said = await read_model(request, IncidentEvidenceRequest, b"{}")
        by, note = caller_of(request, said.by), clean(said.note, _MAX_NOTE)
        made = await asyncio.to_thread(desk.incident_evidence, incident_id, by=by, note=note)
        return as_file(made, form, f"evidence-{incident_id}")


def caller_of(request: Request, said: str) -> str:
    """The caller, for the chain of custody: as authenticated, and from where; what it calls itself is marked as such."""
    name = request.scope.get("kubehabit.caller")
    address = request.client.host if request.client is not None else "unknown"
    known = f"{name!r}, a caller" if name else "a caller"
    return f"{known} of the API, from {address}" + (f", who says to be {clean(said)!r}" if said else "")


def as_file(made: bytes, form: EvidenceForm, name: str, *, shown: bool = True) -> Response:
    """A file of evidence, or its page, as a download; `shown`: the page opens in the browser."""
    if form == "html":
        headers = {
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            "Content-Disposition": f'{"inline" if shown else "attachment"}; filename="{name}.html"',
        }
        return Response(render(made), media_type="text/html; charset=utf-8", headers=headers)
    if form == "csv":
        headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
        return Response(as_csv(made), media_type="text/csv; charset=utf-8", headers=headers)
    headers = {"Content-Disposition": f'attachment; filename="{name}.json"'}
    return Response(made, media_type="application/json", headers=headers)


def _found(answer: object | None) -> Response:
    if answer is None:
        raise UnknownPrincipalError("There is no event of this principal in that time.")
    return _json(answer)


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
