"""Logs by URL: streamed, in the order of time, and an error of the store is never taken for the end or damage of a log."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from data.errors import KubehabitError
from data.events.left_out import LeftOut
from data.events.reader import first_time, log_files, read_events, read_range, size_of
from data.events.remote_log import RemoteLog, log_of


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def ids(log: Any) -> list[str]:
    left_out = LeftOut()
    found = [event.auditID for chunk in read_events(log, left_out) for event in chunk]
    assert left_out.unreadable == 0
    return found


def test_an_argument_is_a_path_or_a_url() -> None:
    assert log_of("audit.log") == Path("audit.log")
    assert log_of("-") == Path("-")
    assert log_of("file:///var/log/audit%20.log") == Path("/var/log/audit .log")
    assert log_of("s3://bucket/a=1/audit.log.gz") == RemoteLog("s3://bucket/a=1/audit.log.gz")
    assert log_of("memory://logs/x").name == "x"


def test_a_file_elsewhere_reads_as_one_here(tmp_path: Path, memory: Any, normal_lines: list[bytes]) -> None:
    content = b"\n".join(normal_lines[:3000]) + b"\n"
    here = tmp_path / "audit.log"
    here.write_bytes(content)
    for name, packed in (("audit.log", content), ("audit.log.gz", gzip.compress(content))):
        memory.pipe_file(f"/logs/{name}", packed)
        there = pickle.loads(pickle.dumps(RemoteLog(f"memory://logs/{name}")))
        assert ids(there) == ids(here)
        assert size_of(there) == len(packed)
        assert first_time(there) == first_time(here)
    cut = len(content) // 2
    log, left_out = RemoteLog("memory://logs/audit.log"), LeftOut()
    parts = [
        [event.auditID for chunk in read_range(log, begin, end, left_out) for event in chunk]
        for begin, end in ((0, cut), (cut, len(content)))
    ]
    assert [*parts[0], *parts[1]] == ids(here)
    assert min(map(len, parts)) > 100


def test_a_folder_or_pattern_is_read_in_the_order_of_first_events(
    memory: Any, normal_lines: list[bytes]
) -> None:
    newer, older = (b"\n".join(lines) + b"\n" for lines in (normal_lines[200:400], normal_lines[:200]))
    memory.pipe_file("/logs/day=1/a.log", newer)
    memory.pipe_file("/logs/day=1/b.log", older)
    memory.pipe_file("/logs/day=1/.hidden.log", newer)
    memory.pipe_file("/logs/day=1/empty.log", b"")
    for url in ("memory://logs", "memory://logs/day=1/", "memory://logs/day=*/*.log"):
        assert [file.name for file in log_files([RemoteLog(url)])] == ["b.log", "a.log"]
    assert ids(RemoteLog("memory://logs")) == ids(RemoteLog("memory://logs/day=1/b.log")) + ids(
        RemoteLog("memory://logs/day=1/a.log")
    )


def test_a_file_that_ends_before_its_size_is_an_error(
    memory: Any, monkeypatch: pytest.MonkeyPatch, normal_lines: list[bytes]
) -> None:
    content = b"\n".join(normal_lines[:2000]) + b"\n"
    memory.pipe_file("/logs/audit.log", content[: len(content) // 2])
    opened = memory.open("/logs/audit.log", "rb")
    monkeypatch.setattr(type(opened), "size", len(content))
    left_out = LeftOut()
    with pytest.raises(KubehabitError, match=r"it ended after [0-9,]+ of [0-9,]+ bytes"):
        list(read_events(RemoteLog("memory://logs/audit.log"), left_out))
    assert left_out.unreadable == 0


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("memory://nothing/here.log", "There is no log memory://nothing/here.log"),
        ("memory://nothing/*.log", "There is no log memory"),
        ("nosuchstore://bucket/x", "Cannot read nosuchstore://bucket/x: ValueError"),
        ("gs://bucket/x", "gs:// need a package that is not installed"),
    ],
)
def test_what_cannot_be_found_is_a_sentence(memory: Any, url: str, sentence: str) -> None:
    del memory
    with pytest.raises(KubehabitError, match=sentence):
        log_files([RemoteLog(url)])


def test_a_store_that_fails_in_the_middle_is_an_error_and_no_damaged_log(
    memory: Any, monkeypatch: pytest.MonkeyPatch, normal_lines: list[bytes]
) -> None:
    memory.pipe_file("/logs/audit.log", b"\n".join(normal_lines[:5000]) + b"\n")
    opened = type(memory).open

    def failing(self: Any, *args: Any, **options: Any) -> Any:
        file = opened(self, *args, **options)
        read, left = file.read, [3]

        def few(size: int = -1) -> bytes:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("connection reset\x1b[31m")
            return bytes(read(min(size, 100_000)))

        file.read = few
        return file

    monkeypatch.setattr(type(memory), "open", failing)
    left_out = LeftOut()
    with pytest.raises(KubehabitError, match=r"OSError: connection reset") as caught:
        list(read_events(RemoteLog("memory://logs/audit.log"), left_out))
    assert "\x1b" not in str(caught.value)
    assert left_out.unreadable == 0
