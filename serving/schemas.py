"""Alerts: one surprising stretch of one principal, in the form that is stored and sent.

JSON names follow the Kubernetes audit API (`auditID`, `objectRef`, `sourceIPs`). Of a request only fields of `AuditEvent` are
kept, never its body; texts chosen by clients are cleaned by `clean` first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from data.secret_text import without_secrets
from data.visible_text import visible

Severity = Literal["low", "medium", "high", "critical"]

#: In rising order; "none" is the severity of what is not flagged.
SEVERITIES: tuple[str, ...] = ("none", "low", "medium", "high", "critical")

MAX_TEXT = 256
_MAX_DESCRIPTIONS = 50
_FIRST_CONTRIBUTORS, _HEAVIEST_CONTRIBUTORS = 20, 20
_BREAKS = re.compile(r"[\t\n\r]+")
_UUID, _UUID_LENGTH = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), 36
_QUERY = re.compile(r"(?<![?\s])\?+[^\s=?]*=\S*")


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Make a text that a client chose safe to store and show.

    Line breaks become a space, secrets (`data.secret_text`) "[token]", and what a terminal would obey or nobody would see an
    escape; values of a query string are cut off, and the rest is cut to `limit` characters.
    """
    if (
        len(text) == _UUID_LENGTH and _UUID.fullmatch(text) is not None
    ):  # an audit ID: never the same, and nothing to hide
        return text
    return _short_cleaned(text, limit) if len(text) <= MAX_TEXT else _cleaned(text, limit)


def _cleaned(text: str, limit: int) -> str:
    text = without_secrets(_BREAKS.sub(" ", text[: 8 * limit]), "[token]")
    text = _QUERY.sub("?…", visible(text))
    return text if len(text) <= limit else text[: limit - 1] + "…"


#: Names and clients repeat from one request to the next.
_short_cleaned = lru_cache(maxsize=4096)(_cleaned)


def _kubernetes_name(name: str) -> str:
    """camelCase as Kubernetes writes it: `audit_id` -> `auditID`, `source_ips` -> `sourceIPs`."""
    return re.sub(r"(Id|Ip)(s?)$", lambda found: found[1].upper() + found[2], to_camel(name))


#: A text by which lists are filtered, without the spaces around it.
FilterText = Annotated[
    str,
    BeforeValidator(lambda text: text.strip(" ") if isinstance(text, str) else text),
    Field(max_length=512),
]

#: Fields of a list's query that say which part of the list is wanted; the others are filters, and its order.
_PLACE = frozenset({"since", "until", "limit", "cursor", "after"})


class ListQuery(BaseModel):
    """What a list is asked for: in a query of the API or the console, and of the command line. Empty: any."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, validate_by_alias=True)

    def parameters(self, *without: str) -> dict[str, str]:
        """The filters in use and the order, by the names they have in a URL; what is as by default is left out."""
        return self.model_dump(exclude={*_PLACE, *without}, exclude_defaults=True, by_alias=True)


class ApiModel(BaseModel):
    """Base of everything this service sends and stores."""

    model_config = ConfigDict(alias_generator=_kubernetes_name, validate_by_name=True, validate_by_alias=True)


class ObjectReference(ApiModel):
    """What a request was about, by the names of audit.k8s.io/v1."""

    resource: str = ""
    namespace: str = ""
    name: str = ""
    api_group: str = ""
    subresource: str = ""


class ResponseStatus(ApiModel):
    """Answer of the API server."""

    code: int


class ImpersonatedUser(ApiModel):
    """User that the caller acted as."""

    username: str


class Alternative(ApiModel):
    """A value the model would have expected instead."""

    value: str
    probability: float


class FieldSurprise(ApiModel):
    """How badly one field of an action could be reconstructed, and what was expected."""

    field: str
    value: str
    nll: Annotated[float, Field(description="negative log-likelihood in nats")]
    expected: Annotated[list[Alternative], Field(description="of this principal, at this point")] = []
    expected_of_peers: Annotated[
        list[Alternative],
        Field(description="of a member of its peer group about which nothing else is known"),
    ] = []


class Novelty(ApiModel):
    """What is new about an action, in counts that can be checked against the log."""

    attribute: str
    value: str
    times_before: int
    actions_before: int
    peers_with: int
    peers: int
    anyone_with: int


class EventSummary(ApiModel):
    """One audited request in the short form that is kept of it."""

    audit_id: str
    time: datetime
    description: Annotated[str, Field(alias="did", description="the action in words, without who did it")]
    verb: str
    object_ref: ObjectReference | None = None
    request_path: Annotated[
        str | None, Field(description="path, without its query, of a request outside the resource API")
    ] = None
    response_status: ResponseStatus | None = None
    source_ips: list[str] = []
    user_agent: str = ""
    impersonated_user: ImpersonatedUser | None = None
    proxy: Annotated[
        str | None, Field(description="proxy that the principal logged in to, which sent the request as it")
    ] = None
    traits: list[str] = []
    allowed_by: Annotated[
        str, Field(description="binding and role that allowed it, as the API server recorded it")
    ] = ""


class Contradiction(ApiModel):
    """What about a request contradicts the cluster's own roles and bindings: see docs/rbac.md."""

    outcome: str
    request: Annotated[str, Field(description="what was asked for, as rules name it")]
    user: Annotated[str, Field(description="who was authorized: the impersonated user, if there is one")]
    recorded: Annotated[str, Field(description="binding that the log names; empty if it names none")] = ""
    rules_say: Annotated[str, Field(description="what roles and bindings say, as of that moment")] = ""


