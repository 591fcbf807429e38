"""Reads lines of text that carry a record behind something else: a container runtime's, syslog's, a node's name, any other."""

from __future__ import annotations

import re

import msgspec

from data.events.audit_event import MAX_EVENT_BYTES, UNREADABLE
from data.events.formats.foreign import describe
from data.events.formats.program_log import OTHER_PROGRAM, is_program_log
from data.events.formats.reading import Reading, holds_event

_CRI = re.compile(
    rb"(\d{4}-\d\d-\d\dT[^ \t]{8,40}) (stdout|stderr) (?P<part>[FP])(?::[^ ]{0,64})? ?(.*)", re.DOTALL
)
_SYSLOG = re.compile(
    rb"<\d{1,3}>|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d |\d{4}-\d\d-\d\dT[^ ]{8,40} \S{1,255} \S{1,128}: "
)
_BRACE = re.compile(rb'\{\s*"')
_JSON = msgspec.json.Decoder(msgspec.Raw)
_TEXT = msgspec.json.Decoder(str)
#: What stands in front of a record may have braces of its own, as syslog's structured data.
_BRACES = 4


def is_part(line: bytes) -> bool:
    """Whether a line of a container's log goes on in the next one of its stream."""
    found = _CRI.match(line)
    return found is not None and found["part"] == b"P"


class CriLine:
    """A line of a container's log as containerd and CRI-O write it; a long line comes in parts, which are joined."""

    name = "CRI"

    def __init__(self) -> None:
        self._parts: dict[bytes, list[bytes]] = {}  # by stream, of lines whose end has not come
        self._sizes: dict[bytes, int] = {}

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        line = _CRI.match(raw)
        if line is None:
            return False
        time, stream, part, content = line.groups()
        if part == b"P" or stream in self._parts:
            size = self._sizes.get(stream, 0)
            if size <= MAX_EVENT_BYTES:  # what is longer is no record, and not kept
                self._parts.setdefault(stream, []).append(content)
            self._sizes[stream] = size + len(content)
            if part == b"P":
                return True
            content = self._joined(stream)
        if b"{" not in content and is_program_log(content):
            found.skip(OTHER_PROGRAM, content)
        elif content.strip():
            found.record(content.rstrip(b"\r"), time=time.decode("ascii", "replace"))
        return True

    def _joined(self, stream: bytes) -> bytes:
        self._sizes.pop(stream)
        return b"".join(self._parts.pop(stream))

    def finish(self, found: Reading) -> None:
        """Read what was left without an end, when no more comes."""
        for stream in list(self._parts):
            found.record(self._joined(stream))


class NodeLine:
    """A line of `oc adm node-logs --path=kube-apiserver/audit.log`: OpenShift's node, then the event."""

    name = "OpenShift node log"
    _line = re.compile(rb"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})[ \t]+(\{.*)", re.DOTALL)

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        line = self._line.match(raw)
        if line is not None:
            found.record(line[1])
        return line is not None


class TextLine:
    """Any other text with a JSON object in it, such as syslog, `kubectl logs --prefix`, stern, fluentd's out_file."""

    name = "text before JSON"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        begin = raw.lstrip()[:1]
        if begin == b"{":
            return False
        if begin == b'"':  # a JSON text, as `jq .message` prints it
            try:
                text = _TEXT.decode(raw)
            except UNREADABLE:
                text = ""
            if "{" in text:
                self.name = "JSON text"
                found.record(text.encode("utf-8", "surrogatepass"))
                return True
        record = _record_in(raw)
        if is_program_log(raw) and (record is None or not holds_event(record)):
            found.skip(OTHER_PROGRAM, raw)
            return True
        if record is None or (describe(raw) and not _is_whole(record)):
            return False
        self.name = "syslog" if _SYSLOG.match(raw) else "text before JSON"
        found.record(record)
        return True


def _is_whole(record: bytes) -> bool:
    try:
        _JSON.decode(record)
    except UNREADABLE:
        return False
    return True


def _record_in(raw: bytes) -> bytes | None:
    """The record in a text: from the first brace on that opens an object, or from the first one if none is whole."""
    first: bytes | None = None
    for number, brace in enumerate(_BRACE.finditer(raw)):
        if number == _BRACES:
            break
        record = raw[brace.start() :]
        end = record.rfind(b"}") + 1
        for candidate in (record, record[:end]) if end < len(record.rstrip()) else (record,):
            if _is_whole(candidate):
                return candidate
        first = first or record
    return first
