"""Copies scored batches from the journal into the event store, at a lower priority than scoring."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data.errors import KubehabitError
from serving.forensics.event_store import EventStore, EventStoreUnusableError
from serving.forensics.store_place import SET_ASIDE
from serving.http.body import decompress
from serving.process.worker import Worker
from serving.scoring.habit_verdicts import SOURCE, HabitVerdict
from serving.scoring.journal import Journal, JournalError, JournalPosition

_log = logging.getLogger("kubehabit.events")
_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 15.0
_REOPEN_SECONDS = 60.0
_BUSY_SECONDS = 0.02
_STRETCH_SECONDS = 0.001
# Fill level of the journal up to which scoring goes first.
_PATIENT = 0.5
# Unusual events whose alert is remembered until the store has them.
_REMEMBERED = 10_000
# Of the journal, compressed, or this share of it if that is less: what it keeps although the store has it, and what is read again
# at the start, so that its events are recognised when they are sent again. Some 80,000 events: a sender that got no response
# tries again after seconds.
_RECENT_BYTES, _RECENT_SHARE = 8 << 20, 1 / 16
# Fill level of the journal from which batches may be lost to a store that cannot be written: scoring goes on.
_HELD = 0.75


class EventIngest:
    """A thread that appends each batch to the store once it has been scored.

    The journal keeps batches until the store has them. A store that cannot be written is retried; batches are given up only when
    the journal is nearly full, and the ledger then says so. The same holds for a store that cannot be opened: scoring goes on,
    batches wait in the journal, and opening is tried again every minute.

    Args:
        open_store: opens the store.
        journal: holds the batches.
        scored: sequence up to which batches are scored.
        queued: whether batches wait to be scored; they go first, as they need the same interpreter.
        busy: whether a request waits for its response; time is then shared.
    """

    def __init__(
        self,
        open_store: Callable[[], EventStore],
        journal: Journal,
        scored: Callable[[], int],
        queued: Callable[[], bool] = lambda: False,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store: EventStore | None = None
        self.trouble = ""
        self._open_store = open_store
        self._journal = journal
        self._scored = scored
        self._queued = queued
        self._busy = busy
        self._alerts: dict[str, str] = {}
        self._failures = 0
        self._began = 0.0
        self._recalled = False
        # Number and bytes of the newest records that the store has.
        self._recent: deque[tuple[int, int]] = deque()
        self._recent_bytes = 0
        self._most_recent_bytes = min(_RECENT_BYTES, int(journal.max_bytes * _RECENT_SHARE))
        self._tried = time.monotonic()
        self._after = self._open()
        # A new journal must not reuse sequence numbers that the store has seen.
        journal.follow_on(self._after)
        self._last: JournalPosition | None = None
        self._worker = Worker("events", self._step, seconds=self._pause, finish=self._finish)
        self._stopping = self._worker.closing
        self.start = self._worker.start

    def _open(self) -> int:
        """Open the store, or say why that is impossible; returns the last batch that it has."""
        try:
            self.store = self._open_store()
        except EventStoreUnusableError as error:
            if str(error) != self.trouble:
                _log.error(
                    "events are not kept: scoring goes on without the store", extra={"reason": str(error)}
                )
            self.trouble = str(error)
            return error.position
        self.trouble = ""
        self._recalled = False
        self._recent.clear()
        self._recent_bytes = 0
        return self.store.position

    @property
    def notice(self) -> str | None:
        """What an operator has to know: that the store cannot be opened or archived, or that files in it were set aside."""
        if self.store is None:
            return f"Events are not kept. {self.trouble}"
        if files := self.set_aside():
            where = self.store.folder / SET_ASIDE
            return (
                f"The ledger of the event store does not account for {files} files, which are in {where} now."
            )
        if self.store.archive_trouble:
            return f"Events are kept, but not archived, and none are deleted meanwhile. {self.store.archive_trouble}"
        return None

    def set_aside(self) -> int:
        """Number of files that the ledger does not account for."""
        return 0 if self.store is None else self.store.set_aside()

    def note(self, results: Iterable[Mapping[str, Any]]) -> None:
        """Remember the alerts of scored events."""
        for result in results:
            if "alertID" in result:
                self._alerts[result["auditID"]] = result["alertID"]
        # A plain dict, which another thread may read meanwhile without a lock.
        while len(self._alerts) > _REMEMBERED:
            self._alerts.pop(next(iter(self._alerts)), None)

    def held(self) -> int:
        """Sequence up to which the journal may forget."""
        if self._journal.used > _HELD * self._journal.max_bytes:
            return self._journal.last
        if self.store is None or not self._recalled:
            return 0
        try:
            return min(self.store.position, self._recent[0][0] - 1)
        except IndexError:
            return self.store.position

    def behind(self) -> int:
        """Number of scored batches that are not in the store yet."""
        return max(self._scored() - self._after, 0)

    def wait(self, seconds: float) -> int:
        """Wait at most so long until the store has all batches scored by now; returns how many are missing."""
        upto, deadline = self._scored(), time.monotonic() + seconds
        while self._after < upto and time.monotonic() < deadline:
            time.sleep(_BUSY_SECONDS)
        return max(upto - self._after, 0)

    def _step(self) -> None:
        try:
            if self.store is None and time.monotonic() - self._tried >= _REOPEN_SECONDS:
                self._tried = time.monotonic()
                self._after = self._open()
                if self._after > self._journal.last:  # the numbers of a journal that is gone
                    self._after = 0
            if self.store is not None:
                self._copy(self.store)
                self.store.tick()
            self._failures = 0
        except (OSError, KubehabitError) as error:
            self._failures += 1
            _log.error(
                "events cannot be kept yet", extra={"reason": str(error), "error": type(error).__name__}
            )

    def _pause(self) -> float:
        return min(_PAUSE_SECONDS * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE_SECONDS)

    def _finish(self) -> None:
        try:
            if self.store is not None:
                self._copy(self.store)
        except (OSError, KubehabitError) as error:
            _log.error("events stay in the journal", extra={"reason": str(error)})

    def _copy(self, store: EventStore) -> None:
        """Append what has been scored since the last call."""
        upto, lost = self._scored(), 0
        if upto <= self._after:
            return
        if not self._recalled:
            self._recall(store)
        for place in self._journal.positions(self._after, upto, self._last):
            self._wait_for_scoring()
            lost += place.sequence - self._after - 1
            try:
                taken = self._journal.read(place)
                plain = decompress(taken.body, taken.encoding, taken.size)
                if taken.source == SOURCE:
                    _note_verdict(store, place.sequence, HabitVerdict.from_body(plain))
                    plain = b"[]"
                store.append(
                    plain,
                    received=taken.arrived,
                    batch=place.sequence,
                    alerts=self._alerts,
                    pause=self._yield_interpreter,
                )
            except JournalError:
                lost += 1
            except OSError:
                raise
            except Exception as error:  # a defect must not stop later batches
                lost += 1
                _log.exception(
                    "a batch could not be kept", extra={"record": place.sequence, "error": repr(error)}
                )
            self._after, self._last = place.sequence, place
            self._remember(place)
            store.tick()
            if lost:
                store.note("lost", batches=lost, upto=place.sequence)
                lost = 0

    def _recall(self, store: EventStore) -> None:
        """Let a store that was just opened recognise the newest events it has: a batch whose response got lost comes again."""
        for place in self._journal.positions(0, self._after):
            self._remember(place)
        first = self._recent[0][0] - 1 if self._recent else self._after
        for place in self._journal.positions(first, self._after):
            self._wait_for_scoring()
            try:
                taken = self._journal.read(place)
                store.recall(decompress(taken.body, taken.encoding, taken.size), self._yield_interpreter)
            except Exception as error:  # the store has it all the same
                _log.warning(
                    "a batch is not recognised when it is sent again",
                    extra={"record": place.sequence, "reason": str(error)},
                )
        self._recalled = True

    def _remember(self, place: JournalPosition) -> None:
        """Note that the store has a record, which the journal then keeps for a while."""
        self._recent.append((place.sequence, place.stored))
        self._recent_bytes += place.stored
        while self._recent_bytes > self._most_recent_bytes:
            self._recent_bytes -= self._recent.popleft()[1]

    def _wait_for_scoring(self) -> None:
        """Wait while batches are queued for scoring and the journal has room."""
        while self._queued() and self._journal.used < _PATIENT * self._journal.max_bytes:
            if self._stopping.wait(_BUSY_SECONDS):
                return

    def _yield_interpreter(self) -> None:
        """Between two events: yield the interpreter to waiting requests, for twice as long as it was used."""
        if time.monotonic() - self._began >= _STRETCH_SECONDS:
            if self._busy():
                time.sleep(2 * _STRETCH_SECONDS)
            self._began = time.monotonic()

    def close(self) -> None:
        """Take in what was scored, and seal it."""
        self._worker.close()
        if self.store is not None:
            self.store.close()


def _note_verdict(store: EventStore, sequence: int, given: HabitVerdict) -> None:
    """Name a verdict in the ledger, once: after a crash the journal's record of it may be read again."""
    kind = "verdict"
    if any(
        one.fields.get("kind") == kind and one.fields.get("record") == sequence
        for one in store.ledger.entries
    ):
        return
    store.note(
        kind, record=sequence, alert=given.alert, verdict=given.verdict, by=given.by, address=given.address
    )
