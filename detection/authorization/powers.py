"""What the rules of a role make possible beyond themselves: rights that lead to those of others.

Each power is a request that an attacker would make. Sources: Kubernetes' RBAC good practices, and the edges and rules that
KubeHound, rbac-police and kubescape test against real clusters (docs/rbac.md counts what of them is here).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from detection.authorization.authorizer import MASTERS
from detection.authorization.rbac import API_GROUP
from detection.authorization.requests import AccessRequest
from detection.authorization.rules import ALL, PolicyRule

_CERTIFICATES, _ADMISSION = "certificates.k8s.io", "admissionregistration.k8s.io"
_WRITE, _CHANGE = ("create", "update", "patch"), ("update", "patch")
_WORKLOADS = (
    *(("apps", one) for one in ("deployments", "daemonsets", "statefulsets", "replicasets")),
    *(("batch", one) for one in ("jobs", "cronjobs")),
    ("", "replicationcontrollers"),
)
#: Names for which a power holds: None for all.
Names = frozenset[str] | None


@dataclass(frozen=True, slots=True)
class AccountWay:
    """A way to act as service accounts of a namespace.

    Attributes:
        power: which makes it possible.
        how: in words.
        technique: ATT&CK technique.
        by_name: whether a rule of names names the accounts themselves.
    """

    power: str
    how: str
    technique: str
    by_name: bool = False


def _requests(verbs: Iterable[str], group: str, *resources: str) -> tuple[AccessRequest, ...]:
    parts = [one.partition("/") for one in resources]
    return tuple(AccessRequest(verb, None, group, base, sub) for verb in verbs for base, _, sub in parts)


def _rbac(verb: str) -> dict[str, tuple[AccessRequest, ...]]:
    verbs = _CHANGE if verb == "change" else (verb,)
    kinds = ("roles", "clusterroles", "rolebindings", "clusterrolebindings")
    return {f"{verb} {kind}": _requests(verbs, API_GROUP, kind) for kind in kinds}


#: Power -> requests of which each suffices, without namespace and name.
POWERS: Mapping[str, tuple[AccessRequest, ...]] = {
    "everything": (AccessRequest(ALL, None, ALL, ALL),),
    "make tokens": _requests(("create",), "", "serviceaccounts/token"),
    "act as account": _requests(("impersonate",), "", "serviceaccounts"),
    "act as user": _requests(("impersonate",), "", "users"),
    "act as group": _requests(("impersonate",), "", "groups"),
    "start pods": _requests(("create",), "", "pods"),
    **{f"start {kind}": _requests(("create",), group, kind) for group, kind in _WORKLOADS},
    **{f"change {kind}": _requests(_CHANGE, group, kind) for group, kind in _WORKLOADS},
    # A WebSocket is opened by GET: before Kubernetes 1.35 that was enough.
    "run commands": _requests(("create", "get"), "", "pods/exec", "pods/attach"),
    "add containers": _requests(_CHANGE, "", "pods/ephemeralcontainers"),
    "change pods": _requests(_CHANGE, "", "pods"),
    "read secrets": _requests(("list", "watch", "get"), "", "secrets"),
    "reach kubelets": _requests(("create", "get"), "", "nodes/proxy"),
    "change admission": _requests(_WRITE, _ADMISSION, "mutatingwebhookconfigurations"),
    "change policies": _requests(_CHANGE, _ADMISSION, "mutatingadmissionpolicies"),
    "ask for certificates": _requests(("create",), _CERTIFICATES, "certificatesigningrequests"),
    "approve certificates": _requests(_CHANGE, _CERTIFICATES, "certificatesigningrequests/approval"),
    "approve for signers": _requests(("approve",), _CERTIFICATES, "signers"),
    "escalate roles": _requests(("escalate",), API_GROUP, "roles"),
    "escalate clusterroles": _requests(("escalate",), API_GROUP, "clusterroles"),
    "bind roles": _requests(("bind",), API_GROUP, "roles"),
    "bind clusterroles": _requests(("bind",), API_GROUP, "clusterroles"),
    **_rbac("create"),
    **_rbac("change"),
}

#: In the order in which one is named where several are possible.
ACCOUNT_WAYS = (
    AccountWay("make tokens", "makes a token of it", "T1528", by_name=True),
    AccountWay("act as account", "acts as it (impersonate)", "T1078", by_name=True),
    AccountWay("start pods", "starts a pod that runs as it", "T1610"),
    *(AccountWay(f"start {kind}", f"starts pods that run as it ({kind})", "T1610") for _, kind in _WORKLOADS),
    *(AccountWay(f"change {kind}", f"makes pods run as it ({kind})", "T1610") for _, kind in _WORKLOADS),
    AccountWay("run commands", "runs commands in its pods", "T1609"),
    AccountWay("add containers", "adds a container to its pods", "T1609"),
    AccountWay("change pods", "puts another image into its pods", "T1609"),
    AccountWay("read secrets", "reads its token, if it is in a secret", "T1552.007"),
)
#: Powers to start a pod on a node of one's choice, with the node's file system in it unless admission forbids that.
NODE_WAYS = ("start pods", *(f"{verb} {kind}" for verb in ("start", "change") for _, kind in _WORKLOADS))
#: Names that allow approval for a signer; one may stand for all of a domain.
CLIENT_SIGNERS = frozenset(("kubernetes.io/kube-apiserver-client", "kubernetes.io/*"))
KUBELET_SIGNERS = frozenset(("kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/*"))
MASTERS_GROUP = frozenset((MASTERS,))

_RESOURCES = frozenset(one.resource for some in POWERS.values() for one in some)
_WITH_SUBRESOURCE = frozenset(one.combined for some in POWERS.values() for one in some) | {ALL}
_SUBRESOURCES = frozenset(
    f"*/{one.subresource}" for some in POWERS.values() for one in some if one.subresource
)
_INTERESTING = _RESOURCES | _WITH_SUBRESOURCE | _SUBRESOURCES
_CACHED = 4_096


@lru_cache(_CACHED)
def powers_of(rules: tuple[PolicyRule, ...]) -> Mapping[str, Names]:
    """The powers that rules give, each with the names for which it holds."""
    found: dict[str, Names] = {}
    for rule in rules:
        if _INTERESTING.isdisjoint(rule.resources):
            continue
        of_all = PolicyRule(rule.verbs, rule.groups, rule.resources) if rule.names else rule
        for power, requests in POWERS.items():
            if found.get(power, ()) is None or not any(map(of_all.allows, requests)):
                continue
            names = found.get(power) or frozenset()
            found[power] = names | frozenset(rule.names) if rule.names else None
    return found
