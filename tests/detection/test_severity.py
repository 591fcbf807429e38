"""Severity says how rarely normal work does something as sensitive and as new, and forgives a new laptop."""

import json

import numpy as np
import pytest

from detection.rarity import CLASSES
from detection.severity import SeverityScale, newcomers, severity_by_rank

PEOPLE = np.array([CLASSES.index("people")])


def scale() -> SeverityScale:
    """10,000 actions of people: a tenth brings news among what is routine, ten of them among what is most sensitive."""
    sensitivity = np.zeros(10_000, np.int8)
    deed = np.zeros(10_000)
    deed[:1000] = 1.0 + np.random.default_rng(7).exponential(0.4, 1000)
    sensitivity[:10] = 3
    return SeverityScale.fit(np.zeros(10_000, np.int64), sensitivity, deed)


def rank(sensitivity: int, deed: float) -> float:
    return float(scale().rank(PEOPLE, np.array([sensitivity]), np.array([deed]))[0])


def test_what_is_new_in_the_session_alone_is_not_serious() -> None:
    assert rank(3, 0.0) == 0.0
    assert severity_by_rank(rank(0, 0.0), 0, 0, False) == "low"
    assert severity_by_rank(rank(3, 0.0), 3, 0, False) == "medium"


def test_the_more_sensitive_and_the_newer_the_more_serious() -> None:
    for deed in (0.5, 1.0, 2.0, 4.0):
        ranks = [rank(level, deed) for level in range(4)]
        assert ranks == sorted(ranks)
    assert [rank(2, deed) for deed in (0.0, 0.5, 1.0, 2.0, 4.0)] == sorted(
        rank(2, deed) for deed in (0.0, 0.5, 1.0, 2.0, 4.0)
    )


def test_rank_is_the_share_of_normal_work() -> None:
    """A deed as new as one normal action in ten ranks 1; the exponential tail goes on beyond."""
    assert rank(0, 1.0) == pytest.approx(1.0, abs=0.01)
    assert rank(0, 1.0 + 0.4 * np.log(100)) == pytest.approx(3.0, abs=0.15)


@pytest.mark.parametrize(
    ("arguments", "severity"),
    [
        ((2.9, 3, 3, False), "medium"),
        ((3.1, 1, 2, False), "high"),
        ((4.1, 3, 3, False), "critical"),
        ((4.1, 2, 3, False), "high"),  # critical is kept for what could do most harm
        ((3.1, 3, 0, False), "medium"),  # it does such things anyway
        ((6.0, 3, 2, True), "medium"),  # a newcomer has no habits to break
        ((6.0, 2, 3, True), "medium"),
        ((6.0, 3, 3, True), "high"),  # but nobody grants itself all rights on its first day
        ((1.0, 1, 3, False), "low"),
    ],
)
def test_levels(arguments: tuple[float, int, int, bool], severity: str) -> None:
    assert severity_by_rank(*arguments) == severity


def test_a_new_node_is_no_newcomer() -> None:
    classes = np.array([CLASSES.index("people"), CLASSES.index("nodes"), CLASSES.index("people")])
    assert newcomers(classes, np.array([5, 5, 500]), 100).tolist() == [True, False, False]


def test_a_scale_survives_being_saved() -> None:
    again = SeverityScale.from_dict(json.loads(json.dumps(scale().to_dict())))
    assert again.to_dict() == scale().to_dict()
