"""Which custom resources are cluster-wide, as a log shows it."""

from __future__ import annotations

from collections.abc import Iterable

from data.events.audit_event import AuditEvent

_LIMIT = 20_000
#: Groups that the API server itself serves have no dot, or this at their end.
_BUILT_IN = ".k8s.io"


class ClusterWideResources:
    """(group, resource) of custom resources of which an object was named without a namespace, and found."""

    def __init__(self, known: Iterable[tuple[str, str]] = ()) -> None:
        self._known: set[tuple[str, str]] = set(known)

    def learn(self, event: AuditEvent) -> None:
        """Take in a request for a resource."""
        ref, status = event.objectRef, event.responseStatus
        if (
            ref is None
            or not ref.name
            or ref.namespace
            or "." not in ref.apiGroup
            or ref.apiGroup.endswith(_BUILT_IN)
        ):
            return
        if status is not None and 200 <= status.code < 300 and len(self._known) < _LIMIT:
            self._known.add((ref.apiGroup, ref.resource))

    def __contains__(self, resource: tuple[str, str]) -> bool:
        return resource in self._known

    def to_list(self) -> list[tuple[str, str]]:
        """For a snapshot."""
        return sorted(self._known)
