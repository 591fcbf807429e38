"""The detector on a real bundle: no skew to training, no dependence on batching, and the right things surprise it."""

import itertools
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from data.actions.vocabulary import back_offs
from data.dataset.table import load
from data.errors import BundleError
from data.events.audit_event import AuditEvent, User
from data.events.decode import decode_lines
from detection.bundle import FILES, Bundle, seal
from detection.detector import Detector, Scores, severity_of
from detection.novelty import HabitTable
from detection.rules.replay import HitFinder
from detection.rules.rule_files import read_rules
from tests.conftest import Trained
from training.calibrate import reconstruct

RULES = Path(__file__).resolve().parents[2] / "configs" / "rules"


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


def events_of(lines: list[bytes]) -> list[AuditEvent]:
    return decode_lines(lines).events


def joined(parts: list[Scores], column: str) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([getattr(part, column) for part in parts])


def test_serving_scores_what_training_calibrated(
    bundle: Bundle, trained: Trained, normal_lines: list[bytes]
) -> None:
    """The same recording through the streaming detector and through the dataset gives the same numbers."""
    cold = replace(bundle, habits=HabitTable(), warmup=type(bundle.warmup)({}, {}))
    detector = Detector(cold)
    scores = detector.score(events_of(normal_lines))
    table = load(trained.dataset)
    for split in ("train", "calibration"):
        expected = reconstruct(table, detector.model, split, bundle.window)
        at = table.arrival[table.windows[split][:, 0]]
        np.testing.assert_allclose(scores.nll[at], expected, atol=2e-5)


def test_how_events_are_batched_changes_no_score(bundle: Bundle, labelled_lines: list[bytes]) -> None:
    events = events_of(labelled_lines[:1500])
    whole = Detector(bundle).score(events)
    detector = Detector(bundle)
    rng = np.random.default_rng(3)
    edges = [0, *sorted(rng.integers(0, len(events), 25).tolist()), len(events)]
    parts = [detector.score(events[a:b]) for a, b in itertools.pairwise(edges)]
    for column in ("nll", "error", "evidence", "novelty", "threshold"):
        np.testing.assert_allclose(joined(parts, column), getattr(whole, column), rtol=1e-4, atol=1e-4)
    assert joined(parts, "sensitivity").tolist() == whole.sensitivity.tolist()


