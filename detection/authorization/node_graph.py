"""What the pods on each node use: the graph by which the node authorizer decides.

Source of the semantics: `plugin/pkg/auth/authorizer/node/graph.go` of Kubernetes. A snapshot has pods as they were admitted.
An audit log has them as they were asked for, before admission added a service account, its pull secrets or a sidecar; so
what a pod of the log does not name it may use all the same, and the answer is then unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from detection.authorization.rbac import SERVICE_ACCOUNT

NodeResource = Literal[
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "persistentvolumes",
    "serviceaccounts",
    "resourceclaims",
    "volumeattachments",
    "resourceslices",
    "pods",
]
_MIRROR = "kubernetes.io/config.mirror"
#: The config map that service account admission mounts into pods; each namespace has one.
_ROOT_CA = "kube-root-ca.crt"
_VOLUME_SECRETS = (
    *("azureFile", "cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"),
    *("csi",),
)
#: Secrets that a persistent volume names: the field of its source, and the field of that.
_PV_SECRETS = (
    *(("cephfs", "secretRef"), ("cinder", "secretRef"), ("flexVolume", "secretRef"), ("rbd", "secretRef")),
    *(("scaleIO", "secretRef"), ("iscsi", "secretRef"), ("storageos", "secretRef")),
    ("csi", "controllerPublishSecretRef"),
    ("csi", "nodePublishSecretRef"),
    ("csi", "nodeStageSecretRef"),
    ("csi", "nodeExpandSecretRef"),
)
#: Pods and other objects that are kept, and what one of them names: what a log holds can be long.
_MOST, _MOST_NAMES = 300_000, 1_000
#: Specs of pods whose name the API server makes, kept until they are bound.
_PENDING = 20_000
#: Seconds for which a removed pod may still explain a request: API servers learn of changes a little later.
_LINGERS = 60.0


class Used(NamedTuple):
    """An object that a pod uses, in the pod's namespace."""

    resource: str
    name: str


@dataclass(frozen=True, slots=True)
class NodePod:
    """A pod as far as the node authorizer needs it.

    Attributes:
        node: on which it runs; empty before it is bound.
        uses: what it names.
        admitted: whether that is all it uses; False for a pod of the log.
    """

    node: str
    uses: frozenset[Used]
    admitted: bool


@dataclass(frozen=True, slots=True)
class PersistentVolume:
    """A volume: namespace and name of its claim, and the secrets that it names, with their namespace."""

    claim: tuple[str, str]
    secrets: frozenset[tuple[str, str]] = field(default_factory=frozenset)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> Iterator[Mapping[str, Any]]:
    return (one for one in value if isinstance(one, Mapping)) if isinstance(value, list) else iter(())


def _name(value: object, key: str = "name") -> str:
    found = _mapping(value).get(key)
    return found if isinstance(found, str) else ""


def _of_volume(volume: Mapping[str, Any], pod: str) -> Iterator[Used]:
    yield Used("secrets", _name(volume.get("secret"), "secretName"))
    yield Used("configmaps", _name(volume.get("configMap")))
    yield Used("persistentvolumeclaims", _name(volume.get("persistentVolumeClaim"), "claimName"))
    if "ephemeral" in volume:
        yield Used("persistentvolumeclaims", f"{pod}-{_name(volume)}")
    for source in _items(_mapping(volume.get("projected")).get("sources")):
        yield Used("secrets", _name(source.get("secret")))
        yield Used("configmaps", _name(source.get("configMap")))
    yield Used("secrets", _name(volume.get("azureFile"), "secretName"))
    for kind in _VOLUME_SECRETS:
        found = _mapping(volume.get(kind))
        yield Used("secrets", _name(found.get("secretRef")))
        yield Used("secrets", _name(found.get("nodePublishSecretRef")))


