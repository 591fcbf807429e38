"""Workers of a fleet that are killed at random: what they make of a log is held against one process that was left alone."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from confluent_kafka import Consumer

from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.events.reader import open_lines
from serving.alerts.explain.explainer import Explainer
from serving.fleet.cluster import ClusterScorer, FleetModel
from serving.rollout.loader import open_model
from serving.scoring.rule_alerts import RuleFolders
from serving.scoring.verdicts import Batch
from serving.settings import Settings
from serving.storage.database import AlertStore
from serving.storage.tables import ALERT_EVENTS, MEMBERS
from tests.conftest import RECORDINGS
from tests.serving.fleet.fleets import Alerts, ForkedWorker, alerts_in, engine_alone
from tests.serving.fleet.mock_kafka import MockKafka, committed, wait_for_commit

_CLUSTERS = {1: "first", 2: "second"}
#: Each has a cluster when two workers share them.
_PARTITIONS = range(4)
_WORKERS = 2
#: Of all kills, those of all workers at once.
_BOTH = 0.2
#: Of all kills, those that come within a few seconds after the one before.
_SOON = 0.3
_MOST_SECONDS = 4.0
#: From one checkpoint to the next.
_CHECKPOINT_SECONDS = 0.7
#: Records that are not in a checkpoint yet; the mock cluster keeps no more than five megabytes.
_MOST_AHEAD = 20_000
_SLICE = 250
#: What is known of one event: status, surprise, evidence, severity.
Verdict = tuple[str, float, float, str]


@dataclass(slots=True)
class FleetRun:
    """What workers went through, and what was wrong at the end.

    Attributes:
        replayed: verdicts that were given more than once, after a kill.
        differing, lost, doubled: events whose verdicts differ from those of one process, or are missing; actions in two alerts.
    """

    events: int = 0
    kills: int = 0
    both: int = 0
    verdicts: int = 0
    replayed: int = 0
    alerts: int = 0
    differing: int = 0
    lost: int = 0
    doubled: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def campaign(folder: Path, bundle: Path, events: int, kills: int, seed: int) -> FleetRun:
    """Send a log to two clusters of a fleet whose workers are killed so often meanwhile; then look at everything."""
    os.environ["KUBEHABIT_HOME"] = str(folder / "home")
    settings = Settings()
    model = FleetModel(
        open_model(settings, bundle), Explainer.load(settings.explain_path), RuleFolders(settings.rules)
    )
    lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), events))
    alone = _alone(model, settings, lines)
    kafka = MockKafka()
    topic = kafka.topic()
    settings = Settings(
        worker={"source": kafka.url(topic), "port": 0, "group": "soak"},
        kafka={"properties": {"session.timeout.ms": 1500, "heartbeat.interval.ms": 200}},
        state={"snapshot_seconds": _CHECKPOINT_SECONDS},
        log={"level": "warning"},
    )
    began = time.monotonic()
    run = FleetRun(events=len(lines) * len(_CLUSTERS))
    _kill_again_and_again(kafka, topic, settings, model, lines, kills, random.Random(seed), run)
    for cluster in _CLUSTERS.values():
        _judge(folder / "home", settings, cluster, alone, run)
    run.seconds = round(time.monotonic() - began, 1)
    return run


def _kill_again_and_again(
    kafka: MockKafka,
    topic: str,
    settings: Settings,
    model: FleetModel,
    lines: Sequence[bytes],
    kills: int,
    chance: random.Random,
    run: FleetRun,
) -> None:
    observer, home = kafka.observer("soak"), Path(os.environ["KUBEHABIT_HOME"])
    home.mkdir()

    def start() -> ForkedWorker:
        return ForkedWorker(settings, model, lambda: _write_verdicts(home))

    workers = [start() for _ in range(_WORKERS)]
    sent = 0
    while sent < len(lines) or run.kills < kills:
        due = min(len(lines) * (run.kills + 1) // kills, len(lines))
        # Some are killed soon, while they start or take over; most after a part of what they were given since the last kill.
        soon = time.monotonic() + chance.random() * _MOST_SECONDS if chance.random() < _SOON else None
        done = _done(observer, topic)
        enough = chance.random() * (due - done)
        while sent < due or (
            _done(observer, topic) - done < enough if soon is None else time.monotonic() < soon
        ):
            if sent >= due or sent - _done(observer, topic) > _MOST_AHEAD:
                time.sleep(0.05)
                continue
            for number, cluster in _CLUSTERS.items():
                kafka.send(topic, number, cluster, lines[sent : sent + _SLICE])
            sent = min(sent + _SLICE, len(lines))
        time.sleep(chance.random() * _CHECKPOINT_SECONDS)
        victims = range(_WORKERS) if chance.random() < _BOTH else [chance.randrange(_WORKERS)]
        run.both += len(victims) > 1
        for number in victims:
            workers[number].kill()
            workers[number] = start()
            run.kills += 1
        print(f"{run.kills} kills, {sent} of {len(lines)} events sent", flush=True)
    for number in _CLUSTERS:
        wait_for_commit(observer, topic, number, len(lines), deadline=300)
    for worker in workers:
        worker.stop()


def _done(observer: Consumer, topic: str) -> int:
    """Records of each cluster that are in checkpoints."""
    return min(committed(observer, topic, number) for number in _CLUSTERS)


def _write_verdicts(home: Path) -> None:
    """Let this process write each verdict that it gives to a file of its own."""
    announce = ClusterScorer._announce
    out = (home / f"verdicts-{os.getpid()}-{time.time_ns()}.jsonl").open("ab")

    def announce_and_write(
        self: ClusterScorer, batch: Batch, events: Sequence[AuditEvent], repeated: int
    ) -> None:
        out.write(msgspec.json.encode([self.name, *_verdicts(batch, events)]) + b"\n")
        out.flush()
        announce(self, batch, events, repeated)

    ClusterScorer._announce = announce_and_write  # type: ignore[method-assign]


def _verdicts(batch: Batch, events: Sequence[AuditEvent]) -> Iterator[tuple[str, Verdict]]:
    for event, result in zip(events, batch.results, strict=True):
        verdict = (
            result["status"],
            result.get("surprise", 0.0),
            result.get("evidence", 0.0),
            result.get("severity", ""),
        )
        yield f"{event.auditID} {event.stage} {event.stageTimestamp}", verdict


@dataclass(frozen=True, slots=True)
class Alone:
    """What one process makes of the log."""

    verdicts: dict[str, Verdict]
    alerts: Alerts
    incidents: list[list[str]]


def _alone(model: FleetModel, settings: Settings, lines: Sequence[bytes]) -> Alone:
    store = AlertStore("sqlite://", retention_days=36_500, max_alerts=100_000)
    engine = engine_alone(model, settings, store)
    events, verdicts = decode_lines(lines).events, dict[str, Verdict]()
    for begin in range(0, len(events), 500):
        part = events[begin : begin + 500]
        verdicts.update(_verdicts(engine.score(part), part))
    engine.flush()
    return Alone(verdicts, alerts_in(store), _incidents(store))


def _incidents(store: AlertStore) -> list[list[str]]:
    with store.reading() as connection:
        members = connection.execute(sa.select(MEMBERS.c.alert, MEMBERS.c.incident)).all()
    joined: dict[str, list[str]] = {}
    for alert, incident in members:
        joined.setdefault(incident, []).append(alert)
    return sorted(sorted(alerts) for alerts in joined.values())


def _given(home: Path, cluster: str) -> Iterator[tuple[str, Verdict]]:
    """All verdicts that were written; a line that a kill cut off was not."""
    for path in home.glob("verdicts-*.jsonl"):
        for line in path.read_bytes().splitlines():
            with suppress(json.JSONDecodeError):
                name, *verdicts = json.loads(line)
                if name == cluster:
                    yield from ((key, tuple(verdict)) for key, verdict in verdicts)  # type: ignore[misc]


def _judge(home: Path, settings: Settings, cluster: str, alone: Alone, run: FleetRun) -> None:
    seen, differing = Counter[str](), set[str]()
    for key, verdict in _given(home, cluster):
        seen[key] += 1
        if alone.verdicts.get(key) != verdict:
            differing.add(f"{key}: {verdict} for {alone.verdicts.get(key)}")
    lost = alone.verdicts.keys() - seen.keys()
    run.verdicts += len(seen)
    run.replayed += seen.total() - len(seen)
    run.differing += len(differing)
    run.lost += len(lost)
    store = AlertStore.from_settings(settings.store, settings.store.of_cluster(cluster))
    found, incidents = alerts_in(store), _incidents(store)
    with store.reading() as connection:
        events = ALERT_EVENTS.c
        keys = Counter(connection.execute(sa.select(events.audit_id, events.time)).tuples())
    store.close()
    run.alerts += len(found)
    run.doubled += sum(count - 1 for count in keys.values())
    run.problems += [f"{cluster}: {one}" for one in sorted(differing)[:5] + sorted(lost)[:5]]
    run.problems += [f"{cluster}: alerts {one}" for one in _differences(alone.alerts, found)]
    if incidents != alone.incidents:
        run.problems.append(f"{cluster}: other incidents: {incidents} for {alone.incidents}")


def _differences(expected: Alerts, found: Alerts) -> list[str]:
    differing = [
        f"{name}: {key} {found[name][key]} for {expected[name][key]}"
        for name in expected.keys() & found.keys()
        for key in expected[name]
        if expected[name][key] != found[name][key]
    ]
    return [f"lost {name}" for name in expected.keys() - found.keys()] + [
        *(f"more {name}" for name in found.keys() - expected.keys()),
        *differing[:5],
    ]


def sharing(folder: Path, bundle: Path, events: int) -> dict[str, float]:
    """What four clusters cost one worker and two of them, start and checkpoints included, and how quickly they are scored.

    Returns:
        Milliseconds of processor time an event and events a second by the clock, each the better of two runs, and the ratios of
        two workers to one. The rate is that from the moment when all partitions are under way; it says something where two
        cores are free.
    """
    os.environ["KUBEHABIT_HOME"] = str(folder / "home")
    settings = Settings()
    model = FleetModel(
        open_model(settings, bundle), Explainer.load(settings.explain_path), RuleFolders(settings.rules)
    )
    lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), events))
    kafka, cost, rate = MockKafka(), dict[int, float](), dict[int, float]()
    for workers in (1, 2, 1, 2):
        topic = kafka.topic()
        for number in _PARTITIONS:
            kafka.send(topic, number, f"cluster-{number}", lines)
        os.environ["KUBEHABIT_HOME"] = str(folder / topic)
        settings = Settings(
            worker={"source": kafka.url(topic), "port": 0, "group": topic},
            state={"snapshot_seconds": 2},
            log={"level": "warning"},
        )
        running = [ForkedWorker(settings, model) for _ in range(workers)]
        observer = kafka.observer(topic)
        for number in _PARTITIONS:
            wait_for_commit(observer, topic, number, 1, deadline=900)
        began, before = time.monotonic(), sum(committed(observer, topic, number) for number in _PARTITIONS)
        for number in _PARTITIONS:
            wait_for_commit(observer, topic, number, len(lines), deadline=900)
        total = len(lines) * len(_PARTITIONS)
        quick = (total - before) / (time.monotonic() - began)
        each = 1000 * sum(worker.stop() for worker in running) / total
        cost[workers] = min(each, cost.get(workers, each))
        rate[workers] = max(quick, rate.get(workers, quick))
        print(f"{workers} at work: {each:.4f} ms an event, {quick:,.0f} events a second", flush=True)
    return {
        "ms an event, 1 worker": cost[1],
        "ms an event, 2 workers": cost[2],
        "cost ratio": cost[2] / cost[1],
        "events a second, 1 worker": rate[1],
        "events a second, 2 workers": rate[2],
        "rate ratio": rate[2] / rate[1],
    }


def to_dict(run: FleetRun) -> dict[str, Any]:
    """JSON form."""
    return asdict(run)
