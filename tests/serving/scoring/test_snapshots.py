"""Nothing that was learned is lost by a restart, and no verdict depends on what is in memory."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

from data.actions.fields import FIELDS
from data.actions.stage_folding import StageFolder
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.bundle import Bundle, seal
from detection.detector import Detector, Scores
from detection.state_transfer import transfer_state
from serving.alerts.explain.explainer import Explainer
from serving.scoring.deduplication import EventDeduplicator
from serving.scoring.engine import Engine
from serving.scoring.eviction import ColdPrincipalStore, EvictionError
from serving.scoring.snapshots import (
    Snapshot,
    SnapshotError,
    Snapshots,
    restore,
    restore_deduplicator,
    take_snapshot,
)
from serving.storage.database import AlertStore
from tests.conftest import RECORDINGS
from tests.serving.conftest import SHIPPED, model_info

pytestmark = pytest.mark.slow
BATCH = 400


def written(snapshot: Snapshot) -> bytes:
    """The file of a snapshot."""
    out = io.BytesIO()
    snapshot.write(out)
    return out.getvalue()


@pytest.fixture(scope="module")
def events() -> list[AuditEvent]:
    """Enough of the labelled recording for even a small model to flag something."""
    return decode_lines(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 16_000)).events


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What can be compared of scores."""

    principal: list[str]
    evidence: list[float]
    flagged: list[bool]
    severity: list[str]

    @classmethod
    def of(cls, parts: Sequence[Scores]) -> Verdicts:
        return cls(
            [name for part in parts for name in part.principal],
            [round(value, 4) for part in parts for value in part.evidence.tolist()],
            [flag for part in parts for flag in part.flagged.tolist()],
            [one for part in parts for one in part.severity],
        )


class Recorded(Detector):
    """Notes what it scores."""

    parts: list[Scores]

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        scores = super().score(events)
        self.parts.append(scores)
        return scores


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


def fresh(bundle: Bundle, parts: list[Scores]) -> Engine:
    detector = Recorded(bundle, folder=StageFolder(key=b"k" * 16))
    detector.parts = parts
    store = AlertStore("sqlite://", retention_days=90, max_alerts=1000)
    return Engine(detector, FIELDS, model_info(), store, Explainer.load(SHIPPED / "explain.yaml"))


def batches(events: Sequence[AuditEvent]) -> Iterator[Sequence[AuditEvent]]:
    for start in range(0, len(events), BATCH):
        yield events[start : start + BATCH]


@pytest.fixture(scope="module")
def uninterrupted(bundle: Bundle, events: list[AuditEvent]) -> Verdicts:
    parts: list[Scores] = []
    engine = fresh(bundle, parts)
    for batch in batches(events):
        engine.score(batch)
    engine.close()
    verdicts = Verdicts.of(parts)
    assert sum(verdicts.flagged) > 3
    return verdicts


def test_restarts_change_no_verdict(
    bundle: Bundle, events: list[AuditEvent], uninterrupted: Verdicts
) -> None:
    parts: list[Scores] = []
    engine = fresh(bundle, parts)
    for number, batch in enumerate(batches(events), 1):
        engine.score(batch)
        if number % 10 == 0:
            snapshot = Snapshot.unpack(written(take_snapshot(engine, EventDeduplicator(10), number)()))
            engine.close()
            engine = fresh(bundle, parts)
            restore(snapshot, engine)
    counted = sum(int(np.frombuffer(row[3], np.int64)[0]) for row in engine.principals.snapshot())
    engine.close()
    assert Verdicts.of(parts) == uninterrupted
    assert counted == len(uninterrupted.principal)


def test_what_adds_up_over_a_restart_is_flagged_as_without_one(
    bundle: Bundle, events: list[AuditEvent], uninterrupted: Verdicts
) -> None:
    """Without its state, a detector misses what began before the restart; with it, nothing."""
    half = len(events) // BATCH // 2 * BATCH
    before: list[Scores] = []
    engine = fresh(bundle, before)
    for batch in batches(events[:half]):
        engine.score(batch)
    snapshot = Snapshot.unpack(written(take_snapshot(engine, EventDeduplicator(10), 1)()))
    engine.close()
    with_state: list[Scores] = []
    without: list[Scores] = []
    for parts, state in ((with_state, snapshot), (without, None)):
        engine = fresh(bundle, parts)
        if state is not None:
            restore(state, engine)
        for batch in batches(events[half:]):
            engine.score(batch)
        engine.close()
    begin = len(Verdicts.of(before).principal)
    assert Verdicts.of(with_state).evidence == uninterrupted.evidence[begin:]
    assert Verdicts.of(with_state).flagged == uninterrupted.flagged[begin:]
    assert Verdicts.of(without).evidence != uninterrupted.evidence[begin:]


