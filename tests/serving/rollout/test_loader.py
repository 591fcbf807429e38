"""Versions that older code registered are served as today's are: from the files of their bundle."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from serving.rollout.loader import load_engine
from serving.settings import Settings
from tests.serving.registries import Registry


def test_a_version_registered_before_models_had_a_package_of_their_own_is_served(
    registered_before: Path, empty_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path / "registry", empty_registry, registered_before / "data" / "bundle")
    client = mlflow.MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    version = client.create_model_version("kubehabit", source=registered_before.as_uri()).version
    registry.set("champion", str(version))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    settings = Settings(store={"url": "sqlite://"})
    engine = load_engine(settings)
    try:
        assert (engine.model.version, engine.model.source) == (str(version), "registry")
        tested = engine.model.self_test
        assert tested is not None
        assert tested.worst_difference < tested.tolerance
    finally:
        engine.store.close()
