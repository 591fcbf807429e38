"""What Prometheus sees of a worker of a fleet, beside what a service shows."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class WorkerMetrics:
    """Figures of each partition that a worker has, and of what moves them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self._records = counter("kubehabit_worker_records", "Records that were scored.", ["partition"])
        self._lag = gauge(
            "kubehabit_worker_lag_records",
            "Records of a partition that this worker has not scored yet.",
            ["partition"],
        )
        self._paused = gauge(
            "kubehabit_worker_paused", "1 while a partition waits for the alert store.", ["partition"]
        )
        self._clusters = gauge("kubehabit_worker_clusters", "Clusters in memory.", ["partition"])
        self._restores = counter(
            "kubehabit_worker_restores", "Clusters whose state was loaded from a snapshot.", ["partition"]
        )
        self._lost = counter(
            "kubehabit_worker_lost_records",
            "Records that Kafka deleted before they were scored: its retention is too short.",
            ["partition"],
        )
        self._rebalances = counter(
            "kubehabit_worker_rebalances", "Partitions that came and went.", ["change"]
        )
        self._checkpoints = counter("kubehabit_worker_checkpoints", "Checkpoints by outcome.", ["outcome"])
        self._writing = Histogram(
            "kubehabit_worker_checkpoint_seconds",
            "Time to write a checkpoint.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._bytes = counter("kubehabit_worker_checkpoint_bytes", "Bytes of snapshots that were written.")
        self._set_aside = counter(
            "kubehabit_worker_set_aside_records", "Records that are not scored because that ends the process."
        )
        for change in ("assigned", "revoked", "lost"):
            self._rebalances.labels(change)
        for outcome in ("written", "failed", "postponed"):
            self._checkpoints.labels(outcome)

    def scored(self, partition: int, records: int) -> None:
        """Count scored records."""
        self._records.labels(str(partition)).inc(records)

    def state(self, partition: int, *, lag: int | None, paused: bool, clusters: int) -> None:
        """Show how a partition is; the lag stays as it was if it is not known."""
        name = str(partition)
        if lag is not None:
            self._lag.labels(name).set(lag)
        self._paused.labels(name).set(paused)
        self._clusters.labels(name).set(clusters)

    def restored(self, partition: int) -> None:
        """Count a cluster that was loaded."""
        self._restores.labels(str(partition)).inc()

    def lost(self, partition: int, records: int) -> None:
        """Count records that are gone."""
        self._lost.labels(str(partition)).inc(records)

    def rebalanced(self, change: str, partitions: int) -> None:
        """Count partitions that were assigned, revoked or lost."""
        self._rebalances.labels(change).inc(partitions)

    def gone(self, partition: int) -> None:
        """Show no figures of a partition that another worker has now."""
        for one in (self._lag, self._paused, self._clusters):
            one.remove_by_labels({"partition": str(partition)})

    def checkpoint(self, outcome: str, seconds: float = 0.0, size: int = 0) -> None:
        """Count a checkpoint: written, failed, or postponed because alerts wait for their store."""
        self._checkpoints.labels(outcome).inc()
        if outcome == "written":
            self._writing.observe(seconds)
            self._bytes.inc(size)

    def set_aside(self) -> None:
        """Count a record that ends the process."""
        self._set_aside.inc()
