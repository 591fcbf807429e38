"""The days of which the log had anything: the clock by which an account is said to have been silent.

Time alone would not do: a model of a log of last year, or a pipeline that stood still, would make every account silent at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

#: Microseconds.
DAY = 86_400_000_000
#: More than ten years; of more, the earliest are forgotten.
MAX_DAYS = 4_000


class WatchedDays:
    """Counts days, in UTC, on which anything happened.

    Args:
        days: known ones, in days since 1970.
    """

    def __init__(self, days: Iterable[int] = ()) -> None:
        self._days = sorted(set(days))[-MAX_DAYS:]

    def learn(self, times: Sequence[int]) -> None:
        """Take in when something happened, microseconds since 1970 UTC."""
        if not times:
            return
        first, last = min(times) // DAY, max(times) // DAY
        if last - first <= 1 and {first, last}.issubset(self._days[-2:]):
            return
        for day in {time // DAY for time in times}.difference(self._days):
            insort(self._days, day)
        del self._days[:-MAX_DAYS]

    def between(self, earlier: int, later: int) -> int:
        """Days after that of one time and before that of another."""
        return max(bisect_left(self._days, later // DAY) - bisect_right(self._days, earlier // DAY), 0)

    def to_list(self) -> list[int]:
        """All days, the earliest first."""
        return list(self._days)
