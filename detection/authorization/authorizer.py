"""Whether a cluster's own rules allow a request: yes, no opinion, or unknown; never a guess.

Authorizers of the API server are asked one after the other, and one that allows is enough. RBAC, the group `system:masters` and
the node authorizer are decided here. Clouds have authorizers of their own, of which a snapshot of RBAC knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detection.authorization.node_authorizer import NODE, NODES, NodeAuthorizer
from detection.authorization.rbac import NODE_ROLE_NAME, BindingGrant, ObjectKey, Rbac
from detection.authorization.requests import AccessRequest

MASTERS = "system:masters"
NODE_ROLE = ObjectKey("clusterroles", "", NODE_ROLE_NAME)
#: Paths that API servers allow to everybody unless they are configured otherwise (`--authorization-always-allow-paths`).
_ALWAYS = ("/healthz", "/livez", "/readyz")
#: Rulings that are remembered, and the longest text of a request that is: an API server takes paths of 900,000 characters.
_CACHED, _LONGEST = 65_536, 512

Opinion = Literal["allow", "no opinion", "unknown"]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say about a request.

    Attributes:
        opinion: `allow`; `no opinion`: nothing allows it, so the API server refuses it unless another authorizer allows it;
            `unknown`: part of what would decide it is not known.
        grant: the first binding that allows it, with its role.
        reason: in words.
        lasting: whether it holds until RBAC changes; what is decided by the pods on a node does not.
    """

    opinion: Opinion
    grant: BindingGrant | None
    reason: str
    lasting: bool = True


class Authorizer:
    """Decides requests by an `Rbac`, which may change between them; decisions are remembered until it does.

    Args:
        rbac: roles and bindings.
        nodes: decides what nodes may do; without a graph of pods most of that is unknown.
    """

    def __init__(self, rbac: Rbac, nodes: NodeAuthorizer | None = None) -> None:
        self.rbac = rbac
        self.nodes = NodeAuthorizer() if nodes is None else nodes
        self._generation = rbac.generation
        self._known: dict[tuple[str, tuple[str, ...], AccessRequest], Ruling | None] = {}

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
        if key in self._known:
            known = self._known[key]
        else:
            known = self._decide(user, groups, request)
            if len(request.path or "") + len(request.name) < _LONGEST:
                self._known[key] = known
        return self._of_node(user.removeprefix(NODE), request) if known is None else known

    def _decide(self, user: str, groups: Sequence[str], request: AccessRequest) -> Ruling | None:
        """What holds until RBAC changes; None if it is for the node authorizer to say."""
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
        if user.startswith(NODE) and NODES in groups:
            return None
        return Ruling("no opinion", None, "no binding of this user or its groups allows it")

    def _of_node(self, node: str, request: AccessRequest) -> Ruling:
        rules = self.rbac.rules(NODE_ROLE) if NODE_ROLE in self.rbac.roles else None
        found, by_graph = self.nodes.decide(node, request, rules)
        if found:
            how = "the pods that run on the node" if by_graph else "the rules for nodes"
            return Ruling("allow", None, f"the node authorizer, by {how}", not by_graph)
        if found is None:
            what = "which pods run on the node" if by_graph else "how the node authorizer is configured"
            return Ruling("unknown", None, f"it is not known {what}", not by_graph)
        return Ruling("no opinion", None, "neither a binding nor the node authorizer allows it", not by_graph)

    def granting(self, user: str, groups: Sequence[str], request: AccessRequest) -> list[BindingGrant]:
        """All bindings that allow a request of a user."""
        return [
            grant
            for grant in self.rbac.bindings_of(user, groups, request.namespace)
            if self.rbac.grants(grant, request)
        ]
