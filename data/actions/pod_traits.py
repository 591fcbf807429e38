"""Traits of pods: what their containers may do, where they run, what they mount; also of pod templates anywhere in an object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from data.actions.folding import fold_name
from data.events.audit_event import cut_text

_NODES = 2000
#: Keys under which an object may keep secrets: what is below them is not looked at.
CLOSED = {"data", "stringData", "binaryData", "env"}


def lasting(spec: Object, unit: str, seconds: int) -> Iterator[str]:
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
NODE_ROLE = "node-role.kubernetes.io/"
_CONTROL_PLANE = (NODE_ROLE + "control-plane", NODE_ROLE + "master")


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


def top_folder(source: Object) -> str:
    """First folder of the `path` of a volume on a node."""
    return "/".join(str(source.get("path"))[:63].split("/")[:2]) or "/"


def _pod_volumes(spec: Object) -> Iterator[str]:
    for volume in as_objects(spec.get("volumes")):
        if "hostPath" in volume:
            yield "hostPath=" + top_folder(object_at(volume, "hostPath"))
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


def read_pod(spec: Object, found: set[str], images: set[str]) -> None:
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


def read_templates(value: Json, found: set[str], images: set[str]) -> None:
    """Every pod template anywhere in an object: new kinds of workload keep the pod's own field names."""
    stack, seen = [value], 0
    while stack and seen < _NODES:
        seen += 1
        inner = stack.pop()
        if isinstance(inner, dict):
            if isinstance(inner.get("containers"), list) or isinstance(inner.get("initContainers"), list):
                read_pod(inner, found, images)
                continue
            stack.extend(child for key, child in inner.items() if key not in CLOSED and key != "status")
        elif isinstance(inner, list):
            stack.extend(inner)
