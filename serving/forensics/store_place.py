"""Where an event store is read: a folder of this machine, or (`serving.forensics.archive`) its copy in object storage."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING

from serving.forensics.catalog import Catalog, Segment, StoredFile
from serving.forensics.duckdb import connect
from serving.forensics.ledger import LedgerEntry

if TYPE_CHECKING:
    import duckdb

#: Folder of a store for files that the ledger does not account for.
SET_ASIDE = "set-aside"


class StorePlace:
    """A store in a folder.

    Attributes:
        folder: has the ledger and its head, `blocks`, and the records that are not sealed yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seen(self, catalog: Catalog) -> Catalog:
        """The catalog of the ledger with the files that are kept in this place."""
        return catalog

    def names(self) -> set[str]:
        """Names of the Parquet files that are there."""
        return {
            path.relative_to(self.folder).as_posix()
            for pattern in ("*/*.parquet", "*/*/*.parquet")
            for path in self.folder.glob(pattern)
            if SET_ASIDE not in path.parts
        }

    def named(self, entries: Sequence[LedgerEntry]) -> set[str]:
        """Names of all Parquet files that lines of the ledger name: also of those merged, dropped or sealed since."""
        found: set[str] = set()
        for said in (entry.fields for entry in entries):
            found.update(said.get("files", ()))
            for written in (said.get("file"), said.get("into")):
                name = written.get("name") if isinstance(written, dict) else written
                if isinstance(name, str):
                    found.add(name)
        return found

    def has(self, name: str) -> bool:
        """Whether a Parquet file is there."""
        return (self.folder / name).exists()

    def checksum(self, name: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of a Parquet file."""
        return checksum_of(self.folder / name)

    def address(self, name: str) -> str:
        """Where the database finds a Parquet file."""
        return str(self.folder / name)

    def fetch_blocks(self, file: StoredFile, segments: Sequence[Segment]) -> None:
        """Have the files of a Parquet file's segments in `blocks`, as far as they exist."""

    def connect(self, memory_mb: int, threads: int) -> duckdb.DuckDBPyConnection:
        """A database that can read the store, and nothing else."""
        return connect(self.folder, memory_mb, threads)


def place_of(store: Path | StorePlace) -> StorePlace:
    """A store by its folder, or as it was opened."""
    return store if isinstance(store, StorePlace) else StorePlace(store)


def checksum_of(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
        return file.tell(), digest
