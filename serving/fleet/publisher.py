"""The front: what API servers send goes into Kafka, where workers take it from; nothing counts as taken before Kafka has it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from data.events.audit_event import AuditEvent, Decoded
from serving.fleet.kafka import PUBLISH_SECONDS, KafkaError, broker_and_topic, make_producer
from serving.process.worker import Worker
from serving.settings import Settings

_log = logging.getLogger("kubehabit.kafka")
#: Of a record: Kafka's own limit is a million bytes, with what it adds, unless `message.max.bytes` says otherwise.
_DEFAULT_MOST, _OVERHEAD = 1_000_000, 2_000
_POLL_SECONDS = 0.05
_FIELDS = [(field.encode_name, field.name) for field in msgspec.structs.fields(AuditEvent)]
_LEFT_OUT = (None, "", (), msgspec.Raw())


def open_publisher(settings: Settings) -> Publisher | None:
    """The publisher that the settings ask for; None if batches are scored here.

    Raises:
        KafkaError: the client cannot be made, or nothing says which cluster a batch is of.
    """
    url, access = settings.ingest.publish, settings.access
    if url is None:
        return None
    if settings.ingest.cluster is None and not (access.has_tokens or access.certificates):
        raise KafkaError(
            "ingest.publish needs ingest.cluster, or a token for each cluster, named like it: kubehabit token create NAME "
            "--scope ingest"
        )
    return Publisher(url, settings.kafka.properties)


class Publisher:
    """Publishes batches; may be called by many threads.

    Args:
        url: brokers and topic.
        properties: librdkafka's own.

    Attributes:
        most: largest value of a record, bytes.

    Raises:
        KafkaError: the client cannot be made.
    """

    def __init__(self, url: str, properties: Mapping[str, Any]) -> None:
        self.most = int(properties.get("message.max.bytes", _DEFAULT_MOST)) - _OVERHEAD
        self._topic = broker_and_topic(url)[1]
        self._producer = make_producer(url, properties)
        # A delivery is reported by a call of `poll`, on the thread that calls.
        self._reports = Worker("kafka-reports", self._poll)
        self._reports.start()

    def _poll(self) -> bool:
        while not self._reports.closing.is_set():
            self._producer.poll(_POLL_SECONDS)
        return False

    def publish(self, cluster: str, values: Sequence[bytes]) -> Future[None]:
        """Publish values of one cluster, in their order; done when all replicas in sync have all of them.

        Fails with KafkaError if one of them could not be delivered; those before it may have been.

        Raises:
            KafkaError: too much waits to be delivered already.
        """
        batch = _Batch(len(values))
        for value in values:
            try:
                self._producer.produce(self._topic, value, cluster, on_delivery=batch.delivered)
            except BufferError as error:
                raise KafkaError(
                    "Too much waits for Kafka: send the batch again later. Is a broker down?"
                ) from error
            except Exception as error:  # KafkaException: what it takes no record for
                raise KafkaError(f"Kafka does not take the batch: {error}.") from error
        return batch.done

    def waiting(self) -> int:
        """Records that are not delivered yet."""
        return len(self._producer)

    def close(self) -> None:
        """Deliver what waits, for a while, and stop."""
        self._reports.close(1.0)
        until = time.monotonic() + PUBLISH_SECONDS
        if left := self._producer.flush(until - time.monotonic()):
            _log.error("records were not delivered; their senders know", extra={"records": left})


class _Batch:
    """Records that are done together."""

    def __init__(self, records: int) -> None:
        self.done: Future[None] = Future()
        self.done.set_running_or_notify_cancel()
        self._left = records
        self._turn = threading.Lock()
        if not records:
            self.done.set_result(None)

    def delivered(self, error: Any, _message: Any) -> None:
        """Called once for each record."""
        with self._turn:
            self._left -= 1
            if self.done.done():
                return
            if error is not None:
                self.done.set_exception(KafkaError(f"Kafka did not take the batch: {error.str()}."))
            elif not self._left:
                self.done.set_result(None)


def values_of(plain: bytes, decoded: Decoded, most: int) -> list[bytes]:
    """A body as values of records.

    It is published as it came if all of it can be read and it fits; else its events are, without what became dead letters here.

    Args:
        plain: the decompressed body.
        most: largest value, bytes; an event that is larger is a value of its own.
    """
    if not decoded.dead and not decoded.skipped and len(plain) <= most:
        return [plain]
    return list(_joined(map(encode_event, decoded.events), most))


def _joined(lines: Iterator[bytes], most: int) -> Iterator[bytes]:
    together: list[bytes] = []
    size = 0
    for line in lines:
        if together and size + len(line) + 1 > most:
            yield b"\n".join(together)
            together, size = [], 0
        together.append(line)
        size += len(line) + 1
    if together:
        yield b"\n".join(together)


def encode_event(event: AuditEvent) -> bytes:
    """JSON of an event from which the same event is decoded, without its empty fields."""
    if not event.apiVersion:
        event.apiVersion = "audit.k8s.io/v1"
    fields = {name: getattr(event, attribute) for name, attribute in _FIELDS}
    return msgspec.json.encode({name: value for name, value in fields.items() if value not in _LEFT_OUT})
