"""Turns unusual actions into stored alerts, in one transaction a batch: collect, build, explain, write."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from serving.alerts.explain.explainer import Explainer
from serving.alerts.grouping import AlertGrowth, EventKey, Flagged, by_principal, group
from serving.delivery.outbox import Outbox
from serving.incidents.context import ContextTracker, Flag, Gathered
from serving.incidents.incidents import Incidents
from serving.schemas import Action, Alert, ServedModel
from serving.settings import AlertSettings
from serving.storage.database import AlertStore, RefusedError, StoreError, Writer
from serving.storage.incidents import add_context, add_links

_log = logging.getLogger("kubehabit.engine")
# Surrounding actions that wait to be stored, and for how long, before they get a transaction of their own.
_PENDING, _PENDING_SECONDS = 200, 2.0
#: Unusual actions, or surroundings, held in memory while the store refuses writes; of more, the least severe are given up.
_MAX_UNSAVED = 10_000


def _worst(waiting: list[Flagged]) -> list[Flagged]:
    """Those that can be held until the store is back, in their order: a flood must not push out what is worse."""
    if len(waiting) <= _MAX_UNSAVED:
        return waiting
    ranked = sorted(range(len(waiting)), key=lambda at: waiting[at].action.weight, reverse=True)
    _log.error(
        "unusual actions are lost: the alert store has been away too long",
        extra={"lost": len(waiting) - _MAX_UNSAVED},
    )
    return [waiting[at] for at in sorted(ranked[:_MAX_UNSAVED])]


@dataclass(frozen=True, slots=True)
class Refused:
    """An unusual action that the database rejected, and why: it is in no alert."""

    principal: str
    action: Action
    reason: str


@dataclass(slots=True)
class Saved:
    """What a batch did to the alerts: those raised, those that grew, and the actions that were rejected."""

    raised: list[Alert] = field(default_factory=list)
    grown: list[Alert] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


class AlertWriter:
    """Stores alerts, their surroundings and incidents; only called by one thread at a time.

    Args:
        store: keeps the alerts.
        explainer: puts them into words.
        surroundings: remembers what surrounds flagged actions.
        incidents: what alerts are joined to.
        settings: grouping and bounds.
        outbox: queues alerts for delivery; None where nothing is delivered.
    """

    def __init__(
        self,
        store: AlertStore,
        explainer: Explainer,
        surroundings: ContextTracker,
        incidents: Incidents,
        settings: AlertSettings,
        outbox: Outbox | None = None,
    ) -> None:
        self._store = store
        self._explainer = explainer
        self._surroundings = surroundings
        self._incidents = incidents
        self._settings = settings
        self._gap = timedelta(minutes=settings.gap_minutes)
        self._outbox = outbox
        self._unsaved: list[Flagged] = []
        self._pending: list[tuple[int, Gathered]] = []
        self._pending_since = 0.0

    @property
    def has_unsaved(self) -> bool:
        """Whether unusual actions wait for a store that failed."""
        return bool(self._unsaved)

    def save(self, flagged: Sequence[Flagged], model: ServedModel) -> Saved:
        """Store unusual actions, and those that wait from before. An action that the database rejects holds up no other.

        Raises:
            StoreError: the store failed. All of them wait for the next call.
        """
        waiting = [*self._unsaved, *flagged]
        if not waiting:
            return Saved()
        try:
            try:
                saved = self._save_together(waiting, model)
            except RefusedError:
                saved = self._save_one_by_one(waiting, model)
        except StoreError:
            self._unsaved = _worst(waiting)
            raise
        self._unsaved = []
        return saved

    def _save_one_by_one(self, flagged: Sequence[Flagged], model: ServedModel) -> Saved:
        self.flush()
        raised: dict[str, Alert] = {}
        grown: dict[str, Alert] = {}
        refused: list[Refused] = []
        for entry in flagged:
            try:
                saved = self._save_together([entry], model)
            except RefusedError as error:
                entry.alert_id = ""
                refused.append(Refused(entry.principal, entry.action, str(error)))
                continue
            raised |= {alert.id: alert for alert in saved.raised}
            for alert in saved.grown:
                (raised if alert.id in raised else grown)[alert.id] = alert
        return Saved(list(raised.values()), list(grown.values()), refused)

    def _save_together(self, flagged: Sequence[Flagged], model: ServedModel) -> Saved:
        saved = Saved()
        principals = by_principal(flagged)
        undo = self._surroundings.checkpoint(principals)
        try:
            with self._store.writing(lazily=True) as writer:
                self._write_pending(writer, self._pending)
                for entries in principals.values():
                    for growth in group(entries, self._gap, model, writer.find):
                        is_new = growth.number is None
                        if self._grow(writer, growth):
                            (saved.raised if is_new else saved.grown).append(growth.alert)
        except StoreError:
            undo()
            raise
        self._pending = []
        return saved

    def _grow(self, writer: Writer, growth: AlertGrowth) -> bool:
        """Collect, build, explain, write; False if the alert holds all of it already."""
        known: set[EventKey] = set()
        if growth.number is not None:
            known = writer.known(growth.number, list({entry.action.audit_id for entry in growth.flagged}))
        fresh = growth.unknown(known)
        if not fresh:
            return False
        flags = [Flag(moment, entry.threshold, entry.action) for (_, moment), entry in fresh.items()]
        flags.sort(key=lambda flag: flag.time)
        gathered = self._surroundings.gather(growth.alert.principal, flags, growth.number)
        growth.build(fresh.values(), gathered.contributors, self._settings)
        self._explainer.renew(growth.alert)
        self._write(writer, growth, list(fresh), gathered)
        return True

    def _write(self, writer: Writer, growth: AlertGrowth, events: list[EventKey], gathered: Gathered) -> None:
        alert = growth.alert
        number = writer.save(growth.number, alert, events)
        self._surroundings.stored(alert.principal, number)
        add_context(writer.connection, number, gathered.around)
        ties = add_links(writer.connection, number, gathered.links)
        self._incidents.join(writer.connection, alert, ties)
        if self._outbox is not None:
            self._outbox.note(writer, number, alert)

    # -- surroundings that come after the alert ----------------------------------------------------------------

    def defer(self, found: Sequence[tuple[int, Gathered]]) -> None:
        """Store what surrounds alerts (number of the alert, what) once there is enough of it to be worth a transaction."""
        if found and not self._pending:
            self._pending_since = time.monotonic()
        self._pending = [*self._pending, *found][-_MAX_UNSAVED:]
        held = sum(len(one.around) for _, one in self._pending)
        if self._pending and (held >= _PENDING or time.monotonic() - self._pending_since >= _PENDING_SECONDS):
            try:
                self.flush()
            except StoreError as error:
                _log.warning("what surrounds alerts is kept in memory: %s", error)

    def flush(self) -> None:
        """Store what was deferred now.

        Raises:
            StoreError: the store failed; it stays deferred.
        """
        if not self._pending:
            return
        try:
            self._flush(self._pending)
        except RefusedError:
            for one in self._pending:
                try:
                    self._flush([one])
                except RefusedError as error:
                    _log.error("what surrounds alert number %d cannot be kept: %s", one[0], error)
        self._pending = []

    def _flush(self, pending: Sequence[tuple[int, Gathered]]) -> None:
        with self._store.writing(lazily=True) as writer:
            self._write_pending(writer, pending)

    @staticmethod
    def _write_pending(writer: Writer, pending: Sequence[tuple[int, Gathered]]) -> None:
        kept = writer.kept({number for number, _ in pending})
        for number, found in pending:
            # What surrounds an alert that was deleted meanwhile goes with it.
            if number in kept and add_context(writer.connection, number, found.around):
                add_links(writer.connection, number, found.links)
