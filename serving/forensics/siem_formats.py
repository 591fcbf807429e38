"""Events in the schemas of SIEMs: OCSF 1.4 API Activity (class 6003) and the Elastic Common Schema 8.17.

Both hold what the event store adds to an event: the principal with its kind, and the alert that the event became part of.
Sources: schema.ocsf.io/1.4.0/classes/api_activity, elastic.co/guide/en/ecs/8.17.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from data.paths import shipped
from data.principals.identity import Identity
from serving.forensics import clock
from serving.forensics.records import EventRecord, what_of

Document = dict[str, Any]

_OCSF, _ECS = "1.4.0", "8.17.0"
_API_ACTIVITY, _APPLICATION_ACTIVITY = 6003, 6
_OTHER = 99
#: Verb -> activity of OCSF: created, read, updated, deleted.
_ACTIVITIES = {
    **dict.fromkeys(("create", "post"), (1, "Create")),
    **dict.fromkeys(("get", "list", "watch", "head", "options"), (2, "Read")),
    **dict.fromkeys(("update", "patch", "put"), (3, "Update")),
    **dict.fromkeys(("delete", "deletecollection"), (4, "Delete")),
}
#: Activity of OCSF -> type of ECS.
_TYPES = {1: "creation", 2: "access", 3: "change", 4: "deletion", _OTHER: "info"}
_CONNECTING = ("exec", "attach", "portforward", "proxy")
_FIRST_ERROR = 400
_REFUSED = (401, 403)
_SUCCESS, _FAILURE, _UNKNOWN = 1, 2, 0
_ANSWER = {_SUCCESS: "success", _FAILURE: "failure", _UNKNOWN: "unknown"}


class _LoggedUser(msgspec.Struct, gc=False):
    groups: list[str] | None = None


class _Logged(msgspec.Struct, gc=False):
    user: _LoggedUser | None = None
    level: str = ""


_LOGGED = msgspec.json.Decoder(_Logged)


class Enriched(msgspec.Struct, frozen=True):
    """A record with what is known of its caller besides.

    Attributes:
        kind: of the principal: human, serviceaccount, node, component, controller or anonymous.
        groups: of the user, as logged; empty where the record is without the event's own text.
        with_original: documents carry the event's own text, redacted.
    """

    record: EventRecord
    kind: str
    groups: tuple[str, ...] = ()
    with_original: bool = False

    @property
    def outcome(self) -> int:
        """1 if the request succeeded, 2 if it was refused or failed, 0 if its stage has no outcome."""
        code = self.record.code
        return _UNKNOWN if not code else _FAILURE if code >= _FIRST_ERROR else _SUCCESS

    @property
    def activity(self) -> tuple[int, str]:
        """Number and name of OCSF's activity."""
        if self.record.subresource in _CONNECTING:
            return _OTHER, "Other"
        return _ACTIVITIES.get(self.record.verb, (_OTHER, "Other"))

    @property
    def addresses(self) -> list[str]:
        """Addresses as logged: what the client sent first, the peer last."""
        return self.record.source_ips.split(",") if self.record.source_ips else []


def enricher(*, with_original: bool = False) -> Callable[[EventRecord], Enriched]:
    """What turns records into `Enriched` ones, by the shipped identity rules."""
    identity = Identity(shipped(shipped("actions.yaml")["identity"]))

    def enrich(record: EventRecord) -> Enriched:
        groups: tuple[str, ...] = ()
        if record.event:
            try:
                user = _LOGGED.decode(record.event).user
                groups = tuple((user.groups if user is not None else None) or ())
            except (msgspec.MsgspecError, UnicodeEncodeError):  # a cloud's record
                groups = ()
        known = identity.principal(record.username, groups)
        if record.impersonated and known.name != record.principal:  # behind a proxy
            known = identity.principal(record.impersonated, ())
        return Enriched(record, known.kind, groups, with_original)

    return enrich


def _filled(document: Mapping[str, Any]) -> Document:
    """A document without empty texts, lists and objects."""
    return {name: value for name, value in document.items() if value not in ("", [], {}, None)}


def _ocsf_metadata(record: EventRecord) -> Document:
    """Which record it is, and who made it."""
    return _filled(
        {
            "version": _OCSF,
            "uid": f"{record.audit_id}/{record.stage}",
            "correlation_uid": record.alert,
            "log_name": "kube-audit",
            "logged_time": record.received // 1000,
            "product": {"name": "kubehabit", "vendor_name": "kubehabit", "version": version("kubehabit")},
        }
    )


def _unmapped(record: EventRecord) -> Document:
    """What OCSF has no attribute for."""
    return _filled(
        {
            "stage": record.stage,
            "decision": record.decision,
            "impersonatedUser": record.impersonated,
            "cluster": record.cluster,
            "redactions": record.redactions or None,
        }
    )


