"""The copy of an event store in object storage, as Hive partitions that DuckDB, Spark and Trino read as they are.

    cluster=prod/date=2026-11-24/<n>-<level>.parquet    a file of the store, byte by byte; the day is the one it was sealed on
    cluster=prod/_ledger/<line>.jsonl                   the ledger from that line on
    cluster=prod/_ledger/head.json                      its head when the last of these was written
    cluster=prod/_ledger/blocks/<n>-<level>.msgpack     that file's part of `blocks`: name -> content

A file is copied once it will not be merged any more, read back, compared with its checksum, and then noted in the ledger. The
copy of the ledger is written after the files that it names, so that a reader finds all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from data.errors import KubehabitError
from serving.forensics.catalog import Catalog, Segment, StoredFile
from serving.forensics.duckdb import connect
from serving.forensics.ledger import Head, LedgerEntry, read_head, read_lines
from serving.forensics.store_place import StorePlace, checksum_of
from serving.storage.object_files import ObjectFiles

if TYPE_CHECKING:
    import duckdb

_LEDGER = "_ledger"
_HEAD = f"{_LEDGER}/head.json"


class ArchiveError(KubehabitError):
    """The copy cannot be written or read."""


def open_files(url: str) -> ObjectFiles:
    """The files below a URL; raises KubehabitError."""
    return ObjectFiles(url, _failed)


def copied_names(files: ObjectFiles) -> set[str]:
    """Names of the Parquet files of a copy; raises ArchiveError."""
    return {name for day in files.folders("") for name in files.names(day) if name.endswith(".parquet")}


def _failed(what: str, error: Exception) -> ArchiveError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return ArchiveError(f"The archive of events: {what} cannot be used ({reason}). Check events.archive.")


class Archive:
    """Writes the copy.

    Args:
        url: with the cluster.
        folder: of the store.

    Raises:
        KubehabitError: it cannot be reached, or is that of another store.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._files = open_files(url)
        #: The last line of the ledger that the copy has, and the last whose replaced files were deleted; -1 before the first.
        self.line, self.cleared = self._last_line(), -1

    def _last_line(self) -> int:
        if _HEAD not in self._files.names(_LEDGER):
            return -1
        head = _decoded(self._files.read(_HEAD))
        with suppress(StopIteration, msgspec.MsgspecError):
            _, line = next(islice(read_lines(self._folder), head.number, None))
            if msgspec.json.decode(line)["hash"] == head.hash:
                return head.number
        raise ArchiveError(
            f"{self.url} holds the events of another store: its ledger goes on after the one here, or is not the same. Name "
            "another URL or cluster in events.archive."
        )

    def add(self, file: StoredFile, segments: Sequence[Segment]) -> None:
        """Copy a file, and read the copy back.

        Raises:
            ArchiveError: it could not be written, or the file or its copy is not what the ledger says.
            OSError: the file cannot be read.
        """
        path, to = self._folder / file.name, file.in_archive.name
        expected = (file.size, file.sha256)
        if checksum_of(path) != expected:
            raise ArchiveError(
                f"{file.name} is not as it was sealed, so it is not copied. See `kubehabit verify`."
            )
        self._files.write(_blocks_of(to), msgspec.msgpack.encode(self._blocks(segments)))
        self._files.upload(to, path)
        if self._files.checksum(to) != expected:
            raise ArchiveError(f"The copy of {file.name} in {self.url} is not what was sent.")

    def _blocks(self, segments: Sequence[Segment]) -> dict[str, bytes]:
        blocks: dict[str, bytes] = {}
        for name in (name for segment in segments for name in segment.block_files):
            with suppress(FileNotFoundError):  # `verify` says that it is missing
                blocks[name] = (self._folder / name).read_bytes()
        return blocks

    def write_ledger(self) -> None:
        """Copy the lines of the ledger that the copy does not have, then its head; raises ArchiveError."""
        head = read_head(self._folder)
        if head is None or head.number <= self.line:
            return
        lines = islice(read_lines(self._folder), self.line + 1, head.number + 1)
        content = b"".join(line for _, line in lines)
        self._files.write(f"{_LEDGER}/{self.line + 1:010d}.jsonl", content)
        self._files.write(_HEAD, msgspec.json.encode(head))
        self.line = head.number

    def remove(self, names: Sequence[str]) -> None:
        """Delete files that others took the place of."""
        for name in names:
            self._files.delete(name)
            self._files.delete(_blocks_of(name))


