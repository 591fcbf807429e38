"""Decodes request bodies and parts of a log to events, with a compiled decoder.

What is no plain event (a list, a cloud's envelope) is opened by `data.events.formats.registry` once the plain decoder refused it.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

import msgspec
import numpy as np

from data.errors import KubehabitError
from data.events.audit_event import (
    API_VERSIONS,
    MAX_EVENT_BYTES,
    MAX_UNPACKED_BYTES,
    UNREADABLE,
    AuditEvent,
    DeadLetter,
    Decoded,
    check,
    decode_event,
    is_too_long,
    why,
)
from data.events.formats.reading import Limits
from data.events.formats.registry import Sources
from data.events.salvage import salvage, salvage_json
from data.timestamps import are_usual, is_time

#: Records of one body that may be no audit events; a webhook's batch has 400.
MAX_UNREADABLE = 10_000
_SUSPICIOUS_BYTES = 1 << 20
#: In a larger body. The records of a list are found all at once, at 70 bytes each, and it has hardly more of them than commas.
#: The recordings have one comma in 37 bytes; managed fields, the densest an event may carry, at most one in nine (`"f:a":{},`).
_LEAST_BYTES_A_COMMA = 6
_COMMA = ord(",")
_BRACE = ord("}")


class _EventList(msgspec.Struct, gc=False):
    """What kube-apiserver's webhook sends."""

    items: list[AuditEvent]
    kind: str = ""
    apiVersion: str = ""


_EVENT = msgspec.json.Decoder(AuditEvent)
_EVENT_LIST = msgspec.json.Decoder(_EventList)
_NEWLINE = ord("\n")
_VERSION = attrgetter("apiVersion")
_ID = attrgetter("auditID")
_RECEIVED = attrgetter("requestReceivedTimestamp")


#: Bytes of a body in which the kind of a list is looked for: API servers write it first.
_BEGINNING = 256


def decode_lines(lines: Iterable[bytes], first_line: int = 1, sources: Sources | None = None) -> Decoded:
    """Decode records, one a line; a line that cannot be read becomes a dead letter with its reason.

    A line may hold an event, an EventList, a cloud's envelope, or several such objects without a space between them.
    Give the same `sources` for all of a log.
    """
    return decode_numbered(enumerate(lines, first_line), sources)


def decode_numbered(
    records: Iterable[tuple[int, bytes]],
    sources: Sources | None = None,
    stop: Callable[[int, bytes], bool] | None = None,
) -> Decoded:
    """As `decode_lines`, for records that bring their line numbers along.

    `stop` is asked about each line that is no plain event; if it says yes, that line and the rest are left to the caller.
    """
    events: list[AuditEvent] = []
    numbers: list[int] = []
    dead: list[DeadLetter] = []
    skipped: Counter[str] = Counter()
    decode, usual = _EVENT.decode, API_VERSIONS[0]
    native = 0
    for number, line in records:
        if len(line) > MAX_EVENT_BYTES:
            if (cut := salvage(line, limit=MAX_EVENT_BYTES)) is not None:
                events.append(cut)
                numbers.append(number)
                native += 1
                continue
            dead.append(DeadLetter(number, f"longer than {MAX_EVENT_BYTES} bytes", bytes(line[:1024])))
            continue
        try:
            event = decode(line)
            if event.apiVersion != usual or not event.auditID or not is_time(event.requestReceivedTimestamp):
                check(event)
            events.append(event)
            numbers.append(number)
            native += 1
        except UNREADABLE as refused:
            error: Exception = refused
            if is_too_long(refused):
                try:
                    events.append(decode_event(line))
                    numbers.append(number)
                    native += 1
                    continue
                except UNREADABLE as again:
                    error = again
            if not line.strip():
                continue
            if stop is not None and stop(number, line):
                break
            if sources is None:
                sources = Sources()
            found = sources.open(line)
            if found is None:
                dead.append(DeadLetter(number, why(error), bytes(line)))
                sources.limits.check_lost(len(dead))
                continue
            events += found.events
            numbers += [number] * len(found.events)
            if found.dead:
                dead += [DeadLetter(number, reason, raw) for _, reason, raw in found.dead]
                sources.limits.check_lost(len(dead))
            skipped.update(found.skipped)
    if sources is not None and native:
        sources.records["native"] += native
    return Decoded(events, numbers, dead, skipped)


