"""Pictures for a run: what the model learned, how it was calibrated, what it caught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from data.actions import FIELDS
from data.calibration import TAIL_SHARE
from data.dataset import ActionTable
from data.principals import PEOPLE_AND_PIPELINES
from training.calibrate import CalibrationResult

INK, ACCENT, SOFT = "#1f2937", "#b91c1c", "#93a3b8"


def _figure(title: str, width: float = 8, height: float = 4.5) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def losses(train: Sequence[tuple[int, float]], held_back: Sequence[tuple[int, float]]) -> Figure:
    """Loss curves: reconstruction NLL of an action in nats over training steps."""
    figure, axes = _figure("Reconstruction error while training")
    if train:
        axes.plot(*zip(*train, strict=True), color=SOFT, label="training (masked input)")
    if held_back:
        axes.plot(*zip(*held_back, strict=True), color=ACCENT, marker="o", label="held back")
    axes.set(xlabel="step", ylabel="NLL of an action (nats)")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def fields(fitted: CalibrationResult) -> Figure:
    """How well each field is reconstructed on held-back actions."""
    figure, axes = _figure("Reconstruction error of each field, held-back normal actions", height=5)
    mean, high = fitted.nll.mean(axis=0), np.quantile(fitted.nll, 0.99, axis=0)
    order = np.argsort(mean)
    names = [FIELDS[i] for i in order]
    axes.barh(names, high[order], color=SOFT, label="99 % of actions are below")
    axes.barh(names, mean[order], color=ACCENT, label="mean")
    axes.set_xlabel("NLL (nats)")
    axes.legend(frameon=False, loc="lower right")
    return figure


def calibration(fitted: CalibrationResult, table: ActionTable) -> Figure:
    """Whether evidence means what it says: share of held-back normal actions beyond each level, against the promise."""
    figure, axes = _figure("Calibration on held-back normal actions")
    kinds = table.kind[fitted.rows]
    for label, chosen, colour in (
        ("people and pipelines", np.isin(kinds, list(PEOPLE_AND_PIPELINES)), ACCENT),
        ("cluster machinery", ~np.isin(kinds, list(PEOPLE_AND_PIPELINES)), INK),
    ):
        values = np.sort(fitted.error[chosen])[::-1]
        beyond = np.arange(1, len(values) + 1) / max(len(values), 1)
        axes.plot(values, beyond, color=colour, label=label)
    grid = np.linspace(-np.log10(TAIL_SHARE), 8)
    axes.plot(grid, 10.0**-grid, color=SOFT, linestyle="--", label="promised")
    axes.set(xlabel="evidence of the reconstruction error (-log10 p)", ylabel="share of actions beyond")
    axes.set_yscale("log")
    axes.set_xlim(0, 8.0)
    axes.legend(frameon=False)
    return figure


def principals(fitted: CalibrationResult, table: ActionTable, most: int = 30) -> Figure:
    """Surprise of each principal on held-back actions: median and 99th percentile."""
    names = table.name[fitted.rows]
    total = fitted.nll.sum(axis=1)
    rows = [(str(name), total[names == name]) for name in sorted(set(names))]
    rows = sorted(((n, v) for n, v in rows if len(v) >= 20), key=lambda r: np.quantile(r[1], 0.99))[-most:]
    figure, axes = _figure(
        "Surprise of each principal, held-back normal actions", height=1 + 0.22 * len(rows)
    )
    labels = [name.removeprefix("system:serviceaccount:") for name, _ in rows]
    axes.barh(labels, [np.quantile(values, 0.99) for _, values in rows], color=SOFT, label="99th percentile")
    axes.barh(labels, [np.median(values) for _, values in rows], color=ACCENT, label="median")
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("NLL of an action (nats)")
    axes.legend(frameon=False, loc="lower right")
    return figure


def recall(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Recall of attack runs over the rate of false incidents, one line a detector."""
    figure, axes = _figure("Attack runs caught, by false incidents allowed")
    for index, (name, points) in enumerate(curves.items()):
        if points:
            axes.step(
                *zip(*points, strict=True), where="post", label=name, color=ACCENT if index == 0 else None
            )
    axes.set(
        xlabel="false incidents per 10,000 person-and-pipeline actions",
        ylabel="recall of attack runs",
        ylim=(0, 1.02),
    )
    axes.set_xlim(0, 12)
    axes.legend(frameon=False)
    return figure


def runs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Evidence of each labelled run relative to the threshold."""
    ordered = sorted(rows, key=lambda row: (row["kind"], row["peak"]))
    figure, axes = _figure(
        "Peak evidence of each labelled run (1 = threshold)", height=1 + 0.2 * max(len(ordered), 1)
    )
    colours = [ACCENT if row["kind"] == "attack" else SOFT for row in ordered]
    axes.barh(
        [f"{row['scenario']}  {i}" for i, row in enumerate(ordered)],
        [row["peak"] for row in ordered],
        color=colours,
    )
    axes.axvline(1.0, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("evidence / threshold; red: attack, grey: benign look-alike")
    return figure


def scenarios(caught: Mapping[str, Mapping[str, float]]) -> Figure:
    """Heat map: share of each scenario's attack runs that each detector catches with its own threshold."""
    detectors = list(caught)
    names = sorted({name for shares in caught.values() for name in shares})
    figure, axes = _figure(
        "Attack runs caught with thresholds set on normal data",
        width=4 + 0.7 * len(detectors),
        height=2 + 0.24 * len(names),
    )
    shares = np.array([[caught[title].get(name, np.nan) for title in detectors] for name in names])
    axes.imshow(shares.reshape(len(names), len(detectors)), aspect="auto", cmap="Reds", vmin=0, vmax=1)
    axes.set_xticks(range(len(detectors)), detectors, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    return figure


def delays(after: Mapping[str, Mapping[str, int]]) -> Figure:
    """How many of a run's actions had happened when it was found: share of the detected runs, one line a detector."""
    figure, axes = _figure("Actions until detection, detected attack runs")
    for index, (title, counts) in enumerate(after.items()):
        steps = sorted((int(actions), runs) for actions, runs in counts.items())
        total = np.cumsum([runs for _, runs in steps])
        axes.step(
            [actions for actions, _ in steps],
            total / total[-1],
            where="post",
            marker="o",
            markersize=3,
            label=title,
            color=ACCENT if index == 0 else None,
        )
    axes.set(xlabel="own actions of the run", ylabel="share of the detected runs", ylim=(0, 1.02))
    axes.set_xscale("log")
    axes.legend(frameon=False)
    return figure


def drift(log: str, principals: Sequence[Any], most: int = 25) -> Figure:
    """Stability index of each principal's surprise (`training.lifecycle.drift.Changed`), beside what chance alone would reach."""
    shown = [one for one in principals if one.verdict != "too few"][:most][::-1]
    figure, axes = _figure(f"Drift of surprise since calibration: {log}", height=1.2 + 0.24 * len(shown))
    labels = [one.name.removeprefix("system:serviceaccount:") for one in shown]
    colours = [ACCENT if one.verdict == "changed" else SOFT for one in shown]
    axes.barh(labels, [one.psi for one in shown], color=colours)
    axes.plot([one.noise for one in shown], labels, "|", color=INK, markersize=9, label="what chance reaches")
    axes.set_xlabel("population stability index; red: changed")
    axes.tick_params(axis="y", labelsize=7)
    if shown:
        axes.legend(frameon=False, loc="lower right")
    return figure
