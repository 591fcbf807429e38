"""A Kafka of the tests' own: librdkafka's mock cluster, which speaks the real protocol, with groups and rebalances.

It lives in the process that made it, and keeps 5 MB of each partition.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition

_log = logging.getLogger("mock-kafka")
_log.setLevel(logging.CRITICAL)
_topics = count(1)
#: What keeps a partition's end from being read before it is written.
DEADLINE = 30.0


class MockKafka:
    """One broker, as long as the object lives.

    Kafka waits for three seconds whether more members come to a new group; here it does for a tenth of one.
    """

    def __init__(self) -> None:
        library = _library()
        reason = ctypes.create_string_buffer(512)
        self._handle = library.rd_kafka_new(0, None, reason, len(reason))
        assert self._handle, reason.value
        self._cluster = library.rd_kafka_mock_cluster_new(self._handle, 1)
        assert self._cluster
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 100)
        self.brokers = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._library = library
        self._producer = Producer(
            {"bootstrap.servers": self.brokers, "compression.type": "zstd", "linger.ms": 2}, logger=_log
        )

    def set_down(self, down: bool) -> None:
        """Let the broker answer no one, or again."""
        change = (
            self._library.rd_kafka_mock_broker_set_down if down else self._library.rd_kafka_mock_broker_set_up
        )
        assert change(self._cluster, 1) == 0

    def topic(self) -> str:
        """Name of a new topic of four partitions."""
        name = f"audit-{next(_topics)}"
        assert self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), 4, 1) == 0
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
        return Consumer({"bootstrap.servers": self.brokers, "group.id": group}, logger=_log)


def _library() -> Any:
    """The library that confluent-kafka has loaded."""
    (path,) = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("rd_kafka_new", pointer, (number, pointer, text, ctypes.c_size_t)),
        ("rd_kafka_mock_cluster_new", pointer, (pointer, number)),
        ("rd_kafka_mock_cluster_bootstraps", text, (pointer,)),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, (pointer, ctypes.c_int32)),
        ("rd_kafka_mock_topic_create", number, (pointer, text, number, number)),
        ("rd_kafka_mock_broker_set_down", number, (pointer, ctypes.c_int32)),
        ("rd_kafka_mock_broker_set_up", number, (pointer, ctypes.c_int32)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


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
