"""Exceptions made by hand: what a principal or a peer group may do for a while without an alert.

What an exception matches adds no evidence and becomes no habit: when the exception has expired, it is judged as if it had never
been done. Patterns are exact, or a prefix that ends with `*`; texts of a log meet nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from data.errors import KubehabitError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Fields of an action that an exception may name, and its key for each.
DEED: Mapping[str, str] = {
    "verb": "verbs",
    "resource": "resources",
    "namespace": "namespaces",
    "name": "names",
}
_MAX_TEXT = 1000


class HabitException(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One exception. Everything that it names must match; lists that are empty match anything.

    Attributes:
        name: unique; cited by whatever it allowed.
        reason: why, for those who read it later.
        expires: until when, by the time of the event, in RFC 3339; a day means its end in UTC.
        principal: pattern of who; empty for any of the group.
        group: pattern of the peer group; empty for any.
        verbs, resources, namespaces, names: patterns of what, in the words of alerts: `connect`, `apps/deployments`.
        by: who made it.
    """

    name: str
    reason: str
    expires: str
    principal: str = ""
    group: str = ""
    verbs: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    by: str = ""

    @property
    def until(self) -> datetime:
        """When it expires; raises ValueError if that is no time."""
        moment = datetime.fromisoformat(self.expires)
        if len(self.expires) == len("2026-12-24"):
            moment = datetime.combine(moment, time.max)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

    def covers(self, principal: str, group: str) -> bool:
        """Whether it is about a principal of a peer group."""
        return _matches((self.principal,) if self.principal else (), principal) and _matches(
            (self.group,) if self.group else (), group
        )

    def allows(self, values: Sequence[str]) -> bool:
        """Whether it allows a deed, given by the values of DEED's fields."""
        patterns = (self.verbs, self.resources, self.namespaces, self.names)
        return all(map(_matches, patterns, values))


def _matches(patterns: Iterable[str], text: str) -> bool:
    """Whether one of the patterns matches, or there is none."""
    none = True
    for pattern in patterns:
        none = False
        if text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern:
            return True
    return none


@dataclass(frozen=True, slots=True)
class AllowedAction:
    """An action that would have been flagged, but for an exception.

    Attributes:
        exception: its name.
        evidence, threshold: decades.
        severity: that it would have had.
    """

    exception: str
    evidence: float
    threshold: float
    severity: str


class HabitExceptions:
    """All exceptions of a service; raises KubehabitError for one that is wrong."""

    def __init__(self, entries: Sequence[HabitException] = ()) -> None:
        for entry in entries:
            _check(entry)
        names = [entry.name for entry in entries]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise KubehabitError(f"Two exceptions are called {doubled[0]!r}: give each a name of its own.")
        self.entries = tuple(entries)
        self._until = [(entry.until - _EPOCH) // datetime.resolution for entry in entries]
        self._covering: dict[tuple[str, str], list[int]] = {}

    @classmethod
    def from_list(cls, given: Any) -> HabitExceptions:
        """From plain values, as YAML has them; raises KubehabitError."""
        try:
            # YAML reads a day or a time as such.
            plain = [
                {key: one.isoformat() if isinstance(one, date) else one for key, one in entry.items()}
                for entry in given or []
            ]
            return cls(msgspec.convert(plain, list[HabitException]))
        except (AttributeError, TypeError) as error:
            raise KubehabitError("the exceptions cannot be understood: each is a mapping.") from error
        except msgspec.ValidationError as error:
            raise KubehabitError(f"the exceptions cannot be understood: {error}.") from error

    def __len__(self) -> int:
        return len(self.entries)

    def expired(self, now: datetime) -> list[HabitException]:
        """Those that no longer hold."""
        return [entry for entry in self.entries if entry.until < now]

    def covering(self, principal: str, group: str) -> list[int]:
        """Indices of the exceptions for a principal; those found are remembered."""
        found = self._covering.get((principal, group))
        if found is None:
            if len(self._covering) > 100_000:
                self._covering.clear()
            found = [row for row, entry in enumerate(self.entries) if entry.covers(principal, group)]
            self._covering[principal, group] = found
        return found

    def match(self, candidates: Iterable[int], moment: int, values: Sequence[str]) -> int:
        """Index of the first of these exceptions that allows a deed at a time (microseconds since 1970 UTC); -1 for none."""
        for row in candidates:
            if moment <= self._until[row] and self.entries[row].allows(values):
                return row
        return -1


def _check(entry: HabitException) -> None:
    """Raise KubehabitError for an exception that says too little."""
    where = f"exception {entry.name!r}"
    if not entry.name or len(entry.name) > 64 or not all(one.isalnum() or one in "-_." for one in entry.name):
        raise KubehabitError(f"{where}: a name has at most 64 letters, digits, dots, dashes and underscores.")
    if not entry.reason.strip():
        raise KubehabitError(f"{where} needs a reason: say why it is allowed.")
    if not (entry.principal.strip("*") or entry.group.strip("*")):
        raise KubehabitError(
            f"{where} needs a principal or a group: an exception for everybody would hide attacks."
        )
    try:
        entry.until.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise KubehabitError(
            f"{where}: {entry.expires!r} is no day such as 2026-12-24, and no time."
        ) from error
    patterns = [*entry.verbs, *entry.resources, *entry.namespaces, *entry.names]
    if not any(pattern.strip("*") for pattern in patterns):
        raise KubehabitError(f"{where} needs a deed: name verbs, resources, namespaces or names.")
    for pattern in (*patterns, entry.principal, entry.group):
        if "*" in pattern[:-1]:
            raise KubehabitError(f"{where}: {pattern!r} may have a * at its end only.")
    if any(
        len(text) > _MAX_TEXT for text in (*patterns, entry.principal, entry.group, entry.reason, entry.by)
    ):
        raise KubehabitError(f"{where}: a text in it is longer than {_MAX_TEXT:,} characters.")


def none_of(count: int) -> npt.NDArray[np.int64]:
    """Index of the exception of each of so many actions: none, int64 [N]."""
    return np.full(count, -1, np.int64)
