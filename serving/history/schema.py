"""The tables of the history, and what its columns mean."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from data.errors import KubehabitError
from detection.calibration import TAIL_SHARE
from detection.fit import USUAL

#: Of the tables below.
_VERSION = 3

#: Microseconds.
HOUR = 3_600_000_000

#: Hours.
DAY = 24

#: Evidence of a reconstruction error, -log10 of its p-value, at which the counts b0, b1, … are parted.
#:
#: Up to the fifth edge the p-value is not resolved: evidence is how near an action comes to its principal's one in
#: twenty. Beyond, one action in 100, 1,000 and 10,000 is expected to reach the sixth, seventh and eighth edge.
EDGES = (*(share * USUAL for share in (0.2, 0.4, 0.6, 0.8, 1.0)), 2.0, 3.0, 4.0)

BINS = len(EDGES) + 1

#: Share of actions that calibration expects beyond each of the last four edges.
EXPECTED = (TAIL_SHARE, 1e-2, 1e-3, 1e-4)

_COUNTS = ", ".join(f"b{number} INTEGER NOT NULL" for number in range(BINS))
_SUMS = f"actions INTEGER NOT NULL, flagged INTEGER NOT NULL, nearest REAL NOT NULL, {_COUNTS}"

#: Times are microseconds since 1970 UTC, hours and days are counted since then.
#:
#: `nearest` is the greatest share of its threshold that an action's evidence reached. `additions` are the actions with evidence
#: (decades), the share of the calibrated threshold reached by then, and the principal's earlier actions (NULL if not recorded).
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS principals (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, peers TEXT NOT NULL,
    first INTEGER, last INTEGER, actions INTEGER NOT NULL DEFAULT 0, flagged INTEGER NOT NULL DEFAULT 0,
    trained INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS principals_last ON principals (last, id);
CREATE INDEX IF NOT EXISTS principals_peers ON principals (peers);
CREATE TABLE IF NOT EXISTS hours (
    principal INTEGER NOT NULL, hour INTEGER NOT NULL, {_SUMS}, PRIMARY KEY (principal, hour)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hours_hour ON hours (hour);
CREATE TABLE IF NOT EXISTS days (
    principal INTEGER NOT NULL, day INTEGER NOT NULL, {_SUMS}, PRIMARY KEY (principal, day)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS days_day ON days (day);
CREATE TABLE IF NOT EXISTS totals (hour INTEGER PRIMARY KEY, unknown INTEGER NOT NULL, {_SUMS});
CREATE TABLE IF NOT EXISTS judges (
    id INTEGER PRIMARY KEY, version TEXT NOT NULL, horizons TEXT NOT NULL, person TEXT NOT NULL, system TEXT NOT NULL,
    scale REAL NOT NULL, activity TEXT NOT NULL DEFAULT '[]', UNIQUE (version, horizons, person, system, scale)
);
CREATE TABLE IF NOT EXISTS additions (
    number INTEGER PRIMARY KEY, principal INTEGER NOT NULL, time INTEGER NOT NULL, judge INTEGER NOT NULL,
    person INTEGER NOT NULL, new REAL NOT NULL, wrong REAL NOT NULL, reached REAL NOT NULL, actions INTEGER
);
CREATE INDEX IF NOT EXISTS additions_time ON additions (time);
CREATE INDEX IF NOT EXISTS additions_principal ON additions (principal);
CREATE INDEX IF NOT EXISTS additions_near ON additions (reached) WHERE reached >= 0.3;
"""


_OWN = frozenset(("meta", "principals", "hours", "days", "totals", "judges", "additions"))


class HistoryError(KubehabitError):
    """The history cannot be opened or read."""


def _make(file: sqlite3.Connection) -> None:
    """Create the tables, in place of those of another version: the history is only for charts and previews.

    Raises:
        sqlite3.Error: the file holds tables of something else, such as the alert store. They are left alone.
    """
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version == 2:  # what it lacks may be absent
        file.execute("ALTER TABLE judges ADD COLUMN activity TEXT NOT NULL DEFAULT '[]'")
        file.execute("ALTER TABLE additions ADD COLUMN actions INTEGER")
        file.execute(f"PRAGMA user_version = {_VERSION}")
    elif version != _VERSION:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        if strange := sorted(set(tables) - _OWN):
            raise sqlite3.DatabaseError(f"it is no history, as it has a table {strange[0]}")
        for name in tables:
            file.execute(f'DROP TABLE "{name}"')
        file.execute(f"PRAGMA user_version = {_VERSION}")
    file.executescript(SCHEMA)


def connect(path: Path, *, to_write: bool) -> sqlite3.Connection:
    """Open the file; for writing, it is created, private to its owner.

    Raises:
        HistoryError: it cannot be used.
    """
    try:
        if to_write:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            _make(file)
        else:
            if not path.exists():
                raise HistoryError(
                    f"There is no history in {path}: `kubehabit serve` makes it. Name another with history.path."
                )
            file = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            file.row_factory = sqlite3.Row
        file.execute("PRAGMA busy_timeout = 5000")
        # Small: a query reads its rows once.
        file.execute("PRAGMA cache_size = -512")
    except (OSError, sqlite3.Error) as error:
        raise HistoryError(
            f"The history in {path} cannot be opened ({error}). Check history.path (by default in state.path), or move that "
            "file away: what was kept in it is lost, and verdicts are the same."
        ) from error
    return file
