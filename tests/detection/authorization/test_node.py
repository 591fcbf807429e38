"""What Kubernetes' own tests expect of the node authorizer and its graph, as facts in tables of our own.

From `node_authorizer_test.go` (TestNodeAuthorizer and TestNodeAuthorizerSharedResources, all; each case that does not say
otherwise with selectors and without) and `graph_test.go` (TestIndex and TestIndex2, what is reachable after each step).
"""

from __future__ import annotations

from typing import Any

import pytest

from data.events.audit_event import AuditEvent
from detection.authorization.authorizer import Authorizer
from detection.authorization.changes import ChangeFollower
from detection.authorization.node_authorizer import NodeAuthorizer
from detection.authorization.node_graph import NodeGraph, used_by
from detection.authorization.rbac import Rbac
from detection.authorization.requests import AccessRequest, access_request
from tests.detection.authorization.test_rbac import event
from tests.detection.authorization.test_upstream import cluster_role, r

GROUPS = ("system:nodes",)
#: The rules for all nodes alike, as far as the cases need them (`bootstrappolicy.NodeRules`).
NODE_ROLE = cluster_role(
    "system:node",
    r("create get list watch", ".", "nodes"),
    r("patch update", ".", "nodes nodes/status"),
    r("get list watch", ".", "pods services"),
    r("create delete", ".", "pods"),
    r("patch update", ".", "pods/status"),
    r("create", ".", "pods/eviction"),
    r("create patch update", ".", "events"),
    r("create", "authentication.k8s.io", "tokenreviews"),
)


def pod(
    name: str, node: str, namespace: str = "ns0", account: str = "", volumes: Any = (), claims: Any = ()
) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "volumes": list(volumes),
            "resourceClaims": list(claims),
        },
    }


def secret(name: str) -> dict[str, Any]:
    return {"secret": {"secretName": name}}


def config_map(name: str) -> dict[str, Any]:
    return {"configMap": {"name": name}}


def claim(name: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name}}


def volume(name: str, claimed: str, secret_name: str = "", namespace: str = "ns0") -> dict[str, Any]:
    spec: dict[str, Any] = {"claimRef": {"namespace": namespace, "name": claimed}}
    if secret_name:
        spec["csi"] = {"nodePublishSecretRef": {"namespace": namespace, "name": secret_name}}
    return {"kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def of_node(kind: str, name: str, node: str) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": {"nodeName": node}}


def sample() -> NodeGraph:
    """Two nodes with two pods each, as the upstream test generates them."""
    graph = NodeGraph()
    for node in ("node0", "node1"):
        for number in range(2):
            name = f"pod{number}-{node}"
            one = pod(
                name,
                node,
                account=f"svcacct{number}-{node}",
                volumes=[
                    secret(f"secret0-{name}"),
                    secret("secret0-shared"),
                    config_map(f"configmap0-{name}"),
                    claim(f"pvc0-{name}"),
                ],
                claims=[
                    {"name": "claim0", "resourceClaimName": f"claim0-{name}-ns0"},
                    {"name": "made", "resourceClaimTemplateName": f"{name}-claimtemplate0"},
                ],
            )
            made = [{"name": "made", "resourceClaimName": f"generated-claim-{name}-ns0-0"}]
            graph.load(one | {"status": {"resourceClaimStatuses": made}})
            graph.load(volume(f"pv0-{name}-ns0", f"pvc0-{name}", f"secret-pv0-{name}-ns0"))
        graph.load(of_node("VolumeAttachment", f"attachment0-{node}", node))
        graph.load(of_node("ResourceSlice", f"slice0-{node}", node))
    return graph


def decide(graph: NodeGraph, request: AccessRequest, *, selectors: bool | None, node: str = "node0") -> str:
    authorizer = Authorizer(Rbac([NODE_ROLE]), NodeAuthorizer(graph, selectors=selectors))
    return authorizer.decide(f"system:node:{node}", GROUPS, request).opinion


