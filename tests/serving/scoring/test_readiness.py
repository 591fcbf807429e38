"""How ready the service is: the share of recent actions by principals with enough history."""

from __future__ import annotations

import numpy as np
import pytest

from detection.novelty import MATURE
from serving.scoring.readiness import READY_SHARE, HistoryTracker, sentence


def _known(*counts: int) -> np.ndarray:
    return np.array(counts, np.int64)


def test_before_the_first_action_there_is_no_share() -> None:
    status = HistoryTracker().status()
    assert (status.ready, status.share, status.principals) == (False, None, 0)
    assert status.sentence == "No action was scored since the service started."


def test_the_share_is_that_of_actions_with_enough_history() -> None:
    tracker = HistoryTracker()
    assert tracker.observe(["a", "a", "b", "c"], _known(MATURE - 1, MATURE, 5, 2 * MATURE)) == 2
    status = tracker.status()
    assert status.share == 0.5
    assert (status.principals, status.principals_ready) == (3, 2)
    assert status.sentence.startswith(
        "50 % of recent actions are by principals with enough history (100 actions)."
    )
    assert tracker.known_actions("a") == MATURE + 1
    assert tracker.known_actions("nobody") is None


def test_what_is_long_ago_fades() -> None:
    tracker = HistoryTracker()
    tracker.observe(["a"] * 1_000, _known(*[0] * 1_000))
    assert not tracker.status().ready
    for _ in range(10):
        tracker.observe(["b"] * 5_000, _known(*[MATURE] * 5_000))
    assert tracker.status().ready
    assert tracker.share == pytest.approx(1.0, abs=1e-3)


def test_a_detector_without_habits_says_nothing() -> None:
    tracker = HistoryTracker()
    assert tracker.observe(["a"], np.empty(0, np.int64)) == 0
    assert tracker.share is None


def test_the_share_is_rounded_down_and_says_what_is_missing() -> None:
    assert sentence(0.9999).startswith("99 %")
    assert "missed" in sentence(READY_SHARE - 0.01)
    assert "missed" not in sentence(READY_SHARE)
