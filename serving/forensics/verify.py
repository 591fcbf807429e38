"""Checks a store against its ledger: records changed, removed, added or reordered, files or lines missing, gaps in time."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from data.errors import KubehabitError
from serving.forensics import clock
from serving.forensics.catalog import Catalog, Segment, StoredFile
from serving.forensics.duckdb import parquet
from serving.forensics.ledger import (
    BEGINNING,
    LedgerEntry,
    LedgerReader,
    is_signed_by,
    parse,
    read_head,
    read_lines,
)
from serving.forensics.merkle import BLOCK, blocks_of, leaf_of, root_of
from serving.forensics.records import CONTENT_SQL, SQL_TYPES
from serving.forensics.store_place import SET_ASIDE, StorePlace, place_of
from serving.forensics.timestamps import check_stamps

if TYPE_CHECKING:
    import duckdb

# Changed blocks that are listed one by one.
_WORST = 100
# Records read at a time, unless a segment is larger; it bounds the memory needed.
_TOGETHER = 65_536


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it was written.

    Attributes:
        kind: `ledger`, `signature`, `missing`, `file`, `record`, `order` or `stranger`.
        where: file, and records by number.
        what: a sentence.
    """

    kind: str
    where: str
    what: str


class Gap(msgspec.Struct, frozen=True):
    """A span of time without events, or in which events are known to be lost."""

    after: str
    before: str
    seconds: float
    why: str


class Erasure(msgspec.Struct, frozen=True):
    """Records of a file that were erased at a person's request, as the ledger notes it.

    Attributes:
        line: of the ledger, from 1.
        pseudonym: what stands in the place of the person.
        records: how many were changed.
    """

    line: int
    time: str
    pseudonym: str
    records: int
    why: str
    by: str
    forced: bool


