"""Versions that older code registered are served as today's are: from the files of their bundle."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from data.errors import KubehabitError
from serving.registry.client import NoRegistryError, NoSuchModelError
from serving.rollout.loader import load_engine, open_model
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


def test_without_a_registry_the_starter_model_is_served(own_home: Path) -> None:
    del own_home
    loaded = open_model(Settings(model={"starter_trusted_hops": 1}))
    assert (loaded.model.name, loaded.model.source) == ("starter", "starter")
    assert "There is no model registry" in str(loaded.model.notice)
    assert "kubehabit retrain" in str(loaded.model.notice)
    assert loaded.model.self_test is not None
    assert loaded.detector.encoder.settings.trusted_hops == 1


def test_a_registry_without_a_champion_is_served_by_the_starter_model_as_well(
    tiny_bundle: Path, empty_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path / "registry", empty_registry, tiny_bundle)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    assert open_model(Settings()).model.source == "starter"
    with pytest.raises(NoSuchModelError, match="has no models:/kubehabit@champion"):
        open_model(Settings(model={"starter": False}))


def test_the_starter_model_takes_the_place_of_no_other_and_of_no_signed_one(
    own_home: Path, tmp_path: Path
) -> None:
    del own_home
    with pytest.raises(NoRegistryError):
        open_model(Settings(model={"starter": False}))
    with pytest.raises(NoRegistryError):
        open_model(Settings(model={"public_key": str(tmp_path / "model.key.pub")}))
    with pytest.raises(KubehabitError):
        open_model(Settings(), tmp_path / "no bundle")
