"""The promotion gate: noise neither refuses nor admits, a worse model stays out, and the former champion is one command away."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest

from data.errors import KubehabitError
from data.events.audit_event import EXAMPLE_EVENT
from data.paths import tracking_uri
from detection.bundle import seal
from detection.version_records import promotions_in
from tests.conftest import Trained
from training.evaluation.bootstrap import difference_interval
from training.export import check_parity
from training.lifecycle.promotion import (
    GateConfig,
    compare,
    compare_counts,
    compare_runs,
    promote,
    roll_back,
    self_checks,
    sign_test,
)
from training.registry import connected

GATE = GateConfig.load()


def figures(caught: list[bool], false: int = 1, high: int = 0) -> dict[str, Any]:
    """Figures of an evaluation with one attack run for each of `caught` and ten look-alikes, `high` of them raised as high."""
    runs = [
        {
            "kind": "attack",
            "class": "habit-only" if i % 2 else "generic",
            "calls": 3,
            "detected": hit,
            "severity": "high" if hit else "none",
            "actions_to_detection": 1 if hit else None,
        }
        for i, hit in enumerate(caught)
    ]
    runs += [
        {
            "kind": "benign-lookalike",
            "class": "look-alike",
            "calls": 2,
            "detected": i < high,
            "severity": "high" if i < high else "none",
            "actions_to_detection": 1 if i < high else None,
        }
        for i in range(10)
    ]
    return {
        "runs": runs,
        "recall": sum(caught) / max(len(caught), 1),
        "false_per_10k_person_actions": float(false),
        "normal_person_actions": 10_000,
        "false_per_1m_system_actions": 0.0,
        "normal_system_actions": 40_000,
    }


def refused(champion: dict[str, Any], challenger: dict[str, Any]) -> list[str]:
    return [check.name for check in compare({"a": champion}, {"a": challenger}, GATE) if check.refuses]


def test_the_sign_test_counted_by_hand() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 0) == 1.0
    assert sign_test(0, 5) == pytest.approx(1 / 32)
    assert sign_test(1, 4) == pytest.approx(6 / 32)


def test_the_interval_holds_the_difference_and_is_nothing_where_nothing_differs() -> None:
    import numpy as np

    same = np.array([True, False] * 10)
    assert difference_interval(same, same, draws=500) == [0.0, 0.0]
    low, high = difference_interval(np.ones(20, bool), same, draws=500) or []
    assert low < 0.5 < high


def test_one_run_lost_and_one_won_is_noise() -> None:
    before = [True] * 17 + [False] * 3
    after = [False] + [True] * 17 + [False] * 2
    assert refused(figures(before), figures(after)) == []


def test_many_runs_lost_are_refused_whatever_else_is_better() -> None:
    champion, challenger = figures([True] * 20, false=9), figures([True] * 12 + [False] * 8, false=0)
    assert "recall" in refused(champion, challenger)


def test_a_loss_in_one_class_is_seen_though_another_gains() -> None:
    before = [bool(i % 2) for i in range(20)]  # every habit-only run
    after = [not hit for hit in before]  # every generic run instead
    names = refused(figures(before), figures(after))
    assert names == ["recall, habit-only (10)"]


def test_a_loss_beyond_the_margin_is_unclear_when_there_are_few_runs() -> None:
    check = compare_runs("recall", [True] * 6, [True] * 4 + [False] * 2, 0.1, GATE)
    assert check.verdict == "unclear"
    assert "More labelled recordings" in check.why


def test_false_incidents_may_vary_by_chance_but_not_multiply() -> None:
    assert compare_counts("f", 3, 5, 10_000, 1e4, GATE).verdict == "ok"
    assert compare_counts("f", 3, 15, 10_000, 1e4, GATE).verdict == "worse"
    assert compare_counts("f", 0, 4, 10_000, 1e4, GATE).verdict == "unclear"
    assert compare_counts("f", 15, 3, 10_000, 1e4, GATE).verdict == "ok"


def test_more_lookalikes_raised_as_high_are_refused() -> None:
    assert refused(figures([True] * 10, high=1), figures([True] * 10, high=8)) == [
        "look-alikes raised as high (10)"
    ]


@pytest.fixture
def registry(trained: Trained) -> Iterator[tuple[mlflow.MlflowClient, str]]:
    """The registry with the trained champion and a second version of the same model as challenger; aliases are put back."""
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    champion = client.get_model_version("kubehabit", trained.version)
    with connected():
        second = mlflow.register_model(champion.source, "kubehabit")
    client.set_registered_model_alias("kubehabit", "challenger", second.version)
    yield client, str(second.version)
    client.set_registered_model_alias("kubehabit", "champion", trained.version)
    for alias in ("challenger", "previous"):
        client.delete_registered_model_alias("kubehabit", alias)
    client.delete_model_version("kubehabit", second.version)


def versions(client: mlflow.MlflowClient) -> dict[str, str]:
    return {k: str(v) for k, v in client.get_registered_model("kubehabit").aliases.items()}


def test_a_challenger_as_good_is_promoted_and_rolled_back(
    registry: tuple[mlflow.MlflowClient, str], trained: Trained, labelled_lines: list[bytes], tmp_path: Path
) -> None:
    client, second = registry
    log = tmp_path / "normal.jsonl"
    log.write_bytes(b"\n".join(labelled_lines[:1500]) + b"\n")
    before = versions(client)
    tried = promote("kubehabit", [], [log], GATE, dry_run=True)
    assert (tried.promoted, tried.reasons) == (True, [])
    assert versions(client) == before
    done = promote("kubehabit", [], [log], GATE, by="ci", note="nightly")
    assert done.promoted
    assert versions(client)["champion"] == second
    assert versions(client)["previous"] == trained.version
    assert "challenger" not in versions(client)
    tags = client.get_model_version("kubehabit", second).tags
    assert (tags["promotion"], tags["promotion_against"]) == ("promoted", trained.version)
    kept = [item.path for item in client.list_artifacts(trained.run_id, "promotion")]
    assert {Path(path).suffix for path in kept} == {".json", ".txt"}
    json.dumps(done.to_dict())
    with pytest.raises(KubehabitError, match="champion already"):
        promote("kubehabit", [], [log], GATE, challenger=second)
    assert roll_back("kubehabit", by="on-call") == (trained.version, second)
    assert versions(client)["champion"] == trained.version
    (promoted,) = promotions_in(tags, second)
    assert (promoted.outcome, promoted.before, promoted.after) == ("promoted", trained.version, second)
    assert (promoted.by, promoted.note) == ("ci", "nightly")
    back = promotions_in(client.get_model_version("kubehabit", trained.version).tags, trained.version)
    assert (back[0].outcome, back[0].before, back[0].after, back[0].by) == (
        "rolled back",
        second,
        trained.version,
        "on-call",
    )


def test_a_worse_challenger_is_refused_with_a_reason_and_the_champion_stays(
    registry: tuple[mlflow.MlflowClient, str], trained: Trained, tmp_path: Path
) -> None:
    client, second = registry

    def judge(uri: str, log: Path, labels: Path | None) -> Mapping[str, Any]:
        return figures([uri.endswith(f"/{trained.version}")] * 12)

    log = tmp_path / "log"
    decision = promote("kubehabit", [(log, log)], [], GATE, judge=judge)
    assert not decision.promoted
    assert any("recall" in reason and "12 of 12 -> 0 of 12" in reason for reason in decision.reasons)
    assert versions(client)["champion"] == trained.version
    tags = client.get_model_version("kubehabit", second).tags
    assert tags["promotion"] == "refused"
    assert promotions_in(tags, second)[0].reasons == tuple(decision.reasons)
    assert "Refused" in decision.sentence()


def test_a_broken_bundle_is_refused(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(trained.bundle, folder)
    (folder / "calibration.json").write_text("{}")
    checks, bundle = self_checks(str(folder), EXAMPLE_EVENT)
    assert bundle is None
    assert [check.refuses for check in checks] == [True]
    whole, opened = self_checks(str(trained.bundle), EXAMPLE_EVENT)
    assert opened is not None
    assert not any(check.refuses for check in whole)


def test_an_export_that_is_not_the_trained_model_is_refused(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.lifecycle import promotion as gate

    def differing(*arguments: Any, **options: Any) -> float:
        return check_parity(*arguments, **(options | {"tolerance": -1.0}))

    monkeypatch.setattr(gate, "check_parity", differing)
    checks, _ = self_checks(str(trained.bundle), EXAMPLE_EVENT)
    assert [check.name for check in checks if check.refuses] == [
        "trained and exported model differ by (nats)"
    ]


def test_a_model_of_an_earlier_release_is_held_against_its_self_test(
    registered_before: Path, tmp_path: Path
) -> None:
    """Its run keeps weights of an architecture that is no longer there, so what it says of itself is all there is."""
    folder = tmp_path / "bundle"
    shutil.copytree(registered_before / "data" / "bundle", folder)
    checks, bundle = self_checks(str(folder), EXAMPLE_EVENT)
    assert bundle is not None
    assert "cloze" in bundle.meta["model"]
    assert not any(check.refuses for check in checks)
    (folder / "self_test.npz").unlink()
    seal(folder)
    checks, _ = self_checks(str(folder), EXAMPLE_EVENT)
    assert [check.why for check in checks if check.refuses] == [
        f"{folder} is of an earlier release and carries no self-test; train it again with this version of kubehabit."
    ]


def test_nothing_to_compare_on_and_no_challenger_are_sentences(
    registry: tuple[mlflow.MlflowClient, str], tmp_path: Path
) -> None:
    with pytest.raises(KubehabitError, match="Nothing to compare on"):
        promote("kubehabit", [], [], GATE)
    with pytest.raises(KubehabitError, match="kubehabit train"):
        promote("kubehabit", [], [], GATE, challenger="4711")
    with pytest.raises(KubehabitError, match="no former champion"):
        roll_back("kubehabit")
    (tmp_path / "margins.yaml").write_text("alfa: 3\n")
    with pytest.raises(KubehabitError, match=r"configs/promote\.yaml"):
        GateConfig.load(tmp_path / "margins.yaml")
