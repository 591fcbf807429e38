"""What in a request body matters: privileges, escalations, exposure, size. Never the body itself.

A trait is a short word such as `privileged` or `verb=escalate`. Values of Secrets and ConfigMaps are never looked at.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from data.names import fold_name

_DECODE = msgspec.json.Decoder()
_POD_TEMPLATES = {
    "deployments",
    "daemonsets",
    "statefulsets",
    "replicasets",
    "jobs",
    "replicationcontrollers",
    "podtemplates",
}
_ESCALATING = ("*", "escalate", "bind", "impersonate")
_SENSITIVE_RULES = {
    "secrets",
    "pods/exec",
    "pods/attach",
    "nodes/proxy",
    "serviceaccounts/token",
    "pods/ephemeralcontainers",
}
_WRITES = {"create", "update", "patch", "delete", "deletecollection", "*"}
_STRONG_ROLES = {"cluster-admin", "admin", "edit", "system:masters"}
_IGNORED_SUBRESOURCES = {"status", "binding", "eviction", "finalize"}
_IGNORED_RESOURCES = {
    "secrets",
    "configmaps",
    "events",
    "leases",
    "endpoints",
    "subjectaccessreviews",
    "tokenreviews",
    "nodes/status",
}
_PATH_DEPTH = 5

Json = Any  # a decoded JSON value


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def magnitude(value: Json) -> str:
    """A count as its power of two, so that 3 and 4 replicas are alike and 4 and 200 are not."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return "?"
    return str(0 if value == 0 else 1 << (value.bit_length() - 1))


def repository(image: Json) -> str:
    """An image without its tag or digest, generated parts folded: `ghcr.io/x/agent:1` -> `ghcr.io/x/agent`."""
    if not isinstance(image, str) or not image:
        return "?"
    name = image.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    return head + slash + fold_name(tail.partition(":")[0])


def _pod(spec: dict[str, Json], found: set[str], images: set[str]) -> None:
    for flag in ("hostPID", "hostIPC", "hostNetwork"):
        if spec.get(flag) is True:
            found.add(flag)
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if isinstance(account, str) and account not in ("", "default"):
        found.add("serviceAccount=" + fold_name(account))
    if spec.get("nodeName"):
        found.add("nodeName")
    for volume in map(_dict, _list(spec.get("volumes"))):
        if "hostPath" in volume:
            path = _dict(volume["hostPath"]).get("path")
            found.add("hostPath=" + ("/".join(str(path).split("/")[:2]) or "/"))
        if "secret" in volume and "default-token" not in str(_dict(volume["secret"]).get("secretName")):
            found.add("secretVolume")
    containers = [
        *map(_dict, _list(spec.get("containers"))),
        *map(_dict, _list(spec.get("initContainers"))),
        *map(_dict, _list(spec.get("ephemeralContainers"))),
    ]
    if spec.get("ephemeralContainers"):
        found.add("ephemeralContainer")
    if containers:
        found.add(f"containers={min(len(containers), 9)}")
    for container in containers:
        if "image" in container:
            images.add(repository(container["image"]))
        security = _dict(container.get("securityContext"))
        if security.get("privileged") is True:
            found.add("privileged")
        for capability in _list(_dict(security.get("capabilities")).get("add")):
            found.add(f"cap={capability}")
        environment = [
            *(_dict(_dict(entry).get("valueFrom")) for entry in _list(container.get("env"))),
            *map(_dict, _list(container.get("envFrom"))),
        ]
        if any("secretKeyRef" in entry or "secretRef" in entry for entry in environment):
            found.add("envSecret")
        for resource in _dict(_dict(container.get("resources")).get("limits")):
            if "/" in resource:  # extended resources such as nvidia.com/gpu
                found.add("limit=" + resource)


def _rules(rules: list[Json], found: set[str]) -> None:
    for rule in map(_dict, rules):
        verbs = {str(verb) for verb in _list(rule.get("verbs"))}
        resources = {str(resource) for resource in _list(rule.get("resources"))}
        found.update(f"verb={verb}" for verb in verbs.intersection(_ESCALATING))
        if "*" in resources:
            found.add("resource=*")
        found.update(f"resource={resource}" for resource in resources & _SENSITIVE_RULES)
        if verbs & _WRITES:
            found.add("grantsWrite")


def _binding(body: dict[str, Json], actor: str, found: set[str]) -> None:
    role = str(_dict(body.get("roleRef")).get("name") or "")
    if role:
        found.add("role=" + (role if role in _STRONG_ROLES else fold_name(role)))
    for subject in map(_dict, _list(body.get("subjects"))):
        name, kind = str(subject.get("name")), str(subject.get("kind"))
        found.add("subject=" + (name if name.startswith("system:") else kind))
        if name == actor or (
            kind == "ServiceAccount" and actor.endswith(f":{subject.get('namespace')}:{name}")
        ):
            found.add("subject=self")


