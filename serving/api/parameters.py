"""Parameters of event queries, declared once for the API, the console and the client of the commands."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.forensics import clock
from serving.forensics.queries import MAX_LIMIT, EventFilter, QueryError, moment_of, resource_of

Cursor = Annotated[str | None, Field(description="Cursor of the previous page", max_length=40)]
Moment = Annotated[
    str | None,
    Field(
        description="How long ago (7d), a time of day in UTC (14:02), a day, or an RFC 3339 time",
        max_length=40,
    ),
]
Text = Annotated[str | None, Field(max_length=512)]


class EventQuery(BaseModel):
    """`GET /v1/events`. Options of `kubehabit events` have the same names, with dashes; all filters must match."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    principal: Annotated[
        str | None,
        Field(description="Principal that acted or was impersonated, as folded or as logged", max_length=512),
    ] = None
    credential: Annotated[
        str | None, Field(description="ID of the credential used, with or without JTI=", max_length=512)
    ] = None
    verb: Annotated[list[str], Field(description="May be repeated", max_length=20)] = []
    resource: Annotated[
        str | None, Field(description="As logged, or as kubectl takes it", max_length=256)
    ] = None
    subresource: Text = None
    namespace: Text = None
    name: Text = None
    address: Annotated[str | None, Field(description="One of sourceIPs", max_length=64)] = None
    user_agent: Annotated[
        str | None, Field(alias="userAgent", description="Start of the user agent", max_length=512)
    ] = None
    code: Annotated[str | None, Field(description="403, 4xx or 400-499", max_length=40)] = None
    decision: Literal["allow", "forbid"] | None = None
    audit_id: Annotated[list[str], Field(alias="auditID", description="May be repeated", max_length=500)] = []
    alert: Annotated[
        str | None, Field(description="Events that raised or grew this alert", max_length=32)
    ] = None
    since: Moment = None
    until: Annotated[Moment, Field(description="End, written as the start is")] = None
    order: Literal["oldest", "newest"] = "oldest"
    original: Annotated[bool, Field(description="With each event's own text, redacted")] = False
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    cursor: Cursor = None

    def filter(self) -> EventFilter:
        """The filter that the event store takes; raises QueryError for a time or a code that cannot be understood."""
        since, until = span_of(self.since, self.until)
        return EventFilter(
            since=since,
            until=until,
            verbs=tuple(self.verb),
            resource=None if self.resource is None else resource_of(self.resource),
            codes=codes_of(self.code),
            audit_ids=tuple(self.audit_id),
            **{name: getattr(self, name) for name in _SAME},
        )

    @classmethod
    def from_filter(cls, wanted: EventFilter, **page: Any) -> EventQuery:
        """The query that asks a service for what a filter means; `page` are further fields."""
        return cls(
            since=None if wanted.since is None else clock.written(wanted.since),
            until=None if wanted.until is None else clock.written(wanted.until),
            verb=list(wanted.verbs),
            code=None if wanted.codes is None else "{}-{}".format(*wanted.codes),
            audit_id=list(wanted.audit_ids),
            resource=wanted.resource,
            **{name: getattr(wanted, name) for name in _SAME},
            **page,
        )

    def parameters(self) -> dict[str, Any]:
        """The parameters of the URL; what is at its default is left out."""
        return self.model_dump(by_alias=True, exclude_defaults=True)

    def options(self) -> list[str]:
        """The options of `kubehabit events` that ask the same."""
        found: list[str] = []
        for name in (name for name in EventQuery.model_fields if name not in _NO_OPTIONS):
            value = getattr(self, name)
            for text in value if isinstance(value, list) else [value] if value else []:
                found += [f"--{name.replace('_', '-')}", text]
        return found + (["--newest"] if self.order == "newest" else [])


#: Fields that a filter has by the same name and in the same form.
_SAME = (
    *("principal", "credential", "subresource", "namespace", "name", "address"),
    *("user_agent", "decision", "alert"),
)
_NO_OPTIONS = {"decision", "order", "original", "limit", "cursor"}


def span_of(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Begin and end of a span of time, in microseconds since 1970 UTC; raises QueryError for what is no time."""
    return None if since is None else moment_of(since), None if until is None else moment_of(until)


def codes_of(text: str | None) -> tuple[int, int] | None:
    """Least and largest status code meant by `403`, `4xx` or `400-499`; raises QueryError for anything else."""
    if text is None:
        return None
    low, _, high = text.lower().partition("-")
    if not high and len(low) == 3 and low.endswith("xx") and low[0].isdecimal():
        return int(low[0]) * 100, int(low[0]) * 100 + 99
    if low.isdecimal() and (not high or high.isdecimal()) and len(text) <= 7:
        return int(low), int(high or low)
    raise QueryError(f"{text!r} is no status code: give a code (403), a class (4xx) or a range (400-499).")
