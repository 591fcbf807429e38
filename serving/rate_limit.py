"""Rate limits: token buckets for requests and bytes, a pair for each caller."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_MAX_CALLERS = 10_000
"""Callers remembered; the one that was silent longest is forgotten, which gives it a full bucket again."""
_ROUNDING = 1e-6
"""Who waits exactly as long as told must not find a billionth missing."""


@dataclass(frozen=True)
class Rate:
    """What a caller may do: so much a second on average, and `burst` seconds' worth of it at once."""

    requests: float
    bytes: float
    burst: float


class Bucket:
    """A token bucket that may go into debt.

    The size of a body is known only when it is there. So what counts is whether anything is left *before*: a large body passes,
    is taken off all the same, and what follows waits until the debt is paid. The average holds, and nothing is half received.
    """

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._at = now

    def wait(self, least: float, now: float) -> float:
        """Seconds until `least` is there; 0 if it is."""
        self._level = min(self._capacity, self._level + self._rate * max(0.0, now - self._at))
        self._at = max(self._at, now)
        missing = least - self._level
        return missing / self._rate if missing > _ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """Take off what was used."""
        self._level -= amount


class Limiter:
    """The buckets of all callers, in bounded memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: OrderedDict[Hashable, tuple[Rate, Bucket, Bucket]] = OrderedDict()

    def request(self, caller: Hashable, rate: Rate) -> float:
        """Count a request that begins: 0 if it may go on, else the seconds after which it may be sent again.

        A request that is sent away is not taken off: who keeps knocking is not locked out for it.
        """
        now = self._clock()
        _, requests, size = self._of(caller, rate, now)
        wait = max(requests.wait(1.0, now), size.wait(min(1.0, rate.bytes * rate.burst), now))
        if wait == 0.0:
            requests.take(1.0)
        return wait

    def received(self, caller: Hashable, rate: Rate, size: int) -> None:
        """Count bytes of a body as they come."""
        self._of(caller, rate, self._clock())[2].take(size)

    def _of(self, caller: Hashable, rate: Rate, now: float) -> tuple[Rate, Bucket, Bucket]:
        found = self._callers.get(caller)
        if (
            found is None or found[0] != rate
        ):  # a new rate, after the tokens file changed, begins with a full bucket
            found = (
                rate,
                Bucket(rate.requests, max(1.0, rate.requests * rate.burst), now),
                Bucket(rate.bytes, rate.bytes * rate.burst, now),
            )
            self._callers[caller] = found
            if len(self._callers) > _MAX_CALLERS:
                self._callers.popitem(last=False)
        self._callers.move_to_end(caller)
        return found
