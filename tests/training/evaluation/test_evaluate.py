"""Evaluating a model and judging alerts, on a slice of the recording: what comes out, and beside what."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest

from data.dataset.build import build
from data.errors import KubehabitError
from data.paths import shipped, tracking_uri
from tests.conftest import RECORDINGS, Trained
from tests.data.samples import event
from tests.detection.rules.rules_for_tests import document
from training.evaluation.evaluate import evaluate, judge

BASELINES = {
    *("novelty table", "novelty count", "n-gram", "isolation forest", "next-action LSTM", "public rules"),
    *("always silent", "always alarm"),
}


IN_DECISION = {
    f"{title} in the decision" for title in ("novelty alone", "counts", "n-gram", "next-action LSTM")
}


@dataclass(frozen=True, slots=True)
class Judged:
    """An evaluation beside all baselines."""

    figures: dict[str, Any]
    report: str
    log: Path
    labels: Path


def run(kind: str, ids: list[str], **more: object) -> dict[str, object]:
    return {
        "scenario": "s",
        "family": "f",
        "class": "c",
        "mode": "m",
        "kind": kind,
        "principal": "p",
        "audit_ids": ids,
        **more,
    }


def test_alerts_from_elsewhere_are_judged_the_same_way(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    times = [f"2026-01-05T09:30:0{i}.000000Z" for i in range(3)]
    log.write_bytes(
        b"\n".join(
            event(auditID=f"a{i}", requestReceivedTimestamp=t, stageTimestamp=t) for i, t in enumerate(times)
        )
        + b"\n"
    )
    alert = {"principal": "dev-1@example.com", "auditIDs": ["a1"], "severity": "high"}
    figures = judge([alert], log, [run("attack", ["a0", "a1"])], progress=False)
    assert (figures["recall"], figures["false_incidents"]) == (1.0, 0)
    assert figures["runs"][0]["actions_to_detection"] == 2
    assert figures["baselines"]["always silent"]["recall"] == 0.0
    assert figures["baselines"]["always alarm"]["recall"] == 1.0
    other_principal = judge([alert | {"principal": "x"}], log, [run("attack", ["a0", "a1"])], progress=False)
    assert other_principal["recall"] == 0.0


def test_evaluating_a_registered_model(
    trained: Trained, labelled_lines: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rules := tmp_path / "rules").mkdir()
    about = {"resourceRules": [{"resources": ["configmaps"]}], "namespaces": ["payments"]}
    mine = document(
        "settings-of-payments", matchConstraints=about, expression="principal.name == 'alice@corp.example'"
    )
    (rules / "settings-of-payments.yaml").write_text(json.dumps(mine))
    monkeypatch.setattr("training.evaluation.evaluate.shipped_rules", lambda: rules)
    log = tmp_path / "slice.jsonl"
    log.write_bytes(b"\n".join(labelled_lines) + b"\n")
    ids = {json.loads(line)["auditID"] for line in labelled_lines}
    labels = [
        r for r in json.loads((RECORDINGS / "labels.json").read_text()) if ids.issuperset(r["audit_ids"])
    ]
    assert labels
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    figures = evaluate("models:/kubehabit@champion", log, tmp_path / "labels.json", progress=False)
    promised = {
        *(
            "attack_runs",
            "recall",
            "recall_by_family",
            "recall_by_class",
            "recall_by_mode",
            "false_incidents",
        ),
        *("false_per_10k_person_actions", "false_per_1m_system_actions", "lookalikes_high", "lookalikes"),
        *("median_actions_to_detection", "recall_at", "seconds", "events", "baselines"),
    }
    assert promised <= set(figures)
    assert set(figures["recall_at"]) == {"1", "3", "10"}
    alone = figures["alone"]
    assert alone["strict"]["recall"] == figures["strict_recall"]
    assert alone["transplants"]["attack_runs"] == figures["transplant_runs"] == 0
    for name in ("10k_person", "1m_system"):  # the same log without attacks, replayed another way
        rate = f"strict_false_per_{name}_actions"
        assert alone[rate] == pytest.approx(figures[rate])
    ruled = figures["with_rules"]  # one of them is about what an attack does, and no normal work
    assert ruled["recall_by_scenario"]["dev-cred-other-team-configmaps"] == 1
    assert ruled["lookalikes_raised"] == figures["lookalikes_raised"]
    hit = {run["scenario"]: run["rules"] for run in alone["strict"]["runs"]}
    assert hit["dev-cred-other-team-configmaps"] == ("settings-of-payments",)
    assert set(hit.values()) == {(), ("settings-of-payments",)}
    for name in ("10k_person", "1m_system"):
        assert alone[f"with_rules_false_per_{name}_actions"] == pytest.approx(
            figures[f"strict_false_per_{name}_actions"]
        )
        assert ruled[f"strict_false_per_{name}_actions"] == figures[f"strict_false_per_{name}_actions"]
    assert figures["events"] == len(labelled_lines)
    assert len(figures["runs"]) == len(labels)
    assert set(figures["baselines"]) == {
        *("novelty count", "novelty table", "public rules", "always silent", "always alarm")
    }
    assert promised - {"baselines", "events"} <= set(figures["baselines"]["novelty count"]) | {"seconds"}
    json.dumps(figures)
    without = evaluate("models:/kubehabit@champion", log, None, progress=False, track=False)
    assert (without["attack_runs"], without["runs"]) == (0, [])


@pytest.fixture(scope="module")
def judged(trained: Trained, labelled_lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Everything beside everything, once; the LSTM is trained for a few steps."""
    folder = tmp_path_factory.mktemp("judged")
    log = folder / "all.jsonl"
    lines = labelled_lines[:4000]  # with a look-alike and an attack
    log.write_bytes(b"\n".join(lines) + b"\n")
    ids = {json.loads(line)["auditID"] for line in lines}
    labels = [
        r for r in json.loads((RECORDINGS / "labels.json").read_text()) if ids.issuperset(r["audit_ids"])
    ]
    (folder / "labels.json").write_text(json.dumps(labels))
    with pytest.MonkeyPatch.context() as patch:
        short = shipped("train.yaml")
        short["trainer"]["max_steps"] = 30
        patch.setattr(
            "training.baselines.shipped", lambda name: short if name == "train.yaml" else shipped(name)
        )
        figures = evaluate(
            "models:/kubehabit@champion",
            log,
            folder / "labels.json",
            data=trained.dataset,
            report=folder / "report.md",
            progress=False,
        )
    return Judged(figures, (folder / "report.md").read_text(), log, folder / "labels.json")


