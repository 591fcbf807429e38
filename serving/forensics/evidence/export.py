"""Export and check of evidence files: events as recorded, with the proof that they have not been changed since.

The file is JSON: `{"content": {...}, "sha256": "...", "ledger": {...}}`. `sha256` is over the bytes of `content` as they stand.
The ledger part holds the line that notes this export, the lines that sealed the events, and the digests of all lines in between,
so that hashes can be followed from each event to the export's own line without the store.
"""

from __future__ import annotations

import base64
import getpass
import json
import re
import socket
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from data.errors import KubehabitError
from data.visible_text import visible
from serving.forensics import clock
from serving.forensics.evidence.incident import RequestPlace, blast_radius, places_of, span_of, spread_of
from serving.forensics.ledger import (
    BEGINNING,
    Head,
    Ledger,
    LedgerEntry,
    LedgerLine,
    is_signed_by,
    public_bytes,
)
from serving.forensics.merkle import BLOCK, blocks_of, climb, leaf_of, path_in, root_of
from serving.forensics.queries import EventFilter, EventPage, EventQueries, moment_of
from serving.forensics.records import COLUMNS, EventRecord, checksum, content_of
from serving.forensics.timestamps import Stamper, TimestampError, check_stamp, stamp_ledger
from serving.forensics.verify import leaves_of

FORMAT = "kubehabit.evidence/1"
MAX_EVENTS = 50_000
#: What precedes the embedded export in a page of evidence.
EMBEDDED = b'href="data:application/gzip;base64,'
_GZIP = b"\x1f\x8b"
_NOT_ASCII = re.compile("[\x7f-\U0010ffff]")
_MAX_BYTES = 2 << 30
# Margin around an alert: later stages of its requests are written after its last action.
_HOUR = 3_600_000_000
_PAGE = 5_000


class EvidenceError(KubehabitError):
    """An export that cannot be made or read."""


class Subject(msgspec.Struct, rename="camel", frozen=True):
    """What an export covers; at least one of them.

    Attributes:
        incident: ID of an incident: all its alerts, what its principals did around them, and what followed.
        alerts: IDs of alerts; with an incident, all its alerts.
        principal: everything it did between `since` and `until`, microseconds since 1970 UTC.
        note: reason, in the exporter's words; kept in the ledger.
    """

    incident: str | None = None
    alerts: tuple[str, ...] = ()
    audit_ids: tuple[str, ...] = ()
    principal: str | None = None
    since: int | None = None
    until: int | None = None
    note: str = ""


class Chain(msgspec.Struct, rename="camel", frozen=True):
    """The ledger from the first line that sealed an event of the export to the line that notes the export.

    Attributes:
        before: hash of the line before `first`.
        digests: SHA-256 of the entry of each line.
        lines: number -> line, of those that sealed an event and the last.
        public_key: key of the signatures, or "".
    """

    before: str
    first: int
    digests: list[str]
    lines: dict[int, LedgerLine]
    public_key: str


