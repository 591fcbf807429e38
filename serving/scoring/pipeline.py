"""Journals batches, then scores them in the order of the journal on one thread.

`/v1/audit` answers once a batch is durable. Batches that wait are scored together, which makes the engine efficient; while more
arrives than is scored, they wait in the journal and not in memory.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, NamedTuple, TypeVar

import msgspec

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, DeadLetter, Decoded
from data.events.decode import decode_body, decode_originals
from serving.http.body import decompress
from serving.schemas import Alert, clean
from serving.scoring.checkpointer import Checkpointer
from serving.scoring.dead_letters import BoundedDeadLetters
from serving.scoring.engine import Engine
from serving.scoring.habit_verdicts import SOURCE, HabitVerdict
from serving.scoring.journal import Journal, JournalError, JournalPosition, JournalRecord
from serving.scoring.quarantine import Quarantine
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
    alone: bool = False
    verdict: HabitVerdict | None = None

    @property
    def events(self) -> list[AuditEvent]:
        """Its events, once they are decoded."""
        return [] if self.decoded is None else self.decoded.events


class _ScoredPart(NamedTuple):
    """Events that were scored together, and whether each was new."""

    events: Sequence[AuditEvent]
    first: Sequence[bool]
    batch: Batch


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
        quarantine: where a batch goes that ends the process.
        dead_letters: where an event goes that makes the engine fail.
        scored: called on the scoring thread with a scored batch, its events, and the number of events sent before.
        failed: called for each event that could not be scored.

    Attributes:
        position: sequence up to which the journal is scored.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        checkpointer: Checkpointer,
        quarantine: Quarantine,
        dead_letters: BoundedDeadLetters,
        scored: Callable[[Batch, Sequence[AuditEvent], int], None],
        failed: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.journal = journal
        self.position = 0
        self._checkpointer = checkpointer
        self._quarantine = quarantine
        self._dead_letters = dead_letters
        self._scored = scored
        self._failed = failed
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
        for place in self.journal.positions(after):
            if not self._is_set_aside(place):
                alone = self._quarantine.is_suspect(place.sequence)
                self._queue.append(_Item(place, place.arrived, alone=alone))
        if self._queue:
            _log.info("batches of the journal are scored first", extra={"batches": len(self._queue)})
        self._thread.start()

    def _is_set_aside(self, place: JournalPosition) -> bool:
        """Whether a record is not to be scored because it ends the process."""
        quarantine = self._quarantine
        if not quarantine.may_hold(place.sequence):
            return False
        try:
            body = _plain(self.journal.read(place))
            if quarantine.holds(place.sequence, body):
                return True
            if quarantine.condemned != place.sequence or not quarantine.convicts(
                lambda: self.engine.detector.score(decode_body(body).events)
            ):
                return False
            quarantine.set_aside(place.sequence, body)
        except (OSError, KubehabitError) as error:
            shown = {"record": place.sequence, "reason": str(error)}
            _log.error("a batch that ended the process cannot be kept", extra=shown)
        return True

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

    def append_verdict(self, verdict: HabitVerdict) -> Future[JournalPosition]:
        """Journal a verdict of people; done when it is durable. It holds for what is journalled after it. Raises JournalError."""
        record = verdict.to_record()

        def enqueue(place: JournalPosition) -> None:
            self._put(_Item(place, record.arrived, Decoded([], [], []), verdict=verdict))

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
            sequences = [item.place.sequence for item in items if item.place is not None]
            events = 0
            if sequences:
                self._quarantine.begin(sequences[0], sequences[-1])
                for item in items:
                    self._load(item)
                events = sum(len(item.events) for item in items)
                with span("score", (item.caller for item in items), batches=len(items), events=events):
                    for stretch in _stretches(items):
                        self._do(stretch)
                self.position = sequences[-1]
                self._quarantine.end()
            try:
                self._checkpointer.scored(self.position, events)
            except Exception:  # what is acknowledged is in the journal all the same
                _log.exception("the state could not be looked after")

    def _do(self, items: Sequence[_Item]) -> None:
        """Score batches, or apply a verdict."""
        try:
            if items[0].verdict is not None:
                self.engine.apply_verdict(items[0].verdict)
            else:
                self._score(items)
        except Exception as error:  # whatever it is, what follows must be scored
            _log.exception("batches could not be answered")
            _answer(items, error)

    def _next(self) -> list[_Item] | None:
        """The batches to score next, or one piece of work; none after a while without any; None when the service ends."""
        with self._wake:
            self._in_work = []
            self._wake.wait_for(lambda: self._queue or self._closing, _IDLE_SECONDS)
            if self._closing:
                return None
            taken: list[_Item] = []
            events = 0
            while self._queue and events < _TOGETHER and not (taken and (taken[0].work or taken[0].alone)):
                item = self._queue[0]
                size = _TOGETHER // 2 if item.decoded is None else len(item.decoded.events)
                if taken and (item.work is not None or item.alone or events + size > _TOGETHER):
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
            taken = self.journal.read(item.place)
            if taken.source == SOURCE:
                item.verdict = HabitVerdict.from_body(_plain(taken))
            else:
                item.decoded = decode_body(_plain(taken))
        except Exception as error:
            _log.error(
                "a batch cannot be scored", extra={"record": item.place.sequence, "reason": str(error)}
            )
            self._failed()

    def _score(self, items: Sequence[_Item]) -> None:
        parts = self._score_events([event for item in items for event in item.events], items)
        if not any(item.answer for item in items):
            return
        results = [result for part in parts for result in _in_place(part)]
        begin = 0
        for item in items:
            end = begin + len(item.events)
            if item.answer is not None:
                item.answer.set_result(_share([part.batch for part in parts], results[begin:end]))
            begin = end

    def _score_events(self, events: Sequence[AuditEvent], items: Sequence[_Item]) -> list[_ScoredPart]:
        """Score events together; if that fails, each half of them, down to the one that cannot be scored.

        A failure leaves no trace in the engine, and what was not scored is not remembered: sent again, it is scored.
        """
        forget = self._checkpointer.deduplicator.checkpoint()
        engine = self.engine
        try:
            first = self._checkpointer.deduplicator.first(events)
            fresh = list(compress(events, first))
            batch = engine.score(fresh)
        except StoreError as error:
            _answer(items, error)
            self._wait_for_store(engine, error)
            return []
        except Exception as error:
            forget()
            middle = len(events) // 2
            if middle:
                return [
                    part
                    for half in (events[:middle], events[middle:])
                    for part in self._score_events(half, items)
                ]
            return [self._give_up(event, items, error) for event in events]
        self._announce(batch, fresh, len(events) - len(fresh))
        return [_ScoredPart(events, first, batch)]

    def _give_up(self, event: AuditEvent, items: Sequence[_Item], error: Exception) -> _ScoredPart:
        """Keep an event that cannot be scored as a dead letter."""
        reason = f"scoring failed: {type(error).__name__}"
        _log.error("an event cannot be scored", exc_info=error, extra={"audit_id": clean(event.auditID, 128)})
        source, line, raw = "", 1, msgspec.json.encode(event)
        for item in items:
            places = [place for place, one in enumerate(item.events) if one is event]
            if places and item.place is not None and item.decoded is not None:
                line = item.decoded.lines[places[0]]
                with contextlib.suppress(Exception):  # then the dead letter has what was decoded
                    taken = self.journal.read(item.place)
                    source = taken.source
                    raw = next(kept for one, kept in decode_originals(_plain(taken)) if one == event)
        self._dead_letters.add_all(source, [DeadLetter(line, reason, raw)])
        self._failed()
        result: EventResult = {"auditID": event.auditID, "status": "rejected", "reason": reason}
        return _ScoredPart([event], [True], Batch.from_results([result], [], [], 0.0))

    def _wait_for_store(self, engine: Engine, error: StoreError) -> None:
        """Try until the alerts are stored: what follows waits in the journal, where nothing is lost."""
        self._quarantine.end()  # the batches are scored: they are not to blame for what comes
        pause = _PAUSE_SECONDS
        while True:
            _log.error("alerts wait for the store", extra={"reason": str(error)})
            with self._wake:
                waiting = [item for item in self._queue if item.answer is not None]
                if self._closing or self._wake.wait_for(lambda: self._closing, pause):
                    return
            _answer(waiting, error)
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

    def close(self) -> None:
        """Finish what is being scored. What waits stays in the journal for the next start."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._quarantine.close()
        self._checkpointer.close(self.position)
        self.journal.close()  # what was about to be written still comes into the queue
        _answer(list(self._queue), JournalError(_ENDING))


