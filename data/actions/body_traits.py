"""Says what in a request body matters: privileges, escalations, exposure, size. Never the body itself.

A trait is a short word such as `privileged` or `verb=escalate`. What may hold a secret is never looked at: `data`, `stringData`
and `binaryData` of any object, and the values of environment variables, arguments and annotations. Traits name what was chosen
(kinds, flags, names); sizes only as powers of two.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import msgspec

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
from data.actions.folding import fold_name
from data.events.audit_event import UNREADABLE, cut_text
from data.events.salvage import complete_json

_DECODE = msgspec.json.Decoder()
_TEXT = msgspec.json.Decoder(str)
_ESCALATING = ("*", "escalate", "bind", "impersonate")
_SENSITIVE_RULES = {
    *("secrets", "pods/exec", "pods/attach", "nodes/proxy", "serviceaccounts/token"),
    *("pods/ephemeralcontainers", "certificatesigningrequests/approval", "nodes/status"),
}
_WRITES = {"create", "update", "patch", "delete", "deletecollection", "*"}
_STRONG_ROLES = {"cluster-admin", "admin", "edit", "system:masters"}
_IGNORED_SUBRESOURCES = {"binding", "eviction", "finalize", "log", "exec", "attach", "portforward", "proxy"}
_IGNORED_RESOURCES = {"configmaps", "events", "leases", "subjectaccessreviews", "tokenreviews"}
#: Kinds whose status steers something when another than its usual reporter writes it.
_REPORTED = {"services", "nodes", "pods"}

_PATH_DEPTH = 5
_PATHS = 6
_KEY_LENGTH = 64
_NODES = 2000
#: Keys under which an object may keep secrets: what is below them is not looked at.
_CLOSED = {"data", "stringData", "binaryData", "env"}


def _lasting(spec: Object, unit: str, seconds: int) -> Iterator[str]:
    """`expirationSeconds` as a trait, in a longer unit."""
    if spec.get("expirationSeconds"):
        yield f"{unit}={magnitude(int(quantity(spec['expirationSeconds']) // seconds))}"


def repository(image: Json) -> str:
    """An image without its tag or digest, generated parts folded: `ghcr.io/x/agent:1` -> `ghcr.io/x/agent`."""
    if not isinstance(image, str) or not image:
        return "?"
    head, slash, tail = cut_text(image).partition("@")[0].rpartition("/")
    return head + slash + fold_name(tail.partition(":")[0])


_SHELLS = {
    *("sh", "bash", "ash", "dash", "zsh", "busybox", "python", "python3", "perl", "ruby", "node"),
    *("nc", "ncat", "socat", "curl", "wget", "nsenter", "chroot", "unshare", "mount"),
}
_MANY_CORES = 2
_NODE_ROLE = "node-role.kubernetes.io/"
_CONTROL_PLANE = (_NODE_ROLE + "control-plane", _NODE_ROLE + "master")


_SECURITY_FIELDS = (
    trait_fields("privileged! allowPrivilegeEscalation! sysctls"),
    *(trait_fields("hostProcess!", "windowsOptions"), trait_fields("add:cap=*", "capabilities")),
)


def _security(context: Object) -> Iterator[str]:
    """Security context of a pod or a container."""
    if not context:
        return
    yield from given_traits(context, *_SECURITY_FIELDS)
    if context.get("runAsUser") == 0 and context.get("runAsUser") is not False:
        yield "runAsRoot"
    if context.get("procMount") not in (None, "Default"):
        yield "procMount"
    for profile in ("seccompProfile", "appArmorProfile"):
        if object_at(context, profile).get("type") == "Unconfined":
            yield f"{profile}=Unconfined"


def _top(source: Object) -> str:
    """First folder of the `path` of a volume on a node."""
    return "/".join(str(source.get("path"))[:63].split("/")[:2]) or "/"


def _pod_volumes(spec: Object) -> Iterator[str]:
    for volume in as_objects(spec.get("volumes")):
        if "hostPath" in volume:
            yield "hostPath=" + _top(object_at(volume, "hostPath"))
        for source in [volume, *as_objects(object_at(volume, "projected").get("sources"))]:
            if "secret" in source and "default-token" not in str(
                object_at(source, "secret").get("secretName")
            ):
                yield "secretVolume"
            if audience := object_at(source, "serviceAccountToken").get("audience"):
                yield "tokenAudience=" + folded_word(audience)
        if "csi" in volume:
            yield "csi=" + folded_word(object_at(volume, "csi").get("driver"))


def _placement(spec: Object) -> Iterator[str]:
    """Which nodes a pod may run on."""
    if any(key in object_at(spec, "nodeSelector") for key in _CONTROL_PLANE):
        yield "onControlPlane"
    for toleration in as_objects(spec.get("tolerations")):
        key = toleration.get("key")
        if not key and toleration.get("operator") == "Exists":
            yield "toleratesAll"
        elif key in _CONTROL_PLANE:
            yield "toleratesControlPlane"


def _containers(containers: Sequence[Object]) -> Iterator[str]:
    if not containers:
        return
    yield f"containers={min(len(containers), 9)}"
    literals, cores = 0, 0.0
    for container in containers:
        yield from _security(object_at(container, "securityContext"))
        environment = list(as_objects(container.get("env")))
        literals += sum("value" in entry for entry in environment)
        sources = [
            *(object_at(entry, "valueFrom") for entry in environment),
            *as_objects(container.get("envFrom")),
        ]
        if any("secretKeyRef" in entry or "secretRef" in entry for entry in sources):
            yield "envSecret"
        limits, requests = (object_at(container, "resources", key) for key in ("limits", "requests"))
        yield from (
            "limit=" + folded_word(name) for name in {*limits, *requests} if "/" in name
        )  # nvidia.com/gpu
        cores += max(quantity(limits.get("cpu")), quantity(requests.get("cpu")))
        command = as_list(container.get("command"))
        if command and isinstance(command[0], str):
            program = command[0].rpartition("/")[2]
            yield f"command={program}" if program in _SHELLS else "command"
        if any("exec" in as_object(hook) for hook in object_at(container, "lifecycle").values()):
            yield "lifecycleExec"
        if any(port.get("hostPort") for port in as_objects(container.get("ports"))):
            yield "hostPort"
    if literals:
        yield "env=" + magnitude(literals)
    if cores >= _MANY_CORES:
        yield "cpu=" + magnitude(int(cores))


_POD_FIELDS = trait_fields(
    "hostPID! hostIPC! hostNetwork! shareProcessNamespace! imagePullSecrets:pullSecret hostAliases nodeName "
    "ephemeralContainers:ephemeralContainer priorityClassName:priorityClass= runtimeClassName:runtimeClass="
)


def _pod(spec: Object, found: set[str], images: set[str]) -> None:
    """A pod's spec, or a part of one from a patch."""
    found.update(given_traits(spec, _POD_FIELDS))
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if isinstance(account, str) and account not in ("", "default"):
        found.add("serviceAccount=" + folded_word(account))
    if isinstance(spec.get("automountServiceAccountToken"), bool):
        found.add("automountToken" if spec["automountServiceAccountToken"] else "noToken")
    for container in as_objects(spec.get("ephemeralContainers")):
        if container.get("targetContainerName"):
            found.add("targetContainer")
    kinds = ("containers", "initContainers", "ephemeralContainers")
    containers = [container for kind in kinds for container in as_objects(spec.get(kind))]
    images.update(repository(container["image"]) for container in containers if "image" in container)
    found.update(_security(object_at(spec, "securityContext")), _placement(spec), _pod_volumes(spec))
    found.update(_containers(containers))


