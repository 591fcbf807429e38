"""Traces what a controller does to who last wrote the owner of its objects, and who comes back to what it made itself.

The log connects them: `metadata.ownerReferences` and `generateName` of what the controller writes, and the names of objects. Logs
can be read in parallel: `read_link` needs one event only, `OwnerTracker` follows links in the order of the log afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from data.arrays import Ints
from data.events.audit_event import UNREADABLE, AuditEvent, ObjectRef
from data.principals.identity import Principal

#: Owner of an action that has none: no controller did it, or the log does not say for whom.
NOBODY = "-"

WRITES: frozenset[str] = frozenset(("create", "update", "patch", "delete"))
#: Resources without an owner that make up most writes: heartbeats, reports, access reviews.
_UNOWNED = {
    *("events", "leases", "endpoints", "nodes", "componentstatuses", "bindings", "tokenreviews"),
    *(
        "subjectaccessreviews",
        "localsubjectaccessreviews",
        "selfsubjectaccessreviews",
        "selfsubjectrulesreviews",
    ),
}
_AUTOSCALERS = "horizontalpodautoscalers"
#: Subresources that change what an object is to do; the others report on it.
_DECISIONS = frozenset(("", "scale", "ephemeralcontainers", "eviction", "resize", "rollback"))

#: Accounts of kube-controller-manager. They carry out what others wrote and are never its author.
CONTROLLERS: frozenset[str] = frozenset(
    (
        *("bootstrap-signer", "generic-garbage-collector", "horizontal-pod-autoscaler"),
        *("kube-apiserver-serving-clustertrustbundle-publisher", "legacy-service-account-token-cleaner"),
        *("persistent-volume-binder", "pod-garbage-collector", "root-ca-cert-publisher"),
        *("storage-version-garbage-collector", "token-cleaner"),
    )
) | {
    f"{name}-controller"
    for name in (
        *("attachdetach", "certificate", "clusterrole-aggregation", "cronjob", "daemon-set", "deployment"),
        *("device-taint-eviction", "disruption", "endpoint", "endpointslice", "endpointslicemirroring"),
        *("ephemeral-volume", "expand", "job", "namespace", "node", "podgroup-protection", "pv-protection"),
        *("pvc-protection", "replicaset", "replication", "resource-claim", "resourceclaim", "resourcequota"),
        *("route", "selinux-warning", "service", "service-account", "service-cidrs", "statefulset"),
        *("storage-version-migrator", "taint-eviction", "ttl", "ttl-after-finished"),
        *("validatingadmissionpolicy-status", "volumeattributesclass-protection"),
    )
}
_GROUPS = {
    **dict.fromkeys(("deployments", "replicasets", "daemonsets", "statefulsets"), "apps"),
    **dict.fromkeys(("jobs", "cronjobs"), "batch"),
}
#: Resource -> resources of its owners that pass their name on.
_OWNERS = {
    "pods": ("apps/replicasets", "apps/daemonsets", "apps/statefulsets", "batch/jobs"),
    "apps/replicasets": ("apps/deployments",),
    "batch/jobs": ("batch/cronjobs",),
}
#: The API server accepts no longer names, nor resources with their group; one more is for a `*`. A tracker keeps 200 MB at most.
_NAME_LENGTH = 253 + 1
_SUFFIX = 6  # "-x2x4z", what generateName appends
_DEPTH = 8
#: Microseconds in which what was created still counts as the work of who created it: a debug pod, a feature environment. What
#: stands for longer may be used by others.
_FRESH = 86_400_000_000

#: (cluster, group/resource, namespace, name); a resource ending in `*` names all objects with that prefix.
Key = tuple[str, str, str, str]


class Link(NamedTuple):
    """What one write says about ownership."""

    target: Key | None  # the object written; None when its name is not known
    parent: Key | None  # its controlling owner, if the body names one
    author: str  # principal whose own decision this write is, or "" if it carries out another's
    also: Key | None  # a second object that the target steers (an autoscaler's workload)
    asks: bool  # whether the owner of this action is wanted
    scales: bool  # whether this is an autoscaler changing the target
    maker: str = (
        ""  # principal that created the target by its own decision, or asked to remove it or to read its log
    )
    creates: bool = False  # whether it created it


class _OwnerReference(msgspec.Struct, gc=False):
    apiVersion: str = ""
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class _OwnedMetadata(msgspec.Struct, gc=False):
    name: str = ""
    generateName: str = ""
    ownerReferences: list[_OwnerReference] | None = None


class _ScaleTarget(msgspec.Struct, gc=False):
    scaleTargetRef: _OwnerReference | None = None


class _OwnedObject(msgspec.Struct, gc=False):
    metadata: _OwnedMetadata | None = None


class _Autoscaler(msgspec.Struct, gc=False):
    spec: _ScaleTarget | None = None


_OBJECT = msgspec.json.Decoder(_OwnedObject)
_AUTOSCALER = msgspec.json.Decoder(_Autoscaler)
_NO_METADATA = _OwnedMetadata()


def _plural(kind: str) -> str:
    """Resource of a kind, as Kubernetes guesses it (k8s.io/apimachinery, UnsafeGuessKindToResource)."""
    word = kind.lower()
    if word == "endpoints":
        return word
    if word.endswith("s"):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") else word + "s"


def _resource(group: str, plural: str) -> str:
    group = _GROUPS.get(plural, group)  # the old group `extensions` holds the same objects
    return f"{group}/{plural}" if group else plural


def _owner_key(reference: _OwnerReference, cluster: str, namespace: str) -> Key | None:
    """Key of an owner; it lives in the namespace of what it owns, or in none."""
    if not reference.kind or not reference.name:
        return None
    group, slash, _ = reference.apiVersion.rpartition("/")
    return cluster, _resource(group if slash else "", _plural(reference.kind)), namespace, reference.name


def _steered_by(body: msgspec.Raw, cluster: str, namespace: str) -> Key | None:
    """The workload that an autoscaler's body names."""
    try:
        spec = _AUTOSCALER.decode(body).spec
    except UNREADABLE:
        return None
    target = None if spec is None else spec.scaleTargetRef
    return None if target is None else _owner_key(target, cluster, namespace)


