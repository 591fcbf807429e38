"""The arithmetic of judging: definitions on cases small enough to count by hand, and against brute force on any case."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import KubehabitError
from training.evaluation import bootstrap
from training.evaluation.metrics import (
    INCIDENT_GAP,
    RATES,
    Actions,
    Curve,
    Truth,
    compare,
    curve,
    false_incident_times,
    incidents,
    join,
    ranking,
    read_labels,
    recall_at,
    recall_at_as_counted,
    verdict,
)

MINUTE = 60_000_000


def actions(*rows: tuple[str, str, int]) -> Actions:
    """Rows of (principal, kind, minute); audit IDs are a0, a1, ..."""
    names, kinds, minutes = zip(*rows, strict=True)
    return Actions(
        [f"a{i}" for i in range(len(rows))],
        np.array(names, object),
        np.array(kinds, object),
        np.array(minutes, np.int64) * MINUTE,
    )


def run(kind: str, ids: list[str], **more: object) -> dict[str, object]:
    return {
        "scenario": "s",
        "family": "f",
        "class": "c",
        "mode": "m",
        "kind": kind,
        "principal": "p",
        "audit_ids": ids,
        **more,
    }


def test_incidents_end_after_ten_quiet_minutes_and_are_one_principals() -> None:
    log = actions(("p", "human", 0), ("p", "human", 10), ("q", "human", 10), ("p", "human", 21))
    assert sorted(rows.tolist() for rows in incidents(log, np.arange(4))) == [[0, 1], [2], [3]]


def test_a_verdict_counted_by_hand() -> None:
    log = actions(
        ("p", "human", 0),  # attack, missed
        ("p", "human", 1),  # attack, caught at its second action
        ("q", "human", 2),  # false
        ("q", "human", 30),  # false, another incident
        ("q", "human", 31),  # normal, silent
        ("n", "node", 3),  # false, system
        ("r", "serviceaccount", 4),  # look-alike, raised high
        ("c", "controller", 5),  # induced by the attack
        ("s", "human", 6),  # attack, missed altogether
    )
    labels = [
        run("attack", ["a0", "a1"], induced_audit_ids=["a7"]),
        run("attack", ["a8"], **{"class": "d"}),
        run("benign-lookalike", ["a6"]),
    ]
    flagged = np.zeros(9, bool)
    flagged[[1, 2, 3, 5, 6, 7]] = True
    figures = verdict(log, join(log, labels), flagged, {6: "high"})
    assert figures["attack_runs"] == 2
    assert figures["recall"] == 0.5
    assert figures["recall_by_class"] == {"c": 1.0, "d": 0.0}
    assert figures["false_incidents"] == 3
    assert figures["false_per_10k_person_actions"] == pytest.approx(2e4 / 3)
    assert figures["false_per_1m_system_actions"] == pytest.approx(1e6)
    assert (figures["lookalikes"], figures["lookalikes_high"], figures["lookalikes_raised"]) == (1, 1, 1)
    assert figures["median_actions_to_detection"] == 2.0
    assert figures["actions_to_detection"] == {"2": 1}
    assert figures["detected_within_3_actions"] == 0.5
    assert [row["detected"] for row in figures["runs"]] == [True, False, True]
    starts, person = false_incident_times(log, join(log, labels), flagged)
    assert sorted(zip((starts // MINUTE).tolist(), person.tolist(), strict=True)) == [
        (2, True),
        (3, False),
        (30, True),
    ]


def test_a_false_alarm_in_the_shadow_of_an_attack_counts_in_the_strict_rate() -> None:
    log = actions(("p", "human", 0), ("p", "human", 5), ("q", "human", 6))
    figures = verdict(log, join(log, [run("attack", ["a0"])]), np.array([True, True, False]), {})
    assert figures["false_per_10k_person_actions"] == 0
    assert figures["strict_false_per_10k_person_actions"] == 5000


def test_the_curve_rises_with_what_is_allowed() -> None:
    rows = [("p", "human", 0), ("s", "human", 1)] + [(f"n{i}", "human", 2) for i in range(10_000)]
    log = actions(*rows)
    truth = join(log, [run("attack", ["a0"]), run("attack", ["a1"])])
    score = np.zeros(len(rows))
    score[[0, 1, 2, 3]] = [9.0, 5.0, 7.0, 6.0]  # one attack above all normal actions, one below two of them
    found = curve(log, truth, score)
    assert recall_at(found) == {"1": 0.5, "3": 1.0, "10": 1.0}
    assert found.points()[0] == (0.0, 0.5)
    at = ranking(log, truth, score, found)["pr"]["at"]
    assert at["1"] == {"precision": 0.5, "recall": 0.5, "false_incidents": 1}
    assert at["3"]["precision"] == 0.5  # two runs, two false incidents


def test_alarms_that_merge_are_no_improvement() -> None:
    """Two alarms twenty minutes apart are two incidents; one more between them makes one, but the rate stays at two."""
    log = actions(("p", "human", 0), ("p", "human", 20), ("p", "human", 10), ("q", "human", 0))
    truth = join(log, [run("attack", ["a3"])])
    found = curve(log, truth, np.array([9.0, 8.0, 7.0, 1.0]), highest=1e5)
    assert found.rate.tolist() == [0.0, 1e4 / 3, 2e4 / 3, 2e4 / 3]
    assert found.recall.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_run_that_is_not_in_the_log_is_missed_at_every_rate() -> None:
    log = actions(("p", "human", 0), ("q", "human", 0))
    truth = join(log, [run("attack", ["a0"]), run("attack", ["elsewhere"])])
    assert curve(log, truth, np.array([2.0, 1.0]), 1e5).recall.max() == 0.5


logs = st.lists(
    st.tuples(st.sampled_from("pqr"), st.integers(0, 60), st.integers(0, 6), st.booleans()),
    min_size=1,
    max_size=25,
)


def drawn(rows: Sequence[tuple[str, int, int, bool]]) -> tuple[Actions, Truth, np.ndarray]:
    log = actions(*((who, "human", minute) for who, minute, _, _ in rows))
    attacks = [run("attack", [f"a{i}"]) for i, row in enumerate(rows) if row[3]]
    return log, join(log, attacks), np.array([row[2] for row in rows], np.float64)


@given(logs)
@settings(max_examples=150, deadline=None)
def test_the_curve_is_what_counting_at_every_threshold_gives(rows: list[tuple[str, int, int, bool]]) -> None:
    log, truth, score = drawn(rows)
    found = curve(log, truth, score, highest=1e9)
    normal = ~truth.labelled
    assert (np.diff(found.rate) >= 0).all()
    assert (np.diff(found.recall) >= 0).all()
    most = 0
    counted = {}
    for level in [*sorted(set(score[normal]), reverse=True), -np.inf]:
        # Incidents counted one by one: a flagged action begins one if its principal had none in the ten minutes before.
        count = 0
        for i in np.flatnonzero(normal & (score > level)):
            same = normal & (score > level) & (log.principal == log.principal[i])
            earlier = same & (log.time <= log.time[i]) & (log.time >= log.time[i] - INCIDENT_GAP)
            earlier &= (log.time < log.time[i]) | (np.arange(len(log)) < i)
            count += not earlier.any()
        most = max(most, count)
        counted[level] = most
    assert dict(zip(found.level.tolist(), found.rate.tolist(), strict=True)) == pytest.approx(
        {level: count * 1e4 / max(int(normal.sum()), 1) for level, count in counted.items()}
    )
    for level, recall in zip(found.level.tolist(), found.recall.tolist(), strict=True):
        hits = [bool((score[each.rows] > level).any()) for each in truth.attacks]
        assert recall == pytest.approx(np.mean(hits) if hits else 0.0)


@given(logs)
@settings(max_examples=100, deadline=None)
def test_excusing_shadows_of_attacks_never_lowers_recall(rows: list[tuple[str, int, int, bool]]) -> None:
    log, truth, score = drawn(rows)
    # A normal action far away makes rates small enough to be read off.
    many = actions(
        *((log.principal[i], "human", int(log.time[i] // MINUTE)) for i in range(len(log))),
        *[("z", "human", 0)] * 9_999,
    )
    truth = Truth(np.r_[truth.labelled, np.zeros(9_999, bool)], truth.runs)
    score = np.r_[score, np.full(9_999, -1.0)]
    strict, counted = recall_at(curve(many, truth, score)), recall_at_as_counted(many, truth, score)
    assert all(counted[rate] >= strict[rate] for rate in strict)
    for rate in RATES:
        best = 0.0
        most = 0
        for level in sorted(set(score[~truth.labelled]), reverse=True):
            false = len(false_incident_times(many, truth, score > level)[0])
            most = max(most, false)
            if most * 1e4 / int((~truth.labelled).sum()) <= rate:
                best = max(best, verdict(many, truth, score > level, {})["recall"])
        assert counted[str(rate)] >= best


@given(logs)
@settings(max_examples=100, deadline=None)
def test_flagging_more_never_misses_more(rows: list[tuple[str, int, int, bool]]) -> None:
    log, truth, score = drawn(rows)
    recalls = [verdict(log, truth, score >= level, {})["recall"] for level in range(7, -1, -1)]
    assert recalls == sorted(recalls)


@given(logs)
@settings(max_examples=100, deadline=None)
def test_incidents_part_the_flagged_actions(rows: list[tuple[str, int, int, bool]]) -> None:
    log, _, score = drawn(rows)
    flagged = np.flatnonzero(score > 2)
    found = incidents(log, flagged)
    assert sorted(row for each in found for row in each.tolist()) == flagged.tolist()
    for each in found:
        assert len(set(log.principal[each])) == 1
        assert (np.diff(log.time[each]) <= INCIDENT_GAP).all()


def test_the_roc_is_the_chance_that_an_attack_action_scores_above_a_normal_one() -> None:
    log = actions(*((name, "human", 0) for name in "abcdef"))
    truth = join(log, [run("attack", ["a0", "a1"])])
    score = np.array([5.0, 2.0, 1.0, 2.0, 3.0, 0.0])
    auc = ranking(log, truth, score, curve(log, truth, score))["roc"]["auc"]
    # Over 1, 2, 3, 0: the 5 is above all four, the 2 above two and level with one.
    assert auc == pytest.approx((4 + 2.5) / 8)


def test_a_comparison_is_with_the_best_baseline_at_equal_false_incidents() -> None:
    rows = [(name, "human", 0) for name in ("w", "x", "y", "z")]
    log = actions(*rows, *((f"n{i}", "human", 0) for i in range(10_000)))
    labels = [run("attack", [f"a{i}"], family="one" if i < 2 else "two") for i in range(4)]
    truth = join(log, labels)

    def scored(*attacks: float) -> Curve:
        score = np.concatenate([attacks, [5.0], np.zeros(9_999)])  # one normal action in the way
        return curve(log, truth, score)

    mine, good, bad = scored(9, 9, 9, 1), scored(9, 1, 1, 1), scored(-1, -1, -1, -1)
    found = compare(mine, {"bad": bad, "good": good}, truth)["1"]
    assert recall_at(mine) == {"1": 1.0, "3": 1.0, "10": 1.0}
    assert found["best_baseline"] == "good"
    assert found["recall_minus_best_baseline"] == 0.0  # at one false incident both catch all
    high = compare(scored(9, 9, 9, -1), {"good": scored(9, -1, -1, 9)}, truth)["3"]
    assert (high["missed_by_best_baseline"], high["of_these_caught"]) == (2, 2)
    assert high["recall_minus_best_baseline"] == pytest.approx(0.25)
    assert high["families_worse"] == []
    assert high["by_family"]["two"] == {"recall": 0.5, "best_baseline": 0.5}


def test_intervals_hold_the_figure_and_are_the_same_again() -> None:
    caught = np.array([True] * 27 + [False] * 7)
    low, high = bootstrap.share_interval(caught) or []
    assert low < 27 / 34 < high
    assert bootstrap.share_interval(caught) == [low, high]
    assert bootstrap.share_interval(caught, seed=8) is not None
    assert bootstrap.share_interval(np.ones(5, bool)) == [1.0, 1.0]
    assert bootstrap.share_interval(np.empty(0, bool)) is None
    assert bootstrap.difference_interval(caught, caught) == [0.0, 0.0]
    normal = np.arange(0, 1000 * MINUTE, MINUTE)
    rate = bootstrap.rate_interval(np.array([5, 500, 900]) * MINUTE, normal, 1e4)
    assert rate is not None
    assert rate[0] < 30 < rate[1]
    assert bootstrap.rate_interval(np.empty(0, np.int64), normal, 1e4) == [0.0, 0.0]


def test_labels_must_be_labels(tmp_path: Path) -> None:
    for text, sentence in (
        ("{", "Cannot read"),
        ("{}", "must be a JSON list"),
        ('[{"scenario": "x"}]', "must be a JSON list"),
    ):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(KubehabitError, match=sentence):
            read_labels(tmp_path / "labels.json")


def test_the_rates_are_those_of_the_contract() -> None:
    assert RATES == (1, 3, 10)


def test_labels_that_are_compressed_are_said_to_be_no_text(tmp_path: Path) -> None:
    (tmp_path / "labels.json.gz").write_bytes(gzip.compress(b"[]"))
    with pytest.raises(KubehabitError, match=r"it is no JSON text\. Unpack it if it is compressed\.$"):
        read_labels(tmp_path / "labels.json.gz")
