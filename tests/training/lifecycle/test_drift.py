"""Drift: no change is not called drift however much or little data there is, and what has changed is named."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest

from data.errors import KubehabitError
from data.paths import tracking_uri
from detection.fit import FitTotals, judge_fit
from detection.version_records import drift_reports_in
from tests.conftest import Trained
from training.lifecycle.drift import DriftConfig, PrincipalDrift, advise, drift, measure, rate_of
from training.stability import counts_in, edges_of, effective_size

CONFIG = DriftConfig.load()
RNG = np.random.default_rng(5)


def then(values: np.ndarray) -> dict[str, object]:
    edges = edges_of(values)
    one = {
        "kind": "human",
        "edges": edges,
        "counts": counts_in(values, edges),
        "effective": effective_size(values),
        "median": float(np.median(values)),
    }
    return {"principals": {"p": one}}


def verdict(before: np.ndarray, now: np.ndarray) -> str:
    return measure(then(before), {"p": now.tolist()}, CONFIG)[0].verdict


@pytest.mark.parametrize("size", [60, 300, 3000])
def test_the_same_behaviour_is_steady_at_every_size(size: int) -> None:
    verdicts = [verdict(RNG.gamma(2.0, size=400), RNG.gamma(2.0, size=size)) for _ in range(50)]
    assert verdicts.count("steady") == 50


def test_bursts_of_one_value_are_not_called_drift() -> None:
    verdicts = [
        verdict(np.repeat(RNG.gamma(2.0, size=40), 20), np.repeat(RNG.gamma(2.0, size=8), 20))
        for _ in range(30)
    ]
    assert verdicts.count("changed") <= 1


def test_other_behaviour_is_drift_and_too_few_actions_are_none() -> None:
    before = RNG.gamma(2.0, size=400)
    assert verdict(before, RNG.gamma(2.0, size=300) + 2) == "changed"
    assert verdict(before, RNG.gamma(2.0, size=20) + 2) == "too few"


def test_incidents_against_the_budget() -> None:
    within, beyond = (rate_of("people", count, 20_000, 3.0, 1e4) for count in (6, 30))
    assert within.allowed == 6.0
    assert within.chance > 0.5
    assert beyond.chance < 1e-6


def quiet() -> dict[str, object]:
    return {
        "actions": 10_000,
        "trained_actions": 50_000,
        "principals": [],
        "unknown": {"image": (0.01, 0.012)},
        "new": {},
        "vanished": {},
        "rates": [],
        "totals": FitTotals(10_000, 0.05, 0.0),
    }


def test_advice_names_what_changed_and_warns_of_training_on_an_attack() -> None:
    assert advise(quiet(), CONFIG)[0] == []
    changed = PrincipalDrift("p", "human", 4000, 1.0, 3.0, 2.0, 0.1, "changed")
    for what, words in (
        ({"principals": [changed]}, "40% of all actions"),
        ({"unknown": {"images": (0.01, 0.2)}}, "'images'"),
        ({"new": {"q": 3000}}, "never trained on"),
        ({"vanished": {"q": 30_000}}, "are gone"),
        ({"totals": FitTotals(10_000, 0.11, 0.0)}, "11.0% of all actions surprise as only 5%"),
        ({"totals": FitTotals(10_000, 0.05, 0.02)}, "2.0% have a verb or a resource"),
        ({"rates": [rate_of("people", 60, 10_000, 3.0, 1e4)]}, "look through the incidents first"),
    ):
        reasons, advice = advise(quiet() | what, CONFIG)
        assert len(reasons) == 1
        assert words in advice


def test_what_the_service_calls_changed_is_a_reason_to_train_and_what_it_calls_steady_is_none() -> None:
    for surprising, unknown, expected in (
        (0.05, 0.0, "steady"),
        (0.0999, 0.0099, "steady"),
        (0.1, 0.0, "changed"),
        (0.05, 0.01, "changed"),
        (0.3, 0.3, "changed"),
    ):
        totals = FitTotals(10_000, surprising, unknown)
        assert judge_fit(totals)[0] == expected
        assert bool(advise(quiet() | {"totals": totals}, CONFIG)[0]) is (expected == "changed")
    assert judge_fit(FitTotals(999, 1.0, 1.0))[0] == "too few"


def test_the_log_it_was_trained_on_needs_no_training_and_another_cluster_does(
    trained: Trained, normal_lines: list[bytes], tmp_path: Path
) -> None:
    same, other = tmp_path / "same.jsonl", tmp_path / "other.jsonl"
    same.write_bytes(b"\n".join(normal_lines[-2500:]) + b"\n")
    renamed = [
        line.replace(b'"username":"', b'"username":"new-').replace(b'"resource":"', b'"resource":"other')
        for line in normal_lines[:1500]
    ]
    other.write_bytes(b"\n".join(renamed) + b"\n")
    calm = drift(same, "models:/kubehabit@champion", CONFIG, progress=False)
    assert [one for one in calm.principals if one.verdict == "changed"] == []
    trained_on = set(json.loads((trained.dataset / "schema.json").read_text())["principals"]["ids"])
    actors = {json.loads(line)["user"]["username"] for line in normal_lines[-2500:]}
    assert set(calm.new) == {name for name in actors if name.endswith("@corp.example")} - trained_on
    wild = drift(other, "models:/kubehabit@champion", CONFIG, progress=False)
    assert wild.retrain
    assert any("never trained on" in reason for reason in wild.reasons)
    assert wild.unknown["resource"][1] > 0.3
    assert wild.advice.startswith("Train again")
    json.dumps(wild.to_dict())
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    kept = {item.path for item in client.list_artifacts(trained.run_id, "drift")}
    assert {"drift/reference.json", "drift/same.json", "drift/same.png", "drift/other.json"} <= kept
    noted = drift_reports_in(client.get_model_version("kubehabit", trained.version).tags)
    of_other = next(one for one in noted if one.log == "other.jsonl")
    assert (of_other.retrain, of_other.actions) == (True, wild.actions)
    assert of_other.reasons[0] == wild.reasons[0][:300]


def test_a_model_without_a_reference_and_an_empty_log_are_sentences(trained: Trained, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(KubehabitError, match="no audit event"):
        drift(empty, "models:/kubehabit@champion", CONFIG, progress=False)
    (tmp_path / "bad.yaml").write_text("psy: 1\n")
    with pytest.raises(KubehabitError, match=r"configs/drift\.yaml"):
        DriftConfig.load(tmp_path / "bad.yaml")
