"""Whether a cluster's own rules allow a request: yes, no opinion, or unknown; never a guess.

Authorizers of the API server are asked one after the other, and one that allows is enough. RBAC and the group `system:masters`
are decided here, and of the node authorizer (`plugin/pkg/auth/authorizer/node` of Kubernetes) what needs no knowledge of which
pods run where. Clouds have authorizers of their own, of which a snapshot of RBAC knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detection.authorization.rbac import BindingGrant, ObjectKey, Rbac
from detection.authorization.requests import AccessRequest

MASTERS = "system:masters"
_NODES = "system:nodes"
_NODE = "system:node:"
#: The role whose rules the node authorizer applies to every node; no binding names it.
_NODE_ROLE = ObjectKey("clusterroles", "", "system:node")
#: Resources of which a node may touch only what belongs to the pods that run on it.
_BY_GRAPH = frozenset(
    (
        *(("", one) for one in ("secrets", "configmaps", "persistentvolumeclaims", "persistentvolumes")),
        *(
            ("", "serviceaccounts"),
            ("storage.k8s.io", "volumeattachments"),
            ("resource.k8s.io", "resourceclaims"),
        ),
        ("resource.k8s.io", "resourceslices"),
    )
)
_OF_ITSELF = {("coordination.k8s.io", "leases"): "kube-node-lease", ("storage.k8s.io", "csinodes"): ""}
#: Paths that API servers allow to everybody unless they are configured otherwise (`--authorization-always-allow-paths`).
_ALWAYS = ("/healthz", "/livez", "/readyz")
_CACHED = 200_000

Opinion = Literal["allow", "no opinion", "unknown"]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say about a request.

    Attributes:
        opinion: `allow`; `no opinion`: nothing allows it, so the API server refuses it unless another authorizer allows it;
            `unknown`: part of what would decide it is not known.
        grant: the first binding that allows it, with its role.
        reason: in words.
    """

    opinion: Opinion
    grant: BindingGrant | None
    reason: str


class Authorizer:
    """Decides requests by an `Rbac`, which may change between them; decisions are remembered until it does."""

    def __init__(self, rbac: Rbac) -> None:
        self.rbac = rbac
        self._generation = rbac.generation
        self._known: dict[tuple[str, tuple[str, ...], AccessRequest], Ruling] = {}

    def decide(self, user: str, groups: Sequence[str], request: AccessRequest) -> Ruling:
        """Decide a request of a user.

        Args:
            user, groups: as the API server sees them: the audit event's `user`, or `impersonatedUser` if there is one.
            request: what is asked for.
        """
        if self._generation != self.rbac.generation or len(self._known) >= _CACHED:
            self._known.clear()
            self._generation = self.rbac.generation
        key = user, tuple(groups), request
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._decide(user, groups, request)
        return known

    def _decide(self, user: str, groups: Sequence[str], request: AccessRequest) -> Ruling:
        if MASTERS in groups:
            return Ruling("allow", None, f"members of {MASTERS} may do everything, by no binding")
        if request.path in _ALWAYS:
            return Ruling("allow", None, "every caller may ask for health")
        unsure: BindingGrant | None = None
        for grant in self.rbac.bindings_of(user, groups, request.namespace):
            granted = self.rbac.grants(grant, request)
            if granted:
                return Ruling("allow", grant, f"{grant.binding} of {grant.role}")
            if granted is None:
                unsure = unsure or grant
        if unsure is not None:
            return Ruling(
                "unknown", unsure, f"the log does not say what {unsure.binding} gives now, and to whom"
            )
        if user.startswith(_NODE) and _NODES in groups:
            return self._of_node(user.removeprefix(_NODE), request)
        return Ruling("no opinion", None, "no binding of this user or its groups allows it")

    def _of_node(self, node: str, request: AccessRequest) -> Ruling:
        what = request.group, request.resource
        if what in _BY_GRAPH:
            return Ruling("unknown", None, "the node authorizer decides it by the pods that run on the node")
        rules = self.rbac.rules(_NODE_ROLE)
        if rules is None or _NODE_ROLE not in self.rbac.roles:
            return Ruling(
                "unknown", None, "the role system:node, whose rules the node authorizer applies, is not known"
            )
        if what in _OF_ITSELF:
            # A create carries no name in its URI; the name is checked at admission.
            own = request.namespace == _OF_ITSELF[what] and request.name in ("", node)
            if not own or request.subresource or request.verb in ("list", "watch", "deletecollection"):
                return Ruling("no opinion", None, "a node may touch only its own")
        if any(rule.allows(request) for rule in rules):
            return Ruling("allow", None, "the node authorizer, by the rules of the role system:node")
        return Ruling("no opinion", None, "neither a binding nor the role system:node allows it")

    def granting(self, user: str, groups: Sequence[str], request: AccessRequest) -> list[BindingGrant]:
        """All bindings that allow a request of a user."""
        return [
            grant
            for grant in self.rbac.bindings_of(user, groups, request.namespace)
            if self.rbac.grants(grant, request)
        ]
