"""Traits that are particular to a kind of object: roles and bindings, webhooks, services, certificates, nodes and the like."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator

from data.actions.body_values import (
    Json,
    Object,
    as_list,
    as_object,
    as_objects,
    folded_word,
    given_traits,
    magnitude,
    object_at,
    quantity,
    trait_fields,
)
from data.actions.extension_traits import EXTENSION_READERS, ingress_annotations
from data.actions.pod_traits import NODE_ROLE, lasting, top_folder

_ESCALATING = ("*", "escalate", "bind", "impersonate")
_SENSITIVE_RULES = {
    *("secrets", "pods/exec", "pods/attach", "nodes/proxy", "serviceaccounts/token"),
    *("pods/ephemeralcontainers", "certificatesigningrequests/approval", "nodes/status"),
}
_WRITES = {"create", "update", "patch", "delete", "deletecollection", "*"}
_STRONG_ROLES = {"cluster-admin", "admin", "edit", "system:masters"}


_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"


def _role(body: Object, _actor: str) -> Iterator[str]:
    for rule in as_objects(body.get("rules")):
        verbs = {str(verb) for verb in as_list(rule.get("verbs"))}
        resources = {str(resource) for resource in as_list(rule.get("resources"))}
        yield from (f"verb={verb}" for verb in verbs.intersection(_ESCALATING))
        if "*" in resources:
            yield "resource=*"
        elif "*" in as_list(rule.get("apiGroups")):
            yield "apiGroup=*"
        if rule.get("nonResourceURLs"):
            yield "nonResourceURLs"
        yield from (f"resource={resource}" for resource in resources & _SENSITIVE_RULES)
        if verbs & _WRITES:
            yield "grantsWrite"
    for label, value in object_at(body, "metadata", "labels").items():
        if label.startswith(_AGGREGATE) and value == "true":
            yield "aggregateTo=" + folded_word(label[len(_AGGREGATE) :])


def _binding(body: Object, actor: str) -> Iterator[str]:
    role = str(as_object(body.get("roleRef")).get("name") or "")
    if role:
        yield "role=" + (role if role in _STRONG_ROLES else folded_word(role))
    for subject in as_objects(body.get("subjects")):
        name, kind = str(subject.get("name")), str(subject.get("kind"))
        yield "subject=" + (folded_word(name) if name.startswith("system:") else folded_word(kind))
        account = f":{subject.get('namespace')}:{name}"
        if name == actor or (kind == "ServiceAccount" and actor.endswith(account)):
            yield "subject=self"


_WEBHOOK_FIELDS = (
    *(trait_fields("failurePolicy:failurePolicy="), trait_fields("url:webhookURL", "clientConfig")),
    trait_fields("namespace:webhookService=", "clientConfig.service"),
)


def _webhook(body: Object, _actor: str) -> Iterator[str]:
    for hook in as_objects(body.get("webhooks")):
        yield from given_traits(hook, *_WEBHOOK_FIELDS)
        if any(hook.get(key) for key in ("namespaceSelector", "objectSelector", "matchConditions")):
            yield "webhookExempts"
        for rule in as_objects(hook.get("rules")):
            resources = as_list(rule.get("resources"))
            yield from (f"resource={one}" for one in ("*", "*/*", "secrets", "pods") if one in resources)


def _service(body: Object, _actor: str) -> Iterator[str]:
    spec = object_at(body, "spec")
    if spec.get("type") not in (None, "ClusterIP"):
        yield f"type={folded_word(spec['type'])}"
    if "0.0.0.0/0" in as_list(spec.get("loadBalancerSourceRanges")):
        yield "from=anywhere"
    if as_list(object_at(body, "status", "loadBalancer").get("ingress")):
        yield "loadBalancerIP"


def _ingress(body: Object, _actor: str) -> Iterator[str]:
    spec = object_at(body, "spec")
    rules = list(as_objects(spec.get("rules")))
    if rules and not spec.get("tls"):
        yield "noTLS"
    for host in (rule.get("host") for rule in rules):
        yield "wildcardHost" if not host or str(host).startswith("*") else "host=" + folded_word(host)
    yield from ingress_annotations(body)


def _network_policy(body: Object, _actor: str) -> Iterator[str]:
    spec = object_at(body, "spec")
    if spec.get("podSelector") == {}:
        yield "selectsAll"
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        rules = spec.get(direction)
        for rule in as_objects(rules):
            everywhere = not rule.get(peers) and not rule.get("ports")
            blocks = (object_at(peer, "ipBlock").get("cidr") for peer in as_objects(rule.get(peers)))
            if everywhere or any(block in ("0.0.0.0/0", "::/0") for block in blocks):
                yield f"allowsAll={direction}"
        if direction.capitalize() in as_list(spec.get("policyTypes")) and not rules:
            yield f"denies={direction}"


def _volume(body: Object, _actor: str) -> Iterator[str]:
    spec = object_at(body, "spec")
    yield from (
        f"{source}=" + top_folder(object_at(spec, source))
        for source in ("hostPath", "local")
        if source in spec
    )
    if "csi" in spec:
        yield "csi=" + folded_word(object_at(spec, "csi").get("driver"))
    if "nfs" in spec:
        yield "nfs"
    if origin := spec.get("dataSource") or spec.get("dataSourceRef"):
        yield "dataSource=" + folded_word(as_object(origin).get("kind"))


_ATTRIBUTES = {b"\x03": "user", b"\x0a": "group"}
_CSR_LIMIT = 16_384
_PEM_EDGE = re.compile(rb"-----[A-Z ]+-----|\s")


def certificate_subject(request: Json) -> list[tuple[str, str]]:
    """Common name ("user") and organisations ("group") in a certificate request.

    A scan of the DER finds them as object identifier, string tag, length, text; nothing is parsed, and the length is bounded.
    """
    if not isinstance(request, str) or len(request) > _CSR_LIMIT:
        return []
    try:
        der = binascii.a2b_base64(request)
        if b"-----BEGIN" in der[:64]:
            der = binascii.a2b_base64(_PEM_EDGE.sub(b"", der))
    except (binascii.Error, ValueError):
        return []
    found: list[tuple[str, str]] = []
    at = der.find(b"\x06\x03\x55\x04")
    while at >= 0 and len(found) < 16:
        sort, length = _ATTRIBUTES.get(der[at + 4 : at + 5]), der[at + 6 : at + 7]
        if sort and length and length[0] < 0x80:
            found.append((sort, der[at + 7 : at + 7 + length[0]].decode("utf-8", "replace")))
        at = der.find(b"\x06\x03\x55\x04", at + 4)
    return found


def _certificate_request(body: Object, actor: str) -> Iterator[str]:
    spec = object_at(body, "spec")
    yield from (
        f"usage={folded_word(usage)}" for usage in as_list(spec.get("usages")) if "auth" in str(usage)
    )
    yield from lasting(spec, "days", 86_400)
    for sort, name in certificate_subject(spec.get("request")):
        if sort == "group":
            yield "csrGroup=" + folded_word(name)
        elif name == actor:
            yield "csrUser=self"
        else:
            yield "csrUser=" + (folded_word(name) if name.startswith("system:") else "other")
    for condition in as_objects(object_at(body, "status").get("conditions")):
        if condition.get("type") in ("Approved", "Denied"):
            yield str(condition["type"]).lower()


_POD_SECURITY = "pod-security.kubernetes.io/"


def _namespace(body: Object, _actor: str) -> Iterator[str]:
    for label, value in object_at(body, "metadata", "labels").items():
        if label.startswith(_POD_SECURITY) and not label.endswith("-version"):
            yield f"podSecurity={folded_word(label[len(_POD_SECURITY) :])}:{folded_word(value)}"


def _node(body: Object, actor: str) -> Iterator[str]:
    spec, status = object_at(body, "spec"), object_at(body, "status")
    if isinstance(spec.get("unschedulable"), bool):
        yield "unschedulable" if spec["unschedulable"] else "schedulable"
    yield from (f"taint={folded_word(taint.get('effect'))}" for taint in as_objects(spec.get("taints")))
    for label in object_at(body, "metadata", "labels"):
        if label.startswith(NODE_ROLE):
            yield "nodeRole=" + folded_word(label[len(NODE_ROLE) :])
    if not actor.startswith("system:node:"):
        if status.get("addresses"):
            yield "nodeAddresses"
        if object_at(status, "daemonEndpoints"):
            yield "kubeletPort"


def pod_status(body: Object, _actor: str) -> Iterator[str]:
    """Traits of what is written to a pod's status."""
    status = object_at(body, "status")
    yield from (key for key in ("podIP", "hostIP") if status.get(key))
    for condition in as_objects(status.get("conditions")):
        if condition.get("type") == "Ready" and condition.get("status") == "True":
            yield "ready"


