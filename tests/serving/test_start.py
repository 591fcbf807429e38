"""A start waits for the server of the alert store: alive, not ready, and saying why."""

from __future__ import annotations

import threading
import time

import pytest
from fastapi.testclient import TestClient

from data.actions.fields import FIELDS
from serving import runtime
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore, UnreachableError
from tests.serving.conftest import model_info
from tests.serving.fakes import FakeDetector, ndjson, secret_event
from tests.serving.postgres import Postgres
from tests.serving.receivers import DEADLINE, until


def _starts(client: TestClient) -> bool:
    return client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_a_start_waits_for_a_database_server_that_was_killed(explainer: Explainer) -> None:
    server = Postgres()
    try:
        server.start()
        url = server.database()
        AlertStore(
            url, retention_days=1, max_alerts=1
        ).close()  # what the server acknowledged to it, it has after a crash
        server.kill()
        settings = Settings(store={"url": url, "wait_seconds": 2 * DEADLINE}, events={"enabled": False})  # type: ignore[arg-type]

        def load() -> Engine:
            store = AlertStore.from_settings(settings.store)
            return Engine(FakeDetector(), FIELDS, model_info(), store, explainer)

        with TestClient(create_app(settings, load=load), base_url="http://localhost") as client:
            until(lambda: "store.wait_seconds" in client.get("/readyz").json()["detail"])
            assert client.get("/healthz").status_code == 200
            answer = client.post("/v1/audit", content=ndjson([secret_event(1)]))
            assert answer.status_code == 503
            assert "Cannot open the alert store" in answer.json()["detail"]
            assert answer.headers["retry-after"]
            server.start()
            until(lambda: _starts(client))
            assert client.post("/v1/score", content=ndjson([secret_event(1)])).json()["alerts"]
    finally:
        server.stop()


@pytest.mark.parametrize("wait", [0, 1])
def test_a_server_that_never_comes_ends_the_start_with_its_sentence(
    wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_STORE_PAUSE_SECONDS", 0.01)
    tries: list[int] = []
    outcomes: list[BaseException | None] = []
    done = threading.Event()

    def tell(error: BaseException | None) -> None:
        outcomes.append(error)
        done.set()

    def load() -> Engine:
        tries.append(1)
        raise UnreachableError("The server is away.")

    app = create_app(Settings(store={"wait_seconds": wait}), load=load, on_loaded=tell)  # type: ignore[arg-type]
    with TestClient(app, base_url="http://localhost") as client:
        assert done.wait(DEADLINE)
        assert client.get("/readyz").json()["detail"] == "The server is away."
    assert isinstance(outcomes[0], UnreachableError)
    assert (len(tries) > 1) == (wait > 0)


def test_an_end_does_not_wait_for_the_database_server() -> None:
    outcomes: list[BaseException | None] = []

    def load() -> Engine:
        raise UnreachableError("The server is away.")

    with TestClient(
        create_app(Settings(), load=load, on_loaded=outcomes.append), base_url="http://localhost"
    ) as client:
        until(lambda: "is away. It is tried again, for 60 seconds" in client.get("/readyz").json()["detail"])
        began = time.monotonic()
    assert time.monotonic() - began < DEADLINE / 2
    assert outcomes == []
