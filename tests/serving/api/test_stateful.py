"""Walks through the API along its links (score, alert, verdict, incident, merge, split, close, evidence): never a 5xx."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings

from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.http import links
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info
from tests.serving.fakes import FakeDetector, secret_event

pytestmark = pytest.mark.slow

#: More for a long search: KUBEHABIT_WALKS=2000.
WALKS = int(os.environ.get("KUBEHABIT_WALKS", "4"))
STEPS = 8
ADDRESS = "http://127.0.0.1:8646"
#: Does not end by itself.
STREAM = "/v1/alerts/stream"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, explainer: Explainer) -> Iterator[TestClient]:
    from serving.forensics import parquet_writer

    store = AlertStore("sqlite://", retention_days=90, max_alerts=1000)
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBEHABIT_HOME", str(tmp_path_factory.mktemp("walk")))
        patch.setattr(parquet_writer, "_answer_of_process", parquet_writer.answer)
        limits = {"limits": {"body_mb": 0.1}, "access": {"rates": {"requests_per_second": 1e6}}}
        app = create_app(Settings(**limits), engine)
        with TestClient(app, base_url=ADDRESS, raise_server_exceptions=False) as opened:
            opened.post(
                "/v1/score", json=[secret_event(number, user=f"user-{number}") for number in range(5)]
            )
            yield opened


def test_every_link_leads_to_an_operation(client: TestClient) -> None:
    described = client.app.openapi()  # type: ignore[attr-defined]
    operations = [one for methods in described["paths"].values() for one in methods.values()]
    parameters = {
        one["operationId"]: {name["name"] for name in one.get("parameters", ())} for one in operations
    }
    found = Counter()
    for operation in operations:
        for link in operation["responses"].get("200", {}).get("links", {}).values():
            assert link["parameters"].keys() <= parameters[link["operationId"]]
            found[link["operationId"]] += 1
    assert set(found) == {*links.ALERT, *links.INCIDENT, *links.PRINCIPAL}


def test_no_walk_along_the_links_meets_an_error_of_the_service(client: TestClient) -> None:
    seen: Counter[tuple[str, int]] = Counter()
    schema = schemathesis.openapi.from_dict(client.app.openapi())  # type: ignore[attr-defined]
    schema.app = client.app
    walk = schema.exclude(path=STREAM).as_state_machine()

    class Walk(walk):  # type: ignore[misc,valid-type]
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"base_url": ADDRESS}

        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            assert response.status_code < 500, (case.as_curl_command(), response.text)
            seen[case.operation.path, response.status_code] += 1

    Walk.run(
        settings=settings(
            max_examples=WALKS,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
    )
    changed = [path for path, status in seen if status in (200, 201) and "{" in path]
    assert sum(seen.values()) >= 4 * WALKS
    assert len(set(changed)) >= 3, "the links lead nowhere"