class Contributor(EventSummary):
    """A milder action that contributed to an alert without being flagged itself."""

    weight: Annotated[
        float,
        Field(description="evidence of this action alone, in factors of ten; it takes several to be flagged"),
    ]
    habits: Annotated[list[Novelty], Field(description="what is new about it, most important first")] = []


Role = Literal["flagged", "contributor", "session", "before", "consequence"]
Confidence = Literal["certain", "likely", "possible"]
CONFIDENCE_RANK: dict[str, int] = {"possible": 0, "likely": 1, "certain": 2}


class Surrounding(EventSummary):
    """One action of an incident's evidence: flagged, leading up to it, around it, or following from it."""

    role: Annotated[
        Role,
        Field(
            description="flagged; contributor: milder, but it contributed; session: by the same principal in between; "
            "before: what the same credential did just before; consequence: the cluster's machinery carrying it out"
        ),
    ]
    principal: str
    address: Annotated[str, Field(description="from where, seen through the trusted proxies")] = ""
    weight: float = 0.0
    news: Annotated[list[str], Field(description="what is new about it, as clauses")] = []
    confidence: Annotated[Confidence, Field(description="how sure it is that it belongs here")] = "certain"
    why: Annotated[str, Field(description="why it belongs here")] = ""


class IncidentLink(ApiModel):
    """How one principal may have come to act as another."""

    kind: str
    source: str
    target: Annotated[
        str, Field(description="ends in * for all service accounts of a namespace or of the cluster")
    ]
    via: Annotated[str, Field(description="the object it goes through")] = ""
    audit_id: str
    time: datetime
    address: Annotated[str, Field(description="where it was done from")] = ""
    confidence: Confidence
    why: str


class RuleMatch(ApiModel):
    """A rule that an action matched."""

    name: str
    title: str
    severity: Severity
    reason: Annotated[str, Field(description="why it matched, as a clause")]
    techniques: Annotated[list[str], Field(description="of ATT&CK, by their IDs")] = []


class Action(EventSummary):
    """One unusual action within an alert."""

    severity: Severity
    sensitivity: Annotated[int, Field(description="of what was touched: 0 routine, 1 low, 2 medium, 3 high")]
    sensitivity_reason: str = ""
    evidence: Annotated[
        float, Field(description="what added up to it, in factors of ten: see docs/how-it-decides.md")
    ]
    surprise: Annotated[float, Field(description="reconstruction error, in nats, summed over the fields")]
    first_flagged: Annotated[
        datetime | None,
        Field(description="for what was flagged before, without a verdict since: when that was"),
    ] = None
    contradiction: Annotated[
        Contradiction | None, Field(description="set if the log contradicts the cluster's own rules")
    ] = None
    binding_made: Annotated[
        datetime | None,
        Field(description="when the binding that allowed it was made, if that is known and was within a day"),
    ] = None
    fields: list[FieldSurprise] = []
    habits: list[Novelty] = []
    rules: Annotated[list[RuleMatch], Field(description="rules that it matched (docs/rules.md)")] = []

    @property
    def weight(self) -> tuple[int, float]:
        """Sort key: severity, then evidence."""
        return SEVERITIES.index(self.severity), self.evidence


