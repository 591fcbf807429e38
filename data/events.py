"""Decoding of audit.k8s.io events, with a compiled decoder that reads only the fields that are needed.

Field names are those of the Kubernetes API (`k8s.io/apiserver/pkg/apis/audit/v1`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from data.errors import KubehabitError

API_VERSIONS = ("audit.k8s.io/v1", "audit.k8s.io/v1beta1")
MAX_EVENT_BYTES = 8 * 1024 * 1024
"""The API server refuses request bodies over 3 MiB; a line over this is no audit event but damage."""


class User(msgspec.Struct, gc=False):
    """Who is logged as the caller. A 401 has an empty user."""

    username: str = ""
    groups: tuple[str, ...] = ()


class ObjectRef(msgspec.Struct, gc=False):
    """What the request was about. Absent for requests outside the resource API (`/version`)."""

    resource: str = ""
    namespace: str = ""
    name: str = ""
    apiGroup: str = ""
    apiVersion: str = ""
    subresource: str = ""


class Status(msgspec.Struct, gc=False):
    """Answer of the API server."""

    code: int = 0


class AuditEvent(msgspec.Struct):
    """One stage of one request, as the API server wrote it; only the fields kubehabit uses."""

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
    annotations: dict[str, str] | None = None


class _EventList(msgspec.Struct):
    kind: str = ""
    apiVersion: str = ""
    items: list[msgspec.Raw] | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read: its line (or position in a list, from 1), why, and what it was."""

    line: int
    reason: str
    raw: bytes


class Decoded(NamedTuple):
    """The good events in their order, each with its line, and the records that could not be read."""

    events: list[AuditEvent]
    lines: list[int]
    dead: list[DeadLetter]


_EVENT = msgspec.json.Decoder(AuditEvent)
_LIST = msgspec.json.Decoder(_EventList)
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def _is_time(text: str) -> bool:
    """Whether a text is an RFC 3339 time that exists (no 31 February)."""
    if not _TIMESTAMP.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _decode_one(raw: bytes | msgspec.Raw, version: str = "") -> AuditEvent:
    """Decode one event or raise ValueError with the reason. `version` is that of an enclosing list."""
    event = _EVENT.decode(raw)
    found = event.apiVersion or version
    if found not in API_VERSIONS:
        raise ValueError(
            f"apiVersion is {found or 'missing'!r}; kubehabit reads {' and '.join(API_VERSIONS)}: "
            "set the audit backend's API version to v1"
        )
    if not event.auditID:
        raise ValueError("auditID is empty, so the event could never be cited as evidence")
    if not _is_time(event.requestReceivedTimestamp or event.stageTimestamp):
        raise ValueError("neither requestReceivedTimestamp nor stageTimestamp holds an RFC 3339 time")
    return event


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):
        return f"not an audit event: {error}"
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        return f"not JSON: {error}"
    return str(error)


def decode_lines(lines: Iterable[bytes], first_line: int = 1) -> Decoded:
    """Decode newline-delimited events; a line that cannot be read becomes a dead letter with its reason.

    A line holding an EventList (some shippers write one batch a line) yields its items.
    """
    events: list[AuditEvent] = []
    numbers: list[int] = []
    dead: list[DeadLetter] = []
    for number, line in enumerate(lines, first_line):
        if len(line) > MAX_EVENT_BYTES:
            dead.append(DeadLetter(number, f"longer than {MAX_EVENT_BYTES} bytes", line[:1024]))
            continue
        try:
            events.append(_decode_one(line))
            numbers.append(number)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            if not line.strip():
                continue
            nested = _decode_list(line)
            if nested is None:
                dead.append(DeadLetter(number, _reason(error), bytes(line)))
                continue
            events += nested.events
            numbers += [number] * len(nested.events)
            dead += [DeadLetter(number, letter.reason, letter.raw) for letter in nested.dead]
    return Decoded(events, numbers, dead)


def _decode_list(body: bytes) -> Decoded | None:
    """Decode an EventList or a JSON list of events; None when `body` is neither."""
    version = ""
    try:
        if body.lstrip()[:1] == b"[":
            items = _RAW_LIST.decode(body)
        else:
            listed = _LIST.decode(body)
            if listed.items is None or listed.kind not in ("EventList", ""):
                return None
            items, version = listed.items, listed.apiVersion
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    events: list[AuditEvent] = []
    numbers: list[int] = []
    dead: list[DeadLetter] = []
    for position, item in enumerate(items, 1):
        try:
            events.append(_decode_one(item, version))
            numbers.append(position)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            dead.append(DeadLetter(position, _reason(error), bytes(item)))
    return Decoded(events, numbers, dead)


def decode_body(body: bytes) -> Decoded:
    """Decode a request body: an EventList, a JSON list, one event, or newline-delimited events.

    Raises:
        KubehabitError: nothing in the body can be read as JSON at all.
    """
    if not body.strip():
        raise KubehabitError("The body is empty: send audit events as an EventList, a JSON list or NDJSON.")
    listed = _decode_list(body)
    if listed is not None:
        return listed
    decoded = decode_lines(body.splitlines())
    if not decoded.events and all(letter.reason.startswith("not JSON") for letter in decoded.dead):
        raise KubehabitError(
            "The body is not JSON: send audit events as an EventList, a JSON list or one event a line."
        )
    return decoded
