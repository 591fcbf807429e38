"""Keeps an `Rbac` current with the changes of roles and bindings in an audit log.

A change whose content is not in the log (level Metadata, a body that was cut, a name that the API server made) leaves an object
of which nothing is known, so that the authorizer says `unknown` instead of guessing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from data.events.audit_event import UNREADABLE, AuditEvent
from detection.authorization.node_changes import FOLLOWED, NodeFollower
from detection.authorization.node_graph import NodeGraph
from detection.authorization.rbac import (
    API_GROUP,
    KINDS,
    RESOURCES,
    ObjectKey,
    Rbac,
    RbacBinding,
    RbacRole,
    binding_from,
    role_from,
)
from detection.authorization.requests import access_request

_log = logging.getLogger(__name__)
#: Verbs that change something.
WRITES = frozenset(("create", "update", "patch", "delete", "deletecollection"))
_FIRST_ERROR = 300
#: Changes that can be undone, for requests that began before them.
_REMEMBERED = 500
#: Bytes of a change that are read, and rules of a role: an API server takes bodies of 3 MiB, and every decision reads all rules.
_LONGEST, _MOST_RULES = 1 << 20, 4_096
_DECODE = msgspec.json.Decoder()
#: Fields of roles and bindings that a merge patch replaces as a whole, whichever kind of patch it is.
_REPLACED = ("rules", "subjects", "roleRef", "aggregationRule")


class Change(NamedTuple):
    """A change of RBAC.

    Attributes:
        time: when the API server answered it, RFC 3339.
        key: of what.
        before: what it was; None if there was none.
    """

    time: str
    key: ObjectKey
    before: RbacRole | RbacBinding | None


class ChangeFollower:
    """Applies the changes of a log, in its order, to an `Rbac` and, if there is one, to a graph of the pods on nodes.

    Attributes:
        applied: changes of RBAC so far.
        unknown: those whose content the log did not have.
        recent: the last ones, oldest first.
        whole: whether these are all since the snapshot.
        created: when a role or binding was made, RFC 3339, as far as it is known.
    """

    def __init__(self, rbac: Rbac, graph: NodeGraph | None = None) -> None:
        self._rbac = rbac
        self._nodes = None if graph is None else NodeFollower(graph)
        self._objects: dict[ObjectKey, dict[str, Any]] = {}  # as far as known, for patches
        self.applied = self.unknown = 0
        self.recent: deque[Change] = deque(maxlen=_REMEMBERED)
        self.whole = True
        self.created: dict[ObjectKey, str] = {}
        self._before: tuple[tuple[int, int], Rbac] | None = None

    def load(self, content: Mapping[str, Any]) -> ObjectKey | None:
        """Take in an object of a snapshot; returns which, or None for one that is not RBAC's."""
        key = self._rbac.put_object(content)
        if key is not None:
            self._objects[key] = _kept(content)
            created = self._objects[key]["metadata"].get("creationTimestamp")
            if isinstance(created, str):
                self.created[key] = created
        elif self._nodes is not None:
            self._nodes.graph.load(content)
        return key

    def follow(self, event: AuditEvent) -> bool:
        """Apply an event if it is a change that succeeded; returns whether it was one of RBAC."""
        ref = event.objectRef
        if ref is None or not _is_change(event):
            return False
        try:
            if ref.resource in FOLLOWED:
                if self._nodes is not None:
                    self._nodes.follow(event)
                return False
            if ref.apiGroup != API_GROUP or ref.subresource:
                return False
            self._apply(event)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
            # An API server refuses such an object. A log can hold anything all the same.
            _log.warning("a change of RBAC in the log cannot be understood")
            self.unknown += 1
        return True

    def written(self, event: AuditEvent) -> tuple[ObjectKey, RbacRole | RbacBinding] | None:
        """What a write that succeeded makes of a role or binding, before it is followed.

        Returns:
            None for anything else, for a deletion, and if the log does not have the content.
        """
        ref = event.objectRef
        if ref is None or not _is_change(event) or event.verb not in ("create", "update", "patch"):
            return None
        if ref.resource not in RESOURCES or ref.apiGroup != API_GROUP or ref.subresource:
            return None
        try:
            body = _body(event)
            metadata = body.get("metadata") if isinstance(body, dict) else None
            name = ref.name or (str(metadata.get("name") or "") if isinstance(metadata, dict) else "")
            key = ObjectKey(ref.resource, "" if RESOURCES[ref.resource][1] else ref.namespace, name)
            content = self._content(key, event.verb, body) if name else None
            if content is None:
                return None
            made = role_from(content) if RESOURCES[key.resource][0] else binding_from(content, key.namespace)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
            return None  # `follow` says so
        is_long = isinstance(made, RbacRole) and len(made.rules or ()) > _MOST_RULES
        return None if is_long else (key, made)

    def _apply(self, event: AuditEvent) -> None:
        ref = event.objectRef
        assert ref is not None
        of_cluster = RESOURCES[ref.resource][1]
        namespace = "" if of_cluster else ref.namespace
        time = event.stageTimestamp or event.requestReceivedTimestamp
        self.applied += 1
        if event.verb == "deletecollection":
            self._delete_all(ref.resource, namespace, event.requestURI, time)
            return
        body = _body(event)
        name = ref.name
        if not name and isinstance(body, dict):
            name = str((body.get("metadata") or {}).get("name") or "")
        if not name:  # the API server made the name
            self.unknown += 1
            return
        key = ObjectKey(ref.resource, namespace, name)
        if event.verb == "delete":
            self._remove(key, time)
            return
        content = self._content(key, event.verb, body)
        if event.verb == "create":
            self.created[key] = time
        if content is None:
            self._forget(key, time)
            return
        made = role_from(content) if RESOURCES[key.resource][0] else binding_from(content, key.namespace)
        if isinstance(made, RbacRole) and made.rules is not None and len(made.rules) > _MOST_RULES:
            self._forget(key, time)
            return
        self._objects[key] = _kept(content)
        self._put(key, made, time)

    def _forget(self, key: ObjectKey, time: str) -> None:
        """Note that an object changed, and that nobody knows to what."""
        self.unknown += 1
        self._objects.pop(key, None)
        self._put(key, _unknown(key), time)

    def _put(self, key: ObjectKey, made: RbacRole | RbacBinding, time: str) -> None:
        before = self._rbac.get(key)
        if before != made:
            self._note(Change(time, key, before))
            self._rbac.put(key, made)

    def _remove(self, key: ObjectKey, time: str) -> None:
        self._objects.pop(key, None)
        self.created.pop(key, None)
        before = self._rbac.get(key)
        if before is not None:
            self._note(Change(time, key, before))
            self._rbac.remove(key)

    def _note(self, change: Change) -> None:
        self.whole = self.whole and len(self.recent) < _REMEMBERED
        self.recent.append(change)

    def as_of(self, time: str) -> Rbac | None:
        """RBAC as it stood at an earlier time, by undoing later changes.

        Returns:
            None if it was the same as now. Changes of which too many came since are not undone.
        """
        later = [change for change in self.recent if change.time >= time]
        if not later:
            return None
        key = self._rbac.generation, len(later)
        if self._before is not None and self._before[0] == key:
            return self._before[1]
        before = self._rbac.copy()
        for change in reversed(later):
            undo(change, before)
        self._before = key, before
        return before

    def remembers(self, time: str) -> bool:
        """Whether all changes since a time can be undone."""
        return self.whole or (bool(self.recent) and self.recent[0].time < time)

    def snapshot(self) -> dict[str, Any]:
        """What must outlive a restart, in the terms of MessagePack, as references to what never changes in place."""
        unknown = [
            tuple(key)
            for key, value in (*self._rbac.roles.items(), *self._rbac.bindings.items())
            if key not in self._objects
        ]
        return {
            "objects": [(tuple(key), content) for key, content in self._objects.items()],
            "unknown": unknown,
            "created": [(tuple(key), time) for key, time in self.created.items()],
            "counts": (self.applied, self.unknown),
            "recent": list(self.recent),
            "whole": self.whole,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what `snapshot` gave, in place of all roles and bindings."""
        for key in (*self._rbac.roles, *self._rbac.bindings):
            self._rbac.remove(key)
        self._objects = {ObjectKey(*key): content for key, content in saved["objects"]}
        for key, content in self._objects.items():
            is_role = RESOURCES[key.resource][0]
            self._rbac.put(key, role_from(content) if is_role else binding_from(content, key.namespace))
        for parts in saved["unknown"]:
            self._rbac.put(ObjectKey(*parts), _unknown(ObjectKey(*parts)))
        self.created = {ObjectKey(*key): time for key, time in saved["created"]}
        self.applied, self.unknown = saved["counts"]
        # State of earlier versions does not say what was before.
        self.whole = saved.get("whole", False)
        self.recent.clear()
        try:
            self.recent.extend(_change(*one) for one in saved.get("recent", ()))
        except msgspec.ValidationError:  # what a log or a snapshot can hold: it is not undone then
            self.recent.clear()
            self.whole = False

    def _content(self, key: ObjectKey, verb: str, body: object) -> dict[str, Any] | None:
        if verb in ("create", "update"):
            return body if isinstance(body, dict) and body.get("kind") in KINDS else None
        before = self._objects.get(key)
        if isinstance(body, dict):
            whole = "rules" in body or {"subjects", "roleRef"} <= body.keys()
            if before is None and not whole:
                return None
            return _merged(before or {}, body)
        if isinstance(body, list) and before is not None:
            return _json_patched(before, body)
        return None

    def _delete_all(self, resource: str, namespace: str, uri: str, time: str) -> None:
        query = parse_qs(uri.partition("?")[2], max_num_fields=64)
        keys = [
            key
            for key in (*self._rbac.roles, *self._rbac.bindings)
            if key.resource == resource and key.namespace == namespace
        ]
        name = access_request("deletecollection", uri).name
        some = bool(query.get("labelSelector") or query.get("fieldSelector"))
        for key in keys:
            if name and key.name != name:
                continue
            if some and not name:
                self._forget(key, time)
            else:
                self._remove(key, time)


def _change(time: str, parts: Sequence[str], before: object) -> Change:
    """A change out of MessagePack."""
    key = ObjectKey(*parts)
    if RESOURCES[key.resource][0]:
        return Change(time, key, msgspec.convert(before, RbacRole | None))
    return Change(time, key, msgspec.convert(before, RbacBinding | None))


def undo(change: Change, rbac: Rbac) -> None:
    """Put back what was before a change that no other change of the same object came after."""
    if change.before is None:
        rbac.remove(change.key)
    else:
        rbac.put(change.key, change.before)


def _is_change(event: AuditEvent) -> bool:
    """Whether an event is a write that succeeded, of something that is followed."""
    ref, status = event.objectRef, event.responseStatus
    return (
        ref is not None
        and event.verb in WRITES
        and (ref.resource in RESOURCES or ref.resource in FOLLOWED)
        and event.stage == "ResponseComplete"
        and status is not None
        and 0 < status.code < _FIRST_ERROR
        and "dryRun=" not in event.requestURI
    )


def _unknown(key: ObjectKey) -> RbacRole | RbacBinding:
    return (
        RbacRole(None)
        if RESOURCES[key.resource][0]
        else RbacBinding(ObjectKey("clusterroles", "", "?"), None, None)
    )


def _body(event: AuditEvent) -> object:
    if not event.requestObject or len(memoryview(event.requestObject)) > _LONGEST:
        return None
    try:
        found: object = _DECODE.decode(event.requestObject)
    except UNREADABLE:
        return None
    return found


def _kept(content: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an object that decides, without what only describes it."""
    metadata = content.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
    created = metadata.get("creationTimestamp") if isinstance(metadata, Mapping) else None
    kept = {name: content[name] for name in _REPLACED if content.get(name) is not None}
    return {**kept, "metadata": {"labels": labels, "creationTimestamp": created}}


def _merged(before: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any] | None:
    """An object after a merge, strategic merge or apply patch; None for directives that need more than is known."""
    if any(name.startswith("$") for name in patch):
        return None
    after = dict(before)
    for name in _REPLACED:
        if name in patch:
            after[name] = patch[name]
    metadata = patch.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("labels"), dict):
        labels = dict((before.get("metadata") or {}).get("labels") or {}) | metadata["labels"]
        kept = {key: value for key, value in labels.items() if value is not None}
        after["metadata"] = dict(before.get("metadata") or {}) | {"labels": kept}
    return after


