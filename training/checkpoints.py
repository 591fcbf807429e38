"""Checkpoints of a training: written as it goes, found again after a kill, thrown away once a model is registered."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from data.errors import KubehabitError
from data.paths import home

#: Steps between checkpoints: a few seconds of work to lose, and a file of a few MB to write.
EVERY_STEPS = 50

_STEP = re.compile(r"step=(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a training that was killed: its run, checkpoint, the whole experiment as it was started, and steps done."""

    run_id: str
    path: Path
    config: Path
    step: int


class _KeepConfig(Callback):
    """Writes the experiment beside its checkpoints, from the process that leads the training."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config

    def on_train_start(self, trainer: lightning.Trainer, _: Any) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "train.yaml").write_text(self.config)


def folder_of(run_id: str) -> Path:
    """Folder of the checkpoints of a run."""
    return home() / "checkpoints" / run_id


def callbacks(run_id: str, config: str) -> list[Callback]:
    """Callbacks that keep the newest checkpoint of a run and its experiment."""
    saver = ModelCheckpoint(
        dirpath=folder_of(run_id),
        filename="{step}",
        monitor="step",
        mode="max",
        save_top_k=1,
        every_n_train_steps=EVERY_STEPS,
    )
    return [_KeepConfig(folder_of(run_id), config), saver]


def find(run: str) -> Checkpoint:
    """The newest checkpoint of a run, or with "last" of the training that was stopped last; KubehabitError if there is none."""
    folders = (home() / "checkpoints").glob("*") if run == "last" else [folder_of(run)]
    found = [path for folder in folders for path in folder.glob("*.ckpt") if _STEP.search(path.name)]
    if not found:
        which = "no training was stopped before its end" if run == "last" else f"run {run} left no checkpoint"
        raise KubehabitError(
            f"Nothing to resume: {which} (looked in {home() / 'checkpoints'}). Start again without --resume."
        )
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    config = newest.parent / "train.yaml"
    if not config.is_file():
        raise KubehabitError(
            f"{newest.parent} lacks train.yaml, so nothing can be resumed from it. Start again without --resume."
        )
    step = _STEP.search(newest.name)
    return Checkpoint(newest.parent.name, newest, config, int(step.group(1)) if step else 0)


def same_data(tags: Mapping[str, str], fingerprint: str) -> None:
    """Refuse to resume with other data than a training began with: KubehabitError if the fingerprints differ."""
    began = tags.get("data_fingerprint")
    if began != fingerprint:
        raise KubehabitError(
            f"The stopped training used another dataset (fingerprint {str(began)[:16]}, this one has {fingerprint[:16]}). "
            "Give the same --data, or start again without --resume."
        )


def discard(run_id: str) -> None:
    """Remove the checkpoints of a finished run; its weights are in MLflow."""
    shutil.rmtree(folder_of(run_id), ignore_errors=True)
