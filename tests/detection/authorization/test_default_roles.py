"""What Kubernetes' default roles allow and what not, as its own testdata has them, asked of a real cluster's roles.

From `bootstrappolicy/testdata/{cluster-roles,cluster-role-bindings,namespace-roles}.yaml`: facts on which all releases since 1.20
agree, for a user that has the role in a namespace or, if it is about the whole cluster, there.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from detection.authorization.authorizer import Authorizer
from detection.authorization.escalation import ADMIN, NODE, Escalation
from detection.authorization.rbac import Rbac
from detection.authorization.requests import AccessRequest
from tests.detection.authorization.test_rbac import RECORDINGS

#: Role, whether it is asked in a namespace, what it allows, what not; `VERB WHAT`, with names after a space.
ROLES = [
    (
        "cluster-admin",
        False,
        "delete nodes|escalate clusterroles.rbac.authorization.k8s.io|get /logs|create /anything",
        "",
    ),
    (
        *("admin", True),
        "create rolebindings.rbac.authorization.k8s.io|update roles.rbac.authorization.k8s.io|get secrets"
        "|create localsubjectaccessreviews.authorization.k8s.io|impersonate serviceaccounts|update deployments/scale.apps",
        "escalate roles.rbac.authorization.k8s.io|bind roles.rbac.authorization.k8s.io|update resourcequotas|get nodes",
    ),
    (
        *("edit", True),
        "create pods/exec|get pods/attach|list secrets|create pods|patch deployments.apps|create cronjobs.batch"
        "|update horizontalpodautoscalers.autoscaling|delete networkpolicies.networking.k8s.io|impersonate serviceaccounts",
        "get roles.rbac.authorization.k8s.io|create rolebindings.rbac.authorization.k8s.io|patch resourcequotas"
        "|create localsubjectaccessreviews.authorization.k8s.io|impersonate users",
    ),
    (
        *("view", True),
        "get pods/log|list configmaps|watch deployments.apps|get namespaces|list serviceaccounts|get pods/status"
        "|list jobs.batch|get ingresses.networking.k8s.io|watch endpoints",
        "get secrets|get pods/exec|create pods|list roles.rbac.authorization.k8s.io|get pods/proxy|delete configmaps",
    ),
    (
        *("system:basic-user", False),
        "create selfsubjectaccessreviews.authorization.k8s.io|create selfsubjectrulesreviews.authorization.k8s.io",
        "create subjectaccessreviews.authorization.k8s.io|create tokenreviews.authentication.k8s.io",
    ),
    (
        "system:discovery",
        False,
        "get /api|get /apis/apps/v1|get /openapi/v2|get /version/",
        "get /metrics|get /logs",
    ),
    ("system:public-info-viewer", False, "get /healthz|get /version|get /livez", "get /api|get /metrics"),
    (
        "system:monitoring",
        False,
        "get /metrics|get /readyz/etcd|get /livez",
        "get /logs|get /debug/pprof|list pods",
    ),
    (
        *("system:auth-delegator", False),
        "create tokenreviews.authentication.k8s.io|create subjectaccessreviews.authorization.k8s.io",
        "list tokenreviews.authentication.k8s.io|create selfsubjectaccessreviews.authorization.k8s.io",
    ),
    (
        *("system:kube-controller-manager", False),
        "create serviceaccounts/token|list secrets|watch widgets.example|get configmaps|delete secrets|create serviceaccounts"
        "|update leases.coordination.k8s.io kube-controller-manager",
        "delete pods|create pods|update leases.coordination.k8s.io kube-scheduler|patch secrets",
    ),
    (
        *("system:kube-scheduler", False),
        "create pods/binding|patch pods/status|delete pods|list nodes|watch persistentvolumeclaims"
        "|get leases.coordination.k8s.io kube-scheduler",
        "create pods|get secrets|update nodes|get leases.coordination.k8s.io kube-controller-manager",
    ),
    (
        "system:node-proxier",
        False,
        "watch services|list endpoints|get nodes|create events",
        "get secrets|list pods",
    ),
    (
        *("system:node-bootstrapper", False),
        "create certificatesigningrequests.certificates.k8s.io|watch certificatesigningrequests.certificates.k8s.io",
        "update certificatesigningrequests/approval.certificates.k8s.io|approve signers.certificates.k8s.io",
    ),
    (
        "system:kubelet-api-admin",
        False,
        "create nodes/proxy|get nodes/metrics|proxy nodes",
        "get pods|update nodes",
    ),
    (
        "system:node-problem-detector",
        False,
        "patch nodes/status|get nodes|create events",
        "patch nodes|list nodes",
    ),
    ("system:kube-dns", False, "list services|watch endpoints", "get services|list pods"),
    ("system:kube-aggregator", False, "get services|list endpoints", "update services|get secrets"),
    ("system:heapster", False, "list pods|get nodes|watch namespaces", "get secrets|get nodes/stats"),
    (
        *("system:persistent-volume-provisioner", False),
        "create persistentvolumes|update persistentvolumeclaims|list storageclasses.storage.k8s.io|watch events",
        "update persistentvolumes|delete persistentvolumeclaims|get secrets",
    ),
    (
        "system:volume-scheduler",
        False,
        "patch persistentvolumes|update persistentvolumeclaims",
        "create persistentvolumes",
    ),
    (
        *("system:service-account-issuer-discovery", False),
        "get /.well-known/openid-configuration|get /openid/v1/jwks",
        "get /openid/v1|get /api",
    ),
    *(
        (
            *(f"system:certificates.k8s.io:{role}-approver", False),
            f"approve signers.certificates.k8s.io kubernetes.io/{role}",
            "approve signers.certificates.k8s.io|approve signers.certificates.k8s.io kubernetes.io/other"
            f"|sign signers.certificates.k8s.io kubernetes.io/{role}",
        )
        for role in (
            "kube-apiserver-client",
            "kube-apiserver-client-kubelet",
            "kubelet-serving",
            "legacy-unknown",
        )
    ),
]


@pytest.fixture(scope="module")
def defaults() -> list[dict[str, Any]]:
    """The roles of a real API server."""
    with gzip.open(RECORDINGS / "rbac.json.gz") as file:
        return [one for one in json.load(file)["items"] if one["kind"] == "ClusterRole"]


def bound(role: str, *, in_namespace: bool) -> dict[str, Any]:
    return {
        "kind": "RoleBinding" if in_namespace else "ClusterRoleBinding",
        "metadata": {"name": "mine", "namespace": "shop" if in_namespace else ""},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "me", "namespace": "shop"}],
    }


def test_default_roles_allow_what_kubernetes_expects_and_no_more(defaults: list[dict[str, Any]]) -> None:
    cases = 0
    for role, in_namespace, allowed, refused in ROLES:
        authorizer = Authorizer(Rbac([*defaults, bound(role, in_namespace=in_namespace)]))
        for text, expected in ((allowed, "allow"), (refused, "no opinion")):
            for one in filter(None, text.split("|")):
                verb, what, *name = one.split()
                request = AccessRequest.from_words(verb, what, "shop" if in_namespace else "", *name)
                ruling = authorizer.decide("system:serviceaccount:shop:me", (), request)
                if request.path != "/healthz" and request.path != "/livez":  # these everybody may ask for
                    assert ruling.opinion == expected, (role, one)
                cases += 1
    assert cases == 152


@pytest.mark.parametrize(
    ("role", "in_namespace", "reaches"),
    [
        ("cluster-admin", False, {ADMIN}),
        ("cluster-admin", True, {NODE, "other"}),
        ("admin", True, {NODE, "other"}),
        ("edit", True, {NODE, "other"}),
        ("view", True, set()),
        ("view", False, set()),
        ("system:kubelet-api-admin", False, {ADMIN}),
        ("system:kube-controller-manager", False, {"other"}),
        ("system:kube-scheduler", False, set()),
        ("system:node-bootstrapper", False, set()),
        ("system:certificates.k8s.io:kube-apiserver-client-approver", False, set()),
        ("system:controller:clusterrole-aggregation-controller", False, {ADMIN}),
    ],
)
def test_where_default_roles_lead(
    defaults: list[dict[str, Any]], role: str, in_namespace: bool, reaches: set[Any]
) -> None:
    other = bound("view", in_namespace=True) | {"metadata": {"name": "other", "namespace": "shop"}}
    other["subjects"] = [{"kind": "ServiceAccount", "name": "other", "namespace": "shop"}]
    rbac = Rbac([*defaults, bound(role, in_namespace=in_namespace), other])
    found = Escalation(rbac).paths("system:serviceaccount:shop:me", (), most=1)
    ends = {"other" if one.name.endswith(":other") else one for one in found}
    # In one's own namespace everything includes to give oneself what one has.
    assert {one for one in ends if one == "other" or one.kind != "role"} == reaches