def is_machinery(principal: Principal) -> bool:
    """Whether a principal only carries out what others decided: built-in controllers, the control plane, nodes."""
    if principal.kind == "controller":
        return principal.name.rpartition(":")[2] in CONTROLLERS
    return principal.kind in ("component", "node")


def has_owner(ref: ObjectRef) -> bool:
    """Whether a write of this can say anything about ownership; most cannot."""
    # A status is a report, and a third of all writes.
    return ref.resource not in _UNOWNED and (ref.subresource != "status" or ref.resource == _AUTOSCALERS)


def _is_long(key: Key | None) -> bool:
    return key is not None and max(len(key[1]), len(key[2]), len(key[3])) > _NAME_LENGTH


def read_link(event: AuditEvent, principal: Principal) -> Link | None:
    """What an event that became an action says about ownership; None for most."""
    ref = event.objectRef
    if event.verb not in WRITES or ref is None or not has_owner(ref):
        return None
    autoscaler = ref.resource == _AUTOSCALERS
    status = event.responseStatus
    refused = status is not None and status.code >= 400
    removes = event.verb == "delete" and not ref.subresource
    if refused and not removes:
        return None
    cluster = event.cluster
    resource = _resource(ref.apiGroup, ref.resource)
    machinery = is_machinery(principal)
    if refused:  # it changes nothing, but asked for a removal
        return _asked_of(event, ref, resource, principal)
    metadata, also = _NO_METADATA, None
    body = event.requestObject
    # A built-in controller's update says nothing about owners that its create or the name has not said.
    if body and not ref.subresource and (event.verb == "create" or not (machinery or event.verb == "delete")):
        try:
            metadata = _OBJECT.decode(body).metadata or _NO_METADATA
        except UNREADABLE:
            metadata = _NO_METADATA  # a JSON patch, or no object at all
    if body and autoscaler and event.verb != "delete":
        also = _steered_by(body, cluster, ref.namespace)
    parent = None
    if metadata.ownerReferences:
        reference = next((r for r in metadata.ownerReferences if r.controller), metadata.ownerReferences[0])
        parent = _owner_key(reference, cluster, ref.namespace)
    name, prefix = ref.name or metadata.name, metadata.generateName
    target: Key | None = None
    if prefix and (not name or (parent is not None and name.startswith(prefix))):
        target = cluster, resource + "*", ref.namespace, prefix
    elif name:
        target = cluster, resource, ref.namespace, name
    if target is None and parent is None:
        return None
    if _is_long(target) or _is_long(parent) or _is_long(also):
        return None
    decides = not machinery and parent is None and ref.subresource in _DECISIONS
    asks, scales = machinery or parent is not None, machinery and ref.subresource == "scale"
    creates = event.verb == "create" and not ref.subresource
    author = principal.name if decides else ""
    return Link(target, parent, author, also, asks, scales, author if creates or removes else "", creates)


def read_log_link(event: AuditEvent, principal: Principal) -> Link | None:
    """What a read of a pod's log says: nothing about ownership, but it may be the principal's own pod."""
    ref = event.objectRef
    return None if ref is None else _asked_of(event, ref, ref.resource, principal)


def _asked_of(event: AuditEvent, ref: ObjectRef, resource: str, principal: Principal) -> Link | None:
    """A link that says who asked for something of an object, and changes nothing."""
    key = event.cluster, resource, ref.namespace, ref.name
    if not ref.name or is_machinery(principal) or _is_long(key):
        return None
    return Link(key, None, "", None, False, False, principal.name)


