"""What Prometheus sees at /metrics."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from data.events.audit_event import AuditEvent
from data.timestamps import are_usual, is_time, parse_times
from serving.schemas import SEVERITIES, Alert
from serving.telemetry.ingest_health import IngestHealth
from serving.telemetry.model_metrics import CountedActions, DescribedModel, ModelMetrics, begin_at_zero

if TYPE_CHECKING:
    from detection.detector import Figures

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAGS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_STREAM = "/v1/alerts/stream"


class ComparedFigures(Protocol):
    """What comparing events with roles and bindings came to (`serving.authorization.monitor.MonitorFigures`)."""

    outcomes: Counts[str]
    withheld: Counts[str]
    changes: int
    unknown_changes: int


class ScoredBatch(Protocol):
    """What is counted of a batch (`serving.scoring.verdicts.Batch`)."""

    events: int
    scored: int
    flagged: Mapping[str, int]
    raised: list[Alert]
    seconds: float
    dropped: int

    @property
    def counts(self) -> CountedActions:
        """What is counted of its actions besides."""

    @property
    def refused(self) -> Sequence[object]:
        """Unusual actions that are in no alert."""


class Metrics:
    """Counters of one application; a registry of its own, so that several can live in one process.

    `registry` has all of them, `life` those of the model while it is served. What sets or counts a single figure is that
    figure's own method.
    """

    def __init__(self, figures: Callable[[], Figures | None] = lambda: None) -> None:
        registry = self.registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._events = counter("kubehabit_events", "Records received, by what became of them.", ["outcome"])
        self._skipped = counter(
            "kubehabit_skipped_records",
            "Records of other logs in the same stream, by what they are.",
            ["reason"],
        )
        self._flagged = counter("kubehabit_flagged", "Actions that were unusual.", ["severity"])
        self._lag = histogram(
            "kubehabit_event_lag_seconds",
            "From the time the API server gave the oldest event of a batch to its verdict.",
            buckets=_LAGS,
        )
        self._newest = gauge(
            "kubehabit_newest_event_seconds",
            "Time that the API server gave the newest event so far, since 1970.",
        )
        self._newest_time = 0.0
        #: The same figures as sums of the last minutes, for people.
        self.ingest = IngestHealth()
        self._scoring = histogram(
            "kubehabit_scoring_seconds",
            "Time to score one batch and make its alerts durable.",
            buckets=_SECONDS,
        )
        self._alerts = counter(
            "kubehabit_alerts", "Alerts raised, by their severity when they were raised.", ["severity"]
        )
        self._refused = counter(
            "kubehabit_actions_in_no_alert", "Unusual actions that the alert store rejected."
        )
        self._not_scored = counter(
            "kubehabit_events_not_scored", "Events that made scoring fail; they are in the dead-letter file."
        )
        self._requests = counter("kubehabit_requests", "Answers, by route and status.", ["route", "status"])
        self._answering = histogram(
            "kubehabit_request_seconds", "Time to answer a request, by route.", ["route"], buckets=_SECONDS
        )
        self.waiting = gauge("kubehabit_waiting_requests", "Batches waiting to be scored.").set
        self._model = gauge("kubehabit_model", "1 for the model version that is served.", ["name", "version"])
        self._loaded = gauge("kubehabit_model_loaded_seconds", "When that version was loaded, since 1970.")
        self.life = ModelMetrics(registry)
        self._ready = gauge("kubehabit_ready", "1 when a model is served.")
        self._sinks = counter(
            "kubehabit_sink_alerts", "Attempts to send an alert, by what became of them.", ["sink", "outcome"]
        )
        self._dropped = counter(
            "kubehabit_sink_dropped",
            "Alerts dropped because too many waited, by severity.",
            ["sink", "severity"],
        )
        self.streams = gauge("kubehabit_streams", "Callers that follow the stream of alerts.").set
        self._store_errors = counter(
            "kubehabit_store_errors", "Reads and writes that the alert store refused.", ["operation"]
        )
        self._access_files = gauge(
            "kubehabit_access_file_refused",
            "1 while a changed file (tokens, tls) cannot be used and the one before it still is.",
            ["file"],
        )
        self.access_line_lost = counter(
            "kubehabit_access_log_lost", "Lines of the access log that could not be written."
        ).inc
        self.connection_closed = counter(
            "kubehabit_connections_closed", "Connections closed or refused because all places were taken."
        ).inc
        begin_at_zero(self._events, "scored", "folded", "repeated", "skipped")
        self.rejected = self._events.labels("rejected").inc
        begin_at_zero(self._alerts, *SEVERITIES[1:])
        begin_at_zero(self._flagged, *SEVERITIES[1:])
        begin_at_zero(self._store_errors, "read", "write")
        ProcessCollector(registry=registry)
        registry.register(_OnScrape(lambda: _memory(figures())))

    def intake(
        self,
        backlog: Callable[[], tuple[int, float]],
        journal_bytes: Callable[[], int],
        journal_max_bytes: int,
    ) -> None:
        """Export the journal's size and what waits to be scored: batches, and since when the first waits (seconds)."""
        gauge = partial(Gauge, registry=self.registry)
        gauge("kubehabit_backlog_batches", "Durable batches that are not scored yet.").set_function(
            lambda: backlog()[0]
        )
        gauge("kubehabit_backlog_seconds", "How long the first of them waits.").set_function(
            lambda: backlog()[1]
        )
        gauge("kubehabit_journal_bytes", "What the journal takes.").set_function(journal_bytes)
        gauge("kubehabit_journal_max_bytes", "What it may take before batches are refused.").set(
            journal_max_bytes
        )

    def not_scored(self) -> None:
        """Count an event that made scoring fail."""
        self._not_scored.inc()
        self.rejected(1)

    def skipped(self, reasons: Mapping[str, int]) -> None:
        """Count records that were left out on purpose."""
        for reason, records in reasons.items():
            self._skipped.labels(reason).inc(records)
            self._events.labels("skipped").inc(records)

    def quarantine(self, number: Callable[[], int]) -> None:
        """Export how many batches are set aside because they ended the process."""
        text = "Batches set aside, unscored, because they ended the process twice."
        Gauge("kubehabit_quarantined_batches", text, registry=self.registry).set_function(number)

    def authorization(self, figures: Callable[[], ComparedFigures]) -> None:
        """Export what comparing events with roles and bindings came to."""
        self.registry.register(_OnScrape(lambda: _compared(figures())))

    def alert_store(self, suspended: Callable[[], bool], dropped: Callable[[], Mapping[str, int]]) -> None:
        """Export whether retention by age is suspended, and alerts dropped because there were too many, by severity."""
        self.registry.register(_OnScrape(lambda: _bounds(suspended(), dropped())))

    def rules(self, figures: Callable[[], Sequence[Mapping[str, Any]]], broken: Callable[[], int]) -> None:
        """Export what each rule did (`serving.scoring.rule_alerts.RuleAlerts.figures`) and how many files cannot be used."""
        self.registry.register(_OnScrape(lambda: _rules(figures(), broken())))

    def event_store(
        self, behind: Callable[[], int], usable: Callable[[], bool], set_aside: Callable[[], int]
    ) -> None:
        """Export how far the event store is behind the scoring, and whether it needs an operator."""
        for name, help_, value in (
            (
                "kubehabit_event_store_behind_batches",
                "Batches that are scored and not in the event store yet.",
                behind,
            ),
            (
                "kubehabit_event_store_usable",
                "1 if the event store is open, 0 if it is damaged or cannot be opened.",
                usable,
            ),
            (
                "kubehabit_event_store_set_aside_files",
                "Files of the event store that its ledger does not account for.",
                set_aside,
            ),
        ):
            Gauge(name, help_, registry=self.registry).set_function(value)

    def batch(
        self,
        *,
        scored: int,
        counts: CountedActions,
        folded: int,
        repeated: int,
        refused: int,
        flagged: Mapping[str, int],
        raised: Iterable[str],
        seconds: float,
    ) -> None:
        """Count a scored batch.

        Its events by what became of them, its actions, unusual actions that the alert store `refused`, those `flagged` by
        severity, the severity of each alert `raised`, and the time it took.
        """
        for outcome, events in (("scored", scored), ("folded", folded), ("repeated", repeated)):
            self._events.labels(outcome).inc(events)
        self.life.scored(scored, counts)
        self.ingest.judged(scored + folded + repeated)
        for severity, number in flagged.items():
            self._flagged.labels(severity).inc(number)
        for severity in raised:
            self._alerts.labels(severity).inc()
        self._refused.inc(refused)
        self._scoring.observe(seconds)

    def scored(self, batch: ScoredBatch, events: Sequence[AuditEvent], repeated: int) -> float | None:
        """Count a scored batch: its new events, and how many more were sent before.

        Returns:
            The API server's time of the newest of them, seconds since 1970; None if there is none.
        """
        self.batch(
            scored=batch.scored,
            counts=batch.counts,
            folded=batch.events - batch.scored,
            repeated=repeated,
            refused=len(batch.refused) + batch.dropped,
            flagged=batch.flagged,
            raised=[alert.severity for alert in batch.raised],
            seconds=batch.seconds,
        )
        return self.lag(events)

    def lag(self, events: Sequence[AuditEvent]) -> float | None:
        """Observe how long the events of a batch, just scored, took to arrive; returns as `scored`."""
        if not events:
            return None
        # API servers write them all in one form and in UTC, so they can be compared as they are.
        written = [event.stageTimestamp or event.requestReceivedTimestamp for event in events]
        if not are_usual(written):  # one of the two times of an event may be anything
            written = [time for time in written if is_time(time)]
            if not written:
                return None
        oldest, newest = (parse_times([min(written), max(written)]) / 1e6).tolist()
        lag = max(0.0, time.time() - oldest)
        self._lag.observe(lag)
        self.ingest.arrived(lag, newest)
        self._newest_time = max(self._newest_time, newest)
        self._newest.set(self._newest_time)
        return float(newest)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one answer and the time it took."""
        self._requests.labels(route, str(status)).inc()
        if route != _STREAM:  # which lasts as long as its client
            self._answering.labels(route).observe(seconds)

    def served(self, model: DescribedModel) -> None:
        """Note the model that is served from now on."""
        self._model.clear()
        self._model.labels(model.name, model.version).set(1)
        self._loaded.set(model.loaded.timestamp())
        self.life.champion(model)
        self._ready.set(1)

    def sinks(self, names: Iterable[str], depths: Callable[[], Mapping[str, tuple[int, float]]]) -> None:
        """Export what waits for each sink: entries, and seconds since the oldest was due; empty while it cannot be read."""
        sinks = list(names)
        begin_at_zero(self._sinks, *product(sinks, ("sent", "failed", "refused", "dropped")))
        begin_at_zero(self._dropped, *product(sinks, SEVERITIES[1:]))
        self.registry.register(_OnScrape(lambda: _outbox(depths())))

    def sink(self, name: str, outcome: str) -> None:
        """Count one attempt to send an alert."""
        self._sinks.labels(name, outcome).inc()

    def sink_dropped(self, name: str, severity: str, alerts: int) -> None:
        """Count alerts that were dropped because too many waited."""
        self._sinks.labels(name, "dropped").inc(alerts)
        self._dropped.labels(name, severity).inc(alerts)

    def store_error(self, operation: str) -> None:
        """Count a read or write that the store refused."""
        self._store_errors.labels(operation).inc()

    def access_file(self, name: str, refused: bool) -> None:
        """Note whether a changed file of tokens or certificates can be used."""
        self._access_files.labels(name).set(refused)

    def render(self) -> bytes:
        """Text in Prometheus' exposition format."""
        return generate_latest(self.registry)