def decode_block(block: bytes | memoryview, first_line: int = 1) -> Decoded | None:
    """Decode one or more whole lines at once, several times faster than line by line.

    Returns:
        None unless each line is one plain event as API servers write it; then `decode_numbered` has to look at each.
    """
    if len(block) > MAX_EVENT_BYTES:  # one of the lines could be too long
        return None
    try:
        events = _EVENT.decode_lines(block)
    except UNREADABLE:
        return None
    letters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(letters == _NEWLINE)
    if block[-1] != _NEWLINE:
        ends = np.append(ends, len(letters))
    lines = len(ends)
    # As many events as lines is not enough: an empty line may make up for two events on another.
    if len(events) != lines or ends[0] == 0 or not (letters[ends - 1] == _BRACE).all():
        return None
    if set(map(_VERSION, events)) != {API_VERSIONS[0]} or not _are_plain(events):
        return None
    return Decoded(events, list(range(first_line, first_line + lines)), [])


def _are_plain(events: Sequence[AuditEvent]) -> bool:
    """Whether all can be cited, and have their times as API servers write them."""
    return all(map(_ID, events)) and are_usual(list(map(_RECEIVED, events)))


def _decode_event_list(body: bytes) -> Decoded | None:
    """Decode an EventList of plain events at once, twice as fast as item by item; None if it is anything else."""
    try:
        listed = _EVENT_LIST.decode(body)
    except UNREADABLE:
        return None
    events = listed.items
    versions = {listed.apiVersion, *map(_VERSION, events)} - {""}
    if listed.kind != "EventList" or not listed.apiVersion or not versions <= set(API_VERSIONS):
        return None
    return Decoded(events, list(range(1, len(events) + 1)), []) if _are_plain(events) else None


def decode_body(body: bytes, sources: Sources | None = None) -> Decoded:
    """Decode a decompressed request body: one list or envelope, one event, or newline-delimited records.

    `sources` carries GKE's long-running requests, which arrive as two records, from one body of a stream to the next.

    Raises:
        KubehabitError: nothing in the body can be read as JSON at all, or too much of it is no audit event.
    """
    if not body.strip():
        raise KubehabitError("The body is empty: send audit events as an EventList, a JSON list or NDJSON.")
    if len(body) > _SUSPICIOUS_BYTES:
        commas = np.count_nonzero(np.frombuffer(body, np.uint8) == _COMMA)  # bytes.count is slower
        if len(body) < _LEAST_BYTES_A_COMMA * commas:
            raise KubehabitError(
                "The body is a list of very many very small things, and nothing of it was taken: send audit events."
            )
    if sources is None and len(body) <= MAX_EVENT_BYTES:  # no item can be too long then
        at_once = _decode_event_list(body) if b'"EventList"' in body[:_BEGINNING] else decode_block(body)
        if at_once is not None:
            return at_once
    sources = sources or Sources()
    sources.limits = Limits(MAX_UNPACKED_BYTES, MAX_UNREADABLE)
    found = sources.open_list(body)
    if found is not None:
        return Decoded(
            found.events, found.positions, [DeadLetter(*lost) for lost in found.dead], found.skipped
        )
    # One line after the other: a list of all of them would be many times as large as a body of nothing but line ends.
    decoded = decode_lines((line.rstrip(b"\r\n") for line in io.BytesIO(body)), sources=sources)
    nothing = not decoded.events and not decoded.skipped
    if nothing and all(letter.reason.startswith("not JSON") for letter in decoded.dead):
        raise KubehabitError(
            "The body is not JSON: send audit events as an EventList, a JSON list or one event a line."
        )
    return decoded


def decode_originals(body: bytes) -> Iterator[tuple[AuditEvent, bytes]]:
    """The events of a body that `decode_body` takes, with their original JSON; what cannot be read is left out."""
    sources = Sources()
    sources.limits = Limits(MAX_UNPACKED_BYTES)
    whole = sources.open_list(body)
    if whole is not None:
        yield from zip(whole.events, map(bytes, whole.originals), strict=True)
        return
    for line in body.splitlines():
        if len(line) > MAX_EVENT_BYTES:
            kept = salvage_json(line, limit=MAX_EVENT_BYTES)
            if kept is not None:
                yield decode_event(kept), kept
            continue
        try:
            yield decode_event(line), line
        except UNREADABLE:
            opened = sources.open(line) if line.strip() else None
            if opened is not None:
                yield from zip(opened.events, map(bytes, opened.originals), strict=True)
