"""Scoring on trial: after a fork the detector goes on as if there had been none."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from data.events.audit_event import AuditEvent, User
from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector, Scores


@pytest.fixture(scope="module")
def events(labelled_lines: list[bytes]) -> list[AuditEvent]:
    return decode_lines(labelled_lines[:2400]).events


def assert_same(found: Scores, expected: Scores) -> None:
    for column in ("nll", "evidence", "threshold", "novelty_evidence", "error_evidence", "event", "folded"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
    assert found.severity == expected.severity
    assert found.novelties == expected.novelties


def test_a_fork_leaves_no_trace(tiny_bundle: Path, events: list[AuditEvent]) -> None:
    """Later scores are bit for bit as without it, whatever was scored inside: the same events, strangers, nested forks."""
    bundle = Bundle.load(tiny_bundle)
    plain, forked = Detector(bundle), Detector(bundle)
    stranger = [replace(event, user=User("mallory", ("devs",))) for event in events[900:1000]]
    for begin in range(0, 2400, 800):
        chunk = events[begin : begin + 800]
        expected = plain.score(chunk)
        with forked.fork():
            trial = forked.score(chunk[:300])
            with forked.fork():
                forked.score(stranger)
                forked.score(chunk[300:])
            rest = forked.score(chunk[300:])
        assert_same(forked.score(chunk), expected)
        np.testing.assert_allclose(
            np.concatenate([trial.evidence, rest.evidence]), expected.evidence, rtol=1e-4, atol=1e-4
        )
    assert plain.figures().principals == forked.figures().principals
    assert plain.figures().habits == forked.figures().habits


def test_a_fork_that_fails_is_undone_as_well(tiny_bundle: Path, events: list[AuditEvent]) -> None:
    bundle = Bundle.load(tiny_bundle)
    plain, forked = Detector(bundle), Detector(bundle)

    def trial() -> None:
        with forked.fork():
            forked.score(events[:400])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        trial()
    assert_same(forked.score(events[:800]), plain.score(events[:800]))


def test_scoring_after_a_fork_is_kept(tiny_bundle: Path, events: list[AuditEvent]) -> None:
    detector = Detector(Bundle.load(tiny_bundle))
    with detector.fork():
        detector.score(events[:100])
    detector.score(events[:100])
    assert not len(detector.score(events[:100]).event)  # every request is known
