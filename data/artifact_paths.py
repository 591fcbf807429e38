"""Artifact paths of an MLflow store in a SQLite file that was moved or copied together with its artifacts.

MLflow stores absolute paths. Without this, a home that was copied would read the artifacts of the original, and a training in it
would write there.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from data.paths import ARTIFACTS

_log = logging.getLogger("kubehabit.registry")
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"


def relocate(file: Path) -> int:
    """Let a store refer to the artifacts in the folder beside it; returns the number of paths that were changed.

    Only paths into a folder of the same name elsewhere are changed, and only if what they name lies beside the store
    as well. A store that cannot be written is left as it is, with a warning in the log.
    """
    own = file.absolute().parent / ARTIFACTS
    if not file.is_file() or not own.is_dir():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=5)) as store:
            changes = [
                (table, column, before, after)
                for table, column in _columns(store)
                for before, after in _moved(store, table, column, own)
            ]
            with store:
                for table, column, before, after in changes:
                    store.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (after, before))
    except sqlite3.Error as error:
        _log.warning(
            "the registry may refer to artifacts of another folder, and cannot be changed",
            extra={"path": str(file), "reason": str(error)},
        )
        return 0
    if changes:
        _log.info(
            "the registry refers to its own artifacts now", extra={"path": str(file), "paths": len(changes)}
        )
    return len(changes)


def _columns(store: sqlite3.Connection) -> list[tuple[str, str]]:
    tables = {name for (name,) in store.execute(_TABLES)}
    return [
        (table, column)
        for table, column in _COLUMNS
        if table in tables and column in {row[1] for row in store.execute(f"PRAGMA table_info({table})")}
    ]


def _moved(store: sqlite3.Connection, table: str, column: str, own: Path) -> list[tuple[str, str]]:
    """Paths of a column that name something of another folder that lies in our own as well, before and after."""
    found = []
    for (uri,) in store.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE 'file:%'"):
        before, folder, rest = unquote(urlsplit(uri).path).rpartition(f"/{ARTIFACTS}")
        if not folder or (rest and rest[0] != "/") or Path(before) == own.parent:
            continue
        here = own / rest.lstrip("/")
        if here.exists():
            found.append((uri, here.as_uri()))
    return found
