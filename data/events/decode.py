"""Decodes request bodies and logs to events, with a compiled decoder; one reader for both.

What is no plain event (a list, a cloud's envelope) is opened by `data.events.formats.registry` once the plain decoder refused it.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from data.errors import KubehabitError
from data.events.audit_event import (
    API_VERSIONS,
    ID_KEY,
    ID_WITHIN,
    MAX_EVENT_BYTES,
    MAX_UNPACKED_BYTES,
    UNREADABLE,
    AuditEvent,
    DeadLetter,
    Decoded,
    check,
    decode_event,
    is_plain,
    is_too_long,
)
from data.events.formats.foreign import NO_JSON, describe
from data.events.formats.json_stream import Documents, opens_document
from data.events.formats.reading import Limits, Reading
from data.events.formats.registry import Sources
from data.events.left_out import LeftOut
from data.events.packing import Blocks, read_within, replayed, unpacked
from data.events.salvage import salvage
from data.timestamps import are_usual

if TYPE_CHECKING:
    from data.events.packing import Stream

#: Records of one body that may be no audit events; a webhook's batch has 400.
MAX_UNREADABLE = 10_000
_SUSPICIOUS_BYTES = 1 << 20
#: Bytes decoded at a time: enough to amortise what is done per chunk, small enough that its events stay in a core's cache.
CHUNK_BYTES = 256 << 10
#: The same where records are not lines, so that little is looked at twice.
SMALL_BYTES = 64 << 10
#: In a larger body. The records of a list are found all at once, at 70 bytes each, and it has hardly more of them than commas.
#: The recordings have one comma in 37 bytes; managed fields, the densest an event may carry, at most one in nine (`"f:a":{},`).
_LEAST_BYTES_A_COMMA = 6
_COMMA = ord(",")
_DAMAGED = "compressed stream is damaged"
_BRACE = ord("}")


class _EventList(msgspec.Struct, gc=False):
    """What kube-apiserver's webhook sends."""

    items: list[AuditEvent]
    kind: str = ""
    apiVersion: str = ""


_EVENT = msgspec.json.Decoder(AuditEvent)
_EVENT_LIST = msgspec.json.Decoder(_EventList)
_ANY = msgspec.json.Decoder(msgspec.Raw)
_NEWLINE = ord("\n")
_VERSION = attrgetter("apiVersion")
_ID = attrgetter("auditID")
_RECEIVED = attrgetter("requestReceivedTimestamp")


#: Bytes of a body in which the kind of a list is looked for: API servers write it first.
_BEGINNING = 256
_NOT_BLANK = re.compile(rb"\S")
#: What the first line of a document may end with, of its last bytes that are not blank.
_MAY_OPEN, _LAST = (b"", b"{", b"["), slice(-2, None)
#: What may stand around an item of a list.
_AROUND_ITEMS = b"[], \t\r\n"
_BEFORE_ITEMS = re.compile(
    rb'\{(?:\s*+"[^"\\]{1,64}+"\s*+:\s*+(?:"[^"\\]{0,256}+"|[a-z0-9.]{1,32}+|\{\s*+\})\s*+,)*+\s*+"[^"\\]{1,64}+"\s*+:\s*+\['
)
#: Bytes in which the audit ID is looked for behind an envelope, which a plain event seldom follows: API servers write it early.
_EARLY = 256
#: In the place of why a record without an audit ID could not be decoded as an event.
_NOT_TRIED = ValueError("not an audit event: it has no auditID")


def decode_lines(lines: Iterable[bytes], first_line: int = 1, sources: Sources | None = None) -> Decoded:
    """Decode records, one a line; a line that cannot be read becomes a dead letter with its reason.

    A line may hold an event, an EventList, a cloud's envelope, or several such objects without a space between them.
    Give the same `sources` for all of a log that is decoded in parts, and call its `finish` at the end.
    """
    if sources is not None:
        return decode_numbered(enumerate(lines, first_line), sources)
    sources, numbers = Sources(), count(first_line)
    decoded = decode_numbered(zip(numbers, lines, strict=False), sources)
    rest = _finished(sources, next(numbers) - 2)  # one was taken for the line that did not come
    if rest is None:
        return decoded
    dead = [replace(letter, before=letter.before + len(decoded.events)) for letter in rest.dead]
    return Decoded(
        decoded.events + rest.events,
        decoded.lines + rest.lines,
        decoded.dead + dead,
        Counter(decoded.skipped) + Counter(rest.skipped),
    )


def _finished(sources: Sources, line: int, originals: list[bytes] | None = None) -> Decoded | None:
    """What is left of a log whose last line is this one; None if nothing is."""
    rest = sources.finish()
    if rest is None:
        return None
    if originals is not None:
        originals += map(bytes, rest.originals)
    dead = [replace(letter, line=line) for letter in rest.dead]
    return Decoded(rest.events, [line] * len(rest.events), dead, rest.skipped)


