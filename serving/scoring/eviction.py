"""Moves the principals idle longest to disk, and loads them when they act: memory is bounded, verdicts are the same.

Rows are never changed: each eviction adds one, with its position in the journal. So every snapshot finds the rows that were
valid at its own position, even if the process dies right after it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from data.actions.fields import FIELDS, stable_hash
from data.actions.vocabulary import Vocabulary
from data.errors import KubehabitError
from detection.detector import Detector
from detection.evidence import Sums
from detection.novelty import OwnHabits
from detection.probation import PrincipalProbation
from detection.state_transfer import transfer_contexts, transfer_sums
from detection.windows import Contexts
from serving.history.activity import Principals, Saved

_log = logging.getLogger("kubehabit.spill")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS principals (
    number INTEGER PRIMARY KEY, key INTEGER NOT NULL, position INTEGER NOT NULL, bundle TEXT NOT NULL, data BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS principals_key ON principals (key, position);
CREATE TABLE IF NOT EXISTS bundles (checksum TEXT PRIMARY KEY, terms BLOB NOT NULL);
"""
_QUERY = 500
_SIGNED = 1 << 63


class EvictionError(KubehabitError):
    """The file of idle principals cannot be used."""


class _BundleTerms(msgspec.Struct, array_like=True):
    """What gives a row its meaning: the vocabulary of its tokens and the horizons of its sums."""

    vocabulary: dict[str, Any]
    horizons: list[float]


class _ColdPrincipal(msgspec.Struct, array_like=True):
    """What is kept of one principal."""

    name: str
    tokens: bytes
    last: int
    sums: list[float] | None
    keys: bytes
    counts: bytes
    seen: Saved | None
    probation: PrincipalProbation | None = None


_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(_ColdPrincipal).decode