def _of_containers(spec: Mapping[str, Any]) -> Iterator[Used]:
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in _items(spec.get(key)):
            for source in _items(container.get("envFrom")):
                yield Used("secrets", _name(source.get("secretRef")))
                yield Used("configmaps", _name(source.get("configMapRef")))
            for variable in _items(container.get("env")):
                source = _mapping(variable.get("valueFrom"))
                yield Used("secrets", _name(source.get("secretKeyRef")))
                yield Used("configmaps", _name(source.get("configMapKeyRef")))


def _of_claims(pod: Mapping[str, Any]) -> Iterator[Used]:
    spec, status = _mapping(pod.get("spec")), _mapping(pod.get("status"))
    made = {
        _name(one): _name(one, "resourceClaimName") for one in _items(status.get("resourceClaimStatuses"))
    }
    for claim in _items(spec.get("resourceClaims")):
        by_name = _name(claim, "resourceClaimName") or _name(claim.get("source"), "resourceClaimName")
        yield Used("resourceclaims", by_name or made.get(_name(claim), ""))
    yield Used("resourceclaims", _name(status.get("extendedResourceClaimStatus"), "resourceClaimName"))


def used_by(pod: Mapping[str, Any], *, admitted: bool) -> frozenset[Used]:
    """What a pod's object names; with what admission always adds, if it was not admitted yet."""
    metadata, spec = _mapping(pod.get("metadata")), _mapping(pod.get("spec"))
    if _MIRROR in _mapping(metadata.get("annotations")):
        return frozenset()  # a node makes it by itself, so it may give no rights

    def named() -> Iterator[Used]:
        account = _name(spec, "serviceAccountName") or _name(spec, "serviceAccount")
        yield Used("serviceaccounts", account or ("" if admitted else "default"))
        if not admitted and spec.get("automountServiceAccountToken") is not False:
            yield Used("configmaps", _ROOT_CA)
        for secret in _items(spec.get("imagePullSecrets")):
            yield Used("secrets", _name(secret))
        yield from _of_containers(spec)
        for volume in _items(spec.get("volumes")):
            yield from _of_volume(volume, _name(metadata))
        yield from _of_claims(pod)

    found: set[Used] = set()
    for one in named():
        if one.name:
            found.add(one)
        if len(found) >= _MOST_NAMES:
            break
    return frozenset(found)


class RequestedPod(NamedTuple):
    """A pod as it was asked for: its name, or the stem from which the API server makes one."""

    name: str
    stem: str
    pod: NodePod


def requested_pod(content: Mapping[str, Any]) -> RequestedPod:
    """A pod from the body of its creation; of another body one that names nothing."""
    metadata = _mapping(content.get("metadata"))
    uses = used_by(content, admitted=False)
    pod = NodePod(_name(content.get("spec"), "nodeName"), uses, False)
    return RequestedPod(_name(metadata), _name(metadata, "generateName"), pod)