_RES, _COORD, _STORE = "resource.k8s.io", "coordination.k8s.io", "storage.k8s.io"
#: Verb, group, resource with subresource, namespace, name, whether it is allowed without selectors, and with them.
CASES: list[tuple[str, str, str, str, str, bool, bool]] = [
    *(
        (verb, group, resource, namespace, name, allowed, allowed)
        for verb, group, resource, namespace, name, allowed in (
            ("get", "", "configmaps", "ns0", "configmap0-pod0-node0", True),
            ("get", "", "secrets", "ns0", "secret0-pod0-node0", True),
            ("list", "", "secrets", "ns0", "secret0-pod0-node0", True),
            ("watch", "", "secrets", "ns0", "secret0-pod0-node0", True),
            ("list", "", "secrets", "ns0", "", False),
            ("watch", "", "secrets", "ns0", "", False),
            ("list", "", "secrets", "", "secret0-pod0-node0", False),
            ("get", "", "secrets", "ns0", "secret0-shared", True),
            ("get", "", "secrets", "ns0", "secret-pv0-pod0-node0-ns0", True),
            ("get", "", "persistentvolumeclaims", "ns0", "pvc0-pod0-node0", True),
            ("get", _RES, "resourceclaims", "ns0", "claim0-pod0-node0-ns0", True),
            ("get", _RES, "resourceclaims", "ns0", "generated-claim-pod0-node0-ns0-0", True),
            ("get", "", "persistentvolumes", "", "pv0-pod0-node0-ns0", True),
            ("get", "", "configmaps", "ns0", "configmap0-pod0-node1", False),
            ("get", "", "secrets", "ns0", "secret0-pod0-node1", False),
            ("get", "", "secrets", "ns0", "secret-pv0-pod0-node1-ns0", False),
            ("get", "", "persistentvolumeclaims", "ns0", "pvc0-pod0-node1", False),
            ("get", _RES, "resourceclaims", "ns0", "claim0-pod0-node1-ns0", False),
            ("get", _RES, "resourceclaims", "ns0", "pod0-node1-claimtemplate0", False),
            ("get", "", "persistentvolumes", "", "pv0-pod0-node1-ns0", False),
            ("get", _STORE, "volumeattachments", "", "attachment0-node0", True),
            ("get", _STORE, "volumeattachments", "", "attachment0-node1", False),
            ("create", "", "serviceaccounts/token", "ns0", "svcacct0-node0", True),
            ("create", "", "serviceaccounts/token", "ns0", "svcacct0-node1", False),
            ("create", "", "serviceaccounts", "ns0", "svcacct0-node0", False),
            ("update", "", "serviceaccounts/token", "ns0", "svcacct0-node0", False),
            *(
                (verb, _COORD, "leases", "foo", "node0", False)
                for verb in ("get", "create", "update", "patch", "delete")
            ),
            *(
                (verb, _COORD, "leases", "kube-node-lease", "node1", False)
                for verb in ("get", "update", "patch", "delete")
            ),
            *((verb, _COORD, "leases", "kube-node-lease", "", False) for verb in ("list", "watch")),
            *(
                (verb, _COORD, "leases", "kube-node-lease", "node0", True)
                for verb in ("get", "create", "update", "patch", "delete")
            ),
            ("get", _STORE, "csinodes/csiDrivers", "", "node0", False),
            *(
                (verb, _STORE, "csinodes", "", "node1", False)
                for verb in ("get", "update", "patch", "delete")
            ),
            *((verb, _STORE, "csinodes", "", "", False) for verb in ("list", "watch")),
            *(
                (verb, _STORE, "csinodes", "", "node0", True)
                for verb in ("get", "create", "update", "patch", "delete")
            ),
            ("get", _RES, "resourceslices/status", "", "slice0-node0", False),
            *(
                (verb, _RES, "resourceslices", "", "slice0-node1", False)
                for verb in ("get", "update", "patch", "delete")
            ),
            *(
                (verb, _RES, "resourceslices", "", "slice0-node0", True)
                for verb in ("get", "create", "update", "patch", "delete")
            ),
            ("get", "", "pods", "ns0", "pod0-node0", True),
            ("list", "", "pods", "ns0", "pod0-node0", True),
            ("watch", "", "pods", "ns0", "pod0-node0", True),
            ("create", "", "pods", "ns0", "", True),
            ("create", "", "pods/proxy", "ns0", "", False),
            ("delete", "", "pods", "ns0", "pod0-node0", True),
            ("delete", "", "pods", "ns0", "pod0-node1", True),
            ("delete", "", "pods/proxy", "ns0", "pod0-node0", False),
            *(
                (verb, "", "pods/status", "ns0", name, True)
                for verb in ("update", "patch")
                for name in ("pod0-node0", "pod0-node1")
            ),
            ("get", "", "pods/status", "ns0", "pod0-node0", False),
            ("create", "", "pods/eviction", "ns0", "pod0-node0", True),
            ("create", "", "pods/eviction", "ns0", "pod0-node1", True),
            ("get", "", "nodes", "", "node0", True),
            ("list", "", "nodes", "", "node0", True),
            ("watch", "", "nodes", "", "node0", True),
            ("create", "", "nodes", "", "", True),
            *(
                (verb, "", resource, "", name, True)
                for verb in ("update", "patch")
                for resource in ("nodes", "nodes/status")
                for name in ("node0", "node1")
            ),
        )
    ),
    ("list", _RES, "resourceslices", "", "", True, False),
    ("watch", _RES, "resourceslices", "", "", True, False),
    ("get", "", "pods", "ns0", "pod0-node1", True, False),
    ("list", "", "pods", "", "", True, False),
    ("watch", "", "pods", "", "", True, False),
    ("get", "", "nodes", "", "node1", True, False),
    ("list", "", "nodes", "", "node1", True, False),
    ("list", "", "nodes", "", "", True, False),
    ("watch", "", "nodes", "", "node1", True, False),
    ("watch", "", "nodes", "", "", True, False),
]
#: With a field selector: URI, verb.
SELECTED = [
    (f"/apis/{_RES}/v1/resourceslices?fieldSelector=nodeName%3D%3Dnode0", "list"),
    (f"/apis/{_RES}/v1/resourceslices?fieldSelector=nodeName%3D%3Dnode0&watch=1", "watch"),
    ("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode0", "list"),
    ("/api/v1/pods?fieldSelector=spec.nodeName%3D%3Dnode0", "list"),
    ("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode0&watch=1", "watch"),
    ("/api/v1/pods?fieldSelector=spec.nodeName%3D%3Dnode0&watch=1", "watch"),
]


