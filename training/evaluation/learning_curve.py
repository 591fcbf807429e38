"""What a shorter log would have taught: habits, calibration and contexts of its last minutes around the same network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.actions.attributes import ATTRIBUTES
from data.arrays import runs
from data.dataset.table import ActionTable
from data.errors import KubehabitError
from detection.bundle import Bundle
from detection.reconstruction import OnnxModel
from training.bundle_writer import warmup_of
from training.calibrate import CalibrationConfig, calibrate

_MINUTE = 60_000_000
#: Share of a log that is held back for calibration, as a dataset's is.
_HELD_BACK = 0.2


def shortened(table: ActionTable, minutes: float) -> ActionTable:
    """The last minutes of a dataset, with the last fifth of them held back; KubehabitError where nobody acted in either part."""
    last = int(table.time.max())
    kept = np.flatnonzero(table.time > last - minutes * _MINUTE)
    late = table.time[kept] > last - _HELD_BACK * minutes * _MINUTE
    if late.all() or not late.any():
        raise KubehabitError(f"{minutes:g} minutes of the dataset hold nothing to learn from.")
    # Rows of one principal lie together.
    starts, sizes = runs(table.name[kept])
    history = np.arange(len(kept)) - np.repeat(starts, sizes)
    windows = np.stack([np.arange(len(kept)), history], axis=1)
    columns = ("tokens", "attributes", "principal", "group", "name", "kind", "time", "arrival", "sensitivity")
    return replace(
        table,
        **{name: getattr(table, name)[kept] for name in columns},
        windows={"train": windows[~late], "calibration": windows[late]},
    )


def relearned(
    bundle: Bundle, table: ActionTable, config: CalibrationConfig, minutes: float | None = None
) -> Bundle:
    """The bundle as it would be had only the last minutes of its log been there; its network has seen them all.

    Without `minutes` habits and calibration are learned again from the whole dataset, which shows what other code or settings of
    the calibration are worth without a training.
    """
    short = table if minutes is None else shortened(table, minutes)
    found = calibrate(short, OnnxModel(str(bundle.model_path)), bundle.window, config)
    return replace(
        bundle,
        meta=bundle.meta | {"attributes": list(ATTRIBUTES)[: table.width]},
        calibration=found.calibration,
        habits=found.habits,
        warmup=warmup_of(short, bundle.window),
    )
