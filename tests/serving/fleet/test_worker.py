"""Workers of one group on a Kafka that speaks the real protocol: rebalances, deaths, and what is seen of them."""

from __future__ import annotations

import threading
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest

from data.errors import KubehabitError
from serving.fleet.cluster import FleetModel
from serving.fleet.health import HealthServer
from serving.fleet.kafka import KafkaError, make_consumer, make_producer
from serving.fleet.process import check_worker
from serving.fleet.worker import FleetWorker
from serving.settings import Settings
from tests.serving.fleet.fleets import FAST, Alerts, ForkedWorker, alerts_of, figure, running
from tests.serving.fleet.mock_kafka import MockKafka, committed, wait_for_commit


def settings_of(kafka: MockKafka, topic: str, **more: object) -> Settings:
    return Settings(
        worker={"source": kafka.url(topic), "port": 0, "group": topic},
        kafka={"properties": dict(FAST)},
        state={"snapshot_seconds": 0.3},
        **more,
    )


def test_partitions_move_between_workers_with_what_is_known_of_their_clusters(
    kafka: MockKafka, model: FleetModel, lines: list[bytes], expected: Alerts
) -> None:
    topic = kafka.topic()
    settings, observer = settings_of(kafka, topic), kafka.observer(topic)
    homes = {0: "prod", 1: "test"}
    half = len(lines) // 2

    def send(part: list[bytes]) -> None:
        for partition, cluster in homes.items():
            kafka.send(topic, partition, cluster, part)

    def wait(offset: int) -> None:
        for partition in homes:
            wait_for_commit(observer, topic, partition, offset)

    send(lines[:half])
    with running(settings, model) as first:
        wait(half)
        with running(settings, model) as second:
            until = time.monotonic() + 30
            while not second.partitions() and time.monotonic() < until:
                time.sleep(0.05)
            assert second.partitions() | first.partitions() == {0, 1, 2, 3}
            assert not second.partitions() & first.partitions()
            send(lines[half:])
            wait(len(lines))
        while len(first.partitions()) < 4:
            time.sleep(0.05)
        assert figure(first.metrics, "kubehabit_worker_rebalances_total", change="lost") == 0
        assert figure(first.metrics, "kubehabit_worker_rebalances_total", change="revoked") >= 2
        for number in homes:
            assert figure(first.metrics, "kubehabit_worker_lag_records", partition=str(number)) == 0
    for cluster in homes.values():
        assert alerts_of(settings, cluster) == expected


def test_a_partition_whose_fetching_has_stopped_begins_again(
    kafka: MockKafka, model: FleetModel, lines: list[bytes], expected: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka.topic()
    settings, observer = settings_of(kafka, topic), kafka.observer(topic)
    monkeypatch.setattr("serving.fleet.worker._SILENT_SECONDS", 0.3)
    stopped, renew = threading.Event(), FleetWorker._renew

    def stop_fetching(worker: FleetWorker) -> None:
        if not stopped.is_set() and 0 in worker.partitions:
            worker._consumer.pause([worker._place(topic, 0)])
            stopped.set()
        renew(worker)

    half = len(lines) // 2
    kafka.send(topic, 0, "prod", lines[:half])
    with running(settings, model):
        wait_for_commit(observer, topic, 0, half)
        monkeypatch.setattr(FleetWorker, "_renew", stop_fetching)
        assert stopped.wait(10)
        kafka.send(topic, 0, "prod", lines[half:])
        wait_for_commit(observer, topic, 0, len(lines))
    assert alerts_of(settings, "prod") == expected


def test_a_checkpoint_that_kafka_has_not_heard_of_is_committed_by_the_next_worker(
    kafka: MockKafka, model: FleetModel, lines: list[bytes], own_home: Path
) -> None:
    """Or the lag that is shown, and scaled on, would stay until more records come."""
    topic = kafka.topic()
    settings, observer = settings_of(kafka, topic), kafka.observer(topic)
    kafka.send(topic, 0, "prod", lines[:300])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            FleetWorker, "_commit", lambda _worker, partition: setattr(partition, "committable", None)
        )
        with running(settings, model):
            until = time.monotonic() + 30
            while not list(own_home.glob("fleet/*/00000/*300.json")) and time.monotonic() < until:
                time.sleep(0.05)
    assert committed(observer, topic, 0) == 0
    with running(settings, model):
        wait_for_commit(observer, topic, 0, 300)


