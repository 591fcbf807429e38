"""What each user did with its rights, and who asked for some requests, out of the event store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from detection.authorization.containment import SuspectRequest
from detection.authorization.requests import access_request
from detection.authorization.usage import UserUsage
from serving.forensics import clock
from serving.forensics.queries import EventQueries, RecordSource

#: Different requests that are read; more than that is no habit of anybody but a scan.
_MOST = 200_000
_NOT_USED = "401, 403"
#: Of the path only what decides: a field selector may name an object.
_PATH = "CASE WHEN contains(path, 'fieldSelector') THEN path ELSE split_part(path, '?', 1) END"
_PERIOD = "len(list_filter(?::BIGINT[], lambda cut: cut <= epoch_us(time)))"
_ACTED_AS = "CASE WHEN impersonated <> '' THEN impersonated ELSE username END"
_USED = f"stage = 'ResponseComplete' AND decision = 'allow' AND code NOT IN ({_NOT_USED})"


@dataclass(frozen=True, slots=True)
class UsedRights:
    """What users did with their rights.

    Attributes:
        users: by user name as logged, or as impersonated.
        requests: number of requests behind it.
        whole: whether all different requests of the span are in it.
    """

    users: dict[str, UserUsage]
    requests: int
    whole: bool


class _Asked(msgspec.Struct):
    username: str = ""
    groups: list[str] = []


class _Event(msgspec.Struct):
    user: _Asked = msgspec.field(default_factory=_Asked)
    impersonatedUser: _Asked | None = None


_DECODE = msgspec.json.Decoder(_Event)


def _groups(text: str) -> tuple[str, ...]:
    try:
        event = _DECODE.decode(text)
    except msgspec.MsgspecError:
        return ()
    return tuple((event.impersonatedUser or event.user).groups)


def used_rights(
    queries: EventQueries, since: int, until: int | None = None, without: Collection[str] = ()
) -> UsedRights:
    """What each user did with its rights in a span of time; as `used_in_periods` without cuts."""
    return used_in_periods(queries, since, (), until, without)[0]


def used_in_periods(
    queries: EventQueries,
    since: int,
    cuts: Sequence[int],
    until: int | None = None,
    without: Collection[str] = (),
) -> list[UsedRights]:
    """What each user did with its rights in the periods of a span of time, the oldest first.

    Args:
        queries: the event store.
        since, until: microseconds since 1970 UTC.
        cuts: where a period ends and the next begins, ascending; there is one period more than these.
        without: audit IDs that are left out.

    Raises:
        QueryError: it took too long, or there is no store.
    """
    until = clock.now() + 1 if until is None else until
    span = "time >= make_timestamp(?::BIGINT) AND time < make_timestamp(?::BIGINT)"
    left_out = "NOT list_contains(?::VARCHAR[], audit_id)"

    def ask(source: RecordSource) -> tuple[list[tuple[Any, ...]], dict[tuple[int, str], str]]:
        rows = source.all(
            f"SELECT {_PERIOD} AS period, {_ACTED_AS} AS who, verb, {_PATH} AS what, "
            "count(DISTINCT audit_id), max(epoch_us(time)), max(number) "
            f"FROM {{records}} WHERE {span} AND {_USED} AND {left_out} GROUP BY ALL ORDER BY 5 DESC LIMIT {_MOST}",
            [list(cuts), since, until, list(without)],
        )
        newest: dict[tuple[int, str], int] = {}
        for period, who, *_, number in rows:
            newest[period, who] = max(number, newest.get((period, who), -1))
        texts = source.all(
            "SELECT number, event FROM {records} WHERE number IN (SELECT unnest(?::UBIGINT[]))",
            [sorted(newest.values())],
        )
        by_number = dict(texts)
        return rows, {one: by_number.get(number, "") for one, number in newest.items()}

    rows, texts = queries.answer(since, until, ask)
    users: list[dict[str, UserUsage]] = [{} for _ in range(len(cuts) + 1)]
    requests = [0] * len(users)
    for (period, who), text in texts.items():
        users[period][who] = UserUsage(_groups(text))
    for period, who, verb, path, count, last, _ in rows:
        users[period][who].add(access_request(verb, path), clock.written(last), count)
        requests[period] += count
    return [UsedRights(*one, len(rows) < _MOST) for one in zip(users, requests, strict=True)]


def suspects_of(queries: EventQueries, audit_ids: Sequence[str]) -> dict[str, SuspectRequest]:
    """Who asked for what, of requests that were allowed: audit ID -> request; those that are gone are missing."""
    if not audit_ids:
        return {}

    def ask(source: RecordSource) -> list[tuple[Any, ...]]:
        return source.all(
            f"SELECT audit_id, {_ACTED_AS}, verb, path, event FROM {{records}} "
            f"WHERE list_contains(?::VARCHAR[], audit_id) AND decision = 'allow' AND code NOT IN ({_NOT_USED}) "
            f"ORDER BY number LIMIT {_MOST}",
            [list(audit_ids)],
        )

    found = queries.answer(None, None, ask)
    return {
        audit_id: SuspectRequest(who, _groups(text), access_request(verb, path))
        for audit_id, who, verb, path, text in found
    }
