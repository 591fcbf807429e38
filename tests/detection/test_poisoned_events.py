"""One poisoned event among a thousand good ones: the good ones get their verdicts all the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fuzz_poisoned
from benchmarks.fuzzing.poison import mixed, poisoned, score_in_parts
from data.events.decode import decode_body, decode_lines
from detection.bundle import Bundle
from detection.detector import Detector

GOOD, POISONED = 1000, 200


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.mark.parametrize("seed", range(5))
def test_the_good_events_get_their_verdicts_whatever_is_among_them(
    bundle: Bundle, labelled_lines: list[bytes], seed: int
) -> None:
    good = labelled_lines[seed * GOOD : (seed + 1) * GOOD]
    expected = score_in_parts(bundle, good, 100)
    found = score_in_parts(bundle, mixed(good, seed, POISONED), 120)
    assert set(found) >= set(expected)
    assert len(expected) > GOOD / 3
    for audit_id, verdict in expected.items():
        # An event without a user acts as system:anonymous, whose window then holds what a poisoned event did as well.
        compared = 2 if verdict[-1] == "system:anonymous" else 3
        np.testing.assert_allclose(found[audit_id][:compared], verdict[:compared], rtol=1e-4, atol=1e-4)
        assert found[audit_id][3:] == verdict[3:]


def test_each_poisoned_event_alone_is_scored_or_refused(bundle: Bundle, labelled_lines: list[bytes]) -> None:
    detector = Detector(bundle)
    poison = poisoned(labelled_lines[:GOOD], 99)
    for line in itertools.islice(poison, 2 * POISONED):
        decoded = decode_lines([line])
        scores = detector.score(decoded.events)
        assert len(decoded.events) + len(decoded.dead) == 1
        assert np.isfinite(scores.evidence).all()
        assert np.isfinite(scores.nll).all()


def test_a_body_of_good_and_poisoned_events_is_scored(bundle: Bundle, labelled_lines: list[bytes]) -> None:
    lines = mixed(labelled_lines[:GOOD], 7, POISONED)
    decoded = decode_body(b"\n".join(lines))
    scores = Detector(bundle).score(decoded.events)
    assert len(scores.event) + len(scores.folded) + len(scores.dropped) == len(decoded.events)


def test_one_poisoned_event_in_each_thousand_changes_no_verdict(
    bundle: Bundle, tmp_path: Path, labelled_lines: list[bytes]
) -> None:
    log = tmp_path / "good.jsonl"
    log.write_bytes(b"\n".join(labelled_lines[: 2 * fuzz_poisoned.GOOD]) + b"\n")
    figures = fuzz_poisoned.PoisonedLog(bundle, log, each=2, seed=11).run(4)
    assert (figures["tried"], figures["differed"], figures["failed"]) == (4, 0, 0)
    assert figures["compared"] > 4 * GOOD / 3


def test_a_verdict_that_is_lost_or_another_is_counted() -> None:
    verdict = (1.0, 2.0, 3.0, False, 0, "none", "alice")
    assert fuzz_poisoned.differences({"a": verdict}, {"a": verdict}) == []
    assert len(fuzz_poisoned.differences({"a": verdict, "b": verdict}, {"a": (1.1, *verdict[1:])})) == 2
    assert len(fuzz_poisoned.differences({"a": verdict}, {"a": (*verdict[:3], True, *verdict[4:])})) == 1
