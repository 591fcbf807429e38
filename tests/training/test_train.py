"""Training end to end on a slice of the real recording: what a run leaves behind, and that it is the same again."""

import json
import os
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch

from data.errors import KubehabitError
from data.events.decode import decode_lines
from data.paths import tracking_uri
from detection.bundle import Bundle
from detection.detector import Detector
from tests.conftest import ROOT, SMALL, Trained
from training.registry import connected, download
from training.train import train, use_threads


@pytest.fixture
def client(trained: Trained) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())


def artifacts(client: mlflow.MlflowClient, run_id: str, path: str = "") -> set[str]:
    found = set()
    for item in client.list_artifacts(run_id, path):
        found |= artifacts(client, run_id, item.path) if item.is_dir else {item.path}
    return found


def test_a_run_holds_all_that_led_to_its_version(trained: Trained, client: mlflow.MlflowClient) -> None:
    run = client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert {"model.hidden", "trainer.max_steps", "calibration.person_budget", "seed_everything"} <= set(
        run.data.params
    )
    assert {"data_fingerprint", "git_commit"} <= set(run.data.tags)
    assert run.data.metrics["parity_max_abs_difference"] <= 1e-4
    assert len(client.get_metric_history(trained.run_id, "held_back_nll")) >= 2
    expected = {
        *(f"plots/{name}.png" for name in ("loss", "fields", "calibration", "principals")),
        *("data/card.json", "config/train.yaml", "evaluation/held_back.json"),
    }
    assert expected <= artifacts(client, trained.run_id)


def test_the_version_is_registered_with_alias_signature_and_example(
    trained: Trained, client: mlflow.MlflowClient
) -> None:
    version = client.get_model_version_by_alias("kubehabit", "champion")
    assert str(version.version) == trained.version
    with connected():
        info = mlflow.models.get_model_info("models:/kubehabit@champion")
    assert [column.name for column in info.signature.inputs] == ["event"]
    assert info.saved_input_example_info is not None


def test_no_pickle_is_in_a_registered_model(trained: Trained) -> None:
    with connected():
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/kubehabit@champion"))
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert "bundle.json" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".ckpt", ".jsonl.zst"))]


def test_pyfunc_scores_raw_events_to_the_detectors_numbers(
    trained: Trained, labelled_lines: list[bytes]
) -> None:
    lines = [*labelled_lines[:400], b"{broken"]
    with connected():
        model = mlflow.pyfunc.load_model("models:/kubehabit@champion")
    rows = model.predict(pd.DataFrame({"event": [line.decode() for line in lines]}))
    scores = Detector(Bundle.load(trained.bundle)).score(decode_lines(lines).events)
    scored = [row for row in rows if row["status"] == "scored"]
    assert len(rows) == len(lines)
    assert rows[-1]["status"] == "rejected"
    outputs = model.metadata.signature.outputs
    assert {name for row in rows for name in row} == set(outputs.input_names())
    assert {name for row in rows for name in outputs.required_input_names() if name not in row} == set()
    assert [row["surprise"] for row in scored] == pytest.approx(scores.surprise.tolist(), abs=1e-4)
    assert [row["evidence"] for row in scored] == pytest.approx(scores.evidence.tolist(), abs=1e-4)
    assert [row["flagged"] for row in scored] == scores.flagged.tolist()


def test_held_back_normal_work_stays_within_the_budget(trained: Trained, client: mlflow.MlflowClient) -> None:
    metrics = client.get_run(trained.run_id).data.metrics
    for label, rate in (("person", 3 / 1e4), ("system", 4 / 1e6)):
        assert metrics[f"held_back_{label}_incidents"] <= rate * metrics[f"held_back_{label}_actions"]


@pytest.mark.slow
def test_the_same_data_config_and_seed_give_the_same_metrics(
    trained: Trained, client: mlflow.MlflowClient
) -> None:
    again = train(ROOT / "configs" / "train.yaml", trained.dataset, [*SMALL, "--register.alias=again"])
    first, second = (client.get_run(run_id).data.metrics for run_id in (trained.run_id, again.run_id))
    compared = set(second) - {"seconds_training", "actions_per_second_training"}
    assert len(compared) > 20
    assert {key: first[key] for key in compared} == {key: second[key] for key in compared}
    old, new = (
        json.loads((path / "calibration.json").read_text())
        for path in (trained.bundle, download("models:/kubehabit@again"))
    )
    assert old == new


def test_no_dataset_no_config_and_bad_options_are_sentences(trained: Trained, tmp_path: Path) -> None:
    config = ROOT / "configs" / "train.yaml"
    with pytest.raises(KubehabitError, match="kubehabit data build"):
        train(config, tmp_path / "nothing")
    with pytest.raises(KubehabitError, match="No training config"):
        train(tmp_path / "none.yaml", trained.dataset)
    with pytest.raises(KubehabitError, match="hiden"):
        train(config, trained.dataset, ["--model.hiden=3"])


def test_an_unusable_store_is_a_sentence(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "mlflow.db"
    broken.write_bytes(b"this is no database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{broken}")
    with pytest.raises(KubehabitError, match="cannot be used"):
        train(ROOT / "configs" / "train.yaml", trained.dataset, list(SMALL))


def test_a_missing_model_says_how_to_make_one(trained: Trained) -> None:
    with pytest.raises(KubehabitError, match="kubehabit train"):
        download("models:/nobody@champion")
    assert os.environ["KUBEHABIT_HOME"] == str(trained.home)


def test_training_leaves_the_environment_as_it_was(trained: Trained) -> None:
    with connected():
        assert mlflow.get_tracking_uri() == tracking_uri()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "MLFLOW_REGISTRY_URI" not in os.environ


def test_training_takes_the_threads_that_are_asked_for_or_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        use_threads(2)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr("training.train.usable_cores", lambda: 1)
        use_threads(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
