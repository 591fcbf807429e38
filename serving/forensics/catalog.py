"""What the ledger says is in the store now: which files hold which records, and which records were sealed together."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from serving.forensics.ledger import LedgerEntry


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One Parquet file.

    Attributes:
        name: path below the store's folder.
        first, count: its records by number.
        earliest, latest: span of its events' times, microseconds since 1970 UTC.
        size: bytes.
        sha256: checksum of the file, hexadecimal.
        level: how often its records have been merged into a larger file.
    """

    name: str
    first: int
    count: int
    earliest: int
    latest: int
    size: int
    sha256: str
    level: int = 0

    @property
    def end(self) -> int:
        """Number after its last record."""
        return self.first + self.count

    def to_dict(self) -> dict[str, Any]:
        """As the ledger has it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Segment:
    """Records that were sealed together: `root` is that of the Merkle tree over them, `line` its line in the ledger."""

    first: int
    count: int
    root: str
    line: int

    @property
    def end(self) -> int:
        """Number after its last record."""
        return self.first + self.count


@dataclass(slots=True)
class Catalog:
    """The ledger read from its beginning.

    Attributes:
        segments: those that have been sealed, dropped ones included, by number of their first record.
        files: what is there now, by number of their first record.
        kept_from: number of the first record that has not been dropped.
        lines: lines of the ledger read.
    """

    segments: list[Segment] = field(default_factory=list)
    files: list[StoredFile] = field(default_factory=list)
    kept_from: int = 0
    lines: int = 0

    @property
    def end(self) -> int:
        """Number that the next record gets."""
        return self.segments[-1].end if self.segments else 0

    def read(self, entries: Iterable[LedgerEntry]) -> None:
        """Take in entries that follow those read before.

        Raises:
            KeyError, TypeError: an entry lacks what its kind needs.
        """
        for entry in entries:
            said = entry.fields
            if said["kind"] == "sealed":
                self.segments.append(Segment(said["first"], said["count"], said["root"], entry.number))
                self.files.append(StoredFile(**said["file"]))
            elif said["kind"] == "compacted":
                gone = set(said["files"])
                into = StoredFile(**said["into"])
                at = next(i for i, file in enumerate(self.files) if file.name in gone)
                self.files = [file for file in self.files if file.name not in gone]
                self.files.insert(at, into)
            elif said["kind"] == "dropped":
                gone = set(said["files"])
                self.files = [file for file in self.files if file.name not in gone]
                self.kept_from = said["first"] + said["count"]
            self.lines = entry.number + 1

    def segments_of(self, file: StoredFile) -> list[Segment]:
        """The segments whose records a file holds."""
        start = bisect_left(self.segments, file.first, key=lambda segment: segment.first)
        end = bisect_left(self.segments, file.end, key=lambda segment: segment.first)
        return self.segments[start:end]

    def segment_at(self, number: int) -> int | None:
        """Position in `segments` of the one that a record was sealed in; None if it was not yet."""
        if number >= self.end:
            return None
        return bisect_right(self.segments, number, key=lambda segment: segment.first) - 1
