"""The same person in several clusters of a fleet: their incidents are found from each other's pages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.scoring.engine import Engine
from serving.settings import Settings, StoreSettings
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info, settle
from tests.serving.fakes import FakeDetector, decoded, secret_event
from tests.serving.postgres import Postgres

Score = Callable[[str, list[dict[str, Any]]], None]
_names = itertools.count(1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def settings(request: pytest.FixtureRequest) -> StoreSettings:
    """Where the alerts of each cluster are."""
    if request.param == "sqlite":
        return StoreSettings()
    server: Postgres = request.getfixturevalue("postgres")
    # All schemas of a database are seen: this one is the test's own.
    url, name = sa.make_url(server.database()).difference_update_query(["options"]), f"fleet{next(_names)}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return StoreSettings(url=url.set(database=name).render_as_string() + "&schema={cluster}")


@pytest.fixture
def score(settings: StoreSettings, explainer: Explainer) -> Score:
    def run(cluster: str, events: list[dict[str, Any]]) -> None:
        """Score events of another cluster, as a worker does."""
        store = AlertStore.from_settings(settings, settings.of_cluster(cluster))
        engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
        engine.score(decoded(events))
        engine.close()

    return run


@pytest.fixture
def prod(settings: StoreSettings, explainer: Explainer) -> Iterator[TestClient]:
    """The console of `prod`, whose incident is alice's."""
    url = settings.of_cluster("prod")
    engine = Engine(FakeDetector(), FIELDS, model_info(), AlertStore.from_settings(settings, url), explainer)
    console = {"cluster_url": "https://kubehabit-{cluster}.example/console/"}
    app = create_app(Settings(store={"url": url}, events={"enabled": False}, console=console), engine)
    with TestClient(app, base_url="http://127.0.0.1:8646") as client:
        client.post("/v1/score", json=secret_event(user="alice@corp"))
        settle(client)
        yield client


def elsewhere(client: TestClient) -> list[dict[str, Any]]:
    (incident,) = client.get("/v1/incidents").json()["incidents"]
    answer = client.get(f"/v1/incidents/{incident['id']}/elsewhere")
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def page(client: TestClient) -> str:
    (incident,) = client.get("/v1/incidents").json()["incidents"]
    return client.get(f"/console/incidents/{incident['id']}", headers={"Accept": "text/html"}).text


def test_the_same_person_in_another_cluster_is_found_with_a_link_there(
    prod: TestClient, score: Score
) -> None:
    assert elsewhere(prod) == []
    assert "In other clusters" not in page(prod)
    score("test", [secret_event(10, user="alice@corp", seconds=3600), secret_event(11, user="bob@corp")])
    (found,) = elsewhere(prod)
    assert found["cluster"] == "test"
    assert found["principal"] == "alice@corp"
    assert found["state"] == "open"
    assert found["console"] == f"https://kubehabit-test.example/console/incidents/{found['id']}"
    text = page(prod)
    assert "In other clusters" in text
    assert found["console"] in text


def test_nobody_is_joined_by_a_shared_name_a_machine_or_after_half_a_day(
    prod: TestClient, score: Score
) -> None:
    account = "system:serviceaccount:web:deployer"
    for number, name in enumerate(("kubernetes-admin", account)):
        prod.post("/v1/score", json=secret_event(20 + number, user=name, sourceIPs=["10.9.0.1"]))
    settle(prod)
    score("test", [secret_event(30, user="kubernetes-admin"), secret_event(31, user=account)])
    score("late", [secret_event(32, user="alice@corp", seconds=13 * 3600)])
    for incident in prod.get("/v1/incidents").json()["incidents"]:
        assert prod.get(f"/v1/incidents/{incident['id']}/elsewhere").json() == []


def test_a_store_that_cannot_be_read_hides_no_other(
    prod: TestClient, score: Score, settings: StoreSettings, own_home: Path
) -> None:
    score("broken", [])
    score("test", [secret_event(10, user="alice@corp")])
    if settings.url is None:
        (own_home / "clusters" / "broken" / "serving.db").write_bytes(b"no database")
    else:
        store = AlertStore.from_settings(settings, settings.of_cluster("broken"))
        with store.transaction() as connection:
            connection.execute(sa.text("DROP TABLE alert_lines CASCADE"))
        store.close()
    (found,) = elsewhere(prod)
    assert found["cluster"] == "test"


def test_a_store_of_no_fleet_looks_nowhere(tmp_path: Path, explainer: Explainer) -> None:
    url = f"sqlite:///{tmp_path}/serving.db"
    store = AlertStore(url, retention_days=90, max_alerts=1000)
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
    with TestClient(
        create_app(Settings(store={"url": url}, events={"enabled": False}), engine),
        base_url="http://127.0.0.1:8646",
    ) as client:
        client.post("/v1/score", json=secret_event(user="alice@corp"))
        settle(client)
        assert elsewhere(client) == []
