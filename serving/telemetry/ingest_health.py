"""Whether events arrive: how many a second, how late, from whom, and what could not be read; for people, since the start."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

_SPAN_SECONDS = 300
_STEP_SECONDS = 10
#: Senders that are told apart; of more, those that were silent longest are forgotten.
_MOST_SENDERS = 50


@dataclass(frozen=True, slots=True)
class SenderCount:
    """What one sender sent to one route: records by what became of them, and when the last came (seconds since 1970)."""

    name: str
    route: str
    events: int = 0
    rejected: int = 0
    skipped: int = 0
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class IngestFigures:
    """Figures of a moment.

    Attributes:
        per_second: events judged a second over the last five minutes, or since the start if that is shorter.
        lag: seconds from the API server's time of the last batch's oldest event to its verdict; None before the first.
        newest: the API server's time of the newest event, seconds since 1970; None before the first.
        rejected: records that could not be read, since the start.
        senders: those that sent last first.
    """

    per_second: float
    lag: float | None
    newest: float | None
    rejected: int
    senders: list[SenderCount]


class IngestHealth:
    """Counts what arrives; all methods may be called from any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._clock, self._now = clock, now
        self._start = clock()
        self._steps: deque[list[float]] = deque(maxlen=_SPAN_SECONDS // _STEP_SECONDS + 1)
        self._lag: float | None = None
        self._newest: float | None = None
        self._rejected = 0
        self._senders: OrderedDict[tuple[str, str], SenderCount] = OrderedDict()
        self._lock = threading.Lock()

    def judged(self, events: int) -> None:
        """Count events with a verdict."""
        step = self._clock() // _STEP_SECONDS
        with self._lock:
            if not self._steps or self._steps[-1][0] != step:
                self._steps.append([step, 0])
            self._steps[-1][1] += events

    def arrived(self, lag: float, newest: float) -> None:
        """Note how late the oldest event of a batch was judged (seconds), and the time of its newest (since 1970)."""
        self._lag = lag
        self._newest = newest if self._newest is None else max(self._newest, newest)

    def received(self, sender: str, route: str, events: int, rejected: int, skipped: int) -> None:
        """Count the records of a request."""
        key = (sender, route)
        with self._lock:
            held = self._senders.pop(key, None) or SenderCount(sender, route)
            self._senders[key] = replace(
                held,
                events=held.events + events,
                rejected=held.rejected + rejected,
                skipped=held.skipped + skipped,
                last=self._now(),
            )
            self._rejected += rejected
            if len(self._senders) > _MOST_SENDERS:
                self._senders.popitem(last=False)

    def figures(self) -> IngestFigures:
        """The figures now."""
        now = self._clock()
        first = (now - _SPAN_SECONDS) // _STEP_SECONDS
        with self._lock:
            events = sum(number for step, number in self._steps if step > first)
            senders = list(reversed(self._senders.values()))
            rejected = self._rejected
        seconds = min(max(now - self._start, _STEP_SECONDS), _SPAN_SECONDS)
        return IngestFigures(events / seconds, self._lag, self._newest, rejected, senders)
