"""Only what Kubernetes itself names is kept of a vocabulary, and only what several clusters know."""

from __future__ import annotations

import pytest

from data.actions.fields import FIELDS, GAPS
from data.actions.vocabulary import SPECIALS, UNKNOWN, Vocabulary
from training.starter.general import is_general, shared_vocabulary


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resource", "pods"),
        ("resource", "pods/exec"),
        ("resource", "apps/deployments/scale"),
        ("resource", "networking.k8s.io/ingresses"),
        ("resource", "/apis/rbac.authorization.kNs.io/vN"),
        ("resource", "/healthz"),
        ("namespace", "kube-system"),
        ("client", "kubectl/?"),
        ("place", "private"),
        ("binding", "ClusterRoleBinding system:discovery"),
        ("binding", "RoleBinding ?"),
        ("traits", "containers=1,replicas=2"),
        ("traits", "containers,serviceAccount ?"),
        ("images", "-"),
        ("code", "403"),
    ],
)
def test_what_kubernetes_names_is_general(field: str, value: str) -> None:
    assert is_general(field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resource", "acme.io/widgets"),
        ("resource", "/apis/acme.io/vN"),
        ("namespace", "payments"),
        ("namespace", "team?"),
        ("name", "stripe-key"),
        ("name", "web?"),
        ("binding", "RoleBinding ?/payments"),
        ("client", "kubectl/1.20 linux"),
        ("place", "10.20.1.5"),
        ("place", "10.20.1.0/24"),
        ("binding", "RoleBinding dev-edit/payments"),
        ("traits", "containers=1,serviceAccount=pay"),
        ("traits", "metadata.labels.team"),
        ("images", "registry.corp.example/web/web"),
        ("images", "registry.corp.example/?"),
        ("owner", "alice@corp.example"),
    ],
)
def test_what_a_cluster_names_is_its_own(field: str, value: str) -> None:
    assert not is_general(field, value)


def _vocabulary(**values: list[str]) -> Vocabulary:
    tokens = {field: [*SPECIALS, *values.get(field, ())] for field in FIELDS}
    return Vocabulary(tokens | {"gap": [*SPECIALS, *GAPS]}, uses_hour=True)


def test_a_value_must_be_known_in_two_clusters() -> None:
    one, other = _vocabulary(verb=["get", "list", "proxy"]), _vocabulary(verb=["list", "get"])
    shared = shared_vocabulary([one, other])
    assert shared.tokens["verb"] == [*SPECIALS, "get", "list"]
    assert shared.token("verb", "proxy") == UNKNOWN
    assert shared.tokens["gap"] == one.tokens["gap"]
    assert not shared.uses_hour


def test_of_one_cluster_all_that_is_general_is_kept() -> None:
    assert shared_vocabulary([_vocabulary(namespace=["payments", "default"])]).tokens["namespace"][3:] == [
        "default"
    ]
