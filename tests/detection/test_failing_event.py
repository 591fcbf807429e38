"""A call that fails leaves no trace: all other events get the verdicts that they get without the one that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.actions import encoder
from data.actions.stage_folding import StageFolder
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.bundle import Bundle
from detection.detector import Detector
from detection.probation import pack_records
from tests.conftest import RECORDINGS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture(scope="module")
def events() -> list[AuditEvent]:
    return decode_lines(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 6000)).events


def state(detector: Detector) -> list[Any]:
    """All that verdicts depend on."""
    contexts = detector.windows.contexts()
    held = {
        name: (contexts.tokens[row].tolist(), int(contexts.last[row]))
        for row, name in enumerate(contexts.names)
        if contexts.lengths[row]
    }
    sums = detector.accumulator.sums()
    requests = np.sort(np.concatenate(detector.encoder.folder.to_arrays()))
    owners = detector.encoder.owners
    assert owners is not None
    return [
        held,
        dict(zip(sums.names, sums.rows.tolist(), strict=True)),
        requests.tolist(),
        sorted(map(str, owners.to_list())),
        detector.habits.to_array().tolist(),
        {name: pack_records({name: one}) for name, one in detector.probation.records().items()},
    ]


def failing_once(function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def fail(*given: Any, **named: Any) -> Any:
        if not calls:
            calls.append(1)
            raise OverflowError
        return function(*given, **named)

    return fail


def fail_at(step: str, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    if step == "time":
        monkeypatch.setattr(encoder, "parse_times", failing_once(encoder.parse_times))
    elif step == "explanation":
        monkeypatch.setattr(detector, "_novelties", failing_once(detector._novelties))
    else:
        part, name = {
            "context": (detector.encoder._contexts, "_make"),
            "windows": (detector.windows, "cut"),
            "model": (detector.reconstruction, "nll"),
            "habits": (detector.habits, "observe_own"),
            "habits of others": (detector.habits, "observe_shared"),
            "sum": (detector.accumulator, "add_until_flagged"),
            "probation": (detector.probation, "remember"),
        }[step]
        monkeypatch.setattr(part, name, failing_once(getattr(part, name)))


@pytest.mark.parametrize(
    "step",
    ["time", "context", "windows", "model", "habits", "habits of others", "sum", "probation", "explanation"],
)
def test_a_call_that_fails_changes_nothing(
    bundle: Bundle, events: list[AuditEvent], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector(bundle, folder=StageFolder(key=b"k" * 16))
    detector.score(events[:3000])
    before = state(detector)
    with monkeypatch.context() as patch:
        fail_at(step, detector, patch)
        with pytest.raises(OverflowError):
            detector.score(events[3000:4000])
    assert state(detector) == before


def test_a_thousand_events_get_the_verdicts_that_they_get_without_the_poisoned_one(
    bundle: Bundle, events: list[AuditEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = events[4321]
    rest = [event for event in events if event is not poison]

    def verdicts(given: Sequence[AuditEvent], detector: Detector) -> list[Any]:
        try:
            scores = detector.score(given)
        except OverflowError:
            middle = len(given) // 2
            if not middle:
                assert list(given) == [poison]
                return []
            return verdicts(given[:middle], detector) + verdicts(given[middle:], detector)
        return [
            [
                scores.principal[row],
                round(float(scores.evidence[row]), 6),
                bool(scores.flagged[row]),
                scores.severity[row],
            ]
            for row in range(len(scores.event))
        ]

    clean, poisoned = (Detector(bundle, folder=StageFolder(key=b"k" * 16)) for _ in range(2))
    expected = [one for at in range(0, len(rest), 1000) for one in verdicts(rest[at : at + 1000], clean)]
    current: list[Sequence[AuditEvent]] = []
    score = poisoned.score

    def scored(given: Sequence[AuditEvent]) -> Any:
        current[:] = [given]
        return score(given)

    def explode(*given: Any) -> Any:
        if any(event is poison for event in current[0]):
            raise OverflowError
        return add(*given)

    add = poisoned.accumulator.add_until_flagged
    monkeypatch.setattr(poisoned, "score", scored)
    monkeypatch.setattr(poisoned.accumulator, "add_until_flagged", explode)
    found = [one for at in range(0, len(events), 1000) for one in verdicts(events[at : at + 1000], poisoned)]
    assert found == expected
    assert state(poisoned) == state(clean)
