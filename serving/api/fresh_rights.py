"""Roles, bindings and what was used of them, for the API and the console: read again when they change, or after a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import accumulate
from typing import Any

from cachetools import LRUCache

from data.timestamps import is_time, parse_times
from detection.authorization.changes import Change
from detection.authorization.escalation import Escalation
from detection.authorization.least_privilege import WhatIf, what_if_used
from detection.authorization.rbac import ObjectKey
from detection.authorization.right_index import RightIndex
from serving.authorization.monitor import CurrentRights
from serving.authorization.overview import RightsBy, RightsRow, rights_rows
from serving.forensics import clock
from serving.forensics.rights import UsedRights, used_in_periods, used_rights
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.storage.tables import as_moment

#: How long what was used is shown as it was read, and spans that are remembered.
_FRESH_SECONDS, _SPANS = 60.0, 8
_WAIT_SECONDS = 10.0
_DAY = 86_400_000_000


@dataclass(frozen=True, slots=True)
class ReadUsage:
    """What was used of rights in a span, as it was read.

    Attributes:
        since: start of the span, microseconds since 1970 UTC.
        read: when it was read, by the monotonic clock.
    """

    since: int
    used: UsedRights
    read: float


class RightsBook:
    """Rights as they stand, with what was used of them: what pages about rights are made of.

    Attributes:
        current: roles and bindings.
        escalation: who can become whom.
        usage: what was used.
    """

    def __init__(self, current: CurrentRights, escalation: Escalation, usage: ReadUsage) -> None:
        self.current = current
        self.escalation = escalation
        self.usage = usage
        self._rows: dict[RightsBy, list[RightsRow]] = {}

    @cached_property
    def index(self) -> RightIndex:
        """The rights of everybody, with their uses."""
        return RightIndex(self.current.rbac, self.usage.used.users)

    def rows(self, by: RightsBy) -> list[RightsRow]:
        """Everybody, every group or every binding in numbers."""
        if by not in self._rows:
            self._rows[by] = rights_rows(self.index, self.escalation, by)
        return self._rows[by]


@dataclass(frozen=True, slots=True)
class TriedChange:
    """What a change of roles and bindings would have denied, by the rules as they stood at each moment.

    Attributes:
        found: what it would have denied.
        undone: changes within the span that were undone to know the rules of earlier moments.
        known_since: from when on the rules are known, if that is within the span; earlier requests were compared with the
            rules of then. None: they are known for all of it.
        whole: whether all different requests of the span were compared.
    """

    found: WhatIf
    undone: int
    known_since: datetime | None
    whole: bool


def _dated(changes: Sequence[Change]) -> list[tuple[int, Change]]:
    """Changes with the times at which they took effect, microseconds since 1970 UTC, ascending as they are in the log."""
    times = [int(parse_times([one.time])[0]) if is_time(one.time) else 0 for one in changes]
    return list(zip(accumulate(times, max), changes, strict=True))


class FreshRights:
    """Rights of one service, cached for all who read."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turn = threading.Lock()
        self._usage: LRUCache[float, ReadUsage] = LRUCache(_SPANS)
        self._books: LRUCache[float, RightsBook] = LRUCache(_SPANS)
        self._escalation: tuple[CurrentRights, Escalation] | None = None

    def known(self) -> CurrentRights | None:
        """As `current`; None without a snapshot."""
        try:
            return self._service.rights()
        except TimeoutError:
            raise ProblemError(503, "A batch is being scored: try again.", {"Retry-After": "2"}) from None

    def current(self) -> CurrentRights:
        """Roles and bindings as they stand after what was scored until now.

        Raises:
            ProblemError: no snapshot is set, or the scoring thread is busy for too long.
        """
        rights = self.known()
        if rights is None:
            raise ProblemError(
                404, "The service has no roles and bindings: set authorization.snapshot in serve.yaml."
            )
        return rights

    def escalation(self) -> Escalation:
        """Who can become whom; raises as `current`."""
        return self._escalation_of(self.current())

    def _escalation_of(self, current: CurrentRights) -> Escalation:
        known = self._escalation
        if known is None or known[0] is not current:
            made = Escalation(current.rbac, on_nodes=current.on_nodes)
            known = self._escalation = current, made
        return known[1]

    def book(self, days: float) -> RightsBook:
        """Rights with what was used of them in the last days.

        Raises:
            ProblemError: no snapshot is set, there is no event store, or it is busy.
            QueryError: it took too long.
        """
        current = self.current()
        with self._turn:
            usage = self._usage.get(days)
            if usage is None or time.monotonic() - usage.read > _FRESH_SECONDS:
                usage = self._usage[days] = self._read(days)
            book = self._books.get(days)
            if book is None or book.current is not current or book.usage is not usage:
                book = self._books[days] = RightsBook(current, self._escalation_of(current), usage)
            return book

    def unread_book(self) -> RightsBook:
        """Rights without what was used of them; raises as `current`."""
        current = self.current()
        nothing = ReadUsage(clock.now(), UsedRights({}, 0, False), time.monotonic())
        return RightsBook(current, self._escalation_of(current), nothing)

    def what_if(
        self, days: float, proposed: Sequence[Mapping[str, Any]], removed: Sequence[ObjectKey]
    ) -> TriedChange:
        """What a change would have denied of what was done in the last days; raises as `book`.

        Args:
            days: number of them.
            proposed: roles and bindings to put in.
            removed: roles and bindings to take out.
        """
        current = self.current()
        since = clock.now() - int(days * _DAY)
        dated = _dated(current.changes)
        known_since = None
        if not current.whole and dated and dated[0][0] > since:
            known_since = as_moment(dated[0][0])
        recent = [one for one in dated if one[0] > since]
        cuts = sorted({time for time, _ in recent})
        self._service.wait_for_events(_WAIT_SECONDS)
        used = self._service.forensics.ask(lambda queries: used_in_periods(queries, since, cuts))
        ended = [[change for time, change in recent if time == cut] for cut in cuts] + [[]]
        periods = [(changes, one.users) for changes, one in zip(ended, used, strict=True)]
        found = what_if_used(current.rbac, reversed(periods), proposed, removed)
        return TriedChange(found, len(recent), known_since, all(one.whole for one in used))

    def _read(self, days: float) -> ReadUsage:
        since = clock.now() - int(days * _DAY)
        self._service.wait_for_events(_WAIT_SECONDS)
        used = self._service.forensics.ask(lambda queries: used_rights(queries, since))
        return ReadUsage(since, used, time.monotonic())
