"""Keeps a `NodeGraph` current with the pods, volumes and attachments that an audit log shows being made, bound and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qs

import msgspec
from cachetools import LRUCache

from data.events.audit_event import UNREADABLE, AuditEvent, ObjectRef
from detection.authorization.node_authorizer import NODE
from detection.authorization.node_graph import NodeGraph, RequestedPod, requested_pod

#: Resources whose changes move the graph.
FOLLOWED = frozenset(("pods", "persistentvolumes", "volumeattachments", "resourceslices"))
_GROUPS = {"volumeattachments": "storage.k8s.io", "resourceslices": "resource.k8s.io"}
#: Bytes of a body that are read; an API server takes 3 MiB, and a pod's object has some kilobytes.
_LONGEST = 1 << 19
#: Bodies of pods that are remembered as read.
_PARSED = 2_048
_DECODE = msgspec.json.Decoder()


class NodeFollower:
    """Applies what happens to pods and volumes, in the order of a log, to a `NodeGraph`."""

    def __init__(self, graph: NodeGraph) -> None:
        self.graph = graph
        self._parsed: LRUCache[bytes, RequestedPod] = LRUCache(_PARSED)

    def follow(self, event: AuditEvent) -> None:
        """Apply a finished request that succeeded and changed something of `FOLLOWED`."""
        ref = event.objectRef
        if ref is None or ref.apiGroup != _GROUPS.get(ref.resource, ""):
            return
        if ref.resource == "pods":
            self._pod(event, ref)
            return
        body = _body(event)
        name = ref.name or _text(body.get("metadata"), "name")
        if ref.subresource or not name:
            return
        if ref.resource == "persistentvolumes":
            self._volume(event.verb, name, body)
            return
        graph = self.graph
        table = graph.attachments if ref.resource == "volumeattachments" else graph.slices
        node = _text(body.get("spec"), "nodeName")
        if event.verb == "delete":
            table.pop(name, None)
        elif node:
            graph.put_node_of(table, name, node)

    def _pod(self, event: AuditEvent, ref: ObjectRef) -> None:
        graph = self.graph
        match event.verb, ref.subresource:
            case "create", "":
                self._created(event, ref)
            case "create", "binding" if ref.name:
                graph.bind(ref.namespace, ref.name, _text(_body(event).get("target"), "name"))
            case "delete", "" if ref.name:
                held = graph.pods.get((ref.namespace, ref.name))
                # Others only ask for the end of a pod; its node removes it when it has stopped.
                by_node = event.user.username.startswith(NODE)
                if held is not None and (by_node or not held.node or _at_once(event)):
                    graph.now = max(graph.now, _seconds(event.stageTimestamp))
                    graph.remove_pod(ref.namespace, ref.name)

    def _created(self, event: AuditEvent, ref: ObjectRef) -> None:
        # The pods of one owner are asked for with the same body.
        raw = memoryview(event.requestObject)
        digest = blake2b(raw, digest_size=16).digest()
        known = self._parsed.get(digest)
        if known is None:
            known = self._parsed[digest] = requested_pod(_body(event))
        self.graph.ask_for(ref.namespace, known, ref.name or known.name)

    def _volume(self, verb: str, name: str, body: Mapping[str, Any]) -> None:
        if verb == "delete":
            self.graph.remove_volume(name)
        elif body.get("kind") == "PersistentVolume":
            self.graph.put_volume(name, body)


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _at_once(event: AuditEvent) -> bool:
    if _body(event).get("gracePeriodSeconds") == 0:
        return True
    query = event.requestURI.partition("?")[2]
    return parse_qs(query, max_num_fields=64).get("gracePeriodSeconds") == ["0"]


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""


def _body(event: AuditEvent) -> Mapping[str, Any]:
    if not event.requestObject or len(memoryview(event.requestObject)) > _LONGEST:
        return {}
    try:
        found: object = _DECODE.decode(event.requestObject)
    except UNREADABLE:
        return {}
    return found if isinstance(found, Mapping) else {}
