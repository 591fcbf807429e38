"""The event store: an append-only archive of all audit events, as Parquet files and a ledger that proves them.

    ledger.jsonl, head.json          what was sealed, merged, dropped, exported: each line chained to the one before
    open-<n>.ndjson                  records from number n on that are not sealed yet
    2026-11-24/14/<n>.parquet        records from number n on, sealed in that hour (UTC)
    2026-11-24/<n>-<level>.parquet   the same, merged
    blocks/<n>.blocks                roots of the Merkle blocks of the segment that begins with n
    digest.key                       key of the digests of redacted events

`serving.forensics.ingest` appends events to the open file, which is sealed into Parquet from time to time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import file_digest
from itertools import compress
from pathlib import Path
from typing import IO, Any

import msgspec

from data.actions.recent_hashes import Remembered, digests_of
from data.durable_file import move_durably, write_durably
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.events.decode import decode_originals
from data.paths import shipped
from data.principals.identity import Identity
from data.signing_keys import load_signing_key
from data.timestamps import parse_times
from serving.forensics import clock
from serving.forensics.catalog import Catalog, StoredFile
from serving.forensics.duckdb import quoted
from serving.forensics.ledger import Ledger, public_bytes
from serving.forensics.merkle import blocks_of, leaf_of, root_of
from serving.forensics.parquet_writer import write_parquet
from serving.forensics.records import COLUMNS, EventRecord, content_of, record_of, rows_of
from serving.settings import EventSettings

_log = logging.getLogger("kubehabit.events")

FORMAT = "kubehabit.events/1"
# Largest segment: bounds the memory and the time of a seal.
_SEGMENT_RECORDS = 65_536
_SEGMENT_BYTES = 256 << 20
# Largest merged file.
_FILE_RECORDS = 2_000_000
# Files of one level that are merged into one.
_MERGED = 32
_SYNC_SECONDS = 1.0
# Merged files stay that long, for queries that still read them.
_GRACE_SECONDS = 120.0
# Events whose repetition is noticed: an API server resends a batch when the response got lost.
_REMEMBERED = 100_000

_TO_JSON = msgspec.json.Encoder()
_LINES = msgspec.json.Decoder(dict[str, Any])


class EventStore:
    """Writes the store; thread-safe. `identity` folds user names to principals, by the shipped rules when None.

    Attributes:
        position: last batch of the journal whose events are all on disk; 0 before the first.

    Raises:
        KubehabitError: the folder is in use by another service, cannot be written, or its ledger is damaged.
    """

    def __init__(self, settings: EventSettings, identity: Identity | None = None) -> None:
        self.settings = settings
        self.folder = settings.resolved_path
        self.position = 0
        self._identity = identity or Identity(shipped(shipped("actions.yaml")["identity"]))
        key = load_signing_key(settings.signing_key) if settings.signing_key is not None else None
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "blocks").mkdir(exist_ok=True)
            self._lock_file = (self.folder / "writer.lock").open("ab")
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._digest_key = _digest_key(self.folder / "digest.key")
        except BlockingIOError as error:
            raise KubehabitError(
                f"Another kubehabit writes to the event store {self.folder}. Stop it, or name another folder as events.path."
            ) from error
        except OSError as error:
            raise KubehabitError(
                f"Cannot write to the event store {self.folder}: {error.strerror}. Check events.path and its permissions."
            ) from error
        self.ledger = Ledger(self.folder, key)
        self._catalog = Catalog()
        self._turn = threading.RLock()
        self._catch_up()
        self._merging: threading.Thread | None = None
        self._seen = Remembered(_REMEMBERED)
        self._seen_key = secrets.token_bytes(16)  # or a client could make an event that is taken for another
        self._open: IO[bytes] | None = None
        self._leaves: list[bytes] = []
        self._open_bytes = 0
        self._opened = self._synced = 0.0
        self._batch = 0
        self._span = (0, 0)
        self._remove_later: list[tuple[float, Path]] = []
        self._closing = False
        self._start(public_bytes(key.public_key()) if key is not None else "")

    # -- what callers use ---------------------------------------------------------------------------------------

    def append(
        self,
        body: bytes,
        *,
        received: int | None = None,
        batch: int | None = None,
        alerts: Mapping[str, str] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> int:
        """Append the new events of a request body and return their number. Queries see them at once; a crash may lose a second.

        Args:
            body: audit events in any format that `/v1/score` takes, decompressed.
            received: arrival, microseconds since 1970 UTC; now when None.
            batch: number in the journal.
            alerts: audit ID -> ID of the alert that the event became part of.
            pause: called before each event, to yield the interpreter.

        Raises:
            OSError: they could not be written; nothing of the body was kept.
        """
        with self._turn:
            came = list(decode_originals(body))
            digests = digests_of((raw for _, raw in came), self._seen_key)
            fresh = list(compress(came, self._seen.first(digests)))
            if fresh:
                self._write_events(fresh, received or clock.now(), batch or self._batch, alerts or {}, pause)
            self._batch = batch or self._batch
            self._seen.add(digests)
            return len(fresh)

    def _write_events(
        self,
        fresh: list[tuple[AuditEvent, bytes]],
        received: int,
        batch: int,
        alerts: Mapping[str, str],
        pause: Callable[[], None] | None,
    ) -> None:
        """Write events to the open file: all of them, or none."""
        number = self._catalog.end + len(self._leaves)
        times = parse_times(
            [event.requestReceivedTimestamp or event.stageTimestamp for event, _ in fresh]
        ).tolist()
        lines: list[bytes] = []
        leaves: list[bytes] = []
        for position, (event, raw) in enumerate(fresh):
            if pause is not None:
                pause()
            record = record_of(
                event,
                raw,
                number=number + position,
                time=times[position],
                received=received,
                alert=alerts.get(event.auditID, ""),
                identity=self._identity,
                key=self._digest_key,
            )
            # Number of lines of the batch that follow: after a crash a batch counts whole or not at all.
            follow = {"batch": batch, "follow": len(fresh) - 1 - position}
            lines.append(_TO_JSON.encode(record._asdict() | follow))
            leaves.append(leaf_of(content_of(record)))
        if self._open is None:
            path = self.folder / f"open-{number}.ndjson"
            self._open = path.open("ab")
            path.chmod(0o600)
            self._open_bytes = 0
            self._opened = time.monotonic()
            self._span = (times[0], times[0])
        text = b"\n".join(lines) + b"\n"
        try:
            self._open.write(text)
            self._open.flush()
        except OSError:
            # Drop the buffer, and cut off what was half written.
            path = self.folder / f"open-{self._catalog.end}.ndjson"
            with contextlib.suppress(OSError):
                self._open.close()
            os.truncate(path, self._open_bytes)
            self._open = path.open("ab")
            raise
        self._leaves += leaves
        self._open_bytes += len(text)
        self._span = (min(self._span[0], *times), max(self._span[1], *times))

    def sync(self) -> None:
        """Flush appended events to disk and advance `position`; raises OSError if the disk refuses."""
        with self._turn:
            if self._open is not None:
                os.fsync(self._open.fileno())
            self._synced = time.monotonic()
            self.position = self._batch

    def tick(self) -> None:
        """Do what is due: sync, seal, merge, drop. Raises OSError or KubehabitError; the next call then tries again."""
        with self._turn:
            moment = time.monotonic()
            if moment - self._synced >= _SYNC_SECONDS and self.position != self._batch:
                self.sync()
            full = len(self._leaves) >= _SEGMENT_RECORDS or self._open_bytes >= _SEGMENT_BYTES
            if self._leaves and (full or moment - self._opened >= self.settings.seal_seconds):
                self.seal()
                if self._merging is None or not self._merging.is_alive():
                    # In a thread, as merging takes longer than events may wait.
                    self._merging = threading.Thread(target=self._tidy, name="events-merge", daemon=True)
                    self._merging.start()
            while self._remove_later and self._remove_later[0][0] <= moment:
                self._remove_later.pop(0)[1].unlink(missing_ok=True)

    def _tidy(self) -> None:
        try:
            self.drop()
            self.merge()
        except Exception as error:  # tried again after the next seal
            _log.error("events cannot be merged", extra={"reason": str(error), "error": type(error).__name__})

    def note(self, kind: str, **fields: Any) -> None:
        """Add a line to the ledger, such as `lost`; raises KubehabitError if it cannot be written."""
        try:
            self.ledger.append(kind, **fields)
        except OSError as error:
            raise KubehabitError(
                f"The ledger of the event store cannot be written: {error.strerror}."
            ) from error
        self._catch_up()

    def close(self) -> None:
        """Seal the open file and release the folder."""
        self._closing = True
        if self._merging is not None:
            self._merging.join()
        with self._turn:
            try:
                self.seal()
                self.ledger.append("closed")
            except (OSError, KubehabitError) as error:
                # The next start seals the open file.
                _log.error("events could not be sealed", extra={"reason": str(error)})
            for _, path in self._remove_later:
                path.unlink(missing_ok=True)
            if self._open is not None:
                self._open.close()
            self._lock_file.close()

    # -- sealing ------------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """Turn the open file, if there is one, into a Parquet file and note it in the ledger.

        Raises:
            OSError, KubehabitError: it failed; the file stays open.
        """
        with self._turn:
            if not self._leaves or self._open is None:
                return
            first = self._catalog.end
            source = self.folder / f"open-{first}.ndjson"
            self.sync()
            self.seal_rows(rows_of([quoted(source)]), first, self._leaves, self._span)
            self._open.close()
            source.unlink()
            self._open = None
            self._leaves = []

    def seal_rows(self, rows: str, first: int, leaves: Sequence[bytes], span: tuple[int, int]) -> None:
        """Write the rows that SQL selects in order as a segment; raises KubehabitError if they are not as many as the leaves."""
        now = clock.written(clock.now())
        name = f"{now[:10]}/{now[11:13]}/{first}.parquet"
        file = self._write(rows, name, first, len(leaves), span, 0)
        blocks = blocks_of(leaves)
        write_durably(self.folder / "blocks" / f"{first}.blocks", b"".join(blocks), 0o600)
        self.ledger.append(
            "sealed",
            first=first,
            count=len(leaves),
            root=root_of(blocks).hex(),
            file=asdict(file),
            batch=self._batch,
        )
        self._catch_up()

    def _write(
        self, rows: str, name: str, first: int, count: int, span: tuple[int, int], level: int
    ) -> StoredFile:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        written = write_parquet(rows, beside, folder=self.folder, memory_mb=self.settings.memory_mb)
        if written != count:
            beside.unlink(missing_ok=True)
            raise KubehabitError(f"{written} of {count} records were written to {name}.")
        beside.chmod(0o600)
        size, digest = checksum_of(beside)
        move_durably(beside, path)
        return StoredFile(name, first, count, span[0], span[1], size, digest, level)

    def merge(self) -> None:
        """Merge small files of one day into larger ones; raises as `seal`."""
        for files in mergeable(list(self._catalog.files), clock.written(clock.now())[:10]):
            if self._closing:
                return
            names = ", ".join(quoted(self.folder / file.name) for file in files)
            first, count = files[0].first, sum(file.count for file in files)
            level = max(file.level for file in files) + 1
            span = (min(file.earliest for file in files), max(file.latest for file in files))
            name = f"{files[0].name[:10]}/{first}-{level}.parquet"
            rows = f"SELECT {', '.join(COLUMNS)} FROM read_parquet([{names}])"
            into = self._write(rows, name, first, count, span, level)
            self.ledger.append("compacted", files=[file.name for file in files], into=asdict(into))
            self._catch_up()
            self._retire([file.name for file in files])

    def _retire(self, names: Sequence[str]) -> None:
        """Delete files after the grace period, as queries may still read them."""
        due = time.monotonic() + _GRACE_SECONDS
        self._remove_later += [(due, self.folder / name) for name in names]

    def drop(self) -> None:
        """Delete the oldest files beyond the limits of age and size; their roots stay in the ledger. Raises as `seal`."""
        files = list(self._catalog.files)
        oldest = clock.now() - int(self.settings.retention_days * 86_400_000_000)
        excess = sum(file.size for file in files) - self.settings.max_bytes
        gone: list[StoredFile] = []
        for file in files[:-1]:
            if file.latest >= oldest and excess <= 0:
                break
            gone.append(file)
            excess -= file.size
        if not gone:
            return
        segments = [segment for file in gone for segment in self._catalog.segments_of(file)]
        self.ledger.append(
            "dropped",
            why="age" if all(file.latest < oldest for file in gone) else "size",
            first=gone[0].first,
            count=sum(file.count for file in gone),
            earliest=min(file.earliest for file in gone),
            latest=max(file.latest for file in gone),
            files=[file.name for file in gone],
            roots=[segment.root for segment in segments],
        )
        self._catch_up()
        names = [file.name for file in gone] + [f"blocks/{segment.first}.blocks" for segment in segments]
        self._retire(names)

    # -- beginning and end --------------------------------------------------------------------------------------

    def _start(self, public_key: str) -> None:
        """Note the start in the ledger, and recover what an earlier process left open."""
        last = self.ledger.entries[-1].fields["kind"] if self.ledger.entries else ""
        batches = (
            entry.fields["batch"] for entry in reversed(self.ledger.entries) if "batch" in entry.fields
        )
        self._batch = self.position = next(batches, 0)
        started: dict[str, Any] = {"format": FORMAT, "synchronised": clock.is_synchronised()}
        if public_key:
            started["public_key"] = public_key
        open_files = sorted(self.folder.glob("open-*.ndjson"))
        if last:
            unclosed = ("sealed", "opened", "compacted", "dropped", "lost")
            started["after_crash"] = bool(open_files) or last in unclosed
        self.ledger.append("opened", **started)
        self._catch_up()
        known = {file.name for file in self._catalog.files}
        for path in [*self.folder.glob("*/*.parquet*"), *self.folder.glob("*/*/*.parquet*")]:
            if path.relative_to(self.folder).as_posix() not in known:
                path.unlink()  # written but never sealed, or merged or dropped since
        for path in open_files:
            if path.stem == f"open-{self._catalog.end}":
                self._recover(path)
            else:
                path.unlink()  # sealed before the crash

    def _recover(self, path: Path) -> None:
        """Seal what an earlier process left open, without a batch torn by the crash, which the journal delivers again."""
        kept = size = 0
        number = self._catalog.end
        leaves: list[bytes] = []
        times: list[int] = []
        whole = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    fields = _LINES.decode(line)
                    batch, follow = fields.pop("batch"), fields.pop("follow")
                    record = EventRecord(**fields)
                except (msgspec.MsgspecError, KeyError, TypeError):
                    break
                if not line.endswith(b"\n") or record.number != number + len(leaves):
                    break
                leaves.append(leaf_of(content_of(record)))
                times.append(record.time)
                size += len(line)
                if not follow:
                    kept, whole, self._batch = size, len(leaves), max(batch, self._batch)
        if not whole:
            path.unlink()
            return
        self._leaves = leaves[:whole]
        self._open = path.open("ab")
        os.ftruncate(self._open.fileno(), kept)
        self._open_bytes = kept
        self._span = (min(times[:whole]), max(times[:whole]))
        self.seal()

    def _catch_up(self) -> None:
        with self._turn:
            self._catalog.read(self.ledger.entries[self._catalog.lines :])


def mergeable(files: Sequence[StoredFile], today: str) -> list[list[StoredFile]]:
    """Groups of adjacent files of one day to merge.

    Of today, full groups of one level, so that a record is rewritten only a few times; of past days, all that fit into one file.
    """
    runs: list[list[StoredFile]] = []
    for file in files:
        day = file.name[:10]
        run = runs[-1] if runs else []
        if (
            run
            and run[0].name[:10] == day
            and (day != today or (run[0].level == file.level and len(run) < _MERGED))
            and sum(one.count for one in run) + file.count <= _FILE_RECORDS
        ):
            run.append(file)
        else:
            runs.append([file])
    return [run for run in runs if len(run) >= (_MERGED if run[0].name[:10] == today else 2)]


def checksum_of(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _digest_key(path: Path) -> bytes:
    """The store's key for digests of redacted events; created if missing."""
    if not path.exists():
        write_durably(path, secrets.token_bytes(32), 0o600)
    return path.read_bytes()