def decode_numbered(
    records: Iterable[tuple[int, bytes]],
    sources: Sources | None = None,
    stop: Callable[[int, bytes], bool] | None = None,
    *,
    positions: bool = False,
    originals: list[bytes] | None = None,
) -> Decoded:
    """As `decode_lines`, for records that bring their line numbers along.

    Args:
        records: each with its line.
        sources: of the log.
        stop: asked about each line that is no plain event; if it says yes, that line and the rest are left to the caller.
        positions: give places in the list that a record is, in place of its line.
        originals: takes the JSON of each event, or the cloud's record that it was made from.
    """
    events: list[AuditEvent] = []
    numbers: list[int] = []
    dead: list[DeadLetter] = []
    skipped: Counter[str] = Counter()
    decode = _EVENT.decode
    native, within = 0, ID_WITHIN
    for number, line in records:
        if len(line) > MAX_EVENT_BYTES:
            if (cut := salvage(line)) is not None:
                events.append(cut.event)
                numbers.append(number)
                native += 1
                if originals is not None:
                    originals.append(cut.text)
                continue
            dead.append(
                DeadLetter(number, f"longer than {MAX_EVENT_BYTES} bytes", bytes(line[:1024]), len(events))
            )
            continue
        refused: Exception = _NOT_TRIED
        if line.find(ID_KEY, 0, within) >= 0:
            try:
                event = decode(line)
                if not is_plain(event):
                    check(event)
            except UNREADABLE as error:
                refused = error
            else:
                events.append(event)
                numbers.append(number)
                native, within = native + 1, ID_WITHIN
                if originals is not None:
                    originals.append(line)
                continue
        if not line or line.isspace():
            continue
        if stop is not None and line[_LAST].rstrip()[-1:] in _MAY_OPEN and stop(number, line):
            break
        if sources is None:
            sources = Sources()
        found = _opened(line, refused, sources)
        if found.dead and not found.events:
            found = _opened_item(line, sources) or found
        within = _EARLY if refused is _NOT_TRIED and found.events else ID_WITHIN
        if found.dead:
            lost = found.dead if positions else [replace(letter, line=number) for letter in found.dead]
            dead += [replace(letter, before=letter.before + len(events)) for letter in lost]
            sources.limits.check_lost(len(dead))
        numbers += found.positions if positions else [number] * len(found.events)
        events += found.events
        if found.skipped:
            skipped.update(found.skipped)
        if originals is not None:
            originals += map(bytes, found.originals)
    if sources is not None and native:
        sources.records["native"] += native
    return Decoded(events, numbers, dead, skipped)


def _opened(line: bytes, refused: Exception, sources: Sources) -> Reading:
    """What is in a record that is no event as API servers write it."""
    tried = refused is not _NOT_TRIED
    if not tried and (opened := sources.open(line)) is not None:
        return opened
    if not tried or is_too_long(refused):
        found = sources.reading()
        try:
            found.event(decode_event(line), line)
        except UNREADABLE as error:
            refused = error
        else:
            sources.records["native"] += 1
            return found
    opened = sources.open(line) if tried else None
    if opened is None:
        opened = sources.reading()
        opened.give_up(line, refused)
    return opened


def _opened_item(line: bytes, sources: Sources) -> Reading | None:
    """What is in the item of a line of a list that has an item a line, as `json_agg` of PostgreSQL writes it.

    The first may stand behind the head of an envelope, the last before its end. None if there is nothing, or if the line is JSON
    by itself: what is in that was looked for.
    """
    try:
        _ANY.decode(line)
    except RecursionError:
        return None
    except UNREADABLE:
        pass
    else:
        return None
    item = line.strip(_AROUND_ITEMS)
    head = _BEFORE_ITEMS.match(item)
    inner = item if head is None else item[head.end() :].lstrip(_AROUND_ITEMS)
    if inner.endswith(b"}") and inner[:-1].rstrip().endswith(b"]"):
        inner = inner[:-1].rstrip(_AROUND_ITEMS)
    for text in dict.fromkeys((item, inner)):
        if text[:1] == b"{" and text[-1:] == b"}" and len(text) < len(line.strip()):
            found = _opened(text, _NOT_TRIED, sources)
            if found.events or found.skipped:
                return found
    return None