_CLOUD_IDENTITY = (
    *("eks.amazonaws.com/role-arn", "iam.gke.io/gcp-service-account"),
    "azure.workload.identity/client-id",
)


def token_request(body: Object) -> Iterator[str]:
    """Traits of a request for a service account's token."""
    spec = object_at(body, "spec")
    yield from lasting(spec, "hours", 3600)
    yield from ("audience=" + folded_word(audience) for audience in as_list(spec.get("audiences"))[:4])
    bound = object_at(spec, "boundObjectRef").get("kind")
    yield "boundTo=" + folded_word(bound) if bound else "unbound"


def _access_review(body: Object, _actor: str) -> Iterator[str]:
    asked = object_at(body, "spec", "resourceAttributes")
    yield (
        f"asks={folded_word(asked.get('verb'))} {folded_word(asked.get('resource'))}"
        if asked
        else "asks=path"
    )


def _slice(body: Object, actor: str) -> Iterator[str]:
    """Addresses behind a service; the controllers that keep them write them all day long."""
    entries = [*as_objects(body.get("endpoints")), *as_objects(body.get("subsets"))]
    addresses = sum(len(as_list(entry.get("addresses"))) for entry in entries)
    if addresses and not actor.startswith("system:"):
        yield "addresses=" + magnitude(addresses)


