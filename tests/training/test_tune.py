"""The search: swapped windows are what they claim to be, the objective sees no labels, and a stopped search goes on."""

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

from data.actions.fields import FIELDS
from data.dataset.table import ActionTable, load
from data.errors import KubehabitError
from data.paths import tracking_uri
from kubehabit.tables.training import trials_table
from tests.conftest import ROOT, SMALL, Trained
from training.tune import TuneConfig, as_config, separability, swaps, tune

SEARCH = TuneConfig.load()


@pytest.fixture(scope="module")
def table(trained: Trained) -> ActionTable:
    return load(trained.dataset)


def test_a_swap_changes_the_newest_action_alone_to_one_its_principal_never_did(table: ActionTable) -> None:
    drawn = swaps(table, 16, 300)
    newest = drawn.lengths - 1
    rows = np.arange(len(newest))
    changed = (drawn.tokens != drawn.swapped).any(axis=2)
    assert changed.sum() == len(rows)
    assert changed[rows, newest].all()
    assert (drawn.tokens[rows, newest, -1] == drawn.swapped[rows, newest, -1]).all()
    deed = [FIELDS.index(name) for name in ("verb", "resource", "namespace")]
    trained = table.windows["train"][:, 0]
    done = {
        (int(who), *row)
        for who, row in zip(table.principal[trained], table.tokens[trained][:, deed].tolist(), strict=True)
    }
    for who, row in zip(drawn.principal.tolist(), drawn.swapped[rows, newest][:, deed].tolist(), strict=True):
        assert who == 0 or (who, *row) not in done


def test_the_same_seed_draws_the_same_swaps(table: ActionTable) -> None:
    one, two = swaps(table, 16, 50), swaps(table, 16, 50)
    np.testing.assert_array_equal(one.swapped, two.swapped)


def test_separability_is_the_share_above_the_allowed_quantile() -> None:
    untouched = np.arange(1000.0)
    assert separability(untouched, np.array([2000.0, 1.0, 2000.0, 2.0]), 0.001) == 0.5
    assert separability(untouched, untouched, 0.01) == pytest.approx(0.01)


def test_bad_ranges_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    for text in ("space: {model.hidden: {low: 3}}", "trails: 3", "["):
        path.write_text(text)
        with pytest.raises(KubehabitError, match=r"configs/tune\.yaml"):
            TuneConfig.load(path)


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped_and_every_trial_is_a_run(trained: Trained, tmp_path: Path) -> None:
    search = replace(
        SEARCH,
        trials=1,
        max_steps=6,
        windows=200,
        space={"model.bottleneck": {"choices": [4, 16]}, "model.mask": {"low": 0.0, "high": 0.3}},
    )
    where = {"study": "test", "storage": f"sqlite:///{tmp_path / 'tune.db'}", "progress": False}
    small = [
        one for one in SMALL if "max_steps" not in one and "val_check" not in one and "bottleneck" not in one
    ]
    tune(ROOT / "configs" / "train.yaml", trained.dataset, search, overrides=small, **where)
    study = tune(
        ROOT / "configs" / "train.yaml", trained.dataset, replace(search, trials=3), overrides=small, **where
    )
    assert len(study.trials) == 3
    assert set(yaml.safe_load(as_config(study.best_params))) == {"model"}
    assert trials_table(study).row_count == 3
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    parent = study.user_attrs["mlflow_run"]
    runs = client.search_runs(
        [client.get_run(parent).info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'"
    )
    assert len(runs) == 3
    assert all({"objective", "swaps_caught"} <= set(run.data.metrics) for run in runs)
