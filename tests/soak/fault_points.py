"""Points at which a process can end or a disk can fail: every call that changes a file, from Python or from SQLite."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

_CALLS = (
    *("fsync", "fdatasync", "pwrite", "replace", "rename", "unlink", "truncate", "ftruncate", "mkdir"),
    "open",
)
_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "BEGIN", "COMMIT", "CREATE", "ALTER", "DROP")
#: What a message of SQLite says for an error of the disk.
_SQLITE = {
    errno.ENOSPC: "database or disk is full",
    errno.EROFS: "attempt to write a readonly database",
    errno.EIO: "disk I/O error",
}
_ROOMS = ("serving.", "data.", "detection.")
_THROUGH = frozenset(("data.durable_file", "serving.process.worker"))


class FaultPoints:
    """Counts the changes that this process makes to files, ends it at one of them, or lets them fail.

    Args:
        kill_at: number of the change at which the process kills itself, before it is made; None for never.
        killing: called with the name of the place just before.

    Attributes:
        failing: errno that every change fails with at the moment; 0 for none.
        count: changes so far.
    """

    def __init__(self, kill_at: int | None = None, killing: Callable[[str], None] = lambda _: None) -> None:
        self._kill_at = kill_at
        self._killing = killing
        self.failing = 0
        self.count = 0

    def install(self) -> None:
        """Watch this process from now on, for good: only for one that was forked for it."""
        for name in _CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))
        connect = sqlite3.connect

        def watched(*arguments: Any, **named: Any) -> sqlite3.Connection:
            return connect(*arguments, **named | {"factory": _connection_of(self)})

        sqlite3.connect = sqlite3.dbapi2.connect = watched  # type: ignore[assignment]

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            if name != "open" or (len(arguments) > 1 and arguments[1] & (os.O_WRONLY | os.O_RDWR)):
                self.passed(name)
                if self.failing:
                    raise OSError(self.failing, os.strerror(self.failing))
            return call(*arguments, **named)

        return watched

    def passed(self, what: str) -> None:
        """Note a change that is about to be made."""
        self.count += 1
        if self.count == self._kill_at:
            self._killing(f"{_place()}: {what}")
            os.kill(os.getpid(), signal.SIGKILL)

    def passed_sql(self, statement: str) -> None:
        """Note a statement, if it changes anything; raises what SQLite would while changes fail."""
        verb = statement.lstrip()[:8].upper()
        if verb.startswith(_CHANGES):
            self.passed(verb.split()[0])
            if self.failing:
                raise sqlite3.OperationalError(_SQLITE[self.failing])


def _connection_of(points: FaultPoints) -> type[sqlite3.Connection]:
    class WatchedCursor(sqlite3.Cursor):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            points.passed_sql(sql)
            return super().execute(sql, *more)

        def executemany(self, sql: str, *more: Any) -> sqlite3.Cursor:
            points.passed_sql(sql)
            return super().executemany(sql, *more)

    class WatchedConnection(sqlite3.Connection):
        def cursor(self, *_: Any) -> sqlite3.Cursor:
            return super().cursor(WatchedCursor)

        def commit(self) -> None:
            if self.in_transaction:
                points.passed_sql("COMMIT")
            super().commit()

    return WatchedConnection


def _place() -> str:
    """The function of kubehabit that makes the change."""
    frame = sys._getframe(2)
    while (back := frame.f_back) is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_ROOMS) and module not in _THROUGH:
            return f"{module}.{frame.f_code.co_qualname}"
        frame = back
    return "elsewhere"
