"""Finds audit events inside JSON that no other format knows: what shippers, queues and search engines put around them.

An object is searched under the keys that such programs use, level by level, as object or as text. What users of the cluster
write, such as the body of a request, is never searched: the author of a ConfigMap could put forged events there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import compress
from operator import not_
from typing import Any

import msgspec

from data.events.audit_event import UNREADABLE
from data.events.formats.eks import cluster_of, read_packed
from data.events.formats.program_log import OTHER_PROGRAM, is_program_log
from data.events.formats.reading import Reading, holds_event
from data.events.lenient import by_name, folded, repaired_annotations

#: Keys that hold what was wrapped, as `folded` writes them.
_USUAL = frozenset(
    (
        *("log", "message", "msg", "event", "original", "body", "source", "kubernetes", "audit", "attributes", "value"),
        *("values", "data", "payload", "record", "records", "items", "events", "raw", "line", "text", "content"),
        *("textpayload", "jsonpayload", "hits", "fields", "streams", "resourcelogs", "scopelogs", "logrecords"),
        *("instrumentationlibrarylogs", "stringvalue", "kvlistvalue", "arrayvalue", "results", "result", "resultset"),
        *("rows", "tables", "detail", "sns", "kinesis", "shortmessage", "fullmessage", "logmessage", "logevent", "logevents"),
        *("log.original", "event.original", "varcharvalue", "properties", "unmapped", "rawdata", "document", "doc", "entry"),
        *("entries", "kubernetes.audit", "json", "parsed", "object", "auditlog", "auditevent", "k8saudit", "messages"),
        *("logs", "batch", "database64"),
    )
)  # fmt: skip
#: How keys end that hold what users of the cluster write.
_THEIRS = (
    *("requestobject", "responseobject", "request", "response", "oldobject", "annotations", "labels", "metadata", "spec"),
    *("status", "useragent", "env", "args", "managedfields", "tags", "headers", "schema"),
)  # fmt: skip
#: Objects and lists around an event inside one JSON text. Elastic's answers need six, OTLP eight.
_MAX_LEVELS = 12
#: Objects, lists and texts of a record that are looked at: an event has a few around it, and has some hundred bytes.
_LEAST_VALUES, _BYTES_A_VALUE = 1000, 60
#: Keys of the way to an event that a report of formats names.
_MAX_NAMED = 4
#: Characters of the names of a table's columns, which each row repeats.
_MAX_NAMES = 10_000
_CELL = "VarCharValue"
_ECS = "kubernetes.audit."
#: Characters of a time that are looked at.
_TIME_LENGTH = 40
_LINE_KEYS = frozenset(("log", "message", "msg", "line", "raw", "textpayload", "body"))
_EVENT_KEYS = frozenset(("stage", "verb", "requesturi", "objectref"))
_NAME_KEYS, _VALUE_KEYS = ("key", "field", "name"), ("value",)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_ANY = msgspec.json.Decoder()
_DECODERS: dict[bytes, msgspec.json.Decoder[Any]] = {b'"': _TEXT, b"[": _ARRAY, b"{": _FIELDS}
_ENCODE = msgspec.json.Encoder().encode
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{24,}={0,2}")
_PACKED = ("ey", "ew", "W3", "Ww", "H4sI")
_LOG_GROUP = re.compile(r"(\d{12}):(.{1,512})")
_VALUE_TYPES = ("stringValue", "boolValue", "intValue", "doubleValue", "bytesValue")


class Wrapped:
    """Any JSON object around audit events; `name` says under which keys the last one was."""

    name = "wrapped"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        if raw.lstrip()[:1] != b"{":
            return False
        try:
            fields = _FIELDS.decode(raw)
        except UNREADABLE:
            return False
        if not holds_event(raw):
            if not _is_of_a_program(fields):
                return False
            self.name = "another program's log"
            found.skip(OTHER_PROGRAM, raw)
            return True
        if _is_record(fields) or _is_kubernetes_object(fields):
            return False
        search, mark = _Search(found, _LEAST_VALUES + len(raw) // _BYTES_A_VALUE), found.mark()
        try:
            done = search.object(fields, (), "", 1)
        except _TooManyError as error:
            found.back_to(mark)
            found.lost(str(error), raw)
            return True
        if done:
            self.name = "wrapped in " + ".".join(search.way[:_MAX_NAMED])
        return done


class _TooManyError(Exception):
    """A record has more in it than is looked at."""


class _Search:
    """The search of one record."""

    def __init__(self, found: Reading, values: int) -> None:
        """`values` is how many are looked at."""
        self.way: tuple[str, ...] = ()  # to the last event found
        self._found = found
        self._left = values
        self._time = ""  # that the innermost object with one says, for an event whose own is cut off

    def object(
        self, fields: Mapping[str, msgspec.Raw], way: tuple[str, ...], cluster: str, level: int
    ) -> bool:
        """Search an object: under the usual keys first, then under any that is not its users' own."""
        cluster = _cluster_in(fields) or cluster
        self._time = _time_in(fields) or self._time
        if any(key.startswith(_ECS) for key in fields):
            event = by_name(_nested(fields))
            if _is_record(event):
                return self._take(msgspec.Raw(_ENCODE(event)), (*way, "kubernetes.audit"), cluster)
        if fields.keys() >= {"columns", "rows"}:
            return self._table(fields, (*way, "rows"), cluster, level)
        usual = [key for key in fields if folded(key).lstrip("_@") in _USUAL or folded(key) in _USUAL]
        if self._under(fields, _ordered(fields, usual), way, cluster, level):
            return True
        others = [key for key in fields if key not in usual and not folded(key).endswith(_THEIRS)]
        return self._under(fields, _ordered(fields, others), (*way, "*"), cluster, level, named=False)

    def _under(
        self,
        fields: Mapping[str, msgspec.Raw],
        keys: Iterable[str],
        way: tuple[str, ...],
        cluster: str,
        level: int,
        *,
        named: bool = True,
    ) -> bool:
        """Search under some keys. A record often has its event twice, as a text and in parts: the second is not read."""
        found, seen, done = self._found, set[tuple[str, str]](), False
        for key in keys:
            mark = found.mark()
            if not self._value(fields[key], (*way, key) if named else way, cluster, level + 1):
                continue
            events = found.events[mark.events :]
            ids = {(event.auditID, event.stage) for event in events}
            if events and ids <= seen and len(found.dead) == mark.dead:
                found.back_to(mark)
            seen |= ids
            done = True
        return done

    def _value(self, raw: msgspec.Raw, way: tuple[str, ...], cluster: str, level: int) -> bool:
        begin = bytes(memoryview(raw)[:1])
        if begin not in b'"{[' or level > _MAX_LEVELS or not (holds_event(raw) or begin == b"["):
            return False
        self._left -= 1
        if self._left < 0:
            raise _TooManyError("not an audit event: there is more around it than is searched")
        try:
            value = _DECODERS[begin].decode(raw)
        except UNREADABLE:  # a text that is no Unicode
            return False
        if isinstance(value, str):
            return self._text(value, way, cluster)
        if isinstance(value, list):
            return self._list(value, way, cluster, level)
        if _is_record(value):
            return self._take(raw, way, cluster)
        return not _is_kubernetes_object(value) and self.object(value, way, cluster, level)

    def _list(self, items: list[msgspec.Raw], way: tuple[str, ...], cluster: str, level: int) -> bool:
        cells = [_line_of(item) for item in items[:1]]
        if cells and cells[0].keys() == {_CELL}:  # a row of Athena's
            items = [_line_of(item).get(_CELL, item) for item in items]
        values = _pairs(items)
        if values is not None:
            if _is_record(values):
                return self._take(msgspec.Raw(_ENCODE(values)), way, cluster)
            return self.object(values, way, cluster, level)
        read = [self._value(item, way, cluster, level + 1) for item in items]
        if any(read) and {bytes(memoryview(item)[:1]) for item in items} <= {b"{", b"["}:
            for item in compress(items, map(not_, read)):
                self._unread(item)
        return any(read)

    def _unread(self, raw: msgspec.Raw) -> None:
        """Count a record of a list that has events in others of its records."""
        record = bytes(raw)
        if _is_of_a_program(_line_of(raw)):
            self._found.skip(OTHER_PROGRAM, record)
        else:
            self._found.lost("not an audit event: nothing in this record is one", record)

    def _table(
        self, fields: Mapping[str, msgspec.Raw], way: tuple[str, ...], cluster: str, level: int
    ) -> bool:
        """Search an answer of rows whose columns are named apart: each row as an object."""
        try:
            columns = _ANY.decode(fields["columns"])
            names = [column["name"] if isinstance(column, dict) else str(column) for column in columns]
            if sum(map(len, names)) > _MAX_NAMES:
                return False
            rows = [
                dict(zip(names, _ARRAY.decode(row), strict=False)) for row in _ARRAY.decode(fields["rows"])
            ]
        except (*UNREADABLE, KeyError, TypeError):
            return False
        return self._list([msgspec.Raw(_ENCODE(row)) for row in rows], way, cluster, level)

    def _text(self, text: str, way: tuple[str, ...], cluster: str) -> bool:
        mark = self._found.mark()
        if text[:4].startswith(_PACKED) and _BASE64.fullmatch(text.rstrip()):
            if not read_packed(text.replace("-", "+").replace("_", "/"), self._found):
                return False
        elif "{" in text:
            self._found.record(text.strip().encode("utf-8", "surrogatepass"), cluster, time=self._time)
        else:
            return False
        for event in self._found.events[mark.events :]:
            event.cluster = event.cluster or cluster
        self.way = way
        return True

    def _take(self, raw: msgspec.Raw, way: tuple[str, ...], cluster: str) -> bool:
        found, before = self._found, len(self._found.events)
        found.record(raw, cluster, time=self._time)
        for event in found.events[before:]:
            if event.annotations is not None and event.annotations.decision is None:
                event.annotations = repaired_annotations(raw) or event.annotations
        self.way = way
        return True