def _templates(value: Json, found: set[str], images: set[str]) -> None:
    """Every pod template anywhere in an object: new kinds of workload keep the pod's own field names."""
    stack, seen = [value], 0
    while stack and seen < _NODES:
        seen += 1
        inner = stack.pop()
        if isinstance(inner, dict):
            if isinstance(inner.get("containers"), list) or isinstance(inner.get("initContainers"), list):
                _pod(inner, found, images)
                continue
            stack.extend(child for key, child in inner.items() if key not in _CLOSED and key != "status")
        elif isinstance(inner, list):
            stack.extend(inner)


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
        f"{source}=" + _top(object_at(spec, source)) for source in ("hostPath", "local") if source in spec
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
    yield from _lasting(spec, "days", 86_400)
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
        if label.startswith(_NODE_ROLE):
            yield "nodeRole=" + folded_word(label[len(_NODE_ROLE) :])
    if not actor.startswith("system:node:"):
        if status.get("addresses"):
            yield "nodeAddresses"
        if object_at(status, "daemonEndpoints"):
            yield "kubeletPort"


def _pod_status(body: Object, _actor: str) -> Iterator[str]:
    status = object_at(body, "status")
    yield from (key for key in ("podIP", "hostIP") if status.get(key))
    for condition in as_objects(status.get("conditions")):
        if condition.get("type") == "Ready" and condition.get("status") == "True":
            yield "ready"


