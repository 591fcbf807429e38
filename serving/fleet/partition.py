"""One partition of the topic: its clusters are scored from the newest checkpoint on, each by itself, in the order of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import msgspec

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, DeadLetter
from data.visible_text import visible
from serving.fleet.checkpoints import Checkpoints, PartitionCheckpoint
from serving.fleet.cluster import ClusterFactory, ClusterScorer
from serving.fleet.records import LogRecord, cluster_of, decode_records
from serving.fleet.status import FORGOTTEN_SECONDS, ClusterStatus, PartitionStatus
from serving.scoring.dead_letters import DeadLetterStore
from serving.scoring.engine import EventScorer
from serving.scoring.quarantine import ends_process
from serving.scoring.snapshots import Snapshot, SnapshotError
from serving.settings import Settings
from serving.storage.database import StoreError
from serving.telemetry.metrics import Metrics
from serving.telemetry.worker_metrics import WorkerMetrics

_log = logging.getLogger("kubehabit.fleet")
#: Events scored at once, if so many are there.
_TOGETHER = 1024
#: Starts from the same checkpoint after which each record is tried in a copy of the process first: one may end the process.
_STARTS = 3
_NO_CLUSTER = (
    "no cluster: the key of a record must be the name of its cluster (letters, digits, dots, dashes)"
)
_NOT_LISTED = "no cluster of this worker: worker.clusters does not list it"


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What all partitions of a worker share.

    Attributes:
        clusters: makes the scorers of clusters.
        writers: writes checkpoints, beside the scoring.
    """

    settings: Settings
    clusters: ClusterFactory
    metrics: Metrics
    figures: WorkerMetrics
    dead_letters: DeadLetterStore
    writers: Executor


