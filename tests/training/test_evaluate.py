"""Judging: the definitions, on cases small enough to count by hand, and the whole on a slice of the recording."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import KubehabitError
from tests.conftest import RECORDINGS, Trained
from tests.data.samples import event
from training.evaluate import (
    Actions,
    _join,
    _verdict,
    curve,
    evaluate,
    incidents,
    judge,
    read_labels,
    recall_at,
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
    figures = _verdict(log, _join(log, labels), flagged, {6: "high"})
    assert figures["attack_runs"] == 2
    assert figures["recall"] == 0.5
    assert figures["recall_by_class"] == {"c": 1.0, "d": 0.0}
    assert figures["false_incidents"] == 3
    assert figures["false_per_10k_person_actions"] == pytest.approx(2e4 / 3)
    assert figures["false_per_1m_system_actions"] == pytest.approx(1e6)
    assert (figures["lookalikes"], figures["lookalikes_high"]) == (1, 1)
    assert figures["median_actions_to_detection"] == 2.0
    assert [row["detected"] for row in figures["runs"]] == [True, False, True]


def test_a_false_alarm_in_the_shadow_of_an_attack_counts_in_the_strict_rate() -> None:
    log = actions(("p", "human", 0), ("p", "human", 5), ("q", "human", 6))
    figures = _verdict(log, _join(log, [run("attack", ["a0"])]), np.array([True, True, False]), {})
    assert figures["false_per_10k_person_actions"] == 0
    assert figures["strict_false_per_10k_person_actions"] == 5000


def test_the_curve_rises_with_what_is_allowed() -> None:
    rows = [("p", "human", 0), ("s", "human", 1)] + [(f"n{i}", "human", 2) for i in range(10_000)]
    log = actions(*rows)
    truth = _join(log, [run("attack", ["a0"]), run("attack", ["a1"])])
    score = np.zeros(len(rows))
    score[[0, 1, 2, 3]] = [9.0, 5.0, 7.0, 6.0]  # one attack above all normal actions, one below two of them
    points = curve(log, truth, score)
    assert recall_at(points) == {"1": 0.5, "3": 1.0, "10": 1.0}
    assert points[0] == (0.0, 0.5)


def test_alerts_from_elsewhere_are_judged_the_same_way(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    times = [f"2026-01-05T09:30:0{i}.000000Z" for i in range(3)]
    log.write_bytes(
        b"\n".join(
            event(auditID=f"a{i}", requestReceivedTimestamp=t, stageTimestamp=t) for i, t in enumerate(times)
        )
        + b"\n"
    )
    alert = {"principal": "dev-1@example.com", "auditIDs": ["a1"], "severity": "high"}
    figures = judge([alert], log, [run("attack", ["a0", "a1"])], progress=False)
    assert (figures["recall"], figures["false_incidents"]) == (1.0, 0)
    assert figures["runs"][0]["actions_to_detection"] == 2
    assert figures["baselines"]["always silent"]["recall"] == 0.0
    assert figures["baselines"]["always alarm"]["recall"] == 1.0
    somebody_else = judge([alert | {"principal": "x"}], log, [run("attack", ["a0", "a1"])], progress=False)
    assert somebody_else["recall"] == 0.0


def test_labels_must_be_labels(tmp_path: Path) -> None:
    for text, sentence in (
        ("{", "Cannot read"),
        ("{}", "must be a JSON list"),
        ('[{"scenario": "x"}]', "must be a JSON list"),
    ):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(KubehabitError, match=sentence):
            read_labels(tmp_path / "labels.json")


def test_evaluating_a_registered_model(trained: Trained, labelled_lines: list[bytes], tmp_path: Path) -> None:
    log = tmp_path / "slice.jsonl"
    log.write_bytes(b"\n".join(labelled_lines) + b"\n")
    ids = {json.loads(line)["auditID"] for line in labelled_lines}
    labels = [
        r for r in json.loads((RECORDINGS / "labels.json").read_text()) if ids.issuperset(r["audit_ids"])
    ]
    assert labels
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    figures = evaluate("models:/kubehabit@champion", log, tmp_path / "labels.json", progress=False)
    promised = {
        *(
            "attack_runs",
            "recall",
            "recall_by_family",
            "recall_by_class",
            "recall_by_mode",
            "false_incidents",
        ),
        *("false_per_10k_person_actions", "false_per_1m_system_actions", "lookalikes_high", "lookalikes"),
        *("median_actions_to_detection", "recall_at", "seconds", "events", "baselines"),
    }
    assert promised <= set(figures)
    assert set(figures["recall_at"]) == {"1", "3", "10"}
    assert figures["events"] == len(labelled_lines)
    assert len(figures["runs"]) == len(labels)
    assert {"novelty count", "novelty table", "always silent", "always alarm"} == set(figures["baselines"])
    json.dumps(figures)
    without = evaluate("models:/kubehabit@champion", log, None, progress=False, track=False)
    assert (without["attack_runs"], without["runs"]) == (0, [])
