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
    """What each user did with its rights in a span of time.

    Args:
        queries: the event store.
        since, until: microseconds since 1970 UTC.
        without: audit IDs that are left out.

    Raises:
        QueryError: it took too long, or there is no store.
    """
    until = clock.now() + 1 if until is None else until
    span = "time >= make_timestamp(?::BIGINT) AND time < make_timestamp(?::BIGINT)"
    left_out = "NOT list_contains(?::VARCHAR[], audit_id)"

    def ask(source: RecordSource) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
        rows = source.all(
            f"SELECT {_ACTED_AS} AS who, verb, {_PATH} AS what, count(DISTINCT audit_id), max(epoch_us(time)), max(number) "
            f"FROM {{records}} WHERE {span} AND {_USED} AND {left_out} GROUP BY ALL ORDER BY 4 DESC LIMIT {_MOST}",
            [since, until, list(without)],
        )
        newest: dict[str, int] = {}
        for who, _, _, _, _, number in rows:
            newest[who] = max(number, newest.get(who, -1))
        texts = source.all(
            "SELECT number, event FROM {records} WHERE number IN (SELECT unnest(?::UBIGINT[]))",
            [sorted(newest.values())],
        )
        by_number = dict(texts)
        return rows, {who: by_number.get(number, "") for who, number in newest.items()}

    rows, texts = queries.answer(since, until, ask)
    users = {who: UserUsage(_groups(text)) for who, text in texts.items()}
    for who, verb, path, count, last, _ in rows:
        users[who].add(access_request(verb, path), clock.written(last), count)
    return UsedRights(users, sum(row[3] for row in rows), len(rows) < _MOST)


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