def _future() -> Future[Any]:
    """A future that its waiter cannot cancel: the batch is scored all the same."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _stretches(items: Sequence[_Item]) -> list[list[_Item]]:
    """Batches that may be scored together, in order; a verdict is by itself."""
    stretches: list[list[_Item]] = []
    for item in items:
        if not stretches or item.verdict is not None or stretches[-1][0].verdict is not None:
            stretches.append([])
        stretches[-1].append(item)
    return stretches


def _plain(taken: JournalRecord) -> bytes:
    return decompress(taken.body, taken.encoding, taken.size)


def _answer(items: Sequence[_Item], error: Exception) -> None:
    for item in items:
        if item.answer is not None:
            item.answer.set_exception(error)
            item.answer = None


def _in_place(part: _ScoredPart) -> list[EventResult]:
    """Results of all events, those that were sent again among them."""
    scored = iter(part.batch.results)
    return [
        next(scored) if new else {"auditID": event.auditID, "status": "folded"}
        for event, new in zip(part.events, part.first, strict=True)
    ]


def _share(batches: Sequence[Batch], results: list[EventResult]) -> Batch:
    """What of several batches scored together is one's own."""
    named: set[Any] = {result.get("alertID") for result in results}
    raised: dict[str, Alert] = {}
    grown: dict[str, Alert] = {}
    for batch in batches:
        raised |= {alert.id: alert for alert in batch.raised if alert.id in named}
        for alert in batch.grown:
            if alert.id in named:
                (raised if alert.id in raised else grown)[alert.id] = alert
    model = next((batch.model for batch in batches if batch.model is not None), None)
    seconds = sum(batch.seconds for batch in batches)
    return Batch.from_results(results, list(raised.values()), list(grown.values()), seconds, model)
