"""The published benchmarks keep their protocol: what is learnt, what sets a threshold, and what the figures mean."""

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks import published, sequences
from benchmarks.published import DETECTORS, OURS, PLANS, Alphabet, Budget, Run, cut, main, trainings, view
from benchmarks.sequences import (
    RULES,
    SequenceSet,
    auc,
    corrupted,
    distinct,
    f1,
    foreign,
    fresh,
    hold_out,
    recall_at,
)

torch.set_num_threads(1)
NORMAL = [("a", "b", "c", *"d" * n, "e") for n in range(1, 4)] * 20
ODD = [("a", "c", "b", "e"), ("b",), ("a", "b", "x", "e"), ("e", "d", "a")]


def tiny(metric: str = "f1") -> published.Plan:
    plan = PLANS["hdfs" if metric == "f1" else "adfa-ld"]
    return replace(plan, budgets={name: Budget(25, 8, 12, 1) for name in plan.budgets})


def test_sessions_are_scored_once_and_never_as_both() -> None:
    normal, abnormal = distinct([("a",), ("b",), ("b",)], [("b",), ("c",), ("c",)])
    assert (normal, abnormal) == ([("a",)], [("c",)])


def test_a_fifth_is_held_out_and_the_rest_is_learnt() -> None:
    sessions = [(str(i),) for i in range(50)]
    learnt, held = hold_out(sessions, 3)
    assert len(held) == 10
    assert sorted(learnt + held) == sorted(sessions)
    assert hold_out(sessions, 4)[1] != held


def test_what_was_learnt_sets_no_threshold() -> None:
    assert fresh([("a",), ("b",), ("b",)], [("a",)]) == [("b",)]


def test_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    normal, abnormal = rng.integers(0, 6, 200).astype(float), rng.integers(2, 9, 70).astype(float)
    truth, score = np.r_[np.zeros(200), np.ones(70)], np.r_[normal, abnormal]
    assert auc(normal, abnormal) == pytest.approx(roc_auc_score(truth, score))
    value, recall, false = f1(normal > 4, abnormal > 4)
    assert value == pytest.approx(f1_score(truth, score > 4))
    assert (recall, false) == ((abnormal > 4).mean(), (normal > 4).mean())


def test_recall_at_a_share_of_false_positives() -> None:
    assert recall_at(np.arange(100.0), np.array([50.0, 98.5, 200.0]), 0.01) == pytest.approx(2 / 3)


def test_stand_ins_for_anomalies_are_new_and_made_of_normal_events() -> None:
    made = corrupted(NORMAL[:3], NORMAL, 0)
    assert made
    assert not set(made) & set(NORMAL)
    assert {event for session in made for event in session} <= set("abcde")


def test_foreign_families_are_whole_and_kept_from_the_learner() -> None:
    rng = np.random.default_rng(0)
    sessions = [
        tuple(f"{family}{event}" for event in rng.integers(3, size=8))
        for family in range(20)
        for _ in range(10)
    ]
    learnt, held, outside = foreign(sessions, 0)
    assert len(learnt) + len(held) + len(outside) == 200
    assert 40 <= len(outside) < 100

    def programs(some: list[sequences.Session]) -> set[str]:
        return {session[0][:-1] for session in some}

    assert not programs(outside) & programs(learnt + held)


@pytest.mark.parametrize(
    ("name", "session", "expected"),
    [
        ("event never seen", ("a", "x"), 0.5),
        ("set of events never seen", ("b", "a", "a"), 0.0),
        ("set of events never seen", ("a",), 1.0),
        ("count vector never seen", ("b", "a"), 0.0),
        ("count vector never seen", ("a", "b", "a"), 1.0),
        ("length never seen", ("x", "y"), 0.0),
        ("2-grams never seen", ("b", "a"), 1.0),
        ("2-grams never seen", ("a", "b"), 0.0),
        ("cosine to the nearest set", ("b", "a"), 0.0),
        ("cosine to the nearest set", ("x",), 1.0),
    ],
)
def test_rules_count_what_they_say(name: str, session: tuple[str, ...], expected: float) -> None:
    assert RULES[name]([("a", "b")])(session) == pytest.approx(expected)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 31, 100])