def decode_block(block: bytes | memoryview, first_line: int = 1) -> Decoded | None:
    """Decode one or more whole lines at once, several times faster than line by line.

    Returns:
        None unless each line is one plain event as API servers write it; then `decode_numbered` has to look at each.
    """
    if len(block) > MAX_EVENT_BYTES:  # one of the lines could be too long
        return None
    if ID_KEY not in bytes(block[:ID_WITHIN]):
        return None
    try:
        events = _EVENT.decode_lines(block)
    except UNREADABLE:
        return None
    # As many events as lines is not enough: an empty line may make up for two events on another.
    lines = len(events)
    if _objects_by_line(bytes(block)) != lines:
        return None
    if set(map(_VERSION, events)) != {API_VERSIONS[0]} or not _are_plain(events):
        return None
    return Decoded(events, list(range(first_line, first_line + lines)), [])


def _objects_by_line(data: bytes) -> int | None:
    """Number of lines, if each ends with a brace. To look for one newline after the other beats columns of all bytes."""
    lines, at, find = 0, data.find(b"\n"), data.find
    if at == 0:
        return None
    while at > 0:
        if data[at - 1] != _BRACE:
            return None
        lines += 1
        at = find(b"\n", at + 1)
    last = data[-1]
    if last == _NEWLINE:
        return lines
    return lines + 1 if last == _BRACE else None


def _lines(data: bytes, end: int) -> list[bytes]:
    """The lines up to a place, without their newlines. `bytes.split` looks at one byte after the other."""
    lines: list[bytes] = []
    at, find = 0, data.find
    while (stop := find(b"\n", at, end)) >= 0:
        lines.append(data[at:stop])
        at = stop + 1
    if at < end:
        lines.append(data[at:end])
    return lines


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


class LogRecords:
    """Cuts the bytes of a log into records and decodes them, chunk by chunk.

    Args:
        data: the log.
        sources: opens its records.
        positions: as of `decode_numbered`.
        originals: takes the JSON of each event of the chunk that is yielded next.
    """

    def __init__(
        self, data: Blocks, sources: Sources, *, positions: bool = False, originals: list[bytes] | None = None
    ) -> None:
        self.line = 1  # the next
        self._input = data
        self._sources = sources
        self._opener: tuple[int, bytes] | None = None
        self._positions = positions
        self._originals = originals

    def _opens(self, number: int, line: bytes) -> bool:
        if not opens_document(line):
            return False
        self._opener = (number, line)
        return True

    def _decode(
        self, records: Iterable[tuple[int, bytes]], stop: Callable[[int, bytes], bool] | None = None
    ) -> Decoded:
        return decode_numbered(
            records, self._sources, stop, positions=self._positions, originals=self._originals
        )

    def chunks(self) -> Iterator[Decoded]:
        """All of the log."""
        yield from self._read()
        rest = _finished(self._sources, max(self.line - 1, 1), self._originals)
        if rest is not None:
            yield rest

    def _read(self) -> Iterator[Decoded]:
        carry = b""
        while True:
            block = self._input.block()
            if not block and self._input.damage is not None:
                yield self._damaged(carry, self._input.damage)
                return
            if not block and not carry:
                return
            data = carry + block if carry else block
            # What follows the last newline is the beginning of a line, or at the end of the log a line of its own.
            end = data.rfind(b"\n") + 1 if block else len(data)
            carry = data[end:]
            first = self.line
            decoded = decode_block(memoryview(data)[:end], first) if end else None
            if decoded is not None:
                if self._originals is not None:
                    self._originals += _lines(data, end)
                self.line += len(decoded.events)
                self._sources.records["native"] += len(decoded.events)
                yield decoded
                continue
            lines = _lines(data, end)
            self.line = first + len(lines)
            numbered = iter(enumerate(lines, first))
            yield self._decode(numbered, self._opens)
            if self._opener is not None:
                number, opener = self._opener
                self._opener = None
                self._input.unread(carry)
                rest = [opener, *(line for _, line in numbered), b""] if block else [opener]
                self._input.unread(b"\n".join(rest))
                carry = b""
                yield from self._document(number, one_line=False)
            elif len(carry) > MAX_EVENT_BYTES:
                self._input.unread(carry)
                carry = b""
                yield from self._document(self.line, one_line=True)

    def _damaged(self, cut: bytes, damage: Exception) -> Decoded:
        """The cut-off end of a damaged log, with the reason."""
        decoded = self._decode([(self.line, cut)])
        reason = f"{_DAMAGED} after line {self.line - 1}: {damage}"
        if decoded.events or not cut.strip():
            return decoded._replace(
                dead=[*decoded.dead, DeadLetter(self.line, reason, b"", len(decoded.events))]
            )
        return decoded._replace(dead=[DeadLetter(self.line, reason, cut)])

    def _document(self, line: int, one_line: bool) -> Iterator[Decoded]:
        """Records of a document that is not one record a line."""
        document = Documents(line, one_line)
        records: list[tuple[int, bytes]] = []
        size = 0
        while not document.finished:
            block = self._input.block()
            found = document.feed(block) if block else document.end()
            records += found
            size += sum(len(record) for _, record in found)
            if size >= CHUNK_BYTES or document.finished or document.damage:
                decoded = self._decode(records)
                dead = [DeadLetter(at, reason, b"", len(decoded.events)) for at, reason in document.damage]
                document.damage.clear()
                yield decoded._replace(dead=decoded.dead + dead)
                records, size = [], 0
        self._input.unread(document.rest)
        self.line = document.line


