"""Copies the parts of a service while it runs, so that together they are a home from which it can go on.

The order matters. The journal is copied after the snapshots, or there would be batches that neither has; the alert store after
both, as what a snapshot covers is never scored again; and the event store last, as the journal forgets what that has.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from data.errors import KubehabitError
from data.paths import ARTIFACTS
from kubehabit.backup.manifest import Manifest, copy_file, seal
from kubehabit.backup.parts import ServiceParts
from serving.forensics.catalog import Catalog
from serving.forensics.ledger import Head, LedgerReader

#: What the service renews while it is copied is copied again, at most so often.
_TRIES = 5
_LOCKED_SECONDS = 30.0
#: Made by SQLite, by locks and by files that are being written; each start makes its own.
_PASSING = re.compile(r"(-wal|-shm|\.lock|\.part|\.tmp)$")
#: Of the journal, what is this process's alone: its lock, what it works on, and its name among those that share a database.
#: A copy must not be taken for the original.
_OWN = ("lock", "instance", "quarantine/in-work")


def back_up(places: ServiceParts, to: Path, on_file: Callable[[str], None] = lambda _: None) -> Manifest:
    """Copy a service into an empty folder, whether it runs or not.

    Args:
        places: where its parts lie.
        to: folder; created if missing.
        on_file: called with the name of each file, for progress.

    Raises:
        KubehabitError: the folder is not empty, something cannot be read or written, or there is nothing to copy.
    """
    try:
        to.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(to.iterdir()):
            raise KubehabitError(f"{to} is not empty: name a new folder.")
        if not any(path.exists() for _, path in places.parts()):
            raise KubehabitError("There is nothing to back up: name the service's folder as KUBEHABIT_HOME.")
        copier = _Copier(places, to, on_file)
        copier.copy()
        return seal(to, copier.notes, on_file)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = getattr(error, "filename", None) or to
        raise KubehabitError(f"The backup failed at {where}: {reason}. Delete {to} and try again.") from error


class _Copier:
    def __init__(self, places: ServiceParts, to: Path, on_file: Callable[[str], None]) -> None:
        self._places, self._to, self._on_file = places, to, on_file
        self.notes: list[str] = []

    def copy(self) -> None:
        """Copy every part that there is."""
        self._until_unchanged("snapshots", self._snapshots, self._copy_state)
        if self._places.alerts is None:
            self.notes.append(
                "The alert store is no SQLite file and is not in this backup: dump it now, after this backup (pg_dump)."
            )
        else:
            self._copy_database(self._places.alerts, "alerts.db")
        self._until_unchanged("the ledger", self._ledger, self._copy_events)
        self._copy_folder(self._places.models, "models")
        if (registry := self._places.registry) is None:
            self.notes.append("The model registry is a server and is not in this backup.")
        else:
            self._copy_database(registry, "registry/mlflow.db")
            self._copy_folder(registry.parent / ARTIFACTS, f"registry/{ARTIFACTS}")
        self._copy_file(self._places.tokens, "tokens.json")
        for path, name in zip(self._places.logs, ("dead-letters.jsonl", "access.jsonl"), strict=True):
            for one in sorted(path.parent.glob(f"{path.name}*")):
                if one == path or one.name.removeprefix(f"{path.name}.").isdecimal():
                    self._copy_file(one, name + one.name.removeprefix(path.name))

    def _until_unchanged(self, what: str, state: Callable[[], object], copy: Callable[[], bool]) -> None:
        for _ in range(_TRIES):
            before = state()
            if copy() and state() == before:
                return
        raise KubehabitError(
            f"The service renews {what} faster than they can be copied. Back up to a faster disk, or while it is stopped."
        )

    # -- state and journal --------------------------------------------------------------------------------------

    def _snapshots(self) -> list[str]:
        return sorted(path.name for path in self._places.state.glob("*.snapshot"))

    def _copy_state(self) -> bool:
        places = self._places
        databases = {places.state / "principals.db", places.history}
        self._copy_folder(places.state, "state", databases)
        self._copy_database(places.state / "principals.db", "state/principals.db")
        self._copy_database(places.history, "history.db")
        self._copy_folder(places.journal, "journal", {places.journal / name for name in _OWN})
        return True

    # -- events -------------------------------------------------------------------------------------------------

    def _ledger(self) -> int:
        ledger = self._places.events / "ledger.jsonl"
        return ledger.stat().st_size if ledger.exists() else -1

    def _copy_events(self) -> bool:
        """Copy what one state of the ledger names, and what is open; false if it went on meanwhile."""
        events, to = self._places.events, self._to / "events"
        if not (events / "ledger.jsonl").exists():
            return True
        for name in ("head.json", "ledger.jsonl", "digest.key"):
            self._copy_file(events / name, f"events/{name}")
        reader, catalog = LedgerReader(to), Catalog()
        reader.read_on()
        head = msgspec.json.decode((to / "head.json").read_bytes(), type=Head)
        if head.number != len(reader.entries) - 1 or head.hash != reader.last_hash.hex():
            return False
        catalog.read(reader.entries)
        names = [file.name for file in catalog.files]
        names += [f"blocks/{one.first}.blocks" for one in catalog.segments if one.first >= catalog.kept_from]
        for old in (path for path in to.rglob("*") if path.is_file()):
            name = old.relative_to(to).as_posix()
            if name not in names and "/" in name:
                old.unlink()  # merged or dropped since the last attempt
        for old in to.glob("open-*"):
            old.unlink()
        for name in names:
            if not (to / name).exists() and not self._copy_file(events / name, f"events/{name}"):
                return False
        for path in sorted(events.glob("open-*.ndjson")):
            self._copy_file(path, f"events/{path.name}")
        self._copy_folder(events / "set-aside", "events/set-aside")
        return True

    # -- files --------------------------------------------------------------------------------------------------

    def _copy_folder(self, folder: Path, name: str, without: set[Path] | None = None) -> None:
        """Copy a folder as it is listed now; files that go meanwhile are not needed."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path not in (without or ()) and not _PASSING.search(path.name):
                self._copy_file(path, f"{name}/{path.relative_to(folder).as_posix()}")

    def _copy_file(self, path: Path, name: str) -> bool:
        self._on_file(name)
        try:
            copy_file(path, self._to / name)
        except FileNotFoundError:
            (self._to / name).unlink(missing_ok=True)
            return False
        return True

    def _copy_database(self, path: Path, name: str) -> None:
        """Copy a SQLite file as one transaction sees it, with what is still in its log."""
        if not path.is_file():
            return
        self._on_file(name)
        to = self._to / name
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        to.unlink(missing_ok=True)
        to.touch(mode=0o600)
        with (
            contextlib.closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS)) as source,
            contextlib.closing(sqlite3.connect(to)) as target,
        ):
            source.backup(target)
