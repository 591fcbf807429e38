"""Keeps the time of receipt, by which alerts age: the host's clock, unless that jumps ahead."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger("kubehabit.store")

_DAY = 86_400_000_000

#: Times the pace of real time at which the time of receipt follows a clock that jumped ahead: one that is wrong by 400 days
#: may stay so for 17 days before it counts as right, and a service that was off for 60 days waits for 60 hours.
_PACE = 24


class ReceiptClock:
    """Microseconds since 1970 UTC, by the host's clock as far as that is plausible; safe to use by several threads.

    It is plausible up to a day ahead of what the monotonic clock says has passed. Beyond that, age means nothing: `suspended` is
    true, and the time of receipt catches up slowly. A clock that is set back is followed at once: things are then deleted later.

    Args:
        wall: nanoseconds since 1970 UTC by the host's clock.
        monotonic: nanoseconds since any moment.
    """

    def __init__(
        self, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._lock = threading.Lock()
        self._now, self._ticks = wall() // 1000, monotonic() // 1000
        self._ahead, self._suspended = 0, False

    def start_from(self, receipt: int, tolerance: int) -> None:
        """Continue from the newest stored receipt if the host's clock is further ahead of it than `tolerance` microseconds."""
        with self._lock:
            if self._now - receipt > tolerance:
                self._now = receipt
        self.now()

    def now(self) -> int:
        """The time of receipt."""
        with self._lock:
            wall, ticks = self._wall() // 1000, self._monotonic() // 1000
            elapsed, self._ticks = ticks - self._ticks, ticks
            ahead = wall - self._now - elapsed
            self._now = wall if ahead <= _DAY else min(wall, self._now + _PACE * elapsed)
            self._ahead = ahead
            return self._now

    @property
    def suspended(self) -> bool:
        """Whether the host's clock is not believed, so that nothing may be deleted by age; a change is logged."""
        self.now()
        suspended, days = self._ahead > _DAY, self._ahead / _DAY
        if suspended and not self._suspended:
            _log.warning(
                "the host's clock is ahead of the last receipt: nothing is deleted by age until it is right, or trusted",
                extra={"days_ahead": round(days, 1), "trusted_in_hours": round(days * 24 / _PACE)},
            )
        elif self._suspended and not suspended:
            _log.info("the host's clock is plausible again: alerts are deleted by age as before")
        self._suspended = suspended
        return suspended