def test_rules_see_a_pause_since_training_once_the_days_between_had_a_log(
    bundle: Bundle, labelled_lines: list[bytes]
) -> None:
    event = events_of(labelled_lines[-1:])[0]
    name = next(name for name in bundle.warmup.last if "@" in name)
    [dormant] = [one for one in read_rules([RULES]).rules.values() if one.name == "dormant-account-used"]
    begin = datetime.fromtimestamp(bundle.warmup.last[name] / 1e6, UTC)

    def on_day(day: int, username: str) -> AuditEvent:
        moment = (begin + timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        user = User(username, ("dev:web",))
        return msgspec.structs.replace(
            event,
            user=user,
            auditID=f"{username}-{day}",
            requestReceivedTimestamp=moment,
            stageTimestamp=moment,
        )

    def reported(log: list[AuditEvent]) -> list[str]:
        detector, finder = Detector(bundle), HitFinder([dormant])
        found = []
        for one in log:  # each a batch of its own
            scores = detector.score([one])
            found += [scores.principal[row] for row in finder.find([one], scores)]
        return found

    others = [on_day(day, "other@example.com") for day in range(1, 47)]
    assert reported([*others, on_day(47, name), on_day(47, name)]) == [name]
    assert reported([on_day(47, name)]) == []  # a model of a log of weeks ago
    assert reported([*others, on_day(47, "newcomer@example.com")]) == []


def test_another_principals_action_costs_more(bundle: Bundle, normal_lines: list[bytes]) -> None:
    """The heart of it: the model is conditional. The same requests under another principal of the same kind surprise more."""
    events = events_of(normal_lines)[6000:9000]
    people = sorted({e.user.username for e in events if "@" in e.user.username})
    following = dict(zip(people, people[1:] + people[:1], strict=True))
    swapped = [
        msgspec.structs.replace(e, user=User(following.get(e.user.username, e.user.username), e.user.groups))
        for e in events
    ]
    own, other = (Detector(bundle).score(list_) for list_ in (events, swapped))
    human = np.array([kind == "human" for kind in own.kind])
    assert (other.surprise > own.surprise)[human].mean() > 0.8
    assert other.error[human].mean() > own.error[human].mean()


def test_what_is_done_again_is_no_longer_new(bundle: Bundle, labelled_lines: list[bytes]) -> None:
    """Repeating an action makes it a habit: it cannot alarm for ever."""
    detector = Detector(bundle)
    strange = json.loads(labelled_lines[-1])
    strange |= {
        "verb": "list",
        "user": {"username": "dev-9@example.com", "groups": ["dev:web"]},
        "objectRef": {"resource": "secrets", "namespace": "kube-system", "apiVersion": "v1"},
        "requestURI": "/api/v1/namespaces/kube-system/secrets",
    }
    novelty = []
    for i in range(3):
        time = f"2026-11-23T15:00:{i:02d}.000000Z"
        line = json.dumps(
            strange | {"auditID": f"r{i}", "requestReceivedTimestamp": time, "stageTimestamp": time}
        ).encode()
        novelty.append(float(detector.score(events_of([line])).novelty[0]))
    assert novelty[0] > 0
    assert novelty[1:] == [0.0, 0.0]


def test_a_flagged_action_says_why(bundle: Bundle, labelled_lines: list[bytes]) -> None:
    strict = replace(bundle, calibration=replace(bundle.calibration, person_thresholds=(0.5,)))
    scores = Detector(strict).score(events_of(labelled_lines))
    hits = np.flatnonzero(scores.flagged)
    assert len(hits)
    assert set(scores.explanations) == set(hits.tolist())
    for explanation in scores.explanations.values():
        nlls = [reason.nll for reason in explanation.fields]
        assert nlls == sorted(nlls, reverse=True)
        for reason in explanation.fields:
            probabilities = [p for _, p in reason.expected]
            assert probabilities == sorted(probabilities, reverse=True)
            assert 0 < sum(probabilities) <= 1.0001
            assert not any(value in back_offs(reason.field, value) for value, _ in reason.expected)
        assert all(habit.times_before == 0 for habit in explanation.habits)


def test_no_events_no_scores(bundle: Bundle) -> None:
    scores = Detector(bundle).score([])
    assert (len(scores.event), scores.explanations) == (0, {})


@pytest.mark.parametrize(
    ("arguments", "severity"),
    [
        ((False, 9.0, 3, 3), "none"),
        ((True, 1.1, 0, 3), "low"),
        ((True, 1.1, 2, 2), "low"),
        ((True, 1.6, 2, 2), "medium"),
        ((True, 9.0, 2, 3), "medium"),
        ((True, 1.1, 3, 2), "medium"),
        ((True, 1.6, 3, 2), "high"),
        ((True, 2.5, 3, 3), "critical"),
        ((True, 2.5, 3, 1), "medium"),
        ((True, 2.5, 2, 0), "low"),
    ],
)
def test_severity_is_harm_times_surprise_less_where_peers_do_the_same(
    arguments: tuple[bool, float, int, int], severity: str
) -> None:
    assert severity_of(*arguments) == severity


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"checksum of {name} does not match"):
        Bundle.load(copied)


@pytest.mark.parametrize("name", [*FILES, "checksums.json"])
def test_a_half_written_bundle_is_refused(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BundleError, match="kubehabit train"):
        Bundle.load(copied)


def test_a_bundle_of_another_version_is_refused(copied: Path) -> None:
    meta = json.loads((copied / "bundle.json").read_text())
    (copied / "bundle.json").write_text(json.dumps(meta | {"fields": ["verb"]}))
    seal(copied)
    with pytest.raises(BundleError, match="another version"):
        Bundle.load(copied)


def test_the_cache_of_windows_changes_no_score(bundle: Bundle, labelled_lines: list[bytes]) -> None:
    """Whether it holds all, forgets nearly all, or meets what it holds in other batches."""
    events = events_of(labelled_lines[:1500])
    later = [
        msgspec.structs.replace(
            event, requestReceivedTimestamp=event.requestReceivedTimestamp.replace("-11-23T", "-11-24T")
        )
        for event in events
    ]
    plain, cached, small = (Detector(bundle, cached_windows=size) for size in (0, 100_000, 50))
    whole = [plain.score(part) for part in (events, later)]
    for detector, size in ((cached, 400), (small, 37)):
        parts = [
            detector.score(part[at : at + size])
            for part in (events, later)
            for at in range(0, len(events), size)
        ]
        for column in ("nll", "error", "evidence", "novelty"):
            np.testing.assert_allclose(joined(parts, column), joined(whole, column), rtol=1e-4, atol=1e-4)
        assert joined(parts, "flagged").tolist() == joined(whole, "flagged").tolist()
        assert joined(parts, "severity").tolist() == joined(whole, "severity").tolist()
    found, limited = cached.figures(), small.figures()
    assert found.cached_windows > 500 > limited.cached_windows  # 50 windows are gone before the next day
    assert found.cached_windows + found.computed_windows == limited.cached_windows + limited.computed_windows
    assert plain.figures().cached_windows == 0
    assert found.principals == plain.figures().principals > 0
