"""What is in the journal survives, and what it cannot keep is refused and never forgotten silently."""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.http.body import decompress
from serving.scoring.journal import Journal, JournalError, JournalFullError, JournalRecord, record

MAX = 1 << 20


def taken(number: int, size: int = 40) -> JournalRecord:
    """A batch that does not compress."""
    body = f"{number}:".encode() + random.Random(number).randbytes(size)
    return record("/v1/audit", body, "", body)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    opened = Journal(folder, MAX)
    yield opened
    opened.close()


def fill(folder: Path, count: int, max_bytes: int = MAX) -> None:
    opened = Journal(folder, max_bytes)
    for number in range(1, count + 1):
        opened.append(taken(number)).result(10)
    opened.close()


def held(folder: Path, max_bytes: int = MAX) -> list[bytes]:
    """Bodies of all records, read by another process' eyes."""
    opened = Journal(folder, max_bytes)
    try:
        return [opened.read(place).body for place in opened.positions(0)]
    finally:
        opened.close()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd", "x-gzip", "identity"])
def test_a_batch_comes_back_as_it_was_sent(journal: Journal, encoding: str) -> None:
    import gzip

    import zstandard

    plain = b'{"kind": "EventList"}' * 100
    packed = {"gzip": gzip.compress, "x-gzip": gzip.compress, "zstd": zstandard.compress}
    body = packed.get(encoding, bytes)(plain)
    place = journal.append(record("/v1/score", body, encoding, plain)).result(10)
    found = journal.read(place)
    assert found.source == "/v1/score"
    assert decompress(found.body, found.encoding, found.size) == plain
    assert len(found.body) < len(plain)
    assert found.arrived == place.arrived


def test_after_a_restart_all_is_there_in_order_and_numbers_go_on(folder: Path) -> None:
    fill(folder, 5)
    again = Journal(folder, MAX)
    assert [place.sequence for place in again.positions(0)] == [1, 2, 3, 4, 5]
    assert [place.sequence for place in again.positions(3)] == [4, 5]
    assert again.append(taken(6)).result(10).sequence == 6
    again.close()
    assert held(folder) == [taken(number).body for number in range(1, 7)]


def test_a_tail_cut_off_anywhere_costs_only_the_record_it_cuts(folder: Path, tmp_path: Path) -> None:
    fill(folder, 3)
    [segment] = segments(folder)
    whole = segment.read_bytes()
    begin = len(whole) - (len(whole) - 28) // 3
    for cut in range(begin, len(whole)):
        copy = tmp_path / "copies" / str(cut)
        copy.mkdir(parents=True)
        (copy / segment.name).write_bytes(whole[:cut])
        opened = Journal(copy, MAX)
        assert [place.sequence for place in opened.positions(0)] == [1, 2]
        assert opened.append(taken(3)).result(10).sequence == 3
        opened.close()
        assert held(copy) == [taken(number).body for number in (1, 2, 3)]


@pytest.mark.parametrize("tail", [b"\0" * 100, b"\xff" * 7])
def test_what_a_crash_left_behind_the_last_record_is_cut_off(folder: Path, tail: bytes) -> None:
    fill(folder, 2)
    [segment] = segments(folder)
    with segment.open("ab") as file:
        file.write(tail)
    assert held(folder) == [taken(1).body, taken(2).body]
    assert not segment.read_bytes().endswith(tail)


def test_a_segment_that_was_only_begun_is_no_obstacle(folder: Path) -> None:
    fill(folder, 2)
    (folder / f"{3:020d}.journal").write_bytes(b"kubeha")
    opened = Journal(folder, MAX)
    assert opened.append(taken(3)).result(10).sequence == 3
    opened.close()
    assert held(folder) == [taken(number).body for number in (1, 2, 3)]


