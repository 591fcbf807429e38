"""Writes the model bundle, the only thing that training hands to serving."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTES
from data.actions.fields import FIELDS
from data.arrays import runs
from data.dataset.table import ActionTable
from detection.bundle import FORMAT, WEIGHTS, Warmup, seal
from detection.parity_check import PARITY_FILE, ParityCheck
from training.calibrate import CalibrationResult
from training.model import ModelConfig


def warmup_of(table: ActionTable, window: int) -> Warmup:
    """The last actions of every principal in the dataset."""
    starts, sizes = runs(table.name)
    ends = starts + sizes
    tokens = {
        str(table.name[a]): table.tokens[max(a, b - window + 1) : b]
        for a, b in zip(starts, ends, strict=True)
    }
    return Warmup(tokens, {str(table.name[b - 1]): int(table.time[b - 1]) for b in ends})


def write(
    folder: Path,
    *,
    table: ActionTable,
    model: ModelConfig,
    onnx: Path,
    newest: Path | None,
    parity_check: ParityCheck,
    fitted: CalibrationResult,
    name: str,
    git_commit: str,
    run_id: str,
    metrics: dict[str, float],
    weights: Mapping[str, npt.NDArray[Any]],
    starter: bool = False,
) -> str:
    """Write and seal a bundle; returns its checksum.

    Args:
        newest: the graph for the newest action only, if there is one.
        weights: parameters of the network, by name.
        starter: the model is for clusters that it was not trained on: no principal's context goes into the bundle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    card = table.card
    meta: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit,
        "run_id": run_id,
        "fields": list(FIELDS),
        "attributes": list(ATTRIBUTES)[: table.width],
        "model": model.to_dict(),
        "vocabulary": table.vocabulary.to_dict(),
        "principals": table.principals.to_dict(),
        "settings": table.settings.to_dict(),
        "data": {
            key: card[key]
            for key in ("fingerprint", "sources", "first", "last", "split_at", "actions", "principals")
        },
        "metrics": metrics,
        "baselines": fitted.baselines,
        "starter": starter,
    }
    (folder / "bundle.json").write_text(json.dumps(meta, indent=1))
    (folder / "calibration.json").write_text(json.dumps(fitted.calibration.to_dict(), indent=1))
    (folder / "sensitivity.json").write_text(json.dumps(table.rules, indent=1))
    (folder / "model.onnx").write_bytes(onnx.read_bytes())
    if newest is not None:
        (folder / "newest.onnx").write_bytes(newest.read_bytes())
    np.save(folder / "habits.npy", fitted.habits.to_array(), allow_pickle=False)
    warmup = Warmup({}, {}) if starter else warmup_of(table, model.window)
    warmup.save(folder / "warmup.npz")
    (folder / "card.md").write_text(_card(meta, fitted))
    parity_check.save(folder / PARITY_FILE)
    np.savez_compressed(folder / WEIGHTS, allow_pickle=False, **weights)
    return seal(folder)


_LIMITS = (
    "other clusters than the one it was trained on; a verdict about a person. What was done on more than one occasion\n"
    "  while it was trained counts as habit."
)
_LIMITS_OF_STARTER = (
    "judging before it has watched: it begins without habits, learns those of the cluster while it serves, and takes for\n"
    "  habit what happens meanwhile; staying for long: a model trained on the cluster knows more; a verdict about a person."
)


def _card(meta: dict[str, Any], fitted: CalibrationResult) -> str:
    """The model card."""
    data, calibration = meta["data"], fitted.calibration
    kinds = ", ".join(f"{count} {kind}" for kind, count in data["principals"].items())
    person, system = list(calibration.budget.values())[:2]
    of_person, of_system = calibration.person_thresholds[0], calibration.system_thresholds[0]
    limits = _LIMITS_OF_STARTER if meta["starter"] else _LIMITS
    clusters = "Kubernetes clusters" if meta["starter"] else "one Kubernetes cluster"
    short = "".join(f"\n- **Too short**: {shortfall}" for shortfall in fitted.shortfalls)
    figures = "\n".join(f"| {key} | {value:.4g} |" for key, value in meta["metrics"].items())
    return f"""# {meta["name"]}

LSTM autoencoder over the audit log of {clusters}. It scores how unlike its principal's habits an action is.

- **Made** {meta["created"]} from commit `{meta["git_commit"]}`, MLflow run `{meta["run_id"]}`.
- **Trained on** {data["actions"]:,} actions, {data["first"]} to {data["last"]} ({kinds}); fingerprint `{data["fingerprint"]}`.
- **Calibrated on** the part from {data["split_at"]}, which was not fitted on. No attack label was used anywhere.
- **Flags** an action of a person or pipeline at evidence {of_person:.2f} and of the cluster's own machinery at
  {of_system:.2f} (decades, added up over {calibration.horizons[0]:g} seconds), set for at most {person:g}
  false incidents per 10,000 actions of people and pipelines and {system:g} per 1,000,000 of the machinery.
- **Not for**: {limits}{short}

| figure | value |
|---|---|
{figures}
"""
