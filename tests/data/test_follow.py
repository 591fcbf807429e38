"""Following a log: every line once and in order, whatever rotation, truncation, kill or restart comes between."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.audit_event import MAX_EVENT_BYTES
from data.decode import decode_lines
from data.errors import KubehabitError
from data.follow import Batch, Checkpoint, Follower, Position
from tests.data.samples import event


def line(number: int) -> bytes:
    second = f"{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}"
    return event(auditID=f"id-{number}", stageTimestamp=f"2026-01-05T{second}.000000Z") + b"\n"


def ids(batches: list[Batch]) -> list[int]:
    found = decode_lines([text for batch in batches for text in batch.lines])
    assert found.dead == []
    return [int(e.auditID.removeprefix("id-")) for e in found.events]


class Writer:
    """Writes a log as an API server does, and rotates it in the ways there are."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.log"
        self.written = 0
        self._rotations = 0
        self.path.touch()

    def write(self, count: int = 1) -> None:
        with self.path.open("ab") as file:
            for _ in range(count):
                file.write(line(self.written))
                self.written += 1

    def rename(self) -> Path:
        self._rotations += 1
        old = self.path.with_name(f"audit-2026-01-05T00-00-{self._rotations:02d}.000.log")
        self.path.rename(old)
        self.path.touch()
        return old

    def rename_and_pack(self) -> Path:
        old = self.rename()
        packed = old.with_name(old.name + ".gz")
        packed.write_bytes(gzip.compress(old.read_bytes()))
        old.unlink()
        return packed

    def copy_and_truncate(self) -> Path:
        self._rotations += 1
        copy = self.path.with_name(f"audit.log.{1000 - self._rotations}")
        shutil.copy(self.path, copy)
        os.truncate(self.path, 0)
        return copy


ROTATIONS = [Writer.rename, Writer.rename_and_pack, Writer.copy_and_truncate]


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


@pytest.fixture
def gaps() -> list[str]:
    return []


def test_lines_come_as_they_are_written_and_half_a_line_waits(writer: Writer, gaps: list[str]) -> None:
    follower = Follower(writer.path, on_gap=gaps.append)
    assert list(follower.poll()) == []
    writer.write(3)
    whole = line(3)
    with writer.path.open("ab") as file:
        file.write(whole[:100])
    assert ids(list(follower.poll())) == [0, 1, 2]
    assert list(follower.poll()) == []
    with writer.path.open("ab") as file:
        file.write(whole[100:])
    (batch,) = follower.poll()
    assert (ids([batch]), batch.first_line) == ([3], 4)
    assert gaps == []


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "audit.log")
    assert list(follower.poll()) == []
    writer = Writer(tmp_path)
    writer.write(2)
    assert ids(list(follower.poll())) == [0, 1]


@pytest.mark.parametrize("rotate", ROTATIONS, ids=lambda rotate: rotate.__name__)
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_rotation_loses_and_repeats_nothing(
    writer: Writer, gaps: list[str], rotate: Callable[[Writer], Path], restart: bool
) -> None:
    follower = Follower(writer.path, on_gap=gaps.append)
    got: list[Batch] = []
    writer.write(50)
    got += follower.poll()
    for _ in range(3):
        writer.write(20)  # not read before it is rotated away
        rotate(writer)
        writer.write(5)
        if restart:
            follower.close()
            follower = Follower(writer.path, got[-1].position, on_gap=gaps.append)
        got += follower.poll()
    assert ids(got) == list(range(writer.written))
    assert gaps == []


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_several_rotations_between_two_looks(writer: Writer, gaps: list[str], restart: bool) -> None:
    follower = Follower(writer.path, on_gap=gaps.append)
    writer.write(10)
    got = list(follower.poll())
    for rotate in (Writer.rename, Writer.rename_and_pack, Writer.copy_and_truncate, Writer.rename):
        writer.write(30)
        rotate(writer)
    writer.write(4)
    if restart:
        follower = Follower(writer.path, got[-1].position, on_gap=gaps.append)
    got += follower.poll()
    assert ids(got) == list(range(writer.written))
    assert gaps == []


