"""What audit events come wrapped in: one file per format, all ending as `AuditEvent`.

To add a format, write a class with the shape of `Format` in a file of its own and name it in `FORMATS`.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from typing import Protocol

import msgspec

from data.errors import KubehabitError
from data.events import (
    MAX_EVENT_BYTES,
    MAX_UNPACKED_BYTES,
    UNREADABLE,
    AuditEvent,
    check,
    decode_event,
    why,
)
from data.sources.aks import AksRecord
from data.sources.eks import EksExport, EksRecord
from data.sources.gke import GkeEntry
from data.sources.lists import Lists
from data.sources.openshift import NodeLine

MAX_DEPTH = 5
"""Envelopes inside envelopes: a Firehose batch of base64 of gzip of a subscription record of events needs four."""
_BETWEEN = re.compile(rb'(?<=\})\s*(?=\{\s*"[^"\\\n]{1,64}"\s*:)')
"""Between two objects without a comma. Inside JSON it cannot occur: `}{` is found only in a string, where a quote is escaped."""


class Format(Protocol):
    """One kind of envelope."""

    name: str

    def read(self, raw: bytes, found: Reading) -> bool:
        """Put what a record holds into `found`.

        Args:
            raw: one record.
            found: takes events, inner records, and what is lost or left out.

        Returns:
            False, with nothing put into `found`, if the record is not of this format.
        """


class Reading:
    """What was found in one record; formats fill it.

    Attributes:
        events: the events, in their order.
        positions: for each event its place in the outermost list of the record, from 1.
        originals: for each event what it was read from: its own JSON, or the cloud's record that it was put together from.
        dead: (position, reason, raw) of what could not be read.
        skipped: reason -> number of inner records left out on purpose.
    """

    def __init__(self, sources: Sources) -> None:
        self.events: list[AuditEvent] = []
        self.positions: list[int] = []
        self.originals: list[bytes | msgspec.Raw] = []
        self.dead: list[tuple[int, str, bytes]] = []
        self.skipped: dict[str, int] = {}
        self._sources = sources
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
            return
        self.events.append(event)
        self.positions.append(self._position)
        self.originals.append(raw)

    def record(self, raw: bytes | msgspec.Raw, cluster: str = "", version: str = "") -> None:
        """Read an inner record, whatever its format.

        Args:
            raw: the inner record.
            cluster: the cluster it is from, if the envelope tells.
            version: API version of the list around it.
        """
        if len(memoryview(raw)) > MAX_EVENT_BYTES:
            self.lost(f"longer than {MAX_EVENT_BYTES} bytes", bytes(memoryview(raw)[:1024]))
            return
        try:
            event = decode_event(raw, version)
        except UNREADABLE as error:
            inner = bytes(raw)
            before = len(self.events)
            if not self._sources.enter(inner, self):
                self.lost(why(error), inner)
            if cluster:
                for event in self.events[before:]:
                    event.cluster = event.cluster or cluster
            return
        event.cluster = event.cluster or cluster
        self.events.append(event)
        self.positions.append(self._position)
        self.originals.append(raw)

    def unpack(self, packed: bytes) -> bytes | None:
        """Gzip to bytes; None, with the loss noted, if that is not possible."""
        limit = self._sources.unpack_limit
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
        self._sources.spend(len(data))
        return data

    def lost(self, reason: str, raw: bytes) -> None:
        """Add a dead letter.

        Raises:
            KubehabitError: there are more than `Sources.limit_lost` allows.
        """
        self.dead.append((self._position, reason, raw))
        self._sources.check_lost(len(self.dead))

    def skip(self, reason: str, count: int = 1) -> None:
        """Leave out what is no audit event and was never meant to be one."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count


class Sources:
    """Opens records of any format, and remembers of a stream what later records need.

    Attributes:
        records: format name -> records of that format so far; `native` for plain events.
    """

    def __init__(self) -> None:
        self._formats: list[Format] = [
            Lists(),
            EksRecord(),
            GkeEntry(),
            AksRecord(),
            EksExport(),
            NodeLine(),
        ]
        self._left: int | None = None
        self._most_lost: int | None = None
        self.records: Counter[str] = Counter()

    def limit_unpacking(self, count: int) -> None:
        """Bound in bytes what all compressed parts may unpack to from now on; without a bound each is limited by itself."""
        self._left = count

    def limit_lost(self, count: int) -> None:
        """Bound how many records of one body may be unreadable: each costs far more to keep than to send."""
        self._most_lost = count

    def check_lost(self, count: int) -> None:
        """Refuse what holds more unreadable records than allowed.

        Raises:
            KubehabitError: it does.
        """
        if self._most_lost is not None and count > self._most_lost:
            raise KubehabitError(
                f"The body holds more than {self._most_lost:,} records that are no audit events, and nothing of it was taken: "
                "check what sends it."
            )

    @property
    def unpack_limit(self) -> int:
        """Bytes that the next compressed part may unpack to."""
        return MAX_UNPACKED_BYTES if self._left is None else self._left

    def spend(self, count: int) -> None:
        """Take unpacked bytes off the bound."""
        if self._left is not None:
            self._left -= count

    def open(self, raw: bytes) -> Reading | None:
        """What is in a record that is no plain event; None if its format is not known.

        Several objects one after the other, without as much as a newline, are opened one by one.
        """
        found = self.open_list(raw)
        if found is not None:
            return found
        pieces = _BETWEEN.split(raw)
        if len(pieces) < 2:
            return None
        found = Reading(self)
        self.records["objects without newlines"] += 1
        for piece in pieces:
            found.record(piece)
        return found

    def open_list(self, raw: bytes) -> Reading | None:
        """As `open`, for a record that must be one whole."""
        found = Reading(self)
        return found if self.enter(raw, found) else None

    def enter(self, raw: bytes, found: Reading) -> bool:
        """Let the format that a record is of read it into `found`; False if none knows it."""
        if found._depth >= MAX_DEPTH:
            found.lost("not an audit event: envelopes nested too deep", raw)
            return True
        found._depth += 1
        try:
            for index, candidate in enumerate(self._formats):
                if candidate.read(raw, found):
                    if index:  # a log is mostly of one format: try that first from now on
                        self._formats.insert(0, self._formats.pop(index))
                    self.records[candidate.name] += 1
                    return True
        finally:
            found._depth -= 1
        return False