@pytest.fixture(scope="module")
def graph() -> NodeGraph:
    return sample()


@pytest.mark.parametrize("selectors", [False, True])
def test_the_node_authorizer(graph: NodeGraph, selectors: bool) -> None:
    wrong = []
    for verb, group, resource, namespace, name, without, with_them in CASES:
        base, _, subresource = resource.partition("/")
        request = AccessRequest(verb, None, group, base, subresource, namespace, name)
        said = decide(graph, request, selectors=selectors)
        expected = "allow" if (with_them if selectors else without) else "no opinion"
        # A watch is logged when it ends: without a path it may have had one.
        by_graph = verb == "watch" and resource == "pods" and name and selectors
        if said != expected and not (by_graph and said == "unknown"):
            wrong.append((str(request), said))
    assert wrong == []
    assert len(CASES) > 100


@pytest.mark.parametrize(("uri", "verb"), SELECTED)
@pytest.mark.parametrize("selectors", [False, True])
def test_a_node_selects_its_own(graph: NodeGraph, uri: str, verb: str, selectors: bool) -> None:
    assert decide(graph, access_request(verb, uri), selectors=selectors) == "allow"
    other = access_request(verb, uri.replace("node0", "node1"))
    assert decide(graph, other, selectors=selectors) == ("no opinion" if selectors else "allow")


def test_what_depends_on_selectors_is_unknown_unless_both_agree(graph: NodeGraph) -> None:
    for verb, group, resource, namespace, name, without, with_them in CASES:
        base, _, subresource = resource.partition("/")
        request = AccessRequest(verb, None, group, base, subresource, namespace, name)
        said = decide(graph, request, selectors=None)
        expected = "unknown" if without != with_them else "allow" if without else "no opinion"
        assert said == expected, str(request)


def test_a_node_that_has_not_registered_reads_its_own_node(graph: NodeGraph) -> None:
    request = AccessRequest("get", None, "", "nodes", "", "", "new")
    for selectors in (False, True):
        assert decide(graph, request, selectors=selectors, node="new") == "allow"


