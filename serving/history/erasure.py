"""Erases one person from the history."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from data.errors import KubehabitError
from data.principals.person import Person

_TABLES = ("hours", "days", "additions")


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            yield file
    except sqlite3.Error as error:
        raise KubehabitError(
            f"The history in {path} cannot be read ({error}). Check history.path."
        ) from error


def _ids(file: sqlite3.Connection, person: Person) -> list[int]:
    if not file.execute("SELECT 1 FROM sqlite_schema WHERE name = 'principals'").fetchone():
        return []
    marks = ",".join("?" * len(person.spellings))
    return [
        row[0] for row in file.execute(f"SELECT id FROM principals WHERE name IN ({marks})", person.spellings)
    ]


def rows_of(path: Path, person: Person) -> int:
    """Rows that the history has of a person; raises KubehabitError."""
    if not path.exists():
        return 0
    with _opened(path) as file:
        ids = _ids(file, person)
        counts = (
            file.execute(f"SELECT count(*) FROM {table} WHERE principal = ?", [number]).fetchone()[0]
            for number in ids
            for table in _TABLES
        )
        return len(ids) + int(sum(counts))


def erase_history(path: Path, person: Person) -> int:
    """Delete a person's rows from the history; returns how many. Raises KubehabitError."""
    gone = rows_of(path, person)
    if not gone:
        return 0
    with _opened(path) as file:
        file.execute("BEGIN IMMEDIATE")
        for number in _ids(file, person):
            for table in _TABLES:
                file.execute(f"DELETE FROM {table} WHERE principal = ?", [number])
            file.execute("DELETE FROM principals WHERE id = ?", [number])
        file.execute("COMMIT")
        file.execute("VACUUM")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return gone
