"""Who can become whom, held to what other projects prove on real clusters, as facts in tables of our own.

From KubeHound (`test-cluster/attacks/*.yaml` with `graph_edge_test.go`: the edges of rights), rbac-police (`lib/*.rego`: the
rights that lead to an account or to everything), kubescape (`rbacgraph/parity/testdata` and `closure_test.go`) and rbac-tool
(`testdata/whocan`, `testdata/policyrules`). docs/rbac.md says what is left out, and why.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.authorization.authorizer import Authorizer
from detection.authorization.escalation import ADMIN, NODE, Escalation, RightsHolder
from detection.authorization.escalation_check import may_bind, may_write_role
from detection.authorization.files import read_rbac
from detection.authorization.powers import powers_of
from detection.authorization.rbac import API_GROUP, ObjectKey, Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.rules import PolicyRule
from detection.authorization.subjects import subjects_who_may
from tests.detection.authorization.test_rbac import RECORDINGS

_ME = "system:serviceaccount:lab:me"
_MY_GROUPS = ("system:serviceaccounts", "system:serviceaccounts:lab", "system:authenticated")
_SHORT = {"rbac": API_GROUP, "csr": "certificates.k8s.io", "hooks": "admissionregistration.k8s.io", ".": ""}


def rule(text: str) -> dict[str, list[str]]:
    """`verbs group:resources names`, each separated by commas: `get,list .:secrets`, `bind rbac:clusterroles x`."""
    verbs, what, *names = text.split()
    group, _, resources = what.partition(":")
    found = {
        "verbs": verbs.split(","),
        "apiGroups": [_SHORT.get(group, group)],
        "resources": resources.split(","),
    }
    return found | ({"resourceNames": names[0].split(",")} if names else {})


def objects(*grants: str) -> list[dict[str, Any]]:
    """Bindings with a role each, as `WHERE: WHO: rule; rule`; `*` is the whole cluster, and `ns/` a Role of a namespace."""
    found = []
    for number, grant in enumerate(grants):
        where, who, rules = (part.strip() for part in grant.split(": ", 2))
        local = where.endswith("/")
        where = where.rstrip("/*")
        role: dict[str, Any] = {
            "kind": "Role" if local else "ClusterRole",
            "metadata": {"name": f"r{number}", "namespace": where if local else ""},
            "rules": [rule(one) for one in rules.split("; ")],
        }
        binding = {
            "kind": "RoleBinding" if where else "ClusterRoleBinding",
            "metadata": {"name": f"b{number}", "namespace": where},
            "roleRef": {"kind": role["kind"], "name": f"r{number}"},
            "subjects": [subject(one) for one in who.split(",")],
        }
        found += [role, binding]
    return found


def subject(name: str) -> dict[str, str]:
    if name == "me":
        return {"kind": "ServiceAccount", "name": "me", "namespace": "lab"}
    if name.startswith("@"):
        return {"kind": "Group", "name": name[1:]}
    namespace, slash, account = name.partition("/")
    if slash:
        return {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    return {"kind": "User", "name": name}


def account(name: str) -> RightsHolder:
    return RightsHolder("user", "system:serviceaccount:" + name.replace("/", ":"))


def reached(
    *grants: str, more: tuple[dict[str, Any], ...] = (), most: int = 4, **known: Any
) -> dict[RightsHolder, Any]:
    return Escalation(Rbac([*objects(*grants), *more]), **known).paths(_ME, _MY_GROUPS, most=most)


#: An account beside, one elsewhere, and one that may do everything.
_OTHERS = ("lab: lab/other: get .:configmaps", "web: web/other: get .:configmaps")
_BOTH = {account("lab/other"), account("web/other")}
_HERE = {account("lab/other")}

#: What, whom it reaches in one step, source.
EDGES = [
    # KubeHound
    ("lab/: me: get,list,create *:pods", {*_HERE, NODE}, "POD_CREATE"),
    ("lab/: me: get,list .:pods,pods/log; create .:pods/exec", _HERE, "POD_EXEC"),
    ("lab/: me: get,list,patch *:pods", _HERE, "POD_PATCH"),
    ("lab/: me: get .:secrets", _HERE, "TOKEN_BRUTEFORCE"),
    ("lab/: me: list .:secrets", _HERE, "TOKEN_LIST"),
    ("*: me: create rbac:clusterrolebindings; bind rbac:clusterroles", {ADMIN}, "ROLE_BIND crb-cr-crb-cr"),
    ("*: me: create rbac:rolebindings; bind rbac:clusterroles", "every", "ROLE_BIND crb-cr-rb-cr"),
    ("*: me: create rbac:clusterrolebindings; bind rbac:roles", set(), "ROLE_BIND crb-cr-crb-r-fail"),
    ("*: me: create rbac:rolebindings; bind rbac:roles", "role", "ROLE_BIND crb-cr-rb-r"),
    (
        "lab: me: create rbac:clusterrolebindings; bind rbac:clusterroles",
        set(),
        "ROLE_BIND rb-cr-crb-cr-fail",
    ),
    ("lab: me: create rbac:rolebindings; bind rbac:clusterroles", "lab", "ROLE_BIND rb-cr-rb-cr"),
    ("lab: me: create rbac:rolebindings; bind rbac:roles", "role", "ROLE_BIND rb-cr-rb-r"),
    ("lab/: me: create rbac:rolebindings; bind rbac:roles", "role", "ROLE_BIND rb-r-rb-r"),
    (
        "lab/: me: create rbac:clusterrolebindings; bind rbac:clusterroles",
        set(),
        "ROLE_BIND rb-r-crb-cr-fail",
    ),
    ("lab/: me: create rbac:rolebindings; bind rbac:clusterrolebindings", set(), "ROLE_BIND rb-r-rb-crb"),
    ("lab/: me: impersonate *:users,groups", set(), "IDENTITY_IMPERSONATE in a namespace"),
    ("lab/: me: get,list .:pods/log", set(), "no edge of rights from reading logs"),
    # rbac-police
    (
        "*: me: create csr:certificatesigningrequests; update csr:certificatesigningrequests/approval; approve csr:signers",
        {ADMIN, NODE},
        "approve_csrs",
    ),
    (
        "*: me: update csr:certificatesigningrequests/approval; approve csr:signers",
        set(),
        "approve_csrs, none to approve",
    ),
    (
        "lab: me: create csr:certificatesigningrequests; update csr:certificatesigningrequests/approval; approve csr:signers",
        set(),
        "approve_csrs in a namespace",
    ),
    ("lab: me: create apps:deployments", {*_HERE, NODE}, "assign_sa by a deployment"),
    ("lab: me: update apps:daemonsets", {*_HERE, NODE}, "assign_sa by an update"),
    ("lab: me: patch batch:cronjobs", {*_HERE, NODE}, "assign_sa by a cron job"),
    ("lab: me: create .:replicationcontrollers", {*_HERE, NODE}, "assign_sa by a replication controller"),
    ("lab: me: update .:deployments", set(), "assign_sa of another group"),
    ("*: me: * *:*", {ADMIN}, "cluster_admin"),
    ("lab: me: * *:*", {*_HERE, NODE, "lab"}, "cluster_admin in a namespace"),
    ("*: me: create hooks:mutatingwebhookconfigurations", {ADMIN}, "control_webhooks"),
    ("*: me: patch hooks:mutatingwebhookconfigurations", {ADMIN}, "control_webhooks by a patch"),
    ("*: me: patch hooks:validatingwebhookconfigurations", set(), "control_webhooks that only see"),
    ("*: me: escalate,update rbac:clusterroles", {ADMIN}, "escalate_roles"),
    ("*: me: impersonate .:users", set(), "impersonate where no user has rights"),
    ("*: me: impersonate .:serviceaccounts", _BOTH, "impersonate accounts"),
    ("*: me: list .:secrets", _BOTH, "list_secrets"),
    ("*: me: update .:nodes/status", set(), "modify_node_status moves pods, and is no account"),
    ("lab: me: update .:pods/status", set(), "modify_pod_status redirects, and is no account"),
    ("lab: me: update .:pods", _HERE, "modify_pods"),
    ("lab: me: update .:pods web-0", set(), "modify_pods of one pod"),
    ("*: me: create .:nodes/proxy", {ADMIN}, "nodes_proxy"),
    ("*: me: create .:*/proxy", {ADMIN}, "nodes_proxy by a wildcard"),
    ("lab: me: create .:nodes/proxy", set(), "nodes_proxy in a namespace"),
    ("lab: me: patch .:pods/ephemeralcontainers", _HERE, "pods_ephemeral_ctrs"),
    ("*: me: create .:pods/exec", _BOTH, "pods_exec"),
    ("lab: me: create .:pods/exec web-0", set(), "pods_exec into one pod"),
    ("lab: me: get .:secrets db", set(), "retrieve_token_secrets of one secret"),
    ("lab: me: create .:serviceaccounts/token", _HERE, "token_request"),
    ("lab: me: create .:*/token", _HERE, "token_request by a wildcard"),
    # kubescape
    ("lab: me: create .:*/status", set(), "parity: wildcard-subresource-token, another subresource"),
    (
        "*: me: create .:serviceaccounts/token other",
        _BOTH,
        "closure: token of a named account in every namespace",
    ),
    ("*: me: impersonate .:serviceaccounts other", _BOTH, "closure: a named account"),
    ("*: me: impersonate .:serviceaccounts nobody", set(), "closure: an account that is not there"),
    ("*: me: escalate rbac:clusterroles", set(), "closure: escalate without update"),
    ("lab: me: bind rbac:roles", set(), "closure: bind without create"),
    ("*: me: create .:pods", {*_BOTH, NODE}, "closure: create pods, never oneself"),
    (
        "*: me: create rbac:clusterrolebindings; bind rbac:clusterroles cluster-admin",
        {ADMIN},
        "closure: bind by name",
    ),
    (
        "*: me: create rbac:clusterrolebindings; bind rbac:clusterroles view",
        set(),
        "closure: bind of a harmless role",
    ),
]
_IDS = [what for _, _, what in EDGES]


@pytest.mark.parametrize(("grant", "expected", "what"), EDGES, ids=_IDS)
def test_every_edge_that_others_prove_and_none_that_they_refute(grant: str, expected: Any, what: str) -> None:
    strong = {"kind": "Role", "metadata": {"name": "strong", "namespace": "lab"}, "rules": [rule("* *:*")]}
    found = set(reached(grant, *_OTHERS, more=(strong,), most=1))
    admin_of = {
        "lab": RightsHolder("role", "everything in lab"),
        "role": RightsHolder("role", "everything in lab"),
    }
    admin_of["every"] = RightsHolder("role", "everything in every namespace")
    if isinstance(expected, str):
        assert found == {admin_of[expected]}
    else:
        assert found == {admin_of.get(one, one) for one in expected}


def test_steps_follow_each_other() -> None:
    """From closure_test.go: one account, who may bind, and so everything."""
    found = reached(
        "*: me: impersonate .:serviceaccounts middle",
        "*: lab/middle: bind rbac:clusterroles cluster-admin; create rbac:clusterrolebindings",
    )
    assert [one.end for one in found[ADMIN]] == [account("lab/middle"), ADMIN]
    assert all(one.end == other.start for one, other in pairwise(found[ADMIN]))
    assert reached("*: nobody: * *:*") == {}


def test_a_role_of_everybody_is_a_role_of_each_account() -> None:
    assert ADMIN in reached("*: @system:serviceaccounts: * *:*")
    assert ADMIN in reached("*: @system:serviceaccounts:lab: * *:*")
    assert ADMIN not in reached("*: @system:serviceaccounts:web: * *:*")


def test_people_are_acted_as_by_name_and_groups_only_together_with_a_user() -> None:
    others = ("*: root: * *:*", "*: @admins: * *:*")
    assert ADMIN in reached("*: me: impersonate .:users", *others, most=2)
    assert set(reached("*: me: impersonate .:users root", *others, most=1)) == {RightsHolder("user", "root")}
    assert reached("*: me: impersonate .:groups", *others) == {}
    found = reached("*: me: impersonate .:users,groups admins,me", *others)
    assert [one.end for one in found[ADMIN]] == [RightsHolder("group", "admins"), ADMIN]
    masters = reached("*: me: impersonate .:users,groups", most=1)
    assert "system:masters" in masters[ADMIN][0].how


def test_a_node_has_the_tokens_of_the_pods_that_run_on_it() -> None:
    grants = ("lab: me: create .:pods", "*: web/operator: * *:*")
    assert ADMIN not in reached(*grants)
    found = reached(*grants, on_nodes=["system:serviceaccount:web:operator"])
    assert [one.end for one in found[ADMIN]] == [NODE, account("web/operator"), ADMIN]


def test_a_role_is_widened_only_by_who_may_change_it_and_has_it() -> None:
    # An aggregated role that one has gathers what one creates.
    gathers = {"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}]}
    mine = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "mine"},
        "roleRef": {"kind": "ClusterRole", "name": "all"},
        "subjects": [subject("me")],
    }
    every = {"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": [], "aggregationRule": gathers}
    creates = "*: me: escalate,create rbac:clusterroles"
    assert ADMIN in reached(creates, more=(every, mine))
    assert reached(creates) == {}
    assert reached("*: me: escalate,update rbac:clusterroles another") == {}
    assert set(reached("lab/: me: escalate,patch rbac:roles r0", most=1)) == {
        RightsHolder("role", "everything in lab")
    }
    assert set(reached("lab: me: escalate,patch rbac:roles", most=1)) == set()


def test_a_binding_whose_subjects_can_be_changed_gives_its_role_and_no_other() -> None:
    change = "*: me: bind rbac:clusterroles; patch rbac:clusterrolebindings"
    assert reached(change) == {}
    found = reached(change, "*: root: * *:*")
    assert [one.how for one in found[ADMIN]] == ["binds any role to itself"]
    assert reached(change + " b0", "*: root: * *:*") == {}


@pytest.mark.parametrize(
    ("grants", "namespace", "expected"),
    [
        (("lab: me: bind rbac:clusterroles", "*: me: create rbac:clusterrolebindings"), "", False),
        (("lab: me: bind rbac:clusterroles", "web: me: create rbac:rolebindings"), "web", False),
        (("*: me: bind rbac:clusterroles", "*: me: create rbac:clusterrolebindings"), "", True),
        (("lab: me: bind rbac:clusterroles", "*: me: create rbac:rolebindings"), "lab", True),
        (("lab: me: bind rbac:clusterroles", "*: me: create rbac:rolebindings"), "web", False),
        (("*: me: create rbac:clusterrolebindings",), "", False),
        (("*: me: bind rbac:clusterroles",), "", False),
        # What one has already may be passed on.
        (("*: me: create rbac:clusterrolebindings; * widgets.example:widgets",), "", True),
        (("lab: me: * widgets.example:widgets", "*: me: create rbac:clusterrolebindings"), "", False),
        (("lab: me: create rbac:rolebindings; * widgets.example:widgets",), "lab", True),
    ],
)
def test_a_role_is_bound_by_who_may_or_has_it(
    grants: tuple[str, ...], namespace: str, expected: bool
) -> None:
    """kubescape's parity data `namespaced-bind-scope`, whose answers were checked against a real API server."""
    widgets = {
        "kind": "ClusterRole",
        "metadata": {"name": "widgets"},
        "rules": [rule("* widgets.example:widgets")],
    }
    rbac = Rbac([*objects(*grants), widgets])
    role = ObjectKey("clusterroles", "", "widgets")
    assert may_bind(Authorizer(rbac), _ME, _MY_GROUPS, role, namespace) is expected


