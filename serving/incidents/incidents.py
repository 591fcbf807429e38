"""Incidents: alerts joined over time and across principals by links found in the log; merged, split and closed by people.

An alert is joined in the transaction that stores it. Nothing is deleted: incidents that were merged, split or closed remain, and
their trail says who did it, when and why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field
from sqlalchemy.engine import Connection

from data.errors import ConflictError, NotFoundError
from serving.alerts.explain.explainer import Explainer
from serving.incidents.context import LINK_REACH
from serving.incidents.links import ANY, standing_for
from serving.incidents.query import IncidentQuery, page_of
from serving.incidents.report import Incident, IncidentSummary, TrailEntry, build_report, summarize
from serving.schemas import (
    CONFIDENCE_RANK,
    Action,
    Alert,
    ApiModel,
    Confidence,
    Contributor,
    IncidentLink,
    clean,
)
from serving.storage import incidents as rows
from serving.storage.database import AlertStore
from serving.storage.incidents import Member
from serving.storage.tables import microseconds

#: Author of automatic entries in the trail.
PRODUCT = "kubehabit"

_MAX_NOTE = 1000
_MAX_NAME = 256
Outcome = Literal["malicious", "normal", "unclear"]


class IncidentError(ConflictError):
    """The state of the incident does not allow the request; the message says why."""


class UnknownIncidentError(NotFoundError):
    """There is no incident of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no incident {clean(name, 32)}: see GET /v1/incidents.")
        self.name = name


class _Decision(ApiModel):
    model_config = ConfigDict(extra="forbid")

    note: Annotated[str, Field(max_length=_MAX_NOTE, description="why")] = ""
    by: Annotated[str, Field(max_length=_MAX_NAME, description="name of the person who decides")] = ""


class Merge(_Decision):
    """The incident that is merged into this one."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"incident": "9f2c11d04ab7e621", "note": "Same laptop.", "by": "alice@corp"}
        }
    )

    incident: Annotated[str, Field(description="the one that is merged into this one", max_length=32)]


class Split(_Decision):
    """Alerts that are moved into a new incident."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"alerts": ["7d0c6a1f52b8e934"], "note": "Planned migration.", "by": "alice@corp"}
        }
    )

    alerts: Annotated[list[str], Field(min_length=1, max_length=1000)]


class Close(_Decision):
    """Work on an incident is finished."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"outcome": "malicious", "note": "Token revoked, IR-204.", "by": "alice@corp"}
        }
    )

    outcome: Outcome = "unclear"


class Acknowledge(_Decision):
    """A person has taken note of an incident; others see that it is looked at."""

    model_config = ConfigDict(json_schema_extra={"example": {"note": "Looking.", "by": "alice@corp"}})


class Assign(_Decision):
    """Who works on an incident; an empty name: nobody. It counts as acknowledged then."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"assignee": "bob@corp", "note": "On call today.", "by": "alice@corp"}}
    )

    assignee: Annotated[str, Field(max_length=_MAX_NAME, description="name of the person who works on it")]


class Reopen(_Decision):
    """Work on a closed incident goes on."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"note": "It was done again.", "by": "alice@corp"}}
    )


class Correct(_Decision):
    """Another outcome of a closed incident."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"outcome": "normal", "note": "Judy was on call.", "by": "alice@corp"}}
    )

    outcome: Outcome


