"""Sends what waits in the outbox: one thread for each sink, so that a slow receiver delays no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.wait import wait_base

from serving.delivery.outbox import Outbox
from serving.process.worker import Worker
from serving.sinks.base import DeliveryRefusedError, Sink, SinkSettings, UnavailableError
from serving.storage.database import StoreError

_log = logging.getLogger("kubehabit.sinks")

#: How often a worker looks for what has become due by the clock alone; new alerts wake it at once.
_LOOK_SECONDS = 1.0

#: What is being sent at the end may still arrive; else it is sent again at the next start.
_STOP_SECONDS = 3.0

#: Called with the name of a sink and what became of an attempt: sent, failed, refused.
Count = Callable[[str, str], None]
#: Called with the name of a sink, a severity, and how many such alerts were dropped.
CountDropped = Callable[[str, str, int], None]


class Dispatcher:
    """Workers of all sinks; `count` is called after every attempt, `dropped` when too many alerts wait.

    Before each further attempt they `wait`: by default a random time, up to double each time, at most `max_wait_seconds`.
    """

    def __init__(
        self,
        outbox: Outbox,
        sinks: Sequence[SinkSettings],
        count: Count,
        dropped: CountDropped,
        wait: wait_base | None = None,
    ) -> None:
        self.outbox = outbox
        self._workers = [_SinkWorker(self.outbox, sink, count, dropped, wait) for sink in sinks]

    def start(self) -> None:
        """Start sending, first what an earlier process left."""
        for worker in self._workers:
            worker.start()

    def wake(self) -> None:
        """Wake the workers: an entry may be due."""
        for worker in self._workers:
            worker.wake()

    def close(self) -> None:
        """Stop. Unsent entries stay in the outbox."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join(_STOP_SECONDS)
        try:
            self.outbox.release()
        except StoreError as error:
            _log.warning("claims could not be given back and end by themselves", extra={"reason": str(error)})


class _SinkWorker(Worker):
    def __init__(
        self,
        outbox: Outbox,
        settings: SinkSettings,
        count: Count,
        dropped: CountDropped,
        wait: wait_base | None,
    ) -> None:
        self._sink: Sink = settings.open()
        super().__init__(
            f"sink-{settings.name}", self._send_due, seconds=_LOOK_SECONDS, finish=self._sink.close
        )
        self._outbox = outbox
        self._settings = settings
        self._count = count
        self._dropped = dropped
        self._retrying = Retrying(
            retry=retry_if_exception_type((UnavailableError, StoreError)),
            wait=wait or wait_random_exponential(multiplier=1, max=settings.max_wait_seconds),
            stop=stop_when_event_set(self.closing),
            sleep=sleep_using_event(self.closing),
            before_sleep=self._failed,
            retry_error_callback=lambda _: False,  # stopped while it waited for another attempt
        )

    def _send_due(self) -> None:
        try:
            # Each attempt takes what is due longest, as it stands by then.
            while self._retrying(self._send_next):
                pass
        except Exception:
            # A defect in one sink's code must neither end its worker nor spin it.
            _log.exception("sink failed unexpectedly", extra={"sink": self._settings.name})
            self._count(self._settings.name, "failed")
            self.closing.wait(self._settings.max_wait_seconds)

    def _send_next(self) -> bool:
        """Send one entry; False if none is due."""
        if self.closing.is_set():
            return False
        for severity, number in self._outbox.trim(self._settings).items():
            about = {"sink": self._settings.name, "severity": severity, "alerts": number}
            _log.error(
                "more alerts wait than max_queued; the least severe and oldest were dropped", extra=about
            )
            self._dropped(self._settings.name, severity, number)
        entry = self._outbox.next(self._settings)
        if entry is None:
            return False
        about = {"sink": self._settings.name, "alert": entry.update.alert.id}
        try:
            self._sink.send(entry.update)
        except DeliveryRefusedError as error:
            self._count(self._settings.name, "refused")
            _log.error("sink refused an alert, which is given up", extra={**about, "reason": str(error)})
            self._outbox.done(self._settings, entry, delivered=False)
        else:
            self._outbox.done(self._settings, entry, delivered=True)
            self._count(self._settings.name, "sent")
            _log.info("alert sent", extra=about)
        return True

    def _failed(self, state: RetryCallState) -> None:
        self._count(self._settings.name, "failed")
        error = state.outcome.exception() if state.outcome is not None else None
        wait = round(state.next_action.sleep, 1) if state.next_action is not None else 0
        extra = {"sink": self._settings.name, "reason": str(error), "again_in_seconds": wait}
        _log.warning("sink is unavailable", extra=extra)
