"""The context of flagged actions: what led up to them, what else their principal did, what followed, and links to others.

It is kept in memory, bounded, until an action is flagged, and then stored with the alert. Events that add no evidence cost
nothing, unless their principal is watched because of an alert.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from cachetools import FIFOCache

from data.actions.encoder import ActionSettings
from data.events.audit_event import AuditEvent, User
from data.principals.identity import Principal
from serving.alerts.explain.explainer import Explainer
from serving.alerts.explain.phrases import ActionPhrase
from serving.incidents.consequences import MACHINERY, Consequences
from serving.incidents.contributors import Contribution, Contributors, weight_of
from serving.incidents.event_summary import summary_fields, traits_of
from serving.incidents.links import ANY, GIVING, IdentityLink, RunsAs, read_links, standing_for
from serving.incidents.recent_events import RecentEvent, RecentEvents
from serving.schemas import Action, Contributor, EventSummary, IncidentLink, Novelty, Surrounding, clean
from serving.storage.incidents import distinct_links
from serving.storage.tables import as_moment, microseconds

if TYPE_CHECKING:
    from detection.detector import HabitReason, Scores

_MICRO = 1_000_000

#: Microseconds before the first and after the last suspicious action that belong to it: the shortest horizon of evidence.
AROUND = 120 * _MICRO

#: Actions of the same session just before the first suspicious one that are kept.
_BEFORE = 20

#: Microseconds after a write in which what the machinery does with it is put down to it.
_FOLLOWING = 600 * _MICRO

#: Microseconds after which a link no longer explains what its target does: a working day.
LINK_REACH = 12 * 3600 * _MICRO

#: Principals whose consequences are held until there is an alert, and how many of each.
_FOLLOWED, _FOLLOWED_EACH = 100, 200

#: Principals whose links are held, and how many of each; the oldest go first.
_LINKS, _LINKS_EACH = 2_000, 16

#: Flags of one batch and principal whose lead-up is looked up; in a flood it is the same for the others.
_FLAGS = 64

_WATCHES = 1_000

#: Actions kept in the context of one alert; beyond that only flagged ones are cited, by auditID.
_MAX_ACTIONS = 5_000

#: Of these, kept free for actions that are flagged or contribute.
_RESERVED = 1_000

#: Batches by whose newest times a time is judged, and microseconds by which it may be ahead of them: one event with a wrong time
#: must not end what is waited for.
_CLOCK_BATCHES, _CLOCK_AHEAD = 5, 24 * 3600 * _MICRO

_NEWS = 3


class Followed(NamedTuple):
    """An action of the machinery that follows from a principal's write."""

    principal: str
    seen: RecentEvent
    confidence: str
    why: str


@dataclass(slots=True)
class ContextWatch:
    """A principal with an alert, watched until it has been quiet for a while. Times are microseconds since 1970 UTC.

    Attributes:
        number, principal: of the alert.
        upto: everything before is stored.
        until: end of the watch.
        begin, last: first and last suspicious action.
        stored: number of actions stored so far.
    """

    number: int
    principal: str
    upto: int
    until: int
    begin: int
    last: int
    stored: int = 0


@dataclass(frozen=True, slots=True)
class Gathered:
    """New context of one alert.

    Attributes:
        contributors: milder actions that led up to its flags.
        around: evidence that is not stored yet.
        links: from and to its principal.
    """

    contributors: list[Contributor]
    around: list[Surrounding]
    links: list[IncidentLink]


@dataclass(frozen=True, slots=True)
class Flag:
    """A flagged action as far as its context needs it."""

    time: int
    threshold: float
    action: Action


def habits_of(reasons: Sequence[HabitReason], limit: int | None = None) -> list[Novelty]:
    """Novelties of an action, cleaned."""
    return [
        Novelty(
            value=clean(reason.value),
            **{name: getattr(reason, name) for name in Novelty.model_fields if name != "value"},
        )
        for reason in reasons[:limit]
    ]


_PLACE = ActionSettings().place


