"""Events as the API gives them, read back into records."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.forensics.queries import moment_of
from serving.forensics.records import EventRecord


class ObjectDocument(msgspec.Struct, rename="camel"):
    """The `objectRef` of an event."""

    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    api_group: str = ""


class EventDocument(
    msgspec.Struct,
    rename={
        "audit_id": "auditID",
        "impersonated": "impersonatedUser",
        "object_ref": "objectRef",
        "path": "requestURI",
        "source_ips": "sourceIPs",
        "user_agent": "userAgent",
        "credential": "credentialID",
        "issued": "issuedCredentialID",
        "alert": "alertID",
        "event": "original",
    },
):
    """An event as `GET /v1/events` gives it; fields are named as in a record."""

    number: int
    audit_id: str
    time: str
    received: str
    principal: str
    username: str
    verb: str
    path: str
    code: int
    decision: str
    source_ips: list[str]
    user_agent: str
    stage: str
    redactions: int
    impersonated: str | None = None
    object_ref: ObjectDocument | None = None
    credential: str | None = None
    issued: str | None = None
    alert: str | None = None
    cluster: str | None = None
    event: msgspec.Raw = msgspec.Raw(b"")

    def record(self) -> EventRecord:
        """The record of the event, as far as the API gives it: no UID, and nothing to verify it by."""
        given = msgspec.structs.asdict(self).items()
        values: dict[str, Any] = {name: "" if value is None else value for name, value in given}
        del values["object_ref"]
        values |= msgspec.structs.asdict(self.object_ref or ObjectDocument())
        values |= {"time": moment_of(self.time), "received": moment_of(self.received)}
        values |= {"source_ips": ",".join(self.source_ips), "event": bytes(self.event).decode()}
        return EventRecord(uid="", original="", **values)


class EventPageDocument(msgspec.Struct):
    """The answer of `GET /v1/events`."""

    events: list[EventDocument]
    cursor: str | None = None
