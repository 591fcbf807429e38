"""The table and the plot of an ablation, and sentences that claim no more than the number of attack runs can carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from matplotlib.figure import Figure

SHIPPED = "shipped"
_RATES = (1, 3, 10)
#: Rates whose mean recall is what variants are compared by: what people can live with.
_WEIGHED = (1, 3)


@dataclass(frozen=True, slots=True)
class JudgedVariant:
    """A judged variant: its block, the question of the block, and the figures of `training.ablation.ablate.judge`."""

    name: str
    block: str
    question: str
    figures: Mapping[str, float]

    @property
    def recall(self) -> float:
        """Mean recall at 1 and at 3 strict false incidents per 10,000."""
        return float(np.mean([self.figures[f"recall_at_{rate}"] for rate in _WEIGHED]))


def noise(rows: Sequence[JudgedVariant]) -> float:
    """Difference of mean recall that says nothing: the spread of the seeds, and no less than two attack runs."""
    seeds = [row.recall for row in rows if row.name.startswith(SHIPPED)]
    return max(max(seeds) - min(seeds), 2 / rows[0].figures["attack_runs"])


def shipped_recall(rows: Sequence[JudgedVariant]) -> float:
    """Mean recall of the shipped detector over its seeds: what others are compared with, for one seed is luck."""
    return float(np.mean([row.recall for row in rows if row.name.startswith(SHIPPED)]))


def finding(rows: Sequence[JudgedVariant], shipped: float, noise_of: float) -> str:
    """The finding of a block in one sentence; `shipped` is the mean recall to compare with."""
    others = [row for row in rows if not row.name.startswith(SHIPPED)]
    if not others:
        low, high = min(row.recall for row in rows), max(row.recall for row in rows)
        return (
            f"Mean recall at 1 and 3 per 10,000 lies between {low:.0%} and {high:.0%}; "
            f"differences up to {noise_of * 100:.0f} points are taken for noise below."
        )

    def listed(chosen: Sequence[JudgedVariant]) -> str:
        return ", ".join(f"{row.name} ({(row.recall - shipped) * 100:+.0f})" for row in chosen)

    by_recall = sorted(others, key=lambda row: row.recall)
    worse = [row for row in by_recall if row.recall < shipped - noise_of - 1e-9]
    better = [row for row in reversed(by_recall) if row.recall > shipped + noise_of + 1e-9]
    same = [row.name for row in others if row not in worse and row not in better]
    parts = {
        "worse by more than noise": listed(worse),
        "better by more than noise": listed(better),
        "no different that this log could show": ", ".join(same),
    }
    sentence = "; ".join(f"{what}: {names}" for what, names in parts.items() if names)
    return f"{sentence[0].upper()}{sentence[1:]}."


def markdown(
    rows: Sequence[JudgedVariant],
    *,
    steps: int,
    log: str,
    fingerprint: str,
    commits: Sequence[str],
    person_budget: float,
    normal_actions: int,
    waiting: Sequence[str] = (),
) -> str:
    """The whole document; `waiting` are the variants that have not been judged yet."""
    shipped = next(row for row in rows if row.name == SHIPPED)
    limit, reference = noise(rows), shipped_recall(rows)
    runs = int(shipped.figures["attack_runs"])
    lines = [
        "# Ablations",
        "",
        "Written by `kubehabit ablate`; every row is a run of the MLflow experiment `kubehabit-ablation`, which holds this page "
        "and its plot as well.",
        "What is varied stands in `configs/ablate.yaml`. `kubehabit ablate` writes it again; variants",
        "that have been judged with the same data, settings and source are not run again.",
        "",
        f"- Each model is trained for {steps:,} steps on the dataset `{fingerprint[:16]}` and judged on `{log}`:",
        f"  {runs} attack runs and {normal_actions:,} normal actions of people and pipelines.",
        "- *Threshold*: recall at the threshold that calibration sets on held-back normal data for "
        f"{person_budget:g} false incidents per 10,000.",
        "  *False*: what it costs there, per 10,000 person-and-pipeline actions by the definition of docs/evaluation.md, and",
        "  strictly, on a replay of the log without attacks.",
        "- *1 / 3 / 10*: recall at so many strict false incidents per 10,000, threshold picked on the log itself: a fair",
        "  comparison of variants, no promise.",
        "- *Habit-only*: recall at the threshold of the attack runs that differ from habit alone. *Actions*: median of a",
        "  detected run's actions until its detection. *System*: the machinery's false incidents.",
        f"- **Noise**: one attack run is {100 / runs:.0f} points, one false incident {1e4 / normal_actions:.1f} per 10,000, "
        "and this is one log of one cluster.",
        "  The order within a few points means nothing. Sentences compare with the mean of the shipped seeds.",
        f"- Source: commit {', '.join(f'`{commit}`' for commit in commits)}.",
        *([f"- Not judged yet: {', '.join(waiting)}."] if waiting else []),
        "",
    ]
    for title, members in groupby(rows, key=lambda row: row.block):
        block = list(members)
        lines += [
            *(f"## {title}", "", f"{block[0].question} {finding(block, reference, limit)}", ""),
            "| variant | threshold | habit-only | false | strict | 1 / 3 / 10 | actions | system | held-back NLL |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_line(row) for row in (block if shipped in block else [shipped, *block])),
            "",
        ]
    return "\n".join(lines)


def _line(row: JudgedVariant) -> str:
    one = row.figures
    at = " / ".join(f"{one[f'recall_at_{rate}']:.0%}" for rate in _RATES)
    actions = f"{one['median_actions']:g}" if "median_actions" in one else "-"
    habit = f"{one['recall_habit_only']:.0%}" if "recall_habit_only" in one else "-"
    name = f"**{row.name}**" if row.name == SHIPPED else row.name
    return (
        f"| {name} | {one['recall']:.0%} | {habit} | {one['false_per_10k']:.1f} | {one['strict_per_10k']:.1f} | {at} "
        f"| {actions} | {one['system_incidents']:.0f} | {one['held_back_nll']:.2f} |"
    )


def bars(rows: Sequence[JudgedVariant]) -> Figure:
    """Recall at 1 and 3 strict false incidents per 10,000, one pair of bars a variant."""
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for rate, colour, height in ((3, "#93a3b8", 0.8), (1, "#b91c1c", 0.4)):
        values = [row.figures[f"recall_at_{rate}"] for row in rows]
        axes.barh(places, values, height, color=colour, label=f"at {rate} per 10,000")
    shipped = next(row for row in rows if row.name == SHIPPED)
    axes.axvline(shipped.figures["recall_at_1"], color="#1f2937", linestyle=":", linewidth=1)
    axes.set_yticks(places, [row.name for row in rows])
    axes.set(xlabel="recall of attack runs at so many strict false incidents", xlim=(0, 1.02))
    axes.set_title("What each choice is worth", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    return figure
