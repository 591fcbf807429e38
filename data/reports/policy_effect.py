"""What an audit policy would leave of a log, what that saves, and what of detection it costs.

Only the API server's own format can be weighed: with a managed cluster the provider decides what is written.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from data.actions.encoder import ActionEncoder, ActionSettings
from data.actions.fields import STATIC_FIELDS
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.events.audit_policy import AuditPolicy, written_by
from data.events.decode import decode_lines
from data.events.reader import log_files, open_lines, size_of
from data.reports.log_summary import Inspection, reading_bar
from data.visible_text import visible

_LINES = 20_000
#: Actions of the log as it is that wait for their like under the policy: a watch may end, and be written, much later.
_PENDING = 200_000
_TOP = 8
_GB = 1e9
_DAY = 86_400e6

#: What tells two requests apart: audit ID, time, URI and user.
_Request = tuple[str, str, str, str]


@dataclass(slots=True)
class RuleShare:
    """What one rule decides: events and bytes of the log as it is, and under the policy."""

    title: str
    level: str
    events: int = 0
    bytes: int = 0
    kept_events: int = 0
    kept_bytes: int = 0


@dataclass(slots=True)
class PolicyEffect:
    """A log as it is, and as it would be under a policy.

    Attributes:
        before, after: what is in them, and what they leave out.
        rules: by rule of the policy; the last is "no rule", where there is such.
        actions: of the log as it is.
        lost: actions that the policy leaves no trace of, by kind of principal, verb and resource.
        changed: kept actions that have another value in a field, by field.
        foreign: lines that are no events in the API server's own format, and were not weighed.
    """

    before: Inspection = field(default_factory=Inspection)
    after: Inspection = field(default_factory=Inspection)
    rules: list[RuleShare] = field(default_factory=list)
    actions: int = 0
    lost: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    foreign: int = 0

    def totals(self) -> RuleShare:
        """Events and bytes of all rules."""
        total = RuleShare("all", "")
        for rule in self.rules:
            total.events += rule.events
            total.bytes += rule.bytes
            total.kept_events += rule.kept_events
            total.kept_bytes += rule.kept_bytes
        return total

    @property
    def days(self) -> float:
        """Time that the log covers."""
        return max(self.before.last - self.before.first, 0) / _DAY

    def new_lacks(self) -> list[dict[str, str]]:
        """What detection would lack under the policy and does not today: `what`, `suffers`, `remedy`."""
        today = {lack.suffers for lack in self.before.lacks()}
        return [
            {"what": lack.what, "suffers": lack.suffers, "remedy": lack.remedy}
            for lack in self.after.lacks()
            if lack.suffers not in today
        ]

    def to_dict(self, price: float | None = None) -> dict[str, Any]:
        """JSON form; `price` of a GB (10^9 bytes, uncompressed) adds the cost of a day."""
        total = self.totals()
        found: dict[str, Any] = {
            "events": total.events,
            "bytes": total.bytes,
            "kept_events": total.kept_events,
            "kept_bytes": total.kept_bytes,
            "days": self.days,
            "rules": [msgspec.to_builtins(rule) for rule in self.rules if rule.events],
            "actions": self.actions,
            "actions_lost": self.lost.total(),
            "lost": [
                {"kind": kind, "verb": verb, "resource": resource, "actions": count}
                for (kind, verb, resource), count in self.lost.most_common(100)
            ],
            "fields_changed": dict(self.changed.most_common()),
            "new_lacks": self.new_lacks(),
            "not_weighed": self.foreign,
        }
        if price is not None and self.days:
            found["cost_per_day"] = total.bytes / _GB / self.days * price
            found["cost_per_day_under_policy"] = total.kept_bytes / _GB / self.days * price
        return found

    def screen(self, price: float | None = None) -> RenderableType:
        """The same for a person, in 80 columns."""
        total = self.totals()
        parts: list[RenderableType] = [
            Text("Under the policy", style="bold"),
            Text(
                f"{total.kept_events / total.events:.0%} of {total.events:,} events and "
                f"{total.kept_bytes / total.bytes:.0%} of {_size(total.bytes)} would be written."
            ),
        ]
        if self.days:
            now, then = (size / self.days for size in (total.bytes, total.kept_bytes))
            line = f"At the pace of this log, {_size(now)} a day become {_size(then)}."
            if price is not None:
                line += (
                    f" At {price:g} a GB, {now / _GB * price:,.2f} a day become {then / _GB * price:,.2f}."
                )
            parts.append(Text(line))
        parts += [Text(), self._rules_table(total), Text(), *self._losses()]
        if self.foreign:
            parts.append(
                Text(
                    f"{self.foreign:,} lines are not in the API server's own format and were not weighed.",
                    style="yellow",
                )
            )
        return Group(*parts)

    def _rules_table(self, total: RuleShare) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("rule", no_wrap=True, overflow="ellipsis", max_width=38)
        table.add_column("level", no_wrap=True)
        for name in ("of events", "of bytes", "kept"):
            table.add_column(name, justify="right", no_wrap=True)
        for rule in sorted(self.rules, key=lambda one: one.kept_bytes - one.bytes)[:_TOP]:
            if rule.events:
                table.add_row(
                    visible(rule.title),
                    rule.level,
                    f"{rule.events / total.events:.1%}",
                    f"{rule.bytes / total.bytes:.1%}",
                    f"{rule.kept_bytes / rule.bytes:.0%}",
                )
        return table

    def _losses(self) -> Iterable[RenderableType]:
        yield Text("What it costs in detection", style="bold")
        mine = sum(count for (kind, _, _), count in self.lost.items() if kind in ("human", "serviceaccount"))
        yield Text(
            f"{self.lost.total():,} of {self.actions:,} actions would leave no trace, {mine:,} of them by people and "
            "service accounts."
        )
        for (kind, verb, resource), count in self.lost.most_common(_TOP):
            yield Text(visible(f"- {count:,} x {verb} {resource} by {kind}"))
        if self.changed:
            yield Text("Of the actions that stay, these fields would say less:")
            yield Text(
                "- " + ", ".join(f"{name} of {count:,}" for name, count in self.changed.most_common(_TOP))
            )
        for lack in self.new_lacks():
            yield Text(f"- {lack['what']}", style="yellow")
            yield Text(f"  suffers: {lack['suffers']}; remedy: {lack['remedy']}", style="dim")
        if not self.changed and not self.new_lacks():
            yield Text("Every action that stays says what it says today.", style="green")


class _Comparison:
    """Encodes both logs side by side, and notes which actions are gone and which say less."""

    def __init__(self, effect: PolicyEffect) -> None:
        self._effect = effect
        self._encoders = (ActionEncoder(ActionSettings()), ActionEncoder(ActionSettings()))
        self._waiting: OrderedDict[_Request, tuple[str, ...]] = OrderedDict()

    def add(self, before: Sequence[AuditEvent], after: Sequence[AuditEvent]) -> None:
        old, new = (
            dict(_actions(encoder, events))
            for encoder, events in zip(self._encoders, (before, after), strict=True)
        )
        self._effect.actions += len(old)
        self._waiting |= old
        for request, fields in new.items():
            had = self._waiting.pop(request, None)
            if had is not None:
                self._effect.changed.update(
                    name for name, one, other in zip(STATIC_FIELDS, had, fields, strict=False) if one != other
                )
        while len(self._waiting) > _PENDING:
            self._lose(self._waiting.popitem(last=False)[1])

    def end(self) -> None:
        """What still waits is lost."""
        for fields in self._waiting.values():
            self._lose(fields)
        self._waiting.clear()

    def _lose(self, fields: tuple[str, ...]) -> None:
        found = dict(zip(STATIC_FIELDS, fields, strict=False))
        self._effect.lost[fields[-1], found["verb"], found["resource"]] += 1


def _actions(
    encoder: ActionEncoder, events: Sequence[AuditEvent]
) -> Iterable[tuple[_Request, tuple[str, ...]]]:
    """Each action's request, and its fields followed by the kind of its principal."""
    batch = encoder.encode(events)
    columns = [(encoder.interners[name].values, batch.codes[name]) for name in STATIC_FIELDS]
    kinds = {}
    for row, index in enumerate(batch.event.tolist()):
        event = events[index]
        if event.user.username not in kinds:
            actor = encoder.identity.actor(event.user, event.impersonatedUser, event.annotations)
            kinds[event.user.username] = encoder.identity.principal(actor.username, actor.groups).kind
        request = (event.auditID, event.requestReceivedTimestamp, event.requestURI, event.user.username)
        yield request, (*(values[codes[row]] for values, codes in columns), kinds[event.user.username])