@pytest.mark.parametrize("hot", [1, 7])
def test_principals_on_disk_are_judged_as_those_in_memory(
    bundle: Bundle, events: list[AuditEvent], uninterrupted: Verdicts, tmp_path: Path, hot: int
) -> None:
    parts: list[Scores] = []
    engine = fresh(bundle, parts)
    assert isinstance(engine.detector, Recorded)
    cold = ColdPrincipalStore(tmp_path / "principals.db", hot, 10_000)
    cold.start(engine.detector, engine.principals, None, engine.detector.windows.contexts().names)
    went = 0
    for number, batch in enumerate(batches(events), 1):
        engine.score(batch)
        went += cold.evict(number, 0)
        assert len(engine.detector.windows) <= hot + hot // 4
        assert len(engine.detector.accumulator) <= hot + hot // 4
    assert went > 100
    assert Verdicts.of(parts) == uninterrupted
    names = set(uninterrupted.principal)
    reports = [engine.principals.report(name) for name in names]
    assert sum(report.actions for report in reports if report is not None) == len(uninterrupted.principal)
    engine.close()
    cold.close()


def test_a_crash_after_a_snapshot_finds_principals_on_disk_as_they_were_then(
    bundle: Bundle, events: list[AuditEvent], uninterrupted: Verdicts, tmp_path: Path
) -> None:
    parts: list[Scores] = []
    snapshot: Snapshot | None = None
    engine = fresh(bundle, parts)
    taken, lost, hot = 9, 21, 4
    assert isinstance(engine.detector, Recorded)
    cold = ColdPrincipalStore(tmp_path / "principals.db", hot, 10_000)
    cold.start(engine.detector, engine.principals, None, engine.detector.windows.contexts().names)
    every = list(batches(events))
    kept = 0
    for number, batch in enumerate(every[:lost], 1):
        engine.score(batch)
        cold.evict(number, 0)
        if number == taken:
            snapshot = Snapshot.unpack(
                written(take_snapshot(engine, EventDeduplicator(10), number, cold.hot)())
            )
            kept = len(parts)
    engine.close()
    cold.close()
    assert snapshot is not None
    del parts[kept:]  # the process died: what it scored since is scored again from the journal
    engine = fresh(bundle, parts)
    assert isinstance(engine.detector, Recorded)
    restore(snapshot, engine)
    cold = ColdPrincipalStore(tmp_path / "principals.db", hot, 10_000)
    cold.start(engine.detector, engine.principals, snapshot.position, snapshot.meta["names"])
    for number, batch in enumerate(every[taken:], taken + 1):
        engine.score(batch)
        cold.evict(number, taken)
    assert Verdicts.of(parts) == uninterrupted
    engine.close()
    cold.close()


def test_rows_that_no_snapshot_needs_are_deleted_and_the_number_is_bounded(
    bundle: Bundle, events: list[AuditEvent], tmp_path: Path
) -> None:
    engine = fresh(bundle, [])
    assert isinstance(engine.detector, Recorded)
    cold = ColdPrincipalStore(tmp_path / "principals.db", 1, 30)
    cold.start(engine.detector, engine.principals, None, engine.detector.windows.contexts().names)
    for number, batch in enumerate(batches(events[:6000]), 1):
        engine.score(batch)
        cold.evict(number, number)
        assert len(cold) <= 30
    engine.close()
    cold.close()
    assert (tmp_path / "principals.db").stat().st_mode & 0o077 == 0


# -- files --------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_a_sentence_at_the_start(bundle: Bundle, tmp_path: Path) -> None:
    cold = ColdPrincipalStore(tmp_path / "principals.db", 1, 30)
    cold._file.execute("INSERT INTO principals VALUES (1, 1, 1, '', x'00')")
    cold._file.execute("PRAGMA query_only = 1")
    engine = fresh(bundle, [])
    with pytest.raises(EvictionError, match=r"cannot be written .*Make room on the disk of state\.path"):
        cold.start(engine.detector, engine.principals, None, [])
    cold.close()


def snapshot_of(position: int) -> Snapshot:
    return Snapshot(position, "b", {"what": f"number {position}"}, {"numbers": np.arange(position)})


def test_the_newest_two_snapshots_are_kept_private(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "state")
    for position in (3, 12, 100):
        snapshots.write(snapshot_of(position))
    assert snapshots.positions() == [12, 100]
    newest = snapshots.newest()
    assert newest is not None
    assert (newest.position, newest.bundle, newest.meta) == (100, "b", {"what": "number 100"})
    assert newest.arrays["numbers"].tolist() == list(range(100))
    assert all(path.stat().st_mode & 0o077 == 0 for path in [snapshots.folder, *snapshots.folder.iterdir()])


