"""Brings what the journal holds into the event store, beside the scoring and never in its way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data.errors import KubehabitError
from serving.body import decompress
from serving.forensics.store import EventStore
from serving.journal import Journal, JournalError, Place
from serving.worker import Worker

_log = logging.getLogger("kubehabit.events")
_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 15.0
_BUSY_SECONDS = 0.02
_STRETCH_SECONDS = 0.001
_PATIENT = 0.5
"""Part of a full journal up to which scoring goes first."""

_REMEMBERED = 10_000
"""Unusual events whose alert is remembered until the store has them."""

_HELD = 0.75
"""Part of a full journal from which the store holds nothing back: if it cannot write for so long, scoring goes first."""


class Follower:
    """A thread that takes each batch into the store once it was scored.

    The journal keeps batches until the store has them too. A store that cannot be written is tried again; only when the journal
    is nearly full are batches given up, which the ledger then says.

    Args:
        store: takes the batches.
        journal: holds them.
        scored: sequence up to which batches are scored.
        queued: whether batches wait to be scored: they go first, as both need the interpreter, and what waits here is safe.
        busy: whether anybody waits for an answer: time is shared with them.
    """

    def __init__(
        self,
        store: EventStore,
        journal: Journal,
        scored: Callable[[], int],
        queued: Callable[[], bool] = lambda: False,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._journal = journal
        self._scored = scored
        self._queued = queued
        self._busy = busy
        self._alerts: dict[str, str] = {}
        self._failures = 0
        self._began = 0.0
        # Were the journal's folder new, its numbers must not be those that the store has seen.
        journal.follow_on(store.position)
        self._after = store.position
        self._last: Place | None = None
        journal.hold = self.held
        self._worker = Worker("events", self._step, seconds=self._pause, finish=self._finish)
        self._stopping = self._worker.closing
        self.start = self._worker.start

    def note(self, results: Iterable[Mapping[str, Any]]) -> None:
        """Remember which events became part of which alert; called when they are scored."""
        for result in results:
            if "alertID" in result:
                self._alerts[result["auditID"]] = result["alertID"]
        while len(self._alerts) > _REMEMBERED:
            self._alerts.pop(next(iter(self._alerts)), None)

    def held(self) -> int:
        """Sequence up to which the journal may forget."""
        if self._journal.used > _HELD * self._journal.max_bytes:
            return self._journal.last
        return self._store.position

    def behind(self) -> int:
        """Batches that are scored and not in the store yet."""
        return max(self._scored() - self._after, 0)

    def wait(self, seconds: float) -> int:
        """Wait until all that is scored now is in the store, but no longer than that.

        Returns:
            Batches that are still missing.
        """
        upto, deadline = self._scored(), time.monotonic() + seconds
        while self._after < upto and time.monotonic() < deadline:
            time.sleep(_BUSY_SECONDS)
        return max(upto - self._after, 0)

    def _step(self) -> None:
        try:
            self._take()
            self._store.tick()
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
            self._take()
        except (OSError, KubehabitError) as error:
            _log.error("events stay in the journal", extra={"reason": str(error)})

    def _take(self) -> None:
        """Take in what has been scored since the last time."""
        upto = self._scored()
        if upto <= self._after:
            return
        lost = 0
        for place in self._journal.between(self._after, upto, self._last):
            self._give_way()
            lost += place.sequence - self._after - 1
            try:
                taken = self._journal.read(place)
                body = decompress(taken.body, taken.encoding, taken.size)
                self._store.take(
                    body,
                    received=taken.arrived,
                    batch=place.sequence,
                    alerts=self._alerts,
                    between=self._breathe,
                )
            except JournalError:
                lost += 1
            except OSError:
                raise
            except Exception as error:  # a defect must not stop all that follows
                lost += 1
                _log.exception(
                    "a batch could not be kept", extra={"record": place.sequence, "error": repr(error)}
                )
            self._after, self._last = place.sequence, place
            self._store.tick()
            if lost:
                self._store.note("lost", batches=lost, upto=place.sequence)
                lost = 0

    def _give_way(self) -> None:
        """Wait while batches wait to be scored, as long as the journal has room for what waits here."""
        while self._queued() and self._journal.used < _PATIENT * self._journal.max_bytes:
            if self._stopping.wait(_BUSY_SECONDS):
                return

    def _breathe(self) -> None:
        """Between two events: every now and then leave the interpreter to who waits for an answer, for twice as long."""
        moment = time.monotonic()
        if moment - self._began >= _STRETCH_SECONDS:
            if self._busy():
                time.sleep(2 * _STRETCH_SECONDS)
                moment = time.monotonic()
            self._began = moment

    def close(self) -> None:
        """Take in what was scored, and seal it."""
        self._worker.close()
        self._store.close()
