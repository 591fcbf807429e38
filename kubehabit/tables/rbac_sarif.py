"""Findings of `kubehabit rbac check` and `report` as SARIF 2.1.0, for code scanning and security dashboards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.visible_text import visible
from detection.authorization.agreement import CONTRADICTIONS

_Object = dict[str, Any]
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_HELP = "Take the right away if nothing needs it: `kubehabit rbac whatif` says what that would have denied."
_UNUSED = "unused-right"


def _slug(text: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join(words)


def _result(rule: str, level: str, text: str, file: Path, about: str, parts: Iterable[str]) -> _Object:
    """One finding, in the file of the snapshot, with the binding or request that it is about."""
    digest = hashlib.sha256("\0".join((rule, *parts)).encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": visible(text)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": file.as_posix()},
                    "region": {"startLine": 1},
                },
                "logicalLocations": [{"name": visible(about), "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"kubehabit/v1": digest[:32]},
    }


def _log(rules: Mapping[str, str], results: Sequence[_Object], help_text: str) -> _Object:
    """A SARIF log of one run; rules are IDs with their descriptions."""
    described = [
        {"id": rule, "shortDescription": {"text": text}, "help": {"text": help_text}}
        for rule, text in rules.items()
    ]
    driver = {
        "name": "kubehabit",
        "version": version("kubehabit"),
        "rules": described,
    }
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": list(results)}],
    }


def report_sarif(users: Sequence[_Object], file: Path) -> _Object:
    """Rights that were granted and never used: a warning for one that leads to others, else a note.

    Args:
        users: as `report_object` makes them.
        file: of the snapshot.
    """
    risks = {right["risk"] for one in users for right in one["rights"] if right["risk"]}
    rules = {
        f"{_UNUSED}-{_slug(risk)}": f"A right that was never used and leads further: {risk}"
        for risk in sorted(risks)
    }
    rules[_UNUSED] = "A right that was granted and never used"
    results = [
        _result(
            f"{_UNUSED}-{_slug(right['risk'])}" if right["risk"] else _UNUSED,
            "warning" if right["risk"] else "note",
            f"{one['user']} may {right['right']} by {right['binding']} and never did"
            + (f": {right['risk']}." if right["risk"] else "."),
            file,
            right["binding"],
            (one["user"], right["right"], right["binding"]),
        )
        for one in users
        for right in one["rights"]
        if not right["uses"]
    ]
    return _log(rules, results, _HELP)


def check_sarif(found: _Object, file: Path) -> _Object:
    """Contradictions between a log and the rules, each an error; `found` as `check_object` makes it."""
    rules = {_slug(outcome): meaning for outcome, meaning in CONTRADICTIONS.items()}
    results = [
        _result(
            _slug(one["outcome"]),
            "error",
            f"{one['user']}: {one['request']} at {one['time']} (auditID {one['auditID']}): {one['meaning']}.",
            file,
            one["recorded"] or one["request"],
            (one["user"], one["request"], one["auditID"]),
        )
        for one in found["contradictions"]
    ]
    help_text = (
        "Either the API server let a request past a check, or RBAC changed without a trace in the log."
    )
    return _log(rules, results, help_text)
