"""Detectors behind one interface, `fit -> infer_threshold -> predict`: the product and the baselines it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data.dataset.table import ActionTable
from data.paths import shipped
from detection.bundle import Bundle
from training.baselines.base import Baseline, Budget
from training.baselines.isolation_forest import IsolationForest
from training.baselines.next_action import NextActionLstm
from training.baselines.ngram import Ngram
from training.baselines.novelty import BundleNoveltyCount, BundleNoveltyTable, NoveltyCount, NoveltyTable
from training.baselines.product import ReconstructionError
from training.baselines.rules import PublicRules
from training.stretch import of_dataset

#: Parts of the product shown alone; no baselines to be better than.
ABLATIONS = (ReconstructionError.title,)


def baselines(table: ActionTable, model: dict[str, Any]) -> list[Baseline]:
    """Every baseline, not fitted yet, beside the autoencoder whose architecture is `model` (of `bundle.json`)."""
    options, training = shipped("baselines.yaml"), shipped("train.yaml")
    same = ("window", "embedding", "hidden", "condition", "depth", "principal_dropout")
    return [
        NoveltyTable(),
        NoveltyCount(),
        Ngram(),
        IsolationForest(**options["isolation_forest"], seed=options["seed"]),
        NextActionLstm(
            table.vocabulary.sizes,
            len(table.principals.ids),
            len(table.principals.groups),
            **{name: model[name] for name in same},
            steps=training["trainer"]["max_steps"],
            batch=training["data"]["batch_size"],
            learning_rate=training["model"]["learning_rate"],
            weight_decay=training["model"]["weight_decay"],
            balance=training["data"]["balance"],
            kind_weights=training["data"]["kind_weights"],
            unscored_fields=tuple(training["calibration"]["unscored_fields"]),
            seed=options["seed"],
        ),
        PublicRules(),
    ]


def fitted(
    detectors: list[Baseline],
    table: ActionTable,
    budget: Budget,
    started: Callable[[str], None] = lambda _: None,
) -> list[Baseline]:
    """Fit detectors on the fitting part of a dataset, and set their thresholds to one budget on its held-back part.

    `started` is called with the title of each before its turn.
    """
    train, held_back = of_dataset(table, "train"), of_dataset(table, "calibration")
    for detector in detectors:
        started(detector.title)
        detector.fit(train).infer_threshold(held_back, budget)
    return detectors


def of_bundle(bundle: Bundle) -> list[Baseline]:
    """The baselines that need no dataset."""
    return [BundleNoveltyTable(bundle), BundleNoveltyCount(bundle), PublicRules()]
