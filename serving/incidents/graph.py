"""The graph of an incident: from the source of breach to everything touched, and what followed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from serving.alerts.explain.phrases import MANY, resource_name
from serving.incidents.links import ANY
from serving.schemas import CONFIDENCE_RANK, ApiModel, Confidence, IncidentLink, Surrounding

_CITED = 50
_OUTCOMES = {
    **dict.fromkeys(("get", "list", "watch", "head"), "read"),
    **dict.fromkeys(("create", "update", "patch", "post", "put"), "wrote"),
    **dict.fromkeys(("delete", "deletecollection"), "deleted"),
}
_INSIDE = ("exec", "attach", "portforward", "proxy")

NodeKind = Literal["origin", "principal", "object", "consequence"]
NodeRole = Literal["source", "suspect", "reached", "touched", "origin", "consequence"]


class Node(ApiModel):
    """A principal, an object, an address or a consequence."""

    id: str
    kind: NodeKind
    name: str
    role: Annotated[
        NodeRole,
        Field(description="reached: another principal may act as it now, but it did nothing unusual"),
    ]
    first_seen: datetime
    last_seen: datetime
    actions: int = 0
    sensitivity: str = ""


class Edge(ApiModel):
    """From one node to another: what was done, by which requests, and how sure it is."""

    source: str
    target: str
    kind: str
    description: Annotated[str, Field(alias="did")] = ""
    count: int = 1
    first_seen: datetime
    last_seen: datetime
    audit_ids: Annotated[list[str], Field(description="the first 50")] = []
    confidence: Confidence
    why: str


class Graph(ApiModel):
    """From the source of breach to everything touched."""

    nodes: list[Node] = []
    edges: list[Edge] = []


def consequences_of(follow: Sequence[Surrounding]) -> list[Edge]:
    """Actions of the machinery, those alike together: from the object that was written to what became of it."""
    groups: dict[tuple[str, str, str], list[Surrounding]] = {}
    for one in follow:
        cause = one.why.partition(":")[0]
        groups.setdefault((cause, one.verb, resource_name(one.object_ref)), []).append(one)
    edges = []
    for (cause, verb, what), actions in groups.items():
        least = min(actions, key=lambda one: CONFIDENCE_RANK[one.confidence])
        who = list(dict.fromkeys(one.principal.rpartition(":")[2] for one in actions))
        edge = Edge(
            source=f"object:{cause}",
            target=f"consequence:{cause}:{what}",
            kind=verb,
            description=f"{', '.join(who[:3])}: {verb} {what}",
            count=len(actions),
            first_seen=actions[0].time,
            last_seen=actions[-1].time,
            audit_ids=[one.audit_id for one in actions[:_CITED]],
            confidence=least.confidence,
            why=least.why.partition(": ")[2],
        )
        edges.append(edge)
    return sorted(edges, key=lambda edge: edge.first_seen)


def build_graph(
    source: str,
    counted: Sequence[Surrounding],
    links: Sequence[IncidentLink],
    consequences: Sequence[Edge],
    kinds: Mapping[str, str],
) -> Graph:
    """The graph of an incident.

    Args:
        source: the principal with which it began, "" if that is not known.
        counted: its suspicious actions.
        links: between its principals, or from one of them to others.
        consequences: edges of `consequences_of`.
        kinds: kind of each principal with an alert.
    """
    built = _Builder()
    for one in counted:
        role: NodeRole = "source" if one.principal == source else "suspect"
        who = built.node("principal", one.principal, role, one.time, 1)
        if one.address:
            where = built.node("origin", one.address, "origin", one.time, 1)
            why = f"the API server logged this address, with the client {one.user_agent or 'unnamed'}"
            built.edge(where, who, "used", one.time, one.audit_id, "certain", why, "")
        what = built.node("object", _named(one), "touched", one.time, 1)
        why = "the API server carried it out" if _outcome(one) != "tried" else "the API server refused it"
        built.edge(who, what, _outcome(one), one.time, one.audit_id, "certain", why, one.description)
    for link in links:
        ends = []
        for name in (link.source, link.target):
            role = ("source" if name == source else "suspect") if name in kinds else "reached"
            shown = f"service accounts {name}" if name.endswith(ANY) else name
            ends.append(built.node("principal", name, role, link.time, shown=shown))
        built.edge(ends[0], ends[1], link.kind, link.time, link.audit_id, link.confidence, link.why, link.via)
    for edge in consequences:
        built.node("object", edge.source.partition(":")[2], "touched", edge.first_seen)
        name, shown = edge.target.partition(":")[2], edge.target.rpartition(":")[2]
        built.node("consequence", name, "consequence", edge.first_seen, edge.count, shown=shown)
        built.edges[edge.source, edge.target, edge.kind] = edge
    return Graph(nodes=list(built.nodes.values()), edges=list(built.edges.values()))


class _Builder:
    """Collects nodes and edges, each once."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: dict[tuple[str, str, str], Edge] = {}

    def node(
        self,
        kind: NodeKind,
        name: str,
        role: NodeRole,
        moment: datetime,
        actions: int = 0,
        shown: str | None = None,
    ) -> str:
        key = f"{kind}:{name}"
        if key not in self.nodes:
            shown = name if shown is None else shown
            self.nodes[key] = Node(
                id=key, kind=kind, name=shown, role=role, first_seen=moment, last_seen=moment
            )
        held = self.nodes[key]
        held.first_seen, held.last_seen = min(held.first_seen, moment), max(held.last_seen, moment)
        held.actions += actions
        return key

    def edge(
        self,
        source: str,
        target: str,
        kind: str,
        moment: datetime,
        audit_id: str,
        confidence: Confidence,
        why: str,
        description: str,
    ) -> None:
        held = self.edges.get((source, target, kind))
        if held is None:
            held = self.edges[source, target, kind] = Edge(
                source=source,
                target=target,
                kind=kind,
                description=description,
                count=0,
                first_seen=moment,
                last_seen=moment,
                confidence=confidence,
                why=why,
            )
        held.count += 1
        held.first_seen, held.last_seen = min(held.first_seen, moment), max(held.last_seen, moment)
        if len(held.audit_ids) < _CITED and audit_id not in held.audit_ids:
            held.audit_ids.append(audit_id)
        if CONFIDENCE_RANK[confidence] > CONFIDENCE_RANK[held.confidence]:
            held.confidence, held.why = confidence, why


def _named(one: Surrounding) -> str:
    ref = one.object_ref
    if ref is None:
        return f"path {one.request_path or '/'}"
    name = "*" if one.verb in MANY else ref.name or "*"
    return f"{ref.resource} {ref.namespace}/{name}" if ref.namespace else f"{ref.resource} {name}"


def outcome_of(verb: str, subresource: str, code: int) -> str:
    """What a request came to, in one word: read, wrote, deleted, entered, or tried where it was refused or failed."""
    if code >= 400:
        return "tried"
    return "entered" if subresource in _INSIDE else _OUTCOMES.get(verb, verb)


def _outcome(one: Surrounding) -> str:
    code = one.response_status.code if one.response_status else 0
    return outcome_of(one.verb, one.object_ref.subresource if one.object_ref else "", code)
