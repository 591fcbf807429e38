"""RBAC that follows a log, the comparison with what was recorded, least privilege and who can become whom."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, User
from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.authorization.agreement import agree, compare, recorded_grant
from detection.authorization.authorizer import Authorizer
from detection.authorization.changes import Change, ChangeFollower
from detection.authorization.escalation import ADMIN, Escalation
from detection.authorization.files import read_rbac
from detection.authorization.least_privilege import (
    candidates,
    granted_rights,
    minimal_rules,
    what_if,
    what_if_used,
)
from detection.authorization.node_authorizer import NodeAuthorizer
from detection.authorization.node_graph import NodeGraph
from detection.authorization.oracle import AuthorizationOracle
from detection.authorization.rbac import ObjectKey, Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.risks import risk_of
from detection.authorization.rules import PolicyRule, breakdown
from detection.authorization.usage import UsedRight, UserUsage, count_usage

RECORDINGS = Path(__file__).parents[3] / "data" / "recordings"
GROUP = "rbac.authorization.k8s.io"


@pytest.fixture(scope="module")
def recorded() -> list[AuditEvent]:
    return decode_lines(islice(open_lines(RECORDINGS / "normal.jsonl.zst"), 12_000)).events


def role(name: str, rules: list[dict[str, Any]], namespace: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": more.pop("labels", {})}
    return {"kind": "Role" if namespace else "ClusterRole", "metadata": metadata, "rules": rules, **more}


def bind(
    name: str, to: str, *subjects: dict[str, str], namespace: str = "", kind: str = "ClusterRole"
) -> dict[str, Any]:
    return {
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": to},
        "subjects": list(subjects),
    }


USER = {"kind": "User", "name": "vera"}
READ_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
LIST_PODS = AccessRequest("list", None, "", "pods", "", "shop")


def followed(*objects: dict[str, Any]) -> tuple[Rbac, ChangeFollower]:
    rbac = Rbac()
    follower = ChangeFollower(rbac)
    for one in objects:
        assert follower.load(one) is not None
    return rbac, follower


def event(
    verb: str,
    uri: str,
    body: object = None,
    *,
    user: str = "vera",
    code: int = 200,
    reason: str = "",
    **more: Any,
) -> AuditEvent:
    notes = {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": reason}
    content = {
        "auditID": "a",
        "stage": "ResponseComplete",
        "verb": verb,
        "requestURI": uri,
        "user": {"username": user, "groups": ["system:authenticated"]},
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": "2026-11-24T10:00:00Z",
        "annotations": notes,
        "apiVersion": "audit.k8s.io/v1",
        **more,
    }
    if body is not None:
        content["requestObject"] = body
    return msgspec.json.decode(msgspec.json.encode(content), type=AuditEvent)


def change(
    verb: str, resource: str, name: str, body: object = None, namespace: str = "", **more: Any
) -> AuditEvent:
    place = f"namespaces/{namespace}/" if namespace else ""
    ref = {"resource": resource, "namespace": namespace, "name": name, "apiGroup": GROUP}
    return event(verb, f"/apis/{GROUP}/v1/{place}{resource}/{name}", body, objectRef=ref, **more)


def opinion(rbac: Rbac, request: AccessRequest = LIST_PODS) -> str:
    return Authorizer(rbac).decide("vera", ("system:authenticated",), request).opinion


# -- rules that follow the log ----------------------------------------------------------------------------------


def test_changes_of_the_log_take_effect_in_their_order() -> None:
    rbac, follower = followed()
    assert opinion(rbac) == "no opinion"
    follower.follow(change("create", "clusterroles", "", role("reader", [READ_PODS])))
    follower.follow(change("create", "rolebindings", "", bind("r", "reader", USER, namespace="shop"), "shop"))
    assert opinion(rbac) == "allow"
    follower.follow(change("patch", "clusterroles", "reader", {"rules": []}))
    assert opinion(rbac) == "no opinion"
    follower.follow(change("update", "clusterroles", "reader", role("reader", [READ_PODS])))
    assert opinion(rbac) == "allow"
    follower.follow(change("delete", "rolebindings", "r", None, "shop"))
    assert opinion(rbac) == "no opinion"
    assert (follower.applied, follower.unknown) == (5, 0)


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"subjects": [{"kind": "Group", "name": "system:authenticated"}]}, "allow"),
        ([{"op": "add", "path": "/subjects/-", "value": USER}], "allow"),
        ([{"op": "replace", "path": "/subjects", "value": [USER]}], "allow"),
        ([{"op": "remove", "path": "/subjects/0"}], "no opinion"),
        ([{"op": "test", "path": "/subjects/0/name", "value": "otto"}], "no opinion"),
        ([{"op": "move", "from": "/subjects/0", "path": "/subjects/1"}], "unknown"),
        ({"$patch": "replace"}, "unknown"),
        (None, "unknown"),
    ],
)
def test_every_kind_of_patch_is_applied_or_makes_the_answer_unknown(patch: object, expected: str) -> None:
    otto = {"kind": "User", "name": "otto"}
    rbac, follower = followed(role("reader", [READ_PODS]), bind("r", "reader", otto, namespace="shop"))
    follower.follow(change("patch", "rolebindings", "r", patch, "shop"))
    assert opinion(rbac) == expected


@pytest.mark.parametrize(
    "ignored",
    [
        {"code": 403},
        {"code": 409},
        {"stage": "ResponseStarted"},
        {"requestURI": f"/apis/{GROUP}/v1/clusterroles/reader?dryRun=All"},
    ],
)
def test_what_changed_nothing_changes_nothing(ignored: dict[str, Any]) -> None:
    rbac, follower = followed(role("reader", [READ_PODS]), bind("r", "reader", USER))
    made = change("delete", "clusterroles", "reader")
    for key, value in ignored.items():
        made = msgspec.structs.replace(
            made,
            **(
                {"responseStatus": msgspec.structs.replace(made.responseStatus, code=value)}
                if key == "code"
                else {key: value}
            ),
        )
    assert not follower.follow(made)
    assert opinion(rbac) == "allow"


def test_no_number_of_namespaces_that_are_asked_for_fills_the_memory() -> None:
    content = {"kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": {"name": "r"}}
    rbac = Rbac([content | {"subjects": [{"kind": "User", "name": "u"}]}])
    known = rbac.bindings_of("u", (), "shop")
    assert rbac.bindings_of("u", (), "shop") is known, "asked again, it is not looked up again"
    tracemalloc.start()
    for number in range(6_000):
        assert rbac.bindings_of("u", (), f"shop-{number}") == known
        assert rbac.bindings_of("u", (), f"{number}" * 1_000) == known
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 3_000_000


def test_aggregated_roles_gather_by_label_and_through_each_other() -> None:
    def gathers(label: str) -> dict[str, Any]:
        return {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}

    rbac, follower = followed(
        role("admin", [], aggregationRule=gathers("to-admin")),
        role("edit", [], aggregationRule=gathers("to-edit"), labels={"to-admin": "true"}),
        role("pods", [READ_PODS]),
        bind("b", "admin", USER),
    )
    assert opinion(rbac) == "no opinion"
    follower.follow(change("patch", "clusterroles", "pods", {"metadata": {"labels": {"to-edit": "true"}}}))
    assert opinion(rbac) == "allow"
    follower.follow(change("patch", "clusterroles", "pods", {"metadata": {"labels": {"to-edit": None}}}))
    assert opinion(rbac) == "no opinion"


def test_names_bind_get_and_selected_lists_but_no_plain_list_and_no_create() -> None:
    rule = READ_PODS | {"verbs": ["*"], "resourceNames": ["web-0"]}
    rbac, _ = followed(role("one", [rule]), bind("b", "one", USER))
    for verb, name, expected in (
        ("get", "web-0", "allow"),
        ("list", "web-0", "allow"),  # by a field selector
        ("get", "web-1", "no opinion"),
        ("list", "", "no opinion"),
        ("create", "", "no opinion"),
    ):
        assert opinion(rbac, AccessRequest(verb, None, "", "pods", "", "shop", name)) == expected


# -- what was recorded ------------------------------------------------------------------------------------------


def test_log_and_rules_agree_on_the_recording(recorded: list[AuditEvent]) -> None:
    graph = NodeGraph()
    rbac, follower = read_rbac(RECORDINGS / "rbac.json.gz", graph)
    found = agree(recorded, Authorizer(rbac, NodeAuthorizer(graph)), follower)
    assert found.contradictions == []
    assert found.compared > 10_000
    assert found.agreed == found.compared
    assert found.counts["unknown"] < 0.02 * sum(found.counts.values())


def test_the_oracle_says_from_memory_what_the_comparison_says(recorded: list[AuditEvent]) -> None:
    graph = NodeGraph()
    oracle = AuthorizationOracle(*read_rbac(RECORDINGS / "rbac.json.gz", graph), graph)
    alone = NodeGraph()
    rbac, follower = read_rbac(RECORDINGS / "rbac.json.gz", alone)
    authorizer = Authorizer(rbac, NodeAuthorizer(alone))
    found = oracle.compare(recorded)
    for event_, said in zip(recorded, found, strict=True):
        if event_.stage == "ResponseComplete":
            assert said is not None
            one = compare(event_, authorizer)
            assert (said.outcome, said.user, said.recorded) == (one.outcome, one.user, one.recorded)
            follower.follow(event_)
        else:
            assert said is None
    assert oracle.figures.computed < 0.3 * oracle.figures.compared


def test_a_change_of_a_role_reaches_all_who_have_it_and_nobody_else() -> None:
    rbac, follower = followed(
        role("reader", [READ_PODS], labels={"to-all": "true"}),
        role("all", [], aggregationRule={"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}]}),
        role("other", [READ_PODS]),
        bind("r", "all", USER),
        bind("o", "other", {"kind": "User", "name": "otto"}),
    )
    oracle = AuthorizationOracle(rbac, follower)
    pods = "/api/v1/namespaces/shop/pods"
    reads = [event("list", pods), event("list", pods, user="otto")]

    def outcomes() -> list[str]:
        return [one.outcome for one in oracle.compare(reads) if one is not None]

    assert outcomes() == ["agrees", "agrees"]
    assert oracle.figures.computed == 2
    later = {"requestReceivedTimestamp": "2026-11-24T11:00:00Z"}
    (changed,) = oracle.compare([change("patch", "clusterroles", "reader", {"rules": []})])
    assert changed is not None
    assert changed.outcome == "allowed by nothing"
    reads = [msgspec.structs.replace(one, **later) for one in reads]
    assert outcomes() == ["allowed by nothing", "agrees"]
    assert oracle.figures.computed == 4  # otto's was remembered


def test_a_request_that_began_before_a_change_is_judged_by_what_was_before() -> None:
    rbac, follower = followed(role("reader", [READ_PODS]), bind("r", "reader", USER))
    oracle = AuthorizationOracle(rbac, follower)
    gone = change("delete", "clusterrolebindings", "r", stageTimestamp="2026-11-24T10:00:30.000000Z")
    early = event("list", "/api/v1/namespaces/shop/pods")
    late = msgspec.structs.replace(early, requestReceivedTimestamp="2026-11-24T10:00:40.000000Z")
    said = oracle.compare([gone, early, late])
    assert [one.outcome for one in said[1:] if one is not None] == ["agrees", "allowed by nothing"]


@pytest.mark.parametrize(
    "body",
    [
        {"rules": 7},
        {"rules": [{"verbs": 3}]},
        {"aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": [], "values": 3}]}]}},
        {"kind": "ClusterRole", "metadata": 5, "rules": [[]]},
        {"metadata": {"labels": [1]}},
        [{"op": "add", "path": 3}],
        {"kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": [{}] * 5_000},
    ],
)
@pytest.mark.parametrize("verb", ["create", "update", "patch"])
def test_no_object_in_a_log_stops_the_oracle(body: object, verb: str) -> None:
    aggregated = {"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}]}
    oracle = AuthorizationOracle(
        *followed(
            role("all", [], aggregationRule=aggregated), bind("r", "reader", USER), bind("s", "all", USER)
        )
    )
    said = oracle.compare(
        [
            change(verb, "clusterroles", "reader", body),
            event("list", "/api/v1/namespaces/shop/pods", user="otto"),
        ]
    )
    assert [one is not None and one.outcome for one in said][1] == "allowed by nothing"


def test_the_rules_outlive_a_restart_with_what_the_log_changed() -> None:
    rbac, follower = followed(role("reader", [READ_PODS]), bind("r", "reader", USER))
    follower.follow(change("create", "clusterroles", "", role("unread", [READ_PODS])))
    follower.follow(change("update", "clusterroles", "unread"))  # the log does not say to what
    follower.follow(change("delete", "clusterrolebindings", "r"))
    follower.follow(change("create", "clusterrolebindings", "", bind("t", "reader", USER)))
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(follower.snapshot()))
    again, restored = followed(role("reader", []), bind("r", "reader", USER))
    restored.restore(saved)
    assert (again.roles, again.bindings) == (rbac.roles, rbac.bindings)
    assert restored.created == follower.created
    assert (restored.applied, restored.unknown) == (4, 1)
    assert (list(restored.recent), restored.whole) == (list(follower.recent), True)
    assert len(restored.recent) == 4
    older = {name: value for name, value in saved.items() if name not in ("recent", "whole")}
    restored.restore(older)  # of a version that did not keep them
    assert (list(restored.recent), restored.whole) == ([], False)
    assert not restored.remembers("2026-11-24T09:00:00Z")
    restored.restore(saved)
    restored.follow(change("patch", "clusterrolebindings", "t", [{"op": "remove", "path": "/subjects/0"}]))
    assert opinion(again) == "no opinion"


def test_every_kind_of_contradiction_is_found() -> None:
    objects = (role("reader", [READ_PODS]), bind("r", "reader", USER, namespace="shop"))
    rbac, _ = followed(*objects)
    authorizer = Authorizer(rbac)
    by_r = 'RBAC: allowed by RoleBinding "r/shop" of ClusterRole "reader" to User "vera"'
    pods, secrets = "/api/v1/namespaces/shop/pods", "/api/v1/namespaces/shop/secrets"

    def outcome(one: AuditEvent) -> str:
        return compare(one, authorizer).outcome

    def noted(one: AuditEvent, **notes: Any) -> AuditEvent:
        changed = None if notes.get("gone") else msgspec.structs.replace(one.annotations, **notes)
        return msgspec.structs.replace(one, annotations=changed)

    assert outcome(event("list", pods, reason=by_r)) == "agrees"
    assert outcome(event("list", pods)) == "agrees"
    assert outcome(event("list", secrets)) == "allowed by nothing"
    assert outcome(event("list", secrets, reason=by_r)) == "binding does not grant it"
    assert outcome(event("list", pods, reason=by_r, user="otto")) == "binding does not grant it"
    assert (
        outcome(event("list", pods, reason=by_r.replace("r/shop", "gone/shop")))
        == "binding does not grant it"
    )
    assert outcome(event("list", pods, user="system:anonymous")) == "anonymous success by no rule"
    assert outcome(event("list", pods, user="")) == "anonymous success by no rule"
    assert outcome(noted(event("list", secrets), decision="forbid")) == "decision contradicts the response"
    assert outcome(noted(event("list", secrets), gone=True)) == "no decision recorded"
    assert outcome(noted(event("list", secrets, code=403), decision="forbid")) == "agrees"
    assert (
        outcome(noted(event("list", pods, code=403), decision="forbid")) == "refused though a rule allows it"
    )
    assert outcome(event("list", secrets, reason="access granted by IAM permissions.")) == "unknown"
    assert outcome(noted(event("list", secrets, user="", code=401), gone=True)) == "not authorized"


ALLOWED = "RBAC: allowed by ClusterRoleBinding "


@pytest.mark.parametrize(
    ("verbs", "wanted", "expected"),
    [
        (["create", "update"], [READ_PODS], "more than its writer had"),
        (["create", "update", "escalate"], [READ_PODS], "agrees"),
        (
            ["create", "update"],
            [{"apiGroups": [GROUP], "resources": ["roles"], "verbs": ["create"]}],
            "agrees",
        ),
        (["create", "update"], [], "agrees"),
    ],
)
def test_who_writes_a_role_must_have_what_it_gives(
    verbs: list[str], wanted: list[dict[str, Any]], expected: str
) -> None:
    rules = [{"apiGroups": [GROUP], "resources": ["roles"], "verbs": verbs}]
    reason = ALLOWED + '"w" of ClusterRole "writer" to User "vera"'
    write = change("create", "roles", "made", role("made", wanted, "shop"), "shop", reason=reason)
    write = msgspec.structs.replace(write, requestURI=f"/apis/{GROUP}/v1/namespaces/shop/roles")
    (said,) = AuthorizationOracle(*followed(role("writer", rules), bind("w", "writer", USER))).compare(
        [write]
    )
    assert said is not None
    assert said.outcome == expected
    rbac, follower = followed(role("writer", rules), bind("w", "writer", USER))
    masters = msgspec.structs.replace(write, user=User("root", ("system:masters",)))
    counts = agree([write, masters], Authorizer(rbac), follower).counts
    assert counts[expected] >= 1
    assert sum(counts.values()) == 2


@pytest.mark.parametrize(
    ("verbs", "expected"), [(["create"], "more than its writer had"), (["create", "bind"], "agrees")]
)
def test_who_writes_a_binding_must_have_its_role(verbs: list[str], expected: str) -> None:
    rules = [{"apiGroups": [GROUP], "resources": ["rolebindings", "clusterroles"], "verbs": verbs}]
    rbac, follower = followed(role("writer", rules), role("reader", [READ_PODS]), bind("w", "writer", USER))
    reason = ALLOWED + '"w" of ClusterRole "writer" to User "vera"'
    made = bind("made", "reader", {"kind": "User", "name": "otto"}, namespace="shop")
    write = change("create", "rolebindings", "made", made, "shop", reason=reason)
    write = msgspec.structs.replace(write, requestURI=f"/apis/{GROUP}/v1/namespaces/shop/rolebindings")
    (said,) = AuthorizationOracle(rbac, follower).compare([write])
    assert said is not None
    assert said.outcome == expected
    # Whatever was found, the change is followed.
    assert ObjectKey("rolebindings", "shop", "made") in rbac


@given(st.text(max_size=80) | st.text('RBAC: allowed by "/of', max_size=300))
def test_no_reason_breaks_the_reading_of_reasons(text: str) -> None:
    recorded_grant(text)
    recorded_grant("RBAC: allowed by RoleBinding " + text)


# -- least privilege --------------------------------------------------------------------------------------------


def requests_of(rules: dict[str, list[PolicyRule]]) -> Iterator[AccessRequest]:
    for namespace, found in rules.items():
        for one in breakdown(found):
            if one.paths:
                yield AccessRequest(one.verbs[0], one.paths[0])
            else:
                resource, _, subresource = one.resources[0].partition("/")
                yield AccessRequest(one.verbs[0], None, one.groups[0], resource, subresource, namespace)


_RIGHTS = st.lists(
    st.builds(
        UsedRight,
        st.sampled_from(["get", "list", "create"]),
        st.sampled_from(["", "apps"]),
        st.sampled_from(["pods", "pods/log", "deployments", "secrets"]),
        st.sampled_from(["", "shop", "web"]),
    )
    | st.builds(lambda path: UsedRight("get", "", "", "", path), st.sampled_from(["/version", "/metrics"])),
    max_size=12,
)


@settings(deadline=None)
@given(_RIGHTS)
def test_the_smallest_role_allows_what_was_used_and_nothing_else(rights: list[UsedRight]) -> None:
    usage = UserUsage()
    for right in rights:
        usage.add(right.request(), "2026-11-24T10:00:00Z")
    rules = minimal_rules(usage)
    objects = []
    for namespace, found in rules.items():
        name = f"min-{namespace}"
        objects += [
            role(name, [one.to_object() for one in found], namespace),
            bind(name, name, USER, namespace=namespace, kind="Role" if namespace else "ClusterRole"),
        ]
    authorizer = Authorizer(followed(*objects)[0])
    of_cluster = {(right.verb, right.group, right.resource) for right in rights if not right.namespace}
    for verb, group, resource, namespace in product(
        ("get", "list", "create", "delete"),
        ("", "apps"),
        ("pods", "pods/log", "deployments", "secrets"),
        ("", "shop", "web"),
    ):
        right = UsedRight(verb, group, resource, namespace)
        used = right in rights or (verb, group, resource) in of_cluster
        assert (authorizer.decide("vera", (), right.request()).opinion == "allow") == used
    for path in ("/version", "/metrics", "/logs"):
        used = UsedRight("get", "", "", "", path) in rights
        assert (authorizer.decide("vera", (), AccessRequest("get", path)).opinion == "allow") == used


def test_names_are_asked_for_where_the_right_can_be_given_by_name() -> None:
    usage = UserUsage()
    for verb, name in (("get", "db"), ("get", "cache"), ("list", ""), ("create", "")):
        usage.add(AccessRequest(verb, None, "", "secrets", "", "shop", name), "2026-11-24T10:00:00Z")
    rules = minimal_rules(usage, by_name=True)["shop"]
    assert {(rule.verbs, rule.names) for rule in rules} == {
        (("get",), ("cache", "db")),
        (("create", "list"), ()),
    }


_NODES = [("get", "", "nodes", "", "node1"), ("get", "", "nodes", "", "node2")]
_GET = ("get",)


@pytest.mark.parametrize(
    ("requests", "by_name", "expected"),
    [
        ([("get", "/foo")], True, {"": {PolicyRule(_GET, paths=("/foo",))}}),
        (
            *([("get", "", "nodes", "", "n"), ("get", "storage.k8s.io", "storageclasses", "", "s")], True),
            {
                "": {
                    PolicyRule(_GET, ("",), ("nodes",), ("n",)),
                    PolicyRule(_GET, ("storage.k8s.io",), ("storageclasses",), ("s",)),
                }
            },
        ),
        (_NODES, True, {"": {PolicyRule(_GET, ("",), ("nodes",), ("node1", "node2"))}}),
        (_NODES, False, {"": {PolicyRule(_GET, ("",), ("nodes",))}}),
        (
            *([("get", "", "configmaps", "ns1", "c"), ("get", "", "pods", "ns2", "p")], True),
            {
                "ns1": {PolicyRule(_GET, ("",), ("configmaps",), ("c",))},
                "ns2": {PolicyRule(_GET, ("",), ("pods",), ("p",))},
            },
        ),
        ([], True, {}),
    ],
)
def test_the_smallest_roles_are_those_that_audit2rbac_expects(
    requests: list[tuple[str, ...]], by_name: bool, expected: dict[str, set[PolicyRule]]
) -> None:
    """From `process_test.go`, but for what widens a role beyond what was used, which ours never does."""
    usage = UserUsage()
    for verb, *what in requests:
        group, resource, namespace, name = what if len(what) == 4 else ("", "", "", "")
        path = what[0] if len(what) == 1 else None
        usage.add(AccessRequest(verb, path, group, resource, "", namespace, name), "2026-11-24T10:00:00Z")
    assert {place: set(rules) for place, rules in minimal_rules(usage, by_name=by_name).items()} == expected


def test_rights_that_were_never_used_and_lead_further_come_first(recorded: list[AuditEvent]) -> None:
    rbac, _ = read_rbac(RECORDINGS / "rbac.json.gz")
    usage = count_usage(recorded)
    user = next(name for name in usage if name.startswith("system:serviceaccount:argocd"))
    rights = granted_rights(rbac, user, usage[user])
    assert rights
    order = [(one.uses > 0, not one.risk) for one in rights]
    assert order == sorted(order)
    assert sum(one.uses for one in rights) >= sum(usage[user].counts.values()) * 0.5
    found = candidates(rbac, usage[user], "argocd")
    assert found == sorted(found, key=lambda one: (one.missing, one.unused, one.role))


def test_risks_name_what_a_right_leads_to() -> None:
    def risk(verb: str, group: str, resource: str) -> str:
        return risk_of(PolicyRule((verb,), (group,), (resource,)))

    assert risk("*", "*", "*") == "everything"
    assert "secrets" in risk("list", "", "secrets")
    assert "impersonate" in risk("*", "", "*")
    assert "commands" in risk("create", "", "pods/exec")
    assert "escalate" in risk("escalate", GROUP, "clusterroles")
    assert risk("get", "", "pods") == ""
    assert risk("list", "apps", "secrets") == ""


def test_what_if_is_the_oracle_asked_again(recorded: list[AuditEvent]) -> None:
    rbac, follower = read_rbac(RECORDINGS / "rbac.json.gz")
    key = next(key for key in rbac.bindings if key.name == "argocd-server" or "argocd" in key.name)
    before = Authorizer(rbac.copy())
    after = Authorizer(rbac.copy())
    after.rbac.remove(key)
    expected = 0
    for one in recorded:
        notes = one.annotations
        if one.stage != "ResponseComplete" or notes is None or notes.decision != "allow":
            continue
        who = one.impersonatedUser or one.user
        request = compare(one, before).request
        was, now = (each.decide(who.username, who.groups, request) for each in (before, after))
        expected += was.opinion == "allow" and was.grant is not None and now.opinion == "no opinion"
    found = what_if(recorded, Authorizer(rbac), follower, [], [key])
    assert sum(found.denied.values()) == expected > 0
    assert found.considered > 9_000


_STEPS = {
    "list": lambda at: event("list", "/api/v1/namespaces/shop/pods", stageTimestamp=at),
    "unbind": lambda at: change("delete", "clusterrolebindings", "r", stageTimestamp=at),
    "bind": lambda at: change(
        "create", "clusterrolebindings", "r", bind("r", "reader", USER), stageTimestamp=at
    ),
    "empty": lambda at: change("update", "clusterroles", "reader", role("reader", []), stageTimestamp=at),
    "fill": lambda at: change(
        "update", "clusterroles", "reader", role("reader", [READ_PODS]), stageTimestamp=at
    ),
    "lose": lambda at: change("update", "clusterroles", "reader", stageTimestamp=at),
}
_PROPOSED = (
    ([role("reader", [])], []),
    ([role("reader", [READ_PODS])], []),
    ([], [ObjectKey("clusterrolebindings", "", "r")]),
    ([bind("r", "other", USER)], []),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(sorted(_STEPS)), max_size=14), st.sampled_from(_PROPOSED))
def test_what_if_by_periods_is_what_the_log_replayed_says(
    steps: list[str], proposed: tuple[list[dict[str, Any]], list[ObjectKey]]
) -> None:
    log = [_STEPS[step](f"2026-11-24T10:00:{at:02}Z") for at, step in enumerate(steps)]
    start = role("reader", [READ_PODS]), bind("r", "reader", USER)
    rbac, follower = followed(*start)
    # A write of RBAC is a request as well, and nothing here allows it.
    expected = what_if(log, Authorizer(rbac), follower, *proposed)
    periods: list[tuple[list[Change], list[AuditEvent]]] = [([], [])]
    now, again = followed(*start)
    for one in log:
        known = len(again.recent)
        periods[-1][1].append(one)
        again.follow(one)
        if len(again.recent) > known:
            periods[-1] = ([again.recent[-1]], periods[-1][1])
            periods.append(([], []))
    used = [(changes, count_usage(part)) for changes, part in reversed(periods)]
    assert what_if_used(now, used, *proposed) == expected


# -- who can become whom ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "how"),
    [
        ({"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}, "token"),
        ({"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}, "starts a pod"),
        ({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}, "deployments"),
        ({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}, "commands"),
        ({"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]}, "impersonate"),
        ({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}, "secret"),
    ],
)
def test_a_right_in_a_namespace_leads_over_its_accounts_to_everything(rule: dict[str, Any], how: str) -> None:
    operator = {"kind": "ServiceAccount", "name": "operator", "namespace": "ops"}
    rbac, _ = followed(
        role("everything", [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]),
        bind("everything", "everything", operator),
        role("some", [rule], "ops"),
        bind("some", "some", USER, namespace="ops", kind="Role"),
    )
    path = Escalation(rbac).paths("vera", ("system:authenticated",))[ADMIN]
    assert [step.source for step in path] == ["vera", "system:serviceaccount:ops:operator"]
    assert how in path[0].how
    rbac.remove(ObjectKey("rolebindings", "ops", "some"))
    assert ADMIN not in Escalation(rbac).paths("vera", ("system:authenticated",))


# -- files ------------------------------------------------------------------------------------------------------


def test_what_kubectl_prints_is_read_in_every_form(tmp_path: Path) -> None:
    items = [role("reader", [READ_PODS]), bind("r", "reader", USER, namespace="shop")]
    whole = {"kind": "List", "apiVersion": "v1", "items": items}
    (tmp_path / "list.json").write_text(json.dumps(whole))
    (tmp_path / "list.json.gz").write_bytes(gzip.compress(json.dumps(whole).encode()))
    (tmp_path / "two.yaml").write_text(
        "\n---\n".join(json.dumps(one, indent=1).replace("{", " {", 1) for one in items)
    )
    without_kind = {key: value for key, value in items[0].items() if key != "kind"}
    (tmp_path / "typed.json").write_text(
        json.dumps([{"kind": "ClusterRoleList", "items": [without_kind]}, items[1]])
    )
    for file in sorted(tmp_path.iterdir()):
        rbac, _ = read_rbac(file)
        assert opinion(rbac) == "allow", file.name
    assert opinion(read_rbac(tmp_path)[0]) == "allow"


@pytest.mark.parametrize("content", ["{", "a: [", '{"kind": "List", "items": []}', "just words", ""])
def test_a_file_without_rbac_is_refused_with_the_command_that_makes_one(tmp_path: Path, content: str) -> None:
    file = tmp_path / "rbac.yaml"
    file.write_text(content)
    with pytest.raises(KubehabitError, match=r"rbac\.yaml"):
        read_rbac(file)
