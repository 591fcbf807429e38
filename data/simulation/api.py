"""The API as seen in the audit log: resources, request paths, and what an audit policy records.

Sources: Kubernetes API reference, `k8s.io/apiserver/pkg/audit/policy`.
"""

from __future__ import annotations

from typing import NamedTuple

# `pods.metrics` is the metrics API's own `pods`, `events.new` the newer API of events. The usual policies log custom
# resources (argoproj.io and below) without their bodies.
_RESOURCES_BY_VERSION = {
    "v1": """
        configmaps endpoints events limitranges namespaces nodes persistentvolumeclaims persistentvolumes
        pods replicationcontrollers resourcequotas secrets serviceaccounts services
    """,
    "apps/v1": "daemonsets deployments replicasets statefulsets",
    "batch/v1": "jobs",
    "batch/v1beta1": "cronjobs",
    "autoscaling/v1": "horizontalpodautoscalers",
    "networking.k8s.io/v1": "ingresses networkpolicies",
    "policy/v1beta1": "poddisruptionbudgets",
    "coordination.k8s.io/v1": "leases",
    "discovery.k8s.io/v1beta1": "endpointslices",
    "rbac.authorization.k8s.io/v1": "roles clusterroles rolebindings clusterrolebindings",
    "authorization.k8s.io/v1": "selfsubjectaccessreviews selfsubjectrulesreviews subjectaccessreviews",
    "certificates.k8s.io/v1": "certificatesigningrequests",
    "storage.k8s.io/v1": "storageclasses csidrivers",
    "node.k8s.io/v1": "runtimeclasses",
    "apiregistration.k8s.io/v1": "apiservices",
    "apiextensions.k8s.io/v1": "customresourcedefinitions",
    "admissionregistration.k8s.io/v1": "mutatingwebhookconfigurations validatingwebhookconfigurations",
    "flowcontrol.apiserver.k8s.io/v1beta1": "flowschemas prioritylevelconfigurations",
    "argoproj.io/v1alpha1": "applications appprojects workflows",
    "cert-manager.io/v1": "certificates clusterissuers",
    "kustomize.toolkit.fluxcd.io/v1beta1": "kustomizations",
    "source.toolkit.fluxcd.io/v1beta1": "gitrepositories",
    "kyverno.io/v1": "clusterpolicies",
    "wgpolicyk8s.io/v1alpha1": "policyreports",
    "external-secrets.io/v1alpha1": "externalsecrets",
    "db.corp.example/v1": "postgresclusters",
    "monitoring.coreos.com/v1": "servicemonitors",
    "velero.io/v1": "backups",
    "snapshot.storage.k8s.io/v1beta1": "volumesnapshots",
    "events.k8s.io/v1": "events.new",
    "metrics.k8s.io/v1beta1": "pods.metrics",
}
#: Plural -> (group, version).
RESOURCES = {
    plural: (key.rpartition("/")[0], key.rpartition("/")[2])
    for key, plurals in _RESOURCES_BY_VERSION.items()
    for plural in plurals.split()
}

CLUSTER_SCOPED = set(
    """
    namespaces nodes persistentvolumes clusterroles clusterrolebindings clusterpolicies certificatesigningrequests
    apiservices customresourcedefinitions storageclasses mutatingwebhookconfigurations validatingwebhookconfigurations
    clusterissuers
""".split()
)
_ASKED_BY_ALL = """
    apps/v1 events.k8s.io/v1 authentication.k8s.io/v1 authorization.k8s.io/v1 autoscaling/v1 autoscaling/v2beta2
    batch/v1 batch/v1beta1 certificates.k8s.io/v1 networking.k8s.io/v1 extensions/v1beta1 policy/v1beta1
    rbac.authorization.k8s.io/v1 storage.k8s.io/v1 admissionregistration.k8s.io/v1 apiextensions.k8s.io/v1
    scheduling.k8s.io/v1 coordination.k8s.io/v1 node.k8s.io/v1 discovery.k8s.io/v1beta1 argoproj.io/v1alpha1
    cert-manager.io/v1 apiregistration.k8s.io/v1
""".split()
# Discovery requests of a client with a cold cache, in kubectl's order.
DISCOVERY = ("/api", "/apis", "/api/v1", *(f"/apis/{group}" for group in _ASKED_BY_ALL))
_ASKED_BY_CONTROLLERS = """
    apiregistration.k8s.io/v1 apiregistration.k8s.io/v1beta1 apps/v1 events.k8s.io/v1 events.k8s.io/v1beta1
    authentication.k8s.io/v1 authentication.k8s.io/v1beta1 authorization.k8s.io/v1 authorization.k8s.io/v1beta1
    autoscaling/v1 autoscaling/v2beta1 autoscaling/v2beta2 batch/v1 batch/v1beta1 certificates.k8s.io/v1
    certificates.k8s.io/v1beta1 networking.k8s.io/v1 networking.k8s.io/v1beta1 extensions/v1beta1 policy/v1beta1
    rbac.authorization.k8s.io/v1 rbac.authorization.k8s.io/v1beta1 storage.k8s.io/v1 storage.k8s.io/v1beta1
    admissionregistration.k8s.io/v1 admissionregistration.k8s.io/v1beta1 apiextensions.k8s.io/v1
    apiextensions.k8s.io/v1beta1 scheduling.k8s.io/v1 scheduling.k8s.io/v1beta1 coordination.k8s.io/v1
    coordination.k8s.io/v1beta1 node.k8s.io/v1 node.k8s.io/v1beta1 discovery.k8s.io/v1beta1
    flowcontrol.apiserver.k8s.io/v1beta1 acme.io/v1 cert-manager.io/v1 db.corp.example/v1 kyverno.io/v1
    monitoring.coreos.com/v1 velero.io/v1 argoproj.io/v1alpha1 external-secrets.io/v1alpha1
    wgpolicyk8s.io/v1alpha1 kustomize.toolkit.fluxcd.io/v1beta1 snapshot.storage.k8s.io/v1beta1
""".split()
# Discovery requests of controllers, almost simultaneous, mostly in this order.
FULL_DISCOVERY = (
    *("/api", "/apis", "/apis/source.toolkit.fluxcd.io/v1beta1", "/api/v1"),
    *(f"/apis/{group}" for group in _ASKED_BY_CONTROLLERS),
)

