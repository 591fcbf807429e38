"""The event store over HTTP: questions about what happened, and exports of evidence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from serving.alerts import Model, clean
from serving.forensics import clock
from serving.forensics.desk import Desk
from serving.forensics.evidence import Subject
from serving.forensics.habits import compared, habits_of
from serving.forensics.page import render
from serving.forensics.questions import (
    MAX_LIMIT,
    Filter,
    QuestionError,
    Questions,
    moment_of,
    resource_of,
)
from serving.forensics.records import Record
from serving.history.routes import Records
from serving.problems import ProblemError
from serving.runtime import Service

Moment = Annotated[
    str | None,
    Query(
        description="How long ago (7d), a time of day in UTC (14:02), a day, or an RFC 3339 time",
        max_length=40,
    ),
]
Text = Annotated[str | None, Query(max_length=512)]


_MAX_NOTE = 2000
Why = Annotated[str, Field(max_length=_MAX_NOTE, description="why; kept in the ledger")]
Who = Annotated[str, Field(max_length=256, description="who, in the caller's own words; kept in the ledger")]
Form = Annotated[Literal["json", "html"], Query(description="html: a page to be read and printed")]


class EvidenceRequest(Model):
    """What evidence is wanted of: alerts, requests, or a principal and a span of time."""

    alerts: Annotated[list[str], Field(default_factory=list, max_length=1000)]
    audit_ids: Annotated[list[str], Field(default_factory=list, max_length=10_000)]
    principal: Annotated[str | None, Field(max_length=512)] = None
    since: Annotated[str | None, Field(max_length=40)] = None
    until: Annotated[str | None, Field(max_length=40)] = None
    note: Why = ""
    by: Who = ""


class IncidentEvidenceRequest(Model):
    """Why an incident is exported, and by whom; both may be left out."""

    note: Why = ""
    by: Who = ""


def document_of(record: Record, *, original: bool) -> dict[str, Any]:
    """A record as the API and `--json` give it, by the names of audit.k8s.io/v1 where it has them."""
    document: dict[str, Any] = {
        "number": record.number,
        "auditID": record.audit_id,
        "time": clock.written(record.time),
        "received": clock.written(record.received),
        "principal": record.principal,
        "username": record.username,
        "impersonatedUser": record.impersonated or None,
        "verb": record.verb,
        "objectRef": None
        if not record.resource
        else {
            "apiGroup": record.api_group,
            "resource": record.resource,
            "subresource": record.subresource,
            "namespace": record.namespace,
            "name": record.name,
        },
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


def codes_of(text: str | None) -> tuple[int, int] | None:
    """Least and largest answer meant by `403`, `4xx` or `400-499`.

    Raises:
        QuestionError: it is none of these.
    """
    if text is None:
        return None
    low, _, high = text.lower().partition("-")
    if not high and len(low) == 3 and low.endswith("xx") and low[0].isdecimal():
        return int(low[0]) * 100, int(low[0]) * 100 + 99
    if low.isdecimal() and (not high or high.isdecimal()) and len(text) <= 7:
        return int(low), int(high or low)
    raise QuestionError(f"{text!r} is no answer: give a code (403), a class (4xx) or a span (400-499).")


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of the event store to an application."""
    desk = Desk(service)
    app.state.desk = desk  # the console's pages ask at the same one
    app.state.desk = desk

    @app.get("/v1/events", tags=["forensics"])
    def events(
        since: Moment = None,
        until: Moment = None,
        principal: Annotated[
            str | None,
            Query(description="Who acted, as folded or as logged, or was impersonated", max_length=512),
        ] = None,
        credential: Annotated[
            str | None, Query(description="ID of the credential used, with or without JTI=", max_length=512)
        ] = None,
        verb: Annotated[list[str] | None, Query(description="May be repeated", max_length=20)] = None,
        resource: Annotated[
            str | None, Query(description="As logged, or as kubectl takes it", max_length=256)
        ] = None,
        subresource: Text = None,
        namespace: Text = None,
        name: Text = None,
        address: Annotated[str | None, Query(description="One of sourceIPs", max_length=64)] = None,
        user_agent: Annotated[
            str | None, Query(alias="userAgent", description="How it begins", max_length=512)
        ] = None,
        code: Annotated[str | None, Query(description="403, 4xx or 400-499", max_length=7)] = None,
        decision: Annotated[Literal["allow", "forbid"] | None, Query()] = None,
        audit_id: Annotated[
            list[str] | None, Query(alias="auditID", description="May be repeated", max_length=500)
        ] = None,
        alert: Annotated[
            str | None, Query(description="Events that raised or grew this alert", max_length=32)
        ] = None,
        order: Literal["oldest", "newest"] = "oldest",
        original: Annotated[bool, Query(description="With each event's own text, redacted")] = False,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
        cursor: Annotated[str | None, Query(description="That of the page before", max_length=40)] = None,
    ) -> Response:
        """List events that were received, in the order of the API server's time."""
        wanted = Filter(
            since=None if since is None else moment_of(since),
            until=None if until is None else moment_of(until),
            principal=principal,
            credential=credential,
            verbs=tuple(verb or ()),
            resource=None if resource is None else resource_of(resource),
            subresource=subresource,
            namespace=namespace,
            name=name,
            address=address,
            user_agent=user_agent,
            codes=codes_of(code),
            decision=decision,
            audit_ids=tuple(audit_id or ()),
            alert=alert,
        )
        page = desk.ask(
            lambda questions: questions.events(
                wanted, limit=limit, cursor=cursor, newest=order == "newest", texts=original
            )
        )
        documents = [document_of(record, original=original) for record in page.records]
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
        listings: Annotated[bool, Query(description="Also who listed or watched what contains it")] = True,
    ) -> Response:
        """Tell who touched an object or a kind of objects, how, how often and from where."""
        wanted = Filter(
            since=None if since is None else moment_of(since),
            until=None if until is None else moment_of(until),
            resource=resource_of(resource),
            namespace=namespace,
            name=name,
        )
        return _json({"touched": desk.ask(lambda questions: questions.touched(wanted, listings=listings))})

    @app.get("/v1/events/newcomers", tags=["forensics"])
    def newcomers(
        namespace: Annotated[str, Query(max_length=256)],
        since: Annotated[str, Query(max_length=40)],
        until: Moment = None,
    ) -> Response:
        """Tell which principals came to a namespace that were never seen in it before, as far back as the store goes."""
        begin, end = moment_of(since), None if until is None else moment_of(until)

        def ask(questions: Questions) -> dict[str, Any]:
            reach = questions.extent().earliest
            return {
                "newcomers": questions.newcomers(namespace, begin, end),
                "storeBegins": None if reach is None else clock.written(reach),
            }

        return _json(desk.ask(ask))

    @app.get("/v1/events/principals/{principal:path}", tags=["forensics"])
    def life(principal: str, since: Moment = None, until: Moment = None) -> Response:
        """Sum up what a principal did, from the events that are kept."""
        begin, end = (None if text is None else moment_of(text) for text in (since, until))
        found = desk.ask(lambda questions: questions.life(principal, begin, end))
        if found is None:
            raise ProblemError(404, "There is no event of this principal in that time.")
        return _json(found)

    @app.get("/v1/habits/{principal:path}", tags=["principals"])
    def habits(principal: str, since: Moment = None, until: Moment = None) -> Response:
        """Tell when a principal acts, where, what it does, from where and with what, and what it is refused."""
        begin, end = (None if text is None else moment_of(text) for text in (since, until))
        found = desk.ask(lambda questions: habits_of(questions, principal, begin, end))
        if found is None:
            raise ProblemError(404, "There is no event of this principal in that time.")
        return _json(found)

    @app.get("/v1/peers/{principal:path}", tags=["principals"])
    def peers(principal: str, since: Moment = None, until: Moment = None) -> Response:
        """Tell whom a principal is compared with, and what they do that it does and does not; at most fifty of them."""
        records: Records = app.state.records
        begin, end = (None if text is None else moment_of(text) for text in (since, until))
        others = records.reader().peers(principal)
        return _json(desk.ask(lambda questions: compared(questions, principal, others, begin, end)))

    @app.post("/v1/evidence", tags=["forensics"], response_class=Response)
    def evidence(
        wanted: EvidenceRequest,
        request: Request,
        form: Form = "json",
    ) -> Response:
        """Export evidence: the events with their originals, checksums and proof, the alerts, the model, and who exported it."""
        engine = service.ready()
        subject = Subject(
            alerts=tuple(wanted.alerts),
            audit_ids=tuple(wanted.audit_ids),
            principal=wanted.principal,
            since=None if wanted.since is None else moment_of(wanted.since),
            until=None if wanted.until is None else moment_of(wanted.until),
            note=clean(wanted.note, _MAX_NOTE),
        )
        for alert_id in subject.alerts:
            if engine.store.get(alert_id) is None:
                raise ProblemError(
                    404, f"There is no alert {alert_id!r}. It may have been deleted after the retention time."
                )
        return as_file(desk.evidence(subject, by=caller_of(request, wanted.by)), form, "evidence")

    @app.post("/v1/incidents/{incident_id}/evidence", tags=["incidents"], response_class=Response)
    def incident_evidence(
        incident_id: str,
        request: Request,
        wanted: IncidentEvidenceRequest | None = None,
        form: Form = "json",
    ) -> Response:
        """Export an incident as evidence: its story, every event of it with its original and proof, models, clocks, custody.

        The export is noted in the store's ledger. The HTML page holds the JSON file that it was made of.
        """
        said = wanted or IncidentEvidenceRequest()
        made = desk.incident_evidence(
            incident_id, by=caller_of(request, said.by), note=clean(said.note, _MAX_NOTE)
        )
        return as_file(made, form, f"evidence-{incident_id}")


def caller_of(request: Request, said: str) -> str:
    """Who asks, for the chain of custody: who the gate knows it to be, and where from; what it calls itself is marked as such."""
    name = request.scope.get("kubehabit.caller")
    address = request.client.host if request.client is not None else "unknown"
    known = f"{name!r}, a caller" if name else "a caller"
    return f"{known} of the API, from {address}" + (f", who says to be {clean(said)!r}" if said else "")


def as_file(made: bytes, form: Literal["json", "html"], name: str) -> Response:
    """A file of evidence or its page, as an answer that a browser keeps under its name, or shows as it is meant to look."""
    if form == "html":
        headers = {
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            "Content-Disposition": f'inline; filename="{name}.html"',
        }
        return Response(render(made), media_type="text/html; charset=utf-8", headers=headers)
    headers = {"Content-Disposition": f'attachment; filename="{name}.json"'}
    return Response(made, media_type="application/json", headers=headers)


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