class Export(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of evidence as written.

    Attributes:
        stamp: time stamp of an authority over the ledger's line that notes the export, and so over the content; "" without.
    """

    content: msgspec.Raw
    sha256: str
    ledger: Chain
    stamp: str = ""


class Checked(msgspec.Struct, frozen=True):
    """Result of `check`.

    Attributes:
        findings: sentences; none if the file is unchanged.
        events: number of events checked.
        signed: public key that signed the ledger's lines, or "".
        head: `<number>:<hash>` of the line that notes the export; `kubehabit verify --head` compares the store with it.
        missing: number of audit IDs asked for that the store did not have.
        stamped: the time stamp in a sentence; "" if there is none.
    """

    findings: list[str]
    events: int
    signed: str
    head: str
    created: str
    by: str
    incident: str = ""
    missing: int = 0
    stamped: str = ""


def exporter() -> str:
    """User and host of this process, for the chain of custody."""
    user = "unknown"
    with suppress(KeyError, OSError):
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def _check_signs(ledger: Ledger) -> None:
    if _public_key(ledger.entries) and not ledger.signs:
        raise EvidenceError(
            "The store's ledger is signed, and so must be the line that notes an export. Name the key: events.signing_key in "
            "serve.yaml, or KUBEHABIT_EVENTS__SIGNING_KEY."
        )


def export(
    queries: EventQueries,
    ledger: Ledger,
    subject: Subject,
    *,
    by: str,
    incident: dict[str, Any] | None = None,
    alerts: Sequence[dict[str, Any]] = (),
    models: Sequence[dict[str, Any]] = (),
    words: Mapping[str, str] | None = None,
    behind: int = 0,
    stamper: Stamper | None = None,
) -> bytes:
    """Make a file of evidence on a subject, for `by`, and note it in the ledger of the same store.

    Args:
        incident, alerts: of the subject, as the API gives them.
        models: name, version and card of each model that scored them.
        words: glossary at the end, for readers who know neither Kubernetes nor proofs.
        behind: batches that are scored and not in the store yet.
        stamper: has the export time-stamped; where that fails, there is no stamp in the file, and the log says why.

    Raises:
        EvidenceError: nothing was found, or too much.
    """
    _check_signs(ledger)
    places = {} if incident is None else places_of(incident, alerts)
    records = _gather(queries, subject, incident, places, alerts)
    if not records:
        raise EvidenceError(
            "None of these events is in the store. They may be older than its retention, or from before it was switched on."
        )
    proofs = _prove(queries, records)
    found = {record.audit_id for record in records}
    cited = {*subject.audit_ids, *places, *(audit_id for alert in alerts for audit_id in alert["auditIDs"])}
    content: dict[str, Any] = {
        "format": FORMAT,
        "product": f"kubehabit {version('kubehabit')}",
        "created": clock.written(clock.now()),
        "by": by,
        "subject": _described(subject),
        "clock": clock.source(),
        "models": list(models),
        "alerts": list(alerts),
        "events": [
            {
                "record": record._asdict(),
                "sha256": checksum(record.event),
                "proof": proof,
                **({"place": places[record.audit_id]} if record.audit_id in places else {}),
            }
            for record, proof in zip(records, proofs, strict=True)
        ],
        "missing": sorted(cited - found),
        "behind": behind,
        "custody": _custody(ledger.entries, subject),
        "columns": list(COLUMNS),
        "words": dict(words or {}),
    }
    if incident is not None:
        content["incident"] = incident
        content["spread"] = spread_of(incident)
        content["blastRadius"] = blast_radius(incident, alerts, records, places)
    raw = _visible_json(msgspec.json.encode(content))
    digest = sha256(raw).hexdigest()
    noted = ledger.append(
        "exported",
        sha256=digest,
        by=by,
        note=subject.note,
        incident=subject.incident,
        alerts=list(subject.alerts),
        audit_ids=len(found),
        principal=subject.principal,
        events=len(records),
    )
    chain = _chain(ledger.entries, {proof["line"] for proof in proofs}, noted.number)
    stamp = "" if stamper is None else stamp_ledger(ledger, stamper, noted)
    return msgspec.json.encode(Export(msgspec.Raw(raw), digest, chain, stamp)) + b"\n"


def _described(subject: Subject) -> dict[str, Any]:
    since, until = (
        None if moment is None else clock.written(moment) for moment in (subject.since, subject.until)
    )
    return {
        "incident": subject.incident,
        "alerts": list(subject.alerts),
        "auditIDs": list(subject.audit_ids),
        "principal": subject.principal,
        "since": since,
        "until": until,
        "note": subject.note,
    }


def _chain(entries: Sequence[LedgerEntry], sealed: set[int], noted: int) -> Chain:
    """The ledger from the first of the lines that sealed events to the one that notes their export."""
    first = min(sealed)
    key = _public_key(entries)
    # Where signing began after the first of these lines, the line that names the key shows from where on.
    named = (entry.number for entry in entries[first : noted + 1] if _names_key(entry.fields, key))
    kept = sealed | {noted, *islice(named, 1)}
    return Chain(
        before=entries[first - 1].hash.hex() if first else BEGINNING.hex(),
        first=first,
        digests=[sha256(entry.line.entry).hexdigest() for entry in entries[first : noted + 1]],
        lines={number: entries[number].line for number in sorted(kept)},
        public_key=key,
    )


def _visible_json(raw: bytes) -> bytes:
    """The same JSON, with escapes for characters that a reader would not see or a terminal would obey."""
    text = raw.decode()
    return _NOT_ASCII.sub(lambda found: _escaped(found[0]), text).encode()


def _escaped(one: str) -> str:
    return one if visible(one) == one else json.dumps(one)[1:-1].replace("\x7f", "\\u007f")


def _gather(
    queries: EventQueries,
    subject: Subject,
    incident: dict[str, Any] | None,
    places: Mapping[str, RequestPlace],
    alerts: Sequence[dict[str, Any]],
) -> list[EventRecord]:
    """The records of a subject, in order of time."""
    wanted: list[EventFilter] = []
    if incident is not None:
        first, last = span_of(incident)
        wanted += _by_id(list(places), first - _HOUR, last + _HOUR)
    for alert in alerts:
        first, last = moment_of(alert["firstSeen"]), moment_of(alert["lastSeen"])
        wanted += _by_id(alert["auditIDs"], first - _HOUR, last + _HOUR)
    wanted += _by_id(list(subject.audit_ids), subject.since, subject.until)
    if subject.principal is not None:
        wanted.append(EventFilter(principal=subject.principal, since=subject.since, until=subject.until))
    if not wanted:
        raise EvidenceError(
            "Say what the evidence is of: an incident, alerts, audit IDs, or a principal and a span of time."
        )
    found: dict[int, EventRecord] = {}
    for one in wanted:
        page = EventPage([], "")
        while page.cursor is not None:
            page = queries.events(one, limit=_PAGE, cursor=page.cursor or None)
            found.update((record.number, record) for record in page.records)
            if len(found) > MAX_EVENTS:
                raise EvidenceError(
                    f"That is more than {MAX_EVENTS:,} events. Name a shorter span of time, or fewer alerts at a time."
                )
    return sorted(found.values(), key=lambda record: (record.time, record.number))


def _by_id(audit_ids: Sequence[str], since: int | None, until: int | None) -> list[EventFilter]:
    return [
        EventFilter(audit_ids=tuple(audit_ids[start : start + _PAGE // 2]), since=since, until=until)
        for start in range(0, len(audit_ids), _PAGE // 2)
    ]


def _prove(queries: EventQueries, records: Sequence[EventRecord]) -> list[dict[str, Any]]:
    """For each record the path from its hash to the root of its segment."""
    catalog = queries.catalog()
    by_segment: dict[int, list[int]] = defaultdict(list)
    for record in records:
        at = catalog.segment_at(record.number)
        if at is None:
            raise EvidenceError(
                f"Event {record.audit_id} came a moment ago and is not sealed yet. Export again in a minute."
            )
        by_segment[at].append(record.number)
    proofs: dict[int, dict[str, Any]] = {}
    with queries.place.connect(512, 2) as connection:
        for at, numbers in by_segment.items():
            segment = catalog.segments[at]
            file = next(one for one in catalog.files if one.first <= segment.first < one.end)
            _, leaves = leaves_of(connection, queries.place.address(file.name), segment.first, segment.end)
            blocks = blocks_of(leaves)
            if root_of(blocks).hex() != segment.root:
                raise EvidenceError(
                    f"Records {segment.first} to {segment.end - 1} are not as they were sealed, so they are no evidence. "
                    "See `kubehabit verify`."
                )
            for number in numbers:
                position = number - segment.first
                block = position // BLOCK
                path = path_in(leaves[block * BLOCK : (block + 1) * BLOCK], position % BLOCK)
                path += path_in(blocks, block)
                proofs[number] = {
                    "line": segment.line,
                    "leaf": leaves[position].hex(),
                    "path": [[side, beside.hex()] for side, beside in path],
                }
    return [proofs[record.number] for record in records]


def _custody(entries: Sequence[LedgerEntry], subject: Subject) -> list[dict[str, Any]]:
    """Earlier exports of the same incident, alerts or principal."""
    exports = [entry.fields for entry in entries if entry.fields["kind"] == "exported"]
    return [
        said
        for said in exports
        if set(subject.alerts) & set(said["alerts"])
        or (subject.incident is not None and said.get("incident") == subject.incident)
        or (subject.principal is not None and said["principal"] == subject.principal)
    ]


def _public_key(entries: Sequence[LedgerEntry]) -> str:
    keys = (entry.fields.get("public_key") for entry in reversed(entries))
    return next((str(key) for key in keys if key), "")


def _names_key(fields: Mapping[str, Any], key: str) -> bool:
    """Whether a line of the ledger says that the lines from it on are signed by a key."""
    return bool(key) and fields.get("kind") == "opened" and fields.get("public_key") == key


def is_page(raw: bytes) -> bool:
    """Whether a file is HTML."""
    return raw.lstrip()[:9].lower() == b"<!doctype"


def read_export(path: Path) -> bytes:
    """The export in a file, which may be compressed, or in a page; raises EvidenceError if there is none."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"Cannot read {path}: {error.strerror}.") from error
    unpacker = zlib.decompressobj(wbits=31)
    try:
        if is_page(raw):
            parts = raw.split(EMBEDDED)
            if len(parts) != 2:
                raise EvidenceError(
                    f"{path} is not a page of evidence: it does not embed the export it was made from."
                )
            raw = base64.b64decode(parts[1].partition(b'"')[0], validate=True)
        if not raw.startswith(_GZIP):
            return raw
        plain = unpacker.decompress(raw, _MAX_BYTES)
    except (ValueError, zlib.error) as error:
        raise EvidenceError(f"The export in {path} is damaged: {error}.") from error
    if not unpacker.eof or unpacker.unused_data:
        raise EvidenceError(
            f"The export in {path} is damaged, or unpacks to more than {_MAX_BYTES >> 20:,} MiB."
        )
    return plain


def parse_export(raw: bytes, path: Path) -> tuple[Export, dict[str, Any]]:
    """Decode an export and its content; raises EvidenceError, which names `path`, if it is none."""
    try:
        found = msgspec.json.decode(raw, type=Export)
        content = msgspec.json.decode(found.content, type=dict[str, Any])
        if content["format"] != FORMAT:
            raise EvidenceError(f"{path} was written by another version of kubehabit ({content['format']}).")
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise EvidenceError(f"{path} is no file of evidence: {error}.") from error
    return found, content


def check(
    path: Path, key: Ed25519PublicKey | None = None, authorities: Sequence[x509.Certificate] | None = None
) -> Checked:
    """Check an evidence file, or the page that embeds it, without the store; raises EvidenceError if it is neither.

    The ledger's lines must be signed with `key`; without it, with the key that the file names. With `authorities`, the file must
    have a time stamp of an authority that these certificates vouch for.
    """
    found, content = parse_export(read_export(path), path)
    findings: list[str] = []
    if sha256(found.content).hexdigest() != found.sha256:
        findings.append("The content does not match its checksum.")
    try:
        lines, named = found.ledger.lines, found.ledger.public_key
        head = _check_chain(found.ledger, findings)
        if key is None and named:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(named))
        roots = {number: msgspec.json.decode(lines[number].entry, type=dict[str, Any]) for number in lines}
        # Lines before the one that names the key are proved by the chain of hashes to the last line, which is signed.
        signed = "" if key is None else public_bytes(key)
        since = min((number for number in lines if _names_key(roots[number], signed)), default=0)
        unsigned = [number for number in lines if key is not None and not is_signed_by(lines[number], key)]
        unsigned = [number for number in unsigned if number >= since]
        findings += [f"Line {number + 1} of the ledger is not signed by the key." for number in unsigned]
        noted = roots[max(roots)]
        if noted.get("kind") != "exported" or noted.get("sha256") != found.sha256:
            findings.append("The last line of the ledger notes another export.")
        for event in content["events"]:
            _check_event(event, roots, findings)
    except (LookupError, TypeError, ValueError, StopIteration, msgspec.MsgspecError) as error:
        findings.append(f"The file lacks what proves it, or it was changed: {error!r}.")
        head = named = ""
    stamped = _check_stamp(found.stamp, head, authorities, findings)
    return Checked(
        findings,
        events=len(content.get("events", ())),
        signed=named,
        head=head,
        created=str(content.get("created", "")),
        by=str(content.get("by", "")),
        incident=str((content.get("subject") or {}).get("incident") or ""),
        missing=len(content.get("missing", ())),
        stamped=stamped,
    )