@pytest.mark.parametrize(
    ("grants", "verb", "expected"),
    [
        (("*: me: escalate rbac:roles", "lab: me: get,update rbac:roles"), "update", True),
        (("lab: me: escalate rbac:roles", "*: me: get,update rbac:roles"), "update", True),
        (("*: me: escalate rbac:roles", "lab: me: get,patch rbac:roles"), "patch", True),
        (("lab: me: escalate rbac:roles", "lab: me: get,update rbac:roles"), "update", True),
        (("lab: me: get,update rbac:roles",), "update", False),
        (("*: me: escalate rbac:roles", "web: me: get,update rbac:roles"), "update", False),
        (("lab: me: escalate,update rbac:roles missing",), "update", False),
        (("*: me: escalate,update rbac:roles missing",), "update", False),
        (("lab: me: escalate,update rbac:roles editable",), "update", True),
        (("lab: me: update rbac:roles; list .:secrets",), "update", True),
    ],
)
def test_a_role_is_widened_by_who_may_or_has_it(grants: tuple[str, ...], verb: str, expected: bool) -> None:
    """kubescape's parity data `split-scope-escalate` and `escalate-resource-names`."""
    role = ObjectKey("roles", "lab", "editable")
    rbac = Rbac(objects(*grants))
    wanted = (PolicyRule(("list",), ("",), ("secrets",)),)
    assert may_write_role(Authorizer(rbac), _ME, _MY_GROUPS, role, verb, wanted) is expected


