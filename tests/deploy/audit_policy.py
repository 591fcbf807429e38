"""What kube-apiserver would have written of a request under an audit policy (k8s.io/apiserver/pkg/audit/policy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEVELS = ("None", "Metadata", "Request", "RequestResponse")

Rule = Mapping[str, Any]
Event = Mapping[str, Any]


def _resource_matches(rule: Rule, ref: Mapping[str, str]) -> bool:
    if rule.get("namespaces") and ref.get("namespace", "") not in rule["namespaces"]:
        return False
    if not rule.get("resources"):
        return True
    resource, subresource = ref["resource"], ref.get("subresource", "")
    combined = f"{resource}/{subresource}" if subresource else resource
    accepted = {"*", combined, f"{resource}/*"} | ({f"*/{subresource}"} if subresource else set())
    for group in rule["resources"]:
        if group.get("group", "") != ref.get("apiGroup", ""):
            continue
        names = group.get("resourceNames")
        if not group.get("resources"):
            return True
        if accepted.intersection(group["resources"]) and (not names or ref.get("name", "") in names):
            return True
    return False


def _matches(rule: Rule, event: Event) -> bool:
    user, ref = event["user"], event.get("objectRef") or {}
    if rule.get("users") and user.get("username", "") not in rule["users"]:
        return False
    if rule.get("userGroups") and not set(user.get("groups") or ()).intersection(rule["userGroups"]):
        return False
    if rule.get("verbs") and event["verb"] not in rule["verbs"]:
        return False
    if rule.get("namespaces") or rule.get("resources"):
        return bool(ref.get("resource")) and _resource_matches(rule, ref)
    if rule.get("nonResourceURLs"):
        path = event["requestURI"].partition("?")[0]
        return not ref.get("resource") and any(
            spec in ("*", path) or (spec.endswith("*") and path.startswith(spec.rstrip("*")))
            for spec in rule["nonResourceURLs"]
        )
    return True


def decide(policy: Mapping[str, Any], event: Event) -> tuple[str, Sequence[str], int | None]:
    """Level, stages left out, and which rule said so (None: none did, so nothing is written)."""
    always = policy.get("omitStages") or []
    for number, rule in enumerate(policy["rules"]):
        if _matches(rule, event):
            return rule["level"], [*always, *(rule.get("omitStages") or [])], number
    return "None", always, None


def written(policy: Mapping[str, Any], event: Event) -> dict[str, Any] | None:
    """The event as it would be in the log, or None."""
    level, omitted, _ = decide(policy, event)
    if level == "None" or event["stage"] in omitted:
        return None
    # A policy cannot bring back what an event was written without.
    kept = dict(event, level=min(level, event["level"], key=LEVELS.index))
    if level in ("None", "Metadata"):
        kept.pop("requestObject", None)
    if level != "RequestResponse":
        kept.pop("responseObject", None)
    body = kept.get("requestObject")
    if policy.get("omitManagedFields") and isinstance(body, dict) and isinstance(body.get("metadata"), dict):
        metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
        kept["requestObject"] = body | {"metadata": metadata}
    return kept