def test_every_event_of_a_long_session_is_scored_once(length: int) -> None:
    scored = [i for _, _, first, last in cut(length, 8) for i in range(first, last)]
    assert scored == list(range(length))
    assert all(a <= first <= last <= b <= length and b - a <= 8 for a, b, first, last in cut(length, 8))


def test_unseen_events_are_unknown() -> None:
    alphabet = Alphabet([("a",)])
    assert alphabet.encode(("a", "z"))[2] == published.UNKNOWN
    assert view("kinds", ("b", "a", "b")) == ("a", "b")


@pytest.mark.parametrize("label", sorted(DETECTORS))
def test_surprise_has_one_figure_an_event_whatever_it_is_scored_with(label: str) -> None:
    run = Run(DETECTORS[label], tiny(), NORMAL[:40], NORMAL[40:], 0, lambda: None)
    long = ("a", "b", *"d" * 30, "e")
    alone = run.fitted["whole"].surprise([long])[0]
    among = run.fitted["whole"].surprise([ODD[0], long, *NORMAL])[1]
    np.testing.assert_allclose(alone[0], among[0], atol=1e-5)
    ends = 2 if label == OURS else 1  # nothing stands before the first for the next-key LSTM
    assert len(alone[0]) == len(long) + ends


def test_the_test_files_decide_nothing() -> None:
    outcomes = []
    for normal, abnormal in ((NORMAL[:3], ODD), ([("e", "a")], [("a", "b", "c", "d", "e")])):
        data = SequenceSet("hdfs", NORMAL, normal, abnormal)
        given = {
            key: published.one_training(data, tiny(), *key, lambda: None) for key in trainings(tiny(), 1)
        }
        _, detail = published.run_set(data, tiny(), 1, given)
        outcomes.append([(one["score"], one["validation"]) for one in detail["detectors"].values()])
    assert outcomes[0] == outcomes[1]


def test_the_command_reads_a_folder_and_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.report.RESULTS", tmp_path / "results")
    monkeypatch.setattr(published, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(published, "PLANS", {"hdfs": tiny(), "adfa-ld": tiny("auc")})
    (tmp_path / "hdfs").mkdir()
    for name, sessions in (("train", NORMAL), ("test_normal_distinct", NORMAL[:3]), ("test_abnormal", ODD)):
        with gzip.open(tmp_path / "hdfs" / f"{name}.txt.gz", "wt") as out:
            out.writelines(" ".join(session) + "\n" for session in sessions)
    (tmp_path / "adfa-ld").mkdir()
    with zipfile.ZipFile(tmp_path / "adfa-ld" / "ADFA-LD.zip", "w") as archive:
        for i in range(40):
            text = " ".join(str((i + j * (1 + i % 7)) % 25) for j in range(9))
            archive.writestr(f"ADFA-LD/Training_Data_Master/UTD-{i}.txt", text)
            archive.writestr(f"ADFA-LD/Validation_Data_Master/UVD-{i}.txt", text)
            archive.writestr(f"ADFA-LD/Attack_Data_Master/Kind{i % 2}_{i}/UAD-{i}.txt", text[::-1])
    assert main([str(tmp_path), "--seeds", "2", "--workers", "1"]) == 0
    rows = json.loads((tmp_path / "results" / "published-hdfs.json").read_text())
    assert all(set(row) == {"name", "value", "unit", "bar", "ok"} for row in rows)
    table = (tmp_path / "results" / "published-adfa-ld.md").read_text()
    assert "| Kind0 | Kind1 |" in table
    assert "rule: 8-grams never seen" in table


def test_an_empty_folder_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "hdfs/train.txt.gz" in capsys.readouterr().err