class OwnerTracker:
    """Remembers who last wrote what, and follows owner references. Takes links in the order of the log.

    Two generations bound its memory: an object that was neither written nor looked up during the last `capacity` objects is
    forgotten, and what belongs to it then has no owner.
    """

    def __init__(self, capacity: int = 65_536) -> None:
        self._capacity = capacity
        self._new: dict[Key, str | Key] = {}
        self._old: dict[Key, str | Key] = {}
        #: Since `checkpoint`: what was changed, at which key, and what was there before.
        self._changes: list[tuple[dict[Key, str | Key], Key, str | Key | None]] | None = None

    def checkpoint(self) -> Callable[[], None]:
        """Returns what forgets all links learned from now on; to be called before the next checkpoint, if at all."""
        new, old = self._new, self._old
        changes = self._changes = []

        def undo() -> None:
            for held, key, before in reversed(changes):
                if before is None:
                    del held[key]
                else:
                    held[key] = before
            self._new, self._old = new, old

        return undo

    def owner(self, event: AuditEvent, principal: Principal) -> str:
        """Principal behind an action of a controller; "-" for everything else. `read_link` and `follow` in one."""
        link = read_link(event, principal)
        return NOBODY if link is None else self.follow(link)

    def follow(self, link: Link) -> str:
        """Learn a link; returns the principal behind the action if the link asks, else "-"."""
        target, parent = link.target, link.parent
        if target is not None:
            if parent is not None and parent != target:
                self._keep(target, parent)
            elif link.author:
                self._keep(target, link.author)
            if link.also is not None and link.also != target:
                self._keep(_steered(link.also), target)
        if not link.asks:
            return NOBODY
        if link.scales and target is not None:
            steering = self._get(_steered(target))
            if isinstance(steering, tuple) and (found := self._resolve(steering)) != NOBODY:
                self._keep(target, found)  # setting the autoscaler changed the workload
                return found
        owners = (self._resolve(key) for key in (parent, target) if key is not None)
        return next((owner for owner in owners if owner != NOBODY), NOBODY)

    def join(self, links: Iterable[tuple[int, Link]]) -> list[tuple[int, str]]:
        """(action, owner) of every action in `ActionBatch.links` that has one. Call in the order of the log."""
        return [(row, owner) for row, link in links if (owner := self.follow(link)) != NOBODY]

    def own_work(self, links: Iterable[tuple[int, Link]], time: Ints) -> list[int]:
        """Removals, and reads of logs, of what the same principal created within the last day. Call in the order of the log.

        Args:
            links: as of `join`.
            time: int64, when each action was asked for, microseconds since 1970 UTC.
        """
        found = []
        for row, link in links:
            if not link.maker or link.target is None or link.target[1].endswith("*"):
                continue
            key, now = _made(link.target), int(time[row])
            if link.creates:
                self._keep(key, f"{now} {link.maker}")
            elif isinstance(made := self._get(key), str):
                when, _, maker = made.partition(" ")
                if maker == link.maker and 0 <= now - int(when) <= _FRESH:
                    found.append(row)
        return found

    def _resolve(self, key: Key) -> str:
        for _ in range(_DEPTH):
            found = self._get(key) or self._guess(key)
            if found is None:
                break
            if isinstance(found, str):
                return found
            key = found
        return NOBODY

    def _guess(self, key: Key) -> Key | None:
        """Owner of an object by how controllers name things: `web-5d4f8c7b9-x2x4z` is of `web-5d4f8c7b9`, that of `web`."""
        cluster, resource, namespace, name = key
        stem = name.rpartition("-")[0]
        guesses = [(kind, stem) for kind in _OWNERS.get(resource, ())]
        if resource == "pods":
            guesses = [
                ("pods*", name[: 1 - _SUFFIX]),
                *guesses,
                ("apps/deployments", stem.rpartition("-")[0]),
            ]
        keys = ((cluster, kind, namespace, owner) for kind, owner in guesses)
        return next((owner for owner in keys if self._get(owner) is not None), None)

    def _get(self, key: Key) -> str | Key | None:
        found = self._new.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self._keep(key, found)  # a lookup keeps it alive
        return found

    def _keep(self, key: Key, value: str | Key) -> None:
        if self._changes is not None:
            self._changes.append((self._new, key, self._new.get(key)))
        self._new[key] = value
        if len(self._new) >= self._capacity:
            self._old, self._new = self._new, {}

    def copy(self) -> OwnerTracker:
        """Independent copy."""
        made = OwnerTracker(self._capacity)
        made._new, made._old = dict(self._new), dict(self._old)
        return made

    def to_list(self) -> list[list[Any]]:
        """JSON form of what is remembered, to continue a stream later."""
        return [
            [list(key), list(value) if isinstance(value, tuple) else value]
            for key, value in (self._old | self._new).items()
        ]

    @classmethod
    def from_list(cls, saved: Iterable[Sequence[Any]], capacity: int = 65_536) -> OwnerTracker:
        """Inverse of `to_list`."""
        tracker = cls(capacity)
        for key, value in saved:
            tracker._keep(tuple(key), tuple(value) if isinstance(value, list) else value)
        return tracker


def _made(key: Key) -> Key:
    """Where it is kept who created an object, and when; its last author may be another."""
    return key[0], key[1] + "+", key[2], key[3]


def _steered(key: Key) -> Key:
    """Where the autoscaler of a workload is kept: it steers the workload but did not write it."""
    return key[0], key[1] + "^", key[2], key[3]
