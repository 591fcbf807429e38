"""Says what in a request body matters: privileges, escalations, exposure, size. Never the body itself.

A trait is a short word such as `privileged` or `verb=escalate`. What may hold a secret is never looked at: `data`, `stringData`
and `binaryData` of any object, and the values of environment variables, arguments and annotations. Traits name what was chosen
(kinds, flags, names); sizes only as powers of two.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import msgspec

from data.actions.body_values import (
    Json,
    Object,
    as_object,
    folded_word,
    magnitude,
    object_at,
)
from data.actions.folding import fold_name
from data.actions.kind_traits import has_kind_traits, kind_traits, pod_status, token_request
from data.actions.pod_traits import CLOSED, read_pod, read_templates
from data.events.audit_event import UNREADABLE, cut_text
from data.events.salvage import complete_json

_DECODE = msgspec.json.Decoder()
_TEXT = msgspec.json.Decoder(str)
_IGNORED_SUBRESOURCES = {"binding", "eviction", "finalize", "log", "exec", "attach", "portforward", "proxy"}
_IGNORED_RESOURCES = {"configmaps", "events", "leases", "subjectaccessreviews", "tokenreviews"}
#: Kinds whose status steers something when another than its usual reporter writes it.
_REPORTED = {"services", "nodes", "pods"}

_PATH_DEPTH = 5
_PATHS = 6
_KEY_LENGTH = 64


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
    elif depth == _PATH_DEPTH or prefix.rpartition(".")[2] in CLOSED:
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
        closed = next((i for i, step in enumerate(steps) if step in CLOSED), None)
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
        found.update(pod_status(body, actor) if resource == "pods" else kind_traits(body, resource, actor))
        return
    if subresource == "token":
        found.update(token_request(body))
        return
    if resource == "pods":
        read_pod(spec or body, found, images)
    elif resource in _TEMPLATES:
        read_pod(object_at(body, *_TEMPLATES[resource]), found, images)
    elif has_kind_traits(resource):
        found.update(kind_traits(body, resource, actor))
    elif resource not in ("controllerrevisions", "horizontalpodautoscalers", "secrets"):
        read_templates(body, found, images)
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
