"""What the formats fill while they read one record, and the bounds on it."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from data.errors import KubehabitError
from data.events.audit_event import (
    MAX_EVENT_BYTES,
    MAX_UNPACKED_BYTES,
    UNREADABLE,
    AuditEvent,
    check,
    cut_text,
    decode_event,
    why,
)
from data.events.salvage import salvage_json

#: Envelopes inside envelopes: a Firehose batch of base64 of gzip of a subscription record of events needs four.
MAX_DEPTH = 5


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


class Reading:
    """What was found in one record; formats fill it."""

    def __init__(self, enter: Callable[[bytes, Reading], bool], limits: Limits) -> None:
        """`enter` reads an inner record that is no plain event; `limits` are shared by all records of a body."""
        self.events: list[AuditEvent] = []
        self.positions: list[int] = []  # of each event in the outermost list of the record, from 1
        self.originals: list[
            bytes | msgspec.Raw
        ] = []  # its own JSON, or the cloud's record that it was made from
        self.dead: list[tuple[int, str, bytes]] = []  # (position, reason, raw) of what could not be read
        self.skipped: Counter[str] = Counter()  # inner records left out on purpose, by reason
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

    def record(self, raw: bytes | msgspec.Raw, cluster: str = "", version: str = "", time: str = "") -> None:
        """Read an inner record, whatever its format.

        `cluster`, `version` (of the API) and `time` (RFC 3339, for an event whose own is cut off) are those of what is around it.
        """
        cluster = cut_text(cluster)
        if len(memoryview(raw)) > MAX_EVENT_BYTES:
            if not self._salvage(raw, cluster, time, MAX_EVENT_BYTES):
                self.lost(f"longer than {MAX_EVENT_BYTES} bytes", bytes(memoryview(raw)[:1024]))
            return
        try:
            event = decode_event(raw, version)
        except UNREADABLE as error:
            inner, before = bytes(raw), len(self.events)
            if not self.enter(inner) and not self._salvage(inner, cluster, time):
                self.lost(why(error), inner)
            for event in self.events[before:]:
                event.cluster = event.cluster or cluster
        else:
            event.cluster = event.cluster or cluster
            self._append(event, raw)

    def _salvage(self, raw: bytes | msgspec.Raw, cluster: str, time: str, limit: int | None = None) -> bool:
        """Add the event of a record that was cut; False if too little is left of it."""
        whole = salvage_json(raw, time, limit)
        if whole is None:
            return False
        try:
            event = decode_event(whole)
        except UNREADABLE:
            return False
        event.cluster = event.cluster or cluster
        self._append(event, whole)
        return True

    def enter(self, raw: bytes) -> bool:
        """Read a record that is no plain event; False if its format is unknown."""
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
        self.dead.append((self._position, reason, raw))
        self._limits.check_lost(len(self.dead))

    def skip(self, reason: str, count: int = 1) -> None:
        """Count what is no audit event and was never meant to be one."""
        self.skipped[reason] += count