class PartitionScorer:
    """Scores the records of one partition; all methods are called by one thread.

    Args:
        last: status of each of its clusters as the worker before left it.

    Attributes:
        number: of the partition.
        position: offset of the next record to score; None before the first record of a partition of which nothing is known.
        trouble: why records wait in memory; empty if none do. Nothing more may be given then until `retry` is True.
        committable: offset up to which everything is in a checkpoint since the last look; None if that is no news.
    """

    def __init__(
        self,
        number: int,
        topic: str,
        checkpoints: Checkpoints,
        parts: WorkerParts,
        last: Mapping[str, ClusterStatus] | None = None,
    ) -> None:
        self.number = number
        self.position: int | None = None
        self.trouble = ""
        self.committable: int | None = None
        self._topic = topic
        self._source = f"{topic}/{number}"
        self._last = dict(last or {})
        self._checkpoints = checkpoints
        self._parts = parts
        self._checkpoint = PartitionCheckpoint()
        self._clusters: dict[str, ClusterScorer] = {}
        self._waiting: list[LogRecord] = []
        self._stuck: dict[str, list[Sequence[AuditEvent]]] = {}
        self._behind = 0  # what is taken, and waits
        self._began = False
        self._careful = False
        self._writing: Future[tuple[PartitionCheckpoint, int]] | None = None
        self._written: Collection[str] = ()
        self._events = 0
        self._due = self._started = 0.0

    def begin(self) -> int | None:
        """Go back to the newest checkpoint; the offset of the first record to score, None if nothing is known.

        Raises:
            KubehabitError: the store of the checkpoints fails.
        """
        self._drop()
        found = self._checkpoints.newest()
        self._checkpoint = found or PartitionCheckpoint()
        self.position = None if found is None else found.offset
        # Who wrote the checkpoint may have lost the partition before Kafka heard of it.
        self.committable = self.position
        self._began = self._careful = False
        self._postpone()
        shown = {
            "partition": self.number,
            "offset": self.position,
            "clusters": len(self._checkpoint.clusters),
        }
        _log.info("a partition begins", extra=shown)
        return self.position

    def append(self, record: LogRecord) -> None:
        """Take the next record of the log."""
        if not self._began:
            self._begin_at(record.offset)
        self._waiting.append(record)

    def _begin_at(self, offset: int) -> None:
        """Note where the log goes on, which may not be where the checkpoint ends."""
        self._began = True
        expected = self.position
        if expected is not None and offset > expected:
            self._parts.figures.lost(self.number, offset - expected)
            shown = {"partition": self.number, "records": offset - expected}
            _log.error(
                "Kafka deleted records before they were scored: raise the topic's retention", extra=shown
            )
        if expected is not None and offset < expected:
            life = self._checkpoint.life + 1
            self._checkpoint = msgspec.structs.replace(self._checkpoint, life=life)
            shown = {"partition": self.number, "expected": expected, "offset": offset}
            _log.warning("the topic was made again: what is known of its clusters stays", extra=shown)
        self.position = offset
        starts = self._checkpoints.count_start(self._checkpoint)
        self._careful = starts > _STARTS
        if self._careful:
            shown = {"partition": self.number, "starts": starts}
            _log.error("workers ended again and again: each record is tried first for a while", extra=shown)

    def work(self) -> None:
        """Score what was taken. A record that cannot be read, or be scored, becomes a dead letter.

        Raises:
            SnapshotError: what is known of a cluster is damaged; `begin` goes back to the checkpoint before.
        """
        records, self._waiting = self._waiting, []
        if self.trouble or not records:
            self._waiting = records
            return
        if self._careful:
            self._take_carefully(records)
        else:
            self._take(records)
        if not self.trouble:
            self.position = records[-1].offset + 1
        else:
            self._behind = records[-1].offset + 1
        self._parts.figures.scored(self.number, len(records))

    def _take(self, records: Sequence[LogRecord]) -> None:
        for name, found in self._by_cluster(records).items():
            self._score(name, list(self._chunks(found)))

    def _by_cluster(self, records: Sequence[LogRecord]) -> dict[str, list[LogRecord]]:
        """Records by the cluster that they are of; those of none become dead letters."""
        of_cluster: dict[str, list[LogRecord]] = {}
        listed = self._parts.settings.worker.clusters
        for record in records:
            name = cluster_of(record)
            if name is None or (listed and name not in listed):
                self._bury(
                    record.offset, DeadLetter(1, _NO_CLUSTER if name is None else _NOT_LISTED, record.value)
                )
            else:
                of_cluster.setdefault(name, []).append(record)
        return of_cluster

    def _chunks(self, records: Sequence[LogRecord]) -> Iterator[Sequence[AuditEvent]]:
        """The events of records of one cluster, as they are scored together."""
        events: list[AuditEvent] = []
        for part in decode_records(records, self._parts.settings.limits.decompressed_bytes):
            for offset, letter in part.dead:
                self._bury(offset, letter)
            if part.skipped:
                self._parts.metrics.skipped(part.skipped)
            events += part.events
            while len(events) >= _TOGETHER:
                yield events[:_TOGETHER]
                events = events[_TOGETHER:]
        if events:
            yield events

    def _score(self, name: str, chunks: list[Sequence[AuditEvent]]) -> None:
        """Score events of a cluster; those that have to wait for its alert store are kept."""
        if name in self._stuck:
            self._stuck[name] += chunks
            return
        while chunks:
            try:
                cluster = self._cluster(name)
            except SnapshotError:
                raise
            except KubehabitError as error:
                self._stick(name, chunks, str(error))
                return
            events = chunks.pop(0)
            self._events += len(events)
            cluster.score(events, self._source)
            if cluster.trouble:
                self._stick(name, chunks, cluster.trouble)
                return

    def _stick(self, name: str, chunks: list[Sequence[AuditEvent]], reason: str) -> None:
        self._stuck[name] = chunks
        self.trouble = reason
        shown = {"partition": self.number, "cluster": name, "reason": reason}
        _log.error("a partition waits", extra=shown)

    def retry(self) -> bool:
        """Try again what waits; whether nothing does any more. Raises as `work`."""
        for name in list(self._stuck):
            cluster = self._clusters.get(name)
            if cluster is None or not cluster.trouble or cluster.retry():
                self._score(name, self._stuck.pop(name))
        if self._stuck:
            return False
        self.trouble = ""
        self.position = self._behind
        return True

    def _cluster(self, name: str) -> ClusterScorer:
        cluster = self._clusters.pop(name, None)
        if cluster is None:
            snapshot = self._snapshot(name)
            cluster = self._parts.clusters.make(name, snapshot, self._last.get(name))
            if snapshot is not None:
                self._parts.figures.restored(self.number)
            shown = {"partition": self.number, "cluster": name, "known": snapshot is not None}
            _log.info("a cluster begins", extra=shown)
        self._clusters[name] = cluster  # the one idle longest comes first
        return cluster

    def _snapshot(self, name: str) -> Snapshot | None:
        """What the checkpoint knows of a cluster."""
        checkpoints, checkpoint = self._checkpoints, self._checkpoint
        try:
            return checkpoints.snapshot(checkpoint, name)
        except SnapshotError as error:
            if checkpoints.is_elsewhere(checkpoint, name):
                checkpoints.refuse(checkpoints.name(checkpoint), f"{name}: {error}")
                raise
            shown = {"partition": self.number, "cluster": name, "reason": str(error)}
            _log.error(
                "what is known of a cluster is lost: it begins with what the model learned", extra=shown
            )
            return None

    # -- what cannot be scored --------------------------------------------------------------------------------

    def _bury(self, offset: int, letter: DeadLetter) -> None:
        self._parts.dead_letters.add_all(f"{self._source}@{offset}", [letter])
        self._parts.metrics.rejected(1)
        shown = {"partition": self.number, "offset": offset, "reason": visible(letter.reason)}
        _log.warning("a record cannot be read", extra=shown)

    def _take_carefully(self, records: Sequence[LogRecord]) -> None:
        """Score records after a trial in a copy of the process; of those that end it, each half, down to the one at fault."""
        if not self._ends_process(records):
            self._take(records)
        elif len(records) > 1:
            middle = len(records) // 2
            self._take_carefully(records[:middle])
            self._take_carefully(records[middle:])
        else:
            shown = {"partition": self.number, "offset": records[0].offset}
            _log.error("a record ends the process and is not scored", extra=shown)
            self._bury(records[0].offset, DeadLetter(1, "scoring it ends the process", records[0].value))
            self._parts.figures.set_aside()

    def _ends_process(self, records: Sequence[LogRecord]) -> bool:
        most = self._parts.settings.limits.decompressed_bytes
        trials: list[tuple[EventScorer, list[LogRecord]]] = []
        of_cluster: dict[str, list[LogRecord]] = {}
        for record in records:
            if (name := cluster_of(record)) is not None:
                of_cluster.setdefault(name, []).append(record)
        for name, found in of_cluster.items():
            try:
                if name not in self._stuck:
                    trials.append((self._cluster(name).engine.detector, found))
            except SnapshotError:
                raise
            except KubehabitError as error:  # the scoring will say so
                _log.debug("a trial without a cluster", extra={"reason": str(error)})

        def run() -> None:
            for detector, tried in trials:
                for part in decode_records(tried, most):
                    detector.score(part.events)

        return ends_process(run)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def look_after(self) -> None:
        """Begin a checkpoint if one is due, and take note of one that is written."""
        if self._writing is not None and self._writing.done():
            self._collect()
        state = self._parts.settings.state
        if self._events >= state.snapshot_events or time.monotonic() >= self._due:
            self._begin_checkpoint()

    def finish(self) -> None:
        """Write a last checkpoint, so that who has the partition next has nothing to score again."""
        if self._writing is not None:
            self._collect()
        self._begin_checkpoint()
        if self._writing is not None:
            self._collect()

    def _begin_checkpoint(self) -> None:
        position, before = self.position, self._checkpoint
        if self._writing is not None or self.trouble or position is None:
            return
        changed = [cluster for cluster in self._clusters.values() if cluster.changed]
        if not changed and position == before.offset:
            self._postpone()
            return
        if not all(cluster.is_stored() for cluster in changed) or not self._parts.dead_letters.is_kept():
            self._parts.figures.checkpoint("postponed")
            self._due = time.monotonic() + 1.0
            return
        made = msgspec.structs.replace(before, offset=position)
        snapshots = {cluster.name: cluster.snapshot(position) for cluster in changed}
        self._written = snapshots.keys()
        self._started = time.monotonic()
        self._writing = self._parts.writers.submit(self._checkpoints.write, made, snapshots)
        self._postpone()

    def _postpone(self) -> None:
        self._events = 0
        self._due = time.monotonic() + self._parts.settings.state.snapshot_seconds

    def _collect(self) -> None:
        """Wait for the checkpoint that is being written."""
        writing, self._writing = self._writing, None
        assert writing is not None
        try:
            made, size = writing.result()
        except KubehabitError as error:
            self._parts.figures.checkpoint("failed")
            _log.error(
                "a checkpoint cannot be written", extra={"partition": self.number, "reason": str(error)}
            )
            for name in self._written:
                if name in self._clusters:
                    self._clusters[name].changed = True
            return
        self._checkpoint = made
        self.committable = made.offset
        self._careful = False
        self._parts.figures.checkpoint("written", time.monotonic() - self._started, size)
        self._release()

    def _release(self) -> None:
        """Let go of clusters beyond the number that is kept in memory, those idle longest first: a snapshot has all of them."""
        excess = len(self._clusters) - self._parts.settings.worker.clusters_in_memory
        for name in list(self._clusters):
            if excess <= 0:
                return
            cluster = self._clusters[name]
            if not cluster.changed and name not in self._stuck and cluster.is_sent():
                del self._clusters[name]
                cluster.close()
                excess -= 1

    def renew(self) -> bool:
        """Let all clusters go on with the factory's model, which may be another one by now; False if that has to wait.

        What is known of each cluster is fitted to the model when it is loaded again from its snapshot.
        """
        if self.position is None or not self._began:
            return True  # nothing is in memory
        self.finish()
        if self._writing is not None or self.trouble or any(one.changed for one in self._clusters.values()):
            return False
        committable = self.committable
        self._drop()
        self.committable = committable
        return True

    def clear(self) -> None:
        """Delete old checkpoints, beside the scoring; to be called when Kafka has confirmed that the partition is still ours."""
        self._parts.writers.submit(self._checkpoints.clear)

    def status(self, worker: str, lag: int | None) -> Callable[[], PartitionStatus]:
        """How it is now; the result asks the stores of the clusters, on any thread, one after the other.

        Args:
            worker: that has the partition.
            lag: records that are not scored yet, if known.
        """
        now, model = time.time(), self._parts.clusters.model.loaded.model
        asked = {name: cluster.status(now) for name, cluster in self._clusters.items()}
        known = PartitionStatus(
            self._topic, self.number, worker, now, f"{model.name} {model.version}", lag, self.trouble
        )

        def complete() -> PartitionStatus:
            for name, ask in asked.items():
                try:
                    self._last[name] = ask()
                except StoreError as error:
                    _log.warning(
                        "a cluster's status is unknown", extra={"cluster": name, "reason": str(error)}
                    )
            listed = [one for _, one in sorted(self._last.items()) if one.updated > now - FORGOTTEN_SECONDS]
            return msgspec.structs.replace(known, clusters=listed)

        return complete

    @property
    def clusters(self) -> int:
        """Number of clusters in memory."""
        return len(self._clusters)

    def _drop(self) -> None:
        """Forget everything that is in memory."""
        if self._writing is not None:
            self._collect()
        for cluster in self._clusters.values():
            cluster.close()
        self._clusters, self._waiting, self._stuck, self.trouble = {}, [], {}, ""
        self.committable = None

    def close(self) -> None:
        """Let go of everything; what is in no checkpoint will be scored again."""
        self._drop()
        self._checkpoints.forget_starts()