@pytest.mark.slow
def test_workers_that_are_killed_at_random_lose_nothing_and_double_nothing(
    kafka: MockKafka, model: FleetModel, lines: list[bytes], expected: Alerts
) -> None:
    """`python -m tests.soak fleet` does this for longer."""
    topic = kafka.topic()
    settings, observer = settings_of(kafka, topic), kafka.observer(topic)
    settings.kafka.properties["session.timeout.ms"] = 1500
    third = len(lines) // 3
    for kill in range(3):
        kafka.send(topic, 2, "prod", lines[kill * third : (kill + 1) * third])
        # The first two are killed in the middle of it, before or after a checkpoint.
        worker = ForkedWorker(settings, model)
        if kill < 2:
            time.sleep(0.8 + 0.5 * kill)
            worker.kill()
        else:
            wait_for_commit(observer, topic, 2, len(lines))
            worker.stop()
    assert alerts_of(settings, "prod") == expected


def test_a_worker_answers_whether_it_lives_and_scores_and_shows_its_figures_to_who_may_see_them() -> None:
    alive, reason = [True], [""]
    server = HealthServer(
        "127.0.0.1", 0, "a-token-of-the-scraper", lambda: alive[0], lambda: reason[0], lambda: b"figures"
    )

    def get(path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    try:
        assert get("/healthz") == (200, b"ok\n")
        assert get("/readyz") == (200, b"ok\n")
        alive[0], reason[0] = False, "The alert store cannot be written."
        assert get("/healthz")[0] == 503
        assert get("/readyz") == (503, b"The alert store cannot be written.\n")
        assert get("/metrics")[0] == 401
        assert get("/metrics", Authorization="Bearer wrong")[0] == 401
        assert get("/metrics", Authorization="Bearer a-token-of-the-scraper") == (200, b"figures")
        assert get("/other")[0] == 404
    finally:
        server.close()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"worker": {"host": "0.0.0.0"}}, "without a token: set KUBEHABIT_TOKEN"),
        ({"store": {"url": "postgresql://db/alerts"}}, "store.url must say where {cluster} stands"),
    ],
)
def test_settings_with_which_workers_would_lose_or_show_something_are_refused(
    given: dict[str, object], sentence: str
) -> None:
    with pytest.raises(KubehabitError, match=sentence.replace("{", r"\{")):
        check_worker(Settings(**given))


@pytest.mark.parametrize(
    "url", ["kafka:9092/topic", "kafka://broker", "kafka://user@broker/t", "kafka:///t", "kafka://b/a b"]
)
def test_a_url_that_names_no_broker_and_topic_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="give brokers and topic as kafka://"):
        Settings(worker={"source": url})


def test_properties_that_would_change_what_is_kept_are_refused_and_wrong_ones_named() -> None:
    with pytest.raises(KafkaError, match=r"may not set enable\.auto\.commit"):
        make_consumer("kafka://127.0.0.1:1/t", "g", "earliest", {"enable.auto.commit": True})
    with pytest.raises(KafkaError, match="may not set acks"):
        make_producer("kafka://127.0.0.1:1/t", {"acks": 1})
    with pytest.raises(KafkaError, match=r"no\.such\.property"):
        make_producer("kafka://127.0.0.1:1/t", {"no.such.property": 1})


def test_a_worker_without_a_topic_says_so(own_home: Path, model: FleetModel) -> None:
    with (
        pytest.raises(KafkaError, match=r"Name the topic to score: worker\.source"),
        running(Settings(worker={"port": 0}), model),
    ):
        threading.Event().wait(1)
