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


def test_a_pattern_that_may_backtrack_is_refused_or_in_a_saved_table_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = [{"level": "high", "resources": ["(?=a)a"]}, {"level": "low", "verbs": ["get"]}]
    with pytest.raises(KubehabitError, match="RE2's language"):
        Sensitivity(table)
    saved = Sensitivity(table, strict=False)
    assert saved.table == table
    assert level("get", "a", rules=saved) == "low"
    assert "left out" in caplog.text


@pytest.mark.parametrize(("impersonates", "expected"), [("-", "routine"), ("dev-1", "high"), ("--", "high")])
def test_the_rule_for_impersonation_is_the_same_in_tables_saved_before(
    impersonates: str, expected: str
) -> None:
    saved = Sensitivity([{"level": "high", "impersonates": ["(?!-$).*"]}])
    for rules in (SHIPPED, saved):
        found = rules.look_up(("get", "pods", "-", "web", "-", "ok", impersonates))
        assert LEVELS[found[0]] == expected
