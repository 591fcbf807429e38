"""Traces: off until wanted; then each request is a span with its parts, and log lines name it."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from serving.scoring.engine import Engine
from serving.telemetry import tracing
from serving.telemetry.logging import JsonFormatter
from tests.serving.conftest import settle
from tests.serving.fakes import ndjson, raw_event, secret_event
from tests.serving.receivers import HttpReceiver
from tests.serving.scoring.test_pipeline import Held

ROOT = Path(__file__).parents[3]
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    kept = InMemorySpanExporter()
    tracing.start(kept)
    yield kept
    tracing.stop()


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, object]]]]:
    """The lines that the service's own log gets."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("kubehabit")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(before)


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_is_a_span_with_its_parts_in_the_trace_of_its_caller(
    exporter: InMemorySpanExporter, make_client: Callable[..., TestClient]
) -> None:
    body = ndjson([raw_event(0), secret_event(1)])
    client = make_client()
    answer = client.post("/v1/score", content=body, headers={"traceparent": CALLER})
    assert answer.status_code == 200
    settle(client)
    spans = named(exporter)
    assert set(spans) == {"POST /v1/score", "decode", "score", "store"}
    request = spans["POST /v1/score"]
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}-{request.parent.span_id:016x}" in CALLER
    assert {span.context.trace_id for span in spans.values() if span.context} == {request.parent.trace_id}
    parents = {name: span.parent.span_id for name, span in spans.items() if span.parent}
    own = {name: span.context.span_id for name, span in spans.items() if span.context}
    assert parents["decode"] == parents["score"] == own["POST /v1/score"]
    assert parents["store"] == own["score"]
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/score",
        "http.response.status_code": 200,
    }
    assert spans["decode"].attributes == {"kubehabit.bytes": len(body)}
    assert spans["score"].attributes == {"kubehabit.batches": 1, "kubehabit.events": 2}
    assert request.resource.attributes["service.name"] == "kubehabit"


def test_what_is_scored_for_several_requests_is_linked_to_each(
    exporter: InMemorySpanExporter,
    make_client: Callable[..., TestClient],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = make_client()
    held = Held(engine, monkeypatch)
    for number in range(4):
        assert client.post("/v1/audit", json=[raw_event(number)]).status_code == 200
    assert held.entered.wait(30)
    held.leave.set()
    settle(client)
    spans = exporter.get_finished_spans()
    requests = {span.context.span_id for span in spans if span.name == "POST /v1/audit" and span.context}
    served = [
        {span.parent.span_id, *(link.context.span_id for link in span.links)}
        for span in spans
        if span.name == "score" and span.parent
    ]
    assert set.union(*served) == requests
    assert sum(map(len, served)) == len(requests) == 4
    assert max(map(len, served)) > 1


def test_no_span_names_anybody(
    exporter: InMemorySpanExporter, make_client: Callable[..., TestClient]
) -> None:
    client = make_client()
    (alert,) = client.post("/v1/score", json=[secret_event(0)]).json()["alerts"]
    client.get(f"/v1/alerts/{alert}")
    client.get("/v1/principals/alice@corp")
    client.get("/v1/alerts", params={"principal": "alice@corp"})
    client.get("/alice@corp")
    said = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "/v1/principals/{principal:path}" in said
    for name in ("alice", "payments", alert):
        assert name not in said


def test_what_fails_is_marked_and_probes_are_no_news(
    exporter: InMemorySpanExporter, make_client: Callable[..., TestClient]
) -> None:
    client = make_client(with_engine=False)
    for path in ("/healthz", "/readyz", "/metrics"):
        client.get(path)
    assert exporter.get_finished_spans() == ()
    assert client.get("/v1/model").status_code == 503
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR


def test_log_lines_name_the_trace_they_belong_to(
    exporter: InMemorySpanExporter,
    make_client: Callable[..., TestClient],
    lines: Callable[[], list[dict[str, object]]],
) -> None:
    client = make_client()
    client.post("/v1/score", json=[secret_event(0)], headers={"traceparent": CALLER})
    logging.getLogger("kubehabit.api").info("outside of a request")
    by_message = {line["message"]: line for line in lines()}
    trace = CALLER.split("-")[1]
    assert by_message["request"]["trace_id"] == trace
    assert by_message["alert raised"]["trace_id"] == trace  # written by another thread
    assert len(str(by_message["alert raised"]["span_id"])) == 16
    assert "trace_id" not in by_message["outside of a request"]


def test_without_traces_lines_name_none(
    client: TestClient, lines: Callable[[], list[dict[str, object]]]
) -> None:
    client.post("/v1/score", json=[secret_event(0)], headers={"traceparent": CALLER})
    assert [line["message"] for line in lines()] == ["alert raised", "request"]
    assert all("trace_id" not in line for line in lines())


def test_the_sdk_is_not_imported_while_traces_are_off() -> None:
    code = "import sys, serving.app, serving.rollout.loader; print([m for m in sys.modules if m.startswith('opentelemetry.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "opentelemetry.sdk" not in done.stdout
    assert "opentelemetry.exporter" not in done.stdout


def test_spans_arrive_at_the_receiver_that_the_environment_names(
    engine: Engine, make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=security")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "kubehabit-eu-1")
        tracing.start()
        try:
            client = make_client()
            client.post("/v1/score", json=[secret_event(0)])
            settle(client)
        finally:
            tracing.stop()
        (got,) = receiver.arrived.wait(1)
    assert (got.path, got.headers["x-tenant"]) == ("/v1/traces", "security")
    sent = ExportTraceServiceRequest.FromString(got.body)
    (resource,) = sent.resource_spans
    assert "kubehabit-eu-1" in [one.value.string_value for one in resource.resource.attributes]
    assert {span.name for scope in resource.scope_spans for span in scope.spans} == {
        *("POST /v1/score", "decode", "score", "store"),
    }
