"""The process that writes the store's Parquet files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import KubehabitError
from serving.forensics import parquet_writer
from serving.forensics.event_store import EventStore
from serving.forensics.parquet_writer import write_parquet
from serving.forensics.verify import verify
from serving.settings import EventSettings

pytestmark = pytest.mark.writes_elsewhere


def test_a_store_written_by_processes_is_whole(tmp_path: Path, labelled_lines: list[bytes]) -> None:
    store = EventStore(EventSettings(path=tmp_path / "store"))
    for at in (0, 300):
        store.append(b"\n".join(labelled_lines[at : at + 300]))
        store.seal()
    store.close()
    report = verify(tmp_path / "store")
    assert not report.findings
    assert report.records == 600
    assert not list((tmp_path / "store").glob("scratch-*"))


def test_it_reaches_nothing_but_the_store(tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text("a\n1\n")
    store = tmp_path / "store"
    store.mkdir()
    with pytest.raises(KubehabitError, match=r"inside\.parquet could not be written: .*[Pp]ermission"):
        write_parquet(f"SELECT * FROM '{outside}'", store / "inside.parquet", folder=store, memory_mb=256)
    with pytest.raises(KubehabitError, match=r"out\.parquet could not be written"):
        write_parquet("SELECT 1", tmp_path / "out.parquet", folder=store, memory_mb=256)
    assert not (tmp_path / "out.parquet").exists()


def test_a_process_that_breaks_off_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def killed(command: list[str], **options: object) -> object:
        return real([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(parquet_writer.subprocess, "run", killed)
    with pytest.raises(KubehabitError, match="its process ended with status -9"):
        write_parquet("SELECT 1", tmp_path / "one.parquet", folder=tmp_path, memory_mb=256)


def test_no_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(parquet_writer.subprocess, "run", refuse)
    with pytest.raises(KubehabitError, match="Cannot allocate memory"):
        write_parquet("SELECT 1", tmp_path / "one.parquet", folder=tmp_path, memory_mb=256)


def test_events_stay_open_when_their_file_cannot_be_written(
    tmp_path: Path, labelled_lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EventStore(EventSettings(path=tmp_path))
    store.append(b"\n".join(labelled_lines[:50]))
    with monkeypatch.context() as broken:
        broken.setattr(parquet_writer, "_answer_of_process", lambda _: {"error": "no room"})
        with pytest.raises(KubehabitError, match="no room"):
            store.seal()
    store.append(b"\n".join(labelled_lines[50:80]))
    store.seal()
    store.close()
    report = verify(tmp_path)
    assert not report.findings
    assert report.records == 80
