"""Content of the store according to the ledger: which files hold which records, and which records were sealed together."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from serving.forensics.ledger import LedgerEntry


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One Parquet file.

    Attributes:
        name: path in the store's folder.
        first, count: records by number.
        earliest, latest: span of event times, microseconds since 1970 UTC.
        size: bytes.
        sha256: of the file, hexadecimal.
        level: how often the records have been merged into a larger file.
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

    @property
    def in_archive(self) -> StoredFile:
        """The same file under its name in object storage."""
        return replace(self, name=f"date={self.name[:10]}/{self.name.rpartition('/')[2]}")


@dataclass(frozen=True, slots=True)
class Segment:
    """Records that were sealed together.

    Attributes:
        first, count: records by number.
        root: of their Merkle tree as they are now.
        line: of the ledger that names this root, by number.
        sealed: time of the line that sealed them.
        revisions: erasures in it, the newest last: name of its files in `blocks`, and the root before it.
    """

    first: int
    count: int
    root: str
    line: int
    sealed: str = ""
    revisions: tuple[tuple[str, str], ...] = ()

    @property
    def end(self) -> int:
        """Number after its last record."""
        return self.first + self.count

    @property
    def blocks(self) -> str:
        """File of the roots of its Merkle blocks, by its name in the store's folder."""
        revision = f".{self.revisions[-1][0]}" if self.revisions else ""
        return f"blocks/{self.first}{revision}.blocks"

    @property
    def erased(self) -> list[str]:
        """Files with what erased records hashed to, one for each of `revisions`."""
        return [f"blocks/{self.first}.{revision}.leaves" for revision, _ in self.revisions]

    @property
    def block_files(self) -> list[str]:
        """All of its files in `blocks`."""
        return [self.blocks, *self.erased]


@dataclass(slots=True)
class Catalog:
    """State of the store after reading the ledger from its beginning.

    Attributes:
        segments: all that were sealed, also dropped ones, by first record.
        files: present ones, by first record.
        kept_from: first record that has not been dropped.
        lines: number of ledger lines read.
        archive: URL of the copy in object storage; "" without one.
        archived: files of that copy, by first record, with their names there.
        archived_from: first record of that copy that its retention has not deleted.
        archived_line: the last line that changed it, by number; -1 without one.
    """

    segments: list[Segment] = field(default_factory=list)
    files: list[StoredFile] = field(default_factory=list)
    kept_from: int = 0
    lines: int = 0
    archive: str = ""
    archived: list[StoredFile] = field(default_factory=list)
    archived_from: int = 0
    archived_line: int = -1

    @property
    def end(self) -> int:
        """Number of the next record."""
        return self.segments[-1].end if self.segments else 0

    def read(self, entries: Iterable[LedgerEntry]) -> None:
        """Apply the entries that follow those read before; raises KeyError or TypeError if one lacks fields of its kind."""
        for entry in entries:
            said = entry.fields
            if said["kind"] == "sealed":
                segment = Segment(said["first"], said["count"], said["root"], entry.number, said["time"])
                self.segments.append(segment)
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
            elif said["kind"] == "erased":
                self._replace(said["file"], StoredFile(**said["into"]))
                for changed in said["segments"]:
                    self._revise(changed, said["revision"], entry.number)
            elif said["kind"] == "archived":
                if said["to"] != self.archive:  # a new copy, of all that is still here
                    self.archive, self.archived, self.archived_from = said["to"], [], 0
                file = next(file for file in self.files if file.name == said["file"])
                same = self.archived_in(file)
                rest = [one for one in self.archived if one not in same]
                self.archived = sorted([*rest, file.in_archive], key=lambda one: one.first)
                self.archived_line = entry.number
            elif said["kind"] == "unarchived":
                self.archived_from = said["end"]
                self.archived = [one for one in self.archived if one.first >= self.archived_from]
                self.archived_line = entry.number
            self.lines = entry.number + 1

    def archived_in(self, file: StoredFile) -> list[StoredFile]:
        """Files of the copy with the records of this one."""
        return [one for one in self.archived if one.first < file.end and one.end > file.first]

    def _replace(self, name: str, into: StoredFile) -> None:
        at = next(i for i, file in enumerate(self.files) if file.name == name)
        self.files[at] = into

    def _revise(self, changed: dict[str, Any], revision: str, line: int) -> None:
        at = self.segment_at(changed["first"])
        if at is None:
            raise KeyError(changed["first"])
        was = self.segments[at]
        revisions = (*was.revisions, (revision, changed["before"]))
        self.segments[at] = replace(was, root=changed["root"], line=line, revisions=revisions)

    def segments_of(self, file: StoredFile) -> list[Segment]:
        """The segments in a file."""
        start = bisect_left(self.segments, file.first, key=lambda segment: segment.first)
        end = bisect_left(self.segments, file.end, key=lambda segment: segment.first)
        return self.segments[start:end]

    def segment_at(self, number: int) -> int | None:
        """Index in `segments` of a record's segment; None if it is not sealed yet."""
        if number >= self.end:
            return None
        return bisect_right(self.segments, number, key=lambda segment: segment.first) - 1