_READERS: dict[str, Callable[[Object, str], Iterable[str]]] = {
    **dict.fromkeys(("roles", "clusterroles"), _role),
    **dict.fromkeys(("rolebindings", "clusterrolebindings"), _binding),
    **dict.fromkeys(("mutatingwebhookconfigurations", "validatingwebhookconfigurations"), _webhook),
    "services": _service,
    "ingresses": _ingress,
    "networkpolicies": _network_policy,
    **dict.fromkeys(("persistentvolumes", "persistentvolumeclaims"), _volume),
    "certificatesigningrequests": _certificate_request,
    "namespaces": _namespace,
    "nodes": _node,
    "resourcequotas": lambda body, _actor: [
        f"hard.{folded_word(name)}=" + magnitude(int(quantity(value)))
        for name, value in list(object_at(body, "spec", "hard").items())[:8]
    ],
    "serviceaccounts": lambda body, _actor: (
        "cloudIdentity" for key in _CLOUD_IDENTITY if key in object_at(body, "metadata", "annotations")
    ),
    **dict.fromkeys(("selfsubjectaccessreviews", "localsubjectaccessreviews"), _access_review),
    "selfsubjectrulesreviews": lambda _body, _actor: ("asks=everything",),
    "priorityclasses": lambda body, _actor: ("value=" + magnitude(body.get("value")),),
    **dict.fromkeys(("endpoints", "endpointslices"), _slice),
    **EXTENSION_READERS,
}
#: Resources, path in their body, and fields there that need no code of their own.
_PLAIN_FIELDS = (
    ("roles clusterroles", "", "aggregationRule"),
    ("services", "spec", "externalIPs externalName"),
    ("ingresses", "spec", "defaultBackend backend:defaultBackend"),
    ("persistentvolumes persistentvolumeclaims", "spec", "claimRef volumeName"),
    ("volumesnapshots volumesnapshotcontents", "spec.source", "persistentVolumeClaimName:snapshotOf="),
    ("volumesnapshots volumesnapshotcontents", "spec.source", "snapshotHandle:existingSnapshot"),
    ("volumesnapshots volumesnapshotcontents", "spec.source", "volumeSnapshotContentName:existingSnapshot"),
    ("certificatesigningrequests", "spec", "signerName:signer="),
    ("serviceaccounts", "", "secrets imagePullSecrets"),
    ("apiservices", "spec", "insecureSkipTLSVerify!"),
    ("apiservices", "spec.service", "namespace:service="),
    ("customresourcedefinitions", "spec", "scope:scope="),
    ("podsecuritypolicies", "spec", "privileged! hostPID! hostIPC! hostNetwork! allowPrivilegeEscalation!"),
    ("podsecuritypolicies", "spec", "allowedCapabilities:cap=*"),
    ("validatingadmissionpolicies validatingadmissionpolicybindings", "spec", "failurePolicy:failurePolicy="),
    ("validatingadmissionpolicies validatingadmissionpolicybindings", "spec", "validationActions:action=*"),
    ("priorityclasses", "", "globalDefault!"),
)
_PLAIN = {
    resource: [
        trait_fields(fields, path) for names, path, fields in _PLAIN_FIELDS if resource in names.split()
    ]
    for resource in " ".join(names for names, _, _ in _PLAIN_FIELDS).split()
}


def kind_traits(body: Object, resource: str, actor: str) -> Iterator[str]:
    """Traits that are particular to a resource."""
    yield from given_traits(body, *_PLAIN.get(resource, ()))
    if reader := _READERS.get(resource):
        yield from reader(body, actor)


def has_kind_traits(resource: str) -> bool:
    """Whether objects of a resource have traits of their own."""
    return resource in _READERS or resource in _PLAIN
