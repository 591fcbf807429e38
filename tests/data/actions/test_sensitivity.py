"""How much harm an action could do: the highest rule, within the lowest cap."""

import pytest

from data.actions.sensitivity import LEVELS, Sensitivity
from data.errors import KubehabitError
from data.paths import shipped

SHIPPED = Sensitivity(shipped("sensitivity.yaml")["rules"])


def level(
    verb: str, resource: str, code: str = "ok", namespace: str = "web", rules: Sensitivity = SHIPPED
) -> str:
    return LEVELS[rules.look_up((verb, resource, "-", namespace, "-", code, "-"))[0]]


@pytest.mark.parametrize(
    ("verb", "resource", "code", "expected"),
    [
        ("list", "pods", "ok", "routine"),
        ("get", "configmaps", "ok", "low"),
        ("get", "secrets", "ok", "medium"),
        ("list", "secrets", "ok", "high"),
        ("list", "secrets", "403", "low"),
        ("list", "pods", "403", "low"),
        ("delete", "apps/deployments", "404", "routine"),
    ],
)
def test_what_was_refused_or_not_found_did_no_harm(
    verb: str, resource: str, code: str, expected: str
) -> None:
    assert level(verb, resource, code) == expected


def test_order_of_rules_does_not_matter() -> None:
    rules = [
        {"level": "high", "verbs": ["list"]},
        {"at_most": "medium", "codes": ["403"]},
        {"at_most": "low", "resources": ["pods"]},
        {"level": "low"},
    ]
    for table in (rules, rules[::-1]):
        both = Sensitivity(table)
        assert level("list", "secrets", "ok", rules=both) == "high"
        assert level("list", "secrets", "403", rules=both) == "medium"
        assert level("list", "pods", "403", rules=both) == "low"
        assert level("get", "pods", "ok", rules=both) == "low"


def test_a_cap_raises_nothing() -> None:
    assert level("get", "pods", rules=Sensitivity([{"at_most": "high"}])) == "routine"


@pytest.mark.parametrize(
    "entry", [{}, {"level": "grave"}, {"level": "low", "at_most": "low"}, {"at_most": "no"}]
)
def test_a_rule_needs_one_known_level(entry: dict[str, str]) -> None:
    with pytest.raises(KubehabitError, match="needs a level, or an at_most"):
        Sensitivity([entry])
