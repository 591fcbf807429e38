"""A starter model knows nothing of the clusters that it was trained on, and learns the next one while it serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset.table import load
from data.errors import KubehabitError
from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector
from detection.novelty import MATURE
from tests.conftest import ROOT, SMALL, Trained
from training.model import Autoencoder, ModelConfig
from training.starter.pooling import pool
from training.starter.starter import train_starter
from training.warm_start import start_from


@pytest.fixture(scope="module")
def pooled(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of one cluster, taken for two."""
    folder = tmp_path_factory.mktemp("pooled") / "dataset"
    table = load(trained.dataset)
    pool([table, table], folder)
    return folder


@pytest.fixture(scope="module")
def starter(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of a small starter model."""
    folder = tmp_path_factory.mktemp("starter") / "bundle"
    few = [option for option in SMALL if "steps" not in option and "interval" not in option]
    train_starter(
        [trained.dataset] * 2,
        folder,
        config=ROOT / "configs" / "train.yaml",
        overrides=[*few, "--trainer.max_steps=10", "--trainer.val_check_interval=10"],
    )
    return folder


def test_the_clusters_stay_apart(trained: Trained, pooled: Path) -> None:
    one, both = load(trained.dataset), load(pooled)
    rows = len(one.tokens)
    assert len(both.tokens) == 2 * rows
    assert {name.partition(":")[0] for name in both.name.tolist()} == {"0", "1"}
    assert not np.isin(both.attributes[:rows], both.attributes[rows:]).any()
    for split, windows in one.windows.items():
        np.testing.assert_array_equal(both.windows[split][len(windows) :], windows + np.array([rows, 0]))


def test_all_logs_end_together(trained: Trained, tmp_path: Path) -> None:
    table = load(trained.dataset)
    later = load(trained.dataset)
    later.time = table.time + 86_400_000_000
    pool([table, later], tmp_path / "pooled")
    both = load(tmp_path / "pooled")
    first = np.array([name.startswith("0:") for name in both.name.tolist()])
    assert both.time[first].max() == both.time[~first].max() == later.time.max()


def test_nothing_of_a_single_cluster_is_in_the_pool_but_what_tells_its_rows_apart(pooled: Path) -> None:
    table = load(pooled)
    assert not table.principals.ids
    assert not table.principal.any()
    assert set(table.principals.groups) == {f"kind:{kind}" for kind in set(table.kind.tolist())} | set(
        table.principals.groups
    )
    known = {value for values in table.vocabulary.tokens.values() for value in values}
    assert known.isdisjoint({"payments", "web", "alice@corp.example", "10.20.1.5"})


def test_a_pool_needs_a_dataset_and_an_empty_folder(trained: Trained, pooled: Path) -> None:
    with pytest.raises(KubehabitError, match="one cluster at least"):
        pool([], pooled)
    with pytest.raises(KubehabitError, match="already holds a dataset"):
        pool([load(trained.dataset)], pooled)


@pytest.mark.slow
def test_the_bundle_names_nobody(starter: Path) -> None:
    bundle = Bundle.load(starter)
    assert bundle.is_starter
    assert len(bundle.habits) == 0
    assert not bundle.warmup.tokens
    assert all(name.startswith("kind:") for name in bundle.calibration.tails)
    assert not bundle.calibration.rarity.own.row
    for file in starter.iterdir():
        assert b"corp.example" not in file.read_bytes(), file.name


@pytest.mark.slow
def test_it_learns_who_acts_and_says_nothing_about_first_actions(
    starter: Path, normal_lines: list[bytes]
) -> None:
    detector = Detector(Bundle.load(starter))
    events = decode_lines(normal_lines).events
    first = detector.score(events[:1_500])
    assert not first.flagged[first.own_actions < MATURE].any()
    rest = detector.score(events[1_500:])
    assert (rest.own_actions >= MATURE).mean() > 0.5 > (first.own_actions >= MATURE).mean()


@pytest.mark.slow
def test_how_events_are_batched_changes_nothing(starter: Path, normal_lines: list[bytes]) -> None:
    bundle, events = Bundle.load(starter), decode_lines(normal_lines[:4_000]).events
    whole, parts = Detector(bundle).score(events), Detector(bundle)
    pieces = [parts.score(events[begin : begin + 333]) for begin in range(0, len(events), 333)]
    for column in ("evidence", "flagged", "own_actions"):
        expected = getattr(whole, column)
        found = np.concatenate([getattr(piece, column) for piece in pieces])
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_a_training_starts_warm_from_its_folder(starter: Path, trained: Trained) -> None:
    table = load(trained.dataset)
    saved = json.loads((starter / "bundle.json").read_text())["model"]
    sizes = {
        "vocabulary": table.vocabulary.sizes,
        "kind_sizes": tuple(table.vocabulary.kind_sizes),
        "principals": len(table.principals.ids),
        "groups": len(table.principals.groups),
    }
    torch.manual_seed(3)
    carried = start_from(str(starter), Autoencoder(ModelConfig(**(saved | sizes))), table)
    assert carried.fresh == []
    assert 0 < carried.tokens[0] < carried.tokens[1]
    assert carried.principals[0] == 0 < carried.principals[1]
