"""The habits of one principal, gathered from audit logs in one pass: for a person who wants to know what is normal for it.

Memory grows with the number of different things it does, not with how often.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.audit_event import AuditEvent, DeadLetter
from data.encoder import ActionBatch, ActionEncoder, ActionSettings
from data.errors import KubehabitError
from data.fields import GAPS, gap_codes
from data.identity import Principal
from data.paths import shipped
from data.peer_groups import PrincipalTable
from data.reader import read_events

K = TypeVar("K")
Deed = tuple[str, str, str]
"""(verb, resource, namespace)."""

_MINUTE = 60_000_000
_TOGETHER = 600_000_000
"""Two actions further apart than ten minutes are not one the consequence of the other."""

REFUSED = ("401", "403", "404", "409", "410", "422", "429", "5xx", "400")
_NAMES_SHOWN = 40
_SETTINGS = "actions.yaml"


@dataclass(slots=True)
class Seen:
    """How often something was seen, and when (microseconds since 1970 UTC), with the last event as evidence."""

    count: int = 0
    first: int = 0
    last: int = 0
    audit_id: str = ""

    def add(self, time: int, audit_id: str) -> None:
        """Count one more."""
        self.first = time if not self.count else min(self.first, time)
        if not self.count or time >= self.last:
            self.last, self.audit_id = time, audit_id
        self.count += 1


@dataclass(slots=True)
class Profile:
    """What one principal does.

    Attributes:
        principal: who.
        usernames: names it was logged under, the first forty; more than one if some were folded.
        group, reason, peers: its peer group, why it is in it, and who else is.
        deeds: (verb, resource, namespace) -> how often and when.
        peers_do: deed -> how many of its peers do the same.
        clients, places, bindings, masks: client, address, permission, effective identity of impersonation -> how often and when.
        objects: (resource, namespace, name) -> how often and when.
        bodies: (verb, resource, traits) -> how often and when.
        images: repositories of images -> how often and when.
        refusals: (code, verb, resource, namespace) -> how often and when.
        next: (verb, resource) -> what came next within ten minutes -> how often.
        gaps: how long since its previous action, in the classes of data.fields.GAPS -> how often.
        minutes: minutes since 1970 UTC -> actions.
        behind: (controller, verb, resource, namespace) -> what controllers did for what it wrote.
    """

    principal: Principal
    usernames: list[str] = field(default_factory=list)
    group: str = ""
    reason: str = ""
    peers: list[str] = field(default_factory=list)
    actions: int = 0
    first: int = 0
    last: int = 0
    deeds: dict[Deed, Seen] = field(default_factory=lambda: defaultdict(Seen))
    peers_do: dict[Deed, int] = field(default_factory=dict)
    clients: dict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))
    places: dict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))
    bindings: dict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))
    masks: dict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))
    objects: dict[Deed, Seen] = field(default_factory=lambda: defaultdict(Seen))
    bodies: dict[Deed, Seen] = field(default_factory=lambda: defaultdict(Seen))
    images: dict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))
    refusals: dict[tuple[str, str, str, str], Seen] = field(default_factory=lambda: defaultdict(Seen))
    next: dict[tuple[str, str], Counter[tuple[str, str]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    gaps: Counter[str] = field(default_factory=Counter)
    minutes: Counter[int] = field(default_factory=Counter)
    behind: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)

    def describe(self) -> str:
        """The profile in one screen of 80 columns."""
        span = f"{clock(self.first)} to {clock(self.last)}"
        active = len(self.minutes)
        lines = [
            f"{self.principal.name}  ({self.principal.kind})",
            f"  {self.actions:,} actions in {active:,} different minutes, {span}",
            *_wrapped(f"peers: {self.group}; it {self.reason}"),
        ]
        others = [name for name in self.usernames if name != self.principal.name]
        if others:
            lines += _wrapped(f"logged as: {listed(others)}")
        lines += ["", "  does most"]
        for (verb, resource, namespace), seen in top(self.deeds, 8):
            share = seen.count / self.actions
            lines.append(
                f"    {seen.count:>7,}  {share:>5.0%}  {cut(deed_words(verb, resource, namespace), 58)}"
            )
        lines += ["", "  with                                     from"]
        clients, places = (top(table, 3) for table in (self.clients, self.places))
        for row in range(max(len(clients), len(places))):
            left = f"{cut(clients[row][0], 28)} {clients[row][1].count:,}" if row < len(clients) else ""
            right = f"{places[row][0]} {places[row][1].count:,}" if row < len(places) else ""
            lines.append(f"    {left:<39}{right}")
        usual = [gap for gap, _ in self.gaps.most_common(2)]
        lines += ["", f"  rhythm: most often {' or '.join(usual)} after its previous action" if usual else ""]
        refused = sum(seen.count for seen in self.refusals.values())
        lines.append(f"  refused: {refused:,} ({refused / max(self.actions, 1):.1%})")
        for (code, verb, resource, namespace), seen in top(self.refusals, 3):
            lines.append(f"    {seen.count:>7,}  {code}  {cut(deed_words(verb, resource, namespace), 58)}")
        rare = rarest(self.deeds, 5)
        if rare:
            lines += ["", "  rarest"]
        for (verb, resource, namespace), seen in rare:
            lines.append(
                f"    {seen.count:>7,}  {clock(seen.last)}  {cut(deed_words(verb, resource, namespace), 42)}"
            )
        if self.masks:
            names = ", ".join(name for name, _ in top(self.masks, 3))
            lines += ["", *_wrapped(f"acts as: {names}")]
        if self.behind:
            lines += ["", f"  controllers did {sum(self.behind.values()):,} things for what it wrote"]
        return "\n".join(lines)


def listed(names: Sequence[str], limit: int = 3) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def cut(text: str, width: int) -> str:
    """A text of at most `width` characters, with an ellipsis where it was longer."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _wrapped(text: str, width: int = 76) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(f"  {line}")
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, f"  {line}"]


