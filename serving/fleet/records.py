"""From records of Kafka to events. The key of a record names its cluster; its value is a body as `/v1/audit` takes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, DeadLetter
from data.events.decode import decode_block, decode_body
from serving.http.body import decompress
from serving.http.problems import ProblemError
from serving.settings import CLUSTER_NAME

_NAME = re.compile(CLUSTER_NAME)
#: Header of a compressed value.
ENCODING = "content-encoding"
#: Values that are decoded at once, bytes.
_TOGETHER = 1 << 18


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record of a partition: its offset, its key, its value as it was sent, and the encoding of that (gzip, zstd or none)."""

    offset: int
    key: bytes | None
    value: bytes
    encoding: str = ""


@dataclass(slots=True)
class RecordEvents:
    """What was in records of one cluster.

    Attributes:
        events: in the order of the log.
        dead: records, or parts of them, that are no events, by the offset of their record.
        skipped: records of other logs, by reason.
    """

    events: list[AuditEvent] = field(default_factory=list)
    dead: list[tuple[int, DeadLetter]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


def is_cluster_name(name: str) -> bool:
    """Whether a cluster can be named so."""
    return _NAME.fullmatch(name) is not None


def cluster_of(record: LogRecord) -> str | None:
    """The cluster that a record is of; None if its key is no name of one."""
    name = (record.key or b"").decode("ascii", "replace")
    return name if is_cluster_name(name) else None


def decode_records(records: Sequence[LogRecord], most_bytes: int) -> Iterator[RecordEvents]:
    """The events of records of one cluster, in their order, as many at a time as are decoded at once.

    Args:
        most_bytes: limit of a decompressed value.
    """
    plain: list[LogRecord] = []
    size = 0
    for record in records:
        if record.encoding or size + len(record.value) > _TOGETHER:
            yield from _decoded(plain, most_bytes)
            plain, size = [], 0
        plain.append(record)
        size += len(record.value)
        if record.encoding:
            yield from _decoded(plain, most_bytes)
            plain, size = [], 0
    yield from _decoded(plain, most_bytes)


def _decoded(records: Sequence[LogRecord], most_bytes: int) -> Iterator[RecordEvents]:
    if not records:
        return
    if len(records) > 1:
        # What is one event a line can be decoded at once; if anything in it is not, each record is decoded by itself, so that
        # none can spoil another.
        together = decode_block(b"\n".join(record.value.removesuffix(b"\n") for record in records))
        if together is not None and not together.dead:
            yield RecordEvents(together.events, skipped=dict(together.skipped))
            return
    for record in records:
        yield _decoded_alone(record, most_bytes)


def _decoded_alone(record: LogRecord, most_bytes: int) -> RecordEvents:
    body = record.value
    try:
        body = decompress(body, record.encoding, most_bytes)
        decoded = decode_body(body)
    except ProblemError as error:
        return RecordEvents(dead=[(record.offset, DeadLetter(1, error.detail, body))])
    except KubehabitError as error:
        return RecordEvents(dead=[(record.offset, DeadLetter(1, str(error), body))])
    dead = [(record.offset, letter) for letter in decoded.dead]
    return RecordEvents(decoded.events, dead, dict(decoded.skipped))