_CLOUD_IDENTITY = (
    *("eks.amazonaws.com/role-arn", "iam.gke.io/gcp-service-account"),
    "azure.workload.identity/client-id",
)


def _token_request(body: Object) -> Iterator[str]:
    spec = object_at(body, "spec")
    yield from _lasting(spec, "hours", 3600)
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


def _of_kind(body: Object, resource: str, actor: str) -> Iterator[str]:
    """Traits that are particular to a resource."""
    yield from given_traits(body, *_PLAIN.get(resource, ()))
    if reader := _READERS.get(resource):
        yield from reader(body, actor)


_TEMPLATES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("deployments", "daemonsets", "statefulsets", "replicasets", "jobs", "replicationcontrollers"),
        ("spec", "template", "spec"),
    ),
    "podtemplates": ("template", "spec"),
    "cronjobs": ("spec", "jobTemplate", "spec", "template", "spec"),
}
_SPEC_NUMBERS = ("replicas", "maxReplicas", "minReplicas", "parallelism")


class _SecretKind(msgspec.Struct, gc=False):
    type: str = ""


_SECRET = msgspec.json.Decoder(_SecretKind)
_SECRET_KINDS = {
    "kubernetes.io/service-account-token": "serviceAccountToken",
    "bootstrap.kubernetes.io/token": "bootstrapToken",
    "kubernetes.io/dockerconfigjson": "dockerconfigjson",
    "kubernetes.io/dockercfg": "dockerconfigjson",
    "kubernetes.io/tls": "tls",
    "kubernetes.io/ssh-auth": "ssh-auth",
    "kubernetes.io/basic-auth": "basic-auth",
    "helm.sh/release.v1": "helm",
}


def _secret(raw: bytes | msgspec.Raw) -> str:
    """Kind of a Secret, one of a fixed list; nothing else of it is even decoded."""
    try:
        kind = _SECRET_KINDS.get(_SECRET.decode(raw).type)
    except UNREADABLE:
        return "-"
    return f"secret={kind}" if kind else "-"


_known_key = lru_cache(maxsize=4096)(fold_name)


def _key(key: str) -> str:
    """Folded key of an object; most of what is patched has few."""
    return _known_key(key) if len(key) <= _KEY_LENGTH else fold_name(key)


def _paths(value: Json, prefix: str, depth: int, found: set[str]) -> None:
    """Key paths a patch touches, folded, lists entered; values are not looked at, except for being a removal."""
    if value is None:
        found.add(f"-{prefix}")
    elif depth == _PATH_DEPTH or prefix.rpartition(".")[2] in _CLOSED:
        found.add(prefix)
    elif isinstance(value, dict) and value:
        for key, inner in value.items():
            if key.startswith("$"):  # of a strategic merge patch: $patch, $setElementOrder/containers
                found.add("$patch=" + folded_word(inner) if key == "$patch" else key.partition("/")[0])
            elif prefix in ("metadata.annotations", "metadata.labels"):
                removed = "-" if inner is None else ""
                found.add(f"{removed}{prefix}.{fold_name(str(key).rpartition('/')[0] or str(key))}")
            else:
                _paths(inner, f"{prefix}.{_key(key)}" if prefix else key, depth + 1, found)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value[:8]:
            _paths(inner, prefix, depth, found)
    else:
        found.add(prefix)


_INDEX = re.compile(r"\d+|-")


_LISTS = {
    *("containers", "initContainers", "ephemeralContainers", "rules", "subjects", "webhooks", "taints"),
    *("volumes", "externalIPs", "tolerations", "conditions", "ingress", "egress"),
}


