"""Reads Amazon EKS: audit events as CloudWatch Logs hands them on.

Source of the shapes: the CloudWatch Logs API (FilterLogEvents, GetLogEvents), subscription filters, export tasks to S3.
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from typing import Any

import msgspec

from data.events.audit_event import UNREADABLE, why
from data.events.formats.program_log import is_program_log
from data.events.formats.reading import AUDIT_GROUP, Reading

AUDIT_STREAM = "kube-apiserver-audit"
_OTHER_STREAM = "EKS log stream that is not the audit log"
_CONTROL = "CloudWatch control message"
_GROUP = re.compile(r"/aws/eks/([^/]+)/cluster")
#: The streams that EKS itself writes into a cluster's log group beside the audit log.
_EKS_STREAMS = (
    r"(?:kube-apiserver|authenticator|kube-scheduler|kube-controller-manager|cloud-controller-manager)-"
)
_OTHER = re.compile(_EKS_STREAMS + r"(?!audit)")
_EXPORTED = re.compile(
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d))[ \t]+(?:("
    + _EKS_STREAMS.encode()
    + rb"[\w-]+)[ \t]+)?(.*)",
    re.DOTALL,
)


class _Message(msgspec.Struct):
    message: str
    id: str = ""
    eventId: str = ""
    timestamp: int | None = None
    ingestionTime: int | None = None
    logStreamName: str = ""


class _Subscription(msgspec.Struct):
    logEvents: list[_Message]
    messageType: str = ""
    owner: str = ""
    logGroup: str = ""
    logStream: str = ""


class _ObjectMessage(_Message):
    """A message that something on the way has parsed."""

    message: msgspec.Raw  # type: ignore[assignment]


class _ObjectSubscription(_Subscription):
    logEvents: list[_ObjectMessage]  # type: ignore[assignment]


class _Packed(msgspec.Struct):
    data: str = ""
    awslogs: _Packed | None = None  # on Lambda
    kinesis: _Packed | None = None


class _AnyShape(_Message):
    """All of them in one: what is written as it should be is decoded once."""

    message: str | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]
    logEvents: list[_Message] | msgspec.UnsetType = msgspec.UNSET
    messageType: str = ""
    owner: str = ""
    logGroup: str = ""
    logStream: str = ""
    data: str = ""
    awslogs: _Packed | None = None
    kinesis: _Packed | None = None


_ANY_SHAPE = msgspec.json.Decoder(_AnyShape)
_SHAPES = [*map(msgspec.json.Decoder, (_Subscription, _Message))]
_OBJECT_SHAPES = [*map(msgspec.json.Decoder, (_ObjectSubscription, _ObjectMessage))]
_PACKED = [msgspec.json.Decoder(_Packed)]
_TEXT = msgspec.json.Decoder(str)


def _decode(raw: bytes) -> Any:
    """The record, in the first shape that it fits; None if it fits none."""
    with suppress(*UNREADABLE):
        return _ANY_SHAPE.decode(raw)
    others = [*_OBJECT_SHAPES, *_PACKED] if b'"message"' in raw else _PACKED
    for decoder in (*_SHAPES, *others):
        with suppress(*UNREADABLE):
            return decoder.decode(raw)
    return None


def cluster_of(owner: str, group: str) -> str:
    """The cluster of a log group: `111122223333/shop`; the group's name itself if it is not one that EKS made."""
    match = _GROUP.fullmatch(group)
    name = match[1] if match else group
    return f"{owner}/{name}" if owner and name else name


def read_packed(text: str, found: Reading) -> bool:
    """Read the record in a base64 text, which may be compressed; False if it is no base64."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        try:
            data = base64.b64decode(
                "".join(text.split()), validate=True
            )  # some encoders put line ends into it
        except ValueError:
            return False
    if not data:
        return False
    if data[:2] != b"\x1f\x8b":
        found.record(data)
    elif (content := found.unpack(data)) is not None:
        found.record(content)
    return True


def _message(item: _Message, stream: str, cluster: str, found: Reading) -> None:
    """Read one log message of a stream (of an unknown one if `stream` is empty)."""
    if isinstance(item.message, str):
        raw = item.message.encode("utf-8", "surrogatepass")
    else:
        raw = bytes(item.message)
        if raw[:1] == b'"':  # a text among objects
            try:
                raw = _TEXT.decode(raw).encode("utf-8", "surrogatepass")
            except UNREADABLE as error:  # it is no Unicode
                found.lost(why(error), raw)
                return
    others = not stream.startswith(AUDIT_STREAM) and (_OTHER.match(stream) or is_program_log(raw))
    if not others or AUDIT_GROUP.search(raw):
        found.record(raw, cluster, time=item.timestamp)
    else:
        found.skip(_OTHER_STREAM, raw)


class EksRecord:
    """CloudWatch Logs JSON: subscription records, single messages, and their base64 forms on Firehose, Kinesis and Lambda."""

    name = "EKS"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        record = _decode(raw)
        events = getattr(record, "logEvents", msgspec.UNSET)
        message = getattr(record, "message", msgspec.UNSET)
        if events is not msgspec.UNSET:
            if record.messageType == "CONTROL_MESSAGE":
                found.skip(_CONTROL, raw)
                return True
            cluster = cluster_of(record.owner, record.logGroup)
            for position, item in enumerate(events, 1):
                found.at(position)
                _message(item, item.logStreamName or record.logStream, cluster, found)
            return True
        if message is not msgspec.UNSET:
            if record.timestamp is None and not record.eventId and not record.logStreamName:
                return False
            if not isinstance(message, str) and bytes(memoryview(message)[:1]) != b"{":
                return False
            _message(record, record.logStreamName, "", found)
            return True
        packed = record and (record.data or getattr(record.awslogs or record.kinesis, "data", ""))
        return bool(packed) and read_packed(packed, found)


class EksExport:
    """Text lines of a CloudWatch Logs export task or of `aws logs tail`: the time of ingestion, the stream, the message."""

    name = "EKS export"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        line = _EXPORTED.match(raw)
        if line is None:
            return False
        stream, message = (line[2] or b"").decode(), line[3]
        if message[:1] == b"{":
            found.record(message, time=line[1].decode())
        elif is_program_log(message) or _OTHER.match(stream):
            found.skip(_OTHER_STREAM, message)
        else:
            return False
        return True
