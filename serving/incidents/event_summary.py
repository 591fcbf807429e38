"""The short form of a request in alerts and incidents: cleaned, and without its body."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from data.actions.body_traits import read_traits
from data.events.audit_event import AuditEvent, ObjectRef
from serving.incidents.recent_events import RecentEvent
from serving.schemas import ImpersonatedUser, ObjectReference, ResponseStatus, clean

_MAX_LISTED = 20


def reference(ref: ObjectRef) -> ObjectReference:
    """The object of a request, cleaned."""
    values = {name: clean(getattr(ref, name)) for name in ("resource", "namespace", "name", "subresource")}
    return ObjectReference(api_group=clean(ref.apiGroup), **values)


def traits_of(event: AuditEvent) -> list[str]:
    """Security-relevant traits of a request's body, as words."""
    ref = event.objectRef
    if ref is None or not ref.resource or not event.requestObject:
        return []
    user, body = event.user.username, event.requestObject
    traits, _ = read_traits(event.verb, ref.resource, ref.subresource, user, body)
    return [clean(trait, 80) for trait in traits.split(",")[:_MAX_LISTED] if trait != "-"]


def summary_fields(request: AuditEvent | RecentEvent, moment: datetime, traits: list[str]) -> dict[str, Any]:
    """The fields of `serving.schemas.EventSummary`, without its description; a moment without a zone is UTC."""
    ref = request.objectRef if request.objectRef is not None and request.objectRef.resource else None
    status, other = request.responseStatus, request.impersonatedUser
    return {
        "audit_id": clean(request.auditID, 128),
        "time": moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment,
        "did": "",
        "verb": clean(request.verb, 64),
        "object_ref": None if ref is None else reference(ref),
        "request_path": clean(request.requestURI.partition("?")[0]) if ref is None else None,
        "response_status": None if status is None else ResponseStatus(code=status.code),
        "source_ips": [clean(address, 64) for address in request.sourceIPs[:_MAX_LISTED]],
        "user_agent": clean(request.userAgent),
        "impersonated_user": None if other is None else ImpersonatedUser(username=clean(other.username)),
        "traits": traits,
    }
