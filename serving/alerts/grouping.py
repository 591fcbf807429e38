"""Groups the unusual actions of a principal into alerts, and builds what each alert becomes: pure, without a store."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from serving.schemas import (
    Action,
    Alert,
    Contributor,
    ServedModel,
    add_actions,
    add_contributors,
    add_times_again,
)
from serving.settings import AlertSettings
from serving.storage.database import StoredAlert
from serving.storage.tables import microseconds

#: What identifies an action within an alert: its audit ID and its time in microseconds since 1970.
EventKey = tuple[str, int]


@dataclass(slots=True)
class Flagged:
    """An unusual action on its way into an alert.

    Attributes:
        alert_id: of the alert to which it is assigned; empty before.
        first_flagged: when what it repeats was flagged; None if it repeats nothing.
    """

    principal: str
    kind: str
    group: str
    action: Action
    threshold: float = 0.0
    alert_id: str = ""
    first_flagged: datetime | None = None

    @property
    def key(self) -> EventKey:
        """What identifies the action within its alert."""
        return self.action.audit_id, microseconds(self.action.time)


@dataclass(slots=True)
class AlertGrowth:
    """An alert and the actions that a batch adds to it.

    Attributes:
        number: of the alert in the store; None for a new one.
        first, last: the span of its actions, those of the batch included.
    """

    number: int | None
    alert: Alert
    first: datetime
    last: datetime
    flagged: list[Flagged] = field(default_factory=list)

    def unknown(self, known: AbstractSet[EventKey]) -> dict[EventKey, Flagged]:
        """The actions that the alert does not hold yet, each once: a retry brings nothing new."""
        fresh = {entry.key: entry for entry in reversed(self.flagged) if entry.key not in known}
        return dict(reversed(fresh.items()))

    def build(
        self, fresh: Iterable[Flagged], contributors: Sequence[Contributor], settings: AlertSettings
    ) -> None:
        """Add new actions, and the milder ones that led up to them, to the alert."""
        alert = self.alert
        if self.number is not None and alert.began is not None:
            # Within the span of a stored alert, milder actions were counted when it last grew.
            contributors = [one for one in contributors if not alert.began <= one.time <= alert.last_seen]
        actions = [entry.action for entry in fresh]
        add_actions(alert, actions, first=settings.first_actions, top=settings.top_actions)
        again = [action.time for action in actions if action.first_flagged is not None]
        add_times_again(alert, again, timedelta(minutes=settings.gap_minutes))
        add_contributors(alert, list(contributors))


def by_principal(flagged: Iterable[Flagged]) -> Mapping[str, list[Flagged]]:
    """Unusual actions by their principal, in the order given."""
    found: defaultdict[str, list[Flagged]] = defaultdict(list)
    for entry in flagged:
        found[entry.principal].append(entry)
    return found


def group(
    entries: Iterable[Flagged],
    gap: timedelta,
    model: ServedModel,
    find: Callable[[str, datetime, datetime], StoredAlert | None],
    find_flagged: Callable[[str, datetime], StoredAlert | None] = lambda _principal, _time: None,
) -> list[AlertGrowth]:
    """Assign actions of one principal to its stored alerts, or to new ones, by the gap between them.

    Args:
        entries: the actions; each gets the ID of its alert.
        gap: actions at most this far apart belong to one alert.
        model: named by new alerts.
        find: looks up the latest stored alert of a principal that overlaps a span of time.
        find_flagged: looks up the stored alert, still without a verdict, that holds an action of this time. What repeats an
            action joins its alert, however long ago that was.
    """
    growths: list[AlertGrowth] = []
    for entry in sorted(entries, key=lambda entry: entry.action.time):
        moment = entry.action.time
        if (repeated := _repeated(entry, growths, find_flagged)) is not None:
            repeated.flagged.append(entry)
            entry.alert_id = repeated.alert.id
            entry.action.first_flagged = entry.first_flagged
            continue
        found = next((one for one in growths if one.first - gap <= moment <= one.last + gap), None)
        if found is None:
            stored = find(entry.principal, moment - gap, moment + gap)
            alert = new_alert(entry, model) if stored is None else stored.alert
            number = None if stored is None else stored.number
            found = AlertGrowth(number, alert, alert.first_seen, alert.last_seen)
            growths.append(found)
        found.first, found.last = min(found.first, moment), max(found.last, moment)
        found.flagged.append(entry)
        entry.alert_id = found.alert.id
    return growths


def _repeated(
    entry: Flagged,
    growths: list[AlertGrowth],
    find_flagged: Callable[[str, datetime], StoredAlert | None],
) -> AlertGrowth | None:
    """The alert of what an action repeats, among those that grow already or in the store."""
    entry.action.first_flagged = None
    first = entry.first_flagged
    if first is None:
        return None
    for one in growths:
        if any(held.action.time == first for held in one.flagged):
            return one
    stored = find_flagged(entry.principal, first)
    if stored is None:
        return None
    for one in growths:
        if one.number == stored.number:
            return one
    alert = stored.alert
    growths.append(AlertGrowth(stored.number, alert, alert.first_seen, alert.last_seen))
    return growths[-1]


def new_alert(entry: Flagged, model: ServedModel) -> Alert:
    """An alert without actions. The same log gives the same ID, wherever it is scored."""
    audit_id, moment = entry.key
    key = f"{entry.principal}\0{audit_id}\0{moment}"
    return Alert(
        id=hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        principal=entry.principal,
        kind=entry.kind,
        peer_group=entry.group,
        first_seen=entry.action.time,
        last_seen=entry.action.time,
        severity="low",
        evidence=0.0,
        sentence="",
        model=model,
    )
