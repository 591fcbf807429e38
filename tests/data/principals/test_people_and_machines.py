"""Who is behind the user names that clouds, CI systems and proxies write into the log, and of which kind."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from data.actions.encoder import ActionEncoder, ActionSettings
from data.errors import KubehabitError
from data.events.decode import decode_lines
from data.paths import shipped
from data.principals.identity import Identity
from data.principals.ownership import CONTROLLERS
from tests.data.samples import event

RULES = shipped("identity.yaml")
IDENTITY = Identity(RULES)
ACCOUNT, SYSTEM = "system:serviceaccount:", "system:serviceaccount:kube-system:"
UUID = "0a1b2c3d-0000-4000-8000-00000000000"
#: Extra notes of EKS's authenticator about a session.
SESSION = "arn:aws:sts::111122223333:assumed-role/Admin/"
SSO = "arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Ops_0123456789abcdef/"


def actors(*lines: bytes, rules: Any = RULES) -> list[dict[str, str]]:
    """Who acted in each line, as the encoder has it, with the fields that depend on it."""
    decoded = decode_lines(lines)
    assert not decoded.dead
    encoder = ActionEncoder(ActionSettings(identity=rules))
    batch = encoder.encode(decoded.events)
    fields = ("impersonates", "code", "binding", "client", "place", "traits")
    return [
        {field: encoder.interners[field].values[batch.codes[field][row]] for field in fields}
        | {"name": batch.principals[code].name, "kind": batch.principals[code].kind}
        for row, code in enumerate(batch.principal.tolist())
    ]


@pytest.mark.parametrize(
    ("username", "name", "kind"),
    [
        # People
        (SSO + "vera@corp.example", "arn:aws:sso::111122223333:Ops/vera@corp.example", "human"),
        (SSO + "vera-corp.example", "arn:aws:sso::111122223333:Ops/vera-corp.example", "human"),
        (SSO + "vera.smith", "arn:aws:sso::111122223333:Ops/vera.smith", "human"),
        (
            SSO.replace("arn:aws:", "arn:aws-us-gov:") + "v_s+x",
            "arn:aws-us-gov:sso::111122223333:Ops/v_s+x",
            "human",
        ),
        (
            "principal://iam.googleapis.com/locations/global/workforcePools/staff/subject/vera@corp.example",
            "staff#vera@corp.example",
            "human",
        ),
        ("masterclient", "masterclient", "human"),
        ("kubernetes-admin", "kubernetes-admin", "human"),
        ("kube:admin", "kube:admin", "human"),
        ("gitlab:user:vera", "gitlab:user:vera", "human"),
        ("repo-owner@corp.example", "repo-owner@corp.example", "human"),
        ("eks-admin@corp.example", "eks-admin@corp.example", "human"),
        ("org/vera", "org/vera", "human"),
        # Machines of a cloud
        ("eks:node-manager", "eks:node-manager", "component"),
        ("eks:addon-manager", "eks:addon-manager", "component"),
        ("aksService", "aksService", "component"),
        ("nodeclient", "nodeclient", "component"),
        ("system:gke-controller-manager", "system:gke-controller-manager", "component"),
        (
            ACCOUNT + "openshift-etcd-operator:etcd-operator",
            ACCOUNT + "openshift-etcd-operator:etcd-operator",
            "controller",
        ),
        (
            ACCOUNT + "openshift-monitoring:prometheus-k8s",
            ACCOUNT + "openshift-monitoring:prometheus-k8s",
            "controller",
        ),
        ("system:openshift-controller-manager", "system:openshift-controller-manager", "component"),
        # What people installed on OpenShift is theirs.
        (
            ACCOUNT + "openshift-gitops:argocd-application-controller",
            ACCOUNT + "openshift-gitops:argocd-application-controller",
            "serviceaccount",
        ),
        (
            ACCOUNT + "openshift-operators:some-operator",
            ACCOUNT + "openshift-operators:some-operator",
            "serviceaccount",
        ),
        (
            ACCOUNT + "openshift-ingress:default",
            ACCOUNT + "openshift-ingress:default",
            "serviceaccount",
        ),
        # kube-system
        (SYSTEM + "deployment-controller", SYSTEM + "deployment-controller", "controller"),
        (SYSTEM + "generic-garbage-collector", SYSTEM + "generic-garbage-collector", "controller"),
        (SYSTEM + "coredns", SYSTEM + "coredns", "serviceaccount"),
        (SYSTEM + "cilium", SYSTEM + "cilium", "serviceaccount"),
        (SYSTEM + "metrics-server", SYSTEM + "metrics-server", "serviceaccount"),
        (SYSTEM + "my-controller", SYSTEM + "my-controller", "serviceaccount"),
        (SYSTEM + "default", SYSTEM + "default", "serviceaccount"),
        (SYSTEM + "job-x2x4z", SYSTEM + "job-*", "serviceaccount"),
        # Pipelines
        (
            "https://token.actions.githubusercontent.com#repo:corp/shop:ref:refs/heads/main",
            "repo:corp/shop:ref:refs/heads/main",
            "serviceaccount",
        ),
        ("github:repo:corp/shop:ref:refs/pull/4711/merge", "repo:corp/shop:ref:refs/pull/*", "serviceaccount"),
        ("repo:corp/shop:ref:refs/tags/v1.2.3", "repo:corp/shop:ref:refs/tags/*", "serviceaccount"),
        ("gha:repo:corp/shop:environment:prod", "repo:corp/shop:environment:prod", "serviceaccount"),
        ("repo:corp/shop:pull_request", "repo:corp/shop:pull_request", "serviceaccount"),
        (
            "https://gitlab.com#project_path:corp/sub/shop:ref_type:branch:ref:main",
            "project_path:corp/sub/shop:ref_type:branch:ref:main",
            "serviceaccount",
        ),
        (
            "gitlab:project_path:corp/shop:ref_type:tag:ref:v7",
            "project_path:corp/shop:ref_type:tag:ref:*",
            "serviceaccount",
        ),
        ("gitlab:ci_job:1234567", "gitlab:ci_job:*", "serviceaccount"),
        (
            "bk#organization:corp:pipeline:shop:ref:refs/heads/main:commit:9f86d081884c7d65:step:deploy",
            "organization:corp:pipeline:shop:*",
            "serviceaccount",
        ),
        (
            "organization:corp:project:Default:workspace:prod:run_phase:apply",
            "organization:corp:project:Default:workspace:prod:run_phase:apply",
            "serviceaccount",
        ),
        (
            f"https://oidc.circleci.com/org/{UUID}1#org/{UUID}1/project/{UUID}2/user/{UUID}3",
            f"org/{UUID}1/project/{UUID}2",
            "serviceaccount",
        ),
        (f"bitbucket:{{{UUID}1}}:{{{UUID}2}}", f"bitbucket:{{{UUID}1}}:*", "serviceaccount"),
        (
            f"bitbucket:{{{UUID}1}}:{{{UUID}2}}:{{{UUID}3}}",
            f"bitbucket:{{{UUID}1}}:{{{UUID}2}}:*",
            "serviceaccount",
        ),
        ("azdo#sc://corp/shop/prod-cluster", "sc://corp/shop/prod-cluster", "serviceaccount"),
        ("spacelift:space:root:stack:prod:run_type:TRACKED:scope:write", "space:root:stack:prod:scope:write", "serviceaccount"),
        (
            "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC#system:serviceaccount:ci:deployer",
            "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC#system:serviceaccount:ci:deployer",
            "serviceaccount",
        ),
        ("spiffe://corp.example/ns/shop/sa/web", "spiffe://corp.example/ns/shop/sa/web", "serviceaccount"),
        ("IAM#ServiceId-0a1b", "IAM#ServiceId-0a1b", "serviceaccount"),
        ("IAM#vera@corp.example", "IAM#vera@corp.example", "human"),
    ],
)  # fmt: skip
def test_every_user_name_is_the_right_principal_of_the_right_kind(
    username: str, name: str, kind: str
) -> None:
    found = IDENTITY.principal(username, ("system:authenticated",))
    assert (found.name, found.kind, found.groups[-1]) == (name, kind, f"kind:{kind}")


def test_the_controllers_of_the_rules_are_those_whose_objects_have_other_owners() -> None:
    (rule,) = [rule for rule in RULES["fold"] if rule["match"] == "(system:serviceaccount:kube-system:.+)"]
    assert all(re.fullmatch(rule["unless"], SYSTEM + name) for name in CONTROLLERS)
    alternatives = re.findall(r"[a-z][a-z-]+", rule["unless"].partition("kube-system:")[2])
    named = {name for name in alternatives if name != "controller" and not name.startswith("-")}
    assert named <= CONTROLLERS | {name.removesuffix("-controller") for name in CONTROLLERS} | {"-controller"}


@pytest.mark.parametrize(
    ("username", "extra", "name"),
    [
        ("kubernetes-admin", {"arn": [SESSION + "vera"], "sessionName": ["vera"]}, "kubernetes-admin/vera"),
        ("kubernetes-admin", {"arn": SESSION + "otto"}, "kubernetes-admin/otto"),
        ("admins", {"arn": [SSO + "vera@corp.example"]}, "arn:aws:sso::111122223333:Ops/vera@corp.example"),
        (
            "kubernetes-admin",
            {"arn": ["arn:aws:iam::111122223333:user/people/ines"]},
            "kubernetes-admin/ines",
        ),
        ("ci", {"arn": [SESSION + "botocore-session-1700000000"]}, "ci/botocore-session-*"),
        ("ci", {"arn": [SESSION + "1700000000123"]}, "ci/*"),
        ("ci", {"arn": [SESSION + "i-0123456789abcdef0"]}, "ci/i-*"),
        ("kubernetes-admin", {"sessionName": ["vera"]}, "kubernetes-admin/vera"),
        # The name holds the session already.
        ("admin:vera-corp.example", {"arn": [SESSION + "vera@corp.example"]}, "admin:vera-corp.example"),
        ("vera", {"sessionName": ["vera"]}, "vera"),
        (SESSION + "vera", {"arn": [SESSION + "vera"]}, "arn:aws:iam::111122223333:role/Admin"),
        (
            "system:node:ip-10-0-3-17.ec2.internal",
            {"arn": [SESSION + "i-0123456789abcdef0"]},
            "system:node:ip-10-0-3-17.ec2.internal",
        ),
        ("eks:node-manager", {"arn": [SESSION + "AmazonEKS"]}, "eks:node-manager"),
        # Nothing that tells people apart.
        ("kubernetes-admin", {"arn": []}, "kubernetes-admin"),
        ("kubernetes-admin", {"arn": None, "other": [1, {"a": 2}]}, "kubernetes-admin"),
        ("kubernetes-admin", None, "kubernetes-admin"),
        # Of another form than an API server's, which is no reason to lose the event.
        ("kubernetes-admin", {"arn": [1, None]}, "kubernetes-admin"),
        ("kubernetes-admin", {"arn": {"0": SESSION + "vera"}}, "kubernetes-admin"),
        ("kubernetes-admin", [{"key": "arn", "value": ["x"]}], "kubernetes-admin"),
        ("kubernetes-admin", "arn=x", "kubernetes-admin"),
        ("vera", {"authentication.kubernetes.io/credential-id": ["JTI=1"]}, "vera"),
    ],
)
def test_a_user_name_that_many_share_is_told_apart_by_its_session(
    username: str, extra: Any, name: str
) -> None:
    (found,) = actors(event(user={"username": username, "groups": [], "extra": extra}))
    assert found["name"] == name


PROXIES = [
    (ACCOUNT + "cattle-system:kontainer-engine", "Rancher"),
    (ACCOUNT + "cattle-impersonation-system:cattle-impersonation-u-4abc", "Rancher of today"),
    (ACCOUNT + "teleport-agent:teleport-kube-agent", "Teleport"),
    (ACCOUNT + "kube-oidc-proxy:kube-oidc-proxy", "kube-oidc-proxy"),
    (ACCOUNT + "openunison:openunison-orchestra", "OpenUnison"),
    (ACCOUNT + "pinniped-concierge:pinniped-concierge-impersonation-proxy", "Pinniped"),
    (ACCOUNT + "gke-connect:connect-agent-sa", "Connect gateway"),
]


def acting(proxy: str, person: str, **changes: Any) -> bytes:
    return event(
        user={"username": proxy, "groups": ["system:serviceaccounts"]},
        impersonatedUser={"username": person, "groups": ["payments", "system:authenticated"]},
        **changes,
    )


@pytest.mark.parametrize("proxy", [proxy for proxy, _ in PROXIES], ids=[name for _, name in PROXIES])
def test_behind_a_proxy_the_person_is_the_principal(proxy: str) -> None:
    (found,) = actors(acting(proxy, "vera"))
    assert (found["name"], found["kind"], found["impersonates"]) == ("vera", "human", "-")


@pytest.mark.parametrize(
    ("proxy", "person"),
    [
        (ACCOUNT + "shop:kontainer-engine", "vera"),  # the name alone makes no proxy
        (ACCOUNT + "cattle-system:default", "vera"),
        ("mallory@corp.example", "vera"),
        (PROXIES[0][0], "system:admin"),
        (PROXIES[0][0], ACCOUNT + "kube-system:deployment-controller"),
        (PROXIES[0][0], "system:anonymous"),
        (PROXIES[0][0], ""),
    ],
)
def test_all_other_impersonation_stays_what_it_is(proxy: str, person: str) -> None:
    (found,) = actors(acting(proxy, person))
    assert found["name"] == proxy
    assert found["impersonates"] == IDENTITY.fold(person or "system:anonymous")


def test_the_name_of_a_person_behind_a_proxy_is_folded_like_any_other() -> None:
    (found,) = actors(acting(PROXIES[0][0], "oidc:vera@corp.example"))
    assert found["name"] == "vera@corp.example"


def test_who_grants_herself_rights_through_a_proxy_is_seen() -> None:
    binding = {"kind": "RoleBinding", "roleRef": {"name": "admin"}, "subjects": [{"kind": "User", "name": "vera"}]}  # fmt: skip
    reference = {"resource": "rolebindings", "apiGroup": "rbac.authorization.k8s.io", "namespace": "shop"}
    (found,) = actors(
        acting(PROXIES[0][0], "vera", verb="create", objectRef=reference, requestObject=binding)
    )
    assert "subject=self" in found["traits"]


def test_settings_saved_before_know_neither_proxies_nor_shared_names_nor_log_ins() -> None:
    before = {key: RULES[key] for key in ("fold_nodes", "node_pools", "similar_from")} | {"fold": []}
    shared = {"username": "kubernetes-admin", "extra": {"arn": [SESSION + "vera"]}}
    lines = [acting(PROXIES[0][0], "vera"), event(auditID="2", user=shared), login("deny", auditID="3")]
    found = actors(*lines, rules=before)
    assert [one["name"] for one in found] == [PROXIES[0][0], "kubernetes-admin", "system:anonymous"]
    assert [one["impersonates"] for one in found] == ["vera", "-", "-"]
    assert [one["code"] for one in found] == ["ok"] * 3
    assert Identity(before).principal(SYSTEM + "coredns", ()).kind == "controller"


def login(decision: str, name: str = "vera", **changes: Any) -> bytes:
    """A log-in at OpenShift's oauth-server."""
    notes = {
        "authentication.openshift.io/decision": decision,
        "authentication.openshift.io/username": name,
        "authorization.k8s.io/decision": "allow",
        "authorization.k8s.io/reason": "",
    }
    line: dict[str, Any] = json.loads(event(verb="post", requestURI="/login/htpasswd?then=%2F", annotations=notes))  # fmt: skip
    del line["objectRef"]
    line["user"] = {"username": "system:anonymous", "groups": ["system:unauthenticated"]}
    return json.dumps(line | changes).encode()