_WRITES = {"create", "update", "patch", "delete", "deletecollection"}
_SECRETIVE = set("secrets configmaps serviceaccounts/token tokenreviews events events.new leases".split())
_KNOWN_GROUPS = {group for group, _ in RESOURCES.values() if "." not in group} | set(
    """
    admissionregistration.k8s.io apiextensions.k8s.io apiregistration.k8s.io authentication.k8s.io authorization.k8s.io
    certificates.k8s.io discovery.k8s.io flowcontrol.apiserver.k8s.io metrics.k8s.io networking.k8s.io node.k8s.io
    rbac.authorization.k8s.io storage.k8s.io
""".split()
)
# Subresources with streaming responses: audited as ResponseStarted and ResponseComplete.
STREAMS = {"exec", "attach", "portforward", "log", "proxy"}


def audit_level(
    policy: str, machine: bool, verb: str, resource: str, sub: str, namespace: str, account: bool = False
) -> str:
    """Audit level of a resource request, or "" if the policy drops it.

    Args:
        policy: `everything` (that of the shipped recordings), `production` (drops the control plane's own chatter, as hosted
            Kubernetes services do) or `lean` (also drops reads by control plane and kubelets except of secrets and config
            maps, informers of service accounts and heartbeats of kubelets).
        machine: whether the caller is a node, a component or a controller in kube-system.
        resource, sub: plural, and subresource or "".
        account: whether the caller is a service account.
    """
    if policy != "everything":
        if resource == "leases":
            return ""
        if policy == "lean" and sub not in STREAMS:
            read = verb in ("get", "list") and resource not in ("secrets", "configmaps")
            if (machine or account) and verb == "watch":
                return ""
            if machine and (read or (resource, sub) == ("nodes", "status")):
                return ""
        if machine and (
            resource
            in ("events", "events.new", "subjectaccessreviews", "endpoints", "endpointslices", "limitranges")
            or (resource == "resourcequotas" and sub == "status")
            or (verb == "get" and resource in ("nodes", "pods.metrics"))
            or (resource in ("deployments", "replicasets", "cronjobs", "jobs", "pods") and sub == "status")
        ):
            return ""
    full = f"{resource}/{sub}" if sub else resource
    if full in _SECRETIVE or resource in ("secrets", "configmaps") or verb not in _WRITES:
        return "Metadata"
    if machine and resource == "endpoints" and namespace == "kube-system":
        return "Metadata"
    return "Request" if RESOURCES[resource][0] in _KNOWN_GROUPS else "Metadata"


class Route(NamedTuple):
    """Constant text of one kind of request: all but name, query, caller, response and time."""

    level: str
    path: str
    tail: str
    ref: str
    ref_end: str
    body: bool


def make_route(
    policy: str, machine: bool, verb: str, full: str, namespace: str, account: bool = False
) -> Route:
    """Constant text for `verb` on `resource[/subresource]` in a namespace ("" for the cluster)."""
    resource, _, sub = full.partition("/")
    group, version = RESOURCES[resource]
    plural = resource.partition(".")[0]
    level = audit_level(policy, machine, verb, resource, sub, namespace, account)
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    scope = f"/namespaces/{namespace}" if namespace and resource != "namespaces" else ""
    ref = f'"objectRef":{{"resource":"{plural}"'
    if namespace:
        ref += f',"namespace":"{namespace}"'
    end = f',"apiGroup":"{group}"' if group else ""
    end += f',"apiVersion":"{version}"'
    keeps_body = level == "Request" and sub not in STREAMS
    return Route(level, f"{root}{scope}/{plural}", f"/{sub}" if sub else "", ref, end, keeps_body)
