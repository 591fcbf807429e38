"""What Kubernetes' own tests expect of requests, rules and RBAC, as facts in tables of our own.

From `requestinfo_test.go` (all but the namespace of a patch of a namespace, on which releases differ),
`policy_comparator_test.go` (all), `rbac_test.go` (TestAuthorizer; of TestRuleMatches one rule of each kind),
`subject_locator_test.go` and `clusterroleaggregation_controller_test.go` (all). The node authorizer's are in `test_node.py`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from detection.authorization.authorizer import Authorizer
from detection.authorization.rbac import ObjectKey, Rbac
from detection.authorization.requests import AccessRequest, access_request
from detection.authorization.rules import PolicyRule, uncovered
from detection.authorization.subjects import subjects_who_may

_O = "/api/v1/namespaces/other"
_X = "/apis/extensions/v1"

#: Verb, URI, then group, namespace, resource, subresource, name and the verb that is authorized.
REQUESTS = [
    ("list", "/api/v1/namespaces", "", "", "namespaces", "", "", "list"),
    ("get", _O, "", "other", "namespaces", "", "other", "get"),
    ("list", f"{_O}/pods", "", "other", "pods", "", "", "list"),
    ("get", f"{_O}/pods/foo", "", "other", "pods", "", "foo", "get"),
    ("list", "/api/v1/pods", "", "", "pods", "", "", "list"),
    ("get", "/api/v1/proxy/namespaces/other/pods/foo", "", "other", "pods", "", "foo", "proxy"),
    ("get", "/api/v1/proxy/namespaces/other/pods/foo/sub/path", "", "other", "pods", "", "foo", "proxy"),
    ("get", "/api/v1/watch/pods", "", "", "pods", "", "", "watch"),
    ("watch", "/api/v1/pods?watch=true", "", "", "pods", "", "", "watch"),
    ("list", "/api/v1/pods?watch=false", "", "", "pods", "", "", "list"),
    ("get", "/api/v1/watch/namespaces/other/pods", "", "other", "pods", "", "", "watch"),
    ("watch", f"{_O}/pods?watch=1", "", "other", "pods", "", "", "watch"),
    ("list", f"{_O}/pods?watch=0", "", "other", "pods", "", "", "list"),
    ("get", f"{_O}/pods/foo/status", "", "other", "pods", "status", "foo", "get"),
    ("get", f"{_O}/pods/foo/proxy/subpath", "", "other", "pods", "proxy", "foo", "get"),
    ("update", f"{_O}/finalize", "", "other", "namespaces", "finalize", "other", "update"),
    ("update", f"{_O}/status", "", "other", "namespaces", "status", "other", "update"),
    ("patch", f"{_O}/pods/foo", "", "other", "pods", "", "foo", "patch"),
    ("delete", f"{_O}/pods/foo", "", "other", "pods", "", "foo", "delete"),
    ("create", f"{_O}/pods", "", "other", "pods", "", "", "create"),
    ("deletecollection", "/api/v1/nodes", "", "", "nodes", "", "", "deletecollection"),
    ("deletecollection", "/api/v1/namespaces", "", "", "namespaces", "", "", "deletecollection"),
    ("deletecollection", f"{_O}/pods", "", "other", "pods", "", "", "deletecollection"),
    (
        "deletecollection",
        f"{_X}/namespaces/other/pods",
        "extensions",
        "other",
        "pods",
        "",
        "",
        "deletecollection",
    ),
    ("create", f"{_X}/namespaces/other/pods", "extensions", "other", "pods", "", "", "create"),
    ("create", f"{_X}beta3/namespaces/other/pods", "extensions", "other", "pods", "", "", "create"),
    ("list", "/apis/group/version/resource", "group", "", "resource", "", "", "list"),
    ("list", "/apis/g/v/r?fieldSelector=metadata.name=name1", "g", "", "r", "", "name1", "list"),
    ("watch", "/apis/g/v/r?watch=true&fieldSelector=metadata.name=name1", "g", "", "r", "", "name1", "watch"),
    ("list", "/apis/g/v/r?fieldSelector=foo=bar", "g", "", "r", "", "", "list"),
    ("list", "/apis/g/v/r?fieldSelector=metadata.name=name1,foo", "g", "", "r", "", "", "list"),
    ("watch", "/apis/g/v/r?fieldSelector=metadata.name=name1,foo&watch=true", "g", "", "r", "", "", "watch"),
    ("list", "/apis/g/v/r?fieldSelector=metadata.name%3Dname1", "g", "", "r", "", "name1", "list"),
]


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: f"{case[0]} {case[1]}")
def test_requests_are_read_off_their_uri(case: tuple[str, ...]) -> None:
    verb, uri, group, namespace, resource, subresource, name, authorized = case
    assert access_request(verb, uri) == AccessRequest(
        authorized, None, group, resource, subresource, namespace, name
    )


@pytest.mark.parametrize(
    ("uri", "is_resource"),
    [
        ("/", False),
        ("", False),
        ("/api", False),
        ("/api/version", False),
        ("/api/version/", False),
        ("/apis/group/version/", False),
        ("/badprefix/version/resource", False),
        ("/apis/version/resource", False),
        ("/not-api/version/resource", False),
        ("/apis/extensions/v1beta1", False),
        ("/apis/extensions/v1beta1/", False),
        ("/api/version/resource", True),
        ("/apis/group/version/resource/name/subresource", True),
        ("/api/version/resource/name/subresource", True),
        ("/apis/batch/v1/job", True),
        ("/apis/batch/v1/job/foo", True),
        ("/apis/batch/v1/job/foo/scale", True),
    ],
)
def test_what_is_outside_the_resource_api(uri: str, is_resource: bool) -> None:
    assert (access_request("get", uri).path is None) == is_resource


def r(verbs: str, groups: str = "", resources: str = "", names: str = "", paths: str = "") -> PolicyRule:
    """A rule of texts with spaces; a dot stands for the core group."""
    return PolicyRule(
        *(
            tuple("" if one == "." else one for one in text.split())
            for text in (verbs, groups, resources, names, paths)
        )
    )


_SIX = [
    r(verb, group, resources)
    for group in ("group1", "group2")
    for verb, resources in (("delete", "deployments"), ("delete", "builds"), ("update", "builds deployments"))
]

#: Rules that are held, rules that are wanted, and what of these is not covered.
COVERS: list[tuple[list[PolicyRule], list[PolicyRule], list[PolicyRule]]] = [
    ([r("get", "v1", "builds")], [r("get", "v1", "builds")], []),
    ([r("get", "v1", "*/scale")], [r("get", "v1", "foo/scale")], []),
    (
        [
            r("delete", "v1", "deployments"),
            r("delete", "v1", "builds"),
            r("update", "v1", "builds deployments"),
        ],
        [r("delete update", "v1", "builds deployments")],
        [],
    ),
    (_SIX, [r("delete update", "group1 group2", "builds deployments")], []),
    ([r("delete update", "group1 group2", "builds deployments")], _SIX, []),
    (
        [r("delete update", "v1", "builds deployments"), r("delete", "v1", "pods")],
        [r("delete update", "v1", "builds deployments pods")],
        [r("update", "v1", "pods")],
    ),
    ([r("get", "*", "roles")], [r("get", "group1 group2", "roles")], []),
    ([r("get", "dummy-group", "roles")], [r("get", "*", "roles")], [r("get", "*", "roles")]),
    ([r("get", "*", "roles")], [r("get", "*", "roles")], []),
    ([r("*", "v1", "roles")], [r("watch list", "v1", "roles")], []),
    (
        [r("get list watch create update delete exec", "v1", "roles")],
        [r("*", "v1", "roles")],
        [r("*", "v1", "roles")],
    ),
    ([r("*", "v1", "roles")], [r("*", "v1", "roles")], []),
    ([r("get", "v1", "*")], [r("get", "v1", "resourcegroup:deployments")], []),
    ([r("get", "v1", "roles resourcegroup:deployments")], [r("get", "v1", "*")], [r("get", "v1", "*")]),
    ([r("get", "v1", "*")], [r("get", "v1", "*")], []),
    ([r("get", "v1", "pods")], [r("get", "v1", "pods", "foo bar")], []),
    ([r("get", "v1", "pods", "foo bar")], [r("get", "v1", "pods")], [r("get", "v1", "pods")]),
    ([r("*", paths="/apis")], [r("*", paths="/apis")], []),
    ([r("*", paths="*")], [r("*", paths="/apis /apis/v1 /")], []),
    ([r("*", paths="/apis/*")], [r("get", paths="/apis /apis/v1")], [r("get", paths="/apis")]),
    ([r("*", paths="/apis/*")], [r("get", paths="/apis/v1/foo /apis/v1")], []),
    ([r("get", "v1", "builds", paths="/apis")], [r("get", "v1", "builds", paths="/apis")], []),
    ([r("get", "v1", "builds")], [r("get", "v1", "builds", paths="/apis")], [r("get", paths="/apis")]),
]


@pytest.mark.parametrize(("held", "wanted", "lacking"), COVERS)
def test_nobody_passes_on_more_than_it_holds(
    held: list[PolicyRule], wanted: list[PolicyRule], lacking: list[PolicyRule]
) -> None:
    assert sorted(map(repr, uncovered(held, wanted))) == sorted(map(repr, lacking))


@pytest.mark.parametrize(
    ("rule", "path", "covered"),
    [
        ("*", "", True),
        ("*", "/", True),
        ("*", "/api", True),
        ("/*", "", False),
        ("/*", "/", True),
        ("/*", "/foo", True),
        ("/api", "/api", True),
        ("/apis", "/api", False),
        ("/api/v1", "/api", False),
        ("/api/v1", "/api/v1", True),
        ("/api/*", "/api/v1", True),
        ("/api/*", "/api", False),
        ("/api/*/*", "/api/v1", False),
        ("/*/v1/*", "/api/v1", False),
    ],
)
def test_paths_end_in_a_star_or_are_equal(rule: str, path: str, covered: bool) -> None:
    wanted = PolicyRule(("get",), paths=(path,))
    assert (not uncovered([PolicyRule(("get",), paths=(rule,))], [wanted])) == covered
    assert PolicyRule(("get",), paths=(rule,)).allows(AccessRequest("get", path)) == covered


_VERBS, _GROUPS, _RESOURCES = (("verb1", "verb2"), ("group1", "group2"), ("resource1", "resource2"))


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (r("*", "group1", "resource1"), lambda v, g, o: (g, o) == ("group1", "resource1")),
        (r("verb1", "*", "resource1"), lambda v, g, o: (v, o) == ("verb1", "resource1")),
        (r("verb1", "group1", "*"), lambda v, g, o: (v, g) == ("verb1", "group1")),
        (r("verb1 verb2", "group1 group2", "resource1 resource2"), lambda v, g, o: True),
        (r("verb1", "group1", "resource1/*"), lambda v, g, o: False),
    ],
)
def test_rules_allow_every_combination_and_no_other(rule: PolicyRule, allowed: Any) -> None:
    for verb, group, resource in product(_VERBS, _GROUPS, _RESOURCES):
        assert rule.allows(AccessRequest(verb, None, group, resource)) == allowed(verb, group, resource)


@pytest.mark.parametrize("verb", _VERBS)
@pytest.mark.parametrize(
    ("resource", "subresource", "by_one", "by_any"),
    [
        ("resource1", "subresource1", True, True),
        ("resource1", "subresource2", False, False),
        ("resource2", "subresource1", False, True),
        ("resource2", "subresource2", False, False),
        ("resource1", "", False, False),
    ],
)
def test_subresources_are_named_or_those_of_anything(
    verb: str, resource: str, subresource: str, by_one: bool, by_any: bool
) -> None:
    request = AccessRequest(verb, None, "group1", resource, subresource)
    assert r("*", "*", "resource1/subresource1").allows(request) == by_one
    assert r("*", "*", "*/subresource1").allows(request) == by_any


@pytest.mark.parametrize(
    ("paths", "allowed"),
    [
        ("*", {"/foo", "/foo/bar", "/foo/baz", "/foo/bar/one", "/foo/baz/one"}),
        ("/foo/*", {"/foo/bar", "/foo/baz", "/foo/bar/one", "/foo/baz/one"}),
        ("/foo/bar /foo/baz", {"/foo/bar", "/foo/baz"}),
    ],
)
def test_paths_of_rules(paths: str, allowed: set[str]) -> None:
    for verb, path in product(
        _VERBS, ("/foo", "/foo/bar", "/foo/baz", "/foo/bar/one", "/foo/baz/one", "/notfoo")
    ):
        expected = verb == "verb1" and (path in allowed or (paths == "*"))
        assert r("verb1", paths=paths).allows(AccessRequest(verb, path)) == expected


def cluster_role(name: str, *rules: PolicyRule) -> dict[str, Any]:
    return {"kind": "ClusterRole", "metadata": {"name": name}, "rules": [one.to_object() for one in rules]}


def binding(role: str, *subjects: str, namespace: str = "") -> dict[str, Any]:
    return {
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": f"of-{role}", "namespace": namespace},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [dict(zip(("kind", "name"), one.split(":", 1), strict=True)) for one in subjects],
    }


ADMIN_OF_NS1 = [
    cluster_role("admin", r("*", "*", "*", paths="*")),
    binding("admin", "User:admin", "Group:admins", namespace="ns1"),
]
PATHS = [
    cluster_role("getter", r("get", paths="/apis")),
    cluster_role("any", r("*", paths="/apis")),
    cluster_role("prefix", r("get", paths="/apis/*")),
    binding("getter", "User:foo", "Group:bar"),
    binding("any", "User:admin", "Group:admin"),
    binding("prefix", "User:prefixed", "Group:prefixed"),
]
PODS = [cluster_role("admin", r("*", "*", "pods")), ADMIN_OF_NS1[1]]
STATUS = [cluster_role("admin", r("*", "*", "pods/status")), ADMIN_OF_NS1[1]]


def res(verb: str, resource: str, namespace: str = "", subresource: str = "") -> AccessRequest:
    return AccessRequest(verb, None, "", resource, subresource, namespace)


@pytest.mark.parametrize(
    ("objects", "user", "groups", "request_", "allowed"),
    [
        *(
            (ADMIN_OF_NS1, user, groups, res(verb, resource, "ns1"), True)
            for user, groups, verb, resource in (
                ("admin", "", "get", "Pods"),
                ("admin", "", "watch", "Pods"),
                ("admin", "group1", "watch", "Foobar"),
                ("joe", "admins", "watch", "Foobar"),
                ("joe", "group1 admins", "watch", "Foobar"),
            )
        ),
        *(
            (ADMIN_OF_NS1, "admin", groups, res("GET", resource, namespace), False)
            for groups in ("", "admins")
            for resource, namespace in (("Pods", "ns2"), ("Nodes", ""))
        ),
        *(
            (PATHS, who, groups, AccessRequest(verb, path), allowed)
            for name, verb, path, allowed in (
                ("getter", "get", "/apis", True),
                ("any", "get", "/apis", True),
                ("any", "watch", "/apis", True),
                ("prefix", "get", "/apis/v1", True),
                ("prefix", "get", "/apis/v1/foobar", True),
                ("getter", "watch", "/apis", False),
                ("getter", "get", "/api/v1", False),
                ("any", "get", "/api/v1", False),
                ("prefix", "get", "/api/v1", False),
            )
            for who, groups in {
                "getter": (("foo", ""), ("", "bar")),
                "any": (("admin", ""), ("", "admin")),
                "prefix": (("prefixed", ""), ("", "prefixed")),
            }[name]
        ),
        (PODS, "admin", "", res("get", "pods", "ns1"), True),
        (PODS, "admin", "", res("get", "pods", "ns1", "status"), False),
        (STATUS, "admin", "", res("get", "pods", "ns1", "status"), True),
        (STATUS, "admin", "", res("get", "pods", "ns1"), False),
    ],
)
def test_authorizer(
    objects: list[dict[str, Any]], user: str, groups: str, request_: AccessRequest, allowed: bool
) -> None:
    ruling = Authorizer(Rbac(objects)).decide(user, groups.split(), request_)
    assert ruling.opinion == ("allow" if allowed else "no opinion")


_ADMINS = binding("admin", "User:super-admin", "Group:super-admins")
_OF_NS1 = [
    {
        **binding("admin", "User:admin", "Group:admins", namespace="ns1"),
        "metadata": {"name": "ns1", "namespace": "ns1"},
    }
]
_WHOLE = {"super-admin", "super-admins", "system:masters"}
_LOCAL_ROLE = {"kind": "Role", "metadata": {"name": "admin", "namespace": "ns1"}}
_STAR = [cluster_role("admin", r("*", "*", "*")), _ADMINS, *_OF_NS1]
_LOCAL = [
    cluster_role("admin", r("*", "*", "*")),
    _ADMINS,
    _LOCAL_ROLE | {"rules": [r("get", "*", "Pods").to_object()]},
    _OF_NS1[0] | {"roleRef": {"kind": "Role", "name": "admin"}},
]


@pytest.mark.parametrize(
    ("objects", "verb", "namespace", "who"),
    [
        (_STAR, "get", "ns1", _WHOLE | {"admin", "admins"}),
        (_STAR, "*", "*", _WHOLE),
        (_STAR, "*", "", _WHOLE),
        (_LOCAL, "get", "ns1", _WHOLE | {"admin", "admins"}),
        (_LOCAL, "create", "ns1", _WHOLE),
        (_LOCAL, "get", "ns2", _WHOLE),
    ],
)
def test_subjects_who_may(objects: list[dict[str, Any]], verb: str, namespace: str, who: set[str]) -> None:
    """From `subject_locator_test.go`, all but the super user, who is an option of the test."""
    found = subjects_who_may(Rbac(objects), AccessRequest(verb, None, "", "Pods", "", namespace))
    assert {one.name for one in found} == who


_TOOLS = {
    "hammer": [r("hammer", "", "nails"), r("hammer", "", "wedges")],
    "chisel": [r("chisel", "", "mortises")],
    "saw": [r("saw", "", "boards")],
    "other-saw": [r("saw", "", "boards")],
}


@pytest.mark.parametrize(
    ("labelled", "selected", "own", "gathered"),
    [
        ({"hammer": "bar"}, ["bar"], "saw", ["hammer"]),
        ({"hammer": "not-bar"}, ["bar"], "hammer", []),
        ({"hammer": "bar", "chisel": "bar", "saw": "not-bar"}, ["bar"], "", ["chisel", "hammer"]),
        (
            {"hammer": "bar", "chisel": "bar", "saw": "not-bar"},
            ["bar", "not-bar"],
            "",
            ["chisel", "hammer", "saw"],
        ),
        (
            {"hammer": "bar", "chisel": "bar", "saw": "bar", "other-saw": "not-bar"},
            ["bar", "not-bar"],
            "",
            ["chisel", "hammer", "saw"],
        ),
        ({"hammer": "bar"}, ["bar"], "hammer", ["hammer"]),
    ],
)
def test_aggregated_roles_have_what_is_selected_and_nothing_else(
    labelled: dict[str, str], selected: list[str], own: str, gathered: list[str]
) -> None:
    """From `clusterroleaggregation_controller_test.go`, all; own rules of an aggregated role do not count."""
    objects = []
    for name, label in labelled.items():
        one = cluster_role(name, *_TOOLS[name])
        objects.append(one | {"metadata": {"name": name, "labels": {"foo": label}}})
    selectors = [{"matchLabels": {"foo": one}} for one in selected]
    combined = cluster_role("combined", *_TOOLS.get(own, ()))
    objects.append(combined | {"aggregationRule": {"clusterRoleSelectors": selectors}})
    expected = [rule for name in gathered for rule in _TOOLS[name]]
    assert list(Rbac(objects).rules(ObjectKey("clusterroles", "", "combined")) or ()) == expected
