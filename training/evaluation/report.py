"""The evaluation as a Markdown page, for readers who decide whether to trust a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.visible_text import visible

Figures = Mapping[str, Any]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _between(ends: Sequence[float] | None, form: str = ".0%") -> str:
    return "-" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"


def _with_interval(block: Figures, name: str) -> str:
    share, ends = block.get(name), block.get(f"{name}_interval")
    return _percent(share) + ("" if share is None or ends is None else f" ({_between(ends)})")


def alone_rows(found: Figures) -> list[tuple[str, ...]]:
    """Rows of the strict figures (`training.evaluation.alone.judge_alone`): what, of the runs as they were, of transplants."""
    blocks = found["strict"], found["transplants"]
    rows: list[tuple[str, ...]] = []
    for per, unit in (("10k_person", "10,000"), ("1m_system", "1,000,000 of the system")):
        strict, notified = (found[f"{kind}_false_per_{per}_actions"] for kind in ("strict", "notified"))
        rows.append((f"strict false incidents per {unit}", f"{strict:.2f}", "-"))
        if notified != strict:
            rows.append((f"of them no growth of an earlier one, per {unit}", f"{notified:.2f}", "-"))
    rows.append(
        ("attack runs (scenarios)", *(f"{one['attack_runs']} ({one['scenarios']})" for one in blocks))
    )
    rows.append(("recall", *(_with_interval(block, "recall") for block in blocks)))
    for key in ("class", "mode"):
        for name in sorted({name for block in blocks for name in block[f"recall_by_{key}"]}):
            shares = (_percent(block[f"recall_by_{key}"].get(name)) for block in blocks)
            rows.append((f"recall, {name}", *shares))
    for title, name in (
        ("detected runs that are high or critical", "high_of_detected"),
        ("look-alikes raised high", "lookalikes_high"),
        ("look-alikes raised", "lookalikes_raised"),
    ):
        rows.append((title, *(_with_interval(block, name) for block in blocks)))
    rows += _with_rules_rows(found, blocks)
    for row in found["strict"]["rows"]:
        asked = [block["rows"][row] for block in blocks]
        if any(one.get("recall") is not None for one in asked):
            rows.append((f"recall, {row}", *(_with_interval(one, "recall") for one in asked)))
        rows.append(
            (f"still seen of what was seen, {row}", *(_with_interval(one, "of_first") for one in asked))
        )
    return rows


def _with_rules_rows(found: Figures, blocks: Sequence[Figures]) -> list[tuple[str, ...]]:
    """Rows of what the rules beside the model add."""
    ruled = [block["with_rules"] for block in blocks]
    rows: list[tuple[str, ...]] = [
        (
            "with rules: strict false incidents per 10,000",
            f"{found['with_rules_false_per_10k_person_actions']:.2f}",
            "-",
        ),
        (
            "with rules: per 1,000,000 of the system",
            f"{found['with_rules_false_per_1m_system_actions']:.2f}",
            "-",
        ),
        ("with rules: recall", *(_with_interval(one, "recall") for one in ruled)),
    ]
    for key in ("class", "mode"):
        for name in sorted({name for one in ruled for name in one[f"recall_by_{key}"]}):
            shares = [one[f"recall_by_{key}"].get(name) for one in ruled]
            if shares != [block[f"recall_by_{key}"].get(name) for block in blocks]:
                rows.append((f"with rules: recall, {name}", *(_percent(share) for share in shares)))
    for title, name in (
        ("with rules: detected runs that are high or critical", "high_of_detected"),
        ("with rules: look-alikes raised high", "lookalikes_high"),
    ):
        rows.append((title, *(_with_interval(one, name) for one in ruled)))
    return rows


def false_incident(one: Figures) -> str:
    """An incident without an attack in one line: who, when, how far out, what, and why."""
    time = np.datetime64(one["time"], "us").astype("M8[s]")
    return visible(
        f"{one['severity']}: {one['principal']}, {time}Z, {one['actions']} flagged, {one['times']:.2f} times the threshold: "
        f"{one['what']}; new {one['novelty_evidence']:.1f} ({', '.join(one['novelties'])}); "
        f"error {one['error_evidence']:.1f} ({', '.join(one['fields'])})"
    )


def _alone(figures: Figures) -> list[str]:
    """Every run by itself, the decision with other errors, and each false incident."""
    found = figures["alone"]
    lines = ["## Every run alone", "", *_table(("", "runs as they were", "transplants"), alone_rows(found))]
    if swapped := figures["in_decision"]:
        heads = ("errors in the decision", "recall", "strict /10k", "at 1 / 3 / 10", "alone", "transplants")
        rows = (
            (
                title,
                _percent(block["recall"]),
                f"{block['strict_false_per_10k_person_actions']:.2f}",
                " / ".join(_percent(share) for share in block["recall_at"].values()),
                _percent(block["strict_recall"]),
                _with_interval(block, "transplant_recall"),
            )
            for title, block in {"**autoencoder (kubehabit)**": figures, **swapped}.items()
        )
        lines += ["## Other errors in the same decision", "", *_table(heads, rows)]
    if incidents := found["false_incidents"]:
        shown = (f"- {false_incident(one)}" for one in incidents)
        lines += ["## False incidents on the log without attacks", "", *shown, ""]
    return lines


def markdown(figures: Figures, log: str, caught: Mapping[str, Mapping[str, float]]) -> str:
    """The report; `caught` is the share of attack runs detected by detector and scenario."""
    everyone: dict[str, Figures] = {"**kubehabit**": figures, **figures["ablations"], **figures["baselines"]}
    with_rules = {"kubehabit and its rules": figures["with_rules"]}
    lines = [
        f"# Evaluation on {log}",
        "",
        f"Model `{figures['model']}`; {figures['events']:,} events, {figures['actions']:,} actions, "
        f"{figures['attack_runs']} attack runs, {figures['lookalikes']} benign look-alikes. Thresholds were set on "
        f"{figures['thresholds_set_on']}, to the same budget for every detector; labels were used for judging only.",
        "",
        *_with_thresholds({**everyone, **with_rules}),
        *_at_equal_false_incidents(everyone),
    ]
    for rate, found in figures["compared_with_best_baseline"].items():
        lines += _beside_best_baseline(rate, found)
    if "alone" in figures:
        lines += _alone(figures)
    for key in ("family", "class", "mode"):
        if names := sorted(figures[f"recall_by_{key}"]):
            rows = (
                (title, *(_percent(block[f"recall_by_{key}"].get(name)) for name in names))
                for title, block in everyone.items()
            )
            lines += [f"## Recall by {key}", "", *_table(("detector", *names), rows)]
    if scenarios := sorted(caught.get("kubehabit", {})):
        rows = ((name, *(_percent(shares.get(name)) for shares in caught.values())) for name in scenarios)
        lines += ["## Attack runs caught by scenario", "", *_table(("scenario", *caught), rows)]
    runs = figures["runs"]
    missed = [run for run in runs if run["kind"] == "attack" and not run["detected"]]
    raised = [run for run in runs if run["kind"] != "attack" and run["detected"]]
    for title, found in (
        ("Missed", [f"{run['scenario']} ({run['class']}, {run['mode']})" for run in missed]),
        ("Look-alikes raised", [f"{run['scenario']}: {run['severity']}" for run in raised]),
    ):
        if found:
            lines += [f"## {title}", "", *(f"- {run}" for run in found), ""]
    return "\n".join(lines)


def _with_thresholds(everyone: Mapping[str, Figures]) -> list[str]:
    heads = (
        *("detector", "recall", "95 % interval", "false /10k person", "95 % interval", "strict /10k"),
        *("false /1M system", "look-alikes high", "raised", "median actions", "within 3"),
    )
    rows = []
    for title, block in everyone.items():
        intervals, median = block.get("intervals", {}), block["median_actions_to_detection"]
        rows.append(
            (
                title,
                _percent(block["recall"]),
                _between(intervals.get("recall")),
                f"{block['false_per_10k_person_actions']:.2f}",
                _between(intervals.get("false_per_10k_person_actions"), ".3g"),
                f"{block['strict_false_per_10k_person_actions']:.2f}",
                f"{block['false_per_1m_system_actions']:.1f}",
                f"{block['lookalikes_high']} of {block['lookalikes']}",
                f"{block['lookalikes_raised']} of {block['lookalikes']}",
                "-" if median is None else f"{median:g}",
                _percent(block["detected_within_3_actions"]),
            )
        )
    note = (
        "False incidents within ten minutes of an attack by the same principal count in the strict rate only."
    )
    return ["## With the thresholds as set", "", *_table(heads, rows), note, ""]


def _at_equal_false_incidents(everyone: Mapping[str, Figures]) -> list[str]:
    heads = (
        *("detector", "recall at 1 /10k", "at 3", "at 10", "shadows excused, at 1 / 3 / 10"),
        *("ROC AUC of actions", "precision at 1", "at 3", "at 10"),
    )
    rows = [
        (
            title,
            *(
                f"{_percent(recall)} ({_between(block['intervals']['recall_at'][rate])})"
                for rate, recall in block["recall_at"].items()
            ),
            " / ".join(_percent(share) for share in block["recall_at_as_counted"].values()),
            "-" if block["roc"]["auc"] is None else f"{block['roc']['auc']:.3f}",
            *(_percent(at["precision"]) for at in block["pr"]["at"].values()),
        )
        for title, block in everyone.items()
        if "recall_at" in block
    ]
    note = (
        "Thresholds picked on this log itself: a comparison, not a promise. Strict rate, except where shadows of attacks are "
        "excused as in the table above."
    )
    return ["## At equal false incidents", "", note, "", *_table(heads, rows)]


def _beside_best_baseline(rate: str, found: Figures) -> list[str]:
    best = found["best_baseline"]
    families = (
        (family, _percent(both["recall"]), _percent(both["best_baseline"]))
        for family, both in found["by_family"].items()
    )
    return [
        f"### Beside the best baseline, {best}, at {rate} per 10,000",
        "",
        f"Recall {_percent(found['recall'])} against {_percent(found['best_baseline_recall'])} "
        f"({found['recall_minus_best_baseline']:+.0%}, interval {_between(found['interval'])}); of the "
        f"{found['missed_by_best_baseline']} runs it misses, {found['of_these_caught']} are caught.",
        "",
        *_table(("family", "kubehabit", best), families),
    ]