class ColdPrincipalStore:
    """Bounds the principals in memory, a quarter more between two batches.

    Args:
        path: SQLite file, created if missing, private to its owner.
        hot: principals in memory.
        most: principals on disk; beyond that the oldest rows are deleted.

    Raises:
        EvictionError: the file cannot be used.
    """

    def __init__(self, path: Path, hot: int, most: int) -> None:
        self._hot = hot
        self._most = most
        # Not cachetools.LRUCache, which takes three times as long to touch the principals of every batch.
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._noted: set[str] = set()  # bundles whose terms are in the file
        self._turn = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise EvictionError(
                f"The quiet principals in {path} cannot be opened ({error}). Check state.path, or delete that file: they are "
                "judged as newcomers then."
            ) from error

    @property
    def hot(self) -> list[str]:
        """Principals in memory, those idle longest first."""
        return list(self._recent)

    def __len__(self) -> int:
        """Rows on disk."""
        with self._turn:
            return int(self._file.execute("SELECT count(*) FROM principals").fetchone()[0])

    def start(
        self, detector: Detector, principals: Principals, position: int | None, hot: Iterable[str]
    ) -> None:
        """Manage a detector from now on.

        Args:
            detector: whose principals come and go.
            principals: counts that go with them.
            position: of the snapshot it was restored from; rows after it are deleted. None for no snapshot: all are.
            hot: principals in its memory, those idle longest first.

        Raises:
            EvictionError: the file cannot be written.
        """
        kept = -1 if position is None else position
        try:
            with self._turn:
                self._file.execute("DELETE FROM principals WHERE position > ?", (kept,))
        except sqlite3.Error as error:
            raise EvictionError(
                f"The file of quiet principals cannot be written ({error}). Make room on the disk of state.path, or check its "
                "permissions."
            ) from error
        self._recent = OrderedDict.fromkeys(hot)
        self.attach(detector, principals)

    def attach(self, detector: Detector, principals: Principals) -> None:
        """Manage another detector, which has the principals of the one before in its memory."""
        self._detector, self._principals = detector, principals
        self._bundle = detector.bundle.checksum
        detector.attach(self.load)
        principals.attach(self.lookup)
        # Principals that its bundle knows and that are on disk: both states are merged.
        self.load([name for name in detector.windows.contexts().names if name not in self._recent])

    def load(self, names: Sequence[str]) -> None:
        """Load those of some principals that are on disk; they are about to act."""
        recent, unique = self._recent, dict.fromkeys(names)
        missing = [name for name in unique if name not in recent]
        for name in unique:
            recent[name] = None
            recent.move_to_end(name)
        if not missing:
            return
        try:
            self._restore(self._find(missing))
        except sqlite3.Error as error:
            shown = {"reason": str(error)}
            _log.error("principals on disk cannot be read and are judged as newcomers", extra=shown)

    def evict(self, position: int, oldest: int) -> int:
        """Move the principals idle longest to disk, if too many are in memory; returns how many.

        Args:
            position: of the last record that was scored.
            oldest: of the oldest snapshot, which may still be needed.
        """
        if len(self._recent) <= self._hot + self._hot // 4:
            return 0
        names = [name for name, _ in zip(self._recent, range(len(self._recent) - self._hot), strict=False)]
        rows = self._take(names)
        try:
            self._write(rows, position, oldest)
        except sqlite3.Error as error:
            _log.error("quiet principals cannot be put on disk", extra={"reason": str(error)})
            self._restore([(row, self._bundle) for _, row in rows])
            return 0
        for name in names:
            del self._recent[name]
        return len(names)

    def _write(self, rows: Sequence[tuple[int, _ColdPrincipal]], position: int, oldest: int) -> None:
        terms = [] if self._bundle in self._noted else [(self._bundle, self._packed_terms())]
        with self._turn, self._file:
            self._file.execute("BEGIN IMMEDIATE")
            self._file.executemany("INSERT OR IGNORE INTO bundles VALUES (?, ?)", terms)
            # A row that a newer one replaces for every snapshot there is.
            self._file.executemany(
                "DELETE FROM principals WHERE key = ?1 AND position < "
                "(SELECT max(position) FROM principals WHERE key = ?1 AND position <= ?2)",
                [(key, oldest) for key, _ in rows],
            )
            self._file.executemany(
                "INSERT OR REPLACE INTO principals (key, position, bundle, data) VALUES (?, ?, ?, ?)",
                [(key, position, self._bundle, _pack(row)) for key, row in rows],
            )
            newest = self._file.execute("SELECT max(number) FROM principals").fetchone()[0] or 0
            self._file.execute("DELETE FROM principals WHERE number <= ?", (newest - self._most,))
        self._noted.add(self._bundle)

    def _packed_terms(self) -> bytes:
        detector = self._detector
        terms = _BundleTerms(detector.bundle.vocabulary.to_dict(), list(detector.accumulator.horizons))
        return msgspec.msgpack.encode(terms)

    def flush(self) -> None:
        """Make the rows survive a power failure, before a snapshot relies on them."""
        with self._turn:
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def lookup(self, name: str) -> Saved | None:
        """Counts of a principal on disk."""
        found = self._find([name])
        return found[0][0].seen if found else None

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._file.close()

    def _find(self, names: Sequence[str]) -> list[tuple[_ColdPrincipal, str]]:
        """Newest row of each principal that is on disk, and the bundle in whose terms it is."""
        newest: dict[int, tuple[bytes, str]] = {}
        with self._turn:
            for start in range(0, len(names), _QUERY):
                keys = [_key(name) for name in names[start : start + _QUERY]]
                marks = ",".join("?" * len(keys))
                query = f"SELECT key, data, bundle FROM principals WHERE key IN ({marks}) ORDER BY position"
                newest |= {key: (data, bundle) for key, data, bundle in self._file.execute(query, keys)}
        found = [(_unpack(data), bundle) for data, bundle in newest.values()]
        wanted = set(names)
        return [(row, bundle) for row, bundle in found if row.name in wanted]

    def _take(self, names: list[str]) -> list[tuple[int, _ColdPrincipal]]:
        detector = self._detector
        contexts, sums = detector.windows.pop(names), detector.accumulator.pop(names)
        hashes = np.array([stable_hash(name) for name in names], np.uint64)
        own = detector.habits.pop(hashes)
        seen, held_back = self._principals.pop(names), detector.probation.pop(names)
        order = np.argsort(own.principal, kind="stable")
        owner, keys, counts = own.principal[order], own.key[order], own.count[order].astype(np.uint32)
        begins, ends = (np.searchsorted(owner, hashes, side).tolist() for side in ("left", "right"))
        held = {
            name: (contexts.tokens[row, : contexts.lengths[row]].tobytes(), int(contexts.last[row]))
            for row, name in enumerate(contexts.names)
        }
        summed = dict(zip(sums.names, sums.rows.tolist(), strict=True))
        rows = []
        for name, begin, end in zip(names, begins, ends, strict=True):
            tokens, last = held.get(name, (b"", 0))
            habits = keys[begin:end].tobytes(), counts[begin:end].tobytes()
            rest = seen.get(name), held_back.get(name)
            row = _ColdPrincipal(name, tokens, last, summed.get(name), *habits, *rest)
            rows.append((_key(name), row))
        return rows

    def _restore(self, found: Sequence[tuple[_ColdPrincipal, str]]) -> None:
        for bundle in {bundle for _, bundle in found}:
            self._restore_from(bundle, [row for row, its in found if its == bundle])
        self._principals.restore([row.seen for row, _ in found if row.seen is not None])
        held = {row.name: row.probation for row, _ in found if row.probation is not None}
        self._detector.restore_probation(held)

    def _terms(self, bundle: str) -> _BundleTerms | None:
        with self._turn:
            row = self._file.execute("SELECT terms FROM bundles WHERE checksum = ?", (bundle,)).fetchone()
        return None if row is None else msgspec.msgpack.decode(row[0], type=_BundleTerms)

    def _restore_from(self, bundle: str, rows: Sequence[_ColdPrincipal]) -> None:
        """Give the detector rows that are in the terms of a bundle."""
        detector = self._detector
        terms = None if bundle == self._bundle else self._terms(bundle)
        if terms is None and bundle != self._bundle:
            _log.error("principals on disk are of an unknown model; they are judged as newcomers")
            return
        acted = [row for row in rows if row.tokens]
        blocks = [np.frombuffer(row.tokens, np.int16).reshape(-1, len(FIELDS)) for row in acted]
        context = max([detector.windows.window - 1, *map(len, blocks)])
        tokens = np.zeros((len(acted), context, len(FIELDS)), np.int16)
        for place, block in enumerate(blocks):
            tokens[place, : len(block)] = block
        contexts = Contexts(
            [row.name for row in acted],
            tokens,
            np.array([len(block) for block in blocks], np.int16),
            np.array([row.last for row in acted], np.int64),
        )
        summed = [(row.name, row.sums) for row in rows if row.sums is not None]
        sums = Sums([name for name, _ in summed], np.array([sums for _, sums in summed]))
        keys = [np.frombuffer(row.keys, np.uint64) for row in rows]
        owners = np.array([stable_hash(row.name) for row in rows], np.uint64)
        own = OwnHabits(
            np.repeat(owners, [len(part) for part in keys]),
            np.concatenate(keys),
            np.concatenate([np.frombuffer(row.counts, np.uint32) for row in rows]).astype(np.int64),
        )
        if terms is not None:
            transfer_contexts(detector, contexts, Vocabulary.from_dict(terms.vocabulary))
            if summed:
                transfer_sums(detector, sums, terms.horizons)
            detector.habits.merge_greater(own, np.empty((0, 2), np.uint64))
            return
        detector.windows.restore(contexts)
        if summed:
            detector.accumulator.restore(sums)
        detector.habits.restore(own)


def _key(name: str) -> int:
    """Key of a principal, as SQLite's signed integer. The row holds the name, so a collision is noticed."""
    return stable_hash(name) - _SIGNED
