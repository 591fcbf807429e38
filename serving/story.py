"""The story of an incident, from what is stored of its alerts: where it began, how it spread, what followed, how sure that is.

Nothing here decides anything: what belongs to an incident was decided by `serving.incidents`, and is laid out here for a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from data.ties import ANY, leads_to
from serving.alerts import (
    SEVERITIES,
    Action,
    Alert,
    Check,
    Confidence,
    Contributor,
    Model,
    ServedModel,
    Severity,
    Surrounding,
    Technique,
    Tie,
)
from serving.explain import MANY, Explainer
from serving.incident_store import Brief, Row

_PAUSE = timedelta(seconds=120)
"""Actions of one credential that count and are further apart belong to different sessions."""

_ORDINARY = 10
"""So do those with as many ordinary actions of the credential between them: its owner was at work again."""

_LEAD = 3
"""Actions listed before the first of a session that counts: among the first five are then two that count."""

_LISTED = 50
_TIMELINE = 500
_CITED = 50
_MAX_CHECKS = 24
_MAX_TECHNIQUES = 6
_SUSPICIOUS = ("flagged", "contributor")
_RANK: dict[str, int] = {"possible": 0, "likely": 1, "certain": 2}

_DEEDS = {
    **dict.fromkeys(("get", "list", "watch", "head"), "read"),
    **dict.fromkeys(("create", "update", "patch", "post", "put"), "wrote"),
    **dict.fromkeys(("delete", "deletecollection"), "deleted"),
}
_INSIDE = ("exec", "attach", "portforward", "proxy")

NodeKind = Literal["origin", "principal", "object", "consequence"]
Short = TypeVar("Short", Alert, Alert | Brief)


class TrailEntry(Model):
    """What was done with an incident: by whom, when, and why. By `kubehabit` where it joined by itself."""

    time: datetime
    action: Literal["opened", "joined", "merged", "merged-into", "split", "split-from", "closed", "noted"]
    by: str
    caller: Annotated[str, Field(description="the token or certificate that asked for it, by name")] = ""
    address: Annotated[str, Field(description="whence it was asked for, as the service saw it")] = ""
    note: str = ""
    alerts: list[str] = []
    incident: Annotated[str | None, Field(description="the other incident, for merged and split")] = None
    confidence: Confidence | None = None


class Joined(Model):
    """An alert of the incident, in short."""

    id: str
    principal: str
    severity: Severity
    began: datetime
    last_seen: datetime
    sentence: str
    action_count: int


class Source(Model):
    """Where it began, as far as the log tells."""

    principal: str
    who: Annotated[str, Field(description="the principal as people call it")]
    time: Annotated[datetime, Field(description="of the first action that counted")]
    audit_id: str
    did: str
    address: str
    client: str
    credential: str
    confidence: Confidence
    why: str


class Session(Model):
    """What one principal did from one address with one client, without a longer pause between what counts."""

    principal: str
    address: str
    client: str
    first_seen: datetime
    last_seen: datetime
    new_address: Annotated[bool, Field(description="the principal never came from there before")] = False
    new_client: Annotated[bool, Field(description="the principal never used it before")] = False
    suspicious: Annotated[int, Field(description="actions that were flagged or helped to add up")]
    action_count: int
    sentence: Annotated[str, Field(description="the session in a sentence")] = ""
    reasons: Annotated[list[str], Field(description="why it stands out, most telling first")] = []
    top_attribute: Annotated[str, Field(description="what the first reason is about")] = ""
    actions: Annotated[
        list[Surrounding],
        Field(
            description="in order of time: at most three that led up to it, then what counted, then the rest"
        ),
    ] = []


class Node(Model):
    """Somebody, something or some place in the graph."""

    id: str
    kind: NodeKind
    name: str
    role: Annotated[
        Literal["source", "suspect", "reached", "touched", "origin", "consequence"],
        Field(description="reached: somebody may act as it now, but nothing unusual was seen of it"),
    ]
    first_seen: datetime
    last_seen: datetime
    actions: int = 0
    sensitivity: str = ""


class Edge(Model):
    """From one node to another: what was done, by which requests, and how sure it is."""

    source: str
    target: str
    kind: str
    did: str = ""
    count: int = 1
    first_seen: datetime
    last_seen: datetime
    audit_ids: Annotated[list[str], Field(description="the first 50")] = []
    confidence: Confidence
    why: str


class Graph(Model):
    """From the source of breach to everything touched."""

    nodes: list[Node] = []
    edges: list[Edge] = []


class IncidentSummary(Model):
    """An incident in a list."""

    id: str
    state: Literal["open", "closed", "merged"]
    merged_into: str | None = None
    severity: Severity | None = None
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    sentence: str = ""
    principals: list[str] = []
    alert_count: int = 0
    action_count: int = 0


class Incident(IncidentSummary):
    """An incident with its whole story."""

    severity_reasons: Annotated[list[str], Field(description="why it is as grave as that")] = []
    source: Source | None = None
    addresses: list[str] = []
    clients: list[str] = []
    alerts: list[Joined] = []
    sessions: Annotated[
        list[Session], Field(description="in order of time; each begins with what led up to it")
    ] = []
    timeline: Annotated[
        list[Surrounding], Field(description="what counted, in order of time; the first 500")
    ] = []
    consequences: Annotated[
        list[Edge],
        Field(description="what the cluster's machinery did because of it; nobody's deed of their own"),
    ] = []
    ties: Annotated[
        list[Tie], Field(description="by what the principals may have come to act as one another")
    ] = []
    graph: Graph = Graph()
    techniques: list[Technique] = []
    checks: list[Check] = []
    terms: dict[str, str] = {}
    audit_ids: Annotated[
        list[str],
        Field(
            description="the evidence: what counted first, then everything else its principals did in between"
        ),
    ] = []
    consequence_audit_ids: Annotated[
        list[str], Field(description="requests of the machinery that follow from it")
    ] = []
    trail: list[TrailEntry] = []
    models: list[ServedModel] = []


def summarize(row: Row, alerts: Sequence[Alert | Brief], explainer: Explainer) -> IncidentSummary:
    """An incident in short; alerts in order of time."""
    summary = IncidentSummary(id=row.id, state=row.state, merged_into=row.merged_into)
    if not alerts:
        return summary
    worst = _worst(alerts)
    summary.severity = worst.severity
    summary.first_seen = min(_began(alert) for alert in alerts)
    summary.last_seen = max(alert.last_seen for alert in alerts)
    summary.principals = list(dict.fromkeys(alert.principal for alert in sorted(alerts, key=_began)))
    summary.alert_count = len(alerts)
    summary.action_count = sum(alert.action_count for alert in alerts)
    summary.sentence = _sentence(alerts, worst, explainer)
    return summary


def tell(
    row: Row,
    alerts: Sequence[Alert],
    around: Sequence[tuple[int, Surrounding]],
    ties: Sequence[Tie],
    flagged: Sequence[str],
    trail: Sequence[TrailEntry],
    explainer: Explainer,
) -> Incident:
    """The whole story.

    Args:
        row: the incident's own row.
        alerts: its alerts, in order of time.
        around: (number of the alert, action) of what surrounds them, in order of time.
        ties: those found through them.
        flagged: audit IDs of all flagged actions.
        trail: what was done with the incident, oldest first.
        explainer: puts it into words.
    """
    told = Incident(**summarize(row, alerts, explainer).model_dump())
    told.trail = list(trail)
    if not alerts:
        return told
    kinds = {alert.principal: alert.kind for alert in alerts}
    actions = [one for _, one in around]
    own = [one for one in actions if one.role != "consequence"]
    follow = [one for one in actions if one.role == "consequence"]
    counted = [one for one in own if one.role in _SUSPICIOUS]
    told.sessions = _sessions(own, alerts, explainer)
    told.timeline = counted[:_TIMELINE]
    told.ties = list(ties)
    told.source = _source(told.sessions, alerts, ties, kinds, explainer)
    told.addresses = list(dict.fromkeys(one.address for one in counted if one.address))
    told.clients = list(dict.fromkeys(one.user_agent for one in counted if one.user_agent))
    told.alerts = [
        Joined(
            id=alert.id,
            principal=alert.principal,
            severity=alert.severity,
            began=_began(alert),
            last_seen=alert.last_seen,
            sentence=alert.sentence,
            action_count=alert.action_count,
        )
        for alert in alerts
    ]
    told.consequences = _consequences(follow)
    told.graph = _graph(told, counted, kinds)
    told.severity_reasons = _severity_reasons(alerts, told, explainer)
    _what_to_do(told, alerts)
    rest = [one.audit_id for one in own if one.role not in _SUSPICIOUS]
    told.audit_ids = list(dict.fromkeys([*(one.audit_id for one in counted), *flagged, *rest]))
    told.consequence_audit_ids = list(dict.fromkeys(one.audit_id for one in follow))
    told.models = list({(one.model.name, one.model.version): one.model for one in alerts}.values())
    return told


def _began(alert: Alert | Brief) -> datetime:
    return alert.began or alert.first_seen


def _worst(alerts: Sequence[Short]) -> Short:
    return max(alerts, key=lambda alert: (SEVERITIES.index(alert.severity), alert.evidence))


def _sentence(alerts: Sequence[Alert | Brief], worst: Alert | Brief, explainer: Explainer) -> str:
    names = list(dict.fromkeys(alert.principal for alert in alerts))
    if len(names) == 1:
        return worst.sentence
    kinds = {alert.principal: alert.kind for alert in alerts}
    who = [explainer.who(name, kinds[name]) for name in names if name != worst.principal]
    noun = "other credential" if len(who) == 1 else "other credentials"
    shown = ", ".join(who[:3]) + (" and more" if len(who) > 3 else "")
    return f"{worst.sentence} {len(who)} {noun} had a part in it: {shown}."


# -- sessions -----------------------------------------------------------------------------------------------------


def _begins(one: Surrounding) -> bool:
    """Whether an action can begin a session: flagged, or new to its principal. What was only odd adds up, but begins nothing."""
    return one.role == "flagged" or (one.role == "contributor" and one.weight > 0)


def _sessions(own: Sequence[Surrounding], alerts: Sequence[Alert], explainer: Explainer) -> list[Session]:
    """What each credential did, cut where it went back to ordinary work, or paused, between two actions that count."""
    by_credential: dict[tuple[str, str, str], list[Surrounding]] = {}
    for one in own:
        by_credential.setdefault((one.principal, one.address, one.user_agent), []).append(one)
    sessions: list[Session] = []
    for credential, actions in by_credential.items():
        spans: list[tuple[int, int]] = []  # places of the first and the last that count
        for at, one in enumerate(actions):
            if not _begins(one):
                continue
            if spans:
                first, last = spans[-1]
                ordinary = sum(not _begins(other) for other in actions[last + 1 : at])
                if ordinary < _ORDINARY and one.time - actions[last].time <= _PAUSE:
                    spans[-1] = (first, at)
                    continue
            spans.append((at, at))
        for number, (first, last) in enumerate(spans):
            begin = spans[number - 1][1] + 1 if number else 0
            end = spans[number + 1][0] if number + 1 < len(spans) else len(actions)
            before = [one for one in actions[begin:first] if actions[first].time - one.time <= _PAUSE]
            after = [one for one in actions[last + 1 : end] if one.time - actions[last].time <= _PAUSE]
            if number + 1 < len(spans):  # what comes right before the next session leads up to that one
                after = after[: max(0, len(after) - _ORDINARY)]
            sessions.append(_session(credential, before, actions[first : last + 1], after, alerts, explainer))
    return sorted(sessions, key=lambda session: session.first_seen)


def _session(
    credential: tuple[str, str, str],
    before: Sequence[Surrounding],
    inside: Sequence[Surrounding],
    after: Sequence[Surrounding],
    alerts: Sequence[Alert],
    explainer: Explainer,
) -> Session:
    principal, address, client = credential
    first, last = inside[0].time, inside[-1].time
    counted = [one for one in inside if one.role in _SUSPICIOUS]
    lead = _lead_up(before)
    rest = [one for one in (*inside, *after) if one.role not in _SUSPICIOUS]
    ids = {one.audit_id for one in counted}
    mine = [alert for alert in alerts if alert.principal == principal]
    kind = mine[0].kind if mine else ""
    judged: list[Action | Contributor] = [
        *(action for alert in mine for action in alert.actions if action.audit_id in ids),
        *(action for alert in mine for action in alert.contributors if action.audit_id in ids),
    ]
    judged.sort(key=lambda action: action.time)
    sentence, reasons, top = explainer.session(principal, kind, judged, counted, last - first)
    news = {one.attribute for action in judged for one in action.habits if not one.times_before}
    return Session(
        principal=principal,
        address=address,
        client=client,
        first_seen=first,
        last_seen=last,
        new_address="place" in news,
        new_client="client" in news,
        suspicious=len(counted),
        action_count=len(before) + len(inside) + len(after),
        sentence=sentence,
        reasons=reasons,
        top_attribute=top,
        actions=[*lead, *[*counted, *rest][: _LISTED - len(lead)]],
    )


def _alike(one: Surrounding, other: Surrounding) -> bool:
    mine, theirs = one.object_ref, other.object_ref
    return (
        one.verb == other.verb
        and mine is not None
        and theirs is not None
        and (mine.resource, mine.subresource) == (theirs.resource, theirs.subresource)
    )


def _lead_up(before: Sequence[Surrounding]) -> list[Surrounding]:
    """At most three of the actions before the first that counted: the nearest, of a run of the same deed its first and last."""
    shown: list[Surrounding] = []
    for at in range(len(before) - 1, -1, -1):
        one = before[at]
        inner = 0 < at < len(before) - 1 and _alike(before[at - 1], one) and _alike(one, before[at + 1])
        if not inner:
            shown.append(one)
        if len(shown) == _LEAD:
            break
    return shown[::-1]


def _source(
    sessions: Sequence[Session],
    alerts: Sequence[Alert],
    ties: Sequence[Tie],
    kinds: dict[str, str],
    explainer: Explainer,
) -> Source | None:
    """The first session that stands out by itself and that nothing else in the incident led to."""
    if not sessions:
        return None

    def reached(session: Session) -> bool:
        # A cause comes before what it brings about.
        return any(
            leads_to(tie.target, session.principal)
            and tie.source in kinds
            and tie.kind != "same-origin"
            and tie.time <= session.first_seen
            for tie in ties
        )

    def leads(tie: Tie) -> bool:
        others = (name for name in kinds if name != tie.source)
        return tie.confidence != "possible" and any(leads_to(tie.target, name) for name in others)

    firm = _standing_alone(sessions, alerts) or sessions
    first = next((session for session in firm if not reached(session)), firm[0])
    counted = next(one for one in first.actions if one.role in _SUSPICIOUS)
    where = []
    if first.new_address:
        where.append("an address")
    if first.new_client:
        where.append("a client")
    confidence: Confidence
    if where:
        confidence, why = (
            "likely",
            f"it came from {' and '.join(where)} that this credential never came from before",
        )
    elif any(tie.source == first.principal and leads(tie) for tie in ties):
        confidence, why = "likely", "from it the log leads to the others, and nothing in the log leads to it"
    else:
        confidence, why = (
            "possible",
            "it is the first that counted; address and client are the usual ones, so it may be the owner",
        )
    kind = kinds.get(first.principal, "")
    return Source(
        principal=first.principal,
        who=explainer.who(first.principal, kind),
        time=counted.time,
        audit_id=counted.audit_id,
        did=counted.did,
        address=first.address,
        client=first.client,
        credential=explainer.credential(first.principal, kind),
        confidence=confidence,
        why=why,
    )


def _standing_alone(sessions: Sequence[Session], alerts: Sequence[Alert]) -> list[Session]:
    """Sessions that may be where it began, in order of time.

    Of a credential that came from a new address or with a new client, all that it did from there: if something of it was
    flagged, the milder things that came first belong to it. From the usual place, where its owner is at work as well, those
    as grave as the whole incident: everyday work is flagged now and then, and then it is mostly mild. What only helped to add up
    may be everyday life; where nothing else is, what was flagged stands.
    """
    new, flagged = set(), set()
    gravest: dict[str, int] = {}
    for alert in alerts:
        for action in alert.actions:
            gravest[action.audit_id] = SEVERITIES.index(action.severity)
    grave = max(gravest.values(), default=0)
    weight: dict[int, int] = {}
    for at, session in enumerate(sessions):
        hits = [one.audit_id for one in session.actions if one.role == "flagged"]
        weight[at] = max((gravest.get(name, 0) for name in hits), default=-1)
        if session.new_address or session.new_client:
            new.add(_origin(session))
        if hits:
            flagged.add(_origin(session))
    first = [
        session
        for at, session in enumerate(sessions)
        if _origin(session) in new & flagged or weight[at] >= grave
    ]
    return first or [session for at, session in enumerate(sessions) if weight[at] >= 0]


def _origin(session: Session) -> tuple[str, str, str]:
    return session.principal, session.address, session.client


# -- what followed, and the graph ---------------------------------------------------------------------------------


def _consequences(follow: Sequence[Surrounding]) -> list[Edge]:
    """Actions of the machinery, those alike together: from the object that was written to what became of it."""
    groups: dict[tuple[str, str, str], list[Surrounding]] = {}
    for one in follow:
        cause = one.why.partition(":")[0]
        ref = one.object_ref
        what = "" if ref is None else ref.resource + (f"/{ref.subresource}" if ref.subresource else "")
        groups.setdefault((cause, one.verb, what), []).append(one)
    edges = []
    for (cause, verb, what), actions in groups.items():
        least = min(actions, key=lambda one: _RANK[one.confidence])
        who = list(dict.fromkeys(one.principal.rpartition(":")[2] for one in actions))
        edges.append(
            Edge(
                source=f"object:{cause}",
                target=f"consequence:{cause}:{what}",
                kind=verb,
                did=f"{', '.join(who[:3])}: {verb} {what}",
                count=len(actions),
                first_seen=actions[0].time,
                last_seen=actions[-1].time,
                audit_ids=[one.audit_id for one in actions[:_CITED]],
                confidence=least.confidence,
                why=least.why.partition(": ")[2],
            )
        )
    return sorted(edges, key=lambda edge: edge.first_seen)


def _named(one: Surrounding) -> str:
    ref = one.object_ref
    if ref is None:
        return f"path {one.request_path or '/'}"
    name = ref.name if one.verb not in MANY else ""
    place = f"{ref.namespace}/" if ref.namespace else ""
    return f"{ref.resource} {place}{name or '*'}"


def deed_of(verb: str, subresource: str, code: int) -> str:
    """What a request came to, in one word: read, wrote, deleted, entered, or tried where it was refused or failed."""
    if code >= 400:
        return "tried"
    return "entered" if subresource in _INSIDE else _DEEDS.get(verb, verb)


def _deed(one: Surrounding) -> str:
    code = one.response_status.code if one.response_status is not None else 0
    return deed_of(one.verb, one.object_ref.subresource if one.object_ref is not None else "", code)


class _Builder:
    """Collects nodes and edges; what is named twice is one."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: dict[tuple[str, str, str], Edge] = {}

    def node(
        self, name: str, kind: NodeKind, shown: str, role: str, moment: datetime, actions: int = 0
    ) -> str:
        held = self.nodes.get(name)
        if held is None:
            held = self.nodes[name] = Node.model_validate(
                {
                    "id": name,
                    "kind": kind,
                    "name": shown,
                    "role": role,
                    "first_seen": moment,
                    "last_seen": moment,
                }
            )
        held.first_seen, held.last_seen = min(held.first_seen, moment), max(held.last_seen, moment)
        held.actions += actions
        return name

    def edge(
        self,
        source: str,
        target: str,
        kind: str,
        moment: datetime,
        audit_id: str,
        confidence: Confidence,
        why: str,
        did: str,
    ) -> None:
        held = self.edges.get((source, target, kind))
        if held is None:
            self.edges[source, target, kind] = Edge(
                source=source,
                target=target,
                kind=kind,
                did=did,
                first_seen=moment,
                last_seen=moment,
                audit_ids=[audit_id],
                confidence=confidence,
                why=why,
            )
            return
        held.count += 1
        held.first_seen, held.last_seen = min(held.first_seen, moment), max(held.last_seen, moment)
        if len(held.audit_ids) < _CITED and audit_id not in held.audit_ids:
            held.audit_ids.append(audit_id)
        if _RANK[confidence] > _RANK[held.confidence]:
            held.confidence, held.why = confidence, why


