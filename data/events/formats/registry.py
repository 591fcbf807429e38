"""Recognises what audit events come wrapped in, and opens it; each format has a file of its own.

To add a format, write a class with the shape of `Format` in a file of its own and name it in `Sources`.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from data.events.audit_event import UNREADABLE
from data.events.formats.aks import AksRecord
from data.events.formats.eks import EksExport, EksRecord
from data.events.formats.event_list import UNWRAPPED, Lists
from data.events.formats.gke import GkeEntry
from data.events.formats.json_stream import end_of_tiny
from data.events.formats.ocsf import OcsfActivity
from data.events.formats.reading import Format, Limits, Reading
from data.events.formats.text_lines import CriLine, NodeLine, TextLine
from data.events.formats.wrapped import Wrapped
from data.events.lenient import decode_changed
from data.patterns import compile_bytes

#: Two objects without a comma between. Inside JSON it cannot occur: `}{` is found only in a string, where a quote is escaped.
_BETWEEN = compile_bytes(r'\}[\t-\r ]*\{[\t-\r ]*"[^"\\\n]{1,64}"[\t-\r ]*:')
#: Of formats whose records are objects: members, of which each has at least one.
_MEMBERS: dict[type, frozenset[str]] = {
    EksRecord: frozenset({"logEvents", "message", "data", "awslogs", "kinesis"}),
    GkeEntry: frozenset({"protoPayload", "protopayload_auditlog", "message", "logName"}),
    AksRecord: frozenset({"category", "Category", "AuditId"}),
    OcsfActivity: frozenset({"class_uid"}),
    Lists: frozenset(UNWRAPPED),
}
#: Bytes of an object from which on its members are looked at before any format decodes it, not only after the first was wrong.
_LONG = 32 << 10
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY_JSON = msgspec.json.Decoder(msgspec.Raw)
_BOM = b"\xef\xbb\xbf"
#: Formats that are counted by name; names are made of keys in a log, which may be many.
_COUNTED = 50


def _objects(raw: bytes) -> list[bytes]:
    """Objects that stand without a comma behind each other, cut apart; those too small to be records stay together."""
    pieces: list[bytes] = []
    at, last = 0, len(raw.rstrip())
    while True:
        tiny = end_of_tiny(raw, at)
        found = None if tiny is not None else _BETWEEN.search(raw, at)
        if tiny is not None and tiny < last:
            end = tiny
        elif found is not None:
            end = raw.index(b"{", found.start())
        else:
            return [*pieces, raw[at:]]
        pieces.append(raw[at:end].rstrip())
        at = end


def _members(raw: bytes) -> frozenset[str] | None:
    """Names of a record's members; none for what is no JSON, or an empty object, None for any other JSON."""
    try:
        return frozenset(_FIELDS.decode(raw))
    except UNREADABLE:
        try:
            _ANY_JSON.decode(raw)
        except UNREADABLE:
            return frozenset()
    return None


class _ChangedEvent:
    """An event whose types or names an export has changed."""

    name = "event with other types or names"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        try:
            event = decode_changed(raw, found.version)
        except UNREADABLE:
            return False
        event.apiVersion = event.apiVersion or found.version
        found.event(event, raw)
        return True


class Sources:
    """Opens records of any format, and remembers of a stream what later records need."""

    def __init__(self) -> None:
        self._lines = CriLine()
        kinds = (Lists, EksRecord, GkeEntry, AksRecord, OcsfActivity, EksExport, NodeLine)
        formats: list[Format] = [*(kind() for kind in kinds), self._lines]
        #: Each with the members of which a record of that format has at least one, if it is an object.
        self._formats = [(one, _MEMBERS.get(type(one))) for one in formats]
        #: Asked last, as they take whatever holds an event.
        text = TextLine()
        self._generic: tuple[Format, ...] = (_ChangedEvent(), text, Wrapped())
        self._text_only: tuple[Format, ...] = (text,)  # of these, for what is no JSON
        self.records: Counter[str] = Counter()  # so far, by format; `native` for plain events
        self.limits = Limits()  # on the body that is being read

    def open(self, raw: bytes) -> Reading | None:
        """Read a record that is no plain event, or several without a newline between them; None if its format is unknown."""
        found = self.reading()
        if raw[:3] == _BOM:  # of a file that was appended to this one
            found.record(raw[3:])
            return found
        if found.enter(raw):
            return found
        pieces = _objects(raw)
        if len(pieces) < 2:
            return None
        found = self.reading()
        self.records["objects without newlines"] += 1
        for piece in pieces:
            found.record(piece)
        return found

    def reading(self) -> Reading:
        """What a record is read into."""
        return Reading(self._enter, self.limits)

    def finish(self) -> Reading | None:
        """Say that no more of the stream comes; returns what was left of it, None if nothing was."""
        found = self.reading()
        self._lines.finish(found)
        return found if found.events or found.dead or found.skipped else None

    def _enter(self, raw: bytes, found: Reading) -> bool:
        members = _members(raw) if len(raw) >= _LONG and raw.lstrip()[:1] != b"[" else None
        is_known = members is not None
        for index, (candidate, wanted) in enumerate(self._formats):
            if index and not is_known:
                members, is_known = _members(raw), True
            if members is not None and wanted is not None and wanted.isdisjoint(members):
                continue
            if candidate.read(raw, found):
                self._count(candidate.name)
                if self._formats[0][0] is not candidate:
                    self._try_first(candidate)
                return True
        is_damaged = members is not None and not members
        for candidate in self._text_only if is_damaged else self._generic:
            if candidate.read(raw, found):
                self._count(candidate.name)
                return True
        return False

    def _try_first(self, recent: Format) -> None:
        """A log is mostly of one format. What was read inside the record may have changed the order meanwhile."""
        self._formats.sort(key=lambda one: one[0] is not recent)

    def _count(self, name: str) -> None:
        self.records[name if name in self.records or len(self.records) < _COUNTED else "other"] += 1
