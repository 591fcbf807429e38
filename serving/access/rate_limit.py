"""Rate limits: token buckets for requests and bytes, a pair for each caller."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from cachetools import LRUCache

# Callers remembered; a forgotten one starts again with full buckets.
_MAX_CALLERS = 10_000
# Tolerance for float rounding: a caller that waits `Retry-After` must pass.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class CallerRate:
    """Requests and bytes a second on average; up to `burst` seconds' worth at once."""

    requests: float
    bytes: float
    burst: float


class Bucket:
    """A token bucket that may go into debt.

    A body's size is known only after it arrived, so a large body passes if anything is left, and the next request waits until the
    debt is paid: the average holds, and nothing is half received.
    """

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._at = now

    def wait(self, least: float, now: float) -> float:
        """Seconds until `least` is available."""
        self._level = min(self._capacity, self._level + self._rate * max(0.0, now - self._at))
        self._at = max(self._at, now)
        missing = least - self._level
        return missing / self._rate if missing > _ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """Subtract what was used."""
        self._level -= amount


class Limiter:
    """A pair of buckets for each caller, in bounded memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: LRUCache[Hashable, tuple[CallerRate, Bucket, Bucket]] = LRUCache(_MAX_CALLERS)

    def request(self, caller: Hashable, rate: CallerRate) -> float:
        """Count a request. Returns 0 if it is allowed, else the seconds to wait.

        A refused request is not subtracted, so retrying too early locks nobody out.
        """
        now = self._clock()
        _, requests, size = self._of(caller, rate, now)
        wait = max(requests.wait(1.0, now), size.wait(min(1.0, rate.bytes * rate.burst), now))
        if wait == 0.0:
            requests.take(1.0)
        return wait

    def received(self, caller: Hashable, rate: CallerRate, size: int) -> None:
        """Count bytes of a body as they come."""
        self._of(caller, rate, self._clock())[2].take(size)

    def _of(self, caller: Hashable, rate: CallerRate, now: float) -> tuple[CallerRate, Bucket, Bucket]:
        found = self._callers.get(caller)
        if found is None or found[0] != rate:  # after a change of the tokens file: full buckets
            found = self._callers[caller] = (
                rate,
                Bucket(rate.requests, max(1.0, rate.requests * rate.burst), now),
                Bucket(rate.bytes, rate.bytes * rate.burst, now),
            )
        return found


def network_of(address: str) -> str:
    """The network that counts as one client: an IPv4 address, or the /64 of an IPv6 address, which one host may use up."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4 or parsed.ipv4_mapped is not None:
        return str(getattr(parsed, "ipv4_mapped", None) or parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
