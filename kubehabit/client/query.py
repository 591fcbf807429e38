"""What can be asked of alerts and events: one declaration for the options, the client and the filter of the store."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.forensics import clock
from serving.forensics.questions import Filter, moment_of, resource_of
from serving.forensics.routes import codes_of

_SAME = (
    *("principal", "credential", "resource", "subresource", "namespace", "name", "address"),
    *("user_agent", "decision", "alert"),
)


class EventQuery(BaseModel):
    """`GET /v1/events`; all filters must match."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    principal: Annotated[str | None, Field(description="Who acted, or was impersonated")] = None
    credential: Annotated[
        str | None,
        Field(
            description="ID of the token or certificate used, with or without JTI=; logged since Kubernetes 1.30"
        ),
    ] = None
    verb: Annotated[list[str], Field(description="May be repeated")] = []
    resource: Annotated[str | None, Field(description="Kind, as kubectl takes it: secret, pods, crb")] = None
    subresource: Annotated[str | None, Field(description="Such as exec, log or token")] = None
    namespace: Annotated[str | None, Field(description="Namespace of the object")] = None
    name: Annotated[str | None, Field(description="Name of the object")] = None
    address: Annotated[str | None, Field(description="One of the source addresses logged")] = None
    user_agent: Annotated[
        str | None, Field(alias="userAgent", description="Start of the user agent: kubectl/v1.29")
    ] = None
    code: Annotated[str | None, Field(description="Status code: 403, 4xx or 400-499")] = None
    decision: Literal["allow", "forbid"] | None = None
    audit_id: Annotated[list[str], Field(alias="auditID", description="May be repeated")] = []
    alert: Annotated[str | None, Field(description="ID of the alert that the events raised or extended")] = (
        None
    )
    since: Annotated[
        str | None,
        Field(
            description="Start: 30m, 12h, 7d, 14:02 (UTC), a day, or an RFC 3339 time. Default: all that is kept"
        ),
    ] = None
    until: Annotated[str | None, Field(description="End, written like --since")] = None
    order: Literal["oldest", "newest"] = "oldest"
    original: Annotated[bool, Field(description="With each event's own text, redacted")] = False
    limit: Annotated[int, Field(ge=1, le=10_000, description="Largest number of events")] = 100
    cursor: Annotated[str | None, Field(description="Continue where the last answer ended")] = None

    def filter(self) -> Filter:
        """The filter that the event store takes.

        Raises:
            QuestionError: a time or a code cannot be understood.
        """
        return Filter(
            since=None if self.since is None else moment_of(self.since),
            until=None if self.until is None else moment_of(self.until),
            verbs=tuple(self.verb),
            codes=codes_of(self.code),
            audit_ids=tuple(self.audit_id),
            **{name: getattr(self, name) for name in _SAME if name != "resource"},
            resource=None if self.resource is None else resource_of(self.resource),
        )

    @classmethod
    def from_filter(cls, wanted: Filter, **page: Any) -> EventQuery:
        """The query that asks a service for what a filter means; `page` are further fields."""
        return cls(
            since=None if wanted.since is None else clock.written(wanted.since),
            until=None if wanted.until is None else clock.written(wanted.until),
            verb=list(wanted.verbs),
            code=None if wanted.codes is None else "{}-{}".format(*wanted.codes),
            audit_id=list(wanted.audit_ids),
            **{name: getattr(wanted, name) for name in _SAME},
            **page,
        )

    def parameters(self) -> dict[str, Any]:
        """The parameters of the URL; what is at its default is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class AlertListQuery(BaseModel):
    """`GET /v1/alerts`; all filters must match."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    severity: Annotated[
        Literal["", "low", "medium", "high", "critical"], Field(description="This severity and above")
    ] = ""
    principal: Annotated[
        str,
        Field(
            description="Full name of the principal; a service account is system:serviceaccount:NAMESPACE:NAME"
        ),
    ] = ""
    namespace: Annotated[str, Field(description="Namespace that the alert touched")] = ""
    state: Annotated[
        Literal["", "open", "closed"],
        Field(description="State of the alert's incident (`kubehabit incidents close` closes one)"),
    ] = ""
    verdict: Annotated[
        Literal["", "none", "normal", "malicious"],
        Field(description="Last verdict in feedback; none: no feedback yet"),
    ] = ""
    text: Annotated[
        str,
        Field(alias="q", description="Text in the sentence, principal, namespaces or ID, in capitals or not"),
    ] = ""
    since: Annotated[
        datetime | None,
        Field(
            description="Still active at or after this time: 30m, 12h, 7d, 14:02 (UTC), a day, or RFC 3339"
        ),
    ] = None
    limit: Annotated[int, Field(ge=1, le=500, description="Largest number of alerts, newest first")] = 100
    cursor: Annotated[str | None, Field(description="Continue where the last answer ended")] = None
