"""How many different objects of one kind a person reads within a short time: a harvest shows in it, whatever each object is.

Controllers and pipelines go over all objects of a kind by their nature, so only people are followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

#: Field -> microseconds in which different objects are counted: what a script does at once, and what a hand does one by one.
SPANS: Mapping[str, int] = {"burst": 20_000_000, "spread": 600_000_000}
_LONGEST = max(SPANS.values())

#: Objects that are remembered of one reader and kind of request; more are as many.
_MOST = 256
#: Characters of the longest resource that is followed. Kubernetes accepts no longer names, a client may ask for one.
_RESOURCE_LENGTH = 3 * 254
NOT_MANY = "-"


class Read(NamedTuple):
    """A request of a person for one named object."""

    reader: str
    verb: str
    resource: str
    object: int  # stable hash of its namespace and name


def is_followed(resource: str) -> bool:
    """Whether reads of a resource are followed."""
    return len(resource) <= _RESOURCE_LENGTH


def step(count: int) -> str:
    """Value of a count of objects, in powers of two: `-` for one, `4 or more` for 4 to 7."""
    return f"{1 << (count.bit_length() - 1)} or more" if count > 1 else NOT_MANY


class ReadTracker:
    """Remembers which objects each person has read within the longest span. Takes reads in the order of the log.

    Args:
        capacity: objects remembered of all readers together; beyond it those of the readers longest quiet are forgotten.
    """

    def __init__(self, capacity: int = 65_536) -> None:
        self._capacity = capacity
        self._held = 0
        #: (reader, verb, resource) -> object -> when it was read last, the latest at the end.
        self._times: dict[tuple[str, str, str], dict[int, int]] = {}
        #: Since `checkpoint`: what was held of each key that was changed.
        self._before: dict[tuple[str, str, str], dict[int, int]] | None = None

    def follow(self, read: Read, time: int) -> tuple[str, ...]:
        """Note a read at a time in microseconds; returns the value of each field of SPANS."""
        if self._held >= self._capacity:
            self._forget_quiet()
        key = read[:3]
        times = self._times.setdefault(key, {})
        if self._before is not None and key not in self._before:
            self._before[key] = dict(times)
        self._held -= len(times)
        times.pop(read.object, None)
        times[read.object] = time  # at the end
        if len(times) > _MOST:
            del times[next(iter(times))]
        for one in [one for one, when in times.items() if when < time - _LONGEST]:
            del times[one]
        self._held += len(times)
        return tuple(
            step(sum(when >= time - span for when in times.values()) if span < _LONGEST else len(times))
            for span in SPANS.values()
        )

    def _forget_quiet(self) -> None:
        """Forget half of what is held, that of the readers longest quiet."""
        quiet = sorted(self._times, key=lambda key: (max(self._times[key].values()), key))
        for key in quiet:
            times = self._times.pop(key)
            if self._before is not None:
                self._before.setdefault(key, times)
            self._held -= len(times)
            if self._held <= self._capacity // 2:
                return

    def checkpoint(self) -> Callable[[], None]:
        """Returns what forgets all reads noted from now on; to be called before the next checkpoint, if at all."""
        before = self._before = {}

        def undo() -> None:
            for key, times in before.items():
                self._held += len(times) - len(self._times.pop(key, ()))
                if times:
                    self._times[key] = times

        return undo

    def copy(self) -> ReadTracker:
        """Independent copy."""
        return ReadTracker.from_list(self.to_list(), self._capacity)

    def to_list(self) -> list[list[Any]]:
        """JSON form of what is remembered, to continue a stream later."""
        return [[*key, list(times.items())] for key, times in self._times.items()]

    @classmethod
    def from_list(cls, saved: Iterable[Sequence[Any]], capacity: int = 65_536) -> ReadTracker:
        """Inverse of `to_list`."""
        tracker = cls(capacity)
        for reader, verb, resource, times in saved:
            tracker._times[reader, verb, resource] = {int(one): int(when) for one, when in times}
            tracker._held += len(times)
        return tracker