class Note(_Decision):
    """A remark on an incident; it changes nothing."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"note": "Called Judy: it was not her.", "by": "alice@corp"}}
    )

    note: Annotated[str, Field(min_length=1, max_length=_MAX_NOTE)]


Decision = Merge | Split | Close | Acknowledge | Assign | Reopen | Correct | Note


class Asker(NamedTuple):
    """The caller as the service knows it: name of a token or certificate, if any, and address."""

    caller: str = ""
    address: str = ""

    def entry(self, wanted: _Decision) -> dict[str, str]:
        """Fields of a trail entry that say who and why."""
        who = {"by": clean(wanted.by), "caller": clean(self.caller), "address": clean(self.address, 64)}
        return who | {"note": wanted.note}


class _Reason(NamedTuple):
    """Why an alert belongs to an existing incident."""

    incident: str
    number: int
    confidence: Confidence
    why: str


class IncidentPage(ApiModel):
    """One page of incidents, newest first."""

    incidents: list[IncidentSummary]
    cursor: str | None = None


class Incidents:
    """The incidents of an alert store, put into words by an explainer."""

    def __init__(self, store: AlertStore, explainer: Explainer) -> None:
        self._store = store
        self._explainer = explainer

    @property
    def words(self) -> dict[str, str]:
        """Terms that a file of evidence uses, explained."""
        lexicon = self._explainer.lexicon
        return dict(sorted((lexicon.glossary | lexicon.evidence).items(), key=lambda pair: pair[0].lower()))

    # -- joining ------------------------------------------------------------------------------------------------

    def join(self, connection: Connection, alert: Alert, links: Sequence[IncidentLink]) -> str:
        """Assign an alert to an incident, and merge incidents that it or its links connect; returns its incident.

        Args:
            connection: the transaction in which the alert was stored.
            alert: as it is now.
            links: those found through it that are new.
        """
        mine = rows.member(connection, alert.id)
        # An alert that grows may only now hold something that an earlier link can have led to.
        reasons = [*self._by_links(connection, alert, links), *self._by_stored_links(connection, alert)]
        if mine is None:
            reasons += self._by_principal(connection, alert)
        reasons.sort(key=lambda reason: CONFIDENCE_RANK[reason.confidence], reverse=True)
        best = {reason.incident: reason for reason in reversed(reasons)}
        ordered = sorted(best.values(), key=lambda reason: reason.number)
        if mine is not None:
            place = mine.incident
        else:
            if ordered:
                first = ordered.pop(0)
                place, noted = first.incident, {"confidence": first.confidence, "note": first.why}
            else:
                place, noted = alert.id, {}
                rows.open_incident(connection, place)
            rows.assign(connection, alert.id, place, by_hand=False)
            self._note(connection, place, "joined" if noted else "opened", alerts=[alert.id], **noted)
        for reason in ordered:
            place = self._join_incidents(connection, place, reason)
        return place

    def _by_principal(self, connection: Connection, alert: Alert) -> list[_Reason]:
        """Alerts of the same principal within a working day before."""
        began, ended = microseconds(alert.began or alert.first_seen), microseconds(alert.last_seen)
        found = rows.members_of_principal(connection, alert.principal, began - LINK_REACH, ended)
        others = [one for one in found if one.alert != alert.id]
        why = "the same principal was out of its habits within the hours before"
        return self._reasons(connection, others[-1:], "likely", why)

    def _by_links(self, connection: Connection, alert: Alert, links: Sequence[IncidentLink]) -> list[_Reason]:
        """Other alerts at either end of a link."""
        reasons: list[_Reason] = []
        for link in links:
            time, out = microseconds(link.time), link.source == alert.principal
            far = link.target if out else link.source
            found = rows.members_of_principal(
                connection,
                far.removesuffix(ANY) if out else far,
                time if out else time - LINK_REACH,
                time + LINK_REACH,
                prefix=out and far.endswith(ANY),
            )
            others = [one for one in found if one.alert != alert.id and one.principal != alert.principal]
            if out:
                ends = rows.alerts_of(connection, [one.number for one in others])
                led = {end.id for end in ends if _leads(link, end)}
                others = [one for one in others if one.alert in led]
            elif not _leads(link, alert):
                continue
            reasons += self._reasons(connection, others, _at_least_likely(link), _words(link))
        return reasons

    def _by_stored_links(self, connection: Connection, alert: Alert) -> list[_Reason]:
        """Alerts at the far end of stored links to this alert's principal."""
        keys = [alert.principal, *standing_for(alert.principal)]
        began, ended = microseconds(alert.began or alert.first_seen), microseconds(alert.last_seen)
        links = rows.links_into(connection, keys, began - LINK_REACH, ended)
        return self._by_links(connection, alert, [one for one in links if one.source != alert.principal])

    @staticmethod
    def _reasons(
        connection: Connection, found: Sequence[Member], confidence: Confidence, why: str
    ) -> list[_Reason]:
        names = dict.fromkeys(one.incident for one in found)
        held = (rows.incident(connection, name) for name in names)
        return [
            _Reason(row.id, row.number, confidence, why)
            for row in held
            if row is not None and row.state == "open"
        ]

    def _join_incidents(self, connection: Connection, place: str, reason: _Reason) -> str:
        """Merge the younger of two incidents into the older, unless people have decided about one of them."""
        if reason.incident == place:
            return place
        mine, theirs = rows.incident(connection, place), rows.incident(connection, reason.incident)
        if mine is None or theirs is None or mine.state != "open" or theirs.state != "open":
            return place
        both = [*rows.members(connection, mine.id), *rows.members(connection, theirs.id)]
        if any(one.by_hand for one in both):
            return place
        elder, younger = (mine, theirs) if mine.number < theirs.number else (theirs, mine)
        self._move_all(connection, younger.id, elder.id, by_hand=False)
        why = {"confidence": reason.confidence, "note": reason.why}
        self._note(connection, elder.id, "merged", incident=younger.id, **why)
        self._note(connection, younger.id, "merged-into", incident=elder.id, **why)
        return elder.id

    @staticmethod
    def _move_all(connection: Connection, source: str, to: str, *, by_hand: bool) -> list[str]:
        moved = [one.alert for one in rows.members(connection, source)]
        for alert in moved:
            rows.assign(connection, alert, to, by_hand=by_hand)
        rows.set_state(connection, source, "merged", to)
        return moved

    # -- what people decide -------------------------------------------------------------------------------------

    def decide(self, name: str, decision: Decision, asker: Asker) -> Incident:
        """Carry out a decision about an incident; returns the incident, or the new one of a split.

        After a close, later alerts of its principals start a new incident.

        Raises:
            UnknownIncidentError: it, or the other one of a merge, does not exist.
            IncidentError: its state does not allow it; the message says what to do.
            StoreError: the database failed.
        """
        with self._store.writing() as writer:
            connection = writer.connection
            state = self._usable(connection, name)
            who = asker.entry(decision)
            match decision:
                case Merge():
                    self._merge(connection, name, decision.incident, who)
                case Split():
                    name = self._split(connection, name, decision.alerts, who)
                case Close():
                    if state == "closed":
                        raise IncidentError("The incident is closed already.")
                    rows.set_state(connection, name, "closed", outcome=decision.outcome)
                    note = _with_outcome(decision.outcome, decision.note)
                    self._note(connection, name, "closed", **(who | {"note": note}))
                case Note():
                    self._note(connection, name, "noted", **who)
                case _:
                    self._work(connection, name, decision, state, who)
        found = self.get(name)
        assert found is not None
        return found

    def _work(
        self,
        connection: Connection,
        name: str,
        decision: Acknowledge | Assign | Reopen | Correct,
        state: str,
        who: dict[str, str],
    ) -> None:
        """Note who works on an incident, or take a close back as a whole or in its outcome."""
        now = microseconds(datetime.now(UTC))
        match decision:
            case Acknowledge():
                rows.set_work(connection, name, acknowledged=now)
                self._note(connection, name, "acknowledged", **who)
            case Assign():
                assignee = clean(decision.assignee.strip())
                taken = {"acknowledged": now} if assignee else {}
                rows.set_work(connection, name, assignee=assignee or None, **taken)
                words = f"to {assignee}" if assignee else "to nobody"
                note = f"{words}: {decision.note}" if decision.note else words
                self._note(connection, name, "assigned", **(who | {"note": note}))
            case Reopen():
                if state != "closed":
                    raise IncidentError("The incident is open: there is nothing to reopen.")
                rows.set_state(connection, name, "open")
                self._note(connection, name, "reopened", **who)
            case Correct():
                if state != "closed":
                    raise IncidentError("The incident is open: close it with its outcome.")
                rows.set_work(connection, name, outcome=decision.outcome)
                note = _with_outcome(decision.outcome, decision.note)
                self._note(connection, name, "corrected", **(who | {"note": note}))

    def to_judge(self, name: str, decision: Close | Correct) -> list[str]:
        """The alerts of an incident whose outcome can be set; raises as `decide`."""
        with self._store.reading() as connection:
            state = self._usable(connection, name)
            if isinstance(decision, Close) and state == "closed":
                raise IncidentError("The incident is closed already.")
            if isinstance(decision, Correct) and state != "closed":
                raise IncidentError("The incident is open: close it with its outcome.")
            return [one.alert for one in rows.members(connection, name)]

    def _merge(self, connection: Connection, name: str, other: str, who: dict[str, str]) -> None:
        """Move all alerts of another incident into this one, and open this one again if it was closed."""
        if other == name:
            raise IncidentError("An incident cannot be merged into itself: name another one.")
        self._usable(connection, other)
        moved = self._move_all(connection, other, name, by_hand=True)
        rows.set_state(connection, name, "open")
        self._note(connection, name, "merged", alerts=moved, incident=other, **who)
        self._note(connection, other, "merged-into", alerts=moved, incident=name, **who)

    def _split(self, connection: Connection, name: str, alerts: Sequence[str], who: dict[str, str]) -> str:
        """Make a new incident of some alerts, and return its name; no later join brings the two together again."""
        held = [one.alert for one in rows.members(connection, name)]
        moved = list(dict.fromkeys(alerts))
        strangers = [alert for alert in moved if alert not in held]
        if strangers:
            raise IncidentError(
                f"Alert {clean(strangers[0], 32)} is not in this incident: name alerts that it lists."
            )
        if len(moved) == len(held):
            raise IncidentError("All alerts of the incident were named: leave it at least one.")
        new = hashlib.sha256("\0".join([name, *sorted(moved)]).encode()).hexdigest()[:16]
        while rows.incident(connection, new) is not None:  # the same split, after a merge undid it
            new = hashlib.sha256(new.encode()).hexdigest()[:16]
        rows.open_incident(connection, new)
        for alert in held:
            rows.assign(connection, alert, new if alert in moved else name, by_hand=True)
        self._note(connection, name, "split", alerts=moved, incident=new, **who)
        self._note(connection, new, "split-from", alerts=moved, incident=name, **who)
        return new

    @staticmethod
    def _usable(connection: Connection, name: str) -> str:
        row = rows.incident(connection, name)
        if row is None:
            raise UnknownIncidentError(name)
        if row.state == "merged":
            raise IncidentError(f"Incident {row.id} was merged into {row.merged_into}: use that one.")
        return row.state

    @staticmethod
    def _note(connection: Connection, name: str, action: str, **more: Any) -> None:
        """Append to an incident's trail; `more` are fields of `TrailEntry`."""
        entry = TrailEntry.model_validate({"time": datetime.now(UTC), "action": action, "by": PRODUCT} | more)
        entry.note = clean(entry.note, _MAX_NOTE)
        rows.add_to_trail(connection, name, entry.time, entry.model_dump_json(by_alias=True))

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Incident | None:
        """One incident in full, or None. A merged one names the incident that has its alerts, and holds nothing else."""
        with self._store.reading() as connection:
            row = rows.incident(connection, name)
            if row is None:
                return None
            trail = [TrailEntry.model_validate_json(text) for text in rows.trail(connection, name)]
            held = [one.number for one in rows.members(connection, name)]
            return build_report(
                row,
                rows.alerts_of(connection, held),
                rows.context_of(connection, held),
                rows.links_of(connection, held),
                rows.flagged_ids(connection, held),
                trail,
                self._explainer,
            )

    def page(
        self,
        wanted: IncidentQuery | None = None,
        *,
        state: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | int | None = None,
    ) -> IncidentPage:
        """List incidents, by default newest first.

        Args:
            wanted: filters and order; without them, `state` alone may be given.
            since, until: only those still going on at or after the first, and begun before the second.
            cursor: that of the page before.
        """
        wanted = wanted or IncidentQuery.model_validate({"state": state or ""})
        with self._store.reading() as connection:
            found, more = page_of(
                connection,
                wanted,
                since=since,
                until=until,
                limit=limit,
                cursor=None if cursor is None else str(cursor),
            )
            briefs = rows.briefs_of(connection, [row.id for row in found])
        found_incidents = [summarize(row, briefs[row.id], self._explainer) for row in found]
        return IncidentPage(incidents=found_incidents, cursor=more)


