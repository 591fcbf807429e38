"""The smallest change that stops what was malicious and nothing that is habit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.authorization.authorizer import Authorizer
from detection.authorization.containment import SuspectRequest, contain
from detection.authorization.rbac import Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.usage import UserUsage
from tests.detection.authorization.test_rbac import bind, role

CI, OTHER = "system:serviceaccount:web:ci", "vera"
GROUPS = ("system:authenticated",)
_CI = {"kind": "ServiceAccount", "namespace": "web", "name": "ci"}
_VERA = {"kind": "User", "name": OTHER}
_ALL = {"kind": "Group", "name": "system:authenticated"}


def rule(verbs: str, resources: str, *names: str) -> dict[str, Any]:
    one = {"apiGroups": [""], "resources": resources.split(), "verbs": verbs.split()}
    return one | ({"resourceNames": list(names)} if names else {})


def request(verb: str, resource: str, name: str = "", namespace: str = "web") -> AccessRequest:
    return AccessRequest(verb, None, "", resource, "", namespace, name)


def uses(*requests: AccessRequest) -> UserUsage:
    usage = UserUsage(GROUPS)
    for one in requests:
        usage.add(one, "2026-11-24T10:00:00Z")
    return usage


READS_SECRETS = SuspectRequest(CI, GROUPS, request("list", "secrets"))


def stopped(objects: list[dict[str, Any]], habits: dict[str, UserUsage], suspect: SuspectRequest) -> str:
    """Words of the changes, after a check that they do what they say."""
    rbac = Rbac(objects)
    found = contain(rbac, [suspect], habits)
    changed = rbac.copy()
    for change in found.changes:
        for key in change.removed:
            changed.remove(key)
        for content in change.objects:
            assert changed.put_object(content) is not None
    before, after = Authorizer(rbac), Authorizer(changed)
    was, now = (
        each.decide(suspect.user, suspect.groups, suspect.request).opinion for each in (before, after)
    )
    assert now == (was if suspect in found.unstoppable else "no opinion")
    for user, usage in habits.items():
        for right in usage.counts:
            for name in usage.names[right] or ("",):
                one = right.request(name)
                if before.decide(user, usage.groups, one).opinion == "allow":
                    assert after.decide(user, usage.groups, one).opinion == "allow"
    return "; ".join(change.words for change in found.changes) or found.unstoppable[suspect]


def test_a_right_that_nobody_uses_is_taken_out_of_its_role() -> None:
    objects = [
        role("deploy", [rule("get list", "pods secrets")], "web"),
        bind("ci", "deploy", _CI, namespace="web", kind="Role"),
    ]
    words = stopped(
        objects, {CI: uses(request("list", "pods"), request("get", "secrets", "a"))}, READS_SECRETS
    )
    assert words == 'take list secrets out of Role "deploy/web"'


def test_where_another_uses_the_role_the_subject_leaves_the_binding() -> None:
    objects = [role("reader", [rule("list", "secrets")]), bind("readers", "reader", _CI, _VERA)]
    words = stopped(objects, {OTHER: uses(request("list", "secrets"))}, READS_SECRETS)
    assert words == f'take {CI} out of ClusterRoleBinding "readers"'


def test_where_the_subject_uses_some_of_it_it_gets_a_role_of_its_own() -> None:
    objects = [role("admin", [rule("*", "*")]), bind("ci", "admin", _CI)]
    words = stopped(objects, {CI: uses(request("list", "pods"))}, READS_SECRETS)
    assert "by roles of its own" in words


def test_names_tell_apart_what_the_right_does_not() -> None:
    objects = [role("reader", [rule("get", "secrets")]), bind("ci", "reader", _CI)]
    habits = {CI: uses(request("get", "secrets", "mine"))}
    stolen = SuspectRequest(CI, GROUPS, request("get", "secrets", "theirs"))
    assert "by roles of its own" in stopped(objects, habits, stolen)
    assert "in use" in stopped(objects, habits, SuspectRequest(CI, GROUPS, request("get", "secrets", "mine")))


def test_every_binding_that_allows_it_changes() -> None:
    objects = [
        role("a", [rule("list", "secrets")]),
        role("b", [rule("list", "secrets pods")], "web"),
        bind("a", "a", _CI),
        bind("b", "b", _ALL, namespace="web", kind="Role"),
    ]
    words = stopped(objects, {OTHER: uses(request("list", "pods"))}, READS_SECRETS)
    assert words.count("take list secrets out of") == 2


@pytest.mark.parametrize(
    ("groups", "why"), [(("system:masters",), "credential"), (GROUPS, "no binding allows it")]
)
def test_what_no_binding_allows_is_said(groups: tuple[str, ...], why: str) -> None:
    assert why in stopped([], {}, SuspectRequest(CI, groups, request("list", "secrets")))


_VERBS, _KINDS = ("get", "list", "create"), ("pods", "secrets", "configmaps")
_RULES = st.lists(
    st.builds(
        lambda verbs, kinds: rule(" ".join(verbs), " ".join(kinds)),
        st.sets(st.sampled_from((*_VERBS, "*")), min_size=1),
        st.sets(st.sampled_from((*_KINDS, "*")), min_size=1),
    ),
    max_size=3,
)
_USED = st.lists(
    st.builds(request, st.sampled_from(_VERBS), st.sampled_from(_KINDS), st.sampled_from(("", "a", "b"))),
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(_RULES, _RULES, _USED, _USED, st.sampled_from(_VERBS), st.sampled_from(_KINDS))
def test_no_change_takes_away_what_is_used(
    first: list[Any],
    second: list[Any],
    mine: list[AccessRequest],
    theirs: list[AccessRequest],
    verb: str,
    kind: str,
) -> None:
    objects = [
        role("a", first),
        role("b", second, "web"),
        bind("a", "a", _CI, _VERA),
        bind("b", "b", _ALL, namespace="web", kind="Role"),
    ]
    stopped(objects, {CI: uses(*mine), OTHER: uses(*theirs)}, SuspectRequest(CI, GROUPS, request(verb, kind)))
