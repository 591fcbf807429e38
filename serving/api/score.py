"""Routes that receive audit events: `/v1/score` answers with verdicts, `/v1/audit` once a batch is durable."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request, Response
from typing_extensions import TypedDict

from data.events.audit_event import Decoded
from serving.fleet.kafka import KafkaError
from serving.fleet.publisher import Publisher, values_of
from serving.fleet.records import is_cluster_name
from serving.http.links import ALERT, leads_to
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.scoring.intake import merge
from serving.scoring.verdicts import EventResult

_EXAMPLE_EVENT = {
    "kind": "Event",
    "apiVersion": "audit.k8s.io/v1",
    "level": "Metadata",
    "auditID": "0abe9025-690a-4c64-ab70-22c373c72194",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/namespaces/payments/secrets",
    "verb": "list",
    "user": {
        "username": "system:serviceaccount:web:ci-deployer",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"],
    },
    "sourceIPs": ["10.244.1.40"],
    "userAgent": "kubectl/v1.29.3 (linux/amd64) kubernetes/6813625",
    "objectRef": {"resource": "secrets", "namespace": "payments", "apiVersion": "v1"},
    "responseStatus": {"metadata": {}, "code": 200},
    "requestReceivedTimestamp": "2026-11-23T14:31:12.575126Z",
    "stageTimestamp": "2026-11-23T14:31:12.586453Z",
    "annotations": {"authorization.k8s.io/decision": "allow"},
}
_EXAMPLE_LIST = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [_EXAMPLE_EVENT]}


class EventCounts(TypedDict):
    """Records of a batch by what became of them: `records` is the sum of all but `flagged`, which are among the scored."""

    records: int
    scored: int
    folded: int
    repeated: int
    rejected: int
    skipped: int
    flagged: int


class ReceivedCounts(TypedDict):
    """Records of a batch that is kept to be scored: `records` is the sum of the others."""

    records: int
    accepted: int
    rejected: int
    skipped: int


class AuditResponse(TypedDict):
    """What was in a batch."""

    counts: ReceivedCounts
    skipped: Annotated[dict[str, int], "records that are no audit events and were not meant to be, by reason"]


class ScoreResponse(TypedDict):
    """Verdicts on a batch."""

    model: dict[str, str]
    counts: EventCounts
    alerts: Annotated[list[str], "IDs of alerts that this batch raised or let grow"]
    skipped: Annotated[dict[str, int], "records that are no audit events and were not meant to be, by reason"]
    results: Annotated[list[EventResult], "one for each event, in the order sent"]


def _events_body(examples: Mapping[str, Any], *, ndjson: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {}, "examples": examples}}
    if ndjson:
        line = msgspec.json.encode(_EXAMPLE_EVENT).decode()
        content["application/x-ndjson"] = {"schema": {"type": "string"}, "example": line}
    return {"requestBody": {"required": True, "content": content}}


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _counted(decoded: Decoded) -> AuditResponse:
    accepted, rejected, skipped = len(decoded.events), len(decoded.dead), sum(decoded.skipped.values())
    return {
        "counts": {
            "records": accepted + rejected + skipped,
            "accepted": accepted,
            "rejected": rejected,
            "skipped": skipped,
        },
        "skipped": dict(decoded.skipped),
    }


def _cluster(service: Service, request: Request) -> str:
    """The cluster whose log a request brings; raises ProblemError (403) if its sender is named as no cluster can be."""
    name: str = service.settings.ingest.cluster or request.scope.get("kubehabit.caller", "")
    if not is_cluster_name(name):
        raise ProblemError(
            403,
            "The sender's name is taken for that of its cluster, and is none: use a token for each cluster, named like it "
            "(letters, digits, dots and dashes), or set ingest.cluster.",
        )
    return name


def _note_source(service: Service, request: Request, route: str, decoded: Decoded) -> None:
    """Count what a sender sent, by the name of its token or certificate, or else by its address."""
    address = request.client.host if request.client is not None else "unknown"
    sender = request.scope.get("kubehabit.caller") or address
    skipped = sum(decoded.skipped.values())
    service.metrics.ingest.received(sender, route, len(decoded.events), len(decoded.dead), skipped)


_PUBLISHED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": AuditResponse,
        "description": "Published, for workers to score: with `ingest.publish`, instead of 200",
    }
}


async def _received(request: Request) -> tuple[bytes, str]:
    return await request.body(), request.headers.get("content-encoding", "")


async def _publish(service: Service, publisher: Publisher, request: Request, route: str) -> Response:
    """Answer once Kafka has the batch."""
    cluster = _cluster(service, request)
    with service.intake.turn():
        decoded, values = await service.intake.decode(
            *await _received(request), route, lambda plain, found: values_of(plain, found, publisher.most)
        )
        try:
            await asyncio.wrap_future(publisher.publish(cluster, values))
        except KafkaError as error:
            raise ProblemError(503, str(error), {"Retry-After": "5"}) from error
    _note_source(service, request, route, decoded)
    return _json(_counted(decoded), status=202)


def add_score_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""
    one = {"one event": {"value": _EXAMPLE_EVENT}}
    several = {"list": {"value": [_EXAMPLE_EVENT]}, "EventList": {"value": _EXAMPLE_LIST}}

    @app.post(
        "/v1/score",
        response_model=ScoreResponse,
        tags=["events"],
        openapi_extra=_events_body(one | several, ndjson=True),
        responses=leads_to("alert_id", "/alerts/0", *ALERT) | _PUBLISHED,
    )
    async def score(request: Request) -> Response:
        """Score audit events, for a log pipeline.

        Send a JSON list, NDJSON, an EventList or one event; `Content-Encoding` may be gzip or zstd. Every event gets a
        result, in the order sent. Events that cannot be read are reported as `rejected` with their line (or position)
        and kept in the dead-letter file; the others are scored all the same. `folded` events belong to an action that
        was scored at an earlier stage, or are left out by the model's settings; `repeated` ones were sent before. Records of
        other logs in the same stream are `skipped`, and counted by reason.
        """
        if service.publisher is not None:
            return await _publish(service, service.publisher, request, "/v1/score")
        pipeline = service.running().pipeline
        with service.intake.turn():
            decoded, batch = await service.intake.score(pipeline, *await _received(request), "/v1/score")
        _note_source(service, request, "/v1/score", decoded)
        results = merge(decoded, batch)
        became, skipped = Counter(result["status"] for result in results), sum(decoded.skipped.values())
        judge = batch.model or service.ready().model
        answer: ScoreResponse = {
            "model": {"name": judge.name, "version": judge.version},
            "counts": {
                "records": len(results) + skipped,
                "scored": became["scored"],
                "folded": became["folded"],
                "repeated": became["repeated"],
                "rejected": became["rejected"],
                "skipped": skipped,
                "flagged": sum(batch.flagged.values()),
            },
            "alerts": [alert.id for alert in (*batch.raised, *batch.grown)],
            "skipped": dict(decoded.skipped),
            "results": results,
        }
        return _json(answer)

    @app.post(
        "/v1/audit",
        tags=["events"],
        response_model=AuditResponse,
        openapi_extra=_events_body({"EventList": {"value": _EXAMPLE_LIST}}, ndjson=False),
        responses=_PUBLISHED,
    )
    async def audit(request: Request) -> Response:
        """Receive a batch from kube-apiserver's audit webhook.

        The answer says what was in it, and is sent when the batch is durable: its events are scored whatever happens then. Events
        that are sent again are recognised, by all they say, and are scored once.
        """
        if service.publisher is not None:
            return await _publish(service, service.publisher, request, "/v1/audit")
        pipeline = service.running().pipeline
        with service.intake.turn():
            decoded = await service.intake.accept(pipeline, *await _received(request), "/v1/audit")
        _note_source(service, request, "/v1/audit", decoded)
        return _json(_counted(decoded))