class NodeGraph:
    """Pods, volumes, attachments and resource slices of a cluster, and which node may touch what because of them.

    Attributes:
        complete: whether a snapshot held pods: then there are no others than those of the snapshot and of the log.
        now: when the newest pod went, seconds since 1970.
    """

    def __init__(self) -> None:
        self.complete = False
        self.pods: dict[tuple[str, str], NodePod] = {}
        self.volumes: dict[str, PersistentVolume] = {}
        self.attachments: dict[str, str] = {}  # name -> node
        self.slices: dict[str, str] = {}
        self._by_use: dict[tuple[str, Used], set[str]] = defaultdict(set)
        self._on_node: dict[tuple[str, str], set[str]] = defaultdict(
            set
        )  # (namespace, node) -> pods of the log
        self._by_claim: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._by_secret: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._pending: dict[tuple[str, str], NodePod] = {}  # (namespace, generateName) -> newest spec
        self._removed: dict[tuple[str, str], float] = {}  # (namespace, node) -> when a pod went
        self.now = 0.0

    def load(self, content: Mapping[str, Any]) -> bool:
        """Take in an object of a snapshot; returns whether it is one that the graph is made of."""
        kind, metadata, spec = content.get("kind"), _mapping(content.get("metadata")), content.get("spec")
        name = _name(metadata)
        if not name:
            return False
        if kind == "Pod":
            self.complete = True
            pod = NodePod(_name(spec, "nodeName"), used_by(content, admitted=True), True)
            self.put_pod(_name(metadata, "namespace"), name, pod)
        elif kind == "PersistentVolume":
            self.put_volume(name, content)
        elif kind == "VolumeAttachment":
            self.put_node_of(self.attachments, name, _name(spec, "nodeName"))
        elif kind == "ResourceSlice":
            self.put_node_of(self.slices, name, _name(spec, "nodeName"))
        else:
            return False
        return True

    def accounts(self) -> set[str]:
        """User names of the service accounts that known pods run as."""
        return {
            f"{SERVICE_ACCOUNT}{namespace}:{used.name}"
            for (namespace, used), pods in self._by_use.items()
            if pods and used.resource == "serviceaccounts" and used.name
        }

    def put_pod(self, namespace: str, name: str, pod: NodePod) -> None:
        """Put in a pod, in the place of one of that name."""
        self.remove_pod(namespace, name)
        if len(self.pods) >= _MOST:
            self.complete = False
            return
        self.pods[namespace, name] = pod
        for one in pod.uses:
            self._by_use[namespace, one].add(name)
        if not pod.admitted:
            self._on_node[namespace, pod.node].add(name)

    def remove_pod(self, namespace: str, name: str) -> None:
        """Remove a pod, if it is there."""
        gone = self.pods.pop((namespace, name), None)
        if gone is None:
            return
        self._removed.pop((namespace, gone.node), None)
        self._removed[namespace, gone.node] = self.now
        if len(self._removed) > _PENDING:
            del self._removed[next(iter(self._removed))]
        for one in gone.uses:
            _discard(self._by_use, (namespace, one), name)
        _discard(self._on_node, (namespace, gone.node), name)

    def ask_for(self, namespace: str, wanted: RequestedPod, name: str) -> None:
        """Take in a pod that the log shows being made; `name` is empty if the API server makes it from a stem."""
        if name:
            self.put_pod(namespace, name, wanted.pod)
        elif wanted.stem:
            self._pending.pop((namespace, wanted.stem), None)
            self._pending[namespace, wanted.stem] = wanted.pod
            if len(self._pending) > _PENDING:
                del self._pending[next(iter(self._pending))]

    def bind(self, namespace: str, name: str, node: str) -> None:
        """Note that a pod was bound to a node. If the API server made its name, the spec is what was asked for under the stem."""
        known = self.pods.get((namespace, name))
        if known is None:
            # What Kubernetes appends has five letters.
            known = self._pending.get((namespace, name[:-5]), NodePod("", frozenset(), False))
        self.put_pod(namespace, name, replace(known, node=node))

    def put_volume(self, name: str, content: Mapping[str, Any]) -> None:
        """Put in a persistent volume, in the place of one of that name."""
        self.remove_volume(name)
        if len(self.volumes) >= _MOST:
            self.complete = False
            return
        spec = _mapping(content.get("spec"))
        reference = _mapping(spec.get("claimRef"))
        claim = _name(reference, "namespace"), _name(reference)
        secrets = set()
        for source, key in _PV_SECRETS:
            secret = _mapping(_mapping(spec.get(source)).get(key))
            secrets.add((_name(secret, "namespace") or claim[0], _name(secret)))
        azure = _mapping(spec.get("azureFile"))
        secrets.add((_name(azure, "secretNamespace") or claim[0], _name(azure, "secretName")))
        self._put_volume(name, PersistentVolume(claim, frozenset(one for one in secrets if one[1])))

    def _put_volume(self, name: str, volume: PersistentVolume) -> None:
        self.volumes[name] = volume
        self._by_claim[volume.claim].add(name)
        for secret in volume.secrets:
            self._by_secret[secret].add(name)

    def remove_volume(self, name: str) -> None:
        """Remove a persistent volume, if it is there."""
        gone = self.volumes.pop(name, None)
        if gone is not None:
            _discard(self._by_claim, gone.claim, name)
            for secret in gone.secrets:
                _discard(self._by_secret, secret, name)

    def put_node_of(self, table: dict[str, str], name: str, node: str) -> None:
        """Note the node of a volume attachment or resource slice."""
        if name in table or len(table) < _MOST:
            table[name] = node
        else:
            self.complete = False

    def reaches(self, node: str, resource: NodeResource, namespace: str, name: str) -> bool | None:
        """Whether a node has a path to an object through the pods that run on it; None if that is not known."""
        if resource in ("volumeattachments", "resourceslices"):
            table = self.attachments if resource == "volumeattachments" else self.slices
            return table.get(name) == node or (False if self.complete and name in table else None)
        if resource == "pods":
            pod = self.pods.get((namespace, name))
            return True if pod is not None and pod.node == node else self._otherwise(node, namespace)
        if resource == "persistentvolumes":
            volume = self.volumes.get(name)
            return self._through([] if volume is None else [volume.claim], node)
        if self._pods_on(node, namespace, Used(resource, name)):
            return True
        if resource == "secrets":
            held = self._by_secret.get((namespace, name), ())
            found = self._through([self.volumes[one].claim for one in held], node)
            if found or found is None:
                return found
        return self._otherwise(node, namespace)

    def _through(self, claims: Iterable[tuple[str, str]], node: str) -> bool | None:
        """Whether a pod on a node uses one of the claims, given as namespace and name."""
        unsure = not self.complete
        for namespace, name in claims:
            if self._pods_on(node, namespace, Used("persistentvolumeclaims", name)):
                return True
            unsure = unsure or self._otherwise(node, namespace) is None
        return None if unsure else False

    def _pods_on(self, node: str, namespace: str, used: Used) -> bool:
        names = self._by_use.get((namespace, used), ())
        return any(self.pods[namespace, name].node == node for name in names)

    def _otherwise(self, node: str, namespace: str) -> bool | None:
        """The answer where no path is known: none exists, unless a pod of the log may use more than it named."""
        if not self.complete or self._on_node.get((namespace, node)):
            return None
        removed = self._removed.get((namespace, node))
        return None if removed is not None and removed > 0 and self.now - removed < _LINGERS else False

    def snapshot(self) -> Callable[[], list[Any]]:
        """The graph as it is now; the result makes plain values of it, on any thread, which `restore` takes."""
        held, claimed, pending = dict(self.pods), dict(self.volumes), dict(self._pending)
        attachments, slices, complete = dict(self.attachments), dict(self.slices), self.complete

        def make() -> list[Any]:
            pods = [(*key, pod.node, sorted(pod.uses), pod.admitted) for key, pod in held.items()]
            volumes = [(name, one.claim, sorted(one.secrets)) for name, one in claimed.items()]
            waiting = [(*key, sorted(pod.uses)) for key, pod in pending.items()]
            return [complete, pods, volumes, attachments, slices, waiting]

        return make

    def restore(self, saved: Sequence[Any]) -> None:
        """Take over what `snapshot` gave, in place of all there is."""
        complete, pods, volumes, attachments, slices, pending = saved
        for table in (
            *(self.pods, self.volumes, self._by_use, self._on_node, self._by_claim, self._by_secret),
            *(self._pending, self._removed),
        ):
            table.clear()
        for namespace, name, node, uses, admitted in pods:
            self.put_pod(namespace, name, NodePod(node, frozenset(Used(*one) for one in uses), admitted))
        for name, claim, secrets in volumes:
            named = frozenset((one[0], one[1]) for one in secrets)
            self._put_volume(name, PersistentVolume((claim[0], claim[1]), named))
        self.attachments, self.slices = dict(attachments), dict(slices)
        for namespace, stem, uses in pending:
            self._pending[namespace, stem] = NodePod("", frozenset(Used(*one) for one in uses), False)
        self.complete = complete


def _discard(table: dict[Any, set[str]], key: Any, value: str) -> None:
    held = table.get(key)
    if held is not None:
        held.discard(value)
        if not held:
            del table[key]
