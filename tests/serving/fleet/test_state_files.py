"""The places where a fleet's state may be kept: each holds files alike, and a worker goes on from each as from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.errors import KubehabitError
from serving.fleet.cluster import FleetModel
from serving.fleet.state_files import StateFiles, open_state
from tests.serving.fleet.fleets import Alerts, LonePartition, figure
from tests.serving.postgres import Postgres

#: `local` is fsspec's own file system of this machine, on which files are renamed into place; `memory` is one of objects.
_PLACES = ["folder", "file", "local", "memory", "s3", pytest.param("postgresql", marks=pytest.mark.slow)]


def _url(place: str, folder: Path, request: pytest.FixtureRequest) -> str:
    if place == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        return server.database()
    if place == "s3":
        return f"{request.getfixturevalue('s3')}/state"
    prefix = {"folder": "", "file": "file://", "local": "local://", "memory": "memory://"}[place]
    return f"{prefix}{folder}/state"


@pytest.fixture(params=_PLACES)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _url(request.param, tmp_path, request)


@pytest.fixture
def files(state: str) -> StateFiles:
    return open_state(state)


def test_a_file_is_read_as_it_was_written_by_whoever_opens_the_place(files: StateFiles, state: str) -> None:
    content = bytes(range(256)) * 5000
    files.write("audit/00003/prod/1.snapshot", content)
    files.write("audit/00003/empty", b"")
    other = open_state(state)
    assert other.read("audit/00003/prod/1.snapshot") == content
    assert other.read("audit/00003/empty") == b""
    other.write("audit/00003/empty", b"not any more")
    assert files.read("audit/00003/empty") == b"not any more"


def test_names_are_those_directly_in_a_folder_in_order(files: StateFiles) -> None:
    assert files.names("audit/00003") == []
    for name in ("audit/00003/b.json", "audit/00003/a.json", "audit/00003/prod/1.snapshot", "audit/000031/c"):
        files.write(name, b"x")
    assert files.names("audit/00003") == ["audit/00003/a.json", "audit/00003/b.json"]
    assert files.names("audit/00003/prod") == ["audit/00003/prod/1.snapshot"]


def test_a_deleted_file_is_gone_and_one_that_never_was_can_be_deleted(files: StateFiles) -> None:
    files.write("audit/00003/a.json", b"x")
    files.delete("audit/00003/a.json")
    files.delete("audit/00003/a.json")
    files.delete("audit/00003/nothing")
    assert files.names("audit/00003") == []
    with pytest.raises(KubehabitError, match=r"a\.json"):
        files.read("audit/00003/a.json")


def test_workers_that_start_together_open_the_same_place(state: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(open_state, [state] * 8))
    opened[0].write("audit/a", b"x")
    assert [one.read("audit/a") for one in opened] == [b"x"] * 8


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.implementations.local

    files = open_state(f"local://{tmp_path}/state")
    files.write("audit/a", b"before")

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "mv", fail)
    with pytest.raises(KubehabitError, match=r"the disk is full.*worker\.state"):
        files.write("audit/a", b"after")
    assert files.read("audit/a") == b"before"
    assert files.names("audit") == ["audit/a"]


@pytest.fixture
def partition(own_home: Path, model: FleetModel, state: str) -> Iterator[LonePartition]:
    made = LonePartition(own_home, model, state)
    yield made
    made.scorer.close()
    made.writers.shutdown()
    made.letters.close()


def test_a_worker_goes_on_from_any_place_as_from_a_folder(
    partition: LonePartition, lines: list[bytes], expected: Alerts
) -> None:
    for begin in range(0, 900, 300):  # so many checkpoints that old ones are deleted
        partition.score(lines[begin : begin + 300])
        partition.scorer.finish()
        partition.clear()
    partition.score(lines[900:1000])  # in the store, and in no checkpoint
    partition.started()
    assert partition.scorer.position == 900
    assert len(partition.files.names("audit/00003/prod")) == 2
    partition.score(lines[900:])
    assert partition.alerts() == expected
    assert figure(partition.metrics, "kubehabit_worker_restores_total", partition="3") == 1


def test_a_snapshot_that_is_damaged_in_any_place_is_not_used(
    partition: LonePartition, lines: list[bytes], expected: Alerts
) -> None:
    for begin in (0, 300):
        partition.score(lines[begin : begin + 300])
        partition.scorer.finish()
    newest = partition.files.names("audit/00003/prod")[-1]
    partition.files.write(newest, partition.files.read(newest)[:-100])
    partition.started()
    with pytest.raises(KubehabitError):
        partition.score(lines[600:700])
    partition.scorer.begin()
    assert partition.scorer.position == 300
    partition.score(lines[300:])
    assert partition.alerts() == expected
