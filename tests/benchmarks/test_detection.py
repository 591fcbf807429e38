"""The detection benchmark's table: each bar is held to the figure it names, and what cannot be shown is not passed."""

import json
from pathlib import Path
from typing import Any

from benchmarks.bench_detection import companions, differing, rows_of
from training.evaluation.strict_replay import GAPS, PACES, REHEARSAL, TAUGHT


def figures(**more: Any) -> dict[str, Any]:
    compared = {
        "best_baseline": "novelty count",
        "recall_minus_best_baseline": 0.25,
        "share_of_missed_caught": 0.6,
        "families_worse": [],
    }
    block = {"recall": 0.4, "false_per_10k_person_actions": 1.0, "recall_at": {"1": 0.2, "3": 0.4, "10": 0.9}}
    return {
        "recall": 0.95,
        "recall_by_class": {"habit-only": 0.85},
        "recall_by_mode": {"same": 0.92},
        "false_per_10k_person_actions": 2.0,
        "strict_false_per_10k_person_actions": 4.0,
        "false_per_1m_system_actions": 0.0,
        "recall_at": {"1": 0.82, "3": 0.9, "10": 1.0},
        "recall_at_as_counted": {"1": 0.9, "3": 0.95, "10": 1.0},
        "lookalikes": 10,
        "lookalikes_high": 3,
        "median_actions_to_detection": 2.0,
        "compared_with_best_baseline": {"1": compared, "3": compared},
        "baselines": {"novelty count": block, "always silent": {"recall": 0.0}},
        "ablations": {},
    } | more


def alone(share: float, lookalikes: float) -> dict[str, Any]:
    """Strict figures in which every share of runs is the same."""
    rows = {name: {"recall": share, "of_first": share} for name in (*PACES, REHEARSAL, TAUGHT)}
    rows |= {name: {"of_first": share} for name in GAPS}
    block = {
        "attack_runs": 340,
        "recall": share,
        "recall_by_mode": {"same": share},
        "high_of_detected": share,
        "lookalikes_high": lookalikes,
        "rows": rows,
    }
    return {"strict": block, "transplants": block}


def test_a_detector_that_meets_every_bar_misses_none() -> None:
    judged = [row for row in rows_of(figures(alone=alone(0.96, 0.2))) if row.ok is not None]
    assert len(judged) == 25
    assert all(row.ok for row in judged)


def test_each_bar_can_be_missed() -> None:
    behind = {
        "best_baseline": "n-gram",
        "recall_minus_best_baseline": 0.1,
        "share_of_missed_caught": 0.4,
        "families_worse": ["x"],
    }
    worse = figures(
        recall=0.89,
        recall_by_class={"habit-only": 0.7},
        recall_by_mode={"same": 0.8},
        false_per_10k_person_actions=3.1,
        false_per_1m_system_actions=14.0,
        recall_at={"1": 0.7, "3": 0.9, "10": 1.0},
        lookalikes_high=4,
        median_actions_to_detection=4.0,
        compared_with_best_baseline={"1": behind, "3": behind},
        alone=alone(0.69, 0.21),
    )
    assert not any(row.ok for row in rows_of(worse))


def test_what_a_recording_cannot_show_is_not_passed() -> None:
    rows = rows_of(figures(recall_by_mode={}, recall_by_class={}, median_actions_to_detection=None))
    missed = {row.name for row in rows if row.ok is False}
    assert missed == {
        "recall, same address and client",
        "recall at the shipped threshold, habit-only",
        "median detection",
    }


def test_rows_of_other_commands_join_the_table(tmp_path: Path) -> None:
    row = {"name": "mean F1", "value": 0.97, "unit": "F1", "bar": ">= 0.96", "ok": True}
    (tmp_path / "published-hdfs.json").write_text(json.dumps([row]))
    assert [found.name for found in companions(tmp_path)] == ["published-hdfs: mean F1"]


def test_only_times_may_differ_between_equal_trainings() -> None:
    first = {"held_back_surprise": 1.0, "seconds_training": 10.0, "actions_per_second_training": 5.0}
    assert differing(first, first | {"seconds_training": 20.0, "actions_per_second_training": 2.0}) == []
    assert differing(first, first | {"held_back_surprise": 1.1}) == ["held_back_surprise"]
