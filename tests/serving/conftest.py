from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.runtime import Service
from serving.schemas import ModelInfo
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.serving.fakes import FakeDetector
from tests.serving.postgres import Postgres
from tests.serving.s3 import S3

SHIPPED = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's store, registry or settings."""
    import os

    for name in list(os.environ):
        if name.startswith(("KUBEHABIT_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def registry_asked_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client, which takes seconds to import, is imported once for all tests but those of the process that has it."""
    from serving.registry import client as registry
    from serving.registry import worker as ask_registry

    if "asks_elsewhere" in request.keywords:
        return

    def answer(what: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return ask_registry.answer({"ask": what} | arguments)

    monkeypatch.setattr(registry, "_answer_of_client", answer)


@pytest.fixture(autouse=True)
def parquet_written_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written without starting a process for each, but in the tests of that process."""
    from serving.forensics import parquet_writer

    if "writes_elsewhere" not in request.keywords:
        monkeypatch.setattr(parquet_writer, "_answer_of_process", parquet_writer.answer)


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and nothing in them: MLflow takes seconds to make one, a copy none."""
    import mlflow

    file = tmp_path_factory.mktemp("registry") / "empty.db"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{file}", registry_uri=f"sqlite:///{file}")
    client.search_experiments()
    client.search_registered_models()
    return file


@pytest.fixture(scope="session")
def explainer() -> Explainer:
    return Explainer.load(SHIPPED / "explain.yaml")


@pytest.fixture
def store() -> Iterator[AlertStore]:
    opened = AlertStore("sqlite://", retention_days=90, max_alerts=1000)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL, shared by all tests; each takes a database of its own."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """A running S3 server, shared by all tests."""
    server = S3()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket, which this process and those that it starts can use."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.bucket()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty alert store on disk, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/serving.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


def model_info() -> ModelInfo:
    return ModelInfo(
        name="kubehabit",
        version="7",
        source="registry",
        fields=list(FIELDS),
        loaded=datetime(2026, 11, 23, tzinfo=UTC),
        bundle={},
    )


@pytest.fixture
def engine(store: AlertStore, explainer: Explainer) -> Engine:
    return Engine(FakeDetector(), FIELDS, model_info(), store, explainer)


@pytest.fixture
def make_client(engine: Engine) -> Iterator[Callable[..., TestClient]]:
    """Clients of an application on loopback; settings as arguments."""
    opened: list[TestClient] = []

    def make(
        with_engine: bool = True, base_url: str = "http://127.0.0.1:8646", **settings: Any
    ) -> TestClient:
        settings.setdefault("events", {"enabled": False})  # tests of the event store ask for it
        app = create_app(Settings(**settings), engine if with_engine else None)
        client = TestClient(app, base_url=base_url, raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def settle(client: TestClient) -> None:
    """Wait until all that was sent so far is scored."""
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    service.running().pipeline.run_on_scoring_thread(lambda: None).result(30)


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client()