def policy_effect(logs: Sequence[Path], policy: AuditPolicy, progress: Console | None = None) -> PolicyEffect:
    """Read logs twice at once: as they are, and as the policy would have left them.

    Args:
        logs: files or folders, one event of audit.k8s.io a line, plain or compressed.
        progress: where to show a progress bar, if anywhere.

    Raises:
        KubehabitError: no log can be opened, or none holds an event in the API server's own format.
    """
    files = log_files(logs)
    effect = PolicyEffect(rules=[RuleShare(title, "") for title in [*policy.titles, "no rule"]])
    comparison = _Comparison(effect)
    sizes = [size_of(file) for file in files]
    with reading_bar(progress, sum(sizes)) as show:
        for file, done in zip(files, accumulate(sizes, initial=0), strict=False):
            lines = open_lines(file, on_bytes=partial(show, done))
            while chunk := list(islice(lines, _LINES)):
                before, after = _apply(chunk, policy, effect)
                if not before:
                    continue
                old, new = (decode_lines(some).events for some in (before, after))
                effect.before.count(old)
                if new:
                    effect.after.count(new)
                comparison.add(old, new)
    comparison.end()
    if not effect.totals().events:
        raise KubehabitError(
            f"{', '.join(map(str, logs))}: no line is an event in the API server's own format, so there is "
            "nothing to weigh the policy on. What a managed cluster writes is decided by its provider."
        )
    return effect


def _apply(
    lines: Sequence[bytes], policy: AuditPolicy, effect: PolicyEffect
) -> tuple[list[bytes], list[bytes]]:
    """The events among lines, as they are and under the policy; counts both by rule."""
    before, after = [], []
    for line in lines:
        try:
            event = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("user"), dict) or "stage" not in event:
            effect.foreign += bool(line.strip())
            continue
        try:
            decision = policy.decide(event)
            kept = written_by(decision, event)
        except (TypeError, AttributeError, KeyError):  # a field of a type that no API server writes
            effect.foreign += 1
            continue
        share = effect.rules[-1 if decision.rule is None else decision.rule]
        share.level = decision.level
        share.events += 1
        share.bytes += len(line) + 1
        before.append(line)
        if kept is not None:
            encoded = msgspec.json.encode(kept)
            share.kept_events += 1
            # A line that is as it was counts as it was: other spacing is no saving.
            share.kept_bytes += (len(line) if kept == event else min(len(encoded), len(line))) + 1
            after.append(encoded)
    return before, after


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"
