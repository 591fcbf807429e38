"""Calibration: evidence means what it says, and thresholds hold their budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.actions import FIELDS
from data.calibration import Calibration, Tail
from data.errors import KubehabitError
from data.habits import ATTRIBUTES
from training.calibrate import INCIDENT_GAP, fit_tails, threshold_for


def calibration(tails: dict[str, Tail], shrinkage: float = 0.0) -> Calibration:
    return Calibration(
        weights=(1.0,) * len(ATTRIBUTES),
        field_weights=(1.0,) * len(FIELDS),
        tails=tails,
        shrinkage=shrinkage,
        sensitivity_weights=(0.5, 1.0, 1.0, 2.0),
        person_threshold=4.0,
        system_threshold=6.0,
        budget={},
    )


def test_evidence_is_the_logarithm_of_the_exceedance_probability() -> None:
    rng = np.random.default_rng(0)
    sample = rng.exponential(3.0, 40_000)
    fitted = calibration(fit_tails(sample[:20_000], ["a"] * 20_000, ["human"] * 20_000))
    evidence = fitted.evidence(sample[20_000:], ["a"] * 20_000, ["human"] * 20_000)
    for level in (1.5, 2.0, 2.5, 3.0):
        share = (evidence >= level).mean()
        assert share == pytest.approx(10.0**-level, rel=0.5)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_more_surprise_is_never_less_evidence(values: list[float]) -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    evidence = fitted.evidence(np.sort(np.array(values)), ["x"] * len(values), ["human"] * len(values))
    assert (np.diff(evidence) >= 0).all()
    assert (evidence >= 0).all()


def test_the_same_surprise_counts_more_against_a_steady_principal() -> None:
    fitted = calibration(
        {"kind:any": Tail(10, 2, 500), "steady": Tail(5, 1, 500), "erratic": Tail(30, 10, 500)}
    )
    steady, erratic, newcomer = fitted.evidence(np.full(3, 28.0), ["steady", "erratic", "new"], ["human"] * 3)
    assert steady > newcomer > erratic


def test_little_history_leans_on_the_kind() -> None:
    tails = {"kind:human": Tail(10, 2, 9000), "few": Tail(0, 1, 100), "many": Tail(0, 1, 10_000)}
    fitted = calibration(tails, shrinkage=1000)
    assert fitted.tail("few", "human").start == pytest.approx(10 * 1000 / 1100)
    assert fitted.tail("many", "human").start == pytest.approx(10 * 1000 / 11_000)


def test_thresholds_depend_on_kind_and_sensitivity() -> None:
    limits = calibration({}).thresholds(
        ["human", "human", "node", "serviceaccount"], np.array([0, 3, 1, 1], np.int8)
    )
    assert limits.tolist() == [8.0, 2.0, 6.0, 4.0]


def test_a_calibration_survives_being_saved() -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)}, shrinkage=3)
    assert Calibration.from_dict(fitted.to_dict()) == fitted


@given(st.integers(0, 8), st.integers(1, 5))
def test_a_threshold_allows_no_more_incidents_than_its_budget(allowed: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 400
    names = [f"p{i}" for i in rng.integers(0, 12, count)]
    time = np.sort(rng.integers(0, 20 * INCIDENT_GAP, count))
    evidence = rng.exponential(1.0, count)
    threshold = threshold_for(evidence, names, time, allowed)
    hit = evidence >= threshold
    incidents = 0
    for name in set(names):
        mine = time[hit & (np.array(names) == name)]
        incidents += int(len(mine) > 0) + int((np.diff(mine) > INCIDENT_GAP).sum())
    assert incidents <= allowed
    if allowed > 0:
        assert incidents == allowed  # and no stricter than it must be


def test_a_budget_below_one_incident_goes_beyond_what_was_seen() -> None:
    evidence, names, time = np.array([1.0, 5.0]), ["a", "b"], np.array([0, 1])
    assert threshold_for(evidence, names, time, 0.1) == pytest.approx(6.0)
    assert threshold_for(evidence, names, time, 0.01) == pytest.approx(7.0)


def test_nothing_to_calibrate_on_is_a_sentence() -> None:
    with pytest.raises(KubehabitError, match="longer log"):
        threshold_for(np.empty(0), [], np.empty(0, np.int64), 1.0)
