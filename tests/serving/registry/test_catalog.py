"""What the registry knows of all versions: read whole, kept for when it is away, and never waited for."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from data.paths import home, tracking_uri
from detection.version_records import DriftRecord, PromotionRecord, tag_of
from serving.registry import catalog as catalogs
from serving.registry.catalog import LearnedFrom, known_catalog, read_catalog
from serving.registry.client import NoSuchModelError, RegistryUnavailableError
from serving.rollout.version_list import VersionList

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
CARD = (
    "# kubehabit\n\n- **Trained on** 118,592 actions, 2026-11-23T13:53:57Z to 2026-11-23T14:31:12Z "
    "(3 component, 17 human); fingerprint `4561aa1d`.\n"
)
REFUSED = PromotionRecord(NOON, "refused", "1", "2", "ci", "nightly", ("recall: worse beyond chance.",))
PROMOTED = PromotionRecord(NOON + timedelta(days=1), "promoted", "1", "2", "ci")
BACK = PromotionRecord(NOON + timedelta(days=2), "rolled back", "2", "1", "on-call", "too loud")
DRIFTED = DriftRecord(NOON, "today.jsonl.gz", 5000, True, 0.12, 0.02, ("12% surprise.",))


@pytest.fixture
def client(empty_registry: Path) -> Any:
    """MLflow with a first version of an earlier release, and a second one that was refused, promoted and taken back."""
    import mlflow

    home().mkdir(parents=True, exist_ok=True)
    uri = tracking_uri()
    shutil.copy(empty_registry, uri.removeprefix("sqlite:///"))
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("kubehabit")
    learned = {
        "trained_actions": "9000",
        "trained_first": "a",
        "trained_last": "b",
        "trained_fingerprint": "ff",
    }
    figures = {
        "dev_recall": "0.97",
        "dev_strict_recall": "0.91",
        "held_back_surprise": "3.36",
        "odd_recall": "?",
    }
    earlier = {
        "promotion": "promoted",
        "promotion_time": "2026-11-01T00:00:00+00:00",
        "promotion_against": "no champion",
        "promotion_reasons": "[]",
    }
    records = (REFUSED, PROMOTED, DRIFTED)
    for card, tags in ((CARD, figures | earlier), ("", learned | dict(tag_of(one) for one in records))):
        client.create_model_version("kubehabit", source="file:///nowhere", tags=tags, description=card)
    client.set_registered_model_alias("kubehabit", "champion", "1")
    client.set_registered_model_alias("kubehabit", "previous", "2")
    return client


def test_versions_are_read_with_their_roles_training_evaluations_and_decisions(
    client: Any, tmp_path: Path
) -> None:
    client.set_model_version_tag("kubehabit", "1", *tag_of(BACK))
    found = read_catalog("kubehabit", tmp_path)
    second, first = found.versions
    assert (second.version, second.aliases, first.version, first.aliases) == (
        "2",
        ("previous",),
        "1",
        ("champion",),
    )
    assert second.learned == LearnedFrom(9000, "a", "b", "ff")
    assert first.learned == LearnedFrom(118_592, "2026-11-23T13:53:57Z", "2026-11-23T14:31:12Z", "4561aa1d")
    assert (first.evaluations, first.held_back_surprise) == (
        {"dev": {"recall": 0.97, "strict_recall": 0.91}},
        3.36,
    )
    assert second.drift == (DRIFTED,)
    assert found.promotions == [BACK, PROMOTED, REFUSED]
    assert known_catalog("kubehabit", tmp_path) == found


def test_a_version_of_an_earlier_release_has_its_last_decision(client: Any, tmp_path: Path) -> None:
    (only,) = read_catalog("kubehabit", tmp_path).versions[1].promotions
    assert (only.outcome, only.before, only.after, only.time.month) == ("promoted", "", "1", 11)


def test_records_that_cannot_be_read_are_left_out(client: Any, tmp_path: Path) -> None:
    for name, text in (
        ("promotion.1", "{"),
        ("promotion.2", '{"time": 3}'),
        ("drift.1", "[]"),
        ("trained_actions", "x"),
    ):
        client.set_model_version_tag("kubehabit", "2", name, text)
    second = read_catalog("kubehabit", tmp_path).versions[0]
    assert (second.promotions, second.drift, second.learned) == ((PROMOTED, REFUSED), (DRIFTED,), None)


def test_a_model_that_is_not_registered_is_said_to_be_missing(client: Any, tmp_path: Path) -> None:
    with pytest.raises(NoSuchModelError, match="no model other"):
        read_catalog("other", tmp_path)


def test_a_registry_that_is_away_leaves_what_was_known_also_after_a_restart(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = VersionList("kubehabit", tmp_path)
    began = versions.known()
    assert (began.catalog, began.asking) == (None, True)
    versions.wait(30)
    answered = versions.known()
    assert answered.catalog is not None
    assert (answered.trouble, answered.asking) == ("", False)

    def away(*_: object, **__: object) -> Any:
        raise RegistryUnavailableError("The model registry does not answer.")

    monkeypatch.setattr(catalogs, "ask", away)
    again = VersionList("kubehabit", tmp_path)
    assert again.known().catalog == answered.catalog
    again.wait(30)
    assert again.known().trouble == "The model registry does not answer."
    assert again.known().catalog == answered.catalog
    assert not again.known().asking, "A registry that is away is asked once a minute at most"


def test_a_damaged_answer_on_disk_is_as_good_as_none(tmp_path: Path) -> None:
    assert known_catalog("kubehabit", tmp_path) is None
    (tmp_path / "kubehabit").mkdir()
    for text in ("", "[]", '{"versions": [{}]}', '{"versions": 3, "asked": "now"}'):
        (tmp_path / "kubehabit" / "versions.json").write_text(text)
        assert known_catalog("kubehabit", tmp_path) is None
