"""The time zone that a browser wants times in, and spans of time as people write them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import Query, Request
from starlette.requests import HTTPConnection
from starlette.types import Scope

from serving.forensics.queries import QueryError, moment_of
from serving.storage.tables import as_moment

#: Set by `times.js`: the browser's time zone, by its IANA name.
ZONE_COOKIE = "kubehabit_zone"

#: Set by the button: times in UTC whatever the browser's zone is.
UTC_COOKIE = "kubehabit_utc"

_LONGEST_NAME = 64

#: Spans that a list offers, by what they are written as.
SPANS = (
    ("", "any time"),
    ("1h", "last hour"),
    ("24h", "last 24 hours"),
    ("7d", "last 7 days"),
    ("28d", "last 28 days"),
)


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # the latter: a folder of zones, or no file at all
        return UTC


def zone_of(scope: Scope) -> tzinfo:
    """The time zone that pages for a browser are written in; UTC where it names none that is known here."""
    cookies = HTTPConnection(scope).cookies
    name = cookies.get(ZONE_COOKIE, "")
    if cookies.get(UTC_COOKIE) == "1" or not name or len(name) > _LONGEST_NAME or "UTC" in name:
        return UTC
    return _zone(name)


def zone_name(zone: tzinfo) -> str:
    """A zone's name as pages show it."""
    return "UTC" if zone is UTC else str(zone)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A span of time of a list, as it was written and as it is meant.

    Attributes:
        since_text, until_text: as written; "" for no bound.
        since, until: the moments; None for no bound.
        wrong: why the span cannot be understood; the list is then of any time.
    """

    since_text: str = ""
    until_text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    wrong: str = ""

    def parameters(self) -> dict[str, str]:
        """What is written, by the names that it has in a URL."""
        written = {"since": self.since_text, "until": self.until_text}
        return {name: text for name, text in written.items() if text}


def range_of(
    request: Request,
    since: Annotated[str, Query(max_length=40)] = "",
    until: Annotated[str, Query(max_length=40)] = "",
) -> TimeRange:
    """The span of time that a list is asked for, in the browser's zone."""
    since, until = since.strip(), until.strip()
    zone = zone_of(request.scope)
    try:
        begin, end = (as_moment(moment_of(text, zone=zone)) if text else None for text in (since, until))
    except QueryError as error:
        return TimeRange(since, until, wrong=str(error).replace("a time of day in UTC", "a time of day"))
    return TimeRange(since, until, begin, end)


def in_words(text: str, zone: tzinfo) -> str:
    """A time as a person wrote it, so that it means the same in UTC: what is of another zone gets its offset."""
    if not text or zone is UTC:
        return text
    try:
        local, utc = moment_of(text, zone=zone), moment_of(text)
    except QueryError:
        return text
    apart = abs(local - utc)
    return text if apart < timedelta(minutes=1) // timedelta(microseconds=1) else _written(local)


def _written(moment: int) -> str:
    return as_moment(moment).isoformat(timespec="seconds").replace("+00:00", "Z")
