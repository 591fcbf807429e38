"""Links between principals in the log: tokens requested, Pods entered or started, rights granted, impersonation.

Each link is read from one event; the account of a Pod is learned from the events that created it. Confidence is part of a link:

    certain   the API server itself did it, and says so
    likely    it follows from how Kubernetes works, if nothing stood in the way
    possible  it could have been used, and the log cannot tell whether it was
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from data.actions.folding import SAFE
from data.actions.kind_traits import certificate_subject
from data.events.audit_event import UNREADABLE, AuditEvent, ObjectRef
from serving.schemas import Confidence

SERVICE_ACCOUNT = "system:serviceaccount:"

#: Ends a target that stands for all service accounts of a namespace, or of the cluster.
ANY = "*"

#: Subresources through which one principal may come to act as another.
GIVING = frozenset(("token", "exec", "attach", "portforward", "ephemeralcontainers", "approval"))

_RUNNING = frozenset(
    (
        *("pods", "deployments", "daemonsets", "statefulsets", "replicasets", "jobs", "cronjobs"),
        "replicationcontrollers",
    )
)
_BINDINGS = frozenset(("rolebindings", "clusterrolebindings"))
_GIVEN_BY_CONTROLLERS = re.compile(rf"[{SAFE}]{{5,10}}|[0-9]+")
_NAMED_DEEP = 3  # cronjob-time-suffix
_TOKEN_NAME = re.compile(r"(?P<account>.+)-token-[a-z0-9]{5}")
_ACCOUNT_OF_TOKEN = "kubernetes.io/service-account.name"
_TOKEN_TYPE = "kubernetes.io/service-account-token"
_FIRST_REFUSAL = 400
_WRITES = ("create", "update", "patch")
_MAX_SUBJECTS = 20
_DECODE = msgspec.json.Decoder()


class IdentityLink(NamedTuple):
    """A way in which one principal may have come to act as another.

    Attributes:
        kind: token-requested, runs-as, entered, acted-as, token-read, rights-granted or certificate.
        target: the other principal; ends in ANY for all service accounts of a namespace or cluster.
        via: the object that it goes through, in words of the API ("pods web/web-0").
        confidence: that the target can be used.
        why: the reason, as a clause.
    """

    kind: str
    target: str
    via: str
    confidence: Confidence
    why: str


def standing_for(principal: str) -> list[str]:
    """Targets that include a service account among others; none for other principals."""
    cluster, found, rest = principal.partition(SERVICE_ACCOUNT)
    if not found:
        return []
    namespace = rest.partition(":")[0]
    return [f"{cluster}{SERVICE_ACCOUNT}{namespace}:{ANY}", f"{cluster}{SERVICE_ACCOUNT}{ANY}"]


def place_of(event: AuditEvent) -> str:
    """Namespace of an event's object, with its cluster in a log of several."""
    namespace = "" if event.objectRef is None else event.objectRef.namespace
    return f"{event.cluster}/{namespace}" if event.cluster else namespace


def leads_to(target: str, principal: str) -> bool:
    """Whether a link's target is a principal, or includes it."""
    if target.endswith(ANY):
        return principal.startswith(target[: -len(ANY)])
    return target == principal


def makers(name: str) -> Iterator[str]:
    """Names of what may have created an object of this name, nearest first: `web-5d4f8c7b9` and `web` of `web-5d4f8c7b9-x2x4z`.

    Controllers append random letters of one alphabet, template hashes in the same, times and ordinals; no words.
    """
    for _ in range(_NAMED_DEEP):
        name, dash, end = name.rpartition("-")
        if not dash or not _GIVEN_BY_CONTROLLERS.fullmatch(end):
            return
        yield name


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _body(event: AuditEvent) -> dict[str, Any]:
    try:
        return _object(_DECODE.decode(event.requestObject)) if event.requestObject else {}
    except UNREADABLE:
        return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _pod_spec(resource: str, body: dict[str, Any]) -> dict[str, Any]:
    spec = _object(body.get("spec"))
    if resource == "cronjobs":
        spec = _object(_object(spec.get("jobTemplate")).get("spec"))
    return spec if resource == "pods" else _object(_object(spec.get("template")).get("spec"))


def _account_of(resource: str, body: dict[str, Any]) -> str | None:
    """Service account of a Pod created from this body; None if the body has no complete Pod."""
    spec = _pod_spec(resource, body)
    named = _text(spec.get("serviceAccountName")) or _text(spec.get("serviceAccount"))
    return named or ("default" if spec.get("containers") else None)


class RunsAs:
    """Service accounts of Pods, learned from their creation. Bounded: those not looked up are forgotten."""

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._new: dict[tuple[str, str], str] = {}
        self._old: dict[tuple[str, str], str] = {}

    def learn(self, event: AuditEvent) -> None:
        """Learn from a write, if it creates Pods."""
        ref = event.objectRef
        if ref is None or ref.resource not in _RUNNING or ref.subresource or event.verb not in _WRITES:
            return
        if event.responseStatus is not None and event.responseStatus.code >= _FIRST_REFUSAL:
            return
        body = _body(event)
        account = _account_of(ref.resource, body)
        metadata = _object(body.get("metadata"))
        name = ref.name or _text(metadata.get("name")) or _text(metadata.get("generateName")).rstrip("-")
        if account is not None and name:
            self._keep((place_of(event), name), account)

    def account(self, place: str, pod: str) -> str | None:
        """Service account of a Pod, by its own name in a place (`place_of`) or by that of its `makers`."""
        for name in (pod, *makers(pod)):
            key = (place, name)
            found = self._new.get(key) or self._old.get(key)
            if found is not None:
                self._keep(key, found)
                return found
        return None

    def to_list(self) -> list[list[str]]:
        """JSON form."""
        return [[*key, account] for key, account in (self._old | self._new).items()]

    def restore(self, saved: Iterable[Sequence[str]]) -> None:
        """Restore what `to_list` returned."""
        for namespace, name, account in saved:
            self._keep((namespace, name), account)

    def _keep(self, key: tuple[str, str], account: str) -> None:
        self._new[key] = account
        if len(self._new) >= self._capacity:
            self._old, self._new = self._new, {}