def _json_patch(operations: list[Json], found: set[str]) -> list[Object]:
    """Say what a JSON patch touches; what it sets, as objects that can be read like any other."""
    paths: set[str] = set()
    parts: list[Object] = []
    for operation in map(as_object, operations[:64]):
        path = str(operation.get("path") or "").split("/")[1:]
        steps = [step.replace("~1", "/").replace("~0", "~") for step in path]
        closed = next((i for i, step in enumerate(steps) if step in _CLOSED), None)
        if closed is not None:
            steps = steps[: closed + 1]
        named = [fold_name(step) for step in steps if not _INDEX.fullmatch(step)]
        if named[:2] in (["metadata", "annotations"], ["metadata", "labels"]) and len(steps) > 2:
            named[2] = fold_name(steps[2].rpartition("/")[0] or steps[2])
        paths.add(f"{folded_word(operation.get('op'), 8)} {'.'.join(named[:_PATH_DEPTH])}")
        if closed is None and operation.get("op") in ("add", "replace") and len(steps) <= 16:
            value = operation.get("value")
            if steps and steps[-1] in _LISTS and not isinstance(value, list):
                value = [value]
            for step in reversed(steps):  # `/containers/0/image` -> {"containers": [{"image": value}]}
                value = [value] if _INDEX.fullmatch(step) else {step: value}
            parts.append(as_object(value))
    found.update(sorted(paths)[:_PATHS])
    return parts


def _read(
    body: Object, verb: str, resource: str, subresource: str, actor: str, found: set[str], images: set[str]
) -> None:
    """Traits of one object or of a part of one."""
    spec = object_at(body, "spec")
    if subresource == "status":
        found.update(_pod_status(body, actor) if resource == "pods" else _of_kind(body, resource, actor))
        return
    if subresource == "token":
        found.update(_token_request(body))
        return
    if resource == "pods":
        _pod(spec or body, found, images)
    elif resource in _TEMPLATES:
        _pod(object_at(body, *_TEMPLATES[resource]), found, images)
    elif resource in _READERS or resource in _PLAIN:
        found.update(_of_kind(body, resource, actor))
    elif resource not in ("controllerrevisions", "horizontalpodautoscalers", "secrets"):
        _templates(body, found, images)
    if verb in ("create", "patch", "update"):
        found.update(f"{key}={magnitude(spec[key])}" for key in _SPEC_NUMBERS if key in spec)


class _PodBody(msgspec.Struct, gc=False):
    spec: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _TemplateSpec(msgspec.Struct, gc=False):
    template: _PodBody = msgspec.field(default_factory=_PodBody)
    replicas: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    maxReplicas: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    minReplicas: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    parallelism: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _TemplateBody(msgspec.Struct, gc=False):
    spec: _TemplateSpec


_POD_BODY, _TEMPLATE_BODY = msgspec.json.Decoder(_PodBody), msgspec.json.Decoder(_TemplateBody)
_TEMPLATED = {resource for resource, path in _TEMPLATES.items() if path == ("spec", "template", "spec")}
#: An image with its tag and digest. An escaped quote ends no match, so this never reaches into a text.
_IMAGE_TAG = re.compile(rb'"image":"((?:[^"\\@/]*/)*+)([^"\\@/:]++)[^"\\]*+"')
_KNOWN_LIMIT, _KNOWN_TRAITS = 4096, 64
#: Traits and images of a pod by the digest of its spec; never by the spec itself, which may hold secrets.
_known: dict[bytes, tuple[set[str], set[str]]] = {}


def _known_pod(spec: msgspec.Raw) -> tuple[set[str], set[str]] | None:
    """Traits and images of a pod's spec; None if it is empty or no object. Not to be changed by the caller."""
    # A new tag of an image makes no difference to them, and is most of what changes from one write to the next.
    plain = _IMAGE_TAG.sub(rb'"image":"\1\2"', bytes(spec))
    key = hashlib.blake2b(plain, digest_size=16).digest()
    found = _known.get(key)
    if found is None:
        inner = _DECODE.decode(plain)
        if not isinstance(inner, dict) or not inner:
            return None
        found = set(), set()
        _read({"spec": inner}, "create", "pods", "", "", *found)
        if len(found[0]) + len(found[1]) <= _KNOWN_TRAITS:
            if len(_known) >= _KNOWN_LIMIT:
                _known.clear()
            _known[key] = found
    return found


def _of_pod(resource: str, raw: bytes | msgspec.Raw) -> tuple[str, str] | None:
    """Traits and images of a whole pod, or of a workload around one. Most are written again and again with the same spec.

    None if the body is not of the usual shape and has to be read whole.
    """
    numbers: set[str] = set()
    try:
        if resource == "pods":
            found = _known_pod(_POD_BODY.decode(raw).spec)
        else:
            spec = _TEMPLATE_BODY.decode(raw).spec
            given = (spec.replicas, spec.maxReplicas, spec.minReplicas, spec.parallelism)
            pairs = zip(_SPEC_NUMBERS, given, strict=True)
            numbers = {f"{name}={magnitude(_DECODE.decode(number))}" for name, number in pairs if number}
            found = _known_pod(spec.template.spec)
    except UNREADABLE:
        return None
    return None if found is None else (_listed(found[0] | numbers), _listed(found[1]))


