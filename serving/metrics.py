"""What Prometheus sees at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.engine import Batch, ModelInfo

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one application; a registry of its own, so that several can live in one process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._events = Counter(
            "kubehabit_events",
            "Audit events received, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._flagged = Counter("kubehabit_flagged", "Actions that were unusual.", registry=registry)
        self._scoring = Histogram(
            "kubehabit_scoring_seconds",
            "Time to score one batch and make its alerts durable.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._alerts = Counter(
            "kubehabit_alerts",
            "Alerts raised, by their severity when they were raised.",
            ["severity"],
            registry=registry,
        )
        self._requests = Counter(
            "kubehabit_requests", "Answers, by route and status.", ["route", "status"], registry=registry
        )
        self._waiting = Gauge(
            "kubehabit_waiting_requests", "Batches waiting to be scored.", registry=registry
        )
        self._model = Gauge(
            "kubehabit_model",
            "1 for the model version that is served.",
            ["name", "version"],
            registry=registry,
        )
        self._ready = Gauge("kubehabit_ready", "1 when a model is served.", registry=registry)
        for outcome in ("scored", "folded", "rejected"):
            self._events.labels(
                outcome
            )  # a counter that is missing until it is not zero cannot be alerted on
        for severity in ("low", "medium", "high", "critical"):
            self._alerts.labels(severity)

    def batch(self, batch: Batch, rejected: int) -> None:
        """Count one scored batch."""
        scored = batch.count("scored")
        self._events.labels("scored").inc(scored)
        self._events.labels("folded").inc(len(batch.results) - scored)
        self._events.labels("rejected").inc(rejected)
        self._flagged.inc(sum(result.get("flagged", False) for result in batch.results))
        self._scoring.observe(batch.seconds)
        for alert in batch.raised:
            self._alerts.labels(alert.severity).inc()

    def request(self, route: str, status: int) -> None:
        """Count one answer."""
        self._requests.labels(route, str(status)).inc()

    def waiting(self, number: int) -> None:
        """Note how many batches wait."""
        self._waiting.set(number)

    def served(self, model: ModelInfo) -> None:
        """Note the model that is served from now on."""
        self._model.clear()
        self._model.labels(model.name, model.version).set(1)
        self._ready.set(1)

    def render(self) -> bytes:
        """Text in Prometheus' exposition format."""
        return generate_latest(self._registry)
