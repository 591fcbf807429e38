"""What a worker says of its partitions and clusters, for the console."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from data.errors import KubehabitError
from serving.fleet.cluster import FleetModel
from serving.fleet.state_files import open_state
from serving.fleet.status import (
    ClusterFigures,
    ClusterStatus,
    PartitionStatus,
    last_status,
    read_statuses,
    write_status,
)
from serving.settings import Settings
from serving.storage.database import AlertStore, StoreError
from tests.serving.fleet.fleets import LonePartition, running
from tests.serving.fleet.mock_kafka import MockKafka


def test_a_status_says_how_far_each_cluster_is_and_what_is_open_in_it(
    partition: LonePartition, lines: list[bytes]
) -> None:
    partition.score(lines[:900])
    partition.score(lines[:50], key=b"test")
    status = partition.scorer.status("worker-1", 17)()
    assert (status.topic, status.partition, status.worker, status.lag) == ("audit", 3, "worker-1", 17)
    prod, test = status.clusters
    assert (prod.name, test.name) == ("prod", "test")
    assert prod.actions > test.actions > 0
    assert 0 < prod.known <= prod.actions
    assert sum(prod.incidents.values()) == prod.unattended > 0
    assert list(prod.incidents) == ["critical", "high", "medium", "low"]
    assert prod.newest is not None
    assert prod.newest < time.time()


def test_a_cluster_without_events_since_the_last_worker_is_listed_as_it_was(
    partition: LonePartition, lines: list[bytes], own_home: Path, model: FleetModel
) -> None:
    partition.score(lines[:300], key=b"test")
    write_status(partition.files, partition.scorer.status("worker-1", 0)())
    before = last_status(partition.files, "audit", 3)
    next_one = LonePartition(own_home, model, last=before)
    next_one.score(lines[:300])
    prod, test = next_one.scorer.status("worker-2", 0)().clusters
    assert test == before["test"]
    assert prod.updated > test.updated
    next_one.score(lines[300:400], key=b"test")
    grown = next_one.scorer.status("worker-2", 0)().clusters[1]
    assert grown.actions > test.actions
    next_one.scorer.close()


def test_a_store_that_fails_leaves_the_cluster_as_it_was_last(
    partition: LonePartition, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    partition.score(lines[:300])
    before = partition.scorer.status("worker-1", 0)().clusters

    def fail(*_: object) -> None:
        raise StoreError("The alert store cannot be read.")

    monkeypatch.setattr(AlertStore, "reading", fail)
    assert partition.scorer.status("worker-1", 0)().clusters == before


def test_a_cluster_that_was_silent_for_a_month_is_not_listed(
    partition: LonePartition, own_home: Path, model: FleetModel
) -> None:
    now = time.time()
    last = {name: ClusterStatus(name, now - days * 86_400) for name, days in (("gone", 31), ("quiet", 29))}
    one = LonePartition(own_home, model, last=last)
    assert [found.name for found in one.scorer.status("worker-1", 0)().clusters] == ["quiet"]
    one.scorer.close()


def test_a_damaged_status_is_left_out_and_a_store_that_fails_is_an_error(tmp_path: Path) -> None:
    files = open_state(str(tmp_path / "fleet"))
    assert read_statuses(files) == []
    assert last_status(files, "audit", 3) == {}
    for number in (3, 4):
        cluster = ClusterStatus("prod", 1.0, incidents={"high": 2})
        write_status(
            files, PartitionStatus("audit", number, "w", 1.0, trouble="x" * 9000, clusters=[cluster])
        )
    damaged = tmp_path / "fleet" / "status" / "audit.00003.json"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    (found,) = read_statuses(files)
    assert found.partition == 4
    assert len(found.trouble) == 500
    assert last_status(files, "audit", 3) == {}
    assert last_status(files, "audit", 4)["prod"].incidents == {"high": 2}
    damaged.unlink()
    damaged.mkdir()
    write_status(files, found)
    with pytest.raises(KubehabitError, match=r"worker\.state"):
        open_state(str(damaged / ".." / "audit.00004.json"))


def test_the_share_with_habits_follows_what_was_scored_last() -> None:
    figures = ClusterFigures(ClusterStatus("prod", 1.0, actions=90_000, known=0))
    for _ in range(40):
        figures.scored(20_000, 20_000, 20_000, 5.0)
    status = figures.status("prod", 100.0)
    assert 0.9 < status.known / status.actions < 1
    assert status.newest == 5.0
    assert figures.status("prod", 130.0).per_second == 0


def test_a_worker_writes_its_status_while_it_scores(
    kafka: MockKafka, model: FleetModel, lines: list[bytes], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.fleet.worker.STATUS_SECONDS", 0.1)
    topic = kafka.topic()
    kafka.send(topic, 2, "prod", lines[:300])
    settings = Settings(
        worker={"source": kafka.url(topic), "state": str(own_home / "fleet"), "port": 0, "group": topic}
    )
    files = open_state(settings.worker.state_url)
    with running(settings, model):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = [one for one in read_statuses(files) if one.partition == 2 and one.clusters]
            if found and found[0].lag == 0:
                break
            time.sleep(0.05)
    (status,) = found
    assert status.topic == topic
    assert [one.name for one in status.clusters] == ["prod"]
    assert status.model.startswith(model.loaded.model.name)
