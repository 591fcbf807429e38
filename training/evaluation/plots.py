"""Plots for an MLflow run: training, calibration, detection and drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from data.actions.fields import FIELDS
from data.dataset.table import ActionTable
from data.principals.identity import PEOPLE_AND_PIPELINES
from detection.calibration import TAIL_SHARE
from training.calibrate import CalibrationResult

INK, ACCENT, SOFT = "#1f2937", "#b91c1c", "#93a3b8"


def _figure(title: str, width: float = 8, height: float = 4.5) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bars(
    title: str, labels: Sequence[str], *series: tuple[Any, Any, str | None], scale: float
) -> tuple[Figure, Any]:
    """Horizontal bars, each series of (values, colour, label) over the one before, `scale` inches a bar."""
    figure, axes = _figure(title, height=1 + scale * max(len(labels), 1))
    short = [label.removeprefix("system:serviceaccount:") for label in labels]
    for values, colour, label in series:
        axes.barh(short, values, color=colour, label=label)
    axes.tick_params(axis="y", labelsize=7)
    return figure, axes


def losses(train: Sequence[tuple[int, float]], held_back: Sequence[tuple[int, float]]) -> Figure:
    """Loss curves: reconstruction NLL of an action in nats over training steps."""
    figure, axes = _figure("Reconstruction error while training")
    if train:
        axes.plot(*zip(*train, strict=True), color=SOFT, label="training (masked input)")
    if held_back:
        axes.plot(*zip(*held_back, strict=True), color=ACCENT, marker="o", label="held back")
    axes.set(xlabel="step", ylabel="NLL of an action (nats)", yscale="log")
    axes.legend(frameon=False)
    return figure


def learning_curve(found: Mapping[str, Sequence[tuple[float, float, float, float]]]) -> Figure:
    """What a longer log is worth.

    Args:
        found: by recording, rows of minutes of log, recall of runs alone, recall of transplants, and strict false incidents per
            10,000 actions of people and pipelines.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    recall, false = figure.subplots(1, 2)
    for (name, rows), colour in zip(found.items(), (ACCENT, INK, SOFT), strict=False):
        minutes, alone, moved, strict = zip(*rows, strict=True)
        recall.plot(minutes, alone, color=colour, marker="o", label=f"{name}, runs alone")
        recall.plot(minutes, moved, color=colour, marker="o", linestyle="--", label=f"{name}, transplants")
        false.plot(minutes, strict, color=colour, marker="o", label=name)
    recall.set(xlabel="minutes of log", ylabel="recall", ylim=(0, 1.02))
    false.set(xlabel="minutes of log", ylabel="strict false incidents per 10,000")
    false.set_ylim(bottom=0)
    for axes in (recall, false):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def fields(fitted: CalibrationResult) -> Figure:
    """Reconstruction error of each field on held-back actions: mean and 99th percentile."""
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
    """Calibration: share of held-back normal actions beyond each level of evidence, beside the nominal share."""
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
    axes.set(yscale="log", xlim=(0, 8.0))
    axes.legend(frameon=False)
    return figure


def principals(fitted: CalibrationResult, table: ActionTable, most: int = 30) -> Figure:
    """Surprise of each principal on held-back actions: median and 99th percentile."""
    names, total = table.name[fitted.rows], fitted.nll.sum(axis=1)
    values = [(total[names == name], str(name)) for name in sorted(set(names))]
    high = sorted((np.quantile(v, 0.99), np.median(v), name) for v, name in values if len(v) >= 20)[-most:]
    figure, axes = _bars(
        "Surprise of each principal, held-back normal actions",
        [name for _, _, name in high],
        ([value for value, _, _ in high], SOFT, "99th percentile"),
        ([median for _, median, _ in high], ACCENT, "median"),
        scale=0.22,
    )
    axes.set_xlabel("NLL of an action (nats)")
    axes.legend(frameon=False, loc="lower right")
    return figure


def recall(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Recall of attack runs over the rate of false incidents, one line a detector."""
    figure, axes = _figure("Attack runs caught, by false incidents allowed")
    for index, (name, points) in enumerate(curves.items()):
        if points:
            colour = ACCENT if index == 0 else None
            axes.step(*zip(*points, strict=True), where="post", label=name, color=colour)
    axes.set(xlabel="false incidents per 10,000 person-and-pipeline actions", xlim=(0, 12))
    axes.set(ylabel="recall of attack runs", ylim=(0, 1.02))
    axes.legend(frameon=False)
    return figure


def runs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Evidence of each labelled run relative to the threshold."""
    ordered = sorted(rows, key=lambda row: (row["kind"], row["peak"]))
    labels = [f"{row['scenario']}  {i}" for i, row in enumerate(ordered)]
    colours = [ACCENT if row["kind"] == "attack" else SOFT for row in ordered]
    bars = ([row["peak"] for row in ordered], colours, None)
    figure, axes = _bars("Peak evidence of each labelled run (1 = threshold)", labels, bars, scale=0.2)
    axes.axvline(1.0, color=INK, linewidth=0.8)
    axes.set(xscale="log", xlabel="evidence / threshold; red: attack, grey: benign look-alike")
    return figure


def scenarios(caught: Mapping[str, Mapping[str, float]]) -> Figure:
    """Heat map: share of each scenario's attack runs that each detector catches with its own threshold."""
    detectors = list(caught)
    names = sorted({name for shares in caught.values() for name in shares})
    title = "Attack runs caught with thresholds set on normal data"
    figure, axes = _figure(title, width=4 + 0.7 * len(detectors), height=2 + 0.24 * len(names))
    shares = np.array([[caught[title].get(name, np.nan) for title in detectors] for name in names])
    axes.imshow(shares.reshape(len(names), len(detectors)), aspect="auto", cmap="Reds", vmin=0, vmax=1)
    axes.set_xticks(range(len(detectors)), detectors, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    return figure


def delays(after: Mapping[str, Mapping[str, int]]) -> Figure:
    """Cumulative share of the detected runs over their own actions until detection, one line a detector."""
    figure, axes = _figure("Actions until detection, detected attack runs")
    for index, (title, counts) in enumerate(after.items()):
        actions, found = zip(*sorted((int(actions), runs) for actions, runs in counts.items()), strict=True)
        share, colour = np.cumsum(found) / sum(found), ACCENT if index == 0 else None
        axes.step(actions, share, where="post", marker="o", markersize=3, label=title, color=colour)
    axes.set(xlabel="own actions of the run", ylabel="share of the detected runs", ylim=(0, 1.02))
    axes.set_xscale("log")
    axes.legend(frameon=False)
    return figure


def drift(log: str, principals: Sequence[Any], most: int = 25) -> Figure:
    """Stability index of each principal's surprise (`training.lifecycle.drift.PrincipalDrift`), beside that of chance alone."""
    shown = [one for one in principals if one.verdict != "too few"][:most][::-1]
    colours = [ACCENT if one.verdict == "changed" else SOFT for one in shown]
    title, labels = f"Drift of surprise since calibration: {log}", [one.name for one in shown]
    figure, axes = _bars(title, labels, ([one.psi for one in shown], colours, None), scale=0.24)
    noise = [one.noise for one in shown]
    axes.plot(noise, range(len(shown)), "|", color=INK, markersize=9, label="what chance reaches")
    axes.set_xlabel("population stability index; red: changed")
    if shown:
        axes.legend(frameon=False, loc="lower right")
    return figure