_Weighed = TypeVar("_Weighed", Action, Contributor)


class Technique(ApiModel):
    """An ATT&CK for Containers technique this looks like."""

    id: str
    name: str
    tactic: str
    url: str


Effect = Literal["looks", "changes", "stops"]


class Check(ApiModel):
    """A next step for a person; commands are text and are never run by kubehabit."""

    kind: Annotated[Literal["look", "contain"], Field(description="look changes nothing; contain does")]
    text: str
    command: str | None = None
    effect: Annotated[
        Effect | None,
        Field(
            description="of the command: it only looks, it changes something, or it stops work that is going on"
        ),
    ] = None


class RepeatedAction(ApiModel):
    """Actions of an alert that read the same, counted."""

    description: Annotated[str, Field(alias="did")]
    count: int


class ServedModel(ApiModel):
    """The registered model version that judged."""

    name: str
    version: str


class Alert(ApiModel):
    """A stretch of unusual actions of one principal."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "7d0c6a1f52b8e934",
                "principal": "system:serviceaccount:web:ci-deployer",
                "kind": "serviceaccount",
                "peerGroup": "account:ci-deployer",
                "firstSeen": "2026-11-23T14:31:12.575126Z",
                "lastSeen": "2026-11-23T14:31:12.575126Z",
                "severity": "high",
                "evidence": 6.2,
                "sentence": "ci-deployer (service account in web) listed Secrets in payments: it has never listed Secrets "
                "before (0 of 1,197 earlier actions), nor has any of its 2 peers.",
                "techniques": [],
                "did": [{"did": "listed Secrets in payments", "count": 1}],
                "actions": [],
                "actionCount": 1,
                "auditIDs": ["0abe9025-690a-4c64-ab70-22c373c72194"],
                "checks": [],
                "terms": {},
                "model": {"name": "kubehabit", "version": "3"},
            }
        }
    )

    id: str
    principal: str
    kind: str
    peer_group: str
    first_seen: datetime
    last_seen: datetime
    severity: Severity
    evidence: float
    sentence: str
    techniques: list[Technique] = []
    repeated: Annotated[list[RepeatedAction], Field(alias="did")] = []
    actions: Annotated[
        list[Action], Field(description="the first ones and the most surprising later ones")
    ] = []
    action_count: Annotated[int, Field(description="all unusual actions, shown or not")] = 0
    began: Annotated[
        datetime | None,
        Field(description="when the first action that added up to it was; firstSeen is the first flagged"),
    ] = None
    contributors: Annotated[
        list[Contributor],
        Field(
            description="milder actions that added up to it, in order of time: the first ones and the heaviest later ones"
        ),
    ] = []
    times_again: Annotated[
        int,
        Field(description="how often it was done again later, ten minutes or more apart, without a verdict"),
    ] = 0
    actions_again: Annotated[
        int, Field(description="unusual actions of those times; actionCount has them too")
    ] = 0
    last_again: Annotated[
        datetime | None, Field(description="when it was last done again; lastSeen is of the first time")
    ] = None
    contributor_count: Annotated[int, Field(description="all of them, shown or not")] = 0
    audit_ids: Annotated[list[str], Field(description="all of them; in lists of alerts the first 1,000")] = []
    severity_reasons: Annotated[list[str], Field(description="why it has this severity")] = []
    expected: Annotated[
        list[str], Field(description="what the model expected instead of the most telling action, in words")
    ] = []
    checks: list[Check] = []
    terms: Annotated[dict[str, str], Field(description="Terms that occur in it, explained")] = {}
    model: ServedModel

    @property
    def headline(self) -> Action:
        """The action that tells most: one that contradicts the rules, else the most severe; the earliest of equals."""
        return max(self.actions, key=lambda action: (action.contradiction is not None, *action.weight))

    @property
    def namespaces(self) -> list[str]:
        """Namespaces that it touched, as far as it shows them, in the order of the alphabet."""
        shown = (*self.actions, *self.contributors)
        return sorted({one.object_ref.namespace for one in shown if one.object_ref is not None} - {""})


def add_contributors(alert: Alert, contributors: list[Contributor]) -> None:
    """Let an alert grow by contributors it does not hold yet. Bounded: the first ones and the heaviest later ones stay."""
    alert.contributor_count += len(contributors)
    ordered = sorted([*alert.contributors, *contributors], key=lambda one: (one.time, one.audit_id))
    alert.contributors = _first_and_heaviest(ordered, _FIRST_CONTRIBUTORS, _HEAVIEST_CONTRIBUTORS)
    first = alert.contributors[0].time if alert.contributors else alert.first_seen
    alert.began = min(first, alert.first_seen, alert.began or alert.first_seen)


def _first_and_heaviest(ordered: list[_Weighed], first: int, heaviest: int) -> list[_Weighed]:
    """Of what is in order of time the first ones and the heaviest later ones, in order of time."""
    later = sorted(range(first, len(ordered)), key=lambda place: ordered[place].weight, reverse=True)
    return ordered[:first] + [ordered[place] for place in sorted(later[:heaviest])]


def add_actions(alert: Alert, actions: list[Action], *, first: int, top: int) -> None:
    """Let an alert grow by actions it does not hold yet. Bounded: `first` + `top` actions stay in full.

    Actions that repeat earlier ones do not prolong it: they are counted as done again.
    Sentence, techniques and checks are the explainer's to renew afterwards.
    """
    alert.action_count += len(actions)
    counts = {one.description: one.count for one in alert.repeated}
    for action in actions:
        if action.description in counts or len(counts) < _MAX_DESCRIPTIONS:
            counts[action.description] = counts.get(action.description, 0) + 1
    alert.repeated = [RepeatedAction(description=text, count=count) for text, count in counts.items()]
    ordered = sorted([*alert.actions, *actions], key=lambda action: action.time)
    alert.actions = _first_and_heaviest(ordered, first, top)
    alert.first_seen = min(alert.first_seen, alert.actions[0].time)
    alert.began = min(alert.first_seen, alert.began or alert.first_seen)
    alert.last_seen = max([alert.last_seen, *(one.time for one in actions if one.first_flagged is None)])
    alert.severity = max((alert.severity, *(action.severity for action in actions)), key=SEVERITIES.index)
    alert.evidence = max(alert.evidence, *(action.evidence for action in actions))


def add_times_again(alert: Alert, times: Sequence[datetime], gap: timedelta) -> None:
    """Count repeats of what an alert holds, by their times; those at most `gap` apart were done at one time."""
    for time in sorted(times):
        if time - (alert.last_again or alert.last_seen) > gap:
            alert.times_again += 1
        alert.actions_again += 1
        alert.last_again = time if alert.last_again is None else max(alert.last_again, time)


class SelfTestResult(ApiModel):
    """How near this machine came to what training computed when the model was loaded."""

    windows: int
    worst_difference: Annotated[float, Field(description="nats")]
    tolerance: Annotated[float, Field(description="nats; beyond it the model would have been refused")]


class ModelInfo(ApiModel):
    """The model that is being served."""

    name: str
    version: str
    source: Annotated[
        Literal["registry", "cache", "folder", "starter"],
        Field(
            description="`starter`: the model installed with kubehabit, while the registry has no champion"
        ),
    ]
    notice: str | None = None
    fields: list[str]
    loaded: datetime
    bundle: dict[str, object]
    self_test: Annotated[
        SelfTestResult | None, Field(description="null for a bundle that was made before there was one")
    ] = None
    threshold_scale: Annotated[
        float, Field(description="what the calibrated thresholds are multiplied by: alerts.threshold_scale")
    ] = 1.0
