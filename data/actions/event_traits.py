"""Traits of an event's body, and whether the body reached the log at all.

A client decides how large the body of its request is, and clouds and shippers leave out or cut what is too large for them.
"""

from __future__ import annotations

from data.actions.body_traits import (
    BODIED,
    UNREADABLE_BODY,
    has_traits,
    is_report,
    read_traits,
    with_withheld,
)
from data.events.audit_event import AuditEvent

_LOGGED_BODIES = ("Request", "RequestResponse")
_FIRST_ERROR = 400


def is_withheld(event: AuditEvent) -> bool:
    """Whether the body of a write was left out, or cut, on its way to the log. A policy that logs no bodies does not count.

    The API server and clouds say so in an annotation. Where they do not, the level says that the body was logged.
    """
    if event.verb not in BODIED:
        return False
    notes = event.annotations
    if notes is not None and notes.truncated not in (None, False, "false"):
        return True
    ref, status, body = event.objectRef, event.responseStatus, event.requestObject
    return (
        event.level in _LOGGED_BODIES
        and (not body or bytes(memoryview(body)[:4]) == b"null")
        and ref is not None
        and not ref.subresource
        and status is not None
        and 0 < status.code < _FIRST_ERROR  # a refused request is not read as far as its body
    )


def event_traits(event: AuditEvent, actor: str) -> tuple[str, str]:
    """Traits and images of an event's body, as `read_traits`; `withheld` is among them if not all of the body is there.

    Args:
        event: with an `objectRef`.
        actor: user name of the caller, or of the person behind a proxy.
    """
    ref = event.objectRef
    assert ref is not None
    traits, images = read_traits(event.verb, ref.resource, ref.subresource, actor, event.requestObject)
    kind = ref.resource, ref.subresource
    missing = is_withheld(event) or (traits == UNREADABLE_BODY and event.verb in BODIED)
    if missing and has_traits(*kind) and not is_report(event.verb, *kind, actor):
        traits = with_withheld(traits)
    return traits, images
