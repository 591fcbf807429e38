"""Decoding of audit.k8s.io events, with a compiled decoder that reads only the fields that are needed.

Field names are those of the Kubernetes API (`k8s.io/apiserver/pkg/apis/audit/v1`). What is no plain event (a list, a
cloud's envelope) is opened by `data.sources`, and only after the plain decoder has refused it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from data.errors import KubehabitError
from data.times import are_usual, is_time

if TYPE_CHECKING:
    from data.sources import Sources

API_VERSIONS = ("audit.k8s.io/v1", "audit.k8s.io/v1beta1")
MAX_EVENT_BYTES = 8 * 1024 * 1024
"""The API server refuses request bodies over 3 MiB; a line over this is no audit event but damage."""
MAX_UNPACKED_BYTES = 8 * MAX_EVENT_BYTES
"""Bound on what the compressed parts inside one record may unpack to."""
MAX_UNREADABLE = 10_000
"""Records of one body that may be no audit events; a webhook's batch has 400."""
_SUSPICIOUS_BYTES = 1 << 20
_LEAST_BYTES_A_COMMA = 6
"""In a larger body. The records of a list are found all at once, at 70 bytes each, and it has hardly more of them than commas.
The recordings have one comma in 37 bytes; managed fields, the densest an event may carry, at most one in nine (`"f:a":{},`)."""
_COMMA = ord(",")
_BRACE = ord("}")


# The parts of an event are frozen so that they can be keys: most of what a log holds has been seen before, and is then looked up
# whole instead of being worked out anew.


class User(msgspec.Struct, gc=False, frozen=True):
    """Who is logged as the caller. A 401 has an empty user."""

    username: str = ""
    groups: tuple[str, ...] = ()


class ObjectRef(msgspec.Struct, gc=False, frozen=True):
    """What the request was about. Absent for requests outside the resource API (`/version`)."""

    resource: str = ""
    namespace: str = ""
    name: str = ""
    apiGroup: str = ""
    apiVersion: str = ""
    subresource: str = ""


class Status(msgspec.Struct, gc=False, frozen=True):
    """Answer of the API server."""

    code: int = 0


class Annotations(
    msgspec.Struct,
    gc=False,
    frozen=True,
    rename={"decision": "authorization.k8s.io/decision", "reason": "authorization.k8s.io/reason"},
):
    """What the API server noted down: how the request was authorized. Other notes are not read."""

    decision: str | None = None
    reason: str | None = None


class AuditEvent(msgspec.Struct, gc=False):
    """One stage of one request, as the API server wrote it; only the fields kubehabit uses.

    `cluster` is the one field no API server writes: it keeps apart the clusters of a log that several ship to. It is set from
    a cloud's envelope, or by a shipper that adds the key `kubehabit.cluster` to plain events.
    """

    auditID: str
    stage: str
    verb: str
    requestURI: str = ""
    apiVersion: str = ""
    user: User = msgspec.field(default_factory=User)
    impersonatedUser: User | None = None
    sourceIPs: tuple[str, ...] = ()
    userAgent: str = ""
    objectRef: ObjectRef | None = None
    responseStatus: Status | None = None
    requestObject: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    requestReceivedTimestamp: str = ""
    stageTimestamp: str = ""
    annotations: Annotations | None = None
    level: str = ""
    cluster: str = msgspec.field(default="", name="kubehabit.cluster")


_BODY = re.compile(
    r'\\*"(?:(?:request|response)(?:Object)?|data|stringData|binaryData|env|annotations|managedFields)\\*"\s*:'
)
LEFT_OUT = " (the rest is left out: bodies may hold secrets)"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read: its line (or position in a list, from 1), why, and what it was."""

    line: int
    reason: str
    raw: bytes

    @property
    def text(self) -> str:
        """The record as text up to where a body begins: what cannot be decoded may hold a Secret all the same."""
        text = self.raw.decode("utf-8", "backslashreplace")
        body = _BODY.search(text)
        return text if body is None else text[: body.start()] + LEFT_OUT


class Decoded(NamedTuple):
    """The good events in their order, each with its line, and what else was in the input.

    Attributes:
        events: the events that could be read.
        lines: the line of each event, from 1; the position in the list if the input was one list.
        dead: the records that could not be read.
        skipped: what a shared log holds besides audit events and is left out on purpose: reason -> records.
    """

    events: list[AuditEvent]
    lines: list[int]
    dead: list[DeadLetter]
    skipped: Mapping[str, int] = MappingProxyType({})


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


def check(event: AuditEvent, version: str = "") -> None:
    """Raise ValueError with the reason if an event cannot be used.

    Args:
        event: a decoded event.
        version: API version of an enclosing list, for an item that has none of its own.
    """
    found = event.apiVersion or version
    if found not in API_VERSIONS:
        raise ValueError(
            f"apiVersion is {found or 'missing'!r}; kubehabit reads {' and '.join(API_VERSIONS)}: "
            "set the audit backend's API version to v1"
        )
    if not event.auditID:
        raise ValueError("auditID is empty, so the event could never be cited as evidence")
    if not is_time(event.requestReceivedTimestamp or event.stageTimestamp):
        raise ValueError("neither requestReceivedTimestamp nor stageTimestamp holds an RFC 3339 time")


def decode_event(raw: bytes | msgspec.Raw, version: str = "") -> AuditEvent:
    """Decode one audit.k8s.io event.

    Args:
        raw: JSON of the event alone.
        version: API version of an enclosing list, for an item that has none of its own.

    Raises:
        msgspec.MsgspecError, ValueError, RecursionError: it is none; `why` puts that into words.
    """
    event = _EVENT.decode(raw)
    check(event, version)
    return event


_BEGINNING = 256
"""Bytes of a body in which the kind of a list is looked for: API servers write it first."""

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding may raise on bad input."""