class _OnScrape(Collector):
    """Figures that are read on each scrape; their names are known only then."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The figures now."""
        return self._read()


def _memory(held: Figures | None) -> Iterator[Metric]:
    """What the detector holds; nothing while there is none."""
    if held is None:
        return
    yield GaugeMetricFamily(
        "kubehabit_principals", "Principals whose last actions are in memory.", value=held.principals
    )
    yield GaugeMetricFamily(
        "kubehabit_habits", "Counts of what was done before that are in memory.", value=held.habits
    )
    yield GaugeMetricFamily("kubehabit_state_bytes", "Memory that both take.", value=held.state_bytes)
    yield CounterMetricFamily(
        "kubehabit_cached_windows",
        "Windows whose reconstruction error was in the cache.",
        value=held.cached_windows,
    )
    yield CounterMetricFamily(
        "kubehabit_computed_windows", "Windows that went through the model.", value=held.computed_windows
    )


def _compared(figures: ComparedFigures) -> Iterator[Metric]:
    """Requests compared with roles and bindings; the changes that were followed."""
    for name, text, label, counts in (
        (
            "kubehabit_authorization_requests",
            "Finished requests compared with roles and bindings, by what that came to.",
            "outcome",
            figures.outcomes,
        ),
        (
            "kubehabit_authorization_withheld",
            "Contradictions that were counted and not raised, by reason.",
            "reason",
            figures.withheld,
        ),
    ):
        family = CounterMetricFamily(name, text, labels=[label])
        for value, number in sorted(counts.items()):
            family.add_metric([value], number)
        yield family
    yield CounterMetricFamily(
        "kubehabit_authorization_changes",
        "Changes of roles and bindings in the log that were followed.",
        value=figures.changes,
    )
    yield CounterMetricFamily(
        "kubehabit_authorization_unknown_changes",
        "Those of them whose content the log did not have: what they give is unknown since.",
        value=figures.unknown_changes,
    )