def ocsf_activity(event: Enriched) -> Document:
    """The event as an API Activity."""
    record = event.record
    activity, activity_name = event.activity
    outcome = event.outcome
    path, _, query = record.path.partition("?")
    kind = "/".join(part for part in (record.resource, record.subresource) if part)
    resource = {
        "type": kind,
        "name": record.name or "*",
        "namespace": record.namespace,
        "group": _filled({"name": record.api_group}),
    }
    user = {
        "name": record.username or "system:anonymous",
        "uid": record.uid,
        "credential_uid": record.credential,
        "groups": [{"name": name} for name in event.groups],
    }
    known = _filled(
        {"principal": record.principal, "kind": event.kind, "alert": record.alert, "issued": record.issued}
    )
    addresses = event.addresses
    document = {
        "class_uid": _API_ACTIVITY,
        "class_name": "API Activity",
        "category_uid": _APPLICATION_ACTIVITY,
        "category_name": "Application Activity",
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": _API_ACTIVITY * 100 + activity,
        "type_name": f"API Activity: {activity_name}",
        "time": record.time // 1000,
        "severity_id": 1,
        "severity": "Informational",
        "status_id": outcome,
        "status": _ANSWER[outcome].capitalize(),
        "status_code": str(record.code) if record.code else "",
        "is_alert": bool(record.alert) or None,
        "message": f"{record.principal} {record.verb} {what_of(record._asdict())}",
        "actor": {"user": _filled(user)},
        "api": _filled(
            {
                "operation": record.verb,
                "service": {"name": "kube-apiserver"},
                "request": {"uid": record.audit_id},
                "response": _filled({"code": record.code or None}),
            }
        ),
        "src_endpoint": _filled(
            {
                "ip": addresses[0] if addresses else "",
                "intermediate_ips": addresses[1:],
                "name": "" if addresses else "unknown",
            }
        ),
        "http_request": _filled(
            {
                "uid": record.audit_id,
                "url": _filled({"path": path, "query_string": query}),
                "user_agent": record.user_agent,
            }
        ),
        "resources": [_filled(resource)] if record.resource else [],
        "metadata": _ocsf_metadata(record),
        "enrichments": [
            {
                "name": "actor.user.name",
                "value": user["name"],
                "type": "kubehabit",
                "provider": "kubehabit",
                "data": known,
            }
        ],
        "observables": [{"name": "actor.user.name", "type_id": 4, "value": record.principal}],
        "unmapped": _unmapped(record),
        "raw_data": record.event if event.with_original else "",
    }
    return _filled(document)


def ecs_event(event: Enriched) -> Document:
    """The event as a document of the Elastic Common Schema; what it has no field for is under `kubehabit`."""
    record = event.record
    activity, _ = event.activity
    path, _, query = record.path.partition("?")
    addresses = event.addresses
    refused = "denied" if record.code in _REFUSED else "allowed" if event.outcome == _SUCCESS else ""
    kind = "/".join(part for part in (record.resource, record.subresource) if part)
    document = {
        "@timestamp": clock.written(record.time),
        "ecs": {"version": _ECS},
        "message": f"{record.principal} {record.verb} {what_of(record._asdict())}",
        "event": _filled(
            {
                "kind": "event",
                "category": ["api"],
                "type": [one for one in (_TYPES[activity], refused) if one],
                "action": " ".join(part for part in (record.verb, kind) if part),
                "id": record.audit_id,
                "outcome": _ANSWER[event.outcome],
                "ingested": clock.written(record.received),
                "module": "kubehabit",
                "dataset": "kubehabit.audit",
                "provider": "kube-apiserver",
                "original": record.event if event.with_original else "",
            }
        ),
        "orchestrator": _filled(
            {
                "type": "kubernetes",
                "namespace": record.namespace,
                "cluster": _filled({"name": record.cluster}),
                "resource": _filled({"type": kind, "name": record.name}),
            }
        ),
        "user": _filled(
            {
                "name": record.username or "system:anonymous",
                "id": record.uid,
                "roles": list(event.groups),
                "effective": _filled({"name": record.impersonated}),
            }
        ),
        "source": _filled(
            {
                "ip": addresses[0] if addresses and _is_address(addresses[0]) else "",
                "address": addresses[0] if addresses else "",
            }
        ),
        "user_agent": _filled({"original": record.user_agent}),
        "url": _filled({"original": record.path, "path": path, "query": query}),
        "http": _filled({"response": _filled({"status_code": record.code or None})}),
        "related": _filled(
            {
                "user": list(dict.fromkeys(filter(None, (record.username, record.impersonated)))),
                "ip": [address for address in addresses if _is_address(address)],
            }
        ),
        "kubehabit": _filled(
            {
                "principal": record.principal,
                "kind": event.kind,
                "alert": _filled({"id": record.alert}),
                "api_group": record.api_group,
                "stage": record.stage,
                "decision": record.decision,
                "credential": record.credential,
                "issued_credential": record.issued,
                "redactions": record.redactions or None,
            }
        ),
    }
    return _filled(document)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


#: Name of a format -> what makes one of its documents.
FORMATS: Mapping[str, Callable[[Enriched], Document]] = {"ocsf": ocsf_activity, "ecs": ecs_event}
