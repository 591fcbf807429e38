"""Body traits: each attack's body differs from the ordinary one."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given

from data.actions.body_traits import read_traits
from data.actions.body_values import magnitude
from data.actions.pod_traits import repository
from data.events.audit_event import MAX_TEXT
from tests.data.events.test_decode import JSON


def traits(resource: str, body: Any, verb: str = "create", actor: str = "dev-1") -> set[str]:
    return set(read_traits(verb, resource, "", actor, json.dumps(body).encode())[0].split(","))


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "a", "image": "registry.example/a:1"}], **spec}}


PRIVILEGED = {"securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}}, "image": "x"}


@pytest.mark.parametrize(
    ("resource", "wrap"),
    [
        ("pods", lambda spec: {"spec": spec}),
        ("deployments", lambda spec: {"spec": {"template": {"spec": spec}}}),
        ("daemonsets", lambda spec: {"spec": {"template": {"spec": spec}}}),
        ("jobs", lambda spec: {"spec": {"template": {"spec": spec}}}),
        ("cronjobs", lambda spec: {"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}),
    ],
)
def test_a_pod_template_is_read_wherever_it_stands(resource: str, wrap) -> None:  # type: ignore[no-untyped-def]
    spec = {
        "containers": [PRIVILEGED],
        "hostPID": True,
        "volumes": [{"hostPath": {"path": "/etc/kubernetes"}}],
    }
    assert {"privileged", "hostPID", "cap=SYS_ADMIN", "hostPath=/etc"} <= traits(resource, wrap(spec))


@pytest.mark.parametrize(
    ("resource", "body", "expected"),
    [
        ("services", {"spec": {"externalIPs": ["8.8.8.8"]}}, "externalIPs"),
        ("services", {"spec": {"type": "NodePort"}}, "type=NodePort"),
        ("clusterroles", {"rules": [{"verbs": ["escalate"], "resources": ["roles"]}]}, "verb=escalate"),
        ("roles", {"rules": [{"verbs": ["*"], "resources": ["*"]}]}, "resource=*"),
        ("roles", {"rules": [{"verbs": ["get"], "resources": ["secrets"]}]}, "resource=secrets"),
        (
            "rolebindings",
            {"roleRef": {"name": "admin"}, "subjects": [{"kind": "User", "name": "dev-1"}]},
            "subject=self",
        ),
        ("clusterrolebindings", {"roleRef": {"name": "cluster-admin"}, "subjects": []}, "role=cluster-admin"),
        (
            "mutatingwebhookconfigurations",
            {"webhooks": [{"clientConfig": {"url": "https://x"}}]},
            "webhookURL",
        ),
        ("horizontalpodautoscalers", {"spec": {"maxReplicas": 200}}, "maxReplicas=128"),
        (
            "certificatesigningrequests",
            {"spec": {"signerName": "s/kube-apiserver-client"}},
            "signer=s/kube-apiserver-client",
        ),
        (
            "pods",
            pod(serviceAccountName="argocd-application-controller"),
            "serviceAccount=argocd-application-controller",
        ),
        ("pods", {"spec": {"containers": [{"envFrom": [{"secretRef": {"name": "x"}}]}]}}, "envSecret"),
    ],
)
def test_what_an_attacker_asks_for_shows(resource: str, body: dict[str, Any], expected: str) -> None:
    assert expected in traits(resource, body)


CSR_DER = (
    # SEQUENCE ... SET { SEQUENCE { 2.5.4.10, "system:masters" } } SET { SEQUENCE { 2.5.4.3, "kubernetes-admin" } }
    b"\x30\x82\x00\x00\x31\x17\x30\x15\x06\x03\x55\x04\x0a\x13\x0esystem:masters"
    b"\x31\x19\x30\x17\x06\x03\x55\x04\x03\x13\x10kubernetes-admin\xff\x00"
)


def request(der: bytes) -> str:
    """A certificate request as a CSR object holds it: PEM, base64 once more."""
    pem = base64.encodebytes(der)
    return base64.b64encode(
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + pem + b"-----END CERTIFICATE REQUEST-----\n"
    ).decode()


SIGNER = "kubernetes.io/kube-apiserver-client"


@pytest.mark.parametrize(
    ("resource", "body", "expected"),
    [
        ("nodes", {"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}, {"taint=NoExecute"}),
        ("nodes", {"spec": {"unschedulable": False}}, {"schedulable"}),
        (
            "namespaces",
            {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}},
            {"podSecurity=enforce:privileged"},
        ),
        ("clusterroles", {"aggregationRule": {"clusterRoleSelectors": []}}, {"aggregationRule"}),
        (
            "clusterroles",
            {"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}}},
            {"aggregateTo=admin"},
        ),
        ("roles", {"rules": [{"nonResourceURLs": ["*"], "verbs": ["get"]}]}, {"nonResourceURLs"}),
        (
            "certificatesigningrequests",
            {"spec": {"request": request(CSR_DER), "signerName": SIGNER, "usages": ["client auth"]}},
            {"csrGroup=system:masters", "csrUser=other", f"signer={SIGNER}", "usage=client auth"},
        ),
        (
            "certificatesigningrequests",
            {"status": {"conditions": [{"type": "Approved", "status": "True"}]}},
            {"approved"},
        ),
        ("ingresses", {"spec": {"rules": [{"host": "pay.example"}]}}, {"noTLS", "host=pay.example"}),
        ("ingresses", {"spec": {"rules": [{"host": "*.example"}], "tls": [{}]}}, {"wildcardHost"}),
        (
            "ingresses",
            {"metadata": {"annotations": {"nginx.ingress.kubernetes.io/server-snippet": "x"}}},
            {"snippet"},
        ),
        (
            "networkpolicies",
            {"spec": {"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]}},
            {"selectsAll", "allowsAll=ingress"},
        ),
        (
            "networkpolicies",
            {
                "spec": {
                    "podSelector": {"matchLabels": {}},
                    "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}],
                }
            },
            {"allowsAll=egress"},
        ),
        (
            "networkpolicies",
            {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
            {"denies=ingress", "selectsAll"},
        ),
        ("persistentvolumes", {"spec": {"hostPath": {"path": "/var/lib/kubelet"}}}, {"hostPath=/var"}),
        ("persistentvolumes", {"spec": {"csi": {"driver": "ebs.csi.aws.com"}}}, {"csi=ebs.csi.aws.com"}),
        (
            "persistentvolumeclaims",
            {"spec": {"dataSource": {"kind": "VolumeSnapshot"}}},
            {"dataSource=VolumeSnapshot"},
        ),
        ("volumesnapshots", {"spec": {"source": {"persistentVolumeClaimName": "db"}}}, {"snapshotOf=db"}),
        ("resourcequotas", {"spec": {"hard": {"cpu": "500", "memory": "4Gi"}}}, {"hard.cpu=256"}),
        (
            "serviceaccounts",
            {"metadata": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}}},
            {"cloudIdentity"},
        ),
        ("selfsubjectrulesreviews", {"spec": {"namespace": "web"}}, {"asks=everything"}),
        (
            "apiservices",
            {"spec": {"service": {"namespace": "evil"}, "insecureSkipTLSVerify": True}},
            {"service=evil", "insecureSkipTLSVerify"},
        ),
        (
            "customresourcedefinitions",
            {"spec": {"scope": "Cluster", "conversion": {"strategy": "Webhook"}}},
            {"conversionWebhook", "scope=Cluster"},
        ),
        (
            "podsecuritypolicies",
            {"spec": {"privileged": True, "allowedCapabilities": ["*"]}},
            {"privileged", "cap=*"},
        ),
        ("validatingadmissionpolicybindings", {"spec": {"validationActions": ["Audit"]}}, {"action=Audit"}),
        ("priorityclasses", {"value": 1_000_000, "globalDefault": True}, {"globalDefault", "value=524288"}),
        ("services", {"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.10"}]}}}, {"loadBalancerIP"}),
        ("endpointslices", {"endpoints": [{"addresses": ["10.1.2.3"]}]}, {"addresses=1"}),
        ("endpoints", {"subsets": [{"addresses": [{"ip": "10.1.2.3"}]}]}, {"addresses=1"}),
    ],
)
def test_every_kind_of_body_says_what_matters(
    resource: str, body: dict[str, Any], expected: set[str]
) -> None:
    assert expected <= traits(resource, body)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"securityContext": {"runAsUser": 0}}, "runAsRoot"),
        ({"containers": [{"securityContext": {"runAsUser": 0}}]}, "runAsRoot"),
        (
            {"containers": [{"securityContext": {"allowPrivilegeEscalation": True}}]},
            "allowPrivilegeEscalation",
        ),
        (
            {"containers": [{"securityContext": {"seccompProfile": {"type": "Unconfined"}}}]},
            "seccompProfile=Unconfined",
        ),
        ({"automountServiceAccountToken": True}, "automountToken"),
        ({"tolerations": [{"operator": "Exists"}]}, "toleratesAll"),
        ({"tolerations": [{"key": "node-role.kubernetes.io/control-plane"}]}, "toleratesControlPlane"),
        ({"nodeSelector": {"node-role.kubernetes.io/master": ""}}, "onControlPlane"),
        ({"priorityClassName": "system-node-critical"}, "priorityClass=system-node-critical"),
        ({"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]}, "limit=nvidia.com/gpu"),
        ({"containers": [{"resources": {"requests": {"cpu": "7500m"}}}]}, "cpu=4"),
        ({"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]}, "env=2"),
        ({"containers": [{"command": ["/bin/sh", "-c", "x"]}]}, "command=sh"),
        ({"containers": [{"command": ["/opt/secret-name"]}]}, "command"),
        ({"ephemeralContainers": [{"targetContainerName": "app"}]}, "targetContainer"),
        ({"volumes": [{"projected": {"sources": [{"secret": {"name": "x"}}]}}]}, "secretVolume"),
        (
            {"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]},
            "tokenAudience=vault",
        ),
        ({"imagePullSecrets": [{"name": "x"}]}, "pullSecret"),
    ],
)
def test_what_a_pod_asks_for_shows(spec: dict[str, Any], expected: str) -> None:
    assert expected in traits("pods", {"spec": spec})
    assert expected in traits("podtemplates", {"template": {"spec": spec}})
    inside = {"spec": {"workers": [{"podTemplate": {"spec": {"containers": [], **spec}}}]}}
    assert expected in traits("sparkapplications", inside)


def test_a_token_request_says_for_how_long_and_for_whom() -> None:
    body = {"spec": {"expirationSeconds": 360_000, "audiences": ["vault"]}}
    found = read_traits("create", "serviceaccounts", "token", "dev-1", json.dumps(body).encode())[0]
    assert set(found.split(",")) == {"audience=vault", "hours=64", "unbound"}


def test_a_node_that_another_account_redirects_shows_and_its_own_reports_do_not() -> None:
    body = json.dumps(
        {
            "status": {
                "addresses": [{"address": "1.2.3.4"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}},
            }
        }
    ).encode()
    assert "nodeAddresses" in read_traits("patch", "nodes", "status", "dev-1", body)[0]
    assert read_traits("patch", "nodes", "status", "system:node:node-1", body)[0] == "-"


def test_of_a_secret_only_its_kind_becomes_a_trait() -> None:
    body = {"type": "kubernetes.io/service-account-token", "data": {"a": "b"}}
    assert traits("secrets", body) == {"secret=serviceAccountToken"}
    assert traits("secrets", {"type": "anything-at-all", "data": {}}) == {"-"}


def test_removals_and_directives_of_a_patch_show() -> None:
    body = {
        "metadata": {"finalizers": None, "labels": {"policy.example/enforce": None}},
        "spec": {"template": {"spec": {"containers": [{"name": "guard", "$patch": "delete"}]}}},
    }
    assert {"-metadata.finalizers", "-metadata.labels.policy.example", "$patch=delete"} <= traits(
        "deployments", body, "patch"
    )


def test_server_side_apply_is_read_as_the_object_it_is() -> None:
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"hostPID": True}}}}
    assert traits("deployments", body, "patch") == {"apply", "hostPID", "spec.template"}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("/spec/template/spec/containers/0/securityContext/privileged", True, "privileged"),
        ("/spec/template/spec/hostPID", True, "hostPID"),
        ("/spec/template/spec/containers/0/securityContext/capabilities/add/-", "SYS_ADMIN", "cap=SYS_ADMIN"),
        ("/spec/template/spec/volumes/-", {"hostPath": {"path": "/etc"}}, "hostPath=/etc"),
        ("/spec/replicas", 40, "replicas=32"),
        ("", {"spec": {"template": {"spec": {"hostIPC": True}}}}, "hostIPC"),
    ],
)
def test_a_json_patch_says_the_same_wherever_it_enters(path: str, value: Any, expected: str) -> None:
    assert expected in traits("deployments", [{"op": "add", "path": path, "value": value}], "patch")


def test_a_certificate_request_of_any_size_is_read_in_bounded_time() -> None:
    for blob in ("A" * 10_000_000, "!" * 1000, base64.b64encode(b"\x06\x03\x55\x04" * 3000).decode()):
        assert read_traits(
            "create", "certificatesigningrequests", "", "x", json.dumps({"spec": {"request": blob}}).encode()
        )


def test_a_sidecar_shows_in_the_number_of_containers() -> None:
    one = {"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}
    two = {"spec": {"template": {"spec": {"containers": [{"image": "a"}, {"image": "b"}]}}}}
    assert traits("deployments", one, "patch") ^ traits("deployments", two, "patch") == {
        "containers=1",
        "containers=2",
    }


def test_a_json_patch_is_read_like_an_object() -> None:
    patch = [
        {"op": "add", "path": "/spec/template/spec/containers/1", "value": {"image": "x"}},
        {"op": "add", "path": "/rules/0"},
    ]
    assert traits("deployments", patch, "patch") == {
        "add spec.template.spec.containers",
        "add rules",
        "containers=1",
    }


def test_patched_paths_are_named_without_their_values() -> None:
    body = {
        "spec": {
            "template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-05"}}}
        }
    }
    assert traits("deployments", body, "patch") == {
        "spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt"
    }


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("ghcr.io/x/agent:1", "ghcr.io/x/agent"),
        ("host:5000/a/b@sha256:ff", "host:5000/a/b"),
        ("host:5000/a/b:v1", "host:5000/a/b"),
        ("nginx", "nginx"),
        (None, "?"),
    ],
)
def test_images_lose_tag_and_digest(image: Any, name: str) -> None:
    assert repository(image) == name


def test_counts_are_alike_within_a_power_of_two() -> None:
    assert [magnitude(n) for n in (0, 1, 3, 4, 200, "x", True)] == ["0", "1", "2", "4", "128", "?", "?"]


KINDS = (
    *(
        "pods",
        "deployments",
        "roles",
        "rolebindings",
        "services",
        "mutatingwebhookconfigurations",
        "cronjobs",
    ),
    *("ingresses", "networkpolicies", "persistentvolumes", "volumesnapshots", "certificatesigningrequests"),
    *("namespaces", "nodes", "resourcequotas", "serviceaccounts", "selfsubjectaccessreviews", "apiservices"),
    *(
        "customresourcedefinitions",
        "podsecuritypolicies",
        "priorityclasses",
        "endpointslices",
        "widgets",
        "secrets",
    ),
)


@given(JSON)
def test_no_body_crashes_the_reader(body: object) -> None:
    for resource in KINDS:
        for verb in ("create", "patch", "delete"):
            assert read_traits(verb, resource, "", "x", json.dumps(body).encode())[0]


@pytest.mark.parametrize(
    "image",
    [
        *(
            "nginx",
            "nginx:1",
            "a.example:5000/x/nginx",
            "a.example:5000/x/nginx:1.2@sha256:0f",
            "x/y@sha256:0/f",
        ),
        *("", ":1", "/:1", "a/:1", "a:b/c:d", "@", 'q"q:1', "\\:1"),
    ],
)
@pytest.mark.parametrize("resource", ["pods", "deployments", "jobs"])
def test_a_pod_known_by_its_spec_reads_like_one_read_for_the_first_time(image: str, resource: str) -> None:
    spec = {
        "containers": [{"name": "a", "image": image, "env": [{"name": "a", "value": '"image":"b:1"'}]}],
        "hostPID": True,
    }
    written = {"spec": spec} if resource == "pods" else {"spec": {"replicas": 3, "template": {"spec": spec}}}
    compact = json.dumps(written, separators=(",", ":")).encode()
    loose = json.dumps(written, indent=1).encode()
    assert read_traits("create", resource, "", "a", compact) == read_traits(
        "update", resource, "", "a", loose
    )
    assert read_traits("create", resource, "", "a", compact)[1] == repository(image)


def test_a_pod_known_by_its_spec_is_distinguished_from_others() -> None:
    for replicas in (1, 8):
        found = traits("deployments", {"spec": {"replicas": replicas, "template": pod()}})
        assert f"replicas={replicas}" in found
        assert "hostPID" not in found
    assert "hostPID" in traits("deployments", {"spec": {"template": pod(hostPID=True)}})
    assert traits("deployments", {"spec": {"replicas": [], "template": {"spec": 7}}}) == {"replicas=?"}
    assert traits("pods", {"spec": {}, "hostPID": True}) == {"hostPID"}


@pytest.mark.parametrize("number", ["1.7e308", "-1.7e308", "1e400", "9" * 4000])
def test_no_number_in_a_body_is_too_large(number: str) -> None:
    pod = '{"spec":{"containers":[{"resources":{"limits":{"cpu":0}}},{"resources":{"limits":{"cpu":0}}}]}}'
    quota = '{"spec":{"hard":{"pods":0},"expirationSeconds":0,"replicas":0}}'
    for resource, body in (("pods", pod), ("resourcequotas", quota), ("certificatesigningrequests", quota)):
        for subresource in ("", "token"):
            assert read_traits("create", resource, subresource, "u", body.replace("0", number).encode())


def test_traits_and_images_are_bounded() -> None:
    images = [{"image": "registry.example/" + "x" * 100_000 + str(number)} for number in range(20)]
    ports = {f"example.com/{'y' * 50}{number}": 1 for number in range(2000)}
    body = {"spec": {"containers": [*images, {"resources": {"limits": ports}}]}}
    for found in read_traits("create", "pods", "", "u", json.dumps(body).encode()):
        assert len(found) <= MAX_TEXT
