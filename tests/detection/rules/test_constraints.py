"""Which requests a rule is about, answered on columns."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from detection.rules.constraints import ColumnMatcher, MatchConstraints, constraints_from
from detection.rules.patterns import matches_pattern
from detection.rules.scopes import ClusterWideResources
from tests.detection.rules.rules_for_tests import ANY, events, of_object


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("kube-*", "kube-system", True),
        ("*-system", "kube-system", True),
        ("a*b*c", "a--b--c", True),
        ("a*b*c", "a--c--b", False),
        ("aba*aba", "aba", False),
        ("*", "", True),
        ("", "a", False),
    ],
)
def test_a_star_stands_for_any_characters(pattern: str, text: str, expected: bool) -> None:
    assert matches_pattern(pattern, text) is expected


@pytest.mark.parametrize(
    ("resources", "resource", "subresource", "expected"),
    [
        (["pods"], "pods", "", True),
        (["pods"], "pods", "exec", False),
        (["pods/exec"], "pods", "exec", True),
        (["pods/*"], "pods", "log", True),
        (["pods/*"], "pods", "", False),
        (["*"], "secrets", "", True),
        (["*"], "pods", "exec", False),
        (["*/*"], "pods", "exec", True),
        (["*/*"], "pods", "", True),
        (["*/scale"], "deployments", "scale", True),
    ],
)
def test_resources_are_named_as_in_admission_policies(
    resources: list[str], resource: str, subresource: str, expected: bool
) -> None:
    constraints = constraints_from({"resourceRules": [{"resources": resources}]})
    assert constraints.about(("get", "", resource, subresource)) is expected


def matching(content: dict[str, Any], *wanted: dict[str, Any], kinds: list[str] | None = None) -> list[int]:
    given = events(*wanted)
    matcher = ColumnMatcher([constraints_from(content)])
    return [row for row, _ in matcher.matches(given, kinds or ["human"] * len(given), ClusterWideResources())]


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"namespaces": ["kube-*"]}, [1]),
        ({"excludeNamespaces": ["kube-*", ""]}, [0, 3]),
        ({"users": ["bob@*"]}, [2]),
        ({"excludeUsers": ["*@example.com"]}, []),
        ({"codes": ["4xx"]}, [3]),
        ({"codes": [200, 403]}, [0, 1, 2, 3]),
        ({"impersonated": True}, [1]),
        ({"impersonated": False}, [0, 2, 3]),
        ({"uriContains": ["/nodes/"]}, [2]),
        ({"kinds": ["node"]}, []),
        ({"bodyContains": ["hostPath"]}, [3]),
    ],
)
def test_each_constraint_leaves_out_what_it_is_not_about(
    constraints: dict[str, Any], expected: list[int]
) -> None:
    found = matching(
        ANY | constraints,
        of_object(),
        of_object(namespace="kube-system", impersonatedUser={"username": "x"}),
        {"objectRef": {"resource": "nodes", "name": "n"}, "user": {"username": "bob@example.com"}},
        of_object(responseStatus={"code": 403}, requestObject={"hostPath": "/"}),
    )
    assert found == expected


def test_names_of_objects_and_exclusions_decide_together() -> None:
    constraints = {
        "resourceRules": [{"resources": ["configmaps"], "resourceNames": ["aws-*", "coredns"]}],
        "excludeResourceRules": [
            {"resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["coredns"]}
        ],
    }
    wanted = [
        of_object("configmaps", name="aws-auth"),
        of_object("configmaps", name="coredns"),
        of_object("configmaps", name="coredns", verb="patch"),
        of_object("configmaps", name="other"),
    ]
    assert matching(constraints, *wanted) == [0, 2]


def test_paths_outside_the_resource_api_can_be_meant_and_left_out() -> None:
    constraints = {"nonResourceRules": [{"nonResourceURLs": ["*"]}], "excludeNonResourceURLs": ["/livez*"]}
    wanted = [{"requestURI": uri} for uri in ("/version", "/livez?verbose", "/apis/x")]
    assert matching(constraints, *wanted, of_object()) == [0, 2]


def test_a_body_whose_letters_are_escaped_is_looked_at() -> None:
    """A patch is logged as its client wrote it."""
    patch = of_object("services", verb="patch", requestObject={"spec": {}})
    escaped = events(patch)[0]
    escaped.requestObject = msgspec.Raw(b'{"spec":{"external\\u0049Ps":["8.8.8.8"]}}')
    matcher = ColumnMatcher([constraints_from(ANY | {"bodyContains": ["externalIPs"]})])
    assert [row for row, _ in matcher.matches([escaped], ["human"], ClusterWideResources())] == [0]


def test_many_constraints_are_answered_together_as_each_by_itself() -> None:
    wanted = [
        of_object(),
        of_object("secrets", verb="list"),
        of_object("pods", subresource="exec", verb="create"),
    ]
    contents = [
        {"resourceRules": [{"resources": ["pods"]}]},
        {"resourceRules": [{"verbs": ["list"]}]},
        {"resourceRules": [{"resources": ["pods/exec"]}], "namespaces": ["team-a"]},
    ]
    given = events(*wanted)
    matcher = ColumnMatcher([constraints_from(one) for one in contents])
    together = dict(matcher.matches(given, ["human"] * 3, ClusterWideResources()))
    assert together == {0: 0b001, 1: 0b010, 2: 0b100}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "resourceRules or nonResourceRules"),
        (ANY | {"kinds": ["robot"]}, "'robot' is no kind"),
        (ANY | {"codes": ["9xx"]}, "'9xx' is no response code"),
        (ANY | {"users": ["*a*b*c*d*"]}, "stars"),
        (ANY | {"user": ["a"]}, "unknown field"),
    ],
)
def test_what_cannot_be_meant_is_refused(content: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(content, MatchConstraints)