def _names(fields: Iterable[str]) -> set[str]:
    return {folded(key) for key in fields}


def _is_record(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether an object is an event, or something that a format of its own reads."""
    names = _names(fields)
    if "auditid" in names and names & _EVENT_KEYS:
        return True
    if names & {"protopayload", "protopayloadauditlog", "logevents", "awslogs", "classuid"}:
        return True
    if "category" in names and (names & {"resourceid", "logs"}):
        return True
    return fields.get("kind") in (_EVENT_LIST, _LIST) and "items" in fields


_EVENT_LIST, _LIST = msgspec.Raw(b'"EventList"'), msgspec.Raw(b'"List"')


def _line_of(raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
    """An object, or the last item of a list: the others say when it was, or where."""
    decoder = _DECODERS.get(bytes(memoryview(raw)[:1]))
    try:
        value = decoder.decode(raw) if decoder is not None else None
    except UNREADABLE:
        return {}
    if isinstance(value, list) and value:
        return {"": value[-1]}
    return value if isinstance(value, dict) else {}


def _is_of_a_program(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether an object is around a line of a program's log, and nothing else."""
    texts = [value for key, value in fields.items() if not key or folded(key).lstrip("@") in _LINE_KEYS]
    try:
        return any(is_program_log(_TEXT.decode(text).encode("utf-8", "surrogatepass")) for text in texts)
    except UNREADABLE:
        return False


def _is_kubernetes_object(fields: Mapping[str, msgspec.Raw]) -> bool:
    return {"kind", "apiVersion"} <= fields.keys()


def _ordered(fields: Mapping[str, msgspec.Raw], keys: Iterable[str]) -> list[str]:
    """Whole texts of JSON first, which say what was written; then objects and lists; then other texts."""

    def rank(key: str) -> int:
        raw = memoryview(fields[key])
        if bytes(raw[:1]) != b'"':
            return 1
        return 0 if bytes(raw[1:2]) == b"{" and bytes(raw[-4:]).rstrip(b'n\\"')[-1:] == b"}" else 2

    return sorted(keys, key=rank)


def _pairs(items: list[msgspec.Raw]) -> dict[str, msgspec.Raw] | None:
    """What a list of `{"key": ..., "value": ...}` says, as an object; None if it is no such list."""
    found: dict[str, msgspec.Raw] = {}
    for item in items:
        if bytes(memoryview(item)[:1]) != b"{":
            return None
        fields = {folded(key): value for key, value in _line_of(item).items()}
        name = next((fields[key] for key in _NAME_KEYS if key in fields), None)
        value = next((fields[key] for key in _VALUE_KEYS if key in fields), None)
        if name is None or value is None or len(fields) > 3 or bytes(memoryview(name)[:1]) != b'"':
            return None
        try:
            found[_TEXT.decode(name)] = _plain_value(value)
        except UNREADABLE:
            return None
    return found or None


def _plain_value(raw: msgspec.Raw) -> msgspec.Raw:
    """A value of OpenTelemetry's, as `{"stringValue": "x"}`, without its type; any other as it is."""
    if bytes(memoryview(raw)[:1]) != b"{":
        return raw
    value = _ANY.decode(raw)
    plain = _untyped(value, _MAX_LEVELS)
    return raw if plain is value else msgspec.Raw(_ENCODE(plain))


def _untyped(value: Any, levels: int) -> Any:
    if not isinstance(value, dict) or len(value) != 1 or not levels:
        return value
    (kind, inner), *_ = value.items()
    if kind in _VALUE_TYPES:
        return (
            int(inner)
            if kind == "intValue" and isinstance(inner, str) and inner.lstrip("-").isdecimal()
            else inner
        )
    if kind == "arrayValue" and isinstance(inner, dict):
        return [_untyped(item, levels - 1) for item in inner.get("values") or ()]
    if kind == "kvlistValue" and isinstance(inner, dict):
        pairs = [
            pair
            for pair in inner.get("values") or ()
            if isinstance(pair, dict) and isinstance(pair.get("key"), str)
        ]
        return {pair["key"]: _untyped(pair.get("value"), levels - 1) for pair in pairs}
    return value


def _nested(fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """An event whose fields are named `kubernetes.audit.user.username`, as Elastic's flat documents have them."""
    found: dict[str, msgspec.Raw] = {}
    for key, value in fields.items():
        if key.startswith(_ECS):
            inner = value
            if bytes(memoryview(value)[:1]) == b"[":  # the `fields` of an answer: lists of one
                items = _ARRAY.decode(value)
                inner = items[0] if len(items) == 1 else value
            found[key.removeprefix(_ECS)] = inner
    return found


def _time_in(fields: Mapping[str, msgspec.Raw]) -> str:
    """When an object says that it was written, in any form; "" if it does not."""
    for key in ("@timestamp", "timestamp", "time", "ts"):
        value = bytes(fields.get(key, b""))[:_TIME_LENGTH]
        if value[:1].isdigit() or value[:1] == b'"':
            return value.decode("ascii", "replace").strip('"')
    return ""


def _cluster_in(fields: Mapping[str, msgspec.Raw]) -> str:
    """The cluster that a wrapper names in a way that means nothing else; "" if it names none."""
    try:
        for key in ("kubehabit.cluster", "k8s.cluster.name", "orchestrator.cluster.name"):
            if key in fields:
                return _TEXT.decode(fields[key])
        if "orchestrator" in fields:
            return str(_ANY.decode(fields["orchestrator"])["cluster"]["name"])
        if "@log" in fields:
            group = _LOG_GROUP.fullmatch(_TEXT.decode(fields["@log"]))
            return cluster_of(group[1], group[2]) if group else ""
        if "resource" in fields:  # OpenTelemetry's
            pairs = _pairs(_ARRAY.decode(_FIELDS.decode(fields["resource"])["attributes"])) or {}
            return _TEXT.decode(pairs["k8s.cluster.name"])
    except (*UNREADABLE, KeyError, TypeError):
        pass
    return ""
