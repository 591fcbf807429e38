"""Reads events whose types or names an export has changed: nulls, numbers as text, other spellings of a time or of a field.

It is asked only about what the strict decoder has refused. What could mean two things is refused here as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from data.events.audit_event import (
    UNREADABLE,
    Annotations,
    AuditEvent,
    ObjectRef,
    Status,
    User,
    check,
    decode_bounded,
)
from data.timestamps import rfc3339

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder()
_EVENT = msgspec.json.Decoder(AuditEvent, strict=False)
_ENCODE = msgspec.json.Encoder().encode
_NAMED = ("auditID", "stage", "verb")
_TIMES = ("requestReceivedTimestamp", "stageTimestamp")
_BODIES = ("requestObject", "responseObject")
_LISTS = ("sourceIPs",)
_EMPTY = (b"null", b'""', b"")
#: Objects and lists of an annotation's name that was split at its dots: `authorization.k8s.io/decision`.
_SPLIT_DEPTH = 8
_LONGEST_NAME = 256


def _names(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The names of a struct's fields in JSON, by their spelling in lower case and without underscores."""
    return {folded(field.encode_name): field.encode_name for field in msgspec.structs.fields(struct)}


def folded(name: str) -> str:
    """A name as exports agree on it: `audit_id`, `AuditId` and `auditID` are one."""
    return name.lower().replace("_", "")


#: Also what AKSAudit, Log Analytics' table, calls the two times.
_EVENT_NAMES = _names(AuditEvent) | {
    "requestreceivedtime": "requestReceivedTimestamp",
    "stagereceivedtime": "stageTimestamp",
}
_PARTS = {
    "user": _names(User),
    "impersonatedUser": _names(User),
    "objectRef": _names(ObjectRef),
    "responseStatus": _names(Status),
    "annotations": {},
}
#: What database exports put in the place of separators.
_SEPARATORS = str.maketrans("./", "__")
_ANNOTATIONS = {
    folded(field.encode_name.translate(_SEPARATORS)): field.encode_name
    for field in msgspec.structs.fields(Annotations)
}


def decode_changed(raw: bytes | msgspec.Raw, version: str = "") -> AuditEvent:
    """Decode an event with other types or names than the API server writes.

    `version` is the API version of what is around it, for an event that has none of its own.

    Raises:
        msgspec.MsgspecError, ValueError, RecursionError: it is none.
    """
    fields = by_name(_FIELDS.decode(raw))
    if not all(name in fields for name in _NAMED):
        raise ValueError("not an audit event")
    if bytes(fields.get("user", b"")) == b"null":  # not the same as an empty one, which a refused log-in has
        raise ValueError("user is null, so who acted is unknown")
    event = {name: value for name, value in fields.items() if bytes(memoryview(value)[:5]) not in _EMPTY}
    changed: dict[str, Any] = dict(event)
    for name, names in _PARTS.items():
        if name in event:
            changed[name] = _part(event[name], names) if names else _annotations(event[name])
    for name in _LISTS:
        if name in event:
            changed[name] = _texts(_ANY.decode(event[name]))
    for name in _TIMES:
        if name in event:
            changed[name] = _time(_ANY.decode(event[name]))
    if not any(name in event for name in _TIMES):
        changed[_TIMES[0]] = _old_time(raw)
    found = decode_bounded(_EVENT, _ENCODE(changed))
    check(found, version)
    return found


def repaired_annotations(raw: bytes | msgspec.Raw) -> Annotations | None:
    """The annotations of an event whose names were changed on the way; None if they say nothing."""
    try:
        found = _annotations(by_name(_FIELDS.decode(raw))["annotations"])
        return msgspec.convert(found, Annotations) if found else None
    except (*UNREADABLE, KeyError):
        return None


def by_name(fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The fields of an event by the names that the API server gives them; names spelt exactly come first."""
    found: dict[str, msgspec.Raw] = {}
    parts: dict[str, dict[str, msgspec.Raw]] = {}
    for key, value in fields.items():
        name = _EVENT_NAMES.get(folded(key))
        if name is not None and (name not in found or key == name):
            found[name] = value
        elif name is None and "." in key:
            head, _, rest = key.partition(".")
            part = _EVENT_NAMES.get(folded(head))
            if part in _PARTS:
                parts.setdefault(part, {})[rest] = value
    for part, inner in parts.items():
        found.setdefault(part, msgspec.Raw(_ENCODE(inner)))
    return found


def _object(raw: msgspec.Raw) -> dict[str, Any]:
    """An object, or the text of one."""
    value = _ANY.decode(raw)
    if isinstance(value, str):
        value = _ANY.decode(value)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _part(raw: msgspec.Raw, names: Mapping[str, str]) -> dict[str, Any]:
    """A part of an event without its nulls, its names as they should be."""
    part: dict[str, Any] = {}
    for key, value in _object(raw).items():
        name = names.get(folded(key), key)
        if value is None or (name in part and key != name):
            continue
        if name == "groups":
            part[name] = _texts(value)
        elif isinstance(value, list) and len(value) == 1 and name in names.values():
            part[name] = value[0]
        else:
            part[name] = _whole(value) if name == "code" else value
    return {name: value for name, value in part.items() if value is not None}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _texts(value: Any) -> list[Any]:
    """A list of texts: one text alone, or the text of a list, is taken for it."""
    if isinstance(value, str):
        value = _ANY.decode(value) if value[:1] == "[" else [value]
    if not isinstance(value, list):
        raise ValueError("not a list")
    return [item for item in value if item is not None]


def _annotations(raw: msgspec.Raw) -> dict[str, str]:
    """The annotations that are read, whose dots may have become underscores, or objects inside each other."""
    found: dict[str, str] = {}

    def add(name: str, value: Any, depth: int) -> None:
        if len(name) > _LONGEST_NAME:
            return
        if isinstance(value, dict) and depth:
            for key, inner in value.items():
                add(f"{name}.{key}" if name else key, inner, depth - 1)
            return
        known = _ANNOTATIONS.get(folded(name.translate(_SEPARATORS)))
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if known is not None and isinstance(value, str) and (known not in found or name == known):
            found[known] = value

    add("", _object(raw), _SPLIT_DEPTH)
    return found


def _time(value: Any) -> Any:
    """A time as text; whatever it is not is left for the decoder to refuse."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    return rfc3339(repr(value) if isinstance(value, float) else str(value).strip())


class _Metadata(msgspec.Struct):
    creationTimestamp: str | None = None


class _Old(msgspec.Struct):
    timestamp: str | int | float | None = None
    metadata: _Metadata | None = None


_OLD = msgspec.json.Decoder(_Old)


def _old_time(raw: bytes | msgspec.Raw) -> Any:
    """The time of an event of the first version of v1beta1, which had one only."""
    old = _OLD.decode(raw)
    created = old.metadata.creationTimestamp if old.metadata is not None else None
    return _time(old.timestamp or created or "")
