"""What is in an audit log, on one screen: formats, time, who, what, and what its audit policy leaves out that kubehabit needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate, chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, DeadLetter
from data.events.formats.registry import Sources
from data.events.reader import log_files, read_events, size_of
from data.paths import shipped
from data.principals.identity import KINDS, Identity
from data.reports.advice import SettingsAdvice
from data.timestamps import parse_times
from data.visible_text import visible

TOP = 8
#: Distinct values counted exactly; beyond, the rarest are forgotten now and then, and counts are said to be at least.
_DISTINCT_LIMIT = 200_000
_EXAMPLES = 100
_NAME_WIDTH = 29
_WRITES = ("create", "update", "patch")
_READS = ("get", "list", "watch")
_WORKLOADS = (
    *("pods", "deployments", "daemonsets", "statefulsets", "replicasets", "replicationcontrollers"),
    *("jobs", "cronjobs", "podtemplates"),
)
#: Share from which something counts as logged: a few requests fail before their body is read.
_ENOUGH = 0.95


@dataclass(slots=True)
class BoundedCounter:
    """Counts values in bounded memory."""

    limit: int = _DISTINCT_LIMIT
    counts: Counter[str] = field(default_factory=Counter)
    exact: bool = True

    def update(self, values: Iterable[str]) -> None:
        """Count values; above the limit the rarer half is forgotten."""
        self.counts.update(values)
        if len(self.counts) > self.limit:
            self.counts = Counter(dict(self.counts.most_common(self.limit // 2)))
            self.exact = False

    def top(self, count: int = TOP) -> list[tuple[str, int]]:
        """The most frequent values; equally frequent ones in the order of the alphabet."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:count]