def test_shared_secrets_are_for_the_nodes_that_share_them() -> None:
    graph = NodeGraph()
    uses = {
        "node1": ("node1-only", "node1-node2-only", "shared-all"),
        "node2": ("node1-node2-only", "shared-all"),
        "node3": ("shared-all",),
    }
    for node, names in uses.items():
        graph.load(pod(f"pod-{node}", node, "ns1", volumes=map(secret, names)))

    def opinion(node: str, name: str) -> str:
        request = AccessRequest("get", None, "", "secrets", "", "ns1", name)
        return decide(graph, request, selectors=True, node=node)

    for node, names in uses.items():
        for name in uses["node1"]:
            assert opinion(node, name) == ("allow" if name in names else "no opinion")
    graph.load(pod("pod-node3", "node3", "ns1"))
    assert opinion("node3", "shared-all") == "no opinion"


def test_what_is_reachable_follows_pods_that_come_and_go() -> None:
    graph = NodeGraph()
    names = ("cm1", "cm2", "cm3")

    def add(number: int, node: int) -> None:
        volumes = [config_map(name) for name in names]
        graph.load(pod(f"pod{number}", f"node{node}", "ns", "sa1", volumes))

    def reached(resource: Any, name: str) -> set[int]:
        return {node for node in range(1, 5) if graph.reaches(f"node{node}", resource, "ns", name)}

    for step, expected in (
        (lambda: [add(number, number) for number in (1, 2, 3)], {1, 2, 3}),
        (lambda: graph.remove_pod("ns", "pod1"), {2, 3}),
        (lambda: (add(1, 1), add(4, 1)), {1, 2, 3}),
        (lambda: graph.remove_pod("ns", "pod1"), {1, 2, 3}),
        (lambda: graph.remove_pod("ns", "pod4"), {2, 3}),
    ):
        step()
        for name in names:
            assert reached("configmaps", name) == expected
        assert reached("serviceaccounts", "sa1") == expected
    graph.load(
        pod(
            "pod5",
            "node4",
            "ns",
            volumes=[secret("s1"), claim("pvc1")],
            claims=[{"resourceClaimName": "rc1"}],
        )
    )
    assert (reached("secrets", "s1"), reached("resourceclaims", "rc1")) == ({4}, {4})
    assert reached("persistentvolumes", "pv1") == set()
    graph.load(volume("pv1", "pvc1", "of-pv", "ns"))
    assert (reached("persistentvolumes", "pv1"), reached("secrets", "of-pv")) == ({4}, {4})
    graph.load(volume("pv1", "other", "of-pv", "ns"))
    assert (reached("persistentvolumes", "pv1"), reached("secrets", "of-pv")) == (set(), set())
    graph.remove_volume("pv1")
    graph.remove_pod("ns", "pod5")
    assert reached("secrets", "s1") == set()