def _graph(told: Incident, counted: Sequence[Surrounding], kinds: dict[str, str]) -> Graph:
    built = _Builder()
    source = told.source.principal if told.source is not None else ""
    for one in counted:
        who = built.node(
            f"principal:{one.principal}",
            "principal",
            one.principal,
            "source" if one.principal == source else "suspect",
            one.time,
            1,
        )
        if one.address:
            where = built.node(f"origin:{one.address}", "origin", one.address, "origin", one.time, 1)
            why = f"the API server logged this address, with the client {one.user_agent or 'unnamed'}"
            built.edge(where, who, "used", one.time, one.audit_id, "certain", why, "")
        what = built.node(f"object:{_named(one)}", "object", _named(one), "touched", one.time, 1)
        why = "the API server carried it out" if _deed(one) != "tried" else "the API server refused it"
        built.edge(who, what, _deed(one), one.time, one.audit_id, "certain", why, one.did)
    for tie in told.ties:
        ends = []
        for name in (tie.source, tie.target):
            known = name in kinds
            role = ("source" if name == source else "suspect") if known else "reached"
            shown = name if not name.endswith(ANY) else f"service accounts {name}"
            ends.append(built.node(f"principal:{name}", "principal", shown, role, tie.time))
        built.edge(ends[0], ends[1], tie.kind, tie.time, tie.audit_id, tie.confidence, tie.why, tie.via)
    for edge in told.consequences:
        built.node(edge.source, "object", edge.source.partition(":")[2], "touched", edge.first_seen)
        name = edge.target.rpartition(":")[2]
        built.node(edge.target, "consequence", name, "consequence", edge.first_seen, edge.count)
        built.edges[edge.source, edge.target, edge.kind] = edge
    return Graph(nodes=list(built.nodes.values()), edges=list(built.edges.values()))


# -- what it means, and what to do --------------------------------------------------------------------------------


def _severity_reasons(alerts: Sequence[Alert], told: Incident, explainer: Explainer) -> list[str]:
    worst = _worst(alerts)
    reasons = explainer.severity_reasons(worst)
    others = len(told.principals) - 1
    if others:
        reasons.append(
            f"it spread: {others} more {'credential was' if others == 1 else 'credentials were'} involved"
        )
    if any(session.new_address for session in told.sessions):
        reasons.append("a credential was used from an address that it never came from before")
    return reasons


def _what_to_do(told: Incident, alerts: Sequence[Alert]) -> None:
    """Checks and techniques of all alerts, those of the gravest first; each once."""
    ordered = sorted(alerts, key=lambda alert: SEVERITIES.index(alert.severity), reverse=True)

    def once(items: Iterable[Check]) -> list[Check]:
        return list({(item.text, item.command): item for item in items}.values())

    told.checks = once(check for alert in ordered for check in alert.checks)[:_MAX_CHECKS]
    techniques = {technique.id: technique for alert in ordered for technique in alert.techniques}
    told.techniques = list(techniques.values())[:_MAX_TECHNIQUES]
    told.terms = {term: meaning for alert in ordered for term, meaning in alert.terms.items()}
