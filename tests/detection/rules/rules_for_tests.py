"""Small rules and events for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.events.audit_event import AuditEvent
from detection.rules.rule import API_VERSION, KIND, Rule, rule_from
from detection.rules.rule_tests import event_of_test

ANY = {"resourceRules": [{"resources": ["*/*"]}]}


def document(name: str = "test", **spec: Any) -> dict[str, Any]:
    """The plain data of a rule about everything, unless the test says otherwise."""
    usual = {
        "title": "A test",
        "severity": "medium",
        "matchConstraints": ANY,
        "expression": "true",
        "reason": "it was done",
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": usual | spec}


def rule(name: str = "test", **spec: Any) -> Rule:
    return rule_from(document(name, **spec))


def events(*contents: Mapping[str, Any]) -> Sequence[AuditEvent]:
    return [event_of_test(one, number) for number, one in enumerate(contents)]


def of_object(resource: str = "pods", **more: Any) -> dict[str, Any]:
    """The content of an event about an object in a namespace."""
    ref: dict[str, Any] = {"resource": resource, "namespace": "team-a", "name": "web-0"}
    ref |= {key: more.pop(key) for key in ("apiGroup", "namespace", "name", "subresource") if key in more}
    return {"objectRef": ref} | more
