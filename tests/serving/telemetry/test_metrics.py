"""Figures that tell an operator whether events arrive, in time, and whether what they become is kept."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from serving.scoring.engine import Engine
from tests.serving.fakes import raw_event, secret_event

DOCS = Path(__file__).parents[3] / "docs"
SERVING = Path(__file__).parents[3] / "serving"


def figures(client: TestClient) -> dict[str, float]:
    """Every sample by name and labels, as `name{label=value,...}`."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def at(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_unusual_actions_are_counted_by_severity(client: TestClient) -> None:
    assert figures(client)["kubehabit_flagged_total{severity=critical}"] == 0
    client.post("/v1/score", json=[raw_event(0), secret_event(1), secret_event(2)])
    assert figures(client)["kubehabit_flagged_total{severity=high}"] == 2


def test_lag_is_from_when_an_event_was_written_to_its_verdict(client: TestClient) -> None:
    now = time.time()
    # A watch that began an hour ago is written when it ends: it was on its way for 20 seconds, not for an hour.
    old = raw_event(0, requestReceivedTimestamp=at(now - 3600), stageTimestamp=at(now - 20))
    new = raw_event(1, requestReceivedTimestamp=at(now - 5), stageTimestamp=at(now - 5))
    client.post("/v1/score", json=[old, new])
    found = figures(client)
    assert found["kubehabit_event_lag_seconds_count"] == 1
    assert 20 <= found["kubehabit_event_lag_seconds_sum"] < 20 + 60
    assert abs(found["kubehabit_newest_event_seconds"] - (now - 5)) < 0.001


def test_an_older_batch_does_not_turn_the_clock_back_nor_does_one_from_the_future_make_lag_negative(
    client: TestClient,
) -> None:
    now = time.time()
    for seconds in (60, -1000):
        client.post("/v1/score", json=[raw_event(0, stageTimestamp=at(now + seconds))])
    found = figures(client)
    assert found["kubehabit_newest_event_seconds"] > now
    assert found["kubehabit_event_lag_seconds_bucket{le=0.1}"] == 1
    assert found["kubehabit_event_lag_seconds_count"] == 2


def test_nothing_readable_tells_nothing_of_lag(client: TestClient) -> None:
    client.post("/v1/score", content=b'{"kind": "Event"}\n')
    found = figures(client)
    assert found["kubehabit_events_total{outcome=rejected}"] == 1
    assert found["kubehabit_event_lag_seconds_count"] == 0


def test_what_the_store_refuses_is_counted(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert figures(client)["kubehabit_store_errors_total{operation=write}"] == 0

    def refuse(*_: object) -> None:
        raise OperationalError("insert", {}, Exception("disk full"))

    monkeypatch.setattr(engine.incidents, "join", refuse)
    assert client.post("/v1/score", json=[secret_event(0)]).status_code == 503
    assert figures(client)["kubehabit_store_errors_total{operation=write}"] >= 1  # it is tried again


def test_the_time_of_answers_is_told_by_route(client: TestClient) -> None:
    client.post("/v1/score", json=[raw_event(0)])
    client.get("/v1/alerts/nothing")
    found = figures(client)
    assert found["kubehabit_request_seconds_count{route=/v1/score}"] == 1
    assert found["kubehabit_request_seconds_count{route=/v1/alerts/{alert_id}}"] == 1


def test_the_process_and_its_model_are_told(client: TestClient, engine: Engine) -> None:
    found = figures(client)
    assert found["kubehabit_model_loaded_seconds"] == engine.model.loaded.timestamp()
    assert found["process_resident_memory_bytes"] > 0
    assert found["process_open_fds"] > 0


def test_every_metric_is_documented_and_every_documented_one_is_there(client: TestClient) -> None:
    client.get("/healthz")
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(kubehabit_\w+)", text[text.index("## Metrics") :]))
    lines = re.findall(r"^# TYPE (kubehabit_\w+) (\w+)$", client.get("/metrics").text, re.M)
    there = {name for name, _ in lines if not name.endswith("_created")}
    assert there <= documented
    # Others are there only with a real detector, a sink, a challenger ...
    made = {
        name
        for path in SERVING.rglob("*.py")
        for name in re.findall(
            r'(?:[Cc]ounter|[Gg]auge|[Hh]istogram|MetricFamily)\(\s*"(kubehabit_\w+)"',
            path.read_text("utf-8"),
        )
    }
    assert len(made) > 25
    assert made <= {name.removesuffix("_total") for name in documented}
    # Some come with what is set up: sinks, a challenger.
    source = "".join(path.read_text(encoding="utf-8") for path in SERVING.rglob("*.py"))
    for name in documented:
        assert f'"{name.removesuffix("_total")}"' in source, name
