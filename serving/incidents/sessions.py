"""Sessions of an incident: what one credential did in one go, and which of them may be where it began."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from serving.alerts.explain.explainer import Explainer
from serving.schemas import SEVERITIES, Action, Alert, ApiModel, Contributor, Surrounding

#: Actions of one credential that count and are further apart belong to different sessions.
_PAUSE = timedelta(seconds=120)

#: So do those with as many ordinary actions of the credential between them: its owner was at work again.
_ORDINARY = 10

#: Actions listed before the first of a session that counts: among the first five are then two that count.
_LEAD = 3
_LISTED = 50

#: Roles of the actions that count.
SUSPICIOUS = ("flagged", "contributor")


class Session(ApiModel):
    """What one principal did from one address with one client, without a longer pause between what counts."""

    principal: str
    address: str
    client: str
    first_seen: datetime
    last_seen: datetime
    new_address: Annotated[bool, Field(description="the principal never came from there before")] = False
    new_client: Annotated[bool, Field(description="the principal never used it before")] = False
    suspicious: Annotated[int, Field(description="actions that were flagged or contributed")]
    action_count: int
    sentence: Annotated[str, Field(description="the session in a sentence")] = ""
    reasons: Annotated[list[str], Field(description="why it stands out, most important first")] = []
    top_attribute: Annotated[str, Field(description="what the first reason is about")] = ""
    actions: Annotated[
        list[Surrounding],
        Field(
            description="in order of time: at most three that led up to it, then what counted, then the rest"
        ),
    ] = []


def sessions_of(own: Sequence[Surrounding], alerts: Sequence[Alert], explainer: Explainer) -> list[Session]:
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


def _begins(one: Surrounding) -> bool:
    """Whether an action can begin a session: flagged, or new to its principal. What was only odd adds up, but begins nothing."""
    return one.role == "flagged" or (one.role == "contributor" and one.weight > 0)


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
    counted = [one for one in inside if one.role in SUSPICIOUS]
    lead = _lead_up(before)
    rest = [one for one in (*inside, *after) if one.role not in SUSPICIOUS]
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


def _alike(one: Surrounding, other: Surrounding) -> bool:
    mine, theirs = one.object_ref, other.object_ref
    return (
        one.verb == other.verb
        and mine is not None
        and theirs is not None
        and (mine.resource, mine.subresource) == (theirs.resource, theirs.subresource)
    )


def possible_sources(sessions: Sequence[Session], alerts: Sequence[Alert]) -> list[Session]:
    """Sessions that may be where the incident began, by time.

    Of a credential from a new address or with a new client, all sessions from there, if one of them was flagged. From the usual
    place, where its owner works too, sessions as severe as the whole incident: everyday work is flagged now and then, mostly as
    mild. Contributors alone may be everyday life; if there is nothing else, flagged sessions count.
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
