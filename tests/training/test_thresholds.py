"""Thresholds of short logs: extrapolated where a horizon is longer than the log, and said in plain words."""

import numpy as np
import pytest

from detection.calibration import ActionEvidence, ActionFeatures, Calibration, Tail
from detection.rarity import CLASSES, Rarity
from training.thresholds import shortfalls, with_thresholds

SECOND = 1_000_000
PERSON, SYSTEM = 3e-4, 4e-6


def normal(seconds: int, peak: float) -> tuple[Calibration, ActionFeatures, np.ndarray, ActionEvidence]:  # type: ignore[type-arg]
    """A person, a node and a controller act once a second; the controller alone stands out, once."""
    count = 3 * seconds
    kinds = ["human", "node", "controller"] * seconds
    columns = np.zeros((count, 14), np.int64)
    deeds = ActionFeatures(
        principals=kinds,
        kinds=kinds,
        levels=columns.astype(np.int8),
        own=columns + 500,
        actions=np.repeat(np.arange(seconds), 3),
        resource=columns[:, 0],
        for_others=columns[:, 0] > 0,
        sensitivity=columns[:, 0].astype(np.int8),
    )
    calibration = Calibration(
        scored_fields=(),
        tails={"kind:any": Tail(1.0, 1.0, 1)},
        shrinkage=1.0,
        rarity=Rarity(np.ones((5, 1), np.int64), np.zeros((5, 1, 14, 4), np.int64)),
        sensitivity_weights=(1.0,) * 4,
        gate=1.5,
        horizons=(120.0, 3600.0),
        activity=(40.0, 400.0),
        person_thresholds=(),
        system_thresholds=(),
        budget={},
        version=2,
    )
    evidence = np.zeros(count)
    evidence[3 * (seconds // 2) + 2] = peak
    time = np.repeat(np.arange(seconds), 3) * SECOND
    nothing = np.zeros(count)
    return calibration, deeds, time, ActionEvidence(nothing, nothing, evidence, evidence, nothing)


def test_a_class_that_is_noisier_by_itself_counts_for_less() -> None:
    calibration, _ = with_thresholds(*normal(600, peak=12.0), PERSON, SYSTEM)
    scales = dict(zip(CLASSES, calibration.class_scales, strict=True))
    assert scales["controllers"] < scales["nodes"] == scales["people"] == 1.0
    calm, _ = with_thresholds(*normal(600, peak=0.0), PERSON, SYSTEM)
    assert scales["controllers"] < dict(zip(CLASSES, calm.class_scales, strict=True))["controllers"]


def test_a_log_of_a_minute_leans_on_other_clusters_and_is_within_reach() -> None:
    calibration, covered = with_thresholds(*normal(60, peak=0.0), PERSON, SYSTEM)
    assert 3.0 < calibration.person_thresholds[0] < 8.0
    assert 5.0 < calibration.system_thresholds[0] < 9.0
    assert covered[0] == 1.0


def test_a_horizon_longer_than_the_log_is_extrapolated_by_what_it_shows() -> None:
    calibration, covered = with_thresholds(*normal(600, peak=0.0), PERSON, SYSTEM)
    assert covered == [1.0, pytest.approx(1 - np.exp(-599 / 3600))]
    assert calibration.person_thresholds[1] == pytest.approx(calibration.person_thresholds[0] / covered[1])


def test_what_a_log_was_too_short_for_is_said() -> None:
    classes = np.array([0] * 1000 + [2] * 3_000_000)
    said = shortfalls((120.0, 3600.0, 86_400.0), [1.0, 0.15, 0.007], 599.0, classes, PERSON, SYSTEM)
    assert "9.98 minutes" in said[0]
    assert "1 hour (x6.67), 1 day (x143)" in said[0]
    assert any("1,000 held-back actions of people and pipelines" in one and "91%" in one for one in said)
    assert not any("of nodes" in one for one in said)  # three millions are enough for 4 in a million
    assert any("0 held-back actions of controllers" in one and "100%" in one for one in said)
    assert shortfalls((120.0,), [1.0], 599.0, np.repeat(np.arange(5), 10_000_000), PERSON, SYSTEM) == []
