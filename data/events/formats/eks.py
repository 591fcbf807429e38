"""Reads Amazon EKS: audit events as CloudWatch Logs hands them on.

Source of the shapes: the CloudWatch Logs API (FilterLogEvents, GetLogEvents), subscription filters, export tasks to S3.
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from typing import Any

import msgspec

from data.events.audit_event import UNREADABLE
from data.events.formats.reading import Reading
from data.timestamps import time_of_milliseconds

AUDIT_STREAM = "kube-apiserver-audit"
_OTHER_STREAM = "EKS log stream that is not the audit log"
_CONTROL = "CloudWatch control message"
_GROUP = re.compile(r"/aws/eks/([^/]+)/cluster")
_EXPORTED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)[ \t]+(.*)", re.DOTALL)
#: How lines of the API server's, the scheduler's and the authenticator's own logs begin.
_PROSE = re.compile(r'[IWEF]\d{4} \d\d:\d\d|time="|level=|\d{4}[-/]\d\d[-/]\d\d[ T]|goroutine |\s')


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


class _Packed(msgspec.Struct):
    data: str = ""
    awslogs: _Packed | None = None  # on Lambda
    kinesis: _Packed | None = None


_SHAPES = [*map(msgspec.json.Decoder, (_Subscription, _Message, _Packed))]


def _decode(raw: bytes) -> Any:
    """The record, in the first shape that it fits; None if it fits none."""
    for decoder in _SHAPES:
        with suppress(*UNREADABLE):
            return decoder.decode(raw)
    return None


def _message(item: _Message, stream: str, cluster: str, found: Reading) -> None:
    """Read one log message of a stream (of an unknown one if `stream` is empty)."""
    text = item.message
    if not stream.startswith(AUDIT_STREAM) if stream else _PROSE.match(text):
        found.skip(_OTHER_STREAM)
    else:
        time = time_of_milliseconds(item.timestamp)
        found.record(text.encode("utf-8", "surrogatepass"), cluster, time=time)


class EksRecord:
    """CloudWatch Logs JSON: subscription records, single messages, and their base64 forms on Firehose, Kinesis and Lambda."""

    name = "EKS"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        record = _decode(raw)
        if isinstance(record, _Subscription):
            if record.messageType == "CONTROL_MESSAGE":
                found.skip(_CONTROL)
                return True
            group = _GROUP.fullmatch(record.logGroup)
            cluster = group[1] if group else record.logGroup
            if cluster and record.owner:
                cluster = f"{record.owner}/{cluster}"
            for position, item in enumerate(record.logEvents, 1):
                found.at(position)
                _message(item, item.logStreamName or record.logStream, cluster, found)
            return True
        if isinstance(record, _Message):
            if record.timestamp is None and not record.eventId and not record.logStreamName:
                return False
            _message(record, record.logStreamName, "", found)
            return True
        packed = record and (record.data or getattr(record.awslogs or record.kinesis, "data", ""))
        try:
            data = base64.b64decode(packed or "", validate=True)
        except ValueError:
            return False
        if not data:
            return False
        unpacked = found.unpack(data) if data[:2] == b"\x1f\x8b" else data
        if unpacked is not None:
            found.record(unpacked)
        return True


class EksExport:
    """Text lines of a CloudWatch Logs export task: the time of ingestion, a space, the message."""

    name = "EKS export"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        line = _EXPORTED.match(raw)
        if line is None:
            return False
        if line[2][:1] != b"{" and _PROSE.match(line[2][:64].decode("ascii", "replace")):
            found.skip(_OTHER_STREAM)
        else:
            found.record(line[2], time=line[1].decode())
        return True
