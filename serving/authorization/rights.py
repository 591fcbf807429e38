"""What the API says about rights: unused ones, who may do what, who can become whom, and what would have stopped an incident."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from detection.authorization.authorizer import MASTERS
from detection.authorization.containment import Containment, SuspectRequest, contain
from detection.authorization.escalation import Escalation
from detection.authorization.least_privilege import GrantedRight, rights_by
from detection.authorization.rbac import BindingGrant, Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.right_index import RightIndex
from detection.authorization.subjects import subjects_who_may
from detection.authorization.usage import UserUsage
from serving.schemas import ApiModel, clean

_SHOWN = 500


class GrantedRightView(ApiModel):
    """A right that a binding gives."""

    right: str
    binding: str
    role: str
    uses: Annotated[int, Field(description="requests of the span that it allowed")]
    risk: Annotated[str, Field(description="what it leads to; empty for an ordinary right")] = ""


class UserRights(ApiModel):
    """The rights of a user by its bindings, and how many of them it used."""

    user: str
    granted: int
    used: int
    unused: int
    risky_unused: Annotated[int, Field(description="unused rights that lead to others")]
    rights: Annotated[list[GrantedRightView], Field(description="risky and unused ones first; at most 500")]


class RightsReport(ApiModel):
    """Rights that were granted and never used, of users seen in the event store."""

    since: str
    requests: int
    complete: Annotated[bool, Field(description="whether all different requests of the span were read")]
    users: list[UserRights]


class AllowedSubjectView(ApiModel):
    """A user or group that may do something."""

    kind: str
    name: str
    binding: Annotated[str | None, Field(description="null for system:masters, which needs none")]
    role: str | None
    sure: bool


class WhoCan(ApiModel):
    """Who may do something, and by which binding."""

    request: str
    subjects: list[AllowedSubjectView]


class EscalationStepView(ApiModel):
    """One user acts as another."""

    source: Annotated[str, Field(alias="from")]
    target: Annotated[str, Field(alias="to")]
    how: str
    binding: str | None
    technique: Annotated[str, Field(description="ATT&CK technique")]


class EscalationPath(ApiModel):
    """The shortest way from a user to another, or to everything (`cluster-admin`)."""

    target: str
    kind: Annotated[
        Literal["user", "group", "role", "node", "everything"],
        Field(description="role: the rights of a role that can be bound; node: what runs on any node"),
    ]
    steps: list[EscalationStepView]


class EscalationPaths(ApiModel):
    """Whom a user can become by its rights."""

    user: str
    paths: list[EscalationPath]


class AllowedRequest(ApiModel):
    """A request of an incident and the bindings that allow it, as the rules stand."""

    audit_ids: list[str]
    user: str
    request: str
    allowed_by: Annotated[list[str], Field(description="binding and role; all of them allow it")]
    not_stopped: Annotated[str, Field(description="why no change of RBAC stops it; empty if one does")] = ""


class ProposedChange(ApiModel):
    """A change of roles and bindings."""

    words: str
    objects: Annotated[list[dict[str, Any]], Field(description="manifests to apply")]
    removed: Annotated[list[str], Field(description="roles or bindings to delete, as kubectl names them")]


class IncidentContainment(ApiModel):
    """Which bindings made an incident possible, and the smallest change that stops it and nothing that is in use."""

    incident: str
    requests: list[AllowedRequest]
    changes: Annotated[list[ProposedChange], Field(description="all of them together")]
    since: Annotated[str, Field(description="start of the span whose use is kept")]
    kept: Annotated[int, Field(description="rights in use in that span, all still allowed")]
    complete: bool
    missing: Annotated[int, Field(description="requests of the incident that are not in the event store")] = 0


def _words(grant: BindingGrant) -> str:
    return clean(f"{grant.binding} of {grant.role}")


def rights_of(index: RightIndex, user: str, *, whole: bool) -> UserRights:
    """The rights of a user; with `whole` each of them, else only their numbers."""
    usage = index.usage.get(user) or UserUsage()
    grants = list(index.rbac.all_bindings_of(user, usage.groups))
    total = index.total(grants, [user])
    return UserRights(
        user=clean(user),
        granted=total.granted,
        used=total.used,
        unused=total.granted - total.used,
        risky_unused=total.risky_unused,
        rights=[_right(one) for one in rights_by(index, grants, [user])[:_SHOWN]] if whole else [],
    )


def _right(one: GrantedRight) -> GrantedRightView:
    return GrantedRightView(
        right=clean(one.rule.words),
        binding=clean(str(one.grant.binding)),
        role=clean(str(one.grant.role)),
        uses=one.uses,
        risk=one.risk,
    )


def who_can(rbac: Rbac, request: AccessRequest) -> WhoCan:
    """Who may make a request."""
    return WhoCan(
        request=clean(str(request)),
        subjects=[
            AllowedSubjectView(
                kind=one.kind,
                name=clean(one.name),
                binding=None if one.grant is None else clean(str(one.grant.binding)),
                role=None if one.grant is None else clean(str(one.grant.role)),
                sure=one.sure,
            )
            for one in subjects_who_may(rbac, request)
        ],
    )


def paths_of(escalation: Escalation, user: str, groups: Iterable[str]) -> EscalationPaths:
    """Whom a user with some groups can become, the shortest paths first."""
    found = escalation.paths(user, tuple(dict.fromkeys((*escalation.groups_of(user), *groups))))
    paths = [
        EscalationPath(
            target=clean(target.name),
            kind=target.kind,
            steps=[
                EscalationStepView(
                    source=clean(step.source),
                    target=clean(step.target),
                    how=step.how,
                    binding=None if step.grant is None else clean(str(step.grant.binding)),
                    technique=step.technique,
                )
                for step in steps
            ],
        )
        for target, steps in found.items()
    ]
    return EscalationPaths(user=clean(user), paths=sorted(paths, key=lambda one: len(one.steps)))


def containment_of(
    incident: str,
    rbac: Rbac,
    suspects: Mapping[str, SuspectRequest],
    habits: Mapping[str, UserUsage],
    *,
    since: str,
    complete: bool,
    missing: int,
) -> IncidentContainment:
    """What would have stopped an incident; `suspects` by audit ID."""
    found = contain(rbac, suspects.values(), habits)
    ids: dict[SuspectRequest, list[str]] = {}
    for audit_id, suspect in suspects.items():
        ids.setdefault(suspect, []).append(clean(audit_id, 128))
    return IncidentContainment(
        incident=incident,
        requests=_requests(found, ids),
        changes=[
            ProposedChange(
                words=clean(change.words, 1000),
                objects=[dict(one) for one in change.objects],
                removed=[clean("/".join(filter(None, key))) for key in change.removed],
            )
            for change in found.changes
        ],
        since=since,
        kept=found.kept,
        complete=complete,
        missing=missing,
    )


def _requests(found: Containment, ids: Mapping[SuspectRequest, Sequence[str]]) -> list[AllowedRequest]:
    return [
        AllowedRequest(
            audit_ids=list(ids[suspect])[:_SHOWN],
            user=clean(suspect.user),
            request=clean(str(suspect.request)),
            allowed_by=[f"group {MASTERS}"] if MASTERS in suspect.groups else [_words(one) for one in grants],
            not_stopped=found.unstoppable.get(suspect, ""),
        )
        for suspect, grants in found.allowed_by.items()
    ]
