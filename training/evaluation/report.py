"""The evaluation as a Markdown page, for people who decide whether to trust a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _between(ends: Sequence[float] | None, per_cent: bool = True) -> str:
    if ends is None:
        return "-"
    low, high = ends
    return f"{low:.0%} to {high:.0%}" if per_cent else f"{low:.3g} to {high:.3g}"


def markdown(figures: Figures, log: str, caught: Mapping[str, Mapping[str, float]]) -> str:
    """The report.

    Args:
        figures: of `training.evaluation.evaluate.evaluate`.
        log: name of the log.
        caught: detector -> scenario -> share of its attack runs detected.
    """
    everyone: dict[str, Figures] = {
        "**kubehabit**": figures,
        **figures["ablations"],
        **figures["baselines"],
    }
    lines = [
        f"# Evaluation on {log}",
        "",
        f"Model `{figures['model']}`; {figures['events']:,} events, {figures['actions']:,} actions, "
        f"{figures['attack_runs']} attack runs, {figures['lookalikes']} benign look-alikes. Thresholds were set on "
        f"{figures['thresholds_set_on']}, to the same budget for every detector; labels were used for judging only.",
        "",
        "## With the thresholds as set",
        "",
        *_table(
            (
                *("detector", "recall", "95 % interval", "false /10k person", "95 % interval", "strict /10k"),
                *("false /1M system", "look-alikes high", "raised", "median actions", "within 3"),
            ),
            [
                (
                    title,
                    _percent(block["recall"]),
                    _between(block.get("intervals", {}).get("recall")),
                    f"{block['false_per_10k_person_actions']:.2f}",
                    _between(block.get("intervals", {}).get("false_per_10k_person_actions"), False),
                    f"{block['strict_false_per_10k_person_actions']:.2f}",
                    f"{block['false_per_1m_system_actions']:.1f}",
                    f"{block['lookalikes_high']} of {block['lookalikes']}",
                    f"{block['lookalikes_raised']} of {block['lookalikes']}",
                    "-"
                    if block["median_actions_to_detection"] is None
                    else f"{block['median_actions_to_detection']:g}",
                    _percent(block["detected_within_3_actions"]),
                )
                for title, block in everyone.items()
            ],
        ),
        "False incidents within ten minutes of an attack by the same principal count in the strict rate only.",
        "",
        "## At equal false incidents",
        "",
        "Thresholds picked on this log itself: a comparison, not a promise. Strict rate, except where shadows of attacks are "
        "excused as in the table above.",
        "",
        *_table(
            (
                "detector",
                "recall at 1 /10k",
                "at 3",
                "at 10",
                "shadows excused, at 1 / 3 / 10",
                "ROC AUC of actions",
                "precision at 1",
                "at 3",
                "at 10",
            ),
            [
                (
                    title,
                    *(
                        f"{_percent(block['recall_at'][rate])} ({_between(block['intervals']['recall_at'][rate])})"
                        for rate in block["recall_at"]
                    ),
                    " / ".join(_percent(share) for share in block["recall_at_as_counted"].values()),
                    "-" if block["roc"]["auc"] is None else f"{block['roc']['auc']:.3f}",
                    *(_percent(at["precision"]) for at in block["pr"]["at"].values()),
                )
                for title, block in everyone.items()
                if "recall_at" in block
            ],
        ),
    ]
    for rate, found in figures["compared_with_best_baseline"].items():
        lines += [
            f"### Beside the best baseline, {found['best_baseline']}, at {rate} per 10,000",
            "",
            f"Recall {_percent(found['recall'])} against {_percent(found['best_baseline_recall'])} "
            f"({found['recall_minus_best_baseline']:+.0%}, interval {_between(found['interval'])}); of the "
            f"{found['missed_by_best_baseline']} runs it misses, {found['of_these_caught']} are caught.",
            "",
            *_table(
                ("family", "kubehabit", found["best_baseline"]),
                [
                    (family, _percent(both["recall"]), _percent(both["best_baseline"]))
                    for family, both in found["by_family"].items()
                ],
            ),
        ]
    for key in ("family", "class", "mode"):
        names = sorted(figures[f"recall_by_{key}"])
        if names:
            lines += [
                f"## Recall by {key}",
                "",
                *_table(
                    ("detector", *names),
                    [
                        (title, *(_percent(block[f"recall_by_{key}"].get(name)) for name in names))
                        for title, block in everyone.items()
                    ],
                ),
            ]
    scenarios = sorted(caught.get("kubehabit", {}))
    if scenarios:
        lines += [
            "## Attack runs caught by scenario",
            "",
            *_table(
                ("scenario", *caught),
                [(name, *(_percent(shares.get(name)) for shares in caught.values())) for name in scenarios],
            ),
        ]
    missed = [run for run in figures["runs"] if run["kind"] == "attack" and not run["detected"]]
    raised = [run for run in figures["runs"] if run["kind"] != "attack" and run["detected"]]
    if missed:
        lines += [
            "## Missed",
            "",
            *(f"- {run['scenario']} ({run['class']}, {run['mode']})" for run in missed),
            "",
        ]
    if raised:
        lines += [
            "## Look-alikes raised",
            "",
            *(f"- {run['scenario']}: {run['severity']}" for run in raised),
            "",
        ]
    return "\n".join(lines)
