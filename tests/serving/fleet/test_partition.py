"""One partition: scored as one process scores the log, whatever ends the worker, and whatever is damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from detection.detector import Detector
from serving.fleet.cluster import FleetModel
from serving.fleet.records import LogRecord
from serving.rollout.loader import open_model
from serving.scoring.snapshots import SnapshotError
from serving.settings import Settings
from serving.storage.database import AlertStore, StoreError
from tests.serving.fleet.fleets import Alerts, LonePartition, figure


def checkpoint(partition: LonePartition) -> None:
    partition.scorer.finish()
    assert partition.scorer.committable == partition.scorer.position


def test_a_worker_that_dies_at_any_place_raises_what_one_process_raises(
    partition: LonePartition, lines: list[bytes], expected: Alerts
) -> None:
    partition.score(lines[:400])
    checkpoint(partition)
    partition.score(lines[400:900])  # alerts of it are in the store, and the worker dies
    partition.started()
    assert partition.scorer.position == 400
    partition.score(lines[400:])
    assert len(expected) > 3
    assert partition.alerts() == expected
    assert figure(partition.metrics, "kubehabit_worker_restores_total", partition="3") == 1


def test_clusters_of_one_partition_know_nothing_of_each_other(
    partition: LonePartition, lines: list[bytes], expected: Alerts
) -> None:
    offset = 0
    for begin in range(0, len(lines), 300):
        for key in (b"prod", b"test"):
            partition.score(lines[begin : begin + 300], offset, key)
            offset += 300
    assert partition.alerts() == expected
    assert partition.scorer.clusters == 2
    assert figure(partition.metrics, "kubehabit_events_total", outcome="repeated") == 0


def test_what_is_sent_again_is_scored_once_and_what_cannot_be_read_is_a_dead_letter(
    partition: LonePartition, lines: list[bytes], expected: Alerts
) -> None:
    partition.score(lines[:600])
    partition.score(lines[400:600])
    partition.score([b"no event", b"", lines[0] + b"\n" + b'{"kind":"Event"}\n'])
    partition.score([lines[0]], key=b"../prod")
    partition.score([lines[0]], key=None)
    partition.score(lines[600:])
    assert partition.alerts() == expected
    events = {
        outcome: figure(partition.metrics, "kubehabit_events_total", outcome=outcome)
        for outcome in ("scored", "folded", "repeated", "rejected", "skipped")
    }
    assert events["repeated"] == 201
    assert events["rejected"] == 5
    assert sum(events.values()) == len(lines) + 201 + 5
    text = Path(partition.settings.dead_letters.resolved_path).read_text()
    letters = [json.loads(line) for line in text.splitlines()]
    assert [one["source"] for one in letters] == [f"audit/3@{offset}" for offset in (800, 801, 802, 803, 804)]


def test_while_the_alert_store_fails_nothing_more_is_scored_and_nothing_is_lost(
    partition: LonePartition, lines: list[bytes], expected: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition.score(lines[:200])
    with monkeypatch.context() as failing:

        def fail(*_: object, **__: object) -> None:
            raise StoreError("The alert store cannot be written: it is full.")

        failing.setattr(AlertStore, "transaction", fail)
        partition.score(lines[200:])
        assert "it is full" in partition.scorer.trouble
        assert partition.scorer.position == 200
        assert not partition.scorer.retry()
        partition.scorer.finish()
        assert partition.scorer.committable is None
    while not partition.scorer.retry():
        pass
    assert partition.scorer.position == len(lines)
    assert partition.alerts() == expected


def test_a_store_that_cannot_be_opened_holds_up_its_cluster_and_no_other(
    own_home: Path, partition: LonePartition, lines: list[bytes], expected: Alerts
) -> None:
    shutil.rmtree(own_home / "clusters" / "prod")
    (own_home / "clusters" / "prod").write_text("in the way")
    partition.score(lines[:600])
    partition.scorer.work()
    assert "Cannot open the alert store" in partition.scorer.trouble
    assert not partition.scorer.retry()
    (own_home / "clusters" / "prod").unlink()
    assert partition.scorer.retry()
    partition.score(lines[600:])
    assert partition.alerts() == expected


def damage(partition: LonePartition, pattern: str) -> None:
    newest = sorted(Path(partition.settings.worker.state_url).glob(pattern))[-1]
    newest.write_bytes(newest.read_bytes()[:-20])


@pytest.mark.parametrize("pattern", ["audit/*/prod/*.snapshot", "audit/*/*.json"])
def test_after_damage_the_checkpoint_before_is_used(
    partition: LonePartition, lines: list[bytes], expected: Alerts, pattern: str
) -> None:
    for begin, end in ((0, 400), (400, 800)):
        partition.score(lines[begin:end])
        checkpoint(partition)
    damage(partition, pattern)
    partition.started()
    if partition.scorer.position == 800:
        with pytest.raises(SnapshotError):
            partition.score(lines[800:])
        assert partition.scorer.begin() == 400
    assert partition.scorer.position == 400
    partition.score(lines[400:])
    assert partition.alerts() == expected


def test_one_lost_snapshot_costs_its_cluster_what_was_learned_and_no_other(
    partition: LonePartition, lines: list[bytes], expected: Alerts
) -> None:
    partition.score(lines[:50], key=b"idle")
    checkpoint(partition)
    partition.score(lines[:500])
    checkpoint(partition)
    damage(partition, "audit/*/idle/*.snapshot")
    partition.started()
    partition.score(lines[50:60], key=b"idle")
    partition.score(lines[500:])
    assert partition.alerts() == expected


def test_old_checkpoints_go_and_what_is_needed_stays(partition: LonePartition, lines: list[bytes]) -> None:
    folder = Path(partition.settings.worker.state_url) / "audit" / "00003"
    partition.score(lines[:50], key=b"idle")
    for begin in range(50, 350, 50):
        partition.score(lines[begin : begin + 50])
        checkpoint(partition)
        partition.clear()
    assert len(list(folder.glob("*.json"))) == 2
    assert len(list((folder / "prod").iterdir())) == 2
    assert len(list((folder / "idle").iterdir())) == 1
    partition.started()
    partition.score(lines[400:410], key=b"idle")
    assert figure(partition.metrics, "kubehabit_worker_restores_total", partition="3") == 1


def test_clusters_beyond_those_in_memory_go_on_from_their_snapshots(
    own_home: Path, model: FleetModel, lines: list[bytes], expected: Alerts
) -> None:
    partition = LonePartition(own_home, model)
    partition.settings.worker.clusters_in_memory = 1
    offset = 0
    for begin in range(0, len(lines), 600):
        for key in (b"prod", b"test"):
            partition.score(lines[begin : begin + 600], offset, key)
            offset += 600
            checkpoint(partition)
            assert partition.scorer.clusters == 1
    assert partition.alerts() == expected
    partition.scorer.close()


def test_a_new_champion_goes_on_with_what_is_known(
    partition: LonePartition,
    model: FleetModel,
    bundles: dict[str, Path],
    lines: list[bytes],
    expected: Alerts,
) -> None:
    """It judges as the one before, under another checksum: what is raised must be the same, too."""
    partition.score(lines[:500])
    loaded = open_model(Settings(), bundles["2"])
    loaded = replace(loaded, model=loaded.model.model_copy(update={"version": "8"}))
    partition.factory.model = replace(model, loaded=loaded)
    assert partition.scorer.renew()
    assert partition.scorer.clusters == 0
    partition.score(lines[500:])
    found = partition.alerts()
    assert {alert["model"]["version"] for alert in found.values()} == {"-", "8"}
    assert {name: alert | {"model": None} for name, alert in found.items()} == {
        name: alert | {"model": None} for name, alert in expected.items()
    }


def test_a_topic_that_was_made_again_is_scored_from_its_beginning_and_lost_records_are_counted(
    partition: LonePartition, lines: list[bytes]
) -> None:
    partition.score(lines[:100])
    checkpoint(partition)
    partition.started()
    partition.score(lines[100:150], first=107)
    assert figure(partition.metrics, "kubehabit_worker_lost_records_total", partition="3") == 7
    checkpoint(partition)
    partition.started()
    partition.score(lines[150:180], first=0)
    assert partition.scorer.position == 30
    checkpoint(partition)
    partition.started()
    assert partition.scorer.position == 30


def test_an_event_that_makes_scoring_fail_is_a_dead_letter_and_the_others_are_scored(
    partition: LonePartition, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    score, bad = Detector.score, json.loads(lines[70])["auditID"]

    def failing(self: Detector, events: list[object]) -> object:
        if any(event.auditID == bad for event in events):  # type: ignore[attr-defined]
            raise RuntimeError("a defect")
        return score(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(Detector, "score", failing)
    partition.score(lines[:120])
    assert figure(partition.metrics, "kubehabit_events_not_scored_total") == 1
    events = [
        figure(partition.metrics, "kubehabit_events_total", outcome=one) for one in ("scored", "folded")
    ]
    assert sum(events) == 119


def test_a_record_that_ends_the_process_is_set_aside_after_some_starts(
    partition: LonePartition, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    score, bad, here = Detector.score, json.loads(lines[25])["auditID"], os.getpid()
    ended = []

    def deadly(self: Detector, events: list[object]) -> object:
        if any(event.auditID == bad for event in events):  # type: ignore[attr-defined]
            if os.getpid() != here:
                os.kill(os.getpid(), signal.SIGSEGV)
            ended.append(1)
            raise MemoryError
        return score(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(Detector, "score", deadly)
    partition.score(lines[:20])
    checkpoint(partition)
    for _ in range(3):  # as if it had ended each time
        partition.started().append(LogRecord(20, b"prod", lines[20]))
    partition.started()
    partition.score(lines[20:30])
    assert not ended
    assert figure(partition.metrics, "kubehabit_worker_set_aside_records_total") == 1
    checkpoint(partition)
    partition.started()
    assert partition.scorer.position == 30
