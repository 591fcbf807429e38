"""Sigma rules of our own, turned into rules and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detection.rules.evaluator import RuleEvaluator
from detection.rules.rule import rule_from
from detection.rules.rule_files import read_rules
from detection.rules.rule_tests import acted_events
from detection.rules.sigma_import import SigmaFormError, convert_files, convert_text
from tests.detection.rules.rules_for_tests import events, of_object

pytest.importorskip("sigma.rule")

HEAD = """
title: {title}
id: 5d9c6d0a-0a0a-4f3e-9c1c-0c5f9b6c2a11
status: test
description: Written for this test.
author: the authors of kubehabit
references: [https://example.com/x]
tags: [attack.execution, attack.t1609]
logsource: {{product: kubernetes, service: audit}}
level: high
detection:
"""


def sigma(detection: str, title: str = "A shell in a Pod") -> str:
    lines = [f"  {line}" for line in detection.strip().splitlines()]
    return HEAD.format(title=title) + "\n".join(lines) + "\n"


def hits(text: str, *contents: dict[str, Any]) -> list[int]:
    content, _ = convert_text(text)
    found = RuleEvaluator([rule_from(content)]).evaluate(acted_events(events(*contents)))
    return [one.row for one in found]


def test_a_sigma_rule_becomes_a_rule_with_its_origin() -> None:
    text = sigma(
        """
selection:
  verb: create
  objectRef.resource: pods
  objectRef.subresource: [exec, attach]
condition: selection
"""
    )
    content, warnings = convert_text(text)
    spec = content["spec"]
    assert content["metadata"]["name"] == "sigma-a-shell-in-a-pod"
    assert (spec["severity"], spec["techniques"]) == ("high", ["T1609"])
    assert "the authors of kubehabit" in spec["description"]
    assert spec["matchConstraints"] == {
        "resourceRules": [{"resources": ["pods/exec", "pods/attach"], "verbs": ["create"]}]
    }
    assert warnings == [
        "it asks for the verb create, and kubectl from 1.31 on sends exec, attach and port-forward as get"
    ]
    exec_ = of_object(verb="create", subresource="exec")
    assert hits(text, exec_, of_object(verb="create"), exec_ | {"verb": "get"}) == [0]


@pytest.mark.parametrize(
    ("detection", "expected"),
    [
        ("s: {userAgent|contains: RAKKESS}\ncondition: s", [1]),
        ("s: {requestURI|endswith: /token}\ncondition: s", [2]),
        ("s: {user.username|startswith: 'system:'}\nf: {user.groups: admins}\ncondition: s and not f", [1]),
        ("s: {user.username|re: '^bob@.*[.]com$'}\ncondition: s", [2]),
        ("s: {objectRef.resource: secrets}\nt: {responseStatus.code: 403}\ncondition: s or t", [0, 2]),
        ("s: {objectRef.namespace: null}\ncondition: s", [2]),
        ("s: {requestObject.type: Opaque}\ncondition: s", [0]),
        ("s: {objectRef.name: web-?}\ncondition: s", [0, 1]),
        ("s: {verb: [LIST, Watch]}\ncondition: 1 of s*", [1]),
    ],
)
def test_each_way_to_compare_keeps_its_meaning(detection: str, expected: list[int]) -> None:
    given = [
        of_object("secrets", requestObject={"type": "Opaque"}),
        of_object(verb="list", userAgent="kubectl-rakkess/1", user={"username": "system:a", "groups": ["x"]}),
        {
            "requestURI": "/api/v1/token",
            "user": {"username": "bob@example.com"},
            "responseStatus": {"code": 403},
            "objectRef": {"resource": "nodes"},
        },
    ]
    assert hits(sigma(detection), *given) == expected


def test_what_is_in_a_body_is_found_where_native_events_have_it() -> None:
    mounts = sigma("s: {verb: create, objectRef.resource: pods, hostPath: '*'}\ncondition: s")
    adds = sigma("s: {capabilities: [SYS_ADMIN, '*']}\ncondition: s")
    volumes = {"spec": {"volumes": [{"hostPath": {"path": "/"}}]}}
    capable = {"spec": {"containers": [{"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}}
    given = [of_object(verb="create", requestObject=one) for one in (volumes, capable)]
    assert (hits(mounts, *given), hits(adds, *given)) == ([0], [1])


def test_what_can_never_match_native_events_is_warned_of() -> None:
    content, warnings = convert_text(
        sigma("s: {verb: get, responseStatus.code: ALLOW}\nt: {verb: list}\ncondition: s or t")
    )
    assert warnings == [
        "responseStatus.code is compared with the text 'ALLOW', and API servers write a number there: this part never holds",
        "it names neither verb nor resource that every match has: its expression runs for every request",
    ]
    assert "false" in content["spec"]["expression"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (sigma("keywords: [evil]\ncondition: keywords"), "words anywhere"),
        (sigma("s: {properties.log: x}\ncondition: s"), "no field 'properties.log'"),
        (sigma("s: {userAgent|re: '(?=x)'}\ncondition: s"), "invalid"),
        (sigma("s: {sourceIPs|cidr: 10.0.0.0/8}\ncondition: s"), "has no equal"),
        (sigma("s: {verb: get}\ncondition: t"), "no Sigma rule"),
        (
            sigma("s: {verb: get}\ncondition: s").replace("product: kubernetes", "product: azure"),
            "logs of azure",
        ),
        ("a: [", "no Sigma rule"),
        ("- 1", "no Sigma rule"),
    ],
)
def test_what_has_no_equal_is_said(text: str, words: str) -> None:
    with pytest.raises(SigmaFormError, match=words):
        convert_text(text)


def test_files_are_written_once_and_can_be_read(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yml", tmp_path / "bad.yml"
    good.write_text(
        sigma("s: {verb: deletecollection, objectRef.resource: events}\ncondition: s", "Events gone")
    )
    bad.write_text("no: rule")
    found = convert_files([good, bad], tmp_path / "out")
    assert [one.path and one.path.name for one in found] == ["sigma-events-gone.yaml", None]
    assert list(read_rules([tmp_path / "out"]).rules) == ["sigma-events-gone"]
    assert "exists" in convert_files([good], tmp_path / "out")[0].problem
