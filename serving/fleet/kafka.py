"""Kafka's clients as they are made from the settings. The library, librdkafka, is installed with the extra `kafka`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data.errors import KubehabitError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

_log = logging.getLogger("kubehabit.kafka")
#: What is fetched ahead of the scoring, kilobytes.
_AHEAD_KB = 16_384
#: Seconds within which a batch of the front must have reached all replicas in sync.
PUBLISH_SECONDS = 30
_CONSUMER: dict[str, Any] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "queued.max.messages.kbytes": _AHEAD_KB,
    "fetch.wait.max.ms": 100,
}
_PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,  # a batch that is sent again by the library is neither doubled nor moved behind a later one
    "compression.type": "zstd",
    "linger.ms": 5,
    # As Java's producers choose: a cluster whose records come from several senders must be in one partition.
    "partitioner": "murmur2_random",
    "message.timeout.ms": PUBLISH_SECONDS * 1000,
}
#: What the guarantees rest on; no property may change it.
_FIXED = frozenset(
    (
        *(
            "bootstrap.servers",
            "metadata.broker.list",
            "group.id",
            "auto.offset.reset",
            "acks",
            "request.required.acks",
        ),
        *(
            "enable.auto.commit",
            "enable.auto.offset.store",
            "partition.assignment.strategy",
            "enable.idempotence",
        ),
    )
)
#: Properties of one kind of client; the other would warn of them.
_ONLY_CONSUMER = (
    "group.",
    "session.",
    "heartbeat.",
    "max.poll.",
    "fetch.",
    "queued.min.",
    "queued.max.",
    "isolation.",
)
_ONLY_PRODUCER = (
    "compression.",
    "linger.",
    "batch.",
    "message.timeout.",
    "delivery.",
    "queue.buffering.",
    "retries",
    "partitioner",
)


class KafkaError(KubehabitError):
    """Kafka cannot be used as the settings say, or does not answer."""


def broker_and_topic(url: str) -> tuple[str, str]:
    """Addresses and topic of a URL that `serving.settings.parse_kafka_url` has checked."""
    brokers, _, topic = url.removeprefix("kafka://").partition("/")
    return brokers, topic


def make_consumer(url: str, group: str, start: str, properties: Mapping[str, Any]) -> Consumer:
    """A consumer in a group, with rebalances that move only what has to move.

    Args:
        start: `earliest` or `latest`: where a partition begins of which nothing is known.
        properties: librdkafka's own.

    Raises:
        KafkaError: the library is not installed, or a property is wrong.
    """
    own = {"bootstrap.servers": broker_and_topic(url)[0], "group.id": group, "auto.offset.reset": start}
    kept = _without(properties, _ONLY_PRODUCER)
    made: Consumer = _made("Consumer", _CONSUMER | kept | own)
    return made


def make_producer(url: str, properties: Mapping[str, Any]) -> Producer:
    """A producer that takes nothing for sent before all replicas in sync have it; raises as `make_consumer`."""
    own = {"bootstrap.servers": broker_and_topic(url)[0]}
    made: Producer = _made("Producer", _PRODUCER | _without(properties, _ONLY_CONSUMER) | own)
    return made


def _without(properties: Mapping[str, Any], others: tuple[str, ...]) -> dict[str, Any]:
    if fixed := sorted(_FIXED & properties.keys()):
        raise KafkaError(
            f"kafka.properties may not set {fixed[0]}: what is kept and what is repeated rests on it. Remove it there."
        )
    return {name: value for name, value in properties.items() if not name.startswith(others)}


def _made(kind: str, properties: dict[str, Any]) -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise KafkaError("Kafka's client is not installed: pip install 'kubehabit[kafka]'.") from error
    properties = {"client.id": "kubehabit", "log.connection.close": False} | properties
    try:
        return getattr(confluent_kafka, kind)(properties, logger=_log)
    except confluent_kafka.KafkaException as error:
        raise KafkaError(f"kafka.properties cannot be used: {error.args[0].str()}. Correct it.") from error
    except (TypeError, ValueError) as error:
        raise KafkaError(f"kafka.properties cannot be used: {error}. Correct it.") from error