def test_with_its_dataset_every_baseline_has_its_row(judged: Judged) -> None:
    figures = judged.figures
    assert set(figures["baselines"]) == BASELINES
    assert set(figures["ablations"]) == {"autoencoder alone"}
    assert set(figures["in_decision"]) == IN_DECISION
    for block in figures["in_decision"].values():
        assert set(block["recall_at"]) == {"1", "3", "10"}
        assert 0 <= block["strict_recall"] <= 1
    keys = set(figures["baselines"]["novelty count"])
    for title in BASELINES - {"always silent", "always alarm"}:
        assert set(figures["baselines"][title]) == keys
        low, high = figures["baselines"][title]["intervals"]["recall"]
        assert low <= figures["baselines"][title]["recall"] <= high
    for rate in ("1", "3"):
        found = figures["compared_with_best_baseline"][rate]
        best = max(
            block["recall_at"][rate] for block in figures["baselines"].values() if "recall_at" in block
        )
        assert found["best_baseline_recall"] == best
        assert found["recall_minus_best_baseline"] == pytest.approx(figures["recall_at"][rate] - best)
    json.dumps(figures)


def test_the_report_names_every_detector_and_every_attack_scenario(judged: Judged) -> None:
    for title in BASELINES | IN_DECISION:
        assert f"| {title} |" in judged.report
    for run_ in judged.figures["runs"]:
        if run_["kind"] == "attack":
            assert run_["scenario"] in judged.report
    assert "labels were used for judging only" in judged.report


def test_figures_report_and_plots_are_in_the_run_that_made_the_model(
    judged: Judged, trained: Trained
) -> None:
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    names = {item.path for item in client.list_artifacts(trained.run_id, "evaluation")}
    assert {
        f"evaluation/all{suffix}"
        for suffix in (
            ".json",
            ".md",
            "-recall.png",
            "-runs.png",
            "-scenarios.png",
            "-delay.png",
            "-runs.json",
        )
    } <= names
    assert client.get_run(trained.run_id).data.metrics["all_recall"] == judged.figures["recall"]


def test_a_dataset_that_the_model_was_not_trained_on_is_refused(
    judged: Judged, normal_lines: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "other.jsonl").write_bytes(b"\n".join(normal_lines[:2000]) + b"\n")
    build([tmp_path / "other.jsonl"], tmp_path / "other", workers=1, progress=False)
    with pytest.raises(KubehabitError, match="not the dataset that the model was trained on"):
        evaluate(
            "models:/kubehabit@champion",
            judged.log,
            judged.labels,
            data=tmp_path / "other",
            progress=False,
            track=False,
        )
