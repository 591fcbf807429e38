"""The event store: an append-only archive of all audit events, as Parquet files and a ledger that proves them.

    ledger.jsonl, head.json          what was sealed, merged, dropped, exported: each line chained to the one before
    open-<n>.ndjson                  records from number n on that are not sealed yet
    2026-11-24/14/<n>.parquet        records from number n on, sealed in that hour (UTC)
    2026-11-24/<n>-<level>.parquet   the same, merged
    blocks/<n>.blocks                roots of the Merkle blocks of the segment that begins with n
    blocks/<n>.<line>.blocks         the same since the erasure of that line of the ledger
    blocks/<n>.<line>.leaves         what the records that it erased hashed to before: proof that it changed no others
    recent/<n>.digests               by which events that are sent again are known (`stored_digests`)
    digest.key                       key of the digests of redacted events
    set-aside/<time>/                files that the ledger does not account for, and why (reason.txt): nobody deletes them

`serving.forensics.ingest` appends events to the open file, which is sealed into Parquet from time to time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate, compress, takewhile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from data.durable_file import clear_drafts, move_durably, write_durably
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.events.decode import decode_originals
from data.events.left_out import LeftOut
from data.paths import shipped
from data.principals.identity import Identity
from data.signing_keys import load_signing_key
from data.timestamps import parse_times
from serving.forensics import clock
from serving.forensics.archive import Archive
from serving.forensics.catalog import Catalog, Segment, StoredFile
from serving.forensics.duckdb import parquet, quoted
from serving.forensics.kept_files import AgeGuard, droppable, mergeable, settled
from serving.forensics.ledger import Ledger, LedgerEntry, LedgerReader, public_bytes
from serving.forensics.merkle import blocks_of, leaf_of, root_of
from serving.forensics.open_file import (
    OpenFile,
    OpenRecord,
    first_number,
    is_torn,
    last_number,
    read_open_file,
)
from serving.forensics.parquet_writer import write_parquet
from serving.forensics.records import COLUMNS, content_of, record_of, rows_of
from serving.forensics.store_place import SET_ASIDE, checksum_of
from serving.forensics.stored_digests import StoredDigests
from serving.settings import EventSettings

_log = logging.getLogger("kubehabit.events")

FORMAT = "kubehabit.events/1"
# Records in the open file that make it due to be sealed.
_OPEN_RECORDS = 65_536
_OPEN_BYTES = 256 << 20
# Above that nothing is added to the open file until it could be sealed.
_MAX_OPEN_BYTES = 1 << 30
# Largest segment, unless one record is larger: so many records, or as many bytes as the database can handle in its memory.
_SEGMENT_RECORDS = 65_536
_SEGMENT_SHARE = 0.1
_SYNC_SECONDS = 1.0
# Merged files stay that long, for queries that still read them.
_GRACE_SECONDS = 120.0
_DAY = 86_400_000_000
# Events whose repetition is noticed, at 8 bytes each: an API server resends a batch when the response got lost, and a file that
# fills a gap holds what the webhook has brought as well.
_REMEMBERED = 1_000_000

_TO_JSON = msgspec.json.Encoder()


class EventStoreUnusableError(KubehabitError):
    """A store in which something is not as it was written, or that cannot be recovered now; its files are untouched.

    Attributes:
        position: last batch of the journal that its ledger names.
    """

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.position = position


class EventStore:
    """Writes the store; thread-safe. `identity` folds user names to principals, by the shipped rules when None.

    Attributes:
        position: last batch of the journal whose events are all on disk; 0 before the first.
        archive_trouble: why files are not copied to the archive; empty if they are, or there is none.

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
            for folder in (self.folder, self.folder / "blocks", self.folder / "recent"):
                clear_drafts(folder)
            self._digest_key = _digest_key(self.folder / "digest.key")
            self._stored = StoredDigests(self.folder, self._digest_key, _REMEMBERED)
        except BlockingIOError as error:
            raise KubehabitError(
                f"Another kubehabit writes to the event store {self.folder}. Stop it, or name another folder as events.path."
            ) from error
        except OSError as error:
            raise KubehabitError(
                f"Cannot write to the event store {self.folder}: {error.strerror}. Check events.path and its permissions."
            ) from error
        self._catalog = Catalog()
        self._age = AgeGuard()
        self._turn = threading.RLock()
        self._merging: threading.Thread | None = None
        self._open = OpenFile(self.folder)
        self._synced = 0.0
        self._batch = 0
        self._remove_later: list[tuple[float, Path]] = []
        self._closing = False
        self._archive: Archive | None = None
        self.archive_trouble = ""
        try:
            self.ledger = Ledger(self.folder, key)
            self._catch_up()
            self._stored.load({segment.first for segment in self._catalog.segments})
            self._start(public_bytes(key.public_key()) if key is not None else "")
        except (OSError, KubehabitError, LookupError, TypeError, ValueError, StopIteration) as error:
            self._lock_file.close()
            reason = error if isinstance(error, KubehabitError) else repr(error)
            raise EventStoreUnusableError(
                f"The event store {self.folder} cannot be opened: {reason}", last_batch(self.folder)
            ) from error

    # -- what callers use ---------------------------------------------------------------------------------------

    def append(
        self,
        body: bytes,
        *,
        received: int | None = None,
        batch: int | None = None,
        alerts: Mapping[str, str] | None = None,
        pause: Callable[[], None] | None = None,
        left_out: LeftOut | None = None,
    ) -> int:
        """Append the new events of a request body and return their number. Queries see them at once; a crash may lose a second.

        Args:
            body: audit events in any format that `/v1/score` takes, decompressed.
            received: arrival, microseconds since 1970 UTC; now when None.
            batch: number in the journal.
            alerts: audit ID -> ID of the alert that the event became part of.
            pause: called before each event, to yield the interpreter.
            left_out: counts the records that are no events.

        Raises:
            OSError: they could not be written; nothing of the body was kept.
        """
        with self._turn:
            came = list(decode_originals(body, left_out))
            digests = self._stored.of([event for event, _ in came])
            first = self._stored.first(digests)
            fresh = list(compress(came, first))
            if fresh:
                known = digests[np.array(first, bool)].tolist()
                self._write_events(
                    fresh, known, received or clock.now(), batch or self._batch, alerts or {}, pause
                )
            self._batch = batch or self._batch
            self._stored.add(digests)
            return len(fresh)

    def recall(self, body: bytes, pause: Callable[[], None] = lambda: None) -> None:
        """Recognise the events of a body that an earlier process appended, when they are sent again."""
        came = []
        for event, _ in decode_originals(body):
            pause()
            came.append(event)
        with self._turn:
            self._stored.add(self._stored.of(came))

    def _write_events(
        self,
        fresh: list[tuple[AuditEvent, bytes]],
        digests: list[int],
        received: int,
        batch: int,
        alerts: Mapping[str, str],
        pause: Callable[[], None] | None,
    ) -> None:
        """Write events to the open file: all of them, or none."""
        if self._open.size > _MAX_OPEN_BYTES:
            raise OSError(errno.EFBIG, "the open file of the event store is full and cannot be sealed")
        number = self._catalog.end + len(self._open.records)
        times = parse_times(
            [event.requestReceivedTimestamp or event.stageTimestamp for event, _ in fresh]
        ).tolist()
        lines: list[bytes] = []
        records: list[OpenRecord] = []
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
            follow = {"batch": batch, "follow": len(fresh) - 1 - position, "digest": digests[position]}
            lines.append(_TO_JSON.encode(record._asdict() | follow) + b"\n")
            leaf = leaf_of(content_of(record))
            records.append(OpenRecord(leaf, len(lines[-1]), record.time, digests[position]))
        self._open.write(number, lines, records)

    def sync(self) -> None:
        """Flush appended events to disk and advance `position`; raises OSError if the disk refuses."""
        with self._turn:
            self._open.sync()
            self._synced = time.monotonic()
            self.position = self._batch

    def tick(self) -> None:
        """Do what is due: sync, seal, merge, drop. Raises OSError or KubehabitError; the next call then tries again."""
        with self._turn:
            moment = time.monotonic()
            if moment - self._synced >= _SYNC_SECONDS and self.position != self._batch:
                self.sync()
            full = len(self._open.records) >= _OPEN_RECORDS or self._open.size >= _OPEN_BYTES
            if self._open.records and (full or moment - self._open.opened >= self.settings.seal_seconds):
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
            return
        try:
            self.ship()
        except Exception as error:
            _log.error(
                "events cannot be archived", extra={"reason": str(error), "error": type(error).__name__}
            )

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
            self._open.close()
            self._lock_file.close()

    # -- sealing ------------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """Turn the open file, if there is one, into Parquet files of bounded size and note them in the ledger.

        Raises:
            OSError, KubehabitError: it failed; the file stays open, with what is sealed of it already.
        """
        with self._turn:
            records = self._open.records
            if not records:
                return
            self.sync()
            while records:
                first = self._catalog.end
                count = _first_segment(records, int(self.settings.memory_mb * _SEGMENT_SHARE * (1 << 20)))
                segment = records[:count]
                times = [record.time for record in segment]
                rows = f"{rows_of([quoted(self._open.path)])} WHERE number BETWEEN {first} AND {first + count - 1}"
                leaves = [record.leaf for record in segment]
                whole = self._batch if count == len(records) else None
                self.seal_rows(rows, first, leaves, (min(times), max(times)), whole)
                self._stored.sealed(first, [record.digest for record in segment])
                del records[:count]
            self._open.remove()

    def seal_rows(
        self,
        rows: str,
        first: int,
        leaves: Sequence[bytes],
        span: tuple[int, int],
        batch: int | None = None,
    ) -> None:
        """Write the rows that SQL selects in order as a segment; raises KubehabitError if they are not as many as the leaves.

        `batch` is the last one of the journal that is whole now, None if that is still the one sealed before.
        """
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
            batch=last_batch(self.ledger.entries) if batch is None else batch,
        )
        self._catch_up()

    def _write(
        self, rows: str, name: str, first: int, count: int, span: tuple[int, int], level: int
    ) -> StoredFile:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        written = write_parquet(
            rows,
            beside,
            folder=self.folder,
            memory_mb=self.settings.memory_mb,
            first=first,
            small_groups=level > 0,
        )
        if written != count:
            beside.unlink(missing_ok=True)
            raise KubehabitError(f"{written} of {count} records were written in order to {name}.")
        beside.chmod(0o600)
        size, digest = checksum_of(beside)
        move_durably(beside, path)
        return StoredFile(name, first, count, span[0], span[1], size, digest, level)

    def merge(self) -> None:
        """Merge small files of one day into larger ones; raises as `seal`."""
        for files in mergeable(list(self._catalog.files), clock.written(clock.now())[:10]):
            if self._closing:
                return
            first, count = files[0].first, sum(file.count for file in files)
            level = max(file.level for file in files) + 1
            span = (min(file.earliest for file in files), max(file.latest for file in files))
            name = f"{files[0].name[:10]}/{first}-{level}.parquet"
            rows = f"SELECT {', '.join(COLUMNS)} FROM {parquet(*(self.folder / file.name for file in files))}"
            into = self._write(rows, name, first, count, span, level)
            self.ledger.append("compacted", files=[file.name for file in files], into=asdict(into))
            self._catch_up()
            self._retire([file.name for file in files])

    def ship(self) -> None:
        """Copy the files that will not be merged any more to the archive, if there is one; raises as `seal`."""
        wanted = self.settings.archive
        if wanted is None:
            return
        try:
            if self._archive is None:
                self._archive = Archive(wanted.resolved_url, self.folder)
            self._ship(self._archive)
        except Exception as error:
            self.archive_trouble = str(error) or type(error).__name__
            raise
        self.archive_trouble = ""

    def _ship(self, archive: Archive) -> None:
        for file in settled(list(self._catalog.files), clock.written(clock.now())[:10]):
            if self._is_archived(file) or self._closing:
                continue
            removes = [one.name for one in self._catalog.archived_in(file)]
            archive.add(file, self._catalog.segments_of(file))
            self.note("archived", file=file.name, to=archive.url, removes=removes)
        if aged := self._aged_copies(archive):
            names = [file.name for file in aged]
            self.note("unarchived", end=aged[-1].end, to=archive.url, removes=names)
        if archive.line < self._catalog.archived_line:
            archive.write_ledger()
        kept = {file.name for file in self._catalog.archived}
        for entry in self.ledger.entries[archive.cleared + 1 : archive.line + 1]:
            archive.remove([name for name in entry.fields.get("removes", ()) if name not in kept])
        archive.cleared = archive.line

    def _aged_copies(self, archive: Archive) -> list[StoredFile]:
        """The oldest files of the archive, sealed on days that its retention is over for."""
        wanted = self.settings.archive
        if wanted is None or wanted.retention_days is None or archive.url != self._catalog.archive:
            return []
        if not self._age.may_drop():
            return []
        last = clock.written(clock.now() - int(wanted.retention_days * _DAY))[:10]
        return list(takewhile(lambda file: file.name < f"date={last}", self._catalog.archived))

    def _is_archived(self, file: StoredFile) -> bool:
        """Whether a file was copied, even if the retention of the archive has deleted the copy since."""
        catalog, wanted = self._catalog, self.settings.archive
        if wanted is None or wanted.resolved_url != catalog.archive:
            return False
        return file.end <= catalog.archived_from or file.in_archive in catalog.archived

    @property
    def files(self) -> list[StoredFile]:
        """All Parquet files, by first record."""
        return list(self._catalog.files)

    def segments_of(self, file: StoredFile) -> list[Segment]:
        """The segments in a file."""
        return self._catalog.segments_of(file)

    def rewrite(self, file: StoredFile, rows: str, *, revision: str, **said: Any) -> None:
        """Replace a file by the rows that SQL selects in order, the same records by number, and note it in the ledger as erased.

        Args:
            revision: ends the name of the new file.
            said: further fields of the ledger's line.

        Raises:
            OSError, KubehabitError: it failed, and the old file is in place.
        """
        with self._turn:
            name = f"{file.name[:10]}/{file.first}-{file.level}-{revision}.parquet"
            span = (file.earliest, file.latest)
            into = self._write(rows, name, file.first, file.count, span, max(file.level, 1))
            into = replace(into, level=file.level)
            self.ledger.append("erased", file=file.name, into=asdict(into), revision=revision, **said)
            self._catch_up()
            # At once: nobody else may read a store while a person is erased from it.
            (self.folder / file.name).unlink(missing_ok=True)

    def _retire(self, names: Sequence[str]) -> None:
        """Delete files after the grace period, as queries may still read them."""
        due = time.monotonic() + _GRACE_SECONDS
        self._remove_later += [(due, self.folder / name) for name in names]

    def drop(self) -> None:
        """Delete the oldest files beyond the limits of age and size; their roots stay in the ledger. Raises as `seal`.

        Age is the time since receipt. By age little is deleted at once, and nothing for a day after the clock jumped.
        """
        files = list(self._catalog.files)
        gone, why = droppable(files, self._received(files[:-1]), self.settings, self._age.may_drop())
        if self.settings.archive is not None:  # nothing is deleted that has no copy
            gone = list(takewhile(self._is_archived, gone))
        if not gone:
            return
        segments = [segment for file in gone for segment in self._catalog.segments_of(file)]
        self.ledger.append(
            "dropped",
            why=why,
            first=gone[0].first,
            count=sum(file.count for file in gone),
            earliest=min(file.earliest for file in gone),
            latest=max(file.latest for file in gone),
            files=[file.name for file in gone],
            roots=[segment.root for segment in segments],
        )
        self._catch_up()
        names = [file.name for file in gone] + [name for segment in segments for name in segment.block_files]
        self._retire(names)

    def _received(self, files: Sequence[StoredFile]) -> list[str]:
        """When the last record of each file was received, at the latest: before every later one was sealed."""
        sealed = [max(segment.sealed for segment in self._catalog.segments_of(file)) for file in files]
        return list(accumulate(reversed(sealed), min))[::-1]

    # -- beginning and end --------------------------------------------------------------------------------------

    def _start(self, public_key: str) -> None:
        """Note the start in the ledger, and recover what an earlier process left open."""
        last = self.ledger.entries[-1].fields["kind"] if self.ledger.entries else ""
        self._batch = self.position = last_batch(self.ledger.entries)
        started: dict[str, Any] = {"format": FORMAT, "synchronised": clock.is_synchronised()}
        if public_key:
            started |= {"public_key": public_key, "signed_head": True}
        open_files = sorted(self.folder.glob("open-*.ndjson"))
        if last:
            unclosed = (
                "sealed",
                "opened",
                "compacted",
                "dropped",
                "lost",
                "erased",
                "archived",
                "unarchived",
            )
            started["after_crash"] = bool(open_files) or last in unclosed
        self._age.begin(self.ledger.append("opened", **started).number)
        self._catch_up()
        mine = self._recoverable(open_files)
        self._clear(None if mine is None else self._catalog.end)
        for path in open_files:
            if path != mine and (first_number(path) < self._catalog.end or is_torn(path)):
                path.unlink()  # sealed before the crash, or not one line of it was written
            elif path != mine:
                self._set_aside([path], "The ledger does not say what came before these events.")
        if mine is not None:
            self._recover(mine)

    def _recoverable(self, open_files: Sequence[Path]) -> Path | None:
        """The file that goes on where the sealed records end."""
        end = self._catalog.end
        for path in open_files:
            if first_number(path) <= end and last_number(path) >= end:
                return path
        return None

    def _clear(self, resumed: int | None) -> None:
        """Delete what a crash left beside the files that the ledger names, and set aside what it does not account for.

        Args:
            resumed: first record of an open file, whose Parquet file may be written already but is not sealed.
        """
        known = {file.name: file.size for file in self._catalog.files}
        whole = all(_size(self.folder / name) == size for name, size in known.items())
        past = {
            name
            for entry in self.ledger.entries
            if entry.fields["kind"] == "dropped" or (whole and entry.fields["kind"] == "compacted")
            for name in entry.fields["files"]
        }
        past |= {entry.fields["file"] for entry in self.ledger.entries if entry.fields["kind"] == "erased"}
        strange: list[Path] = []
        for path in sorted([*self.folder.glob("*/*.parquet*"), *self.folder.glob("*/*/*.parquet*")]):
            name = path.relative_to(self.folder).as_posix()
            if name in known or name.startswith(SET_ASIDE):
                continue
            first = first_number(path)
            copied = whole and first < self._catalog.end  # a merge that the ledger does not know yet
            if name in past or path.suffix == ".tmp" or first == resumed or copied:
                path.unlink()
            else:
                strange.append(path)
        if strange:
            self._set_aside(strange, "No line of the ledger names these files: it may have lost its tail.")

    def _set_aside(self, paths: Sequence[Path], reason: str) -> None:
        """Move files out of the way, with the reason beside them: they may be evidence."""
        to = self.folder / SET_ASIDE / clock.written(clock.now()).replace(":", "")
        to.mkdir(parents=True, exist_ok=True)
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        write_durably(to / "reason.txt", "\n".join([reason, *names, ""]).encode(), 0o600)
        for path, name in zip(paths, names, strict=True):
            move_durably(path, to / name.replace("/", "_"))
        _log.error("files of the event store were set aside", extra={"reason": reason, "files": len(names)})
        self.ledger.append("set-aside", reason=reason, names=names)
        self._catch_up()

    def set_aside(self) -> int:
        """Number of files that were set aside and are still there."""
        folder = self.folder / SET_ASIDE
        if not folder.is_dir():  # each scrape asks
            return 0
        return sum(path.name != "reason.txt" for path in folder.glob("*/*"))

    def _recover(self, path: Path) -> None:
        """Seal what an earlier process left open, without a batch torn by the crash, which the journal delivers again."""
        found = read_open_file(path)
        self._batch = max(found.batch, self._batch)
        if found.damaged:  # no crash tears a line that is whole
            copy = path.with_suffix(".damaged")
            shutil.copyfile(path, copy)
            self._set_aside([copy], f"Line {len(found.records) + 1} of {path.name} cannot be read.")
        sealed = self._catalog.end - first_number(path)
        if found.whole <= sealed:
            path.unlink()
            return
        records = found.records[sealed : found.whole]
        self._stored.add(np.array([record.digest for record in records if record.digest], np.uint64))
        self._open.resume(path, records, found.size)
        try:
            self.seal()
        except (OSError, KubehabitError) as error:  # tried again after each batch
            _log.error("events could not be sealed", extra={"reason": str(error)})

    def _catch_up(self) -> None:
        with self._turn:
            entries = self.ledger.entries[self._catalog.lines :]
            fields = [entry.fields for entry in entries]
            times = parse_times([one["time"] for one in fields]).tolist()
            self._age.add_lines(times, [one["kind"] == "dropped" and one["why"] == "age" for one in fields])
            self._catalog.read(entries)


def last_batch(found: Path | Sequence[LedgerEntry]) -> int:
    """Last batch of the journal that a ledger names, or as far as the ledger in a folder can be read; 0 before the first."""
    if isinstance(found, Path):
        reader = LedgerReader(found)
        with contextlib.suppress(OSError, KubehabitError):
            reader.read_on()
        found = reader.entries
    return next((entry.fields["batch"] for entry in reversed(found) if "batch" in entry.fields), 0)


def _first_segment(records: Sequence[OpenRecord], most: int) -> int:
    """How many records fit into one segment of so many bytes; at least one."""
    size = 0
    for count, record in enumerate(records[:_SEGMENT_RECORDS]):
        size += record.size
        if count and size > most:
            return count
    return min(len(records), _SEGMENT_RECORDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _digest_key(path: Path) -> bytes:
    """The store's key for digests of redacted events; created if missing."""
    if not path.exists():
        write_durably(path, secrets.token_bytes(32), 0o600)
    return path.read_bytes()
