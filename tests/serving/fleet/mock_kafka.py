"""A Kafka of the tests' own: librdkafka's mock cluster, which speaks the real protocol, with groups and rebalances.

It lives in the process that made it, and keeps 5 MB of each partition.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from itertools import count

from confluent_kafka import Consumer, Producer, TopicPartition

_topics = count(1)
#: What keeps a partition's end from being read before it is written.
DEADLINE = 30.0


class MockKafka:
    """One broker, as long as the object lives."""

    def __init__(self, brokers: int = 1) -> None:
        quiet = logging.getLogger("mock-kafka")
        quiet.setLevel(logging.ERROR)
        settings = {
            "bootstrap.servers": "mock",
            "test.mock.num.brokers": brokers,
            "acks": "all",
            "compression.type": "zstd",
            "linger.ms": 2,
        }
        self._producer = Producer(settings, logger=quiet)
        found = self._producer.list_topics(timeout=DEADLINE).brokers
        self.brokers = ",".join(f"{one.host}:{one.port}" for one in found.values())

    def topic(self) -> str:
        """Name of a new topic of four partitions."""
        name = f"audit-{next(_topics)}"
        self._producer.list_topics(name, timeout=DEADLINE)
        return name

    def url(self, topic: str) -> str:
        """URL of a topic."""
        return f"kafka://{self.brokers}/{topic}"

    def send(self, topic: str, partition: int, key: str | None, values: Iterable[bytes]) -> None:
        """Append records to a partition, and wait until they are there."""
        failed: list[object] = []
        for value in values:
            while True:
                try:
                    self._producer.produce(
                        topic,
                        value,
                        key,
                        partition,
                        on_delivery=lambda error, _: failed.append(error) if error else None,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
        assert self._producer.flush(DEADLINE) == 0
        assert not failed, failed

    def observer(self, group: str) -> Consumer:
        """A client that asks what a group has committed, without being in it."""
        return Consumer(
            {"bootstrap.servers": self.brokers, "group.id": group}, logger=logging.getLogger("mock-kafka")
        )


def committed(observer: Consumer, topic: str, partition: int) -> int:
    """Offset that a group has committed; 0 before the first."""
    (place,) = observer.committed([TopicPartition(topic, partition)], timeout=DEADLINE)
    return max(place.offset, 0)


def wait_for_commit(
    observer: Consumer, topic: str, partition: int, offset: int, deadline: float = DEADLINE
) -> None:
    """Wait until a group has committed an offset; fails after a while."""
    until = time.monotonic() + deadline
    while (found := committed(observer, topic, partition)) < offset:
        assert time.monotonic() < until, f"{topic}/{partition}: {found} of {offset} are committed"
        time.sleep(0.05)
