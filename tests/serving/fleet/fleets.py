"""Workers of the tests, and what their alerts are held against."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.events.decode import decode_lines
from serving.fleet.checkpoints import Checkpoints
from serving.fleet.cluster import ClusterFactory, FleetModel
from serving.fleet.partition import PartitionScorer, WorkerParts
from serving.fleet.process import work
from serving.fleet.records import LogRecord
from serving.fleet.state_files import open_state
from serving.fleet.status import ClusterStatus
from serving.fleet.worker import FleetWorker
from serving.rollout.loader import make_engine, sibling
from serving.scoring.dead_letters import BoundedDeadLetters
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from serving.telemetry.metrics import Metrics
from serving.telemetry.worker_metrics import WorkerMetrics

#: Alerts by their ID, without when they were stored.
Alerts = dict[str, dict[str, Any]]
_CLOCKS = {"raised_at", "updated_at", "raised", "updated"}
_PR_SET_PDEATHSIG = 1
#: Short, so that a dead worker is missed soon.
FAST = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 200}


def alerts_in(store: AlertStore) -> Alerts:
    """All alerts of a store, whole."""
    found = [store.get(one.id) for one in store.page(limit=1000).alerts]
    return {one.id: one.model_dump(mode="json", exclude=_CLOCKS) for one in found if one is not None}


def alerts_of(settings: Settings, cluster: str) -> Alerts:
    """The alerts of a cluster."""
    store = AlertStore.from_settings(settings.store, settings.store.of_cluster(cluster))
    try:
        return alerts_in(store)
    finally:
        store.close()


def engine_alone(shared: FleetModel, settings: Settings, store: AlertStore) -> Engine:
    """An engine that scores one cluster in no fleet."""
    return make_engine(
        settings,
        sibling(shared.loaded, settings),
        shared.explainer,
        store,
        outbox=None,
        authorization=None,
        rules=shared.rules,
        exceptions=dict,  # type: ignore[arg-type]
    )


def alerts_of_one_process(shared: FleetModel, lines: Sequence[bytes]) -> Alerts:
    """What one engine makes of a log."""
    store = AlertStore("sqlite://", retention_days=90, max_alerts=10_000)
    engine = engine_alone(shared, Settings(), store)
    events = decode_lines(lines).events
    for begin in range(0, len(events), 500):
        engine.score(events[begin : begin + 500])
    engine.flush()
    return alerts_in(store)


def figure(metrics: Metrics, name: str, **labels: str) -> float:
    """A figure as Prometheus sees it."""
    return metrics.registry.get_sample_value(name, labels or None) or 0.0


class RunningWorker:
    """A worker in a thread of this process."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._worker: FleetWorker | None = None

    def begun(self, worker: FleetWorker, _health: str) -> None:
        """Called when it begins."""
        self._worker = worker

    def partitions(self) -> frozenset[int]:
        """Those that it has now."""
        return frozenset() if self._worker is None else self._worker.partitions

    @property
    def metrics(self) -> Metrics:
        """Its figures."""
        assert self._worker is not None
        return self._worker.parts.metrics


@contextmanager
def running(settings: Settings, model: FleetModel) -> Iterator[RunningWorker]:
    """A worker that ends in order."""
    worker, failed = RunningWorker(), list[BaseException]()

    def run() -> None:
        try:
            work(settings, lambda: model, worker.stop, worker.begun)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop.set()
        thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


class ForkedWorker:
    """A worker in a process of its own, which shares the model."""

    def __init__(
        self, settings: Settings, model: FleetModel, prepare: Callable[[], None] = lambda: None
    ) -> None:
        self.process = os.fork()
        if self.process == 0:
            status = 1
            try:
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                _close_sockets()  # or what the broker closes would stay open
                prepare()
                stop = threading.Event()
                signal.signal(signal.SIGTERM, lambda *_: stop.set())
                work(settings, lambda: model, stop)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def kill(self) -> None:
        """End it as a crash does."""
        os.kill(self.process, signal.SIGKILL)
        _, status = os.waitpid(self.process, 0)
        assert os.WIFSIGNALED(status), f"it ended by itself: {status}"

    def stop(self) -> float:
        """End it in order; returns the processor's time that it took, seconds."""
        os.kill(self.process, signal.SIGTERM)
        _, status, used = os.wait4(self.process, 0)
        assert status == 0, status
        return used.ru_utime + used.ru_stime


def _close_sockets() -> None:
    for path in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):
            if stat.S_ISSOCK(path.stat().st_mode):
                os.close(int(path.name))


class LonePartition:
    """A partition without Kafka: records are given to it one after the other."""

    def __init__(
        self,
        home: Path,
        model: FleetModel,
        state: str | None = None,
        last: Mapping[str, ClusterStatus] | None = None,
        **settings: Any,
    ) -> None:
        self._last = last
        self.settings = Settings(worker={"state": state or str(home / "fleet")}, **settings)
        self.metrics = Metrics()
        self.letters = BoundedDeadLetters(home / "dead-letters.jsonl", 1 << 20)
        self.writers = ThreadPoolExecutor(1)
        self.factory = ClusterFactory(self.settings, model, self.metrics, self.letters, "tests")
        self._figures = WorkerMetrics(self.metrics.registry)
        self.files = open_state(self.settings.worker.state_url)
        self.scorer = self.started()

    def started(self) -> PartitionScorer:
        """The partition as a worker begins it; the one before is as dead."""
        parts = WorkerParts(
            self.settings, self.factory, self.metrics, self._figures, self.letters, self.writers
        )
        checkpoints = Checkpoints(self.files, "audit", 3)
        self.scorer = PartitionScorer(3, "audit", checkpoints, parts, self._last)
        self.scorer.begin()
        return self.scorer

    def score(self, lines: Sequence[bytes], first: int | None = None, key: bytes | None = b"prod") -> None:
        """Score the log from an offset on, by default from where it is."""
        offset = (self.scorer.position or 0) if first is None else first
        for number, line in enumerate(lines):
            self.scorer.append(LogRecord(offset + number, key, line))
        self.scorer.work()

    def clear(self) -> None:
        """Delete old checkpoints; returns when they are gone."""
        self.scorer.clear()
        self.writers.submit(lambda: None).result()

    def alerts(self) -> Alerts:
        """What the store has of `prod`."""
        return alerts_of(self.settings, "prod")