def test_an_account_is_meant_by_its_user_name_as_well() -> None:
    """kubescape's parity data `user-subject-serviceaccount-username`."""
    mint = AccessRequest("create", None, "", "serviceaccounts", "token", "lab", "target")
    rbac = Rbac(objects(f"lab/: {_ME},system:serviceaccount:elsewhere:you: create .:serviceaccounts/token"))
    for user, expected in (
        (_ME, "allow"),
        ("system:serviceaccount:lab:you", "no opinion"),
        ("system:serviceaccount:lab:unbound", "no opinion"),
    ):
        assert Authorizer(rbac).decide(user, _MY_GROUPS, mint).opinion == expected


@pytest.mark.parametrize(
    ("grant", "request_", "who"),
    [
        ("test: u,@g,test/s: get,list,watch .:pods; create .:pods", ("create", "pods"), "u g s"),
        ("test: u,test/s: create,update,delete,patch gw:*", ("create", "gateways.gw"), "u s"),
        ("test: u,test/s: create,update,delete,patch gw:*", ("get", "gateways.gw"), ""),
        ("test: u: impersonate .:users,groups,serviceaccounts", ("impersonate", "serviceaccounts"), "u"),
        ("test/: u,@g,test/s: create,update .:pods", ("create", "pods"), "u g s"),
        ("test: u,test/s: get,watch,list .:secrets", ("get", "secrets"), "u s"),
        ("test/: u,test/s: get,watch,list .:secrets some", ("get", "secrets", "some"), "u s"),
        ("test/: u,test/s: get,watch,list .:secrets some", ("get", "secrets", "other"), ""),
    ],
)
def test_who_can_as_rbac_tool_expects(grant: str, request_: tuple[str, ...], who: str) -> None:
    verb, what, *name = request_
    request = AccessRequest.from_words(verb, what, "test", *name)
    found = {one.name.rpartition(":")[2] for one in subjects_who_may(Rbac(objects(grant)), request)}
    assert found - {"masters"} == set(who.split())


