"""`kubehabit worker`: one of a group that share the partitions of a topic, each scored by one of them at a time.

The topic is the journal. What was scored is in a checkpoint, or will be scored again from there: with the same verdicts, and
alerts that the store has already are not stored twice.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from data.errors import KubehabitError
from serving.fleet.champion import Champion
from serving.fleet.checkpoints import Checkpoints
from serving.fleet.kafka import KafkaError, broker_and_topic, make_consumer
from serving.fleet.partition import PartitionScorer, WorkerParts
from serving.fleet.records import ENCODING, LogRecord
from serving.fleet.state_files import StateFiles
from serving.fleet.status import STATUS_SECONDS, PartitionStatus, last_status, write_status
from serving.scoring.snapshots import SnapshotError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

_log = logging.getLogger("kubehabit.fleet")
#: Records and bytes taken before they are scored.
_MOST_RECORDS, _MOST_BYTES = 4096, 4 << 20
_POLL_SECONDS = 0.1
#: Between two tries of a partition that waits for its alert store.
_RETRY_SECONDS = 1.0
#: For which a start waits for the store of the checkpoints.
_BEGIN_SECONDS = 60.0
#: Without a step for so long, a worker counts as stuck. Writing the last checkpoint may take a while.
_STUCK_SECONDS = 120.0
_WRITERS = 2
#: Between two looks at partitions that brought no record since; and for which Kafka is waited for then.
_SILENT_SECONDS = 30.0
_ASK_SECONDS = 2.0


class FleetWorker:
    """Consumes, scores, and keeps checkpoints; `run` does all of it on one thread.

    Args:
        parts: what the partitions share.
        files: where the checkpoints are.
        champion: follows the registry.

    Attributes:
        parts: as given.

    Raises:
        KafkaError: the consumer cannot be made.
    """

    def __init__(self, parts: WorkerParts, files: StateFiles, champion: Champion) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        settings = parts.settings
        source = settings.worker.source
        if source is None:
            raise KafkaError(
                "Name the topic to score: worker.source: kafka://broker:9092/topic, or KUBEHABIT_WORKER__SOURCE."
            )
        self._failure = KafkaException
        self._place = TopicPartition
        self._topic = broker_and_topic(source)[1]
        self.parts = parts
        self._files = files
        self._champion = champion
        self._outdated: set[int] = set()
        self._partitions: dict[int, PartitionScorer] = {}
        self._taken: dict[int, list[LogRecord]] = {}
        self._retried = self._stepped = time.monotonic()
        self._commit_after = 0.0
        self._looked = self._reported = time.monotonic()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._reports: list[Future[None]] = []
        self._silent_at: dict[int, int | None] = {}  # position of each partition at the last look
        self._joined = False
        self._trouble = ""
        self._consumer: Consumer = make_consumer(
            source, settings.worker.group, "earliest", settings.kafka.properties
        )

    def run(self, stop: threading.Event) -> None:
        """Score until it is stopped; then write the last checkpoints and leave the group.

        Raises:
            KubehabitError: Kafka refuses this worker for good, or the checkpoints cannot be read at the start.
        """
        self._consumer.subscribe(
            [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        try:
            while not stop.is_set():
                self.step()
        finally:
            self._consumer.close()  # which revokes what is assigned

    def step(self) -> None:
        """Take what has come, score it, and do what is due."""
        self._stepped = time.monotonic()
        self._take()
        for number, records in self._taken.items():
            partition = self._partitions[number]
            for record in records:
                partition.append(record)
        self._taken = {}
        for partition in list(self._partitions.values()):
            self._score(partition)
        if time.monotonic() >= self._retried + _RETRY_SECONDS:
            self._retried = time.monotonic()
            self._retry()
        if time.monotonic() >= self._looked + _SILENT_SECONDS:
            self._looked = time.monotonic()
            self._wake()
        if time.monotonic() >= self._reported + STATUS_SECONDS:
            self._reported = time.monotonic()
            self._report()
        self._renew()
        for partition in self._partitions.values():
            partition.look_after()
            if partition.committable is not None and self._stepped >= self._commit_after:
                self._commit(partition)

    def _renew(self) -> None:
        """Hand a new champion to the clusters, partition by partition."""
        if (model := self._champion.pop()) is not None:
            self.parts.clusters.model = model
            self.parts.metrics.served(model.loaded.model)
            self._outdated = set(self._partitions)
        for number in list(self._outdated):
            if number not in self._partitions or self._partitions[number].renew():
                self._outdated.discard(number)

    def _take(self) -> None:
        """Take records until there are enough, or no more for the moment; rebalances happen meanwhile."""
        size = count = 0
        message = self._consumer.poll(_POLL_SECONDS)
        while message is not None:
            record = self._record(message)
            if record is not None:
                self._taken.setdefault(message.partition() or 0, []).append(record)
                size += len(record.value)
            count += 1
            if size >= _MOST_BYTES or count >= _MOST_RECORDS:
                return
            message = self._consumer.poll(0)

    def _record(self, message: Message) -> LogRecord | None:
        error = message.error()
        if error is not None:
            if error.fatal():
                raise KafkaError(f"Kafka refuses this worker: {error.str()}.")
            self._trouble = error.str()
            _log.warning("Kafka reports an error", extra={"reason": error.str()})
            return None
        self._trouble = ""
        encoding = ""
        for header in list(message.headers() or ()):
            name, content = str(header[0]), header[1]
            if name.lower() == ENCODING and isinstance(content, bytes):
                encoding = content.decode("ascii", "replace")
        key, value = message.key(), message.value()
        key = key.encode() if isinstance(key, str) else key
        value = value.encode() if isinstance(value, str) else value
        return LogRecord(message.offset() or 0, key, value or b"", encoding)

    def _score(self, partition: PartitionScorer) -> None:
        try:
            partition.work()
        except SnapshotError:
            self._start_again(partition)
        if partition.trouble:
            self._consumer.pause([self._place(self._topic, partition.number)])
        self._show(partition)

    def _start_again(self, partition: PartitionScorer) -> None:
        """Go back to an earlier checkpoint: a later one is damaged."""
        place = self._beginning(partition)
        self._consumer.seek(place)

    def _retry(self) -> None:
        for partition in list(self._partitions.values()):
            if not partition.trouble:
                continue
            try:
                if partition.retry():
                    _log.info("a partition goes on", extra={"partition": partition.number})
                    self._consumer.resume([self._place(self._topic, partition.number)])
            except SnapshotError:
                self._start_again(partition)
                self._consumer.resume([self._place(self._topic, partition.number)])
            self._show(partition)

    def _wake(self) -> None:
        """Begin again with each partition that has records and brings none: its fetching has stopped without an error."""
        before = self._silent_at
        self._silent_at = {
            number: one.position for number, one in self._partitions.items() if not one.trouble
        }
        for number, position in self._silent_at.items():
            if position is None or before.get(number) != position:
                continue
            place = self._place(self._topic, number, position)
            try:
                # What the client remembers of the end is as old as its last fetch.
                ends = self._consumer.get_watermark_offsets(place, timeout=_ASK_SECONDS)
                if ends is None or ends[1] <= position:
                    continue
                shown = {"partition": number, "records": ends[1] - position}
                _log.warning(
                    "a partition brings no records although it has some: it begins again", extra=shown
                )
                self._consumer.resume([place])
                self._consumer.seek(place)
            except self._failure as error:
                shown = {"partition": number, "reason": error.args[0].str()}
                _log.warning("the end of a partition cannot be asked for", extra=shown)

    def _show(self, partition: PartitionScorer) -> None:
        self.parts.figures.state(
            partition.number,
            lag=self._lag(partition),
            paused=bool(partition.trouble),
            clusters=partition.clusters,
        )

    def _lag(self, partition: PartitionScorer) -> int | None:
        """Records of a partition that are not scored yet; None if that is not known."""
        if partition.position is None:
            return None
        place = self._place(self._topic, partition.number)
        ends = self._consumer.get_watermark_offsets(place, cached=True)
        return max(ends[1] - partition.position, 0) if ends is not None and ends[1] >= 0 else None

    def _report(self) -> None:
        """Write the status of each partition, beside the scoring; not while the last is still being written."""
        if all(one.done() for one in self._reports):
            self._reports = [
                self.parts.writers.submit(_write, self._files, one.status(self._name, self._lag(one)))
                for one in self._partitions.values()
            ]

    def _commit(self, partition: PartitionScorer) -> None:
        """Tell Kafka how far a partition is. Only for others to see; but who is refused here has lost the partition."""
        offset, partition.committable = partition.committable, None
        assert offset is not None
        try:
            self._consumer.commit(
                offsets=[self._place(self._topic, partition.number, offset)], asynchronous=False
            )
        except self._failure as error:
            shown = {"partition": partition.number, "reason": error.args[0].str()}
            _log.warning("an offset cannot be committed now", extra=shown)
            partition.committable = offset  # tried again, for lag is read from it
            self._commit_after = time.monotonic() + _RETRY_SECONDS
        else:
            partition.clear()

    # -- rebalances, which happen within `poll` ---------------------------------------------------------------

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._joined = True
        began = []
        for place in places:
            number = place.partition
            self._taken.pop(number, None)
            checkpoints = Checkpoints(self._files, self._topic, number)
            last = last_status(self._files, self._topic, number)
            partition = PartitionScorer(number, self._topic, checkpoints, self.parts, last)
            self._partitions[number] = partition
            began.append(self._beginning(partition))
        consumer.incremental_assign(began)
        consumer.resume(began)  # one that was paused when it was lost would stay so
        self.parts.figures.rebalanced("assigned", len(places))

    def _beginning(self, partition: PartitionScorer) -> TopicPartition:
        """Where to read on.

        Raises:
            KubehabitError: the checkpoints cannot be read for a while; to begin without them would forget everything.
        """
        from confluent_kafka import OFFSET_BEGINNING, OFFSET_END

        offset = self._begin(partition)
        if offset is None:
            offset = OFFSET_END if self.parts.settings.worker.start == "latest" else OFFSET_BEGINNING
        return self._place(self._topic, partition.number, offset)

    @staticmethod
    @retry(
        retry=retry_if_exception_type(KubehabitError),
        stop=stop_after_delay(_BEGIN_SECONDS),
        wait=wait_fixed(_RETRY_SECONDS),
        reraise=True,
    )
    def _begin(partition: PartitionScorer) -> int | None:
        return partition.begin()

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        for place in places:
            partition = self._forget(place.partition)
            if partition is None:
                continue
            partition.finish()
            if partition.committable is not None:
                self._commit(partition)
            partition.close()
        consumer.incremental_unassign(places)
        self.parts.figures.rebalanced("revoked", len(places))

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Another worker has them by now: whatever is written for them here comes too late."""
        for place in places:
            partition = self._forget(place.partition)
            if partition is not None:
                partition.close()
        consumer.incremental_unassign(places)
        self.parts.figures.rebalanced("lost", len(places))
        _log.warning(
            "partitions were lost: this worker was silent for too long", extra={"partitions": len(places)}
        )

    def _forget(self, number: int) -> PartitionScorer | None:
        self._taken.pop(number, None)
        self.parts.figures.gone(number)
        return self._partitions.pop(number, None)

    # -- health -----------------------------------------------------------------------------------------------

    @property
    def partitions(self) -> frozenset[int]:
        """Numbers of the partitions that this worker has."""
        return frozenset(self._partitions)

    @property
    def is_alive(self) -> bool:
        """Whether it goes on: a worker that is stuck must be started again."""
        return time.monotonic() - self._stepped < _STUCK_SECONDS

    @property
    def why_not_ready(self) -> str:
        """Why it scores nothing, for people; empty if it does, or has nothing to do."""
        waiting = next((one.trouble for one in list(self._partitions.values()) if one.trouble), "")
        if not self._joined:
            return self._trouble or "The worker joins its group."
        return waiting


def _write(files: StateFiles, make: Callable[[], PartitionStatus]) -> None:
    write_status(files, make())


def writers() -> ThreadPoolExecutor:
    """Threads that write checkpoints and what a worker says of itself."""
    return ThreadPoolExecutor(_WRITERS, thread_name_prefix="checkpoint")