class ContextTracker:
    """Tracks the context of flagged actions.

    Args:
        explainer: puts actions into words.
        gap: microseconds; alerts of one principal that far apart are separate incidents.
        fold: turns a user name into the principal that it counts as (`data.principals.identity.Identity.fold`).
        is_proxied: whether the first user name is a proxy's, and the second that of a person behind it
            (`data.principals.identity.Identity.is_proxied`).
        place: the address that made a request, of its `sourceIPs` (`data.actions.encoder.ActionSettings.place`).
        recent: number of actions that are remembered.

    Attributes:
        contributors: milder actions that may still add up to a flag.
    """

    def __init__(
        self,
        explainer: Explainer,
        gap: int,
        fold: Callable[[str], str] = str,
        place: Callable[[tuple[str, ...]], str] = _PLACE,
        recent: int = 20_000,
        is_proxied: Callable[[str, str], bool] = lambda _username, _acts_as: False,
    ) -> None:
        self._explainer, self._gap = explainer, gap
        self.attach(fold, place, is_proxied)
        self._recent = RecentEvents(recent)
        self.contributors = Contributors()
        self._runs_as = RunsAs()
        self._consequences = Consequences()
        self._followed: FIFOCache[str, deque[Followed]] = FIFOCache(_FOLLOWED)
        self._newest: deque[int] = deque(maxlen=_CLOCK_BATCHES)
        self._watches: FIFOCache[str, ContextWatch] = FIFOCache(_WATCHES)
        self._out: FIFOCache[str, deque[IncidentLink]] = FIFOCache(_LINKS)
        self._into: FIFOCache[str, deque[IncidentLink]] = FIFOCache(_LINKS)
        self._origins: FIFOCache[str, dict[str, Contribution]] = FIFOCache(_LINKS)

    def attach(
        self,
        fold: Callable[[str], str],
        place: Callable[[tuple[str, ...]], str],
        is_proxied: Callable[[str, str], bool],
    ) -> None:
        """Continue with the settings of another model."""
        self._fold, self._place_of, self._is_proxied = fold, place, is_proxied

    def proxy_of(self, username: str, other: User | None) -> str:
        """The user name of a request that impersonates `other`, if it is a proxy's and the other its principal; else empty."""
        return username if other is not None and self._is_proxied(username, other.username) else ""

    # -- every batch --------------------------------------------------------------------------------------------

    def observe(self, events: Sequence[AuditEvent], scores: Scores) -> None:
        """Take in the actions of one call of the detector, before `gather` and `watched`."""
        if not len(scores.event):
            return
        self._recent.append(events, scores)
        self._newest.append(int(scores.time.astype(np.int64).max()))
        acted = [events[index] for index in scores.event.tolist()]
        for row, event in enumerate(acted):
            ref = event.objectRef
            if (
                event.requestObject
                or event.impersonatedUser is not None
                or (ref is not None and ref.subresource in GIVING)
                or row in scores.novelties
            ):
                self._learn(event, scores, row)
        for row, reasons in scores.novelties.items():
            self._remember(acted[row], scores, row, reasons)
        if self._consequences:
            self._follow(acted, scores)

    def _learn(self, event: AuditEvent, scores: Scores, row: int) -> None:
        """Learn what Pods run as, and links from one principal to another."""
        if event.requestObject:
            self._runs_as.learn(event)
        suspicious = row in scores.novelties
        if not suspicious and scores.kind[row] in MACHINERY:
            return
        for found in read_links(event, self._runs_as):
            # Routine actions lead to others all day long: only certain links of theirs are remembered.
            routine = found.confidence == "possible" or found.kind in ("runs-as", "rights-granted")
            if suspicious or not routine:
                time = int(scores.time[row].astype(np.int64))
                self._note_link(clean(scores.principal[row]), found, event, time, suspicious)

    def _note_link(
        self, source: str, found: IdentityLink, event: AuditEvent, time: int, suspicious: bool
    ) -> None:
        target = found.target if found.target.endswith(ANY) else self._fold(found.target)
        if event.cluster:  # as the principals of a log of several clusters are named
            target = f"{event.cluster}/{target}"
        if target == source:
            return
        link = IncidentLink(
            kind=found.kind,
            source=source,
            target=clean(target),
            via=clean(found.via),
            audit_id=clean(event.auditID, 128),
            time=as_moment(time),
            address=self._place(event.sourceIPs),
            confidence=found.confidence if suspicious else "possible",
            why=found.why if suspicious else f"{found.why}; it was nothing unusual for its principal",
        )
        self._add_link(link)

    def _add_link(self, link: IncidentLink) -> None:
        for table, key in ((self._out, link.source), (self._into, link.target)):
            held = table.pop(key, None) or deque(maxlen=_LINKS_EACH)
            held.append(link)
            table[key] = held

    def _remember(self, event: AuditEvent, scores: Scores, row: int, reasons: Sequence[HabitReason]) -> None:
        principal, time = clean(scores.principal[row]), int(scores.time[row].astype(np.int64))
        new, wrong = float(scores.novelty_evidence[row]), float(scores.error_evidence[row])
        mild = None
        if not scores.flagged[row]:
            proxy = self.proxy_of(event.user.username, event.impersonatedUser)
            mild = Contributor.model_validate(
                summary_fields(event, as_moment(time), traits_of(event, proxy), proxy)
                | {"weight": round(weight_of(new, wrong), 3), "habits": habits_of(reasons, _NEWS)}
            )
            mild.description = self._explainer.describe(ActionPhrase.from_summary(mild))
        address = self._place(event.sourceIPs)
        short = None if mild is None else mild.model_dump_json(by_alias=True).encode()
        elsewhere = any(reason.attribute == "place" for reason in reasons)
        audit_id, client = clean(event.auditID, 128), clean(event.userAgent)
        self._add(principal, Contribution(time, audit_id, new, wrong, short, address, client, elsewhere))
        if scores.kind[row] not in MACHINERY:
            self._consequences.mark(principal, event, time + _FOLLOWING)

    def _add(self, principal: str, one: Contribution) -> None:
        one = self.contributors.append(principal, one)
        if one.address and one.elsewhere:
            users = self._origins.pop(one.address, {})
            users.pop(principal, None)
            users[principal] = one
            if len(users) > _LINKS_EACH:
                del users[next(iter(users))]
            self._origins[one.address] = users

    def _plausible(self, time: int) -> int:
        """A time in the batch that is observed, or that of recent batches if it is far ahead of them."""
        recent = sorted(self._newest)[(len(self._newest) - 1) // 2]
        return time if time - recent <= _CLOCK_AHEAD else recent

    def _follow(self, acted: Sequence[AuditEvent], scores: Scores) -> None:
        times = scores.time.astype(np.int64)
        self._consequences.forget(self._plausible(int(times.min())) - _FOLLOWING)
        for row, kind in enumerate(scores.kind):
            if kind not in MACHINERY or row in scores.novelties:
                continue
            event = acted[row]
            principal = Principal(scores.principal[row], kind, ())  # type: ignore[arg-type]
            found = self._consequences.follow(event, principal, int(times[row]))
            if found is not None and int(times[row]) >= found.cause.until - _FOLLOWING:
                seen = RecentEvent.from_event(event, int(times[row]))
                cause = found.cause
                what = f"{cause.resource} " + "/".join(filter(None, (cause.namespace, cause.name)))
                if cause.of not in self._followed:
                    self._followed[cause.of] = deque(maxlen=_FOLLOWED_EACH)
                self._followed[cause.of].append(
                    Followed(clean(principal.name), seen, found.confidence, f"{what}: {found.why}")
                )

    # -- when an action is flagged --------------------------------------------------------------------------------------

    def gather(self, principal: str, flags: Sequence[Flag], number: int | None) -> Gathered:
        """The context of newly flagged actions of an alert; its principal is watched from here on.

        Args:
            principal: of the alert.
            flags: its new actions by time; at least one.
            number: of the alert in the store; None for a new one, which `stored` then names.
        """
        led: dict[tuple[int, str], Contribution] = {}
        for flag in (*flags[:_FLAGS], flags[-1]):
            for one in self.contributors.leading_to(principal, flag.time, flag.threshold):
                led[one.time, one.audit_id] = one
        first, last = flags[0].time, flags[-1].time
        mild = [one for one in led.values() if one.short is not None]
        watch = self._watches.get(principal)
        begin = min([first, *(one.time for one in led.values() if one.time >= first - self._gap)])
        if watch is None or watch.number != number:
            watch = ContextWatch(number or 0, principal, begin - AROUND - 1, 0, begin, last)
            self._watches[principal] = watch
        watch.begin, watch.last = min(watch.begin, begin), max(watch.last, last)
        watch.until = max(watch.until, watch.last + AROUND)
        keyed = {(flag.time, flag.action.audit_id): self._flagged(principal, flag.action) for flag in flags}
        keyed |= {(one.time, one.audit_id): self._contributed(principal, one) for one in mild}
        expanded = filter(None, map(self.contributors.expanded, mild))
        contributors = sorted(expanded, key=lambda one: one.time)
        return Gathered(contributors, self._around(watch, keyed), self._links(principal, watch))

    def stored(self, principal: str, number: int) -> None:
        """Set the alert's number, now that the store has it."""
        self._watches[principal].number = number

    def checkpoint(self, principals: Iterable[str]) -> Callable[[], None]:
        """Return a function that undoes what is handed over of these principals from now on.

        For a store that fails: the context is then gathered again with the next batch that can be stored.
        """
        names = list(principals)
        watches = {name: replace(self._watches[name]) for name in names if name in self._watches}
        followed = {name: self._followed[name].copy() for name in names if name in self._followed}

        def restore() -> None:
            for name in names:
                self._watches.pop(name, None)
            self._watches.update(watches)
            self._followed.update(followed)

        return restore

    def watched(self, scores: Scores) -> list[tuple[int, Gathered]]:
        """(number of the alert, context) of watched principals in the batch just observed, beyond what `gather` returned."""
        if not self._watches:
            return []
        found: list[tuple[int, Gathered]] = []
        now = self._plausible(int(scores.time.astype(np.int64).max())) if len(scores.time) else 0
        acted = set(scores.principal)
        for principal, watch in list(self._watches.items()):
            if principal in acted or principal in self._followed:
                for one in self.contributors.within(principal, watch.upto + 1, watch.until):
                    if one.short is not None and one.time - watch.last <= self._gap:
                        watch.until = max(watch.until, one.time + AROUND)
                if around := self._around(watch, {}):
                    found.append((watch.number, Gathered([], around, self._links(principal, watch))))
            if now > watch.last + self._gap + _FOLLOWING:
                del self._watches[principal]
        return found

    def _around(self, watch: ContextWatch, keyed: dict[tuple[int, str], Surrounding]) -> list[Surrounding]:
        """Evidence that is not handed over yet, by time; actions in `keyed` have their role already."""
        principal = watch.principal
        contributions = self.contributors.within(principal, watch.upto + 1, watch.until)
        known = {(one.time, one.audit_id): one for one in contributions}
        start = next(iter(known.values()), None)
        before: list[RecentEvent] = []
        session: list[RecentEvent] = []
        for seen in self._recent.of_principal(principal, watch.upto + 1, watch.until):
            key = (seen.time, clean(seen.auditID, 128))
            watch.upto = max(watch.upto, seen.time)
            if key in keyed:
                continue
            one = known.get(key)
            if one is not None and one.short is not None:
                keyed[key] = self._contributed(principal, one)
            elif one is None and seen.time < watch.begin:
                origin = self._place(seen.sourceIPs), clean(seen.userAgent)
                if start is None or origin == (start.address, start.client):
                    before.append(seen)
            elif one is None:
                session.append(seen)
        followed = [one for one in self._followed.pop(principal, ()) if one.seen.time >= watch.begin]
        room = max(0, _MAX_ACTIONS - watch.stored)
        around = [*(self._seen(seen, principal, "before") for seen in before[-_BEFORE:]), *keyed.values()][
            :room
        ]
        # A flood of ordinary actions must not take the place of suspicious ones that come after it.
        left = max(0, room - len(around) - _RESERVED)
        around += [self._seen(seen, principal, "session") for seen in session[:left]]
        around += [
            self._seen(one.seen, one.principal, "consequence", one.confidence, one.why)
            for one in followed[: max(0, left - len(session))]
        ]
        watch.stored += len(around)
        return sorted(around, key=lambda one: one.time)

    def _links(self, principal: str, watch: ContextWatch) -> list[IncidentLink]:
        """Links from the principal since the alert began, and to it from before; of those alike the first."""
        held = self._out.get(principal, ())
        out = [link for link in held if watch.begin <= microseconds(link.time) <= watch.until]
        into = [link for link in self._into.get(principal, ()) if self._reaches(link, watch)]
        came_from = {one.address for one in self.contributors.within(principal, watch.begin, watch.until)}
        # What stands for all accounts of a namespace says something of this one only if it was used at the same place.
        into += [
            link
            for key in standing_for(principal)
            for link in self._into.get(key, ())
            if self._reaches(link, watch) and link.address in came_from
        ]
        return distinct_links([*out, *into, *self._same_origin(principal, watch)])

    @staticmethod
    def _reaches(link: IncidentLink, watch: ContextWatch) -> bool:
        return (
            link.source != watch.principal
            and watch.begin - LINK_REACH <= microseconds(link.time) <= watch.last
        )

    def _same_origin(self, principal: str, watch: ContextWatch) -> list[IncidentLink]:
        """Links to principals that recently first came from an address that is new to this principal too."""
        contributions = self.contributors.within(principal, watch.begin, watch.until)
        mine = {one.address: one for one in contributions if one.address}
        links = []
        for address, one in mine.items():
            users = self._origins.get(address, {})
            if principal not in users:
                continue
            for other, theirs in users.items():
                if other == principal or abs(theirs.time - one.time) > LINK_REACH:
                    continue
                early, late = (theirs, one) if theirs.time <= one.time else (one, theirs)
                source, target = (other, principal) if early is theirs else (principal, other)
                same_client = theirs.client == one.client
                what = "the same address and client" if same_client else "the same address"
                links.append(
                    IncidentLink(
                        kind="same-origin",
                        source=source,
                        target=target,
                        via=address,
                        audit_id=late.audit_id,
                        time=as_moment(late.time),
                        address=address,
                        confidence="likely" if same_client else "possible",
                        why=f"both came for the first time from {what}",
                    )
                )
        return links

    def _place(self, addresses: tuple[str, ...]) -> str:
        return clean(self._place_of(addresses), 64)

    # -- over a restart -----------------------------------------------------------------------------------------

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """What must outlive a restart: contributors, links, what Pods run as, watches.

        Returns:
            A function that makes it ready for encoding, on any thread, as it is now.
        """
        contributors = self.contributors.snapshot()
        rest = {
            "ties": [link.model_dump(mode="json") for held in self._out.values() for link in held],
            "runs_as": self._runs_as.to_list(),
            "watches": [asdict(watch) for watch in self._watches.values()],
        }
        return lambda: rest | {"contributors": contributors()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore a decoded `snapshot`."""
        for principal, held in saved["contributors"]:
            for one in held:
                self._add(principal, Contribution(*one))
        for link in saved["ties"]:
            self._add_link(IncidentLink.model_validate(link))
        self._runs_as.restore(saved["runs_as"])
        for watch in saved["watches"]:
            self._watches[watch["principal"]] = ContextWatch(**watch)

    # -- words --------------------------------------------------------------------------------------------------

    def _flagged(self, principal: str, action: Action) -> Surrounding:
        return self._surrounding(action, principal, "flagged", action.evidence, action.habits)

    def _contributed(self, principal: str, one: Contribution) -> Surrounding:
        short = self.contributors.expanded(one)
        assert short is not None
        return self._surrounding(short, principal, "contributor", short.weight, short.habits)

    def _surrounding(
        self, action: EventSummary, principal: str, role: str, weight: float, habits: Sequence[Novelty]
    ) -> Surrounding:
        values = {name: getattr(action, name) for name in EventSummary.model_fields}
        news = self._explainer.news(habits, ActionPhrase.from_summary(action))[:_NEWS]
        return Surrounding.model_validate(
            values
            | {"role": role, "principal": principal, "weight": weight, "news": news}
            | {"address": self._place(tuple(action.source_ips))}
        )

    def _seen(
        self, seen: RecentEvent, principal: str, role: str, confidence: str = "certain", why: str = ""
    ) -> Surrounding:
        one = Surrounding.model_validate(
            summary_fields(
                seen, as_moment(seen.time), [], self.proxy_of(seen.username, seen.impersonatedUser)
            )
            | {"role": role, "principal": principal, "confidence": confidence, "why": why}
            | {"address": self._place(seen.sourceIPs)}
        )
        one.description = self._explainer.describe(ActionPhrase.from_summary(one))
        return one
