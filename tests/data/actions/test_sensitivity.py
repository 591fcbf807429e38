"""How much harm an action could do: the highest rule, within the lowest cap."""

import numpy as np
import pytest

from data.actions.sensitivity import HARMLESS, LEVELS, Sensitivity
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
        ("create", "authorization.k8s.io/selfsubjectaccessreviews", "ok", "routine"),
        ("create", "authentication.k8s.io/tokenreviews", "ok", "routine"),
    ],
)
def test_what_was_refused_or_not_found_or_only_asked_did_no_harm(
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


def test_ones_own_fresh_work_is_capped_whatever_it_is() -> None:
    levels = np.array([3, 0, 2], np.int8)
    SHIPPED.cap_own_work(levels, [0, 1])
    assert levels.tolist() == [HARMLESS, HARMLESS, 2]
    without = Sensitivity([{"level": "high", "verbs": ["delete"]}])
    without.cap_own_work(levels, [2])
    assert levels.tolist() == [HARMLESS, HARMLESS, 2]


@pytest.mark.parametrize(
    "entry",
    [{"level": "low", "own_work": True}, {"at_most": "low", "own_work": True, "verbs": ["delete"]}],
)
def test_the_rule_for_own_work_is_a_cap_for_all_of_it(entry: dict[str, object]) -> None:
    with pytest.raises(KubehabitError, match="own_work holds for removals"):
        Sensitivity([entry])