BOTH = {("secrets", "s"), ("configmaps", "c")}
#: A part of a pod's spec, and what it uses (`podutil.VisitPodSecretNames` and `VisitPodConfigmapNames`).
PARTS: list[tuple[dict[str, Any], set[tuple[str, str]]]] = [
    ({"imagePullSecrets": [{"name": "s"}]}, {("secrets", "s")}),
    *(
        ({key: [{"envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}]}]}, BOTH)
        for key in ("containers", "initContainers", "ephemeralContainers")
    ),
    (
        {
            "containers": [
                {
                    "env": [
                        {"valueFrom": {"secretKeyRef": {"name": "s"}}},
                        {"valueFrom": {"configMapKeyRef": {"name": "c"}}},
                    ]
                }
            ]
        },
        BOTH,
    ),
    *(
        ({"volumes": [{kind: {"secretRef": {"name": "s"}}}]}, {("secrets", "s")})
        for kind in ("cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos")
    ),
    ({"volumes": [{"csi": {"nodePublishSecretRef": {"name": "s"}}}]}, {("secrets", "s")}),
    ({"volumes": [{"azureFile": {"secretName": "s"}}]}, {("secrets", "s")}),
    (
        {"volumes": [{"projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "c"}}]}}]},
        BOTH,
    ),
    ({"volumes": [{"name": "v", "ephemeral": {}}]}, {("persistentvolumeclaims", "p-v")}),
    ({"volumes": [{"emptyDir": {}}]}, set()),
]


@pytest.mark.parametrize(("spec", "uses"), PARTS)
def test_what_a_pod_names_it_uses(spec: dict[str, Any], uses: set[tuple[str, str]]) -> None:
    assert used_by({"metadata": {"name": "p"}, "spec": spec}, admitted=True) == uses


def test_a_pod_that_a_node_makes_by_itself_gives_it_nothing() -> None:
    made = pod("static", "node0", volumes=[secret("s")], account="admin")
    made["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    assert used_by(made, admitted=True) == set()


# -- pods of a log ------------------------------------------------------------------------------------------------


def change(verb: str, name: str, body: Any = None, subresource: str = "", **more: Any) -> AuditEvent:
    ref = {"resource": "pods", "namespace": "shop", "name": name, "subresource": subresource}
    return event(verb, f"/api/v1/namespaces/shop/pods/{name}", body, objectRef=ref, **more)


WANTED = {
    "kind": "Pod",
    "metadata": {"generateName": "web-7c9f-"},
    "spec": {"volumes": [config_map("web-config")]},
}


def followed(*events: AuditEvent, complete: bool = True) -> NodeGraph:
    graph = NodeGraph()
    if complete:
        graph.load(pod("other", "node1"))
    follower = ChangeFollower(Rbac(), graph)
    for one in events:
        follower.follow(one)
    return graph


def test_a_pod_of_a_log_gives_its_node_what_it_names_and_leaves_the_rest_unknown() -> None:
    bound = change("create", "web-7c9f-abcde", {"target": {"name": "node0"}}, "binding")
    graph = followed(change("create", "", WANTED), bound)
    for name, expected in (("web-config", True), ("kube-root-ca.crt", True), ("db", None)):
        assert graph.reaches("node0", "configmaps", "shop", name) is expected
    assert graph.reaches("node0", "serviceaccounts", "shop", "default") is True
    # On another node there is no pod in this namespace that could use more than it names.
    assert graph.reaches("node1", "configmaps", "shop", "web-config") is False
    assert followed(complete=False).reaches("node1", "configmaps", "shop", "web-config") is None


def test_a_pod_is_gone_when_its_node_says_so_and_lingers_a_minute() -> None:
    bound = change("create", "web-7c9f-abcde", {"target": {"name": "node0"}}, "binding")
    asked = change("delete", "web-7c9f-abcde", {"kind": "DeleteOptions"})
    graph = followed(change("create", "", WANTED), bound, asked)
    assert graph.reaches("node0", "configmaps", "shop", "web-config") is True
    gone = change("delete", "web-7c9f-abcde", user="system:node:node0", stageTimestamp="2026-11-24T10:00:00Z")
    graph = followed(change("create", "", WANTED), bound, asked, gone)
    assert graph.reaches("node0", "configmaps", "shop", "web-config") is None
    graph.now += 61
    assert graph.reaches("node0", "configmaps", "shop", "web-config") is False


def test_the_graph_outlives_a_restart() -> None:
    bound = change("create", "web-7c9f-abcde", {"target": {"name": "node0"}}, "binding")
    graph = followed(change("create", "", WANTED), bound, change("create", "", WANTED))
    graph.load(volume("pv1", "data", "of-pv", "shop"))
    graph.load(of_node("VolumeAttachment", "a", "node0"))
    again = NodeGraph()
    again.load(pod("stale", "node0", "shop", volumes=[config_map("db")]))
    again.restore(graph.snapshot()())
    assert (again.pods, again.volumes, again.attachments) == (graph.pods, graph.volumes, graph.attachments)
    assert again.snapshot()() == graph.snapshot()()
    assert again.reaches("node0", "configmaps", "shop", "web-config") is True


@pytest.mark.parametrize(
    "body", [[], 5, {"spec": 3}, {"kind": "Pod", "spec": {"volumes": [1, {"secret": []}], "containers": {}}}]
)
def test_no_pod_in_a_log_stops_the_graph(body: Any) -> None:
    graph = followed(change("create", "x", body), change("create", "x", body, "binding"))
    assert graph.reaches("node0", "secrets", "shop", "s") in (None, False)
