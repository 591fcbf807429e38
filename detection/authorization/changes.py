"""Keeps an `Rbac` current with the changes of roles and bindings in an audit log.

A change whose content is not in the log (level Metadata, a body that was cut, a name that the API server made) leaves an object
of which nothing is known, so that the authorizer says `unknown` instead of guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from data.events.audit_event import UNREADABLE, AuditEvent
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

_VERBS = frozenset(("create", "update", "patch", "delete", "deletecollection"))
_FIRST_ERROR = 300
_DECODE = msgspec.json.Decoder()
#: Fields of roles and bindings that a merge patch replaces as a whole, whichever kind of patch it is.
_REPLACED = ("rules", "subjects", "roleRef", "aggregationRule")


class ChangeFollower:
    """Applies the RBAC changes of a log, in its order, to an `Rbac`.

    Attributes:
        applied: changes so far.
        unknown: changes whose content the log did not have.
    """

    def __init__(self, rbac: Rbac) -> None:
        self._rbac = rbac
        self._objects: dict[ObjectKey, dict[str, Any]] = {}  # as far as known, for patches
        self.applied = self.unknown = 0

    def load(self, content: Mapping[str, Any]) -> ObjectKey | None:
        """Take in an object of a snapshot; returns which, or None for one that is not RBAC's."""
        key = self._rbac.put_object(content)
        if key is not None:
            self._objects[key] = {name: content.get(name) for name in (*_REPLACED, "metadata")}
        return key

    def follow(self, event: AuditEvent) -> bool:
        """Apply an event if it is a change of RBAC that succeeded; returns whether it was one."""
        ref, status = event.objectRef, event.responseStatus
        if (
            ref is None
            or ref.apiGroup != API_GROUP
            or event.verb not in _VERBS
            or ref.resource not in RESOURCES
            or ref.subresource
            or event.stage != "ResponseComplete"
            or status is None
            or not 0 < status.code < _FIRST_ERROR
            or "dryRun=" in event.requestURI
        ):
            return False
        of_cluster = RESOURCES[ref.resource][1]
        namespace = "" if of_cluster else ref.namespace
        self.applied += 1
        if event.verb == "deletecollection":
            self._delete_all(ref.resource, namespace, event.requestURI)
            return True
        body = _body(event)
        name = ref.name
        if not name and isinstance(body, dict):
            name = str((body.get("metadata") or {}).get("name") or "")
        if not name:  # the API server made the name
            self.unknown += 1
            return True
        key = ObjectKey(ref.resource, namespace, name)
        if event.verb == "delete":
            self._objects.pop(key, None)
            self._rbac.remove(key)
            return True
        content = self._content(key, event.verb, body)
        if content is None:
            self.unknown += 1
            self._objects.pop(key, None)
            self._rbac.put(key, _unknown(key))
            return True
        self._objects[key] = content
        self._rbac.put(
            key, role_from(content) if RESOURCES[key.resource][0] else binding_from(content, key.namespace)
        )
        return True

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

    def _delete_all(self, resource: str, namespace: str, uri: str) -> None:
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
                self.unknown += 1
                self._objects.pop(key, None)
                self._rbac.put(key, _unknown(key))
            else:
                self._objects.pop(key, None)
                self._rbac.remove(key)


def _unknown(key: ObjectKey) -> RbacRole | RbacBinding:
    return (
        RbacRole(None)
        if RESOURCES[key.resource][0]
        else RbacBinding(ObjectKey("clusterroles", "", "?"), None, None)
    )


def _body(event: AuditEvent) -> object:
    if not event.requestObject:
        return None
    try:
        found: object = _DECODE.decode(event.requestObject)
    except UNREADABLE:
        return None
    return found


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
