"""The process of a worker: settings, signals, health, and the worker itself."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from data.errors import KubehabitError
from serving.alerts.explain.explainer import Explainer
from serving.fleet.champion import Champion
from serving.fleet.cluster import ClusterFactory, FleetModel
from serving.fleet.dead_letter_topic import DeadLetterTopic
from serving.fleet.health import HealthServer
from serving.fleet.partition import WorkerParts
from serving.fleet.state_files import open_state
from serving.fleet.worker import FleetWorker, writers
from serving.process import resources as process
from serving.process.worker import Worker
from serving.registry.client import stop_client
from serving.rollout.loader import open_model
from serving.scoring.dead_letters import BoundedDeadLetters
from serving.scoring.rule_alerts import RuleFolders
from serving.settings import Settings, is_loopback, load_settings
from serving.telemetry.logging import configure
from serving.telemetry.metrics import Metrics
from serving.telemetry.worker_metrics import WorkerMetrics

_log = logging.getLogger("kubehabit.fleet")
_TRIM_SECONDS = 30.0


def run_worker(settings_path: Path | None = None, model: Path | None = None) -> None:
    """Work until SIGINT or SIGTERM: then the batch at hand is finished, a last checkpoint written, and the group left.

    Args:
        settings_path: YAML file; the shipped one when None.
        model: folder of a bundle, in place of the registered champion.

    Raises:
        KubehabitError: bad settings, no model, or Kafka or the store of the checkpoints refuses this worker.
    """
    settings = load_settings(settings_path)
    check_worker(settings)
    configure(settings.log)
    stop = threading.Event()
    with _stopping(stop):
        work(settings, partial(_load, settings, model), stop, _announce)


def _load(settings: Settings, model: Path | None) -> FleetModel:
    try:
        loaded = open_model(settings, model)
    finally:
        stop_client()
    return FleetModel(loaded, Explainer.load(settings.explain_path), RuleFolders(settings.rules))


def check_worker(settings: Settings) -> None:
    """Refuse settings with which workers would lose something or show it to anybody; raises KubehabitError."""
    settings.store.of_cluster("any")
    host = settings.worker.host
    if not is_loopback(host) and settings.token is None:
        raise KubehabitError(
            f"Refusing to show figures on {host!r} without a token: set KUBEHABIT_TOKEN (16 characters or more) for the scraper, "
            "or listen on 127.0.0.1 (worker.host)."
        )
    shared = "://" in settings.worker.state_url
    if shared and settings.store.of_cluster("any").startswith("sqlite"):
        _log.warning(
            "Alerts are kept in SQLite on this machine, while others may go on with a cluster: name PostgreSQL as store.url."
        )


def work(
    settings: Settings,
    load: Callable[[], FleetModel],
    stop: threading.Event,
    begun: Callable[[FleetWorker, str], None] = lambda _worker, _health: None,
) -> None:
    """Load the model and work until `stop` is set.

    Args:
        begun: called with the worker and the address of the health server when work begins.

    Raises:
        KubehabitError: as `run_worker`.
    """
    worker: FleetWorker | None = None
    metrics = Metrics()
    with ExitStack() as open_parts:
        health = HealthServer(
            settings.worker.host,
            settings.worker.port,
            None if settings.token is None else settings.token.get_secret_value(),
            lambda: worker is None or worker.is_alive,
            lambda: "The model is being loaded." if worker is None else worker.why_not_ready,
            metrics.render,
        )
        open_parts.callback(health.close)
        letters = _dead_letters(settings)
        open_parts.callback(letters.close)
        model = load()
        metrics.served(model.loaded.model)
        threads = open_parts.enter_context(writers())
        parts = WorkerParts(
            settings,
            ClusterFactory(settings, model, metrics, letters, uuid.uuid4().hex),
            metrics,
            WorkerMetrics(metrics.registry),
            letters,
            threads,
        )
        champion = Champion(settings, model, metrics)
        worker = FleetWorker(parts, open_state(settings.worker.state_url), champion)
        champion.start()
        open_parts.callback(champion.close)
        trimmer = Worker("memory", process.trim_heap, seconds=_TRIM_SECONDS)
        trimmer.start()
        open_parts.callback(trimmer.close)
        process.freeze_gc()
        begun(worker, f"http://{settings.worker.host}:{health.port}")
        worker.run(stop)


def _dead_letters(settings: Settings) -> BoundedDeadLetters | DeadLetterTopic:
    worker, file = settings.worker, settings.dead_letters
    if worker.dead_letters is None or worker.source is None:
        return BoundedDeadLetters(file.resolved_path, int(file.max_mb * (1 << 20)))
    return DeadLetterTopic(worker.source, worker.dead_letters, settings.kafka.properties)


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Set an event on SIGINT and SIGTERM."""

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(worker: FleetWorker, health: str) -> None:
    model = worker.parts.clusters.model.loaded.model
    if model.notice:
        _log.warning(model.notice)
    print(
        f"kubehabit worker scores with {model.name} version {model.version}  (health: {health}/healthz, {health}/metrics)",
        file=sys.stderr,
        flush=True,
    )
