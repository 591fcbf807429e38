"""Events as the API gives them, read back into records."""

from __future__ import annotations

import msgspec

from serving.forensics.queries import moment_of
from serving.forensics.records import EventRecord


class _ObjectReference(msgspec.Struct, rename={"api_group": "apiGroup"}):
    resource: str
    subresource: str
    namespace: str
    name: str
    api_group: str


class EventDocument(
    msgspec.Struct,
    rename={
        "audit_id": "auditID",
        "impersonated_user": "impersonatedUser",
        "object_ref": "objectRef",
        "request_uri": "requestURI",
        "source_ips": "sourceIPs",
        "user_agent": "userAgent",
        "credential_id": "credentialID",
        "issued_credential_id": "issuedCredentialID",
        "alert_id": "alertID",
    },
):
    """An event as `GET /v1/events` gives it."""

    number: int
    audit_id: str
    time: str
    received: str
    principal: str
    username: str
    verb: str
    request_uri: str
    code: int
    decision: str
    source_ips: list[str]
    user_agent: str
    stage: str
    redactions: int
    impersonated_user: str | None = None
    object_ref: _ObjectReference | None = None
    credential_id: str | None = None
    issued_credential_id: str | None = None
    alert_id: str | None = None
    cluster: str | None = None
    original: msgspec.Raw = msgspec.Raw(b"")

    def record(self) -> EventRecord:
        """The record that it is of, as far as the API tells it: no UID, and nothing to verify it by."""
        about = self.object_ref or _ObjectReference("", "", "", "", "")
        return EventRecord(
            number=self.number,
            time=moment_of(self.time),
            received=moment_of(self.received),
            cluster=self.cluster or "",
            principal=self.principal,
            username=self.username,
            uid="",
            impersonated=self.impersonated_user or "",
            verb=self.verb,
            api_group=about.api_group,
            resource=about.resource,
            subresource=about.subresource,
            namespace=about.namespace,
            name=about.name,
            path=self.request_uri,
            code=self.code,
            decision=self.decision,
            source_ips=",".join(self.source_ips),
            user_agent=self.user_agent,
            audit_id=self.audit_id,
            stage=self.stage,
            credential=self.credential_id or "",
            issued=self.issued_credential_id or "",
            alert=self.alert_id or "",
            redactions=self.redactions,
            original="",
            event=bytes(self.original).decode(),
        )


class EventPageDocument(msgspec.Struct):
    """The answer of `GET /v1/events`."""

    events: list[EventDocument]
    cursor: str | None = None
