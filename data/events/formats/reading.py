"""What the formats fill while they read one record, and the bounds on it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from data.errors import KubehabitError
from data.events.audit_event import (
    ID_KEY,
    ID_WITHIN,
    MAX_EVENT_BYTES,
    MAX_UNPACKED_BYTES,
    UNREADABLE,
    AuditEvent,
    DeadLetter,
    check,
    cut_text,
    decode_event,
    why,
)
from data.events.formats.foreign import describe
from data.events.salvage import salvage
from data.patterns import compile_bytes
from data.timestamps import rfc3339

#: Envelopes inside envelopes: a shipper's record of a queue's message of a Firehose batch of base64 of gzip of a subscription
#: record of events needs seven.
MAX_DEPTH = 8
#: Stands in every event that an API server writes, also where its quotes or its slash are escaped.
AUDIT_GROUP = re.compile(rb"audit\.k8s\.io\\*/")
#: What hints at an audit event somewhere in a record: its API group, its ID, what clouds put around it, base64 of JSON or gzip.
#: In a short record one after the other is four times as fast as a pattern.
_HINTS = (
    *(b"audit.k8s.io", b"auditID", b"AuditId", b"auditId", b"AuditID", b"auditid", b"audit_id", b"AUDITID"),
    *(b"protoPayload", b"protopayload", b"logEvents", b'"ey', b'"ew', b'"H4sI', b'"W3', b'"Ww'),
)
_ANY_HINT = compile_bytes("|".join(re.escape(hint.decode()) for hint in _HINTS))
#: Bytes of the smallest object that is more than unreadable: a line of a program's log in its wrapper. Lists may be empty.
_LEAST_RECORD = 24
#: Bytes from which on one pass for all hints is worth it: what does not hold any is looked at whole.
_LONG = 32 << 10


def holds_event(raw: bytes | msgspec.Raw) -> bool:
    """Whether an audit event may be somewhere in a record."""
    data = bytes(raw)
    if len(data) >= _LONG:
        return _ANY_HINT.search(data) is not None
    return any(data.find(hint) >= 0 for hint in _HINTS)


@dataclass(slots=True)
class Limits:
    """Bounds on what one body may hold."""

    unpacked: int | None = (
        None  # bytes that its compressed parts may still unpack to; None bounds each by itself
    )
    lost: int | None = (
        None  # unreadable records, each of which costs far more to keep than to send; None: any number
    )

    def check_lost(self, count: int) -> None:
        """Raise KubehabitError if `count` unreadable records are too many for a body."""
        if self.lost is not None and count > self.lost:
            raise KubehabitError(
                f"The body holds more than {self.lost:,} records that are no audit events, and nothing of it was taken: "
                "check what sends it."
            )


class Format(Protocol):
    """One kind of envelope."""

    name: str

    def read(self, raw: bytes, found: Reading) -> bool:
        """Put the events, inner records and losses of one record into `found`; False if it is not of this format."""


class Mark(NamedTuple):
    """How much a `Reading` held at some moment."""

    events: int
    dead: int
    skipped: dict[str, int]


class Reading:
    """What was found in one record; formats fill it."""

    def __init__(self, enter: Callable[[bytes, Reading], bool], limits: Limits) -> None:
        """`enter` reads an inner record that is no plain event; `limits` are shared by all records of a body."""
        self.events: list[AuditEvent] = []
        self.positions: list[int] = []  # of each event in the outermost list of the record, from 1
        #: Of each event its own JSON, or the cloud's record that it was made from.
        self.originals: list[bytes | msgspec.Raw] = []
        self.dead: list[DeadLetter] = []  # what could not be read, each with its position
        self.skipped: dict[str, int] = {}  # inner records left out on purpose, by reason
        self.version = ""  # of the API, by what is around the record that is entered
        self._time: str | int | float | None = None  # of what is around it, in any form
        self._enter, self._limits = enter, limits
        self._position = 1
        self._depth = 0

    def at(self, position: int) -> None:
        """Say which item of a list comes next. Only the outermost list counts."""
        if self._depth <= 1:
            self._position = position

    def event(self, event: AuditEvent, raw: bytes) -> None:
        """Add an event that the format itself has put together; one that cannot be used is lost."""
        try:
            check(event)
        except ValueError as error:
            self.lost(why(error), raw)
        else:
            self._append(event, raw)

    def _append(self, event: AuditEvent, raw: bytes | msgspec.Raw) -> None:
        self.events.append(event)
        self.positions.append(self._position)
        self.originals.append(raw)

    def record(
        self,
        raw: bytes | msgspec.Raw,
        cluster: str = "",
        version: str = "",
        time: str | int | float | None = None,
    ) -> None:
        """Read an inner record, whatever its format.

        `cluster`, `version` (of the API) and `time` (in any form, for an event whose own is cut off) are of what is around it.
        """
        error: Exception | None = None
        data = bytes(raw)
        if data.find(ID_KEY, 0, ID_WITHIN) >= 0 and len(data) <= MAX_EVENT_BYTES:
            try:
                event = decode_event(raw, version)
            except UNREADABLE as refused:
                error = refused
            else:
                if cluster and not event.cluster:
                    event.cluster = cut_text(cluster)
                self._append(event, raw)
                return
        self._unusual(data, error, cut_text(cluster), version, time)

    def _unusual(
        self, raw: bytes, error: Exception | None, cluster: str, version: str, time: str | int | float | None
    ) -> None:
        """Read an inner record that is no plain event; without an error, it was not tried as one."""
        before, around = len(self.events), self._time
        self._time, self.version = time or around, version
        try:
            if len(raw) > MAX_EVENT_BYTES:
                self.give_up(raw, ValueError(f"longer than {MAX_EVENT_BYTES} bytes"))
            elif not self.enter(raw):
                try:
                    if error is not None:
                        raise error
                    self._append(decode_event(raw, version), raw)
                except UNREADABLE as refused:
                    self.give_up(raw, refused)
        finally:
            self._time = around
        for event in self.events[before:]:
            event.cluster = event.cluster or cluster

    def give_up(self, raw: bytes, error: Exception) -> None:
        """Add the loss of a record whose format is unknown, or what is left of it."""
        found = salvage(raw, rfc3339(str(self._time)) if self._time else "", may_grow=not self._depth)
        if found is not None:
            self._append(found.event, found.text)
        elif len(raw) > MAX_EVENT_BYTES:
            self.lost(why(error), raw[:1024])
        else:
            self.lost(describe(raw) or why(error), raw)

    def mark(self) -> Mark:
        """What is found by now, for `back_to`."""
        return Mark(len(self.events), len(self.dead), dict(self.skipped))

    def back_to(self, mark: Mark) -> None:
        """Forget what was found since."""
        for kept in (self.events, self.positions, self.originals):
            del kept[mark.events :]
        del self.dead[mark.dead :]
        self.skipped = mark.skipped

    def enter(self, raw: bytes) -> bool:
        """Read a record that is no plain event; False if its format is unknown."""
        if len(raw) < _LEAST_RECORD and raw[:1] == b"{" and b"[" not in raw:
            return False
        if self._depth >= MAX_DEPTH:
            self.lost("not an audit event: envelopes nested too deep", raw)
            return True
        self._depth += 1
        try:
            return self._enter(raw, self)
        finally:
            self._depth -= 1

    def unpack(self, packed: bytes) -> bytes | None:
        """Gzip to bytes; None, with the loss noted, if that is not possible."""
        left = self._limits.unpacked
        limit = MAX_UNPACKED_BYTES if left is None else left
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(packed, max(limit, 1))
        except zlib.error as error:
            self.lost(f"compressed part is damaged: {error}", packed)
            return None
        if unpacker.unconsumed_tail or len(data) > limit:
            self.lost("compressed part is larger than allowed", packed[:1024])
            return None
        if not unpacker.eof:
            self.lost("compressed part is damaged: its end is missing", packed)
            return None
        if left is not None:
            self._limits.unpacked = left - len(data)
        return data

    def lost(self, reason: str, raw: bytes) -> None:
        """Add a dead letter, within `Limits.lost`."""
        self.dead.append(DeadLetter(self._position, reason, raw, len(self.events)))
        self._limits.check_lost(len(self.dead))

    def skip(self, reason: str, raw: bytes) -> None:
        """Count a record that shows by itself that it was never meant to be an audit event.

        One that names the API group of audit events is lost instead: the others of its stream say nothing about it.
        """
        if b"audit.k8s.io" in raw and AUDIT_GROUP.search(raw):
            self.lost(f"not an audit event that can be read: {reason}", raw)
        else:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
