"""What the node authorizer allows a node to do.

Source: `plugin/pkg/auth/authorizer/node/node_authorizer.go` of Kubernetes. With `AuthorizeNodeWithSelectors` (on by default
from 1.32) a node reads only its own Node and the pods bound to it; a log does not say whether it is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from detection.authorization.node_graph import NodeGraph, NodeResource
from detection.authorization.requests import AccessRequest
from detection.authorization.rules import PolicyRule

NODES = "system:nodes"
NODE = "system:node:"
_LEASES = "kube-node-lease"
_OWN = ("get", "create", "update", "patch", "delete")
_READS = ("get", "list", "watch")
_STATUS = ("update", "patch")
#: Resources that are decided by the graph alone, with the verbs for which it is asked.
_BY_GRAPH: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "secrets"): _READS,
    ("", "configmaps"): _READS,
    ("", "persistentvolumeclaims"): ("get",),
    ("", "persistentvolumes"): ("get",),
    ("resource.k8s.io", "resourceclaims"): ("get",),
    ("storage.k8s.io", "volumeattachments"): ("get",),
}

#: `deny` is no opinion; `graph`: as the graph says; `path`: allow if the graph has a path, else not known.
_Answer = Literal["allow", "deny", "graph", "path", "unknown"]


class NodeAuthorizer:
    """Decides what nodes may do.

    Args:
        graph: what the pods on each node use.
        selectors: whether nodes are held to their own objects by selectors; None if that is not known.
    """

    def __init__(self, graph: NodeGraph | None = None, *, selectors: bool | None = None) -> None:
        self.graph = NodeGraph() if graph is None else graph
        self._selectors = selectors

    def decide(
        self, node: str, request: AccessRequest, rules: Sequence[PolicyRule] | None
    ) -> tuple[bool | None, bool]:
        """Whether a node may do something (None: not known), and whether the graph was asked for that.

        Args:
            node: its name.
            request: what it asks for.
            rules: of the role system:node, which apply to all nodes alike; None if they are not known.
        """
        answer = self._answer(node, request, rules)
        if answer in ("graph", "path"):
            resource = cast(NodeResource, request.resource)
            found = self.graph.reaches(node, resource, request.namespace, request.name)
            # A watch is logged when it ends, and its pod may be gone by then.
            is_sure = answer == "graph" and request.verb != "watch"
            return found if found or is_sure else None, True
        return {"allow": True, "deny": False}.get(answer), False

    def _answer(self, node: str, request: AccessRequest, rules: Sequence[PolicyRule] | None) -> _Answer:
        what = request.group, request.resource
        if request.path is not None:
            return _by_rules(rules, request)
        if what in _BY_GRAPH:
            return _by_graph(request, what)
        match what:
            case ("", "serviceaccounts"):
                token = request.verb == "create" and request.subresource == "token"
                return "graph" if token and request.name else "deny"
            case ("coordination.k8s.io", "leases"):
                return _own(node, request, request.namespace == _LEASES)
            case ("storage.k8s.io", "csinodes"):
                return _own(node, request, not request.subresource)
            case ("resource.k8s.io", "resourceslices"):
                return self._slice(node, request)
            case ("", "nodes"):
                return self._either(_own_node(node, request), _by_rules(rules, request))
            case ("", "pods"):
                return self._either(_own_pod(node, request), _by_rules(rules, request))
        return _by_rules(rules, request)

    def _either(self, narrow: _Answer, wide: _Answer) -> _Answer:
        """The answer with selectors, or without them, or the one that both give."""
        if self._selectors is not None:
            return narrow if self._selectors else wide
        if narrow == wide:
            return narrow
        return "path" if narrow == "graph" and wide == "allow" else "unknown"

    def _slice(self, node: str, request: AccessRequest) -> _Answer:
        if request.subresource:
            return "deny"
        if request.verb == "create":
            return "allow"  # admission checks its node
        if request.verb in _OWN:
            return "graph" if request.name else "deny"
        if request.verb not in ("list", "watch", "deletecollection"):
            return "deny"
        return self._either("allow" if ("nodeName", node) in request.selected else "deny", "allow")


def _by_rules(rules: Sequence[PolicyRule] | None, request: AccessRequest) -> _Answer:
    if rules is None:
        return "unknown"
    return "allow" if any(rule.allows(request) for rule in rules) else "deny"


def _by_graph(request: AccessRequest, what: tuple[str, str]) -> _Answer:
    if what == ("", "persistentvolumeclaims") and request.subresource == "status":
        return "graph" if request.verb in _STATUS and request.name else "deny"
    if request.verb not in _BY_GRAPH[what] or request.subresource or not request.name:
        return "deny"
    of_namespace = what in (("", "secrets"), ("", "configmaps"))
    return "deny" if of_namespace and not request.namespace else "graph"


def _own(node: str, request: AccessRequest, fits: bool) -> _Answer:
    # A create carries no name in its URI; the name is checked at admission.
    named = request.verb == "create" or request.name == node
    return "allow" if request.verb in _OWN and fits and named else "deny"


def _own_node(node: str, request: AccessRequest) -> _Answer:
    if request.subresource == "status":
        return "allow" if request.verb in _STATUS else "deny"
    if request.subresource:
        return "deny"
    if request.verb in ("create", "update", "patch"):
        return "allow"  # admission holds it to its own
    return "allow" if request.verb in _READS and request.name == node else "deny"


def _own_pod(node: str, request: AccessRequest) -> _Answer:
    match request.subresource:
        case "status":
            return "allow" if request.verb in _STATUS else "deny"
        case "eviction":
            return "allow" if request.verb == "create" else "deny"
        case "":
            if request.verb in ("create", "delete"):
                return "allow"  # admission holds it to mirror pods, and to its own
            if request.verb in ("list", "watch") and ("spec.nodeName", node) in request.selected:
                return "allow"
            return "graph" if request.verb in _READS and request.name else "deny"
    return "deny"