def test_a_log_in_carries_the_user_and_the_decision() -> None:
    allowed, denied, failed = actors(login("allow"), login("deny", auditID="2"), login("error", auditID="3"))
    assert {one["name"] for one in (allowed, denied, failed)} == {"vera"}
    assert (allowed["code"], allowed["binding"], allowed["place"]) == ("ok", "-", "10.1.2.3")
    for one in (denied, failed):
        # Where a stranger tries a password must not become a habit of the user whose name was tried.
        assert (one["code"], one["binding"], one["place"], one["client"]) == ("401", "denied", "-", "-")


@pytest.mark.parametrize("name", ["system:node:node-1", "system:admin", ACCOUNT + "ci:deployer"])
def test_nobody_becomes_a_system_identity_by_trying_to_log_in_as_one(name: str) -> None:
    (found,) = actors(login("deny", name))
    assert (found["name"], found["kind"]) == ("system:anonymous", "anonymous")


def test_the_note_of_a_log_in_says_nothing_about_a_user_who_is_authenticated() -> None:
    (found,) = actors(login("allow", "otto", user={"username": "vera", "groups": []}))
    assert found["name"] == "vera"


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"proxies": {}}, "proxies in the identity settings must be a list"),
        ({"proxies": [{"why": "x"}]}, "needs `match`"),
        ({"proxies": [{"match": "a", "name": "b"}]}, "known keys: match, unless, why"),
        ({"proxies": [{"match": "(?=a)"}]}, "regular expression"),
        ({"shared_names": [{"match": "a", "name": "b"}]}, r"needs `extra` \(arn or sessionName\)"),
        ({"shared_names": [{"extra": "uid", "match": "a", "name": "b"}]}, "needs `extra`"),
        ({"oauth_logins": 1}, "oauth_logins in the identity settings must be true or false"),
    ],
)
def test_settings_that_cannot_be_used_are_a_sentence(rules: dict[str, Any], sentence: str) -> None:
    with pytest.raises(KubehabitError, match=sentence):
        Identity(rules)
