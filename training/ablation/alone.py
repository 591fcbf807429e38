"""Variants of the decision on runs that are replayed alone and on transplants, where one run cannot help another.

Only variants that need no training are judged: they change how errors become evidence and evidence a verdict, with the errors of
one model. Each is calibrated again on the held-back normal actions and replayed by the product's own detector.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from data.dataset.table import load
from data.durable_file import replacing
from data.errors import KubehabitError
from data.paths import home
from data.work_progress import WorkProgress
from detection.bundle import Bundle
from detection.calibration import Calibration
from detection.detector import Detector
from detection.reconstruction import NewestOnnxModel, OnnxModel, Reconstruction
from training import registry
from training.ablation.ablate import EXPERIMENT, JUDGES, Where, digest, source
from training.ablation.constants import changed
from training.ablation.variants import AblateConfig, Ablated, Variant
from training.calibrate import (
    CalibrationConfig,
    HeldBack,
    calibration_config,
    fit,
    reconstruct,
    without_suspects,
)
from training.evaluation.alone import judge_alone, summary
from training.evaluation.metrics import Label, read_labels
from training.registry import download

#: Enough for every window of a recording: variants share the errors of one model.
_CACHED_WINDOWS = 400_000

Figures = dict[str, Any]


def is_decision(variant: Variant) -> bool:
    """Whether a variant changes the decision alone, and does so action by action."""
    return not (variant.train or variant.blind or variant.seed is not None) and "last" not in variant.judge


class DecisionVariants:
    """Judges variants of the decision around the errors of one bundle."""

    def __init__(self, bundle: Bundle, data: Path, config: CalibrationConfig) -> None:
        """Read the dataset that the bundle was trained on; KubehabitError if it is another."""
        self.bundle, self.config = bundle, config
        self.table = load(data)
        if self.table.card["fingerprint"] != bundle.meta["data"]["fingerprint"]:
            raise KubehabitError(f"{data} is not the dataset that the model was trained on. Give that one.")
        self.model = model = OnnxModel(str(bundle.model_path))
        newest = None if bundle.newest_path is None else NewestOnnxModel(str(bundle.newest_path))
        self.reconstruction = Reconstruction(model, newest, _CACHED_WINDOWS)
        order = np.argsort(self.table.arrival[self.table.windows["calibration"][:, 0]], kind="stable")
        self.nll = reconstruct(self.table, model, "calibration", bundle.window)[order]

    def calibrated(self, variant: Variant) -> Bundle:
        """The bundle with the decision of a variant; call it, and use it, while the variant's constants hold."""
        config = calibration_config({**asdict(self.config), **variant.calibration})
        make = partial(Ablated, **variant.judge) if variant.judge else Calibration
        held = HeldBack.from_table(self.table)
        found = fit(self.table, held, self.nll, config, make)
        found = without_suspects(self.table, self.model, self.bundle.window, found)
        return replace(self.bundle, calibration=found.calibration, habits=found.habits)

    def judge(
        self, variant: Variant, log: Path, labels: Sequence[Label], *, transplants: int
    ) -> Mapping[str, Any]:
        """Figures of `training.evaluation.alone.judge_alone` of one variant, without the harder questions."""
        with changed(variant.constants):
            bundle = self.calibrated(variant)
            detector = Detector(bundle, model=self.reconstruction.model)
            detector.reconstruction = self.reconstruction
            return judge_alone(
                *(bundle, log, labels),
                attacks=transplants,
                lookalikes=transplants // 4,
                rows=(),
                detector=detector,
            )


def ablate_alone(
    model_uri: str,
    where: Where,
    *,
    config: Path,
    variants: AblateConfig,
    only: Sequence[str] = (),
    transplants: int,
    out: Path,
) -> None:
    """Judge variants of the decision around a registered model, and write their table to `out`, a Markdown file.

    A variant that was judged before with the same bundle, log, labels and source is not judged again.

    Args:
        config: the experiment (`configs/train.yaml`) whose calibration is varied.
        only: names of the variants to run beside the shipped one; all that can be judged so if empty.
    """
    bundle, labels = Bundle.load(download(model_uri)), read_labels(where.labels)
    chosen = [variant for variant in variants.chosen(only) if is_decision(variant)]
    judged = DecisionVariants(bundle, where.data, calibration_config(_calibration(config)))
    log = hashlib.sha256(where.log.read_bytes()).hexdigest()
    given = (source(JUDGES), bundle.checksum, log, json.dumps(labels), config.read_text(), str(transplants))
    rows, texts = [], []
    with WorkProgress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), transient=True
    ) as bar:
        task = bar.add_task("judging", total=len(chosen))
        for variant in chosen:
            bar.update(task, description=variant.name)
            words = [dict(variant.calibration), dict(variant.judge), dict(variant.constants)]
            path = home() / "ablation" / "alone" / f"{digest(*given, json.dumps(words))[:32]}.json"
            if not path.is_file():
                found = judged.judge(variant, where.log, labels, transplants=transplants)
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as file:
                    file.write(json.dumps(found).encode())
            rows.append(json.loads(path.read_bytes()))
            bar.advance(task)
    for title, members in groupby(zip(chosen, rows, strict=True), key=lambda pair: pair[0].block):
        texts += [f"## {title}", "", HEADS, *(line(variant.name, found) for variant, found in members), ""]
    text = "\n".join([f"# Variants of the decision on {where.log.name}", "", *texts])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    _track(text, chosen, rows)


def _calibration(config: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(config.read_text("utf-8"))["calibration"]
    return found


def _track(text: str, chosen: Sequence[Variant], rows: Sequence[Mapping[str, Any]]) -> None:
    import mlflow

    with registry.connected(), mlflow.start_run(experiment_id=registry.experiment_id(EXPERIMENT)):
        mlflow.set_tags({"mlflow.runName": "decision", "git_commit": registry.git_commit()})
        mlflow.log_text(text, "decision.md")
        figures = {variant.name: summary(dict(found)) for variant, found in zip(chosen, rows, strict=True)}
        mlflow.log_dict(figures, "decision.json")


def line(name: str, found: Mapping[str, Any]) -> str:
    """A row of the Markdown table of `heads`."""
    one, moved = summary(dict(found)), found["transplants"]

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{share:.1%}"

    low, high = moved["recall_interval"] or (float("nan"),) * 2
    return (
        f"| {name} | {found['strict_false_per_10k_person_actions']:.2f} | {found['strict_false_per_1m_system_actions']:.0f} "
        f"| {percent(one['strict_recall'])} | {percent(moved['recall'])} ({low:.0%} to {high:.0%}) "
        f"| {percent(moved['recall_by_mode'].get('same'))} | {percent(moved['high_of_detected'])} "
        f"| {percent(moved['lookalikes_high'])} |"
    )


HEADS = (
    "| variant | strict /10k | /1M system | recall alone | transplants | same session | high of detected | look-alikes high |\n"
    "|---|---|---|---|---|---|---|---|"
)