def decode_body(body: bytes, sources: Sources | None = None) -> Decoded:
    """Decode a decompressed request body as a file of the same bytes is read: lists, envelopes, documents, or records one a line.

    The result has lines of the body; where it is one line, places in the list that it holds.

    `sources` carries GKE's long-running requests, which arrive as two records, from one body of a stream to the next.

    Raises:
        KubehabitError: nothing in the body can be read as JSON at all, or too much of it is no audit event.
    """
    if not body or body.isspace():
        raise KubehabitError("The body is empty: send audit events as an EventList, a JSON list or NDJSON.")
    _check_density(body)
    if sources is None and len(body) <= MAX_EVENT_BYTES:  # no item can be too long then
        at_once = _decode_event_list(body) if b'"EventList"' in body[:_BEGINNING] else decode_block(body)
        if at_once is not None:
            return at_once
    whole, skipped = Decoded([], [], []), Counter[str]()
    for part in _chunks(body, sources or Sources()):
        before = len(whole.events)
        whole.dead.extend(
            replace(letter, before=letter.before + before) if before else letter for letter in part.dead
        )
        whole.events.extend(part.events)
        whole.lines.extend(part.lines)
        skipped.update(part.skipped)
        if len(whole.dead) > MAX_UNREADABLE:
            Limits(lost=MAX_UNREADABLE).check_lost(len(whole.dead))
    nothing = not whole.events and not skipped and whole.dead
    if nothing and all(letter.reason.startswith((*NO_JSON, _DAMAGED)) for letter in whole.dead):
        kind = describe(whole.dead[0].raw)
        what = kind or "not JSON: send audit events as an EventList, a JSON list or one event a line"
        raise KubehabitError(f"The body is {what}.")
    return whole._replace(skipped=skipped)


def _check_density(body: bytes) -> None:
    """Raise KubehabitError for a body of so many small things that it would take many times its size."""
    if len(body) > _SUSPICIOUS_BYTES:
        commas = np.count_nonzero(np.frombuffer(body, np.uint8) == _COMMA)  # bytes.count is slower
        if len(body) < _LEAST_BYTES_A_COMMA * commas:
            raise KubehabitError(
                "The body is a list of many very small things, and nothing of it was taken: send audit events."
            )


def _is_one_line(body: bytes) -> bool:
    """Whether all of a body stands on one line, blank ones apart."""
    first = _NOT_BLANK.search(body)
    end = body.find(b"\n", first.start()) if first is not None else -1
    return end < 0 or _NOT_BLANK.search(body, end) is None


def _chunks(body: bytes, sources: Sources, originals: list[bytes] | None = None) -> Iterator[Decoded]:
    """The parts of a body as the reader of files finds them."""
    sources.limits = Limits(MAX_UNPACKED_BYTES, MAX_UNREADABLE)
    raw = io.BufferedReader(io.BytesIO(body), SMALL_BYTES)
    unpacking = unpacked(raw)
    stream: Stream | io.BytesIO = io.BytesIO(body)
    if unpacking is raw:
        stream.seek(raw.tell())  # behind a byte order mark
    else:  # it is packed, which a body seldom is
        body, damage = read_within(unpacking, MAX_UNPACKED_BYTES)
        _check_density(body)
        stream = io.BytesIO(body) if damage is None else replayed(body, damage)
    one_line = _is_one_line(body)
    # A line that is one record comes whole: to put it together of blocks would copy it again and again.
    size = len(body) if one_line and len(body) <= MAX_EVENT_BYTES else 0
    blocks = Blocks(stream, max(size, CHUNK_BYTES), SMALL_BYTES)
    yield from LogRecords(blocks, sources, positions=one_line, originals=originals).chunks()


def decode_originals(body: bytes, left_out: LeftOut | None = None) -> Iterator[tuple[AuditEvent, bytes]]:
    """The events of a body that `decode_body` takes, with their original JSON; `left_out` counts what is none."""
    originals: list[bytes] = []
    for part in _chunks(body, Sources(), originals):
        if left_out is not None:
            left_out.skip(part.skipped)
            for letter in part.dead:
                left_out.add("", letter)
        yield from zip(part.events, originals, strict=True)
        originals.clear()
