"""The front: what it acknowledges is in Kafka, and workers make of it what one process makes of the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from fastapi.testclient import TestClient

from data.events.audit_event import DeadLetter
from data.events.decode import decode_body, decode_lines
from serving.access.tokens import create
from serving.app import create_app
from serving.fleet.cluster import FleetModel
from serving.fleet.dead_letter_topic import DeadLetterTopic
from serving.fleet.kafka import KafkaError
from serving.fleet.publisher import encode_event, values_of
from serving.settings import Settings
from tests.serving.fleet.fleets import Alerts, LonePartition
from tests.serving.fleet.mock_kafka import DEADLINE, MockKafka

TOKEN = "a-token-of-the-tests"


def records_of(kafka: MockKafka, topic: str) -> list[tuple[str, bytes]]:
    """Keys and values of a topic's records, partition by partition."""
    consumer = Consumer(
        {"bootstrap.servers": kafka.brokers, "group.id": "reader", "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(4)])
    found: list[tuple[int, str, bytes]] = []
    ends = 0
    while ends < 4:
        message = consumer.poll(DEADLINE)
        assert message is not None
        if message.error() is not None:
            ends += 1
        else:
            found.append((message.partition() or 0, str(message.key(), "ascii"), message.value() or b""))
    consumer.close()
    return [(key, value) for _, key, value in sorted(found, key=lambda one: one[0])]


@pytest.fixture
def topic(kafka: MockKafka) -> str:
    return kafka.topic()


@pytest.fixture
def front(kafka: MockKafka, topic: str) -> Iterator[TestClient]:
    """A service that publishes; it has no model, and needs none for that."""
    settings = Settings(
        token=TOKEN,
        ingest={"publish": kafka.url(topic), "cluster": "prod"},
        kafka={"properties": {"message.max.bytes": 100_000, "message.timeout.ms": 3000}},
    )
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def batch(lines: list[bytes]) -> dict[str, Any]:
    return {
        "kind": "EventList",
        "apiVersion": "audit.k8s.io/v1",
        "items": [json.loads(line) for line in lines],
    }


def test_what_is_acknowledged_is_in_kafka_and_gets_the_verdicts_of_one_process(
    kafka: MockKafka,
    topic: str,
    front: TestClient,
    own_home: Path,
    model: FleetModel,
    lines: list[bytes],
    expected: Alerts,
) -> None:
    rest = iter(lines)
    sent = 0
    for route in ("/v1/audit", "/v1/score", "/v1/audit"):
        part = list(islice(rest, 400))
        body = json.dumps(batch(part)).encode() if route == "/v1/audit" else b"\n".join([*part, b"no event"])
        answer = front.post(route, content=body)
        assert answer.status_code == 202
        rejected = int(route == "/v1/score")
        counts = {"records": 400 + rejected, "accepted": 400, "rejected": rejected, "skipped": 0}
        assert answer.json() == {"counts": counts, "skipped": {}}
        sent += 400
    records = records_of(kafka, topic)
    assert {key for key, _ in records} == {"prod"}
    assert max(len(value) for _, value in records) <= 98_000
    partition = LonePartition(own_home, model)
    partition.score([value for _, value in records])
    assert sent == len(lines)
    assert partition.alerts() == expected
    partition.scorer.close()


def test_nothing_is_acknowledged_while_kafka_does_not_answer(
    kafka: MockKafka, front: TestClient, lines: list[bytes]
) -> None:
    kafka.set_down(True)
    try:
        answer = front.post("/v1/audit", json=batch(lines[:3]))
    finally:
        kafka.set_down(False)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "Kafka did not take the batch" in answer.json()["detail"]
    assert front.post("/v1/audit", json=batch(lines[:3])).status_code == 202


def test_the_cluster_is_the_name_of_the_token_where_none_is_set(
    kafka: MockKafka, topic: str, lines: list[bytes], own_home: Path
) -> None:
    settings = Settings(token=TOKEN, ingest={"publish": kafka.url(topic)})
    with pytest.raises(KafkaError, match="a token for each cluster, named like it"):
        create_app(settings)
    own_home.mkdir(exist_ok=True)
    _, text = create(own_home / "tokens.json", "prod-eu", ["ingest"], now=datetime.now(UTC))
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {text}"}) as client:
        assert client.post("/v1/audit", json=batch(lines[:3])).status_code == 202
    ((key, value),) = records_of(kafka, topic)
    assert key == "prod-eu"
    assert len(decode_body(value).events) == 3


def test_dead_letters_are_kept_once_kafka_has_them(kafka: MockKafka, topic: str) -> None:
    letters = DeadLetterTopic(kafka.url("source"), topic, {"message.timeout.ms": 1000})
    assert letters.is_kept()
    kafka.set_down(True)
    letters.add_all("audit/3@17", [DeadLetter(1, "not JSON", b"no event")])
    assert not letters.is_kept()
    kafka.set_down(False)
    while not letters.is_kept():
        pass
    letters.close()
    records = records_of(kafka, topic)
    assert {key for key, _ in records} == {"audit/3@17"}
    assert json.loads(records[0][1]) == {
        "source": "audit/3@17",
        "line": 1,
        "reason": "not JSON",
        "raw": "no event",
    }


def test_an_event_is_decoded_from_what_it_is_encoded_to(lines: list[bytes]) -> None:
    decoded = decode_lines(lines[:400])
    encoded = [encode_event(event) for event in decoded.events]
    assert decode_body(b"\n".join(encoded)).events == decoded.events
    values = values_of(b"\n" * 10_000, decoded, 9_000)
    assert b"\n".join(values) == b"\n".join(encoded)
    assert all(len(value) <= 9_000 or b"\n" not in value for value in values)
    assert len(values) > 10