def _outbox(depths: Mapping[str, tuple[int, float]]) -> Iterator[Metric]:
    """What waits for each sink; nothing while the store cannot be read, rather than no metrics at all."""
    if not depths:
        return
    entries = GaugeMetricFamily("kubehabit_sink_outbox", "Alerts that wait to be sent.", labels=["sink"])
    oldest = GaugeMetricFamily(
        "kubehabit_sink_oldest_seconds", "How long the oldest of them waits.", labels=["sink"]
    )
    for name, (waiting, seconds) in depths.items():
        entries.add_metric([name], waiting)
        oldest.add_metric([name], seconds)
    yield from (entries, oldest)


def _bounds(suspended: bool, dropped: Mapping[str, int]) -> Iterator[Metric]:
    """Bounds of the alert store."""
    yield GaugeMetricFamily(
        "kubehabit_retention_suspended",
        "1 while the host's clock is implausibly far ahead, so that nothing is deleted by age.",
        value=suspended,
    )
    counts = CounterMetricFamily(
        "kubehabit_alerts_dropped", "Alerts deleted because there were too many.", labels=["severity"]
    )
    for severity in ("low", "medium", "high", "critical"):
        counts.add_metric([severity], dropped.get(severity, 0))
    yield counts


def _rules(figures: Sequence[Mapping[str, Any]], broken: int) -> Iterator[Metric]:
    """What rules did. There are as many labels as rules, whose number is bounded, whatever a log holds."""
    yield GaugeMetricFamily("kubehabit_rules_broken", "Rule files that cannot be used.", value=broken)
    hits = CounterMetricFamily(
        "kubehabit_rule_hits", "Hits of rules, by what became of them.", labels=["rule", "outcome"]
    )
    seconds = CounterMetricFamily(
        "kubehabit_rule_seconds", "Time that the expressions of rules took.", labels=["rule"]
    )
    errors = CounterMetricFamily(
        "kubehabit_rule_errors", "Evaluations of rules that failed.", labels=["rule"]
    )
    for one in figures:
        for outcome, number in one["hits"].items():
            hits.add_metric([one["name"], outcome.replace(" ", "_")], number)
        seconds.add_metric([one["name"]], one["seconds"])
        errors.add_metric([one["name"]], one["errors"])
    yield from (hits, seconds, errors)
