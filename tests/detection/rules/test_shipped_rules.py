"""The rules that ship: their own tests, the flaws of the API server they must catch, and silence on normal work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.rules.replay import replay
from detection.rules.rule_files import RuleSet, read_rules
from detection.rules.rule_tests import run_tests
from tests.conftest import RECORDINGS, ROOT

#: Scenarios of docs/scenarios.md in which the API server lets a request past a check, or is tried for one.
FLAWS = (
    "cve-2018-1002105-exec-upgrade",
    "cve-2018-1002105-aggregated",
    "cve-2019-11247-wrong-scope-cr",
    "cve-2020-8554-externalip-mitm",
    "cve-2020-8559-node-redirect",
    "cve-2021-25735-node-admission-bypass",
    "cve-2022-3162-cr-cross-read",
    "cve-2022-3172-apiservice-redirect",
    "cve-2022-3294-node-address-proxy",
    "cve-2023-2728-ephemeral-secret",
    "apiserver-payload-dos",
    "anonymous-access-granted",
    "unauth-probing-kube-hunter",
)


@pytest.fixture(scope="module")
def shipped() -> RuleSet:
    return read_rules([ROOT / "configs" / "rules"])


def test_every_file_is_a_rule_named_as_its_file(shipped: RuleSet) -> None:
    assert not shipped.broken
    assert len(shipped.rules) >= 20
    assert {f"{name}.yaml" for name in shipped.rules} == {
        path.name for path in Path(ROOT / "configs" / "rules").iterdir()
    }


def test_every_rule_passes_its_own_tests(shipped: RuleSet) -> None:
    failed = [one for rule in shipped.rules.values() for one in run_tests(rule) if not one.passed]
    assert not failed


def test_every_rule_says_what_it_must_hit_and_what_not(shipped: RuleSet) -> None:
    for rule in shipped.rules.values():
        assert {test.hits for test in rule.spec.tests} == {True, False}, rule.name
        assert rule.spec.description, rule.name
        assert rule.spec.techniques, rule.name


def test_every_flaw_of_the_api_server_that_leaves_a_trace_is_caught_as_the_document_says(
    shipped: RuleSet,
) -> None:
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (`.+`) \|$", (ROOT / "docs" / "rules.md").read_text(), re.M)
    documented = {flaw: set(re.findall(r"`([a-z0-9-]+)`", rules)) for flaw, rules in rows}
    assert set(documented) == set(FLAWS)
    for flaw in FLAWS:
        catching = {
            rule.name
            for rule in shipped.rules.values()
            for test in rule.spec.tests
            if test.hits and test.name.startswith(flaw)
        }
        assert catching
        assert catching == documented[flaw], flaw


def test_no_rule_hits_normal_work(shipped: RuleSet, normal_lines: list[bytes]) -> None:
    found = replay(list(shipped.rules.values()), [decode_lines(normal_lines).events])
    assert found.actions > 10_000
    assert not found.outcomes
    assert not any(one.errors or one.undecided for one in found.counts.values())


def test_attacks_in_a_recording_are_hit(shipped: RuleSet) -> None:
    """Of the labelled recording what is about external addresses and anonymous callers."""
    wanted = (b'"externalIPs":["', b'"username":"system:anonymous"')
    lines = [
        line for line in open_lines(RECORDINGS / "labelled.jsonl.zst") if any(one in line for one in wanted)
    ]
    found = replay(list(shipped.rules.values()), [decode_lines(lines).events])
    assert {name for name, _ in found.outcomes} == {"service-external-ips", "anonymous-probing"}
    assert len(found.hits) == sum(
        number for (_, outcome), number in found.outcomes.items() if outcome != "habit"
    )
    [first] = [one for one in found.hits if one.filtered.hit.rule.name == "service-external-ips"]
    assert first.filtered.hit.reason.endswith("takes what is sent to 8.8.8.8")