# -- all of it ----------------------------------------------------------------------------------------------------


def test_the_distance_of_all_is_the_length_of_each_path() -> None:
    rbac, _ = read_rbac(RECORDINGS / "rbac.json.gz")
    escalation = Escalation(rbac)
    distances = escalation.steps_to_admin
    assert set(distances.values()) == {1, 2, 3}
    for user in escalation.users:
        path = escalation.paths(user, escalation.groups_of(user)).get(ADMIN, ())
        assert len(path) == distances.get(RightsHolder("user", user), 0)
    for group in escalation.groups:
        path = escalation.paths_of_group(group).get(ADMIN, ())
        assert len(path) == distances.get(RightsHolder("group", group), 0)


@pytest.mark.parametrize(
    ("grants", "distance"),
    [
        (("*: me: bind rbac:clusterroles", "*: me: create rbac:clusterrolebindings"), 1),
        (("*: me: escalate rbac:clusterroles", "*: me: update rbac:clusterroles"), 1),
        (("*: me: impersonate .:groups", "*: me: impersonate .:users"), 1),
        (
            (
                "*: me: create csr:certificatesigningrequests; approve csr:signers",
                "*: me: update csr:certificatesigningrequests/approval",
            ),
            1,
        ),
        (("lab: me: create .:pods", "*: system:serviceaccount:lab:you: * *:*"), 2),
        (("lab: me: create .:pods", "lab: system:serviceaccount:lab:you: get .:pods"), None),
    ],
)
def test_the_distance_counts_rights_that_only_lead_on_together(
    grants: tuple[str, ...], distance: int | None
) -> None:
    escalation = Escalation(Rbac(objects(*grants)))
    assert escalation.steps_to_admin.get(RightsHolder("user", _ME)) == distance