def test_stopping_at_any_batch_of_a_rotated_file_goes_on_there(
    writer: Writer, gaps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.follow._BLOCK_BYTES", 2500)  # so that a file is many batches
    writer.write(20)
    follower = Follower(writer.path)
    got = [next(follower.poll())]
    for _ in range(3):
        writer.write(20)
        writer.rename_and_pack()
    writer.write(20)
    while True:
        follower.close()
        follower = Follower(writer.path, got[-1].position, on_gap=gaps.append)
        batch = next(follower.poll(), None)
        if batch is None:
            break
        got.append(batch)
    assert ids(got) == list(range(writer.written))
    assert len(got) > 20
    assert gaps == []


def test_truncation_is_noticed_even_if_the_log_has_grown_beyond_where_it_was(
    writer: Writer, gaps: list[str]
) -> None:
    follower = Follower(writer.path, on_gap=gaps.append)
    writer.write(3)
    got = list(follower.poll())
    writer.write(2)
    writer.copy_and_truncate()
    writer.write(30)
    got += follower.poll()
    assert ids(got) == list(range(35))
    assert gaps == []


def test_a_file_with_the_same_inode_is_not_taken_for_the_old_one(writer: Writer, gaps: list[str]) -> None:
    follower = Follower(writer.path, on_gap=gaps.append)
    writer.write(5)
    got = list(follower.poll())
    status = writer.path.stat()
    writer.rename_and_pack()
    writer.write(9)
    position = Position(
        **{**_fields(got[-1].position), "device": status.st_dev, "inode": writer.path.stat().st_ino}
    )
    got += Follower(writer.path, position, on_gap=gaps.append).poll()
    assert ids(got) == list(range(14))
    assert gaps == []


def _fields(position: Position) -> dict[str, object]:
    return {name: getattr(position, name) for name in Position.__dataclass_fields__}


def test_a_rotated_file_that_was_removed_unread_is_told(writer: Writer, gaps: list[str]) -> None:
    writer.write(5)
    got = list(Follower(writer.path).poll())
    writer.write(5)
    writer.rename().unlink()
    writer.write(5)
    got += Follower(writer.path, got[-1].position, on_gap=gaps.append).poll()
    assert ids(got) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert len(gaps) == 1
    assert "Keep rotated audit logs longer" in gaps[0]


def test_a_damaged_rotated_file_is_told_and_the_rest_is_read(writer: Writer, gaps: list[str]) -> None:
    writer.write(5)
    got = list(Follower(writer.path).poll())
    writer.write(500)
    packed = writer.rename_and_pack()
    packed.write_bytes(packed.read_bytes()[:-2000])
    writer.write(1)
    got += Follower(writer.path, got[-1].position, on_gap=gaps.append).poll()
    assert ids(got)[-1] == 505
    assert len(gaps) == 1
    assert "cannot be read to its end" in gaps[0]


def test_a_last_line_without_newline_is_given_up_waiting_for_when_its_file_is_rotated(writer: Writer) -> None:
    writer.write(1)
    follower = Follower(writer.path)
    with writer.path.open("ab") as file:
        file.write(line(1)[:-1])
    got = list(follower.poll())
    assert ids(got) == [0]
    writer.written = 2
    writer.rename()
    writer.write(1)
    got += follower.poll()
    assert ids(got) == [0, 1, 2]


def test_a_line_longer_than_any_event_is_cut_and_costs_no_other(writer: Writer) -> None:
    writer.write(1)
    follower = Follower(writer.path)
    with writer.path.open("ab") as file:
        file.write(b'{"x":"' + b"y" * (2 * MAX_EVENT_BYTES + 3_000_000))
        file.flush()
        got = list(follower.poll())
        file.write(b'z"}\n')
    writer.write(2)
    got += follower.poll()
    numbered = [(batch.first_line + i, text) for batch in got for i, text in enumerate(batch.lines)]
    assert [number for number, _ in numbered] == [1, 2, 3, 4]
    decoded = decode_lines([text for _, text in numbered])
    assert [e.auditID for e in decoded.events] == ["id-0", "id-1", "id-2"]
    assert [letter.reason for letter in decoded.dead] == [f"longer than {MAX_EVENT_BYTES} bytes"]


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state" / "audit.checkpoint")
    assert checkpoint.load() == (None, {})
    position = Position(1, 2, 3, 4, "ab", 3)
    checkpoint.save(position, {"written": 7})
    assert checkpoint.load() == (position, {"written": 7})
    assert [file.name for file in checkpoint.path.parent.iterdir()] == ["audit.checkpoint"]
    checkpoint.path.write_text("{}")
    with pytest.raises(KubehabitError, match="Delete it"):
        checkpoint.load()


def test_following_ends_when_it_is_told_to(writer: Writer) -> None:
    writer.write(2)
    stop = threading.Event()
    got: list[Batch] = []
    for batch in Follower(writer.path).follow(stop, seconds=0.01):
        got.append(batch)
        stop.set()
    assert ids(got) == [0, 1]


COPIER = """
import sys, threading
from pathlib import Path
from data.follow import Checkpoint, Follower
log, out, state = map(Path, sys.argv[1:])
checkpoint = Checkpoint(state)
position, note = checkpoint.load()
with open(out, "ab") as file:
    file.truncate(note.get("written", 0))  # what was written after the last checkpoint is written again
    for batch in Follower(log, position).follow(threading.Event(), seconds=0.005):
        file.write(b"".join(line + b"\\n" for line in batch.lines))
        file.flush()
        checkpoint.save(batch.position, {"written": file.tell()})
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_any_moment_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    writer = Writer(tmp_path)
    out, state = tmp_path / "copy" / "out", tmp_path / "copy" / "state"
    out.parent.mkdir()
    command = [sys.executable, "-c", COPIER, str(writer.path), str(out), str(state)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)

    process, kills = start(), 0
    try:
        writer.write()
        while not state.exists():  # from here on nothing may be missed
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.01)
        for step in range(60):
            writer.write(chance.randrange(1, 40))
            if chance.random() < 0.25:
                chance.choice(ROTATIONS)(writer)
            time.sleep(chance.random() * 0.03)
            if step % 12 == 11:
                until = time.monotonic() + chance.random() * 1.2
                while time.monotonic() < until:
                    writer.write()
                    time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                process = start()
        writer.write(3)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if out.exists() and out.read_bytes().count(b"\n") >= writer.written:
                break
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.05)
        time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    copied = [int(json.loads(text)["auditID"].removeprefix("id-")) for text in out.read_bytes().splitlines()]
    assert copied == list(range(writer.written))
    assert kills == 5