def _check_stamp(stamp: str, head: str, roots: Sequence[x509.Certificate] | None, findings: list[str]) -> str:
    """What the time stamp of an export says, in a sentence."""
    if not stamp:
        if roots is not None:
            findings.append("The file has no time stamp.")
        return ""
    number, _, digest = head.partition(":")
    try:
        return check_stamp(stamp, Head(int(number or -1), digest), roots).sentence
    except TimestampError as error:
        findings.append(str(error))
        return ""


def _check_chain(chain: Chain, findings: list[str]) -> str:
    """Follow the hashes from the first cited line to the one that notes the export; returns the head."""
    before = bytes.fromhex(chain.before)
    for number, digest in enumerate(map(bytes.fromhex, chain.digests), chain.first):
        line = chain.lines.get(number)
        if line is not None and sha256(line.entry).digest() != digest:
            findings.append(f"Line {number + 1} of the ledger is not the one that was chained.")
        before = sha256(before + digest).digest()
        if line is not None and before.hex() != line.hash:
            findings.append(f"The hash of ledger line {number + 1} does not follow from the lines before it.")
            break
    last = chain.first + len(chain.digests) - 1
    if not chain.lines or max(chain.lines) != last or min(chain.lines) < chain.first:
        findings.append("The chain does not reach from the events to the line that notes the export.")
    return f"{last}:{before.hex()}"


def _check_event(event: dict[str, Any], roots: dict[int, dict[str, Any]], findings: list[str]) -> None:
    record = EventRecord(**event["record"])
    where = f"Event {record.audit_id} (record {record.number})"
    if checksum(record.event) != event["sha256"]:
        findings.append(f"{where}: its text is not that of its checksum.")
    proof = event["proof"]
    leaf = leaf_of(content_of(record))
    path = [(side, bytes.fromhex(beside)) for side, beside in proof["path"]]
    sealed = _segment_of(roots[proof["line"]], record.number)
    if leaf.hex() != proof["leaf"]:
        findings.append(f"{where} is not as it was recorded.")
    elif climb(leaf, path).hex() != sealed.get("root"):
        findings.append(f"{where}: its proof does not lead to what was sealed.")
    elif not sealed["first"] <= record.number < sealed["first"] + sealed["count"]:
        findings.append(f"{where}: its number is outside the segment it claims to be in.")


def _segment_of(line: dict[str, Any], number: int) -> dict[str, Any]:
    """The segment of a record in the ledger's line that names its root: the one that sealed it, or the last erasure in it."""
    if line.get("kind") != "erased":
        return line
    return next(one for one in line["segments"] if one["first"] <= number < one["first"] + one["count"])
