"""Who can become whom: steps by which a user's rights lead to those of another, and paths of such steps.

A step is possible by RBAC alone. Admission, pod security and what runs where may still stand in its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from detection.authorization.authorizer import MASTERS
from detection.authorization.rbac import API_GROUP, SERVICE_ACCOUNT, BindingGrant, Rbac
from detection.authorization.requests import AccessRequest

#: The end of every path: everything is allowed here.
ADMIN = "cluster-admin"
_WORKLOADS = (
    *(("apps", one) for one in ("deployments", "daemonsets", "statefulsets", "replicasets")),
    *(("batch", one) for one in ("jobs", "cronjobs")),
)


@dataclass(frozen=True, slots=True)
class EscalationStep:
    """One step: `source` can act as `target`.

    Attributes:
        how: in words.
        grant: binding that makes it possible.
        technique: ATT&CK technique.
    """

    source: str
    target: str
    how: str
    grant: BindingGrant | None
    technique: str


@dataclass(frozen=True, slots=True)
class AllowedSubject:
    """A user or group that may do something.

    Attributes:
        kind: User or Group; empty if the log did not say whom a binding names.
        grant: by which binding; None for `system:masters`.
        sure: whether it is known what the binding gives.
    """

    kind: str
    name: str
    grant: BindingGrant | None
    sure: bool


def subjects_who_may(rbac: Rbac, request: AccessRequest) -> list[AllowedSubject]:
    """Who may make a request, by every binding that allows it."""
    found = [AllowedSubject("Group", MASTERS, None, True)]
    for key in sorted(rbac.bindings):
        binding = rbac.bindings[key]
        if binding.role is None or key.namespace not in ("", request.namespace):
            continue
        granted = rbac.grants(grant := BindingGrant(key, binding.role), request)
        if granted is False:
            continue
        subjects = [("User", one) for one in sorted(binding.users or ())]
        subjects += [("Group", one) for one in sorted(binding.groups or ())]
        for kind, name in subjects or [("", "unknown")]:
            found.append(AllowedSubject(kind, name, grant, granted is True))
    return found


class Escalation:
    """The steps that an `Rbac` allows, found when they are asked for.

    Args:
        rbac: as it stands.
        accounts: service accounts that exist, as user names; those that bindings name are added.
    """

    def __init__(self, rbac: Rbac, accounts: Iterable[str] = ()) -> None:
        self._rbac = rbac
        bound = {user for one in rbac.bindings.values() for user in one.users or ()}
        self._users = sorted(bound | set(accounts))
        self._accounts: dict[str, list[str]] = {}
        for user in self._users:
            if user.startswith(SERVICE_ACCOUNT):
                namespace = user.removeprefix(SERVICE_ACCOUNT).partition(":")[0]
                self._accounts.setdefault(namespace, []).append(user)

    def groups_of(self, user: str) -> tuple[str, ...]:
        """Groups that every such user has."""
        if not user.startswith(SERVICE_ACCOUNT):
            return ("system:authenticated",)
        namespace = user.removeprefix(SERVICE_ACCOUNT).partition(":")[0]
        return ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")

    def _may(self, user: str, groups: tuple[str, ...], request: AccessRequest) -> BindingGrant | None:
        grants = self._rbac.bindings_of(user, groups, request.namespace)
        return next((grant for grant in grants if self._rbac.grants(grant, request)), None)

    def steps(self, user: str, groups: tuple[str, ...]) -> Iterator[EscalationStep]:
        """Every step of a user with its groups, the most powerful first."""
        everything = self._may(user, groups, AccessRequest("*", None, "*", "*"))
        if MASTERS in groups or everything:
            yield EscalationStep(user, ADMIN, "may do everything", everything, "T1078")
            return
        # To give oneself any right takes the verb itself, and a write of the object it is about.
        for verb, how, written in (
            ("escalate", "gives a role any right", "clusterroles"),
            ("bind", "binds any role to itself", "clusterrolebindings"),
        ):
            right = self._may(user, groups, AccessRequest(verb, None, API_GROUP, "clusterroles"))
            if right and any(
                self._may(user, groups, AccessRequest(write, None, API_GROUP, written))
                for write in ("create", "update", "patch")
            ):
                yield EscalationStep(user, ADMIN, how, right, "T1098.006")
        if grant := self._may(
            user, groups, AccessRequest("impersonate", None, "", "groups", "", "", MASTERS)
        ):
            yield EscalationStep(
                user, ADMIN, f"acts as a member of {MASTERS} (impersonate groups)", grant, "T1078"
            )
        if grant := self._may(user, groups, AccessRequest("create", None, "", "nodes", "proxy")):
            yield EscalationStep(
                user, ADMIN, "runs commands in any pod through a kubelet (nodes/proxy)", grant, "T1611"
            )
        for verb in ("update", "patch"):
            approves = AccessRequest(
                verb, None, "certificates.k8s.io", "certificatesigningrequests", "approval"
            )
            signs = AccessRequest(
                "approve",
                None,
                "certificates.k8s.io",
                "signers",
                "",
                "",
                "kubernetes.io/kube-apiserver-client",
            )
            if (grant := self._may(user, groups, approves)) and self._may(user, groups, signs):
                yield EscalationStep(
                    user, ADMIN, "approves a client certificate for any name", grant, "T1136"
                )
                break
        for other in self._users:
            if other == user:
                continue
            step = self._to(user, groups, other)
            if step is not None:
                yield step

    def _to(self, user: str, groups: tuple[str, ...], other: str) -> EscalationStep | None:
        if not other.startswith(SERVICE_ACCOUNT):
            grant = self._may(user, groups, AccessRequest("impersonate", None, "", "users", "", "", other))
            return EscalationStep(user, other, "acts as it (impersonate)", grant, "T1078") if grant else None
        namespace, _, name = other.removeprefix(SERVICE_ACCOUNT).partition(":")
        ways = (
            (
                AccessRequest("create", None, "", "serviceaccounts", "token", namespace, name),
                "makes a token of it",
                "T1528",
            ),
            (
                AccessRequest("impersonate", None, "", "serviceaccounts", "", namespace, name),
                "acts as it (impersonate)",
                "T1078",
            ),
            (
                AccessRequest("create", None, "", "pods", "", namespace),
                "starts a pod that runs as it",
                "T1610",
            ),
            *(
                (
                    AccessRequest("create", None, group, resource, "", namespace),
                    f"starts pods that run as it ({resource})",
                    "T1610",
                )
                for group, resource in _WORKLOADS
            ),
            *(
                (
                    AccessRequest("patch", None, group, resource, "", namespace),
                    f"makes pods run as it ({resource})",
                    "T1610",
                )
                for group, resource in _WORKLOADS
            ),
            (
                AccessRequest("create", None, "", "pods", "exec", namespace),
                "runs commands in its pods",
                "T1609",
            ),
            (
                AccessRequest("list", None, "", "secrets", "", namespace),
                "reads its token, if it is in a secret",
                "T1552.007",
            ),
        )
        for request, how, technique in ways:
            grant = self._may(user, groups, request)
            if grant is not None:
                return EscalationStep(user, other, how, grant, technique)
        return None

    def paths(self, user: str, groups: tuple[str, ...], *, most: int = 4) -> dict[str, list[EscalationStep]]:
        """The shortest path from a user to everybody whom it can become in at most `most` steps."""
        found: dict[str, list[EscalationStep]] = {}
        waiting = deque([(user, groups, list[EscalationStep]())])
        while waiting:
            here, of, path = waiting.popleft()
            if len(path) >= most:
                continue
            for step in self.steps(here, of):
                if step.target == user or step.target in found:
                    continue
                found[step.target] = [*path, step]
                if step.target != ADMIN:
                    waiting.append((step.target, self.groups_of(step.target), found[step.target]))
        return found
