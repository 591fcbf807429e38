"""Rights over HTTP: what an incident was possible by, what would have stopped it, and what is granted and not used."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from data.actions.fields import FIELDS
from data.visible_text import visible
from kubehabit.tables.rights import containment_page
from kubehabit.tables.screen import VisibleConsole
from serving.alerts.explain.explainer import Explainer
from serving.authorization.monitor import AuthorizationMonitor
from serving.scoring.engine import Engine
from serving.storage.database import AlertStore
from tests.serving.authorization.test_monitor import BY_READERS, allowed, monitor, snapshot
from tests.serving.conftest import model_info, settle
from tests.serving.fakes import FakeDetector, ndjson
from tests.serving.hostile import EVIL

__all__ = ["monitor", "snapshot"]
EVENTS = {"enabled": True, "seal_seconds": 3600, "memory_mb": 256}


@pytest.fixture
def engine(store: AlertStore, explainer: Explainer, monitor: AuthorizationMonitor) -> Engine:
    return Engine(FakeDetector(), FIELDS, model_info(), store, explainer, authorization=monitor)


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    """A service whose user reads pods every day, and one day a Secret."""
    client = make_client(events=EVENTS)
    sent = [
        *(allowed(n, reason=BY_READERS, name=f"web-{n}") for n in range(5)),
        allowed(3600, reason=BY_READERS, resource="secrets", name="db"),
    ]
    assert client.post("/v1/audit", content=ndjson(sent)).status_code == 200
    settle(client)
    for _ in range(200):
        if len(client.get("/v1/events").json()["events"]) == len(sent):
            return client
        time.sleep(0.05)
    raise AssertionError


def get(client: TestClient, path: str, **query: Any) -> Any:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_incident_says_what_it_was_possible_by_and_what_stops_it(client: TestClient) -> None:
    (incident,) = get(client, "/v1/incidents")["incidents"]
    found = get(client, f"/v1/incidents/{incident['id']}/containment")
    (one,) = found["requests"]
    assert one["auditIDs"] == ["id-3600"]
    assert one["allowedBy"] == ['ClusterRoleBinding "readers" of ClusterRole "reader"']
    assert (found["kept"], found["missing"], one["notStopped"]) == (1, 0, "")
    (change,) = found["changes"]
    assert change["words"] == 'take get secrets out of ClusterRole "reader"'
    (role,) = change["objects"]
    assert [rule["resources"] for rule in role["rules"]] == [["pods"]]
    shown = get(client, f"/v1/incidents/{incident['id']}")
    assert shown["timeline"][0]["allowedBy"] == one["allowedBy"][0]
    console = VisibleConsole(width=160, record=True, file=io.StringIO())
    found["requests"][0]["user"] = found["changes"][0]["objects"][0]["metadata"]["name"] = EVIL
    for part in containment_page(found):
        console.print(part)
    text = console.export_text()
    assert "stay allowed" in text
    assert all(visible(row) == row for row in text.splitlines())


def test_the_report_says_which_rights_are_not_used(client: TestClient) -> None:
    report = get(client, "/v1/rbac/report", days=36_500)
    (all_of_them,) = report["users"]
    assert (all_of_them["granted"], all_of_them["used"], all_of_them["rights"]) == (2, 2, [])
    assert report["requests"] == 6
    (one,) = get(client, "/v1/rbac/report", days=36_500, user="alice@corp")["users"]
    assert {right["right"]: right["uses"] for right in one["rights"]} == {"get secrets": 1, "get pods": 5}


def test_who_can_and_paths(client: TestClient) -> None:
    found = get(client, "/v1/rbac/who-can", verb="get", resource="secrets", namespace="team-a")
    assert [one["name"] for one in found["subjects"]] == ["system:masters", "alice@corp"]
    assert get(client, "/v1/rbac/paths", user="alice@corp")["paths"] == []


def test_without_a_snapshot_the_answer_says_what_to_set(
    make_client: Callable[..., TestClient], engine: Engine
) -> None:
    engine.authorization = None
    client = make_client()
    for path in ("/v1/rbac/report", "/v1/rbac/paths?user=x", "/v1/rbac/who-can?verb=get&resource=pods"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "authorization.snapshot" in json.dumps(answer.json())