@dataclass(slots=True)
class Share:
    """How many of a kind of event have something."""

    having: int = 0
    of: int = 0

    def add(self, has: bool) -> None:
        """Count one event."""
        self.of += 1
        self.having += has

    @property
    def missing(self) -> str:
        """How many lack it, in words."""
        return f"{self.of - self.having:,} of {self.of:,}"

    @property
    def ratio(self) -> float:
        """From 0 to 1; 1 if there is no such event."""
        return self.having / self.of if self.of else 1.0


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that the log leaves out.

    Attributes:
        what: what is missing, with figures.
        suffers: which detections that costs.
        remedy: what to change.
    """

    what: str
    suffers: str
    remedy: str


class _Area(NamedTuple):
    """Writes whose request bodies matter: of all resources of the API groups, or of some."""

    groups: tuple[str, ...]
    resources: frozenset[str]
    suffers: str


_AREAS = {
    "Roles and role bindings": _Area(
        ("rbac.authorization.k8s.io",),
        frozenset(),
        "a role that grants escalate, bind, impersonate or everything; a binding to cluster-admin or to oneself",
    ),
    "workloads": _Area(
        ("", "apps", "batch"),
        frozenset(_WORKLOADS),
        "privileged pods, host paths, new image registries, borrowed service accounts, jumps in size",
    ),
    "admission webhooks and policies": _Area(
        ("admissionregistration.k8s.io",),
        frozenset(),
        "a webhook that reads or changes what everybody writes",
    ),
    "services and endpoints": _Area(
        ("", "discovery.k8s.io"),
        frozenset(("services", "endpoints", "endpointslices")),
        "external addresses and redirected traffic",
    ),
    "certificate requests": _Area(
        ("certificates.k8s.io",), frozenset(), "a client certificate made for another identity"
    ),
}


#: Of each event: value that is counted by name.
_VALUES: dict[str, Callable[[AuditEvent], str]] = {
    "verbs": lambda event: event.verb,
    "codes": lambda event: str((event.responseStatus and event.responseStatus.code) or "none"),
    "levels": lambda event: event.level or "none",
    "stages": lambda event: event.stage,
}

#: What every event should have: how it is seen, what is missing, which detections suffer, and the remedy.
_EVERY_EVENT: dict[str, tuple[Callable[[AuditEvent], bool], str, str, str]] = {
    "decisions": (
        lambda event: event.annotations is not None and event.annotations.decision is not None,
        "no authorization decision",
        "which binding allowed a request, and what was refused",
        "keep the annotations",
    ),
    "addresses": (
        lambda event: bool(event.sourceIPs),
        "no client address",
        "use of a credential from elsewhere",
        "keep sourceIPs",
    ),
    "agents": (
        lambda event: bool(event.userAgent),
        "no user agent",
        "use of a credential with another tool",
        "keep userAgent",
    ),
    "groups": (
        lambda event: bool(event.user.groups),
        "no groups of the user",
        "what a newcomer may be expected to do, from those who share a group",
        "keep user.groups (Google's Cloud Audit logs do not have them)",
    ),
}


def _area_of(event: AuditEvent) -> str | None:
    reference = event.objectRef
    if reference is None or event.verb not in _WRITES or reference.subresource:
        return None
    group, resource = reference.apiGroup, reference.resource
    found = (
        name
        for name, area in _AREAS.items()
        if group in area.groups and (not area.resources or resource in area.resources)
    )
    return next(found, None)


@dataclass(slots=True)
class Inspection:
    """What was found.

    Attributes:
        first, last: earliest and latest time, microseconds since 1970 UTC.
        busiest: most events in one minute.
        formats: records by format.
        skipped: records left out on purpose, by reason.
        dead: unreadable records by reason.
        dead_examples: for each reason, where it was seen first.
    """

    files: int = 0
    events: int = 0
    first: int = 0
    last: int = 0
    busiest: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    dead_examples: dict[str, str] = field(default_factory=dict)
    principals: BoundedCounter = field(default_factory=BoundedCounter)
    resources: BoundedCounter = field(default_factory=BoundedCounter)
    clusters: BoundedCounter = field(default_factory=BoundedCounter)
    values: dict[str, BoundedCounter] = field(
        default_factory=lambda: {name: BoundedCounter() for name in _VALUES}
    )
    bodies: Share = field(default_factory=Share)
    areas: dict[str, Share] = field(default_factory=lambda: {name: Share() for name in _AREAS})
    shares: dict[str, Share] = field(default_factory=lambda: {name: Share() for name in _EVERY_EVENT})
    reads: int = 0
    secret_reads: int = 0
    secret_bodies: int = 0
    settings: SettingsAdvice = field(default_factory=SettingsAdvice)
    _identity: Identity = field(default_factory=lambda: Identity(shipped("identity.yaml")))
    _kind: dict[str, str] = field(default_factory=dict)
    _minutes: Counter[int] = field(default_factory=Counter)

    def add(self, source: str, letter: DeadLetter) -> None:
        """Count an unreadable record; only how many there are of each reason is kept."""
        reason = letter.reason.partition(":")[0][:80]
        if reason not in self.dead and len(self.dead) >= _EXAMPLES:
            reason = "other reasons"
        self.dead[reason] += 1
        self.dead_examples.setdefault(reason, f"{source}:{letter.line}: {letter.reason[:200]}")

    def count(self, events: Sequence[AuditEvent]) -> None:
        """Count a chunk of events."""
        times = parse_times([event.requestReceivedTimestamp or event.stageTimestamp for event in events])
        self.first = min(self.first, int(times.min())) if self.events else int(times.min())
        self.last = max(self.last, int(times.max()))
        self.events += len(events)
        minutes, counts = np.unique(times // 60_000_000, return_counts=True)
        for minute, count in zip(minutes.tolist(), counts.tolist(), strict=True):
            self._minutes[minute] += count
        self.busiest = max(self.busiest, max(self._minutes[minute] for minute in minutes.tolist()))
        if len(self._minutes) > _DISTINCT_LIMIT:
            self._minutes = Counter(dict(self._minutes.most_common(_DISTINCT_LIMIT // 2)))
        for name, value_of in _VALUES.items():
            self.values[name].update(map(value_of, events))
        self.clusters.update(event.cluster for event in events if event.cluster)
        self.principals.update(map(self._name, events))
        self.resources.update(map(_resource, events))
        self.settings.count(events, self._identity)
        for event in events:
            self._weigh(event)

    def _name(self, event: AuditEvent) -> str:
        actor = self._identity.actor(event.user, event.impersonatedUser, event.annotations)
        name = f"{event.cluster}/{actor.username}" if event.cluster else actor.username
        if name not in self._kind:
            if len(self._kind) >= 2 * _DISTINCT_LIMIT:
                self._kind.clear()
            self._kind[name] = self._identity.principal(actor.username, actor.groups).kind
        return name

    def _weigh(self, event: AuditEvent) -> None:
        """Note what the event lacks of what the detections need."""
        body = bool(event.requestObject)
        reference = event.objectRef
        resource = reference.resource if reference is not None else ""
        if event.verb in _WRITES and resource:
            self.bodies.add(body)
        area = _area_of(event)
        code = event.responseStatus.code if event.responseStatus is not None else 0
        if area is not None and code < 400:
            self.areas[area].add(body)
        reading = event.verb in _READS
        self.reads += reading
        if resource == "secrets" and reference is not None and not reference.subresource:
            self.secret_reads += reading
            self.secret_bodies += body and event.verb in _WRITES
        for name, (has, *_) in _EVERY_EVENT.items():
            if name != "groups" or event.user.username:
                self.shares[name].add(has(event))

    def kinds(self) -> dict[str, int]:
        """Distinct principals by kind."""
        found = Counter(self._kind.get(name, "") for name in self.principals.counts)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def lacks(self) -> list[Lack]:
        """What the audit policy, or the way here, leaves out, most serious first."""
        return list(self._find_lacks())

    def _find_lacks(self) -> Iterator[Lack]:
        if set(self.values["stages"].counts) == {"RequestReceived"}:
            yield Lack(
                "only the stage RequestReceived is logged, so no outcome is known and no event becomes an action",
                "all of them",
                "take omitStages: [ResponseComplete] out of the audit policy",
            )
        for name, (groups, _, suffers) in _AREAS.items():
            share = self.areas[name]
            if share.ratio < _ENOUGH:
                group = f" (group {groups[0]})" if groups[0] else ""
                what = f"{share.missing} writes to {name} have no request body"
                yield Lack(what, suffers, f"log them at level Request{group}")
        if self.events and not self.reads:
            yield Lack(
                "no get, list or watch is in the log",
                "theft of secrets, probing, harvesting of logs and configuration",
                "log reads at level Metadata (AKS: kube-audit, not kube-audit-admin; GKE: Data Access logs)",
            )
        elif self.events and not self.secret_reads:
            yield Lack(
                "no read of a Secret is in the log",
                "theft of secrets, unless truly nobody reads any",
                "log get, list and watch of secrets at level Metadata",
            )
        for name, (_, what, suffers, remedy) in _EVERY_EVENT.items():
            share = self.shares[name]
            if share.ratio < _ENOUGH:
                yield Lack(f"{share.missing} events have {what}", suffers, remedy)
        if self.secret_bodies:
            yield Lack(
                f"{self.secret_bodies:,} writes of Secrets carry their contents, readable by all who can read this log",
                "none: kubehabit never looks at them",
                "log secrets at level Metadata, and treat this log as a secret",
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        seconds = (self.last - self.first) / 1e6
        return {
            "files": self.files,
            "formats": self.formats,
            "events": self.events,
            "first": _iso(self.first),
            "last": _iso(self.last),
            "seconds": seconds,
            "events_per_second": self.events / seconds if seconds else None,
            "events_in_busiest_minute": self.busiest,
            "clusters": dict(self.clusters.top(100)),
            "principals": self.kinds(),
            "principals_exact": self.principals.exact,
            "top_principals": dict(self.principals.top()),
            "top_resources": dict(self.resources.top()),
            **{name: dict(values.top(20)) for name, values in self.values.items()},
            "writes": self.bodies.of,
            "writes_with_body": self.bodies.having,
            "lacks": [asdict(lack) for lack in self.lacks()],
            "advice": [asdict(advice) for advice in self.settings.advice()],
            "skipped": dict(self.skipped),
            "dead_letters": sum(self.dead.values()),
            "dead_letter_reasons": dict(self.dead.most_common()),
            "dead_letter_examples": self.dead_examples,
        }

    def screen(self) -> RenderableType:
        """The same for a person, in 80 columns."""
        seconds = (self.last - self.first) / 1e6
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        files = f" in {self.files:,} files" if self.files != 1 else ""
        rate = f", {self.events / seconds:,.1f} a second" if seconds else ""
        many = "" if self.principals.exact else "at least "
        kinds = ", ".join(f"{count:,} {_plural(kind, count)}" for kind, count in self.kinds().items())
        bodies = f"{self.bodies.ratio:.0%} of {self.bodies.of:,} writes have one"
        rows = [
            ("events", f"{self.events:,}{files}{rate}, {self.busiest:,} in the busiest minute"),
            ("time", f"{_iso(self.first)} to {_iso(self.last)} ({_duration(seconds)})"),
            ("formats", _counts(self.formats.items())),
            ("clusters", _counts(self.clusters.top(4))),
            ("principals", many + kinds),
            *((name, _shares(self.values[name].top(), self.events)) for name in ("verbs", "codes", "levels")),
            ("bodies", bodies if self.bodies.of else ""),
            ("left out", _counts(self.skipped.most_common(4))),
        ]
        for name, value in rows:
            if value:
                facts.add_row(name, Text(visible(value)))
        parts: list[RenderableType] = [facts, Text(), self._most_active(), Text()]
        lacks = self.lacks()
        if lacks:
            parts.append(Text("What this log does not tell", style="bold yellow"))
            for lack in lacks:
                parts.append(Text(f"- {lack.what}"))
                parts.append(Text(f"  suffers: {lack.suffers}; remedy: {lack.remedy}", style="dim"))
        else:
            parts.append(Text("The log tells everything kubehabit uses.", style="green"))
        if advice := self.settings.advice():
            parts.append(Text("\nSettings that fit this log", style="bold"))
            for one in advice:
                parts.append(Text(visible(f"- {one.what}")))
                parts.append(Text(visible(f"  {one.do}"), style="dim"))
        if self.dead:
            parts.append(Text(f"\n{sum(self.dead.values()):,} records could not be read", style="bold red"))
            for reason, count in self.dead.most_common(5):
                first = self.dead_examples[reason][:160]
                parts.append(Text(visible(f"- {count:,} x {reason}; first: {first}")))
        return Group(*parts)

    def _most_active(self) -> Table:
        table = Table.grid(padding=(0, 2), expand=False)
        for _ in range(2):
            table.add_column(justify="right", no_wrap=True)
            table.add_column(max_width=_NAME_WIDTH, no_wrap=True, overflow="ellipsis")
        heads = (Text(f"most {what}", style="bold") for what in ("active principals", "used resources"))
        table.add_row(*(cell for head in heads for cell in ("", head)))
        for pair in zip_longest(self.principals.top(), self.resources.top(), fillvalue=("", 0)):
            cells: list[str] = []
            for name, count in pair:
                cells += [f"{count / self.events:.1%}", visible(_short(name)) or "-"] if count else ["", ""]
            table.add_row(*map(Text, cells))
        return table


def inspect(logs: Sequence[Path], progress: Console | None = None) -> Inspection:
    """Read logs from beginning to end and count what is in them.

    Args:
        logs: files, folders or `-`.
        progress: where to show a progress bar, if anywhere.

    Raises:
        KubehabitError: no log can be opened, or none holds an audit event.
    """
    files = log_files(logs)
    found = Inspection(files=len(files))
    sources, on_skipped = Sources(), found.skipped.update
    sizes = [size_of(file) for file in files]
    with reading_bar(progress, sum(sizes)) as show:
        for file, done in zip(files, accumulate(sizes, initial=0), strict=False):
            on_bytes = partial(show, done)
            for events in read_events(file, found, on_bytes=on_bytes, sources=sources, on_skipped=on_skipped):
                found.count(events)
    found.formats = dict(sources.records.most_common())
    if not found.events:
        where = ", ".join(map(str, logs))
        cause = next(chain(found.dead_examples.values(), found.skipped), "") or "it is empty"
        raise KubehabitError(
            f"{where}: no audit event found ({cause}). docs/sources.md lists the formats that can be read."
        )
    return found


@contextmanager
def reading_bar(console: Console | None, total: int) -> Iterator[Callable[[int, int], None]]:
    """A function of the bytes of earlier files and of this one; it shows them where there is a terminal."""
    if console is None or not console.is_terminal:
        yield lambda *_: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=total or None)
        yield lambda before, read: bar.update(task, completed=before + read)


def _resource(event: AuditEvent) -> str:
    reference = event.objectRef
    if reference is None or not reference.resource:
        path = event.requestURI.partition("?")[0]
        return "/" + "/".join(path.split("/")[1:3])
    text = f"{reference.apiGroup}/{reference.resource}" if reference.apiGroup else reference.resource
    return f"{text}/{reference.subresource}" if reference.subresource else text


def _iso(microseconds: int) -> str:
    time = datetime.fromtimestamp(microseconds // 1_000_000, UTC)
    return time.isoformat().replace("+00:00", "Z")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"


def _short(name: str) -> str:
    """The end of a name, the part that sets it apart."""
    return name if len(name) <= _NAME_WIDTH else "…" + name[1 - _NAME_WIDTH :]


def _plural(kind: str, count: int) -> str:
    word = "service account" if kind == "serviceaccount" else kind
    return word if count == 1 or kind == "anonymous" else word + "s"


def _counts(items: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in items)


def _shares(items: Iterable[tuple[str, int]], total: int) -> str:
    return ", ".join(f"{name} {count / total:.1%}" for name, count in items)
