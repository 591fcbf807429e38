"""Turns unusual actions into stored alerts, in one transaction a batch: collect, build, explain, write."""

from __future__ import annotations

import logging
import time
from collections import Counter
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
from serving.storage.allowed import AllowedUse
from serving.storage.database import AlertStore, RefusedError, StoreError, Writer
from serving.storage.incidents import add_context, add_links

_log = logging.getLogger("kubehabit.engine")
# Surrounding actions that wait to be stored, and for how long, before they get a transaction of their own.
_PENDING, _PENDING_SECONDS = 200, 2.0
#: Unusual actions, or surroundings, held in memory while the store refuses writes. Of more actions the least severe are dropped
#: and counted in their alerts, of more surroundings the oldest.
_MAX_UNSAVED = 10_000


@dataclass(frozen=True, slots=True)
class Refused:
    """An unusual action that the database rejected, and why: it is in no alert."""

    principal: str
    action: Action
    reason: str


@dataclass(slots=True)
class Saved:
    """What a batch did: alerts raised, alerts that grew, and actions that were rejected."""

    raised: list[Alert] = field(default_factory=list)
    grown: list[Alert] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    dropped: int = 0


class AlertWriter:
    """Stores alerts, their surroundings and incidents, and queues them for delivery; called by one thread at a time."""

    def __init__(
        self,
        store: AlertStore,
        explainer: Explainer,
        context: ContextTracker,
        incidents: Incidents,
        settings: AlertSettings,
        outbox: Outbox | None = None,
    ) -> None:
        self._store = store
        self._explainer = explainer
        self._context = context
        self._incidents = incidents
        self._settings = settings
        self._gap = timedelta(minutes=settings.gap_minutes)
        self._outbox = outbox
        self._unsaved: list[Flagged] = []
        self._allowed: list[AllowedUse] = []
        self._dropped: Counter[str] = Counter()  # by principal
        self._pending: list[tuple[int, Gathered]] = []
        self._pending_since = 0.0

    @property
    def has_unsaved(self) -> bool:
        """Whether unusual actions wait for a store that failed."""
        return bool(self._unsaved or self._allowed)

    def save(
        self, flagged: Sequence[Flagged], model: ServedModel, allowed: Sequence[AllowedUse] = ()
    ) -> Saved:
        """Store unusual actions, and those that wait from before. An action that the database rejects holds up no other.

        Args:
            flagged: actions for alerts.
            model: named by new alerts.
            allowed: actions that an exception kept from being flagged.

        Raises:
            StoreError: the store failed. All of them wait for the next call.
        """
        self._allowed = [*self._allowed, *allowed][-_MAX_UNSAVED:]
        waiting = [*self._unsaved, *flagged]
        if not waiting and not self._allowed:
            return Saved()
        dropped = self._dropped.total()
        try:
            self._save_allowed()
            try:
                saved = self._save_together(waiting, model)
            except Exception as error:
                if _is_outage(error):
                    raise
                saved = self._save_one_by_one(waiting, model)
        except StoreError:
            self._unsaved = self._worst(waiting)
            raise
        self._unsaved = []
        saved.dropped = dropped
        self._dropped.clear()
        return saved

    def _save_allowed(self) -> None:
        if not self._allowed:
            return
        try:
            self._store_allowed(self._allowed)
        except RefusedError:
            for use in self._allowed:
                try:
                    self._store_allowed([use])
                except RefusedError as error:
                    _log.error("an allowed action cannot be stored", exc_info=error)
        self._allowed = []

    def _store_allowed(self, allowed: Sequence[AllowedUse]) -> None:
        with self._store.writing(lazily=True) as writer:
            for use in allowed:
                writer.add_allowed(use)

    def _worst(self, waiting: list[Flagged]) -> list[Flagged]:
        """The actions to keep in memory, in their order; those dropped are counted."""
        if len(waiting) <= _MAX_UNSAVED:
            return waiting
        rows = sorted(range(len(waiting)), key=lambda row: waiting[row].action.weight, reverse=True)
        self._dropped.update(waiting[row].principal for row in rows[_MAX_UNSAVED:])
        dropped = len(waiting) - _MAX_UNSAVED
        _log.error(
            "the least severe of the actions that wait for the store are dropped", extra={"actions": dropped}
        )
        return [waiting[row] for row in sorted(rows[:_MAX_UNSAVED])]

    def _save_one_by_one(self, flagged: Sequence[Flagged], model: ServedModel) -> Saved:
        self.flush()
        raised: dict[str, Alert] = {}
        grown: dict[str, Alert] = {}
        refused: list[Refused] = []
        for entry in flagged:
            try:
                saved = self._save_together([entry], model)
            except Exception as error:
                if _is_outage(error):
                    raise
                _log.error("an unusual action cannot be stored", exc_info=error)
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
        dropped = Counter(self._dropped)
        undo = self._context.checkpoint(principals)
        try:
            with self._store.writing(lazily=True) as writer:
                self._write_pending(writer, self._pending)
                for entries in principals.values():
                    for growth in group(entries, self._gap, model, writer.find, writer.find_flagged):
                        is_new = growth.number is None
                        if self._grow(writer, growth, dropped):
                            (saved.raised if is_new else saved.grown).append(growth.alert)
        except Exception:
            undo()
            raise
        self._pending, self._dropped = [], dropped
        return saved

    def _grow(self, writer: Writer, growth: AlertGrowth, dropped: Counter[str]) -> bool:
        """Collect, build, explain, write; False if the alert holds all of it already."""
        known: set[EventKey] = set()
        if growth.number is not None:
            known = writer.known(growth.number, list({entry.action.audit_id for entry in growth.flagged}))
        fresh = growth.unknown(known)
        if not fresh:
            return False
        flags = [Flag(moment, entry.threshold, entry.action) for (_, moment), entry in fresh.items()]
        flags.sort(key=lambda flag: flag.time)
        alert = growth.alert
        gathered: Gathered | None = None
        try:
            gathered = self._context.gather(alert.principal, flags, growth.number)
        except Exception:
            _log.exception("what surrounds an alert cannot be found", extra={"alert": alert.id})
        only_again = growth.number is not None and all(one.action.first_flagged for one in fresh.values())
        # What is flagged because it was before needs nothing else to add up to it.
        contributors = gathered.contributors if gathered and not only_again else ()
        growth.build(fresh.values(), contributors, self._settings)
        alert.action_count += dropped.pop(alert.principal, 0)
        try:
            self._explainer.renew(alert)
        except Exception:
            _log.exception("an alert cannot be explained", extra={"alert": alert.id})
            alert.sentence = alert.sentence or f"{alert.principal} did what cannot be described."
        self._write(writer, growth, list(fresh), gathered, notify=not only_again)
        return True

    def _write(
        self,
        writer: Writer,
        growth: AlertGrowth,
        events: list[EventKey],
        gathered: Gathered | None,
        *,
        notify: bool,
    ) -> None:
        """Store an alert. What was only done again is no reason to notify people a second time."""
        alert = growth.alert
        number = writer.save(growth.number, alert, events)
        if gathered is None:
            gathered = Gathered([], [], [])
        else:
            self._context.stored(alert.principal, number)
        add_context(writer.connection, number, gathered.around)
        ties = add_links(writer.connection, number, gathered.links)
        self._incidents.join(writer.connection, alert, ties)
        if self._outbox is not None and notify:
            self._outbox.note(writer, number, alert)

    # -- surroundings that come after the alert ----------------------------------------------------------------

    def defer(self, found: Sequence[tuple[int, Gathered]]) -> None:
        """Store what surrounds alerts, by the alert's number, once there is enough to be worth a transaction."""
        if found and not self._pending:
            self._pending_since = time.monotonic()
        waiting = [*self._pending, *found]
        if len(waiting) > _MAX_UNSAVED:
            dropped = len(waiting) - _MAX_UNSAVED
            _log.error("what surrounds alerts is dropped, the oldest first", extra={"alerts": dropped})
        self._pending = waiting[-_MAX_UNSAVED:]
        held = sum(len(one.around) for _, one in self._pending)
        if self._pending and (held >= _PENDING or time.monotonic() - self._pending_since >= _PENDING_SECONDS):
            try:
                self.flush()
            except StoreError as error:
                _log.warning("what surrounds alerts is kept in memory: %s", error)

    def flush(self) -> None:
        """Store what was deferred; it stays deferred when this raises StoreError."""
        if not self._pending:
            return
        try:
            self._flush(self._pending)
        except Exception as error:
            if _is_outage(error):
                raise
            for one in self._pending:
                try:
                    self._flush([one])
                except Exception as reason:
                    if _is_outage(reason):
                        raise
                    _log.error("what surrounds alert number %d cannot be kept: %s", one[0], reason)
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


def _is_outage(error: Exception) -> bool:
    """Whether the store failed, so that trying again later helps; else the row itself is at fault."""
    return isinstance(error, StoreError) and not isinstance(error, RefusedError)
