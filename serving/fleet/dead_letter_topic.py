"""Dead letters of a fleet in a topic of Kafka: workers come and go, and with them the files on their disks."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Any

import msgspec

from data.events.audit_event import DeadLetter
from serving.fleet.kafka import KafkaError, broker_and_topic
from serving.fleet.publisher import Publisher

_log = logging.getLogger("kubehabit.dead_letters")
#: Letters that wait to be delivered; those beyond are lost, the oldest first.
_MOST = 10_000
_PATIENCE_SECONDS = 5.0


class DeadLetterTopic:
    """Publishes letters, as JSON with the names of the dead-letter file: source, line, reason, raw. One thread uses it.

    Args:
        source: URL of the topic that is scored; the letters go to the same brokers.
        topic: for the letters.
        properties: librdkafka's own.

    Raises:
        KafkaError: the client cannot be made.
    """

    def __init__(self, source: str, topic: str, properties: Mapping[str, Any]) -> None:
        self._publisher = Publisher(f"kafka://{broker_and_topic(source)[0]}/{topic}", properties)
        self._waiting: deque[tuple[str, bytes, Future[None]]] = deque(maxlen=_MOST)

    def add_all(self, source: str, letters: Iterable[DeadLetter]) -> None:
        """Publish letters; `is_kept` says when Kafka has them."""
        for letter in letters:
            document = {"source": source, "line": letter.line, "reason": letter.reason, "raw": letter.text}
            self._publish(source, msgspec.json.encode(document)[: self._publisher.most])

    def _publish(self, source: str, content: bytes) -> None:
        if len(self._waiting) == _MOST:
            _log.error(
                "a dead letter is lost: Kafka does not take them", extra={"source": self._waiting[0][0]}
            )
        try:
            done = self._publisher.publish(source, [content])
        except KafkaError as error:
            done = Future()
            done.set_exception(error)
        self._waiting.append((source, content, done))

    def is_kept(self) -> bool:
        """Whether Kafka has all letters; those that it did not take are sent again."""
        until = time.monotonic() + _PATIENCE_SECONDS
        for _ in range(len(self._waiting)):
            source, content, done = self._waiting[0]
            wait([done], max(until - time.monotonic(), 0))
            if not done.done():
                return False
            self._waiting.popleft()
            if (error := done.exception()) is not None:
                _log.warning("a dead letter is sent again", extra={"source": source, "reason": str(error)})
                self._publish(source, content)
        return not self._waiting

    def close(self) -> None:
        """Deliver what waits, for a while."""
        self._publisher.close()