def read_links(event: AuditEvent, runs_as: RunsAs) -> list[IdentityLink]:
    """Links from the principal of an event to others; none if it was refused, as for most events."""
    links: list[IdentityLink] = []
    if event.responseStatus is not None and event.responseStatus.code >= _FIRST_REFUSAL:
        return links
    if event.impersonatedUser is not None and event.impersonatedUser.username:
        why = "the API server carried the request out as the other"
        links.append(IdentityLink("acted-as", event.impersonatedUser.username, "", "certain", why))
    ref = event.objectRef
    if ref is None:
        return links
    if ref.resource == "serviceaccounts" and ref.subresource == "token":
        why = "the API server issued a token of that account"
        links.append(IdentityLink("token-requested", _account(ref, ref.name), _via(ref), "certain", why))
    elif ref.resource == "pods" and ref.subresource in GIVING:
        links += _entered(ref, runs_as.account(place_of(event), ref.name))
    elif ref.resource in _RUNNING and not ref.subresource:
        links += _started(event, ref)
    elif ref.resource == "secrets":
        links += _token_read(event, ref)
    elif ref.resource in _BINDINGS and event.verb in _WRITES:
        links += _granted(event, ref)
    elif ref.resource == "certificatesigningrequests" and event.verb == "create":
        for sort, name in certificate_subject(_object(_body(event).get("spec")).get("request")):
            if sort == "user":
                why = "a client certificate in that name was asked for; it is good once approved"
                links.append(IdentityLink("certificate", name, _via(ref), "possible", why))
    return links


def _account(ref: ObjectRef, name: str) -> str:
    """A service account in the namespace of an object."""
    return f"{SERVICE_ACCOUNT}{ref.namespace}:{name}"


def _via(ref: ObjectRef) -> str:
    name = "/".join(part for part in (ref.namespace, ref.name) if part)
    return f"{ref.resource} {name}".rstrip()


def _entered(ref: ObjectRef, account: str | None) -> list[IdentityLink]:
    if account is None:
        return []
    confidence: Confidence = "likely"
    why = "a process inside the Pod can read the token that it runs with"
    if ref.subresource == "portforward":
        confidence, why = "possible", "a tunnel into the Pod reaches only what the Pod itself offers"
    return [IdentityLink("entered", _account(ref, account), _via(ref), confidence, why)]


def _started(event: AuditEvent, ref: ObjectRef) -> list[IdentityLink]:
    if event.verb not in _WRITES:
        return []
    body = _body(event)
    account = _account_of(ref.resource, body)
    # Everything runs as `default` unless it says otherwise: starting it leads nowhere.
    if account is None or account == "default":
        return []
    name = ref.name or _text(_object(body.get("metadata")).get("name"))
    why = "what runs there holds a token of that account, and its author chose what runs"
    via = f"{ref.resource} {ref.namespace}/{name}"
    return [IdentityLink("runs-as", _account(ref, account), via, "likely", why)]


def _token_read(event: AuditEvent, ref: ObjectRef) -> list[IdentityLink]:
    if event.verb == "get":
        named = _TOKEN_NAME.fullmatch(ref.name)
        if named is None:
            return []
        why = "the Secret is named as those that hold a token of that account"
        return [IdentityLink("token-read", _account(ref, named["account"]), _via(ref), "likely", why)]
    if event.verb in ("list", "watch"):
        target = _account(ref, ANY) if ref.namespace else f"{SERVICE_ACCOUNT}{ANY}"
        why = "a list of Secrets gives away every token kept among them; whether there was one, the log does not say"
        return [IdentityLink("token-read", target, _via(ref), "possible", why)]
    if event.verb == "create":
        body = _body(event)
        notes = _object(_object(body.get("metadata")).get("annotations"))
        account = _text(notes.get(_ACCOUNT_OF_TOKEN))
        if body.get("type") == _TOKEN_TYPE and account:
            why = "a Secret of this type is filled with a lasting token of that account"
            return [IdentityLink("token-requested", _account(ref, account), _via(ref), "certain", why)]
    return []


def _granted(event: AuditEvent, ref: ObjectRef) -> list[IdentityLink]:
    subjects = _body(event).get("subjects")
    why = "the binding gives rights to that account"
    links = []
    for subject in map(_object, (subjects if isinstance(subjects, list) else [])[:_MAX_SUBJECTS]):
        name, kind = _text(subject.get("name")), subject.get("kind")
        if not name or kind not in ("User", "ServiceAccount"):
            continue  # a group is no single principal
        if kind == "ServiceAccount":
            name = f"{SERVICE_ACCOUNT}{_text(subject.get('namespace')) or ref.namespace}:{name}"
        links.append(IdentityLink("rights-granted", name, _via(ref), "certain", why))
    return links