def _with_outcome(outcome: Outcome, note: str) -> str:
    return f"{outcome}: {note}" if note else outcome


def _leads(link: IncidentLink, end: Alert) -> bool:
    """Whether a link by itself joins an alert at its far end to the incident of its source."""
    # A cause comes before what it brings about; that two came from one place has no direction.
    if link.kind != "same-origin" and not _follows(end, link):
        return False
    # Impersonation is logged as the caller's own: it gives no credential. A possible link alone is no reason to join;
    # that the other then turned up where they were is.
    joins = link.confidence != "possible" and link.kind != "acted-as"
    return joins or link.address in _new_places(end)


def _follows(alert: Alert, link: IncidentLink) -> bool:
    """Whether a link can have led to an alert: it began later, or its principal did something new later."""
    return alert.first_seen >= link.time or any(
        action.time >= link.time and any(not one.times_before for one in action.habits)
        for action in _shown(alert)
    )


def _new_places(alert: Alert) -> set[str]:
    """Addresses from which a principal first came, among the actions that the alert shows."""
    habits = (one for action in _shown(alert) for one in action.habits if not one.times_before)
    return {one.value for one in habits if one.attribute == "place"}


def _shown(alert: Alert) -> list[Action | Contributor]:
    return [*alert.actions, *alert.contributors]


def _at_least_likely(link: IncidentLink) -> Confidence:
    """A possible link is likely once its target turns up where its source was; nothing else joins on it."""
    return "likely" if link.confidence == "possible" else link.confidence


def _words(link: IncidentLink) -> str:
    through = f" through {link.via}" if link.via else ""
    return f"{link.source} may act as {link.target}{through} ({link.kind}): {link.why}"