def why(error: Exception) -> str:
    """Reason for a dead letter. The part before the first colon is its kind."""
    if isinstance(error, msgspec.ValidationError):
        return f"not an audit event: {error}"
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        return f"not JSON: {error}"
    if isinstance(error, RecursionError):
        return "not an audit event: nested too deep"
    return str(error)


def decode_lines(lines: Iterable[bytes], first_line: int = 1, sources: Sources | None = None) -> Decoded:
    """Decode records, one a line; a line that cannot be read becomes a dead letter with its reason.

    A line may hold an event, an EventList, a cloud's envelope, or several such objects without a space between them.

    Args:
        lines: the records.
        first_line: number of the first.
        sources: what remembers the formats of a stream; give the same one for all of a log.
    """
    return decode_numbered(enumerate(lines, first_line), sources)


def decode_numbered(
    records: Iterable[tuple[int, bytes]],
    sources: Sources | None = None,
    stop: Callable[[int, bytes], bool] | None = None,
) -> Decoded:
    """As `decode_lines`, for records that bring their line numbers along.

    `stop` is asked about each line that is no plain event; if it says yes, that line is left to the caller and no more are taken.
    """
    events: list[AuditEvent] = []
    numbers: list[int] = []
    dead: list[DeadLetter] = []
    skipped: dict[str, int] = {}
    decode, usual = _EVENT.decode, API_VERSIONS[0]
    native = 0
    for number, line in records:
        if len(line) > MAX_EVENT_BYTES:
            dead.append(DeadLetter(number, f"longer than {MAX_EVENT_BYTES} bytes", bytes(line[:1024])))
            continue
        try:
            event = decode(line)
            if event.apiVersion != usual or not event.auditID or not is_time(event.requestReceivedTimestamp):
                check(event)
            events.append(event)
            numbers.append(number)
            native += 1
        except UNREADABLE as error:
            if not line.strip():
                continue
            if stop is not None and stop(number, line):
                break
            if sources is None:
                sources = _new_sources()
            found = sources.open(line)
            if found is None:
                dead.append(DeadLetter(number, why(error), bytes(line)))
                sources.check_lost(len(dead))
                continue
            events += found.events
            numbers += [number] * len(found.events)
            if found.dead:
                dead += [DeadLetter(number, reason, raw) for _, reason, raw in found.dead]
                sources.check_lost(len(dead))
            for reason, count in found.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
    if sources is not None and native:
        sources.records["native"] += native
    return Decoded(events, numbers, dead, skipped)


def decode_block(block: bytes | memoryview, first_line: int = 1) -> Decoded | None:
    """Decode whole lines at once, several times faster than line by line.

    Args:
        block: lines with the newlines between them; one at least.
        first_line: number of the first.

    Returns:
        None, unless each line is one plain event as API servers write it; then `decode_numbered` has to look at each.
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
    """Decode what kube-apiserver's webhook sends at once, twice as fast as item by item.

    Returns:
        None, unless it is an EventList of plain events; then each item has to be looked at.
    """
    try:
        listed = _EVENT_LIST.decode(body)
    except UNREADABLE:
        return None
    events = listed.items
    versions = {listed.apiVersion, *map(_VERSION, events)} - {""}
    if listed.kind != "EventList" or not listed.apiVersion or not versions <= set(API_VERSIONS):
        return None
    return Decoded(events, list(range(1, len(events) + 1)), []) if _are_plain(events) else None


def _count(text: bytes | memoryview, byte: int) -> int:
    """How often a byte is in a text; bytes.count looks at one byte at a time."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == byte))


def _new_sources() -> Sources:
    from data.sources import Sources  # the formats are built from the types of this module

    return Sources()


def decode_body(body: bytes, sources: Sources | None = None) -> Decoded:
    """Decode a request body: one list or envelope, one event, or newline-delimited records.

    Args:
        body: the body, decompressed.
        sources: what remembers the formats of a stream of bodies; only GKE's long-running requests, which arrive as two records,
            gain from it.

    Raises:
        KubehabitError: nothing in the body can be read as JSON at all, or too much of it is no audit event.
    """
    if not body.strip():
        raise KubehabitError("The body is empty: send audit events as an EventList, a JSON list or NDJSON.")
    if len(body) > _SUSPICIOUS_BYTES and len(body) < _LEAST_BYTES_A_COMMA * _count(body, _COMMA):
        raise KubehabitError(
            "The body is a list of very many very small things, and nothing of it was taken: send audit events."
        )
    if sources is None and len(body) <= MAX_EVENT_BYTES:  # no item can be too long then
        at_once = _decode_event_list(body) if b'"EventList"' in body[:_BEGINNING] else decode_block(body)
        if at_once is not None:
            return at_once
    sources = sources or _new_sources()
    sources.limit_unpacking(MAX_UNPACKED_BYTES)
    sources.limit_lost(MAX_UNREADABLE)
    found = sources.open_list(body)
    if found is not None:
        dead = [DeadLetter(position, reason, raw) for position, reason, raw in found.dead]
        return Decoded(found.events, found.positions, dead, found.skipped)
    # One line after the other: a list of all of them would be many times as large as a body of nothing but line ends.
    decoded = decode_lines((line.rstrip(b"\r\n") for line in io.BytesIO(body)), sources=sources)
    nothing = not decoded.events and not decoded.skipped
    if nothing and all(letter.reason.startswith("not JSON") for letter in decoded.dead):
        raise KubehabitError(
            "The body is not JSON: send audit events as an EventList, a JSON list or one event a line."
        )
    return decoded