@pytest.mark.parametrize("where", [30, 60, 100])
def test_damage_in_the_middle_is_an_error_and_costs_only_what_is_damaged(
    folder: Path, where: int, caplog: pytest.LogCaptureFixture
) -> None:
    fill(folder, 4)
    [segment] = segments(folder)
    content = bytearray(segment.read_bytes())
    content[where] ^= 0xFF
    segment.write_bytes(bytes(content))
    with caplog.at_level(logging.ERROR):
        found = held(folder)
    assert found == [taken(number).body for number in (2, 3, 4)]
    assert "damaged" in caplog.text


def test_no_body_can_pass_for_a_record(folder: Path) -> None:
    """A hostile client writes what looks like records into its events; damage must not bring them to life."""
    fill(folder, 1)
    forged = segments(folder)[0].read_bytes()[28:]
    opened = Journal(folder, MAX)
    for body in (forged * 3, b"good"):
        opened.append(JournalRecord("/v1/audit", 0, "", len(body), body)).result(10)
    opened.close()
    second = segments(folder)[1]
    content = bytearray(second.read_bytes())
    content[40] ^= 0xFF  # the header of the record that holds the forged ones
    second.write_bytes(bytes(content))
    assert held(folder) == [taken(1).body, b"good"]


def test_a_full_journal_refuses_until_what_is_scored_is_deleted(folder: Path) -> None:
    opened = Journal(folder, 4000)
    last = 0
    while opened.used + 400 < 4000:
        last = opened.append(taken(last, 300)).result(10).sequence
    with pytest.raises(JournalFullError, match=r"journal\.max_mb"):
        opened.append(taken(0, 500))
    assert 3500 < opened.used <= 4000
    assert sum(path.stat().st_size for path in segments(folder)) == opened.used
    opened.prune(last // 2)
    assert opened.append(taken(0, 300)).result(10).sequence == last + 1
    assert [place.sequence for place in opened.positions(last // 2)] == list(range(last // 2 + 1, last + 2))
    opened.close()


def test_one_batch_as_large_as_the_journal_makes_room_for_the_next(folder: Path) -> None:
    opened = Journal(folder, 4000)
    for number in range(1, 6):
        place = opened.append(taken(number, 3000)).result(10)
        assert place.sequence == number
        opened.prune(number)
    opened.close()


def test_numbers_are_not_used_again_after_all_was_scored_and_deleted(folder: Path) -> None:
    opened = Journal(folder, 4000)
    place = opened.append(taken(1, 3000)).result(10)
    opened.prune(place.sequence)
    opened.close()
    again = Journal(folder, 4000)
    again.follow_on(place.sequence)
    assert again.append(taken(2)).result(10).sequence == 2
    again.close()


def test_only_its_owner_can_read_it(folder: Path) -> None:
    fill(folder, 1)
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_two_processes_cannot_share_it(journal: Journal, folder: Path) -> None:
    with pytest.raises(JournalError, match="Another process"):
        Journal(folder, MAX)


def test_batches_that_wait_at_the_same_time_share_one_fsync(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(taken(0)).result(10)
    entered, leave, calls = threading.Event(), threading.Event(), []

    def slow(file: int) -> None:
        calls.append(file)
        entered.set()
        assert leave.wait(10)

    monkeypatch.setattr(os, "fdatasync", slow)
    first = journal.append(taken(1))
    assert entered.wait(10)
    others = [journal.append(taken(number)) for number in range(2, 50)]
    assert not first.done()
    leave.set()
    assert [future.result(10).sequence for future in others] == list(range(3, 51))
    assert len(calls) == 2


@pytest.mark.parametrize("function", ["pwrite", "fdatasync"])
def test_a_batch_that_cannot_be_written_is_refused_and_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    opened = Journal(folder, MAX)
    opened.append(taken(1)).result(10)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(JournalError, match="No space left"):
            opened.append(taken(666)).result(10)
    assert opened.append(taken(2)).result(10).sequence == 2
    opened.close()
    assert held(folder) == [taken(1).body, taken(2).body]
