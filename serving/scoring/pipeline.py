"""Journals batches, then scores them in the order of the journal on one thread.

`/v1/audit` answers once a batch is durable. Batches that wait are scored together, which makes the engine efficient; while more
arrives than is scored, they wait in the journal and not in memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, NamedTuple, TypeVar

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, DeadLetter, Decoded
from data.events.decode import decode_body
from serving.http.body import decompress
from serving.schemas import Alert
from serving.scoring.checkpointer import Checkpointer
from serving.scoring.dead_letters import BoundedDeadLetters
from serving.scoring.engine import Engine
from serving.scoring.journal import Journal, JournalError, JournalPosition, JournalRecord
from serving.scoring.verdicts import Batch, EventResult
from serving.storage.database import StoreError
from serving.telemetry.tracing import current, span

_log = logging.getLogger("kubehabit.pipeline")
_T = TypeVar("_T")
#: Events scored at once, if so many wait: enough for the engine to be efficient, few enough to be done within 200 ms.
_TOGETHER = 1024
#: Decoded events that wait in memory; those beyond it are decoded again from the journal when their turn comes.
_HELD = 4096
#: How often the state is looked after when nothing arrives.
_IDLE_SECONDS = 1.0
_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0
_ENDING = "The service is ending: the batch is kept, and will be scored when it is back."


@dataclass(slots=True)
class _Item:
    """A durable batch that waits to be scored, or work for the scoring thread."""

    place: JournalPosition | None
    arrived: int
    decoded: Decoded | None = None
    answer: Future[Batch] | None = None
    work: Callable[[], None] | None = None
    caller: object | None = None


class Backlog(NamedTuple):
    """What is not scored yet: batches, and how long the first of them has waited (seconds)."""

    batches: int
    seconds: float


class Pipeline:
    """Takes batches in and scores them, each event once.

    Args:
        engine: scores them.
        journal: keeps them until then.
        checkpointer: keeps what is learned, and recognises events that were sent before.
        dead_letters: where a batch goes that makes the engine fail.
        scored: called on the scoring thread with a scored batch, its events, and the number of events sent before.

    Attributes:
        position: sequence up to which the journal is scored.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        checkpointer: Checkpointer,
        dead_letters: BoundedDeadLetters,
        scored: Callable[[Batch, Sequence[AuditEvent], int], None],
    ) -> None:
        self.engine = engine
        self.journal = journal
        self.position = 0
        self._checkpointer = checkpointer
        self._dead_letters = dead_letters
        self._scored = scored
        self._queue: deque[_Item] = deque()
        self._in_work: list[_Item] = []
        self._held = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def start(self, after: int = 0) -> None:
        """Start to score, first what the journal holds after a position."""
        self.position = after
        self.journal.follow_on(after)
        self._queue.extend(_Item(place, place.arrived) for place in self.journal.positions(after))
        if self._queue:
            _log.info("batches of the journal are scored first", extra={"batches": len(self._queue)})
        self._thread.start()

    # -- in ---------------------------------------------------------------------------------------------------

    def append(self, record: JournalRecord, decoded: Decoded) -> Future[JournalPosition]:
        """Journal a batch; done when it is durable, and so certain to be scored. Raises JournalError."""
        return self._append(record, decoded, None)

    def _append(
        self, record: JournalRecord, decoded: Decoded, answer: Future[Batch] | None
    ) -> Future[JournalPosition]:
        caller = current()

        def enqueue(place: JournalPosition) -> None:
            self._put(_Item(place, record.arrived, decoded, answer, caller=caller))

        return self.journal.append(record, enqueue)

    def score(self, record: JournalRecord, decoded: Decoded) -> Future[Batch]:
        """Journal a batch and score it in its turn; done with its verdicts, or fails with JournalError. Raises JournalError."""
        answer: Future[Batch] = _future()

        def refused(done: Future[JournalPosition]) -> None:
            if (error := done.exception()) is not None:
                answer.set_exception(error)

        self._append(record, decoded, answer).add_done_callback(refused)
        return answer

    def run_on_scoring_thread(self, work: Callable[[], _T]) -> Future[_T]:
        """Run something on the scoring thread, after all batches taken in before and before all later ones."""
        done: Future[_T] = _future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # it belongs to the caller
                done.set_exception(error)

        self._put(_Item(None, time.time_ns() // 1000, work=run))
        return done

    def swap_model(self, change: Callable[[], _T]) -> Future[_T]:
        """As `run_on_scoring_thread`, for a change of the engine's detector: the checkpointer then manages the new one."""

        def work() -> _T:
            changed = change()
            self._checkpointer.attach()
            return changed

        return self.run_on_scoring_thread(work)

    def backlog(self) -> Backlog:
        """What waits now."""
        with self._wake:
            waiting = [*self._in_work, *islice(self._queue, 1)]
            if not waiting:
                return Backlog(0, 0.0)
            batches = len(self._in_work) + len(self._queue)
            return Backlog(batches, max(time.time() - waiting[0].arrived / 1e6, 0.0))

    def _put(self, item: _Item) -> None:
        with self._wake:
            if item.answer is None and item.decoded is not None:
                if self._held >= _HELD:
                    item.decoded = None
                else:
                    self._held += len(item.decoded.events)
            self._queue.append(item)
            self._wake.notify()

    # -- out --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (items := self._next()) is not None:
            if items and items[0].work is not None:
                items[0].work()
                continue
            for item in items:
                self._load(item)
            events = sum(len(item.decoded.events) for item in items if item.decoded is not None)
            if items:
                with span("score", (item.caller for item in items), batches=len(items), events=events):
                    self._score(items)
                self.position = max(item.place.sequence for item in items if item.place is not None)
            try:
                self._checkpointer.scored(self.position, events)
            except Exception:  # what is acknowledged is in the journal all the same
                _log.exception("the state could not be looked after")

    def _next(self) -> list[_Item] | None:
        """The batches to score next, or one piece of work; none after a while without any; None when the service ends."""
        with self._wake:
            self._in_work = []
            self._wake.wait_for(lambda: self._queue or self._closing, _IDLE_SECONDS)
            if self._closing:
                return None
            taken: list[_Item] = []
            events = 0
            while self._queue and events < _TOGETHER and not (taken and taken[0].work):
                item = self._queue[0]
                size = _TOGETHER // 2 if item.decoded is None else len(item.decoded.events)
                if taken and (item.work is not None or events + size > _TOGETHER):
                    break
                taken.append(self._queue.popleft())
                events += size
                if item.answer is None and item.decoded is not None:
                    self._held -= size
            self._in_work = taken
            return taken

    def _load(self, item: _Item) -> None:
        """Decode what waited in the journal alone. Its dead letters were kept before it was acknowledged."""
        if item.decoded is not None or item.place is None:
            return
        item.decoded = Decoded([], [], [])
        try:
            item.decoded = decode_body(_plain(self.journal.read(item.place)))
        except KubehabitError as error:
            shown = {"record": item.place.sequence, "reason": str(error)}
            _log.error("a batch cannot be scored", extra=shown)

    def _score(self, items: Sequence[_Item]) -> None:
        events: list[AuditEvent] = []
        for item in items:
            if item.decoded is not None:
                events += item.decoded.events
        engine = self.engine
        try:
            first = self._checkpointer.deduplicator.first(events)
            fresh = list(compress(events, first))
            batch = engine.score(fresh)
        except StoreError as error:
            _answer(items, error)
            self._wait_for_store(engine, error)
            return
        except Exception as error:
            _log.exception("batches could not be scored")
            _answer(items, error)
            self._keep_dead(items, error)
            return
        self._announce(batch, fresh, len(events) - len(fresh))
        if not any(item.answer for item in items):
            return
        results = _in_place(events, first, batch.results)
        begin = 0
        for item in items:
            end = begin + (0 if item.decoded is None else len(item.decoded.events))
            if item.answer is not None:
                item.answer.set_result(_share(batch, results[begin:end]))
            begin = end

    def _wait_for_store(self, engine: Engine, error: StoreError) -> None:
        """Try until the alerts are stored: what follows waits in the journal, where nothing is lost."""
        pause = _PAUSE_SECONDS
        while True:
            _log.error("alerts wait for the store", extra={"reason": str(error)})
            with self._wake:
                waiting = [item for item in self._queue if item.answer is not None]
                if self._closing or self._wake.wait_for(lambda: self._closing, pause):
                    return
            for item in waiting:
                _answer([item], error)
                item.answer = None
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                stored = engine.score([])
            except StoreError as again:
                error = again
            else:
                self._announce(stored, [], 0)
                return

    def _announce(self, batch: Batch, events: Sequence[AuditEvent], repeated: int) -> None:
        try:
            self._scored(batch, events, repeated)
        except Exception:  # an observer must not stop what is scored next
            _log.exception("an observer of scored batches failed")

    def _keep_dead(self, items: Sequence[_Item], error: Exception) -> None:
        for item in items:
            if item.place is None:
                continue
            try:
                taken = self.journal.read(item.place)
                letter = DeadLetter(1, f"scoring failed: {type(error).__name__}", _plain(taken))
            except KubehabitError as gone:
                _log.error("a batch is lost", extra={"record": item.place.sequence, "reason": str(gone)})
            else:
                self._dead_letters.add_all(taken.source, [letter])

    def close(self) -> None:
        """Finish what is being scored. What waits stays in the journal for the next start."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._checkpointer.close(self.position)
        self.journal.close()  # what was about to be written still comes into the queue
        _answer(list(self._queue), JournalError(_ENDING))


def _future() -> Future[Any]:
    """A future that its waiter cannot cancel: the batch is scored all the same."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _plain(taken: JournalRecord) -> bytes:
    return decompress(taken.body, taken.encoding, taken.size)


def _answer(items: Sequence[_Item], error: Exception) -> None:
    for item in items:
        if item.answer is not None:
            item.answer.set_exception(error)


def _in_place(
    events: Sequence[AuditEvent], first: Sequence[bool], results: list[EventResult]
) -> list[EventResult]:
    """Results of all events, those that were sent again among them."""
    if len(results) == len(events):
        return results
    scored = iter(results)
    return [
        next(scored) if new else {"auditID": event.auditID, "status": "folded"}
        for event, new in zip(events, first, strict=True)
    ]


def _share(batch: Batch, results: list[EventResult]) -> Batch:
    """What of several batches scored together is one's own."""
    named: set[Any] = {result.get("alertID") for result in results}

    def own(alerts: list[Alert]) -> list[Alert]:
        return [alert for alert in alerts if alert.id in named]

    return Batch.from_results(results, own(batch.raised), own(batch.grown), batch.seconds, batch.model)
