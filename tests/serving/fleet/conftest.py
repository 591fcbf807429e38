from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.alerts.explain.explainer import Explainer
from serving.fleet.cluster import FleetModel
from serving.rollout.loader import open_model
from serving.scoring.rule_alerts import RuleFolders
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.serving.fleet.fleets import Alerts, LonePartition, alerts_of_one_process
from tests.serving.fleet.mock_kafka import MockKafka
from tests.soak.material import bundles_in


@pytest.fixture(scope="session")
def kafka() -> MockKafka:
    return MockKafka()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bundles_in(tmp_path_factory.mktemp("bundles"), None)


@pytest.fixture(scope="session")
def model(bundles: dict[str, Path], explainer: Explainer) -> FleetModel:
    """Small and easily surprised. It scores nothing itself: each cluster has a detector of its own."""
    settings = Settings()
    return FleetModel(open_model(settings, bundles["1"]), explainer, RuleFolders(settings.rules))


@pytest.fixture(scope="session")
def lines(labelled_lines: list[bytes]) -> list[bytes]:
    """Records of which some raise alerts."""
    return labelled_lines[:1200]


@pytest.fixture(scope="session")
def expected(model: FleetModel, lines: list[bytes]) -> Alerts:
    """What one process makes of the same log."""
    return alerts_of_one_process(model, lines)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and nothing in them: a copy is made in no time."""
    file = tmp_path_factory.mktemp("store") / "serving.db"
    AlertStore(f"sqlite:///{file}", retention_days=90, max_alerts=1000).close()
    return file


@pytest.fixture(autouse=True)
def stores(own_home: Path, empty_store: Path) -> None:
    """The clusters of the tests."""
    for name in ("prod", "test", "idle"):
        (own_home / "clusters" / name).mkdir(parents=True)
        shutil.copy(empty_store, own_home / "clusters" / name / "serving.db")


@pytest.fixture
def partition(own_home: Path, model: FleetModel) -> Iterator[LonePartition]:
    made = LonePartition(own_home, model)
    yield made
    made.scorer.close()
    made.writers.shutdown()
    made.letters.close()
