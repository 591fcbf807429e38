"""The habits of one principal from the event store: times, places, actions, addresses, clients, and how its peers differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from serving.forensics import clock
from serving.forensics.queries import ALLOWED, WHAT, EventFilter, EventQueries, RecordSource

_OBJECT = ("what", "namespace", "name")

# Grouping sets: name, columns, and how many of the most frequent are returned.
_SETS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("week", ("weekday", "hour"), 168),
    ("namespaces", ("namespace",), 12),
    ("resources", ("what",), 12),
    ("verbs", ("verb",), 12),
    ("deeds", ("verb", "what"), 60),
    ("objects", _OBJECT, 12),
    ("addresses", ("source_ips",), 12),
    ("user_agents", ("user_agent",), 12),
)
_DIMENSIONS = ("weekday", "hour", "namespace", "what", "verb", "name", "source_ips", "user_agent")
_REFUSALS = 12
_DIFFERENCES = 15


class Habit(msgspec.Struct, rename="camel", frozen=True):
    """Something a principal does: count, refusals, first and last time (RFC 3339, UTC)."""

    value: str
    count: int
    refused: int
    first: str
    last: str


class VerbCount(msgspec.Struct, rename="camel", frozen=True):
    """How often a principal used a verb on a resource."""

    verb: str
    resource: str
    count: int


class Refusal(msgspec.Struct, rename="camel", frozen=True):
    """A refused request: status code, what was asked for, count, and last time."""

    code: int
    verb: str
    resource: str
    namespace: str
    count: int
    last: str


class PrincipalHabits(msgspec.Struct, rename="camel", frozen=True):
    """The habits of one principal; `week` counts events by day of the week (Monday first) and hour of the day (UTC)."""

    principal: str
    count: int
    refused: int
    first: str
    last: str
    store_begins: str | None
    week: list[list[int]]
    namespaces: list[Habit]
    resources: list[Habit]
    verbs: list[Habit]
    deeds: list[VerbCount]
    objects: list[Habit]
    addresses: list[Habit]
    user_agents: list[Habit]
    refusals: list[Refusal]


class ComparedAction(msgspec.Struct, rename="camel", frozen=True):
    """An action: how often the principal does it, and how many of its peers do."""

    verb: str
    resource: str
    count: int
    peers: int


class PeerComparison(msgspec.Struct, rename="camel", frozen=True):
    """A principal compared with its peers, of which `active` many have events in this time."""

    principal: str
    peers: list[str]
    active: int
    both: list[ComparedAction]
    only_it: list[ComparedAction]
    only_peers: list[ComparedAction]


def habits_of(
    queries: EventQueries, principal: str, since: int | None = None, until: int | None = None
) -> PrincipalHabits | None:
    """The habits of a principal, by folded name or as logged; None without events. Times are as in EventFilter."""
    condition, values = EventFilter(principal=principal, since=since, until=until).sql()
    # Read once: finding the events of one principal is most of the work.
    gathered = (
        f"CREATE TEMP TABLE seen AS SELECT time, isodow(time) AS weekday, hour(time) AS hour, namespace, {WHAT} AS what, verb, "
        f"name, source_ips, user_agent, code, {ALLOWED} AS allowed FROM {{records}} "
        f"WHERE {condition} AND stage <> 'RequestReceived'"
    )
    sets = ", ".join(f"({', '.join(columns)})" for _, columns, _ in _SETS)
    dimensions = ", ".join(_DIMENSIONS)
    most = " ".join(f"WHEN {_grouping(columns)} THEN {limit}" for _, columns, limit in _SETS)
    counted = f"""
        SELECT GROUPING({dimensions}) AS which, {dimensions}, count(*) AS times, count(*) FILTER (NOT allowed) AS refused,
            epoch_us(min(time)), epoch_us(max(time))
        FROM seen GROUP BY GROUPING SETS ({sets})
        -- Listings are of no object: they would push the named ones out of the most frequent.
        HAVING GROUPING({dimensions}) <> {_grouping(_OBJECT)} OR name <> ''
        QUALIFY row_number() OVER (PARTITION BY GROUPING({dimensions}) ORDER BY count(*) DESC, {dimensions})
            <= CASE which {most} END"""
    refused = f"""
        SELECT code, verb, what, namespace, count(*), epoch_us(max(time)) FROM seen WHERE NOT allowed
        GROUP BY ALL ORDER BY count(*) DESC, max(time) DESC LIMIT {_REFUSALS}"""
    span = (
        "SELECT count(*), count(*) FILTER (NOT allowed), epoch_us(min(time)), epoch_us(max(time)) FROM seen"
    )

    def ask(source: RecordSource) -> PrincipalHabits | None:
        source.all(gathered, values)
        total = source.all(span)[0]
        if not total[0]:
            return None
        found: dict[int, list[Sequence[Any]]] = defaultdict(list)
        for counts in source.all(counted):
            found[counts[0]].append(counts[1:])
        named = {name: found.get(_grouping(columns), []) for name, columns, _ in _SETS}
        week = [[0] * 24 for _ in range(7)]
        for row in named["week"]:
            week[row[0] - 1][row[1]] = row[-4]
        return PrincipalHabits(
            principal=principal,
            count=total[0],
            refused=total[1],
            first=clock.written(total[2]),
            last=clock.written(total[3]),
            store_begins=None,
            week=week,
            deeds=[VerbCount(row[4], row[3], row[-4]) for row in named["deeds"]],
            objects=_habits(named["objects"], _OBJECT, " /"),
            **{name: _habits(named[name], columns) for name, columns, _ in _SETS if len(columns) == 1},
            refusals=[
                Refusal(code, verb, what, place, times, clock.written(last))
                for code, verb, what, place, times, last in source.all(refused)
            ],
        )

    habits = queries.answer(since, until, ask)
    if habits is None:
        return None
    earliest = queries.earliest()
    return msgspec.structs.replace(habits, store_begins=None if earliest is None else clock.written(earliest))


def compared(
    queries: EventQueries,
    principal: str,
    peers: Sequence[str],
    since: int | None = None,
    until: int | None = None,
) -> PeerComparison:
    """Compare a principal with its peers, all by folded name; the span is half-open, microseconds since 1970 UTC."""
    condition, values = EventFilter(since=since, until=until).sql()
    query = f"""
        SELECT principal, verb, {WHAT} AS what, count(*) FROM {{records}}
        WHERE {condition} AND principal IN (SELECT unnest(?::VARCHAR[])) AND stage <> 'RequestReceived' GROUP BY ALL"""
    names = [principal, *(name for name in peers if name != principal)]
    rows = queries.answer(since, until, lambda source: source.all(query, [*values, names]))
    own = {(verb, what): count for name, verb, what, count in rows if name == principal}
    of_peers = Counter((verb, what) for name, verb, what, _ in rows if name != principal)
    together = sorted(
        (ComparedAction(*action, own.get(action, 0), of_peers[action]) for action in {*own, *of_peers}),
        key=lambda one: (-one.count, -one.peers, one.verb, one.resource),
    )
    return PeerComparison(
        principal=principal,
        peers=names[1:],
        active=len({name for name, *_ in rows if name != principal}),
        both=[one for one in together if one.count and one.peers][:_DIFFERENCES],
        only_it=[one for one in together if not one.peers][:_DIFFERENCES],
        only_peers=[one for one in together if not one.count][:_DIFFERENCES],
    )


def _grouping(columns: Sequence[str]) -> int:
    """Value of SQL's GROUPING() for rows grouped by these columns: a bit for each dimension that is not among them."""
    bits = [column not in columns for column in _DIMENSIONS]
    return sum(bit << place for place, bit in enumerate(reversed(bits)))


def _habits(rows: Sequence[Sequence[Any]], columns: Sequence[str], between: str = "") -> list[Habit]:
    """Rows of a grouping as habits, with the signs `between` before further columns; empty values are left out."""
    places = [_DIMENSIONS.index(column) for column in columns]
    found = []
    for row in rows:
        values = [str(row[place]) for place in places]
        value = values[0] + "".join(sign + one for sign, one in zip(between, values[1:], strict=True) if one)
        if value:
            found.append(Habit(value, row[-4], row[-3], clock.written(row[-2]), clock.written(row[-1])))
    return found
