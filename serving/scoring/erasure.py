"""Erases one person from the state: from snapshots, and from the file of principals that were idle for long."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from data.actions.fields import stable_hash
from data.errors import KubehabitError
from data.principals.person import Person
from detection.probation import pack_records, unpack_records
from serving.scoring.snapshots import Snapshot, Snapshots

#: List of names in the meta data of a snapshot -> arrays with a row for each.
_ROWS = {"names": ("tokens", "lengths", "last"), "summed": ("sums",)}
_OWN = ("own_principal", "own_key", "own_count")


def is_in_snapshot(snapshot: Snapshot, person: Person) -> bool:
    """Whether a snapshot holds anything of a person."""
    changed = bool(without_person(snapshot, person, "x").meta != _as_lists(snapshot.meta))
    return changed or bool(_own_rows(snapshot, person).any())


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_lists(held) for key, held in value.items()}
    return [_as_lists(held) for held in value] if isinstance(value, list | tuple) else value


def _own_rows(snapshot: Snapshot, person: Person) -> Any:
    owners = snapshot.arrays.get("own_principal", np.empty(0, np.uint64))
    return np.isin(owners, np.array([stable_hash(name) for name in person.names], np.uint64))


def without_person(snapshot: Snapshot, person: Person, pseudonym: str) -> Snapshot:
    """The snapshot without a person's habits, windows, sums and recent actions; elsewhere the pseudonym takes their place."""
    meta, arrays = dict(snapshot.meta), dict(snapshot.arrays)
    for key in ("principals", "reads"):
        if key in meta:
            meta[key] = [row for row in meta[key] if row[0] not in person.names]
    for names, columns in _ROWS.items():
        if names not in meta:
            continue
        keep = [row for row, name in enumerate(meta[names]) if name not in person.names]
        meta[names] = [meta[names][row] for row in keep]
        for column in columns:
            arrays[column] = arrays[column][keep]
    others = ~_own_rows(snapshot, person)
    for name in _OWN:
        if name in arrays:
            arrays[name] = arrays[name][others]
    if "rules" in meta:
        meta["rules"] = _rules_without(meta["rules"], person)
    held = unpack_records(meta["probation"]) if "probation" in meta else {}
    if not held.keys().isdisjoint(person.names):
        meta["probation"] = pack_records(
            {name: one for name, one in held.items() if name not in person.names}
        )
    context = meta.get("surroundings")
    if context is not None:
        of = [
            [principal, rows] for principal, rows in context["contributors"] if principal not in person.names
        ]
        watches = [watch for watch in context["watches"] if watch["principal"] not in person.names]
        meta["surroundings"] = context | {"contributors": of, "watches": watches}
    compared = meta.pop("authorization", None)
    meta = person.replaced_in(meta, pseudonym)
    if compared is not None:
        # Roles and bindings are the cluster's: with another name in them, they would contradict what the person does.
        known = [one for one in compared["known"] if not {one[0][0], one[3]} & set(person.names)]
        meta["authorization"] = compared | {"known": known}
    return replace(snapshot, meta=meta, arrays=arrays)


def erase_from_snapshots(folder: Path, person: Person, pseudonym: str) -> int:
    """Write each snapshot that holds something of a person again, and delete those that cannot be read; returns how many."""
    snapshots, changed = Snapshots(folder), 0
    for position in snapshots.positions():
        snapshot = snapshots.read(position)
        if is_in_snapshot(snapshot, person):
            snapshots.write(without_person(snapshot, person, pseudonym), keep=len(snapshots.positions()))
            changed += 1
    for damaged in folder.glob("*.damaged"):
        damaged.unlink()
        changed += 1
    return changed


@contextmanager
def _idle(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            yield file
    except sqlite3.Error as error:
        raise KubehabitError(
            f"The principals in {path} cannot be read ({error}). Check state.path."
        ) from error


def _idle_rows(file: sqlite3.Connection, person: Person) -> list[int]:
    """Rows of a person in the file of idle principals."""
    if not file.execute("SELECT 1 FROM sqlite_schema WHERE name = 'principals'").fetchone():
        return []
    keys = [stable_hash(name) - (1 << 63) for name in person.names]
    marks = ",".join("?" * len(keys))
    rows = file.execute(f"SELECT number, data FROM principals WHERE key IN ({marks})", keys).fetchall()
    return [number for number, data in rows if msgspec.msgpack.decode(data)[0] in person.names]


def idle_rows(path: Path, person: Person) -> int:
    """How often the file of idle principals has a person; raises KubehabitError."""
    if not path.exists():
        return 0
    with _idle(path) as file:
        return len(_idle_rows(file, person))


def erase_idle(path: Path, person: Person) -> int:
    """Delete a person's rows from the file of idle principals; returns how many. Raises KubehabitError."""
    if not path.exists():
        return 0
    with _idle(path) as file:
        gone = _idle_rows(file, person)
        file.executemany("DELETE FROM principals WHERE number = ?", [(number,) for number in gone])
        if gone:
            file.execute("VACUUM")
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return len(gone)


def _rules_without(rules: dict[str, Any], person: Person) -> dict[str, Any]:
    """What rules know, without what they know of a person; the second field of each entry is the principal."""
    memory, kept = rules["memory"], rules["filter"]

    def others(entries: list[Any]) -> list[Any]:
        return [entry for entry in entries if entry[1] not in person.names]

    return rules | {
        "memory": memory | {"history": others(memory["history"])},
        "filter": kept | {"held": others(kept["held"]), "reported": others(kept["reported"])},
    }
