"""The plain model gives only those who act the context that training left of them, for the same numbers as if all had theirs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.bundle import Bundle
from detection.detector import Detector, Scores
from detection.pyfunc import AuditModel
from detection.reconstruction import OnnxModel
from tests.conftest import RECORDINGS

LINES = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 9_700, 10_000))


@pytest.fixture(scope="module")
def plain(tiny_bundle: Path) -> AuditModel:
    return AuditModel(Bundle.load(tiny_bundle))


def rows_of(scores: Scores) -> list[tuple[Any, ...]]:
    return [
        (
            scores.principal[row],
            float(scores.surprise[row]),
            float(scores.evidence[row]),
            bool(scores.flagged[row]),
            scores.severity[row],
            tuple(map(float, scores.nll[row])),
        )
        for row in range(len(scores.event))
    ]


@pytest.mark.parametrize(
    "lines", [LINES, LINES[::-1], LINES[:1], LINES[:2], LINES[137:139], LINES[::7]], ids=len
)
def test_context_of_those_who_act_gives_the_same_bits_as_context_of_all(
    plain: AuditModel, lines: list[bytes]
) -> None:
    rows = plain.predict({"event": [line.decode() for line in lines]})
    scored = [row for row in rows if row["status"] == "scored"]
    assert scored
    whole = Detector(plain.bundle, model=plain.model).score(decode_lines(lines).events)
    names = ("principal", "surprise", "evidence", "flagged", "severity")
    mine = [(*(row[name] for name in names), tuple(row["nll"].values())) for row in scored]
    assert mine == rows_of(whole)


def test_without_their_context_the_numbers_are_others(plain: AuditModel) -> None:
    events = decode_lines(LINES).events
    whole = Detector(plain.bundle, model=plain.model).score(events)
    bare = Detector(plain.bundle, model=plain.model, warm=False).score(events)
    assert not np.array_equal(bare.nll, whole.nll)


def test_only_who_is_named_and_known_gets_context(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    detector = Detector(bundle, model=OnnxModel(str(bundle.model_path)), warm=False)
    assert len(detector.windows) == 0
    known = sorted(bundle.warmup.tokens)[:2]
    detector.warm([known[0], "nobody at all", known[1], known[0]])
    assert detector.windows.contexts().names == known
    every = Detector(bundle, model=detector.model)
    assert set(every.windows.contexts().names) == set(bundle.warmup.tokens)
    mine, theirs = detector.windows.contexts(known), every.windows.contexts(known)
    assert np.array_equal(mine.tokens, theirs.tokens)
    assert np.array_equal(mine.last, theirs.last)
