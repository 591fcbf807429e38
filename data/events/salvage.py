"""Salvages what stands before the cut of a record that a platform cut off: who did what to which object, when and from where.

Clouds and log shippers cut a record at a size of theirs (16 KiB, 256 KiB ...), and a client decides how large the body of its
request is, how deep, and what characters are in it. Of a record that is cut in its body, or cannot be read because of it, the
rest becomes an event of the form that an API server gives one whose bodies it leaves out: with the annotation
`audit.k8s.io/truncated`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from data.escapes import without_escaped_quotes
from data.events.audit_event import (
    API_VERSIONS,
    MAX_EVENT_BYTES,
    UNREADABLE,
    AuditEvent,
    ObjectRef,
    decode_event,
)
from data.patterns import compile_bytes

#: Nesting and parts up to which a cut record is followed; what is beyond counts as cut off. 200,000 parts take 0.1 s.
_MAX_DEPTH, _MAX_TOKENS = 256, 200_000
#: Bytes at the end of a record that is too long in which its last fields are looked for.
_TAIL_BYTES = 64 << 10
#: Whole texts and members without objects or lists in them, up to the last comma (group 1), as most are: looked at together they
#: take a third of the time. Or a text (with its end in group 2, unless it is cut), or one mark. Escaped quotes are masked.
_TOKEN = re.compile(
    rb'((?:(?!"(?:requestObject|responseObject)")"[^"]*+"\s*+(?::\s*+(?:"[^"]*+"|[^"{}\[\],]*+))?,)++)|"[^"]*+(")?|[{}\[\],]'
)
_RUN, _TEXT_END = 1, 2
#: Half an escape, or none, where backslashes are masked.
_BAD_ESCAPE = compile_bytes(r"\\(?:u[0-9A-Fa-f]{0,3}(?:[^0-9A-Fa-f]|\z)|\z)")
_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9A-Fa-f]{2}\Z")
_QUOTE, _COMMA, _OPEN = ord('"'), ord(","), {ord("{"): ord("}"), ord("["): ord("]")}
_OBJECT_END = ord("}")
_NOT_ASCII = bytes(range(0x80, 0x100))
_LAST_FIELDS = b'"requestReceivedTimestamp":"'
_BODIES = frozenset((b'"requestObject"', b'"responseObject"'))
_MARK = b'"audit.k8s.io/truncated":"true"'

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_ENCODE = msgspec.json.Encoder()


class _Closed(NamedTuple):
    """JSON that was closed at a cut: what is whole of it, and how many objects and lists were open there.

    `at_end` says that the cut is the end of what was given, not a bound on what is followed.
    """

    text: bytes
    open: int
    at_end: bool = True


def _partial_text(text: bytes) -> bytes:
    """JSON inside a text, which was cut off together with it, as a text with an end; nothing for any other text."""
    if text[1:2] not in (b"{", b"["):
        return b""
    text = text.rstrip(_NOT_ASCII)  # half a character, at most
    return _HALF_PAIR.sub(b"", text) + b'"'


def _close(raw: bytes, up_to: frozenset[bytes] = frozenset()) -> _Closed | None:
    """Close JSON after the last value that is whole, in linear time; None if it is no object or list, or damaged.

    A text that is cut is left out, unless it holds JSON itself: half a name would be another name.

    Args:
        raw: an object or a list.
        up_to: keys, with their quotes, of the outermost object at the first of which it counts as cut.
    """
    if raw.lstrip()[:1] not in (b"{", b"["):
        return None
    closers = bytearray()
    safe, rest, is_key, at_end = 0, b"", False, True
    masked = without_escaped_quotes(raw)
    bad = _BAD_ESCAPE.search(masked) if b"\\" in masked else None
    for count, token in enumerate(_TOKEN.finditer(masked, 0, len(raw) if bad is None else bad.start())):
        mark, end = raw[token.start()], token.end()
        is_bound = count >= _MAX_TOKENS or (mark in _OPEN and len(closers) >= _MAX_DEPTH)
        if is_bound or (is_key and len(closers) == 1 and token[0] in up_to):
            at_end = False
            break
        if mark in _OPEN:
            closers.append(_OPEN[mark])
            safe, is_key = end, _OPEN[mark] == _OBJECT_END
        elif not closers:
            return None
        elif token[_RUN] is not None:
            safe, is_key = end - 1, closers[-1] == _OBJECT_END
        elif mark == _QUOTE:
            if token[_TEXT_END] is None:
                rest = b"" if is_key else _partial_text(raw[token.start() : end])
                if rest:
                    rest = raw[safe : token.start()] + rest
                break
            safe, is_key = safe if is_key else end, False
        elif mark == _COMMA:
            safe, is_key = token.start(), closers[-1] == _OBJECT_END
        elif closers.pop() != mark:
            return None
        else:
            safe = end
            if not closers:
                break
    return _Closed(raw[:safe] + rest + bytes(reversed(closers)), len(closers), at_end)


def complete_json(raw: bytes) -> tuple[bytes, bool] | None:
    """JSON closed at its cut, and whether there was one (or something stands behind its end); None if it is no JSON."""
    closed = _close(raw)
    if closed is None:
        return None
    return closed.text, bool(closed.open) or len(closed.text) < len(raw.rstrip())


def _reference(uri: str) -> ObjectRef | None:
    """The object that a path names; None for a path outside the resource API."""
    parts = uri.partition("?")[0].split("/")[1:]
    if parts[:1] == ["api"] and len(parts) > 1:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 2:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if rest[:1] == ["watch"]:
        rest = rest[1:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 1:
        namespace = rest[1]
        rest = rest[2:] if len(rest) > 2 and rest[2] not in ("status", "finalize") else rest
    if not rest or not rest[0]:
        return None
    name, subresource = [*rest[1:3], "", ""][:2]
    return ObjectRef(rest[0], namespace, name, group, version, subresource)


def _last_fields(raw: bytes) -> dict[str, msgspec.Raw]:
    """What an API server writes behind the bodies: times and annotations. No text in a body can look like it unescaped."""
    tail = raw[-_TAIL_BYTES:]
    begin = tail.rfind(_LAST_FIELDS)
    try:
        return _FIELDS.decode(b"{" + tail[begin:]) if begin >= 0 else {}
    except UNREADABLE:
        return {}


def _annotated(annotations: bytes) -> msgspec.Raw:
    inner = annotations.strip()
    if inner[:1] != b"{" or inner == b"null":
        inner = b"{}"
    rest = inner[1:].lstrip()
    return msgspec.Raw(b"{" + _MARK + (b"" if rest == b"}" else b",") + rest)


class Salvaged(NamedTuple):
    """What was salvaged of a record: the event, and JSON that decodes as it."""

    event: AuditEvent
    text: bytes


def salvage(raw: bytes | msgspec.Raw, time: str = "", *, may_grow: bool = False) -> Salvaged | None:
    """The event that begins with `raw`, whole again without what was cut off; None if who did what and when is not in it.

    It has the annotation `audit.k8s.io/truncated`, and no `responseObject`. Where a body makes a record unreadable (nested too
    deep, no Unicode, larger than an event), the event is without its bodies.

    Args:
        raw: an event's JSON up to where it was cut, with or without a remark of who cut it.
        time: RFC 3339 time of the record around it, for an event that lost its own.
        may_grow: whether the end that is missing may still come, as of the last line of a file that is being written.
    """
    data = bytes(raw)
    has_bodies = any(key in data for key in _BODIES)
    for up_to in (frozenset(), _BODIES) if has_bodies else (frozenset(),):
        closed = _close(data[:MAX_EVENT_BYTES], up_to)
        if closed is None or not closed.open:
            continue
        at_end = closed.at_end and len(data) <= MAX_EVENT_BYTES
        if at_end and may_grow:
            return None
        try:
            fields = _FIELDS.decode(closed.text)
            # What stands at the end of a record that was cut can be its client's choice.
            if not time and not at_end:
                fields |= _last_fields(data)
            text = _event(fields, closed.open > 1, time)
            if text is not None:
                return Salvaged(decode_event(text), text)
        except UNREADABLE:
            continue
    return None


def _event(fields: dict[str, msgspec.Raw], is_last_cut: bool, time: str) -> bytes | None:
    """An event of the fields before a cut; the last of them may be cut itself."""
    last = next(reversed(fields), "") if is_last_cut else ""
    if last in ("objectRef", "responseStatus"):
        del fields[last]
    version = fields.get("apiVersion")
    if version is None or _TEXT.decode(version) not in API_VERSIONS:
        return None
    if not {"auditID", "verb", "user"} <= fields.keys():
        return None
    if last == "user" and "username" not in _FIELDS.decode(fields["user"]):
        return None
    if "requestReceivedTimestamp" not in fields and "stageTimestamp" not in fields:
        if not time:
            return None
        fields["requestReceivedTimestamp"] = msgspec.Raw(_ENCODE.encode(time))
    if "objectRef" not in fields and "responseStatus" not in fields and "requestURI" in fields:
        reference = _reference(_TEXT.decode(fields["requestURI"]))
        if reference is not None:
            fields["objectRef"] = msgspec.Raw(_ENCODE.encode(reference))
    fields.pop("responseObject", None)
    fields.setdefault("stage", msgspec.Raw(b'"ResponseComplete"'))
    fields["annotations"] = _annotated(bytes(fields.get("annotations", b"{}")))
    return _ENCODE.encode(fields)
