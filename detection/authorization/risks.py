"""Rights that lead to others, and to what."""

from __future__ import annotations

from detection.authorization.rbac import API_GROUP
from detection.authorization.rules import ALL, PolicyRule

#: Rights that lead to others: verbs, groups, resources and why. The first that fits is given.
_RISKS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str], ...] = (
    ((ALL,), (ALL,), (ALL,), "everything"),
    (("escalate",), (API_GROUP,), ("roles", "clusterroles"), "gives a role any right (escalate)"),
    (("bind",), (API_GROUP,), ("roles", "clusterroles"), "binds any role to anybody (bind)"),
    (("impersonate",), ("",), ("users", "groups", "serviceaccounts"), "acts as others (impersonate)"),
    (
        ("create", "update", "patch"),
        (API_GROUP,),
        ("rolebindings", "clusterrolebindings"),
        "changes who has rights",
    ),
    (("create", "update", "patch"), (API_GROUP,), ("roles", "clusterroles"), "changes what roles allow"),
    (("get", "list", "watch"), ("",), ("secrets",), "reads secrets"),
    (("create", "get"), ("",), ("pods/exec", "pods/attach"), "runs commands in any pod"),
    (
        ("create", "get", "update", "patch", "delete"),
        ("",),
        ("nodes/proxy",),
        "reaches kubelets past the API server's checks",
    ),
    (("create",), ("",), ("serviceaccounts/token",), "makes tokens of service accounts"),
    (("create", "update", "patch"), ("",), ("pods/ephemeralcontainers",), "adds containers to running pods"),
    (("create",), ("",), ("pods",), "starts pods, as any service account of the namespace"),
    (
        ("create", "update", "patch"),
        ("apps", "batch", ""),
        (
            "deployments",
            "daemonsets",
            "statefulsets",
            "replicasets",
            "jobs",
            "cronjobs",
            "replicationcontrollers",
        ),
        "starts pods, as any service account of the namespace",
    ),
    (
        ("create", "update", "patch"),
        ("admissionregistration.k8s.io",),
        (
            *("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
            *("mutatingadmissionpolicies", "validatingadmissionpolicies"),
        ),
        "sees or changes what is written (webhooks)",
    ),
    (
        ("update", "patch", "approve", "sign"),
        ("certificates.k8s.io",),
        ("certificatesigningrequests/approval", "certificatesigningrequests/status", "signers"),
        "issues client certificates",
    ),
    (("update", "patch"), ("",), ("nodes", "nodes/status"), "moves pods between nodes"),
)


def risk_of(rule: PolicyRule) -> str:
    """What a broken-down right leads to; empty if it is an ordinary one."""
    if rule.paths:
        return ""
    verb, group, resource = rule.verbs[0], rule.groups[0], rule.resources[0]
    for verbs, groups, resources, why in _RISKS:
        if verbs[0] == ALL:
            if (verb, group, resource) == (ALL, ALL, ALL):
                return why
        elif (
            (verb == ALL or verb in verbs)
            and (group == ALL or group in groups)
            and (
                resource == ALL
                or resource in resources
                or (resource.startswith("*/") and any(one.endswith(resource[1:]) for one in resources))
            )
        ):
            return why
    return ""
