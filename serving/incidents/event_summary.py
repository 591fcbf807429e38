"""The short form of a request in alerts and incidents: cleaned, and without its body."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from data.actions.event_traits import event_traits
from data.events.audit_event import AuditEvent, ObjectRef
from detection.authorization.agreement import recorded_grant
from detection.authorization.authorizer import MASTERS
from serving.incidents.recent_events import RecentEvent
from serving.schemas import ImpersonatedUser, ObjectReference, ResponseStatus, clean

_MAX_LISTED = 20


def reference(ref: ObjectRef) -> ObjectReference:
    """The object of a request, cleaned."""
    values = {name: clean(getattr(ref, name)) for name in ("resource", "namespace", "name", "subresource")}
    return ObjectReference(api_group=clean(ref.apiGroup), **values)


def traits_of(event: AuditEvent, proxy: str = "") -> list[str]:
    """Security-relevant traits of a request's body, as words; `proxy` as for `summary_fields`."""
    if event.objectRef is None or not event.objectRef.resource:
        return []
    other = event.impersonatedUser
    traits, _ = event_traits(event, other.username if proxy and other is not None else event.user.username)
    return [clean(trait, 80) for trait in traits.split(",")[:_MAX_LISTED] if trait != "-"]


def summary_fields(
    request: AuditEvent | RecentEvent, moment: datetime, traits: list[str], proxy: str = ""
) -> dict[str, Any]:
    """The fields of `serving.schemas.EventSummary`, without its description; a moment without a zone is UTC.

    `proxy` is the user name of the proxy that sent the request for its principal; empty if none did.
    """
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
        "impersonated_user": None
        if other is None or proxy
        else ImpersonatedUser(username=clean(other.username)),
        "proxy": clean(proxy) or None,
        "traits": traits,
        "allowed_by": allowed_by(request) if isinstance(request, AuditEvent) else "",
    }


def allowed_by(event: AuditEvent) -> str:
    """The binding and role that the API server noted down for a request, in words; empty if it noted none."""
    notes, who = event.annotations, event.impersonatedUser or event.user
    if notes is None or notes.decision != "allow":
        return ""
    grant = recorded_grant(notes.reason or "")
    if grant is not None:
        return clean(f"{grant.binding} of {grant.role}")
    return f"group {MASTERS}" if MASTERS in who.groups else ""
