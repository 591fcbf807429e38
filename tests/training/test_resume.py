"""A training that is killed goes on where it stopped, to the same figures; a warm start begins with what is known by name."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from data.actions.fields import FIELDS
from data.actions.vocabulary import SPECIALS, UNKNOWN, Vocabulary
from data.dataset.table import load
from data.errors import BundleError, KubehabitError
from data.paths import tracking_uri
from detection.bundle import WEIGHTS, Bundle, seal
from tests.conftest import ROOT, SMALL, Trained
from training import checkpoints, warm_start
from training.model import Autoencoder, ModelConfig
from training.registry import download
from training.train import _fit, parse, train
from training.warm_start import name_sources, start_from, token_sources, weights_of

CONFIG = ROOT / "configs" / "train.yaml"
KILLED = """
import os, signal, sys
from pathlib import Path
import lightning
from training import train as run

class Kill(lightning.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 55:
            os.kill(os.getpid(), signal.SIGKILL)

parse = run.parse
def with_kill(*arguments):
    cli = parse(*arguments)
    cli.trainer.callbacks.append(Kill())
    return cli
run.parse = with_kill
run.train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
"""


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_figures_of_one_that_never_stopped(trained: Trained) -> None:
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    arguments = [str(CONFIG), str(trained.dataset), *SMALL, "--register.alias=resumed"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert killed.returncode == -signal.SIGKILL
    assert checkpoints.find("last").step == 50
    resumed = train(CONFIG, trained.dataset, resume="last")
    whole = client.get_run(trained.run_id)
    again = client.get_run(resumed.run_id)
    # Other tests judge the whole one, which adds to its metrics.
    compared = set(again.data.metrics) - {"seconds_training", "actions_per_second_training"}
    assert len(compared) > 20
    assert {key: again.data.metrics[key] for key in compared} == {
        key: whole.data.metrics[key] for key in compared
    }
    curves = [
        [(point.step, point.value) for point in client.get_metric_history(run_id, "train_nll")]
        for run_id in (trained.run_id, resumed.run_id)
    ]
    assert curves[0] == curves[1]
    with pytest.raises(KubehabitError, match="Nothing to resume"):
        checkpoints.find("last")


class Payload:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_that_carries_code_is_refused(trained: Trained, tmp_path: Path) -> None:
    checkpoint, made = tmp_path / "step=1.ckpt", tmp_path / "made"
    torch.save({"state_dict": Payload(made), "pytorch-lightning_version": "2.6.0"}, checkpoint)
    cli = parse(CONFIG, trained.dataset, [*SMALL, "--trainer.max_steps=2"])
    with pytest.raises(KubehabitError, match="Start again without --resume"):
        _fit(cli, checkpoints.Checkpoint("run", checkpoint, CONFIG, 1))
    assert not made.exists()


def test_nothing_to_resume_is_a_sentence(trained: Trained) -> None:
    with pytest.raises(KubehabitError, match="left no checkpoint"):
        train(CONFIG, trained.dataset, resume="0123456789abcdef")


def test_other_data_is_not_resumed_on() -> None:
    with pytest.raises(KubehabitError, match="another dataset"):
        checkpoints.same_data({"data_fingerprint": "aa"}, "bb")


def vocabulary(**values: list[str]) -> Vocabulary:
    return Vocabulary({field: [*SPECIALS, *values.get(field, [])] for field in FIELDS}, uses_hour=False)


def test_tokens_are_carried_over_by_value_and_new_ones_begin_as_something_broader() -> None:
    old = vocabulary(verb=["get", "list"], client=["kubectl/?"])
    new = vocabulary(verb=["list", "watch"], client=["kubectl/1.31"])
    rows, known = token_sources(old, new)
    starts = np.concatenate([[0], np.cumsum(old.sizes)])
    new_starts = np.concatenate([[0], np.cumsum(new.sizes)])
    verb, client = FIELDS.index("verb"), FIELDS.index("client")
    assert rows[new_starts[verb] + 3] == starts[verb] + 4
    assert rows[new_starts[verb] + 4] == starts[verb] + UNKNOWN
    assert known[new_starts[verb] + 3 : new_starts[verb] + 5].tolist() == [1, 0]
    assert rows[new_starts[client] + 3] == starts[client] + 3


def test_a_new_principal_begins_as_one_never_seen() -> None:
    rows, known = name_sources({"a": 1, "b": 2}, {"b": 1, "c": 2})
    assert rows.tolist() == [0, 2, 0]
    assert known == 1


def test_a_warm_start_on_the_same_data_gives_the_champions_own_model(trained: Trained) -> None:
    bundle = Bundle.load(download("models:/kubehabit@champion"))
    table = load(trained.dataset)
    torch.manual_seed(3)
    model = Autoencoder(ModelConfig(**bundle.meta["model"]))
    carried = start_from("models:/kubehabit@champion", model, table)
    assert carried.fresh == []
    assert carried.tokens[0] == carried.tokens[1] == sum(table.vocabulary.sizes)
    assert carried.principals[0] == carried.principals[1] > 0
    saved = weights_of(bundle, "models:/kubehabit@champion")
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), saved[name])


def test_how_an_older_model_weighed_its_decoders_is_not_carried_over(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.load(trained.bundle)
    saved = weights_of(bundle, "models:/kubehabit@champion")
    fitted = {**saved, "rebuilt_share": np.full_like(saved["rebuilt_share"], 0.75)}
    monkeypatch.setattr(warm_start, "weights_of", lambda *_: fitted)
    model = Autoencoder(ModelConfig(**bundle.meta["model"]))
    carried = start_from("models:/kubehabit@champion", model, load(trained.dataset))
    assert carried.fresh == []
    assert set(model.rebuilt_share.tolist()) == {0.5}


def test_weights_that_were_changed_are_refused(trained: Trained, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained.bundle, bundle)
    content = bytearray((bundle / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / WEIGHTS).write_bytes(content)
    with pytest.raises(BundleError, match=f"checksum of {WEIGHTS}"):
        Bundle.load(bundle)


def test_an_older_model_starts_from_the_weights_in_its_run(trained: Trained, tmp_path: Path) -> None:
    older = tmp_path / "bundle"
    shutil.copytree(trained.bundle, older)
    kept = tmp_path / "weights.npz"
    (older / WEIGHTS).rename(kept)
    seal(older)
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    with pytest.raises(KubehabitError, match="keeps no weights"):
        weights_of(Bundle.load(older), "the older model")
    client.log_artifact(trained.run_id, str(kept), "weights")
    client.set_tag(trained.run_id, "weights_sha256", "0" * 64)
    with pytest.raises(KubehabitError, match="do not match their checksum"):
        weights_of(Bundle.load(older), "the older model")
    client.set_tag(trained.run_id, "weights_sha256", hashlib.sha256(kept.read_bytes()).hexdigest())
    found, expected = (
        weights_of(Bundle.load(older), "the older model"),
        weights_of(Bundle.load(trained.bundle), "it"),
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_the_first_version_is_champion_and_the_next_a_challenger(trained: Trained) -> None:
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    result = train(
        CONFIG,
        trained.dataset,
        [*SMALL, "--trainer.max_steps=4"],
        warm_start="models:/kubehabit@champion",
    )
    assert result.alias == "challenger"
    assert str(client.get_model_version_by_alias("kubehabit", "champion").version) == trained.version
    tags = client.get_run(result.run_id).data.tags
    assert tags["warm_start"] == "models:/kubehabit@champion"
    began = client.get_metric_history(result.run_id, "train_nll")
    assert (
        client.get_run(result.run_id).data.metrics["held_back_surprise"]
        < 2 * (client.get_run(trained.run_id).data.metrics["held_back_surprise"])
    ), began


@pytest.mark.slow
def test_two_devices_train_as_one_model(trained: Trained) -> None:
    result = train(
        CONFIG,
        trained.dataset,
        [
            *SMALL,
            "--register.alias=two",
            "--trainer.max_steps=4",
            "--trainer.accelerator=cpu",
            "--trainer.devices=2",
            "--trainer.strategy=ddp_spawn",
        ],
    )
    assert result.metrics["parity_max_abs_difference"] <= 1e-4
