"""The smallest roles for what a user did, as YAML to apply, with the reason for each rule in a comment."""

from __future__ import annotations

from typing import Any

import yaml

from data.visible_text import visible
from detection.authorization.least_privilege import candidates, minimal_rules
from detection.authorization.rbac import API_GROUP, SERVICE_ACCOUNT, Rbac
from detection.authorization.right_index import RightIndex
from detection.authorization.rules import PolicyRule
from detection.authorization.usage import UserUsage


def role_yaml(
    user: str, usage: UserUsage, rbac: Rbac, *, by_name: bool, index: RightIndex | None = None
) -> str:
    """The smallest roles for what a user did, with bindings, as YAML; comments say how often, and what exists already."""
    rules = minimal_rules(usage, by_name=by_name)
    stem = "".join(
        letter if letter.isascii() and letter.isalnum() else "-"
        for letter in user.removeprefix(SERVICE_ACCOUNT).lower()
    ).strip("-")
    parts = [f"# The rights that {visible(user)} used, and no others, by the log that was read."]
    for namespace, found in rules.items():
        kind = "Role" if namespace else "ClusterRole"
        metadata = {"name": f"{stem[:40]}-used"} | ({"namespace": namespace} if namespace else {})
        head = {"apiVersion": f"{API_GROUP}/v1", "kind": kind, "metadata": metadata}
        text = ["---", *_nearest(rbac, usage, namespace, index), _dump(head), "rules:"]
        for rule in found:
            text += [f"  # {_uses(rule, usage, namespace)}", _indented(_dump([rule.to_object()]))]
        binding = {
            "apiVersion": f"{API_GROUP}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": API_GROUP, "kind": kind, "name": metadata["name"]},
            "subjects": [_subject(user)],
        }
        parts += [*text, "---", _dump(binding)]
    return "\n".join(parts)


def _nearest(rbac: Rbac, usage: UserUsage, namespace: str, index: RightIndex | None) -> list[str]:
    return [
        f"# Existing: {one.role} lacks {one.missing} of these rights, and gives {one.unused} that were not used."
        for one in candidates(rbac, usage, namespace, index=index)
    ]


def _uses(rule: PolicyRule, usage: UserUsage, namespace: str) -> str:
    matching = [
        right
        for right in usage.counts
        if right.namespace == namespace
        and (
            right.path in rule.paths
            if right.path is not None
            else right.resource in rule.resources and right.group in rule.groups
        )
        and right.verb in rule.verbs
    ]
    last = max((usage.last[right] for right in matching), default="")
    return f"used {sum(usage.counts[right] for right in matching):,} times, last {last[:19]}Z"


def _subject(user: str) -> dict[str, Any]:
    if user.startswith(SERVICE_ACCOUNT):
        namespace, _, name = user.removeprefix(SERVICE_ACCOUNT).partition(":")
        return {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    return {"apiGroup": API_GROUP, "kind": "User", "name": user}


def _dump(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120).rstrip()


def _indented(text: str) -> str:
    return "\n".join(f"  {one}" for one in text.splitlines())