def clock(microseconds: int) -> str:
    """A time as `2026-01-05 09:30:00`, UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def deed_words(verb: str, resource: str, namespace: str) -> str:
    """`get pods/log in web`."""
    return f"{verb} {resource}" + (f" in {namespace}" if namespace != "-" else "")


def top(table: Mapping[K, Seen], count: int) -> list[tuple[K, Seen]]:
    """The most frequent entries."""
    return sorted(table.items(), key=lambda item: (-item[1].count, str(item[0])))[:count]


def rarest(table: Mapping[K, Seen], count: int) -> list[tuple[K, Seen]]:
    """The least frequent entries, newest first among equals; only those seen at most a tenth as often as the commonest."""
    most = max((seen.count for seen in table.values()), default=0)
    rare = [(key, seen) for key, seen in table.items() if seen.count * 10 <= most]
    return sorted(rare, key=lambda item: (item[1].count, -item[1].last, str(item[0])))[:count]


class _Gather:
    """Goes through a log, keeping the profile of one principal and of everybody else only what peers are found by."""

    def __init__(self, wanted: str, settings: ActionSettings) -> None:
        self.encoder = ActionEncoder(settings)
        self.wanted = {wanted, self.encoder.identity.fold(wanted)}
        self.profile: Profile | None = None
        self.principals: dict[str, Principal] = {}
        self.deeds: dict[str, Counter[Deed]] = defaultdict(Counter)
        self._before: tuple[int, str, str] | None = None

    def add(self, events: Sequence[AuditEvent]) -> None:
        batch = self.encoder.encode(events)
        if not len(batch):
            return
        values = {name: self.encoder.interners[name].values for name in batch.codes}
        columns = [batch.codes[name] for name in ("verb", "resource", "namespace")]
        distinct, counts = np.unique(
            np.stack([batch.principal, *columns], axis=1), axis=0, return_counts=True
        )
        for (who, verb, resource, namespace), count in zip(distinct.tolist(), counts.tolist(), strict=True):
            principal = batch.principals[who]
            known = self.principals.get(principal.name)
            if known is None or known.groups != principal.groups:
                narrow = known.groups[:-1] if known else ()
                groups = tuple(dict.fromkeys([*narrow, *principal.groups]))
                self.principals[principal.name] = Principal(principal.name, principal.kind, groups)
            deed = values["verb"][verb], values["resource"][resource], values["namespace"][namespace]
            self.deeds[principal.name][deed] += count
        mine = [code for code, principal in enumerate(batch.principals) if principal.name in self.wanted]
        if mine:
            self._own(batch, events, values, np.flatnonzero(np.isin(batch.principal, mine)).tolist())
        owners = [code for code, owner in enumerate(values["owner"]) if owner in self.wanted]
        if owners:
            rows = np.flatnonzero(np.isin(batch.codes["owner"], owners)).tolist()
            self._behind(batch, values, rows)

    def _behind(self, batch: ActionBatch, values: Mapping[str, list[str]], rows: list[int]) -> None:
        if self.profile is None:  # it wrote something in this log, so its own actions come first
            return
        for row in rows:
            verb, resource, namespace = (
                values[name][batch.codes[name][row]] for name in ("verb", "resource", "namespace")
            )
            self.profile.behind[batch.principals[batch.principal[row]].name, verb, resource, namespace] += 1

    def _own(
        self,
        batch: ActionBatch,
        events: Sequence[AuditEvent],
        values: Mapping[str, list[str]],
        rows: list[int],
    ) -> None:
        for row in rows:
            principal = batch.principals[batch.principal[row]]
            profile = self.profile = self.profile or Profile(principal)
            event, time = events[batch.event[row]], int(batch.time[row])
            found = {name: values[name][codes[row]] for name, codes in batch.codes.items()}
            verb, resource, namespace = found["verb"], found["resource"], found["namespace"]
            if len(profile.usernames) < _NAMES_SHOWN and event.user.username not in profile.usernames:
                profile.usernames.append(event.user.username)
            profile.first = min(profile.first, time) if profile.actions else time
            profile.last = max(profile.last, time)
            profile.actions += 1
            profile.minutes[time // _MINUTE] += 1
            gap = -1 if self._before is None else max(time - self._before[0], 0)
            if gap >= 0:
                profile.gaps[GAPS[int(gap_codes(np.array([gap]))[0])]] += 1
            if self._before is not None and gap <= _TOGETHER:
                profile.next[self._before[1:]][verb, resource] += 1
            self._before = time, verb, resource
            audit_id = event.auditID
            profile.deeds[verb, resource, namespace].add(time, audit_id)
            profile.clients[found["client"]].add(time, audit_id)
            profile.places[found["place"]].add(time, audit_id)
            if found["name"] != "-":
                profile.objects[resource, namespace, found["name"]].add(time, audit_id)
            if found["binding"] != "-":
                profile.bindings[found["binding"]].add(time, audit_id)
            if found["impersonates"] != "-":
                profile.masks[found["impersonates"]].add(time, audit_id)
            if found["traits"] != "-":
                profile.bodies[verb, resource, found["traits"]].add(time, audit_id)
            if found["images"] != "-":
                for image in found["images"].split(","):
                    profile.images[image].add(time, audit_id)
            if found["code"] in REFUSED:
                profile.refusals[found["code"], verb, resource, namespace].add(time, audit_id)

    def finish(self, similar_from: float) -> Profile | None:
        """Add what is known only at the end: peers, and what they do as well."""
        profile = self.profile
        if profile is None:
            return None
        listed = list(self.principals.values())
        alone = set(PrincipalTable.fit(listed).alone())
        views: dict[str, tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]] = {}
        for name in alone:
            broad: Counter[tuple[str, ...]] = Counter()
            for deed, count in self.deeds[name].items():
                broad[deed[:2]] += count
            views[name] = broad, Counter({tuple(deed): count for deed, count in self.deeds[name].items()})
        table = PrincipalTable.fit(listed, views, similar_from)
        name = profile.principal.name
        profile.principal = self.principals[name]
        profile.group, profile.reason = table.group_of[name], table.reasons[name]
        profile.peers = sorted(
            other for other, group in table.group_of.items() if group == profile.group and other != name
        )
        profile.peers_do = {
            deed: sum(deed in self.deeds[peer] for peer in profile.peers) for deed in profile.deeds
        }
        return profile


class _Ignored:
    """Counts unreadable records; `data build` and `score` keep them, a look at habits does not."""

    count = 0

    def add(self, source: str, letter: DeadLetter) -> None:  # noqa: ARG002 - what every place for dead letters takes
        self.count += 1


def gather(logs: Iterable[Path], principal: str, settings: ActionSettings | None = None) -> Profile:
    """The habits of one principal in some logs.

    Args:
        logs: audit logs in time order, of any format that can be read.
        principal: its name, or a user name that is folded into it.
        settings: encoding choices; those shipped in `configs/actions.yaml` if not given.

    Raises:
        KubehabitError: a log cannot be read, holds no event, or nobody of that name acts in it; the sentence names who is
            spelled most like it.
    """
    settings = settings or ActionSettings.from_dict(shipped(_SETTINGS))
    gathered = _Gather(principal, settings)
    ignored = _Ignored()
    for log in logs:
        for events in read_events(log, ignored):
            gathered.add(events)
    if not gathered.principals:
        raise KubehabitError(
            f"No audit event found ({ignored.count} unreadable records). Give a log of audit.k8s.io events."
        )
    profile = gathered.finish(gathered.encoder.identity.similar_from)
    if profile is None:
        raise KubehabitError(_nobody(principal, list(gathered.principals)))
    return profile


def _nobody(wanted: str, known: list[str]) -> str:
    parts = [name for name in known if wanted.lower() in name.lower()]
    alike = (parts or difflib.get_close_matches(wanted, known, 5, 0.5))[:5]
    hint = f"Did you mean {', '.join(sorted(alike))}?" if alike else f"The log holds {len(known)} others."
    return f"Nobody called {wanted} acts in the log. {hint}"