def _webhook(body: dict[str, Json], found: set[str]) -> None:
    for hook in map(_dict, _list(body.get("webhooks"))):
        if _dict(hook.get("clientConfig")).get("url"):
            found.add("webhookURL")
        found.add(f"failurePolicy={hook.get('failurePolicy')}")
        for rule in map(_dict, _list(hook.get("rules"))):
            found.update(
                f"resource={resource}"
                for resource in ("*", "*/*", "secrets")
                if resource in _list(rule.get("resources"))
            )


_SPEC_NUMBERS = ("replicas", "maxReplicas", "minReplicas", "parallelism")


def _paths(value: Json, prefix: str, depth: int, found: set[str]) -> None:
    """Key paths a patch touches, folded, lists entered; values are not looked at."""
    if depth == _PATH_DEPTH:
        found.add(prefix)
        return
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            if prefix in ("metadata.annotations", "metadata.labels"):
                found.add(f"{prefix}.{fold_name(str(key).rpartition('/')[0] or str(key))}")
            else:
                _paths(inner, f"{prefix}.{fold_name(str(key))}" if prefix else str(key), depth + 1, found)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value[:8]:
            _paths(inner, prefix, depth, found)
    else:
        found.add(prefix)


_INDEX = re.compile(r"/(?:\d+|-)(?=/|$)")


def read_traits(
    verb: str, resource: str, subresource: str, actor: str, raw: bytes | msgspec.Raw
) -> tuple[str, str]:
    """Traits and images of a request body.

    Args:
        verb: audit verb.
        resource: plural resource without its API group.
        subresource: subresource, or "".
        actor: user name of the caller (to see a self-grant).
        raw: `requestObject` as logged.

    Returns:
        (traits, images): each sorted and comma-joined, "-" when there is nothing to say.
    """
    if resource in _IGNORED_RESOURCES or subresource in _IGNORED_SUBRESOURCES or not raw:
        return "-", "-"
    try:
        body = _DECODE.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "unreadable", "-"
    found: set[str] = set()
    images: set[str] = set()
    if isinstance(body, list):  # JSON patch: operations instead of an object
        paths: set[str] = set()
        for operation in map(_dict, body):
            path = _INDEX.sub("", str(operation.get("path") or ""))
            paths.add(
                f"{operation.get('op')} {'.'.join(fold_name(key) for key in path.split('/')[1 : _PATH_DEPTH + 1])}"
            )
            _paths_value(path, operation.get("value"), found, images)
        found.update(sorted(paths)[:6])
        return ",".join(sorted(found)) or "-", ",".join(sorted(images)) or "-"
    body = _dict(body)
    if verb == "delete":
        return (
            "propagation=" + str(body["propagationPolicy"]) if body.get("propagationPolicy") else "-"
        ), "-"
    spec = _dict(body.get("spec"))
    if verb == "patch":
        touched: set[str] = set()
        _paths(body, "", 0, touched)
        found.update(sorted(touched - {"apiVersion", "kind", "metadata.name", "metadata.namespace"})[:6])
    if resource == "pods":
        _pod(spec or body, found, images)
    elif resource in _POD_TEMPLATES:
        _pod(_dict(_dict(spec.get("template")).get("spec")), found, images)
    elif resource == "cronjobs":
        _pod(
            _dict(_dict(_dict(_dict(spec.get("jobTemplate")).get("spec")).get("template")).get("spec")),
            found,
            images,
        )
    elif resource in ("roles", "clusterroles"):
        _rules(_list(body.get("rules")), found)
        if body.get("aggregationRule"):
            found.add("aggregationRule")
    elif resource in ("rolebindings", "clusterrolebindings"):
        _binding(body, actor, found)
    elif resource in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        _webhook(body, found)
    elif resource == "services":
        if spec.get("externalIPs"):
            found.add("externalIPs")
        if spec.get("type") not in (None, "ClusterIP"):
            found.add(f"type={spec['type']}")
    elif resource == "certificatesigningrequests":
        found.add("signer=" + str(spec.get("signerName")))
        found.update(f"usage={usage}" for usage in _list(spec.get("usages")) if "auth" in str(usage))
    elif resource == "nodes":
        if spec.get("unschedulable") is True:
            found.add("unschedulable")
    elif resource in ("selfsubjectaccessreviews",):
        asked = _dict(spec.get("resourceAttributes"))
        found.add(f"asks={asked.get('verb')} {asked.get('resource')}" if asked else "asks=path")
    if verb in ("create", "patch", "update"):
        found.update(f"{key}={magnitude(spec[key])}" for key in _SPEC_NUMBERS if key in spec)
    return ",".join(sorted(found)) or "-", ",".join(sorted(images)) or "-"


def _paths_value(path: str, value: Json, found: set[str], images: set[str]) -> None:
    """Traits of one JSON-patch value: containers and rules may arrive piecewise."""
    if path.endswith(("/containers", "/initContainers", "/ephemeralContainers")):
        _pod({path.rpartition("/")[2]: value if isinstance(value, list) else [value]}, found, images)
    elif path.endswith("/rules"):
        _rules(value if isinstance(value, list) else [value], found)
    elif path.endswith("/externalIPs"):
        found.add("externalIPs")
    elif path.rpartition("/")[2] in _SPEC_NUMBERS:
        found.add(f"{path.rpartition('/')[2]}={magnitude(value)}")
