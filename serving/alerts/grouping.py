"""Groups the unusual actions of a principal into alerts, and builds what each alert becomes: pure, without a store."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from serving.schemas import Action, Alert, Contributor, ServedModel, add_actions, add_contributors
from serving.settings import AlertSettings
from serving.storage.database import StoredAlert
from serving.storage.tables import microseconds

#: What identifies an action within an alert: its audit ID and its time in microseconds since 1970.
EventKey = tuple[str, int]


@dataclass(slots=True)
class Flagged:
    """An unusual action on its way into an alert; `alert_id` is empty until it is assigned to one."""

    principal: str
    kind: str
    group: str
    action: Action
    threshold: float = 0.0
    alert_id: str = ""

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
) -> list[AlertGrowth]:
    """Assign actions of one principal to its stored alerts, or to new ones, by the gap between them.

    Args:
        entries: the actions; each gets the ID of its alert.
        gap: actions at most this far apart belong to one alert.
        model: named by new alerts.
        find: looks up the latest stored alert of a principal that overlaps a span of time.
    """
    growths: list[AlertGrowth] = []
    for entry in sorted(entries, key=lambda entry: entry.action.time):
        moment = entry.action.time
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
