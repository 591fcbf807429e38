"""The published benchmarks keep their protocol: what is learnt, what sets a threshold, and what the figures mean."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks import crossfit, published
from benchmarks.crossfit import Calibration, calibrated, flagged, joined, merged
from benchmarks.published import NOVELTY, PLANS, main, nearest, trainings
from benchmarks.sequence_models import DETECTORS, OURS, Alphabet, Budget, Fitted, cut, view
from benchmarks.sequences import RULES, SequenceSet, auc, corrupted, distinct, f1, fresh, recall_at
from data.actions.vocabulary import UNKNOWN

torch.set_num_threads(1)
NORMAL = [("a", "b", "c", *"d" * n, "e") for n in range(1, 4)] * 20
ODD = [("a", "c", "b", "e"), ("b",), ("a", "b", "x", "e"), ("e", "d", "a")]


def tiny(metric: str = "f1") -> published.Plan:
    plan = PLANS["hdfs" if metric == "f1" else "adfa-ld"]
    return replace(plan, budgets={name: Budget(25, 8, 12, 32, 4e-3) for name in plan.budgets})


def test_sessions_are_scored_once_and_never_as_both() -> None:
    normal, abnormal = distinct([("a",), ("b",), ("b",)], [("b",), ("c",), ("c",)])
    assert (normal, abnormal) == ([("a",)], [("c",)])


def test_every_session_is_left_out_by_one_member() -> None:
    folds = crossfit.folds(52, 3)
    assert sorted(np.concatenate(folds).tolist()) == list(range(52))
    assert {len(fold) for fold in folds} == {10, 11}
    assert not np.array_equal(folds[0], crossfit.folds(52, 4)[0])


def _false_alarms(draw: Callable[[np.random.Generator, int], np.ndarray], count: int, alpha: float) -> float:
    """Share flagged among normal sessions like those that calibrate, over many calibrations."""
    rates = []
    for trial in range(300):
        rng = np.random.default_rng(trial)
        scale = Calibration(draw(rng, count))
        rates.append(flagged(scale.decades(draw(rng, 2000)), alpha).mean())
    return float(np.mean(rates))


@pytest.mark.parametrize("count", [16, 60, 570])
def test_a_threshold_holds_its_rate_even_with_few_scores(count: int) -> None:
    """On average over calibrations, for a tail as assumed: a plug-in quantile of 16 scores would flag six in a hundred."""
    rate = _false_alarms(lambda rng, n: rng.exponential(3.0, n) + 7, count, 0.005)
    assert 0.0025 < rate < 0.0075


def test_a_threshold_errs_to_the_quiet_side_where_the_tail_is_lighter() -> None:
    assert _false_alarms(lambda rng, n: rng.uniform(0, 1, n), 100, 0.005) < 0.005


def test_a_discrete_score_is_counted_not_extrapolated() -> None:
    scale = Calibration(np.array([0.0] * 97 + [1.0] * 3))
    np.testing.assert_allclose(scale.decades(np.array([0.0, 1.0])), [0.0, -np.log10(4 / 101)])


@given(
    scores=st.lists(st.floats(0, 50), min_size=1, max_size=60),
    asked=st.lists(st.floats(-10, 200), min_size=2, max_size=30),
)
def test_decades_rise_with_the_score(scores: list[float], asked: list[float]) -> None:
    decades = Calibration(np.array(scores)).decades(np.sort(np.array(asked)))
    assert (decades >= 0).all()
    assert (np.diff(decades) >= -1e-9).all()


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_members_together_flag_no_more_than_promised(shared: float) -> None:
    """Each member has another noise; its own fold calibrates with all others on one scale."""
    rates = []
    for trial in range(200):
        rng = np.random.default_rng(trial)

        def scores(session: np.ndarray) -> np.ndarray:
            own = rng.normal(size=len(session))  # noqa: B023
            return np.sqrt(shared) * session + np.sqrt(1 - shared) * own

        fresh_ = [scores(rng.normal(size=110)) for _ in range(5)]
        test = rng.normal(size=1000)
        _, asked = calibrated(fresh_, [scores(test) for _ in range(5)])
        rates.append(flagged(merged(asked)).mean())
    assert np.mean(rates) < 0.0075


def test_joins_keep_the_strangest_the_least_strange_or_the_sum() -> None:
    parts = [np.array([1.0, 3.0]), np.array([2.0, 0.5])]
    assert joined("either", parts).tolist() == [2.0, 3.0]
    assert joined("every", parts).tolist() == [1.0, 0.5]
    assert joined("sum", parts).tolist() == [3.0, 3.5]


def test_a_code_seen_before_is_near_whatever_its_length() -> None:
    known = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    found = nearest(known, np.array([[3.0, 0.0], [-1.0, 1.0]]))
    assert found[0] == pytest.approx(0.0)
    assert found[1] > 0.2


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


def test_events_of_one_session_only_are_as_unknown_as_unseen_ones() -> None:
    alphabet = Alphabet([("a", "b", "b"), ("a",)])
    assert alphabet.encode(("a", "b", "z"))[2:4] == [UNKNOWN, UNKNOWN]
    assert alphabet.encode(("a",))[1] != UNKNOWN
    assert view("kinds", ("b", "a", "b")) == ("a", "b")


@pytest.mark.parametrize("label", DETECTORS)
@pytest.mark.parametrize("cloze", [False, True])
def test_surprise_has_one_figure_an_event_whatever_it_is_scored_with(label: str, cloze: bool) -> None:
    fitted = Fitted(label, "whole", Budget(25, 8, 12, 32, 4e-3), cloze, NORMAL[:40], 0, lambda: None)
    long = ("a", "b", *"d" * 30, "e")
    alone = fitted.surprise([long])[0]
    among = fitted.surprise([ODD[0], long, *NORMAL])[1]
    np.testing.assert_allclose(alone.nll, among.nll, atol=1e-5)
    np.testing.assert_allclose(alone.code, among.code, atol=1e-5)
    ends = 2 if label == OURS else 1  # nothing stands before the first for the next-key LSTM
    assert len(alone.nll) == len(long) + ends


def test_a_member_calibrates_with_its_own_fold_only() -> None:
    data = SequenceSet("hdfs", [(str(i), "a") for i in range(20)], [("b",)], [("c",)])
    seen = [published.one_member(data, tiny(), NOVELTY, 0, member, lambda: None) for member in range(5)]
    assert sum(len(one.scores["fresh"]["event never seen"]) for one in seen) == 20
    assert all((one.scores["fresh"]["event never seen"] > 0).all() for one in seen)


def test_the_test_files_decide_nothing() -> None:
    outcomes = []
    for normal, abnormal in ((NORMAL[:3], ODD), ([("e", "a")], [("a", "b", "c", "d", "e")])):
        data = SequenceSet("hdfs", NORMAL, normal, abnormal)
        given_ = {key: published.one_member(data, tiny(), *key, lambda: None) for key in trainings(tiny(), 1)}
        _, detail = published.run_set(data, tiny(), 1, given_)
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


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(after[1]) == pid and after[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_command(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "hdfs").mkdir()
    for name, sessions in (("train", NORMAL), ("test_normal_distinct", NORMAL[:3]), ("test_abnormal", ODD)):
        with gzip.open(tmp_path / "hdfs" / f"{name}.txt.gz", "wt") as out:
            out.writelines(" ".join(session) + "\n" for session in sessions)
    command = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.published", str(tmp_path), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        workers: list[int] = []
        deadline = time.monotonic() + 120
        while len(workers) < 3 and command.poll() is None and time.monotonic() < deadline:
            workers = _children(command.pid)  # two workers and the tracker of shared semaphores
            time.sleep(0.1)
        assert len(workers) >= 3
        for _ in range(12):  # where an interrupt comes at a bad moment, one presses the keys again
            os.kill(command.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.wait(10)
                break
        assert command.poll() is not None
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        assert command.returncode != 0
    finally:
        command.kill()
        command.wait()


def test_an_empty_folder_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "hdfs/train.txt.gz" in capsys.readouterr().err
