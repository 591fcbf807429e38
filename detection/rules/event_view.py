"""What an expression sees of an event: plain values by the names of audit.k8s.io, bounded, without the content of Secrets.

Texts are those of `AuditEvent`, capped when they were decoded. A body is copied breadth first within the limits below, so that
what lies deep or is long is left out before what decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from data.events.audit_event import MAX_TEXT, UNREADABLE, AuditEvent, User
from data.timestamps import is_time, parse_times

#: Values of a body, entries of one object or list in it, characters of all its texts, and levels.
MAX_VALUES, MAX_ENTRIES, MAX_CHARACTERS, MAX_DEPTH = 8_192, 1_024, 128 << 10, 24
_INT64 = 1 << 63
_DECODE = msgspec.json.Decoder()
#: Written by API servers and clients for themselves; no rule is about it.
_LEFT_OUT = frozenset(("managedFields",))
_CONTENT = frozenset(("data", "stringData", "binaryData"))
_WITH_CONTENT = frozenset(("secrets", "configmaps"))
_EMPTY_USER = {"username": "", "groups": []}
_TEMPLATED = frozenset(
    ("deployments", "daemonsets", "statefulsets", "replicasets", "replicationcontrollers", "jobs")
)
_MAX_ARGUMENTS = 64
_REPLACED = "\ufffd"

#: Fields of `event`, and of the objects in it, that an expression may name. Those of bodies are anyone's.
FIELDS: Mapping[str, frozenset[str]] = {
    "event": frozenset(
        (
            *(
                "auditID",
                "level",
                "stage",
                "verb",
                "requestURI",
                "path",
                "user",
                "impersonatedUser",
                "sourceIPs",
            ),
            *(
                "userAgent",
                "objectRef",
                "responseStatus",
                "annotations",
                "requestObject",
                "duration",
                "command",
            ),
            *("dryRun", "podSpec", "containers", "cluster", "query"),
        )
    ),
    "event.user": frozenset(("username", "groups")),
    "event.impersonatedUser": frozenset(("username", "groups")),
    "event.objectRef": frozenset(("resource", "namespace", "name", "apiGroup", "apiVersion", "subresource")),
    "event.responseStatus": frozenset(("code",)),
    "principal": frozenset(("name", "kind", "group", "actions", "silentDays")),
    "authorization": frozenset(("outcome", "opinion", "binding", "role", "reason")),
}
#: Names whose presence in an expression means that it needs the body.
BODY_FIELDS = ("requestObject", "podSpec", "containers")


def plain(text: str) -> str:
    """A text as CEL can take it: NUL, where C++ would end it, and what is no Unicode, become U+FFFD."""
    if text.isascii():
        return text.replace("\0", _REPLACED) if "\0" in text else text
    return text.replace("\0", _REPLACED).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _user(user: User | None) -> dict[str, Any]:
    if user is None:
        return _EMPTY_USER
    return {"username": plain(user.username), "groups": list(map(plain, user.groups))}


_REF_FIELDS = ("resource", "namespace", "name", "apiGroup", "apiVersion", "subresource")


def _reference(event: AuditEvent) -> dict[str, str]:
    ref = event.objectRef
    return {name: "" if ref is None else plain(getattr(ref, name)) for name in _REF_FIELDS}


def _annotations(event: AuditEvent) -> dict[str, str]:
    notes = event.annotations
    if notes is None:
        return {}
    values = {"authorization.k8s.io/decision": notes.decision, "authorization.k8s.io/reason": notes.reason}
    return {name: plain(value) for name, value in values.items() if value is not None}


def _command(event: AuditEvent) -> str:
    return " ".join(value for name, value in _arguments(event.requestURI) if name in ("command", "cmd"))


#: Fields of `event` that need no body, and what makes each.
_MAKERS: Mapping[str, Callable[[AuditEvent], Any]] = {
    "auditID": lambda event: plain(event.auditID),
    "level": lambda event: plain(event.level),
    "stage": lambda event: plain(event.stage),
    "verb": lambda event: plain(event.verb),
    "requestURI": lambda event: plain(event.requestURI),
    "path": lambda event: plain(event.requestURI.partition("?")[0]),
    "query": lambda event: plain(event.requestURI.partition("?")[2]),
    "user": lambda event: _user(event.user),
    "impersonatedUser": lambda event: _user(event.impersonatedUser),
    "sourceIPs": lambda event: list(map(plain, event.sourceIPs)),
    "userAgent": lambda event: plain(event.userAgent),
    "objectRef": _reference,
    "responseStatus": lambda event: {
        "code": 0 if event.responseStatus is None else _whole(event.responseStatus.code)
    },
    "annotations": _annotations,
    "duration": lambda event: _duration(event),
    "command": _command,
    "dryRun": lambda event: any(name == "dryRun" for name, _ in _arguments(event.requestURI)),
    "cluster": lambda event: plain(event.cluster),
}


def event_view(event: AuditEvent, names: Collection[str]) -> dict[str, Any]:
    """Some of the fields that need no body; `names` may hold others too, which are left out."""
    return {name: make(event) for name, make in _MAKERS.items() if name in names}


def body_view(event: AuditEvent) -> tuple[dict[str, Any], bool]:
    """The fields that come from the body, and whether something of it is missing because of its size.

    `requestObject` is what was sent; of a JSON patch, the object that its `add` and `replace` operations describe.
    """
    body: object = {}
    if event.requestObject:
        try:
            body = _DECODE.decode(event.requestObject)
        except UNREADABLE:
            return {"requestObject": {}, "podSpec": {}, "containers": []}, True
    ref = event.objectRef
    resource = "" if ref is None else ref.resource
    if isinstance(body, list):
        body = patched_object(body)
    if resource in _WITH_CONTENT and isinstance(body, dict):
        body = {key: _keys(value) if key in _CONTENT else value for key, value in body.items()}
    view, is_cut = _bounded(body if isinstance(body, dict) else {})
    pod = _pod_spec(resource, view)
    return {"requestObject": view, "podSpec": pod, "containers": _containers(pod)}, is_cut


def _keys(content: object) -> object:
    """The keys of a Secret or ConfigMap, without what they hold."""
    return dict.fromkeys(content, "") if isinstance(content, dict) else ""


def _whole(number: int) -> int:
    return number if -_INT64 <= number < _INT64 else 0


def _arguments(uri: str) -> list[tuple[str, str]]:
    query = uri.partition("?")[2]
    if not query:
        return []
    try:
        return [
            (plain(name), plain(value))
            for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_ARGUMENTS)
        ]
    except ValueError:  # more fields than that
        return []


def _duration(event: AuditEvent) -> float:
    begin, end = event.requestReceivedTimestamp, event.stageTimestamp
    if not is_time(begin) or not is_time(end):
        return 0.0
    first, last = parse_times([begin, end])
    return max(0.0, float(last - first) / 1e6)


def patched_object(operations: list[Any]) -> dict[str, Any]:
    """The object that the `add` and `replace` operations of a JSON patch (RFC 6902) describe; list positions become entries."""
    found: dict[str, Any] = {}
    for operation in operations[:MAX_ENTRIES]:
        if not isinstance(operation, dict) or operation.get("op") not in ("add", "replace"):
            continue
        parts = str(operation.get("path", "")).split("/")[1 : MAX_DEPTH + 1]
        names = [part.replace("~1", "/").replace("~0", "~") for part in parts]
        _put(found, names, operation.get("value"))
    return found


def _put(target: dict[str, Any], names: list[str], value: Any) -> None:
    if not names:
        if isinstance(value, dict):
            target.update(value)
        return
    here: Any = target
    for name, following in zip(names, [*names[1:], None], strict=True):
        position = name == "-" or name.isdecimal()
        if isinstance(here, list):
            if not position:
                return
            if following is None:
                here.append(value)
                return
            here.append({} if not (following == "-" or following.isdecimal()) else [])
            here = here[-1]
            continue
        if not isinstance(here, dict):
            return
        if following is None:
            here[name] = value
            return
        is_list = following == "-" or following.isdecimal()
        below = here.get(name)
        if not isinstance(below, (list if is_list else dict)):
            below = here[name] = [] if is_list else {}
        here = below


def _bounded(body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A copy within the limits, breadth first, and whether something was left out."""
    result: dict[str, Any] = {}
    waiting: deque[tuple[Any, Any, int]] = deque([(body, result, 1)])
    values, characters, is_cut = 0, 0, False
    while waiting:
        source, target, depth = waiting.popleft()
        items: list[tuple[Any, Any]] = list(source.items() if isinstance(source, dict) else enumerate(source))
        if len(items) > MAX_ENTRIES:
            is_cut = True
            # Of a long list the end decides as well as the beginning.
            items = items[: MAX_ENTRIES // 2] + items[-MAX_ENTRIES // 2 :]
        for key, value in items:
            if key in _LEFT_OUT:
                continue
            values += 1
            if values > MAX_VALUES or characters > MAX_CHARACTERS:
                return result, True
            kept: Any
            if isinstance(value, dict | list):
                kept = {} if isinstance(value, dict) else []
                if depth >= MAX_DEPTH:
                    is_cut = True
                else:
                    waiting.append((value, kept, depth + 1))
            elif isinstance(value, str):
                kept = plain(value[:MAX_TEXT])
                characters += len(kept)
            elif isinstance(value, int) and not isinstance(value, bool):
                kept = _whole(value)
            else:
                kept = value
            if isinstance(target, dict):
                name = plain(key[:MAX_TEXT])
                characters += len(name)
                target[name] = kept
            else:
                target.append(kept)
    return result, is_cut


def _below(value: Any, *names: str) -> dict[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _pod_spec(resource: str, body: dict[str, Any]) -> dict[str, Any]:
    """The specification of the Pods that an object makes, or is; empty if it makes none."""
    if resource == "pods":
        # Before Kubernetes 1.22 the ephemeral containers of a Pod had an object of their own.
        return body if body.get("kind") == "EphemeralContainers" else _below(body, "spec")
    if resource in _TEMPLATED:
        return _below(body, "spec", "template", "spec")
    if resource == "cronjobs":
        return _below(body, "spec", "jobTemplate", "spec", "template", "spec")
    return _below(body, "template", "spec") if resource == "podtemplates" else {}


def _containers(pod: dict[str, Any]) -> list[Any]:
    """Containers of every kind."""
    found: list[Any] = []
    for name in ("containers", "initContainers", "ephemeralContainers"):
        listed = pod.get(name)
        if isinstance(listed, list):
            found += [one for one in listed if isinstance(one, dict)]
    return found