def _listed(words: set[str]) -> str:
    return cut_text(",".join(sorted(words))) or "-"


def has_traits(resource: str, subresource: str) -> bool:
    """Whether a body sent to this can have traits at all."""
    return not (
        resource in _IGNORED_RESOURCES
        or subresource in _IGNORED_SUBRESOURCES
        or (subresource == "status" and resource not in _REPORTED)
    )


def is_report(verb: str, resource: str, subresource: str, actor: str) -> bool:
    """Whether a write is a report of the machinery, which says nothing that anybody decided."""
    rewritten = resource == "endpoints" or (resource == "endpointslices" and verb in ("create", "update"))
    if rewritten and actor.startswith("system:"):
        return True  # their controllers and every old leader election write them all day long
    return subresource == "status" and actor.startswith(
        ("system:node:", "system:serviceaccount:kube-system:")
    )


#: Trait of a write whose body, or a part of it, did not reach the log: what it asks for is unknown.
WITHHELD = "withheld"
#: Trait of a body that cannot be read at all.
UNREADABLE_BODY = "unreadable"
#: Verbs of requests whose body says what they do.
BODIED = ("create", "update", "patch")


def with_withheld(traits: str) -> str:
    """The traits of a body of which a part is missing."""
    return _listed({WITHHELD, *traits.split(",")} - {"-"})


def _opened(raw: bytes | msgspec.Raw) -> tuple[bytes | None, bool]:
    """A body that some shipper turned into text, as JSON again, and whether a part of it is missing; None if nothing is left.

    Clouds put a remark (`skipped-too-big-size-object`) in the place of a body that is too large, or cut the text.
    """
    try:
        text = _TEXT.decode(raw).strip().encode("utf-8", "replace")
    except UNREADABLE:
        return None, True
    if not text:
        return None, False
    closed = complete_json(text)
    try:
        _DECODE.decode(b"" if closed is None else closed[0])
    except UNREADABLE:
        return None, True
    return closed or (None, True)


def read_traits(
    verb: str, resource: str, subresource: str, actor: str, raw: bytes | msgspec.Raw
) -> tuple[str, str]:
    """Traits and images of a request body, each sorted and comma-joined, "-" when there is nothing to say.

    Args:
        verb, resource, subresource: of the request; `resource` without its API group.
        actor: user name of the caller (to see a self-grant).
        raw: `requestObject` as logged.
    """
    if not raw or not has_traits(resource, subresource):
        return "-", "-"
    if bytes(memoryview(raw)[:1]) == b'"':
        text, partial = _opened(raw)
        inner = ("-", "-") if text is None else read_traits(verb, resource, subresource, actor, text)
        return (with_withheld(inner[0]), inner[1]) if partial and verb in BODIED else inner
    if is_report(verb, resource, subresource, actor):
        return "-", "-"
    if resource == "secrets":
        return (_secret(raw) if verb in ("create", "update") else "-"), "-"
    if verb in ("create", "update") and not subresource and (resource == "pods" or resource in _TEMPLATED):
        known = _of_pod(resource, raw)
        if known is not None:
            return known
    try:
        body = _DECODE.decode(raw)
    except UNREADABLE:
        return UNREADABLE_BODY, "-"
    found: set[str] = set()
    images: set[str] = set()
    if isinstance(body, list):  # JSON patch: operations instead of an object
        for part in _json_patch(body, found):
            _read(part, verb, resource, subresource, actor, found, images)
        return _listed(found), _listed(images)
    body = as_object(body)
    if verb in ("delete", "deletecollection"):
        if body.get("propagationPolicy"):
            found.add("propagation=" + folded_word(body["propagationPolicy"]))
        if body.get("gracePeriodSeconds") == 0 and not actor.startswith("system:node:"):
            found.add("force")
        return _listed(found), "-"
    if verb == "patch":
        applied = bool(
            body.get("kind") and body.get("apiVersion")
        )  # server-side apply sends the whole object
        if applied:
            found.add("apply")
        if body:
            touched: set[str] = set()
            _paths(body, "", _PATH_DEPTH - 2 if applied else 0, touched)
            touched -= {"apiVersion", "kind", "metadata.name", "metadata.namespace"}
            found.update(sorted(touched)[:_PATHS])
    _read(body, verb, resource, subresource, actor, found, images)
    return _listed(found), _listed(images)
