"""The benchmark of attackers who know kubehabit asks every question of every run, and bends what it says it bends."""

import json
from dataclasses import replace as replace_field
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.mimicry import TRICKS, Mimicry
from data.events.audit_event import AuditEvent, ObjectRef
from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector
from tests.conftest import RECORDINGS
from training.evaluation.transplants import Case, received, without_labelled

LINES = 1500


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, labelled_lines: list[bytes]) -> tuple[Mimicry, Case]:
    """A replay of a slice without attacks, and an intruder who takes over an account in it and lists Secrets everywhere."""
    labels = json.loads((RECORDINGS / "labels.json").read_text())
    bundle = Bundle.load(tiny_bundle)
    bundle = replace_field(bundle, calibration=bundle.calibration.scaled(0.2))
    clean = without_labelled(decode_lines(labelled_lines[:LINES]).events, labels)
    someone = next(event for event in clean[LINES // 2 :] if "@" in event.user.username)
    own = tuple(
        replace(
            someone,
            auditID=f"theft-{number}",
            userAgent="hydra/1.0",
            verb="list" if number else "get",
            requestURI=f"/api/v1/namespaces/ns-{number}/secrets",
            objectRef=ObjectRef("secrets" if number else "pods", f"ns-{number}", "", "", "v1"),
        )
        for number in range(4)
    )
    case = Case(0, "theft", "theft", "attack", "generic", principals=(someone.user.username,), events=own)
    return Mimicry(Detector(bundle, cached_windows=5_000), clean), case


def test_every_trick_is_tried_on_every_run(made: tuple[Mimicry, Case]) -> None:
    replay, case = made
    found = replay.run([case], TRICKS)
    assert list(found.rows) == list(TRICKS)
    requests = len({event.auditID for event in case.events})
    for trick in TRICKS:
        outcome = found.rows[trick][0]
        assert outcome is not None
        assert outcome.requests >= requests
        assert outcome.seen == (outcome.severity != "none")
    assert found.first[0].seen


def test_the_session_is_the_one_that_the_victim_uses_most(made: tuple[Mimicry, Case]) -> None:
    replay, case = made
    strange = replace(
        case,
        events=tuple(replace(event, userAgent="x", sourceIPs=("198.51.100.7",)) for event in case.events),
    )
    theirs = {(e.userAgent, e.sourceIPs) for e in replay.clean if e.user.username == case.principals[0]}
    bent = replay.in_session(strange)
    assert {(event.userAgent, event.sourceIPs) for event in bent.events} <= theirs
    assert received(bent.events).tolist() == received(case.events).tolist()


def test_patience_takes_the_pause_that_stands_out_least(
    made: tuple[Mimicry, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay, case = made
    asked: list[tuple[int, float]] = []
    after = Mimicry._after

    def noted(self: Mimicry, case: Case, stages: list[AuditEvent], now: int, pause: int) -> object:
        outcome = after(self, case, stages, now, pause)
        asked.append((pause, outcome.peak))
        return outcome

    monkeypatch.setattr(Mimicry, "_after", noted)
    with replay.detector.fork():
        replay.patiently(case)
    weighed, taken = asked[:4], asked[4]
    assert taken[1] == min(peak for _, peak in weighed)
