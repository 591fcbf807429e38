"""Amazon EKS: audit events as CloudWatch Logs hands them on.

Source of the shapes: the CloudWatch Logs API (FilterLogEvents, GetLogEvents), subscription filters, export tasks to S3.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from data.events.audit_event import UNREADABLE
from data.events.formats.reading import Reading

AUDIT_STREAM = "kube-apiserver-audit"
_OTHER_STREAM = "EKS log stream that is not the audit log"
_CONTROL = "CloudWatch control message"
_GROUP = re.compile(r"/aws/eks/([^/]+)/cluster")
_EXPORTED = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z[ \t]+(.*)", re.DOTALL)
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
    data: str


class _Kinesis(msgspec.Struct):
    kinesis: _Packed


class _Lambda(msgspec.Struct):
    awslogs: _Packed


_SUBSCRIPTION = msgspec.json.Decoder(_Subscription)
_MESSAGE = msgspec.json.Decoder(_Message)
_PACKED = msgspec.json.Decoder(_Packed)
_KINESIS = msgspec.json.Decoder(_Kinesis)
_LAMBDA = msgspec.json.Decoder(_Lambda)


def _as(decoder: msgspec.json.Decoder[Any], raw: bytes) -> Any:
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        return None


def _is_audit(stream: str) -> bool:
    return not stream or stream.startswith(AUDIT_STREAM)


def _message(text: str, stream: str, cluster: str, found: Reading) -> None:
    """Read one log message of a stream (of an unknown one if `stream` is empty)."""
    if not _is_audit(stream) or (not stream and _PROSE.match(text)):
        found.skip(_OTHER_STREAM)
    else:
        found.record(text.encode("utf-8", "surrogatepass"), cluster)


class EksRecord:
    """CloudWatch Logs JSON: subscription records, single messages, and their base64 forms on Firehose, Kinesis and Lambda."""

    name = "EKS"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        subscription: _Subscription | None = _as(_SUBSCRIPTION, raw)
        if subscription is not None:
            if subscription.messageType == "CONTROL_MESSAGE":
                found.skip(_CONTROL)
                return True
            group = _GROUP.fullmatch(subscription.logGroup)
            cluster = group[1] if group else subscription.logGroup
            if cluster and subscription.owner:
                cluster = f"{subscription.owner}/{cluster}"
            for position, item in enumerate(subscription.logEvents, 1):
                found.at(position)
                _message(item.message, item.logStreamName or subscription.logStream, cluster, found)
            return True
        message: _Message | None = _as(_MESSAGE, raw)
        if message is not None:
            if message.timestamp is None and not message.eventId and not message.logStreamName:
                return False
            _message(message.message, message.logStreamName, "", found)
            return True
        packed: _Packed | None = _as(_PACKED, raw)
        if packed is None:
            on_lambda: _Lambda | None = _as(_LAMBDA, raw)
            on_kinesis: _Kinesis | None = _as(_KINESIS, raw)
            if on_lambda is not None:
                packed = on_lambda.awslogs
            elif on_kinesis is not None:
                packed = on_kinesis.kinesis
            else:
                return False
        try:
            data = base64.b64decode(packed.data, validate=True)
        except (binascii.Error, ValueError):
            return False
        if data[:2] == b"\x1f\x8b":
            unpacked = found.unpack(data)
            if unpacked is None:
                return True
            data = unpacked
        found.record(data)
        return True


class EksExport:
    """Text lines of a CloudWatch Logs export task: the time of ingestion, a space, the message."""

    name = "EKS export"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        line = _EXPORTED.match(raw)
        if line is None:
            return False
        if line[1][:1] != b"{" and _PROSE.match(line[1][:64].decode("ascii", "replace")):
            found.skip(_OTHER_STREAM)
        else:
            found.record(line[1])
        return True