class ArchivedStore(StorePlace):
    """The copy as a store to read; its ledger is fetched when it is opened.

    Args:
        url: with the cluster, as in `s3://bucket/events/cluster=prod`.

    Raises:
        KubehabitError: it cannot be reached, or there is no copy.
    """

    def __init__(self, url: str) -> None:
        self._kept = TemporaryDirectory(prefix="kubehabit-")  # removed when nothing refers to it any more
        super().__init__(Path(self._kept.name).resolve())
        (self.folder / "blocks").mkdir()
        self._files = open_files(url)
        # Listed first: what is added from now on is not looked for.
        self._names = copied_names(self._files)
        if _HEAD not in self._files.names(_LEDGER):
            raise ArchiveError(
                f"There are no archived events in {url}. Name the cluster as well: s3://bucket/events/cluster=prod."
            )
        raw = self._files.read(_HEAD)  # before the lines, which are written first
        parts = [name for name in self._files.names(_LEDGER) if name.endswith(".jsonl")]
        lines = b"".join(map(self._files.read, parts)).splitlines(keepends=True)
        # Lines behind the head are those of a copy that was not finished.
        (self.folder / "ledger.jsonl").write_bytes(b"".join(lines[: _decoded(raw).number + 1]))
        (self.folder / "head.json").write_bytes(raw)

    def seen(self, catalog: Catalog) -> Catalog:
        """The catalog with the files of the copy."""
        begin = catalog.archived[0].first if catalog.archived else 0
        return replace(catalog, files=list(catalog.archived), kept_from=begin)

    def names(self) -> set[str]:
        """Names of the Parquet files that were there when it was opened."""
        return self._names

    def named(self, _entries: Sequence[LedgerEntry]) -> set[str]:
        """Nothing: what the copy may hold is in the catalog."""
        return set()

    def has(self, name: str) -> bool:
        """Whether a Parquet file is there."""
        return name in self._names

    def checksum(self, name: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of a Parquet file."""
        return self._files.checksum(name)

    def address(self, name: str) -> str:
        """Where the database finds a Parquet file."""
        return f"{self._files.place}/{name}"

    def fetch_blocks(self, file: StoredFile, segments: Sequence[Segment]) -> None:
        """Fetch the roots of a file's blocks, as far as they are there and can be read."""
        blocks: dict[str, bytes] = {}
        with suppress(KubehabitError, msgspec.MsgspecError):
            blocks = msgspec.msgpack.decode(self._files.read(_blocks_of(file.name)), type=dict[str, bytes])
        for name in (name for segment in segments for name in segment.block_files):
            if name in blocks:
                (self.folder / name).write_bytes(blocks[name])

    def connect(self, memory_mb: int, threads: int) -> duckdb.DuckDBPyConnection:
        """A database that can read the copy and its ledger, and nothing else."""
        return connect(self.folder, memory_mb, threads, objects=self._files)


def _blocks_of(name: str) -> str:
    """Name of the file with the blocks of a Parquet file."""
    return f"{_LEDGER}/blocks/{name.rpartition('/')[2].removesuffix('.parquet')}.msgpack"


def _decoded(raw: bytes) -> Head:
    try:
        head = msgspec.json.decode(raw, type=Head)
        if head.number < 0:
            raise ValueError("its number is negative")
    except (msgspec.MsgspecError, ValueError) as error:
        raise ArchiveError(f"The head of the archive's ledger cannot be read: {error}.") from error
    return head