@pytest.mark.parametrize("where", [0, 20, 60, -1])
def test_a_damaged_snapshot_is_refused_and_the_one_before_is_used(
    tmp_path: Path, where: int, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = Snapshots(tmp_path)
    for position in (1, 2):
        snapshots.write(snapshot_of(position))
    path = tmp_path / f"{2:020d}.snapshot"
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(bytes(content))
    with caplog.at_level(logging.ERROR):
        found = snapshots.newest()
    assert found is not None
    assert found.position == 1
    assert "refused" in caplog.text
    assert snapshots.positions() == [1]


@pytest.mark.parametrize("content", [b"", b"kubehabit state 1\n", b"kubehabit state 2\n" + bytes(100)])
def test_what_is_no_snapshot_says_so(content: bytes) -> None:
    with pytest.raises(SnapshotError):
        Snapshot.unpack(content)


def test_a_cut_off_snapshot_is_none(tmp_path: Path) -> None:
    content = written(snapshot_of(5))
    for cut in range(0, len(content), 7):
        with pytest.raises(SnapshotError):
            Snapshot.unpack(content[:cut])


def test_the_memory_of_events_is_part_of_it(bundle: Bundle, events: list[AuditEvent]) -> None:
    engine = fresh(bundle, [])
    deduplicator = EventDeduplicator(100)
    deduplicator.first(events[:50])
    again = restore_deduplicator(Snapshot.unpack(written(take_snapshot(engine, deduplicator, 1)())), 100)
    assert again.first(events[40:60]) == [False] * 10 + [True] * 10
    engine.close()


def test_what_is_scored_while_a_snapshot_is_made_is_not_in_it(
    bundle: Bundle, events: list[AuditEvent]
) -> None:
    engine = fresh(bundle, [])
    engine.score(events[:3000])
    deduplicator = EventDeduplicator(10_000)
    deduplicator.first(events[:3000])
    at_once, make = written(take_snapshot(engine, deduplicator, 1)()), take_snapshot(engine, deduplicator, 1)
    engine.score(events[3000:6000])
    deduplicator.first(events[3000:6000])
    assert written(make()) == at_once
    assert written(take_snapshot(engine, deduplicator, 1)()) != at_once
    engine.close()


def test_what_may_still_add_up_to_an_alert_is_remembered_over_a_restart(
    bundle: Bundle, events: list[AuditEvent]
) -> None:
    engine = fresh(bundle, [])
    for batch in batches(events[:6000]):
        engine.score(batch)
    before = bytes(engine.context.contributors.snapshot()())
    assert msgspec.msgpack.decode(before)
    snapshot = Snapshot.unpack(written(take_snapshot(engine, EventDeduplicator(10), 1)()))
    engine.close()
    engine = fresh(bundle, [])
    restore(snapshot, engine)
    assert bytes(engine.context.contributors.snapshot()()) == before
    engine.close()


# -- over a change of the model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def retrained(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same model registered again: another bundle, by its checksum."""
    folder = tmp_path_factory.mktemp("retrained") / "bundle"
    shutil.copytree(bundle.path, folder)
    meta = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(meta | {"created": "2026-11-30T00:00:00+00:00"}))
    seal(folder)
    return Bundle.load(folder)


def test_a_restart_with_another_model_knows_what_the_one_before_learned(
    bundle: Bundle, retrained: Bundle, events: list[AuditEvent], uninterrupted: Verdicts
) -> None:
    assert retrained.checksum != bundle.checksum
    parts: list[Scores] = []
    engine = fresh(bundle, parts)
    for number, batch in enumerate(batches(events), 1):
        engine.score(batch)
        if number % 10 == 0:
            snapshot = Snapshot.unpack(written(take_snapshot(engine, EventDeduplicator(10), number)()))
            engine.close()
            engine = fresh(retrained if number % 20 else bundle, parts)
            restore(snapshot, engine)
    engine.close()
    assert Verdicts.of(parts) == uninterrupted


@pytest.mark.parametrize("hot", [1, 7])
def test_principals_on_disk_come_back_under_another_model(
    bundle: Bundle,
    retrained: Bundle,
    events: list[AuditEvent],
    uninterrupted: Verdicts,
    tmp_path: Path,
    hot: int,
) -> None:
    parts: list[Scores] = []
    engine = fresh(bundle, parts)
    detector = engine.detector
    assert isinstance(detector, Recorded)
    cold = ColdPrincipalStore(tmp_path / "principals.db", hot, 10_000)
    cold.start(detector, engine.principals, None, detector.windows.contexts().names)
    for number, batch in enumerate(batches(events), 1):
        detector.score(batch)
        cold.evict(number, 0)
        if number % 10 == 0:
            new = Recorded(retrained if number % 20 else bundle)
            new.parts = parts
            transfer_state(detector, new)
            detector = new
            cold.attach(detector, engine.principals)
            cold.evict(number, 0)
            assert len(detector.windows) <= hot + hot // 4
    assert Verdicts.of(parts) == uninterrupted
    engine.close()
    cold.close()
