"""Which files of the event store are merged, and which are deleted because of their age or size."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from itertools import pairwise, takewhile

from serving.forensics import clock
from serving.forensics.catalog import StoredFile
from serving.settings import EventSettings

# Largest merged file.
_FILE_RECORDS = 2_000_000
# Files of one level that are merged into one.
_MERGED = 32
_HOUR, _DAY = 3_600_000_000, 86_400_000_000
# Deleted by age in an hour at most: a share of what is stored, or so many bytes.
_DROPPED_SHARE = 0.02
_DROPPED_BYTES = 16 << 20


class AgeGuard:
    """Knows from the times of the ledger's lines whether events may be deleted by age now."""

    def __init__(self) -> None:
        # Times of the ledger's lines, and of the last that dropped events by age: microseconds since 1970 UTC.
        self._line_times, self._aged = array("q"), 0
        self._opened_line, self._clock_offset = 0, 0

    def add_lines(self, times: Sequence[int], dropped_by_age: Sequence[bool]) -> None:
        """Note further lines of the ledger."""
        self._line_times.extend(times)
        for moment, aged in zip(times, dropped_by_age, strict=True):
            if aged:
                self._aged = moment

    def begin(self, line: int) -> None:
        """Note the line of the ledger that says that the store was opened, now."""
        self._opened_line = line
        self._clock_offset = clock.now() - time.monotonic_ns() // 1000

    def may_drop(self) -> bool:
        """Whether events may be deleted by age: not within an hour of the last time, nor a day of a jump of the clock."""
        now = clock.now()
        times = self._line_times
        # While the clock goes on evenly, two lines far apart are no jump, but a time without events.
        even = abs(now - time.monotonic_ns() // 1000 - self._clock_offset) < _DAY
        seen = times[: self._opened_line + 1] if even else [*times, now]
        jumps = [moment for before, moment in pairwise(seen) if abs(moment - before) > _DAY]
        recent = 0 <= now - self._aged < _HOUR
        return not (jumps and now - jumps[-1] < _DAY) and not recent


def droppable(
    files: Sequence[StoredFile], received: Sequence[str], settings: EventSettings, by_age: bool
) -> tuple[list[StoredFile], str]:
    """The oldest files beyond the limits of age and size, and which of the two is the reason.

    Args:
        files: all, by first record; the last one stays.
        received: when the last record of each of the others was received, at the latest.
        by_age: whether files may be deleted because of their age, of which little goes at once.
    """
    stored = sum(file.size for file in files)
    excess = stored - settings.max_bytes
    allowed = max(stored * _DROPPED_SHARE, _DROPPED_BYTES) if by_age else 0
    aged: list[StoredFile] = []
    gone: list[StoredFile] = []
    for file, moment in zip(files[:-1], received, strict=True):
        old = moment < clock.written(clock.now() - int(settings.retention_days * _DAY))
        within = sum(one.size for one in aged) + file.size <= allowed or (allowed and not aged)
        if excess <= 0 and not (old and within):
            break
        if old:
            aged.append(file)
        gone.append(file)
        excess -= file.size
    return gone, "age" if gone == aged else "size"


def settled(files: Sequence[StoredFile], today: str) -> list[StoredFile]:
    """The oldest files, by first record, up to the first that may still be merged."""
    merged = {file.name for run in mergeable(files, today) for file in run}
    return list(takewhile(lambda file: file.name[:10] < today and file.name not in merged, files))


def mergeable(files: Sequence[StoredFile], today: str) -> list[list[StoredFile]]:
    """Groups of adjacent files of one day to merge.

    Of today, full groups of one level, so that a record is rewritten only a few times; of past days, all that fit into one file.
    """
    runs: list[list[StoredFile]] = []
    for file in files:
        day = file.name[:10]
        run = runs[-1] if runs else []
        if (
            run
            and run[0].name[:10] == day
            and (day != today or (run[0].level == file.level and len(run) < _MERGED))
            and sum(one.count for one in run) + file.count <= _FILE_RECORDS
        ):
            run.append(file)
        else:
            runs.append([file])
    return [run for run in runs if len(run) >= (_MERGED if run[0].name[:10] == today else 2)]
