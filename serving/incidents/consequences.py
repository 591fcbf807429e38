"""Consequences: what the cluster's own machinery does because of a write.

A controller's Pods, the scheduler's choice of a node, the reports of that node's kubelet follow from one write. They link to
it by owner references, and by the names that controllers give: `web-5d4f8c7b9-x2x4z` belongs to `web-5d4f8c7b9`, that to `web`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from data.events.audit_event import UNREADABLE, AuditEvent, ObjectRef
from data.principals.identity import Principal
from data.principals.ownership import WRITES, has_owner, read_link
from serving.incidents.links import makers, place_of
from serving.schemas import Confidence

#: Kinds of principals that carry out what others decided.
MACHINERY = frozenset(("controller", "component", "node"))

_DECISIONS = frozenset(("", "scale", "ephemeralcontainers", "eviction", "resize", "status"))
_FIRST_REFUSAL = 400
_CAPACITY = 10_000
_Reason = tuple[Confidence, str]
_EXACT: _Reason = ("certain", "it acts on this very object")
_OWNED: _Reason = ("certain", "its owner reference names this object, or one made for it")
_NAMED: _Reason = ("likely", "it is named as controllers name what belongs to this object")
_SAME_NAME: _Reason = (
    "possible",
    "it bears the name of this object; whether it belongs to it, the log does not say",
)
_PARTS = frozenset(
    ("pods", "replicasets", "controllerrevisions", "jobs", "events", "bindings", "persistentvolumeclaims")
)


class Cause(NamedTuple):
    """A write that has consequences.

    Attributes:
        of: the caller's mark.
        resource, namespace, name: of the object that was written.
        until: microseconds since 1970 UTC; nothing later is a consequence.
    """

    of: str
    resource: str
    namespace: str
    name: str
    until: int


class Consequence(NamedTuple):
    """An action of the machinery with its cause, the confidence in that, and why."""

    cause: Cause
    confidence: Confidence
    why: str


class _NameFields(msgspec.Struct, gc=False):
    name: str = ""
    generateName: str = ""


class _NamedObject(msgspec.Struct, gc=False):
    metadata: _NameFields | None = None


_OBJECT = msgspec.json.Decoder(_NamedObject)


def _name_in(event: AuditEvent) -> str:
    """The object's name in a body, or its prefix if the server completes it."""
    try:
        metadata = _OBJECT.decode(event.requestObject).metadata if event.requestObject else None
    except UNREADABLE:
        return ""
    return "" if metadata is None else metadata.name or metadata.generateName.rstrip("-")


class Consequences:
    """Remembers writes and recognises what follows from them. Bounded: the oldest are forgotten first."""

    def __init__(self) -> None:
        self._causes: dict[tuple[str, str], Cause] = {}

    def __bool__(self) -> bool:
        return bool(self._causes)

    def mark(self, of: str, event: AuditEvent, until: int) -> None:
        """Remember a write that succeeded, if its object's name is known, until a moment (microseconds since 1970 UTC).

        Consequences are returned with `of`.
        """
        ref = event.objectRef
        if ref is None or event.verb not in WRITES or ref.subresource not in _DECISIONS:
            return
        refused = event.responseStatus is not None and event.responseStatus.code >= _FIRST_REFUSAL
        if refused or (not has_owner(ref) and ref.resource not in ("endpoints", "bindings")):
            return
        name = ref.name or _name_in(event)
        if not name:
            return
        self._keep((place_of(event), name), Cause(of, ref.resource, ref.namespace, name, until))

    def follow(self, event: AuditEvent, principal: Principal, moment: int) -> Consequence | None:
        """The cause of an action of the machinery at a moment (microseconds since 1970 UTC); None for all other actions."""
        ref = event.objectRef
        if ref is None or principal.kind not in MACHINERY:
            return None
        found = self._by_name(ref, place_of(event))
        if found is None or found.confidence != "certain":
            found = self._by_owner(event, principal) or found
        return None if found is None or moment > found.cause.until else found

    def _by_owner(self, event: AuditEvent, principal: Principal) -> Consequence | None:
        if event.verb != "create" or not event.requestObject:
            return None
        link = read_link(event, principal)
        if link is None or link.parent is None:
            return None
        cause = self._causes.get((place_of(event), link.parent[3]))
        if cause is None:
            return None
        if link.target is not None:  # and so on: what is made for what was made
            self._keep((place_of(event), link.target[3].rstrip("-")), cause)
        return Consequence(cause, *_OWNED)

    def _by_name(self, ref: ObjectRef, place: str) -> Consequence | None:
        name = ref.name
        if ref.resource == "events":  # named after what they are about, and a number
            name = name.rpartition(".")[0] or name
        if not name:
            return None
        is_part = ref.resource in _PARTS
        if (cause := self._causes.get((place, name))) is not None:
            exact = is_part or ref.resource in (cause.resource, "events")
            return Consequence(cause, *(_EXACT if exact else _SAME_NAME))
        for maker in makers(name):
            if (cause := self._causes.get((place, maker))) is not None:
                return Consequence(cause, *(_NAMED if is_part else _SAME_NAME))
        return None

    def _keep(self, key: tuple[str, str], cause: Cause) -> None:
        self._causes.pop(key, None)
        self._causes[key] = cause
        if len(self._causes) > _CAPACITY:
            del self._causes[next(iter(self._causes))]

    def forget(self, now: int) -> None:
        """Drop causes that ended before `now`, microseconds since 1970 UTC."""
        self._causes = {key: cause for key, cause in self._causes.items() if cause.until >= now}
