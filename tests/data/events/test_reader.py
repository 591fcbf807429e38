"""Reading logs: compression is seen by content, damage costs nothing that could still be read."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from data.errors import KubehabitError
from data.events.audit_event import MAX_EVENT_BYTES
from data.events.reader import DeadLetterFile, open_lines, read_events, read_range
from tests.data.samples import event

LINES = [event(auditID=f"id-{i}") for i in range(9000)]
TEXT = b"\n".join(LINES) + b"\n"


@pytest.fixture
def letters(tmp_path: Path) -> DeadLetterFile:
    return DeadLetterFile(tmp_path / "dead.jsonl")


@pytest.mark.parametrize(
    "pack",
    [
        lambda text: text,
        gzip.compress,
        lambda text: zstandard.compress(text),
        lambda text: zstandard.compress(text[:1000]) + zstandard.compress(text[1000:]),
        lambda text: gzip.compress(text[:1000]) + gzip.compress(text[1000:]) + b"\0" * 512,
    ],
    ids=["plain", "gzip", "zstd", "two zstd frames", "two gzip members"],
)
def test_every_compression_gives_the_same_lines(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    log = tmp_path / "misleading-name.txt"
    log.write_bytes(pack(TEXT))
    assert list(open_lines(log)) == LINES


def test_a_last_line_without_newline_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(TEXT[:-1])
    assert list(open_lines(log))[-1] == LINES[-1]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_truncated_log_gives_what_is_there_and_says_that_it_ends_early(
    tmp_path: Path, letters: DeadLetterFile, pack
) -> None:  # type: ignore[no-untyped-def]
    log = tmp_path / "cut.log"
    packed = pack(TEXT)
    log.write_bytes(packed[: len(packed) // 2])
    read = [e.auditID for chunk in read_events(log, letters) for e in chunk]
    letters.close()
    assert read == [f"id-{i}" for i in range(len(read))]
    assert len(read) > len(LINES) // 3  # half of the bytes hold about half of the lines
    record = json.loads(letters.path.read_text().splitlines()[-1])
    assert "damaged" in record["reason"]
    with pytest.raises(KubehabitError, match="damaged after line"):
        list(open_lines(log))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, lzma.compress, bz2.compress])
def test_a_log_that_is_damaged_at_its_beginning_says_so(
    tmp_path: Path, letters: DeadLetterFile, pack
) -> None:  # type: ignore[no-untyped-def]
    packed = bytearray(pack(LINES[0] + b"\n"))
    packed[14:60] = bytes(46)
    log = tmp_path / "log"
    log.write_bytes(packed)
    assert [*read_events(log, letters)] == []
    assert "damaged" in next(iter(letters.reasons))


def test_unreadable_records_go_to_the_dead_letter_file_with_line_and_reason(
    tmp_path: Path, letters: DeadLetterFile
) -> None:
    log = tmp_path / "log"
    oversized = b'{"x":"' + b"y" * (MAX_EVENT_BYTES * 2) + b'"}'
    log.write_bytes(b"\n".join([LINES[0], b"{oops \xff", LINES[1], oversized, LINES[2]]))
    read = [e.auditID for chunk in read_events(log, letters) for e in chunk]
    letters.close()
    assert read == ["id-0", "id-1", "id-2"]
    records = [json.loads(line) for line in letters.path.read_text().splitlines()]
    assert [(r["line"], r["reason"].split(":")[0]) for r in records] == [
        (2, "not JSON"),
        (4, f"longer than {MAX_EVENT_BYTES} bytes"),
    ]
    assert records[0]["raw"] == "{oops \\xff"
    assert letters.count == 2


def test_no_dead_letters_leave_no_file(tmp_path: Path, letters: DeadLetterFile) -> None:
    log = tmp_path / "log"
    log.write_bytes(TEXT)
    assert sum(map(len, read_events(log, letters))) == len(LINES)
    assert not letters.path.exists()


def test_a_missing_log_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match="Check the path"):
        list(open_lines(tmp_path / "nowhere"))


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    log = tmp_path / "log.gz"
    log.write_bytes(gzip.compress(TEXT))
    seen: list[int] = []
    list(open_lines(log, on_bytes=seen.append))
    assert seen == sorted(seen)
    assert seen[-1] == log.stat().st_size


@pytest.mark.parametrize("size", [1, 700, 4000, 10**6])
def test_ranges_together_read_what_the_whole_holds(
    tmp_path: Path, letters: DeadLetterFile, size: int
) -> None:
    log = tmp_path / "log"
    lines = [LINES[0], b"no event", b"", LINES[1], b'{"logStream":"scheduler-1","message":"x"}', *LINES[2:6]]
    log.write_bytes(b"\n".join(lines))
    length = log.stat().st_size
    counts: list[int] = []
    ids = [
        found.auditID
        for begin in range(0, length, max(size, length // 300))
        for chunk in read_range(
            log, begin, min(begin + max(size, length // 300), length), letters, on_lines=counts.append
        )
        for found in chunk
    ]
    assert ids == [f"id-{i}" for i in range(6)]
    assert sum(counts) == len(lines)
    assert letters.count == 2


def test_a_pretty_printed_event_among_plain_ones_is_read(tmp_path: Path, letters: DeadLetterFile) -> None:
    log = tmp_path / "log"
    pretty = json.dumps(json.loads(event(auditID="pretty")), indent=2).encode()
    log.write_bytes(b"\n".join([LINES[0], pretty, LINES[1]]) + b"\n")
    found = [e.auditID for chunk in read_range(log, 0, log.stat().st_size, letters) for e in chunk]
    assert found == ["id-0", "pretty", "id-1"]
    assert letters.count == 0