def _json_patched(before: Mapping[str, Any], operations: list[Any]) -> dict[str, Any] | None:
    """An object after a JSON patch (RFC 6902); None if an operation cannot be done on what is known."""
    after: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(before)))
    for operation in operations:
        if not isinstance(operation, dict):
            return None
        path = [
            part.replace("~1", "/").replace("~0", "~")
            for part in str(operation.get("path", "")).split("/")[1:]
        ]
        if operation.get("op") == "test" or (path and path[0] not in (*_REPLACED, "metadata")):
            continue
        if operation.get("op") not in ("add", "replace", "remove") or not path:
            return None
        try:
            _apply(after, path, operation)
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return after


def _apply(target: Any, path: list[str], operation: Mapping[str, Any]) -> None:
    for part in path[:-1]:
        if isinstance(target, dict) and target.get(part) is None and operation["op"] == "add":
            target[part] = {}
        target = target[int(part)] if isinstance(target, list) else target[part]
    last = path[-1]
    if isinstance(target, list):
        index = len(target) if last == "-" else int(last)
        if operation["op"] == "remove":
            del target[index]
        elif operation["op"] == "add":
            target.insert(index, operation["value"])
        else:
            target[index] = operation["value"]
    elif operation["op"] == "remove":
        del target[last]
    else:
        target[last] = operation["value"]