def test_the_distance_of_many_accounts_is_found_once_for_all_that_have_a_role_in_a_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accounts = ",".join(f"system:serviceaccount:lab:a{number}" for number in range(200))
    grants = [f"lab: {accounts}: create .:pods; list .:secrets", "*: system:serviceaccount:lab:a7: * *:*"]
    escalation = Escalation(Rbac(objects(*grants)))
    found, searched = Escalation._find, []
    monkeypatch.setattr(Escalation, "_find", lambda *given: searched.append(given[1]) or found(*given))
    assert set(escalation.steps_to_admin.values()) == {1, 2}
    assert len(escalation.steps_to_admin) == 200
    assert len(searched) < 10


_PARTS = st.lists(
    st.builds(
        PolicyRule,
        st.sampled_from([("*",), ("get",), ("create",), ("update", "patch"), ("bind",), ("impersonate",)]),
        st.sampled_from([("",), ("*",), ("apps",), (API_GROUP,)]),
        st.sampled_from(
            [("pods",), ("*",), ("*/exec",), ("secrets", "users"), ("clusterroles",), ("deployments",)]
        ),
        st.sampled_from([(), ("one",), ("one", "two")]),
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(_PARTS, _PARTS)
def test_more_rules_never_take_a_power_away(some: list[PolicyRule], more: list[PolicyRule]) -> None:
    few, many = powers_of(tuple(some)), powers_of((*some, *more))
    for power, names in few.items():
        assert many[power] is None or (names is not None and names <= many[power])


def test_hostile_names_are_no_identity_of_ours() -> None:
    found = reached("*: me: impersonate .:users", "*: cluster-admin,any node: get .:pods")
    assert set(found) == {RightsHolder("user", "cluster-admin"), RightsHolder("user", "any node")}
    assert ADMIN not in found
    assert not any(re.search(r"accounts", one.kind) for one in found)