@dataclass(slots=True)
class Report:
    """Result of `verify`.

    Attributes:
        findings: what is wrong; empty for a sound store.
        records, files, segments, lines: how many were checked.
        dropped: records that retention has deleted, according to the ledger.
        erasures: records that were erased, according to the ledger; all others are checked to be as before.
        head: number and hash of the ledger's last line; a copy kept elsewhere proves later that nothing was cut off.
        signed: public key that signs the lines, or "".
        stamps, last_stamp: number of time stamps in the ledger, and the last of them in a sentence, or "".
        seconds: duration of the check.
    """

    findings: list[Finding] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    records: int = 0
    files: int = 0
    segments: int = 0
    lines: int = 0
    dropped: int = 0
    erasures: list[Erasure] = field(default_factory=list)
    head: str = ""
    signed: str = ""
    stamps: int = 0
    last_stamp: str = ""
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether everything is as it was written."""
        return not self.findings

    def fault(self, kind: str, where: str, what: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, where, what))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"sound": self.is_sound, **msgspec.to_builtins(self)}


def verify(
    store: Path | StorePlace,
    *,
    key: Ed25519PublicKey | None = None,
    head: str | None = None,
    roots: Sequence[x509.Certificate] | None = None,
    gap_seconds: float = 600,
    memory_mb: int = 1024,
    on_records: Callable[[int], None] | None = None,
) -> Report:
    """Check a store, which may be in use.

    Args:
        store: its folder, or its copy in object storage.
        key: must have signed the lines, from the first that names a key; without it, the key that the ledger names is trusted.
        head: a head (`<number>:<hash>`) of an earlier report that the ledger must contain.
        roots: certificates of the authority whose time stamps the ledger keeps; without them only what they are over is checked.
        gap_seconds: longest time without an event that is not reported as a gap.
        memory_mb: memory of the database.
        on_records: called with the number of records checked so far.

    Raises:
        KubehabitError: there is no store, or `head` is not a head.
    """
    began = time.monotonic()
    place = place_of(store)
    folder = place.folder
    if not (folder / "ledger.jsonl").exists() and not any(folder.glob("*/*")):
        raise KubehabitError(f"There is no event store in {folder}. Name its folder with --store.")
    # Listed first: files and lines that are sealed while this runs are not checked.
    present = place.names()
    report = Report()
    entries = _check_ledger(folder, report, key, head)
    stamps, wrong = check_stamps(entries, roots)
    report.stamps, report.last_stamp = len(stamps), stamps[-1].sentence if stamps else ""
    for number, why in wrong:
        report.fault("signature", f"ledger.jsonl line {number + 1}", why)
    catalog = place.seen(_read_catalog(entries, report))
    _check_order(catalog, report)
    _check_files(place, catalog, present, report)
    for reason in sorted(folder.glob(f"{SET_ASIDE}/*/reason.txt")):
        what = reason.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        where = reason.parent.relative_to(folder).as_posix()
        report.fault("stranger", where, f"Files were set aside here that could not be accounted for: {what}")
    with place.connect(memory_mb, 2) as connection:
        check = _RecordCheck(connection, place, report)
        for file in catalog.files:
            if place.has(file.name):
                check.file(file, catalog.segments_of(file))
            else:
                check.missing_file(file, catalog.segments_of(file))
            if on_records is not None:
                on_records(report.records)
        _find_gaps(connection, place, catalog, entries, gap_seconds, report)
    report.seconds = time.monotonic() - began
    return report


def _check_ledger(
    folder: Path, report: Report, key: Ed25519PublicKey | None, head: str | None
) -> list[LedgerEntry]:
    entries: list[LedgerEntry] = []
    before = BEGINNING
    last_time = ""
    trusted: Ed25519PublicKey | None = None
    lines = list(read_lines(folder))
    for number, text in lines:
        where = f"ledger.jsonl line {number + 1}"
        if number == len(lines) - 1 and not text.endswith(b"\n"):
            # A crash, or a line that is being written now. If it was whole once, the head proves it.
            break
        try:
            entry = parse(number, text, before)
        except ValueError as error:
            what = f"This line is not as it was written: {error}. What follows it cannot be trusted."
            report.fault("ledger", where, what)
            break
        if entry.fields.get("number") != number:
            report.fault("ledger", where, "This line has the number of another one.")
        if entry.fields.get("kind") == "opened" and (named := entry.fields.get("public_key")):
            report.signed = named
            trusted = key or Ed25519PublicKey.from_public_bytes(bytes.fromhex(named))
        if trusted is not None and not is_signed_by(entry.line, trusted):
            what = "This line is not signed by the key that it has to be signed by."
            report.fault("signature", where, what)
        stamped = str(entry.fields.get("time", ""))
        if stamped < last_time:
            report.gaps.append(Gap(last_time, stamped, 0, f"the clock of this machine went back ({where})"))
        last_time = stamped
        entries.append(entry)
        before = entry.hash
    if key is not None and trusted is None:
        what = "No line is signed, so the key that was given proves nothing."
        report.fault("signature", "ledger.jsonl", what)
    report.lines = len(entries)
    report.head = f"{len(entries) - 1}:{before.hex()}" if entries else ""
    _check_head(folder, entries, report, head, trusted)
    return entries


def _check_head(
    folder: Path,
    entries: list[LedgerEntry],
    report: Report,
    wanted: str | None,
    trusted: Ed25519PublicKey | None,
) -> None:
    found = None
    try:
        found = read_head(folder)
        if found is None:
            what = "The head is missing, so nothing shows whether the ledger is complete."
            report.fault("missing", "head.json", what)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        report.fault("ledger", "head.json", "The head cannot be read: it was changed.")
    if found is not None and trusted is not None:
        promised = any(entry.fields.get("signed_head") for entry in entries[: found.number + 1])
        if (found.signature or promised) and not is_signed_by(found, trusted):
            report.fault(
                "signature", "head.json", "The head is not signed by the key that it has to be signed by."
            )
    heads = [("head.json", found.number, found.hash)] if found is not None else []
    if wanted is not None:
        number, _, value = wanted.partition(":")
        if not number.isdecimal() or len(value) != 64:
            raise KubehabitError(f"{wanted!r} is not a head: give the <number>:<hash> of an earlier report.")
        heads.append(("the head given", int(number), value))
    for name, line, hash_ in heads:
        if line >= len(entries):
            what = f"The ledger ends at line {len(entries)}, but {name} says that it had {line + 1}: its tail was cut off."
            report.fault("ledger", "ledger.jsonl", what)
        elif line < 0 or entries[line].hash.hex() != hash_:
            what = f"Line {line + 1} is another one than {name} says: the ledger was rewritten."
            report.fault("ledger", f"ledger.jsonl line {line + 1}", what)
    if found is not None and found.number < len(entries) - 2:
        # One line may be newer than the head, if a crash came between; more than one were not written by kubehabit.
        what = f"The ledger goes on after its head, line {found.number + 1}: lines were added, or the head was put back."
        report.fault("ledger", "head.json", what)


def _read_catalog(entries: list[LedgerEntry], report: Report) -> Catalog:
    catalog = Catalog()
    for entry in entries:
        end = catalog.end
        where = f"ledger.jsonl line {entry.number + 1}"
        try:
            if entry.fields["kind"] == "erased":
                _check_erasure(entry, catalog, report, where)
            catalog.read([entry])
        except (KeyError, TypeError, StopIteration):
            report.fault("ledger", where, "This line lacks fields that a line of its kind must have.")
            continue
        if entry.fields["kind"] == "sealed" and entry.fields["first"] != end:
            what = f"The segment begins with record {entry.fields['first']}, but {end} comes next: records are missing between."
            report.fault("missing", where, what)
        if entry.fields["kind"] == "dropped":
            report.dropped += entry.fields["count"]
            roots = [
                segment.root
                for segment in catalog.segments
                if entry.fields["first"] <= segment.first < entry.fields["first"] + entry.fields["count"]
            ]
            if roots != entry.fields["roots"]:
                report.fault("ledger", where, "What was dropped is not what had been sealed.")
    report.segments = len(catalog.segments)
    return catalog


def _check_order(catalog: Catalog, report: Report) -> None:
    expected = catalog.kept_from
    for file in catalog.files:
        if file.first != expected:
            report.fault("missing", file.name, f"Records {expected} to {file.first - 1} are in no file.")
        expected = file.end


def _check_erasure(entry: LedgerEntry, catalog: Catalog, report: Report, where: str) -> None:
    """Note an erasure, and compare what it says was there before with the catalog; raises KeyError or TypeError."""
    said = entry.fields
    values = {name: said[name] for name in ("time", "pseudonym", "records", "why", "by", "forced")}
    report.erasures.append(Erasure(line=entry.number + 1, **values))
    before = next((file for file in catalog.files if file.name == said["file"]), None)
    into = StoredFile(**said["into"])
    roots = (
        {} if before is None else {one.first: (one.count, one.root) for one in catalog.segments_of(before)}
    )
    changed = {one["first"]: (one["count"], one["before"]) for one in said["segments"]}
    if (
        before is None
        or (before.first, before.count) != (into.first, into.count)
        or not changed.items() <= roots.items()
    ):
        report.fault("ledger", where, "What was erased is not what had been sealed.")


def _check_files(place: StorePlace, catalog: Catalog, present: set[str], report: Report) -> None:
    for file in catalog.files:
        report.files += 1
        if not place.has(file.name):
            continue
        size, digest = place.checksum(file.name)
        if digest != file.sha256:
            resized = size != file.size
            why = f"it has {size} bytes instead of {file.size}" if resized else "its checksum is another"
            report.fault("file", file.name, f"The file is not as it was written: {why}.")
    named = {file.name for file in catalog.files} | place.named(_current_entries(place.folder))
    for name in sorted(present - named):
        what = "No line of the ledger names this file: it was added, or the ledger lost its tail."
        report.fault("stranger", name, what)


def _current_entries(folder: Path) -> list[LedgerEntry]:
    """The lines of the ledger as it is now, up to the first that is damaged."""
    reader = LedgerReader(folder)
    with suppress(KubehabitError, FileNotFoundError):
        reader.read_on()
    return reader.entries


def leaves_of(
    connection: duckdb.DuckDBPyConnection, path: str, first: int, end: int
) -> tuple[list[int], list[bytes]]:
    """Numbers and hashes of the records of a file from `first` up to `end`, as they stand in it."""
    query = (
        f"SELECT number, {CONTENT_SQL} AS content FROM {parquet(path)} "
        f"WHERE number >= {first} AND number < {end}"
    )
    columns = connection.execute(query).fetchnumpy()
    return columns["number"].tolist(), [leaf_of(text.encode()) for text in columns["content"]]


@dataclass(frozen=True, slots=True)
class _RecordCheck:
    """Compares the records in the files with what was sealed."""

    _connection: duckdb.DuckDBPyConnection
    _place: StorePlace
    _report: Report

    def missing_file(self, file: StoredFile, segments: list[Segment]) -> None:
        """A file that does not exist: merged or dropped during the check, or deleted by someone else."""
        catalog = Catalog()
        with suppress(KeyError, TypeError, StopIteration):
            catalog.read(_current_entries(self._place.folder))
        catalog = self._place.seen(catalog)
        for segment in segments:
            if segment.end <= catalog.kept_from:
                continue
            into = next((one for one in catalog.files if one.first <= segment.first < one.end), None)
            if into is None or into.name == file.name or not self._place.has(into.name):
                what = f"The file is missing, and with it records {file.first} to {file.end - 1}."
                self._report.fault("missing", file.name, what)
                return
            self._segments(into, [segment])

    def file(self, file: StoredFile, segments: list[Segment]) -> None:
        """All records of a file."""
        import duckdb

        stored = parquet(self._place.address(file.name))
        self._place.fetch_blocks(file, segments)
        try:
            described = self._connection.execute(f"DESCRIBE SELECT * FROM {stored}").fetchall()
            if {row[0]: row[1] for row in described} != SQL_TYPES:
                self._report.fault("record", file.name, "The file has other columns than the store's.")
                return
            strangers = self._connection.execute(
                f"SELECT count(*) FROM {stored} WHERE number IS NULL OR number < {file.first} OR number >= {file.end}"
            ).fetchone()
            if strangers is not None and strangers[0]:
                what = f"The file holds {strangers[0]} records that do not belong there."
                self._report.fault("record", file.name, what)
            self._segments(file, segments)
        except (duckdb.Error, UnicodeDecodeError) as error:
            records, reason = f"records {file.first} to {file.end - 1}", str(error).splitlines()[0]
            self._report.fault("record", file.name, f"The file cannot be read as {records}: {reason}")

    def _segments(self, file: StoredFile, segments: list[Segment]) -> None:
        """Consecutive segments of a file; several small ones are read at once."""
        path = self._place.address(file.name)
        while segments:
            most = bisect_right(segments, segments[0].first + _TOGETHER, key=lambda segment: segment.end)
            some, segments = segments[: max(most, 1)], segments[max(most, 1) :]
            numbers, leaves = leaves_of(self._connection, path, some[0].first, some[-1].end)
            self._report.records += len(numbers)
            in_order = numbers == sorted(numbers)
            for one in some:
                begin, end = bisect_left(numbers, one.first), bisect_left(numbers, one.end)
                if not in_order:  # no position can be trusted
                    begin, end = 0, len(numbers)
                self._segment(file, one, numbers[begin:end], leaves[begin:end])

    def _segment(self, file: StoredFile, segment: Segment, numbers: list[int], leaves: list[bytes]) -> None:
        where = f"{file.name}, records {segment.first} to {segment.end - 1}"
        expected = range(segment.first, segment.end)
        if numbers != list(expected):
            if missing := sorted(set(expected) - set(numbers)):
                what = f"{len(missing)} records are missing, the first is number {missing[0]}."
                self._report.fault("missing", where, what)
            if len(set(numbers)) < len(numbers):
                self._report.fault("record", where, "More than one record has the same number.")
            if sorted(numbers) != numbers:
                self._report.fault("order", where, "The records are not in the order they were written in.")
            return
        blocks = blocks_of(leaves)
        raw = b""
        with suppress(OSError):
            raw = (self._place.folder / segment.blocks).read_bytes()
        kept = [raw[at : at + 32] for at in range(0, len(raw), 32)]
        if root_of(blocks).hex() != segment.root:
            self._report.fault("record", where, _narrowed(segment, blocks, kept))
        elif kept != blocks:
            what = "The roots of the segment's blocks are not as they were written (its records are)."
            self._report.fault("file", segment.blocks, what)
        else:
            self._erasures(segment, leaves, where)

    def _erasures(self, segment: Segment, leaves: list[bytes], where: str) -> None:
        """With the hashes of what was erased in their old places, a segment must have the root that it had before."""
        leaves = list(leaves)
        for name, (_, root) in zip(reversed(segment.erased), reversed(segment.revisions), strict=True):
            try:
                erased = read_leaves(self._place.folder / name)
            except (OSError, ValueError):
                what = (
                    "The hashes of erased records are missing, so nothing shows that no others were changed."
                )
                self._report.fault("missing", name, what)
                return
            for number, leaf in erased:
                if segment.first <= number < segment.end:
                    leaves[number - segment.first] = leaf
            if root_of(blocks_of(leaves)).hex() != root:
                what = (
                    "An erasure changed other records than those that it names, or their hashes were changed."
                )
                self._report.fault("record", where, what)
                return


def write_leaves(erased: Iterable[tuple[int, bytes]]) -> bytes:
    """Content of a file of erased records: of each its number, 8 bytes big-endian, and its hash before, 32 bytes."""
    return b"".join(number.to_bytes(8, "big") + leaf for number, leaf in erased)


def read_leaves(path: Path) -> list[tuple[int, bytes]]:
    """Inverse of `write_leaves`; raises OSError, or ValueError if the file is cut off."""
    raw = path.read_bytes()
    if len(raw) % 40:
        raise ValueError("it is cut off")
    return [(int.from_bytes(raw[at : at + 8], "big"), raw[at + 8 : at + 40]) for at in range(0, len(raw), 40)]


def _narrowed(segment: Segment, blocks: list[bytes], written: list[bytes]) -> str:
    """Which records were changed, to the precision of the kept block roots."""
    if root_of(written).hex() != segment.root:
        return "A record was changed (which one is unknown, as the roots of the blocks are gone or changed as well)."
    changed = [index for index, (now, then) in enumerate(zip(blocks, written, strict=True)) if now != then]
    spans = ", ".join(
        f"{segment.first + index * BLOCK} to {min(segment.first + (index + 1) * BLOCK, segment.end) - 1}"
        for index in changed[:_WORST]
    )
    return f"A record among numbers {spans} was changed, or two of them were exchanged."


def _find_gaps(
    connection: duckdb.DuckDBPyConnection,
    place: StorePlace,
    catalog: Catalog,
    entries: list[LedgerEntry],
    gap_seconds: float,
    report: Report,
) -> None:
    """Spans without events, by the API server's clock, and losses that the store itself noted."""
    import duckdb

    files = [place.address(file.name) for file in catalog.files if place.has(file.name)]
    if files:
        # By minute, as 100 million events have few minutes.
        query = f"""
            SELECT epoch_us(last), epoch_us(next) FROM (
                SELECT last, lead(first) OVER (ORDER BY first) AS next FROM (
                    SELECT min(time) AS first, max(time) AS last FROM {parquet(*files)}
                    GROUP BY epoch_us(time) // 60000000))
            WHERE epoch_us(next) - epoch_us(last) > ? ORDER BY 1"""
        try:
            for last, following in connection.execute(query, [int(gap_seconds * 1e6)]).fetchall():
                seconds, why = (following - last) / 1e6, _why(entries, last, following)
                report.gaps.append(Gap(clock.written(last), clock.written(following), seconds, why))
        except duckdb.Error as error:
            what = f"The times of the events cannot be read: {str(error).splitlines()[0]}"
            report.fault("record", "all files", what)
    for entry in entries:
        if entry.fields["kind"] == "lost":
            why = f"{entry.fields['batches']} batches could not be kept"
            report.gaps.append(Gap("", entry.fields["time"], 0, why))
    report.gaps.sort(key=lambda gap: gap.after or gap.before)


def _why(entries: list[LedgerEntry], last: int, following: int) -> str:
    """The reason for a gap, according to the ledger."""
    begin, end = clock.written(last), clock.written(following)
    inside = [entry.fields for entry in entries if begin <= entry.fields["time"] <= end]
    if any(said["kind"] == "opened" for said in inside):
        crashed = any(said.get("after_crash") for said in inside)
        return "the service did not run: it had crashed" if crashed else "the service was stopped"
    return "no event came: the API server, the log pipeline or the audit policy was silent"
