"""What each principal of a log without attacks is like: its sessions, namespaces, rights, deeds and the times it is active."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from data.actions.fields import resource_name
from data.arrays import Ints
from data.events.audit_event import AuditEvent, User
from data.principals.identity import Kind, identify

#: Share of a principal's namespaced actions from which a namespace is one of its own.
_HOME_SHARE = 0.1
#: `RBAC: allowed by ClusterRoleBinding "a" of ClusterRole "b" to Group "c"`, split at its quotes.
_PARTS = 7

#: Newness of a deed that is new to a principal in no form.
NOT_NEW = 3

#: How a client reached the API server: user agent and source addresses.
Session = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Right:
    """The RBAC role that allowed a request and to whom it was bound; empty where another authorizer decided."""

    role: str = ""
    subject: str = ""

    @classmethod
    def of(cls, event: AuditEvent) -> Right | None:
        """The right an event made use of; None for a refused request."""
        notes = event.annotations
        if notes is None or notes.decision != "allow":
            return None
        parts = (notes.reason or "").split('"')
        if len(parts) != _PARTS:
            return cls()
        return cls(parts[2].removeprefix(" of ") + parts[3], parts[4].removeprefix(" to ") + parts[5])


@dataclass(frozen=True, slots=True)
class Deed:
    """What a request was about, as far as it can be someone's habit."""

    verb: str
    resource: str
    namespace: str
    name: str

    @classmethod
    def of(cls, event: AuditEvent) -> Deed | None:
        """None for a request that is not about an object, such as discovery."""
        ref = event.objectRef
        if ref is None or not ref.resource:
            return None
        resource = resource_name(ref.apiGroup, ref.resource, ref.subresource)
        return cls(event.verb, resource, ref.namespace, ref.name)

    @property
    def forms(self) -> tuple[tuple[str, ...], ...]:
        """From broad to narrow: the kind of request, where it is made, and on which object."""
        return (
            ("kind", self.verb, self.resource),
            ("place", self.verb, self.resource, self.namespace),
            ("object", self.resource, self.namespace, self.name),
        )


@dataclass(slots=True)
class Profile:
    """One principal.

    Attributes:
        user: as it is logged.
        rows: places of its events in the log, rising.
        sessions: of each of `rows`.
        rights: role -> texts that said so (`authorization.k8s.io/reason`), with their number.
        deeds: the forms of everything it did.
    """

    user: User
    kind: Kind
    rows: list[int] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    rights: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    deeds: set[tuple[str, ...]] = field(default_factory=set)
    namespaces: Counter[str] = field(default_factory=Counter)

    @property
    def homes(self) -> list[str]:
        """Namespaces of its own, the busiest first; those of a service account begin with the one it lives in."""
        least = _HOME_SHARE * self.namespaces.total()
        found = [name for name, count in self.namespaces.most_common() if count >= least]
        if self.user.username.startswith("system:serviceaccount:"):
            lives = self.user.username.split(":")[2]
            found = [lives, *(name for name in found if name != lives)]
        return found

    def newness(self, deeds: Sequence[Deed]) -> int:
        """How broad the broadest novelty among some deeds is to it: 0 a kind of request, 1 a place, 2 an object, 3 none."""
        levels = [level for deed in deeds for level, form in enumerate(deed.forms) if form not in self.deeds]
        return min(levels, default=NOT_NEW)


class Profiles:
    """The principals of a log, by user name.

    Attributes:
        events: the log, in its order.
        time: int64 [N], when each event's request was received, microseconds since 1970 UTC.
        objects: (resource, namespace) -> name -> user names that touched it.
    """

    def __init__(self, events: Sequence[AuditEvent], time: Ints) -> None:
        self.events, self.time = events, time
        self.by_name: dict[str, Profile] = {}
        self.objects: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(dict)
        for row, event in enumerate(events):
            self._learn(row, event)

    def _learn(self, row: int, event: AuditEvent) -> None:
        user = event.user
        found = self.by_name.get(user.username)
        if found is None:
            found = self.by_name[user.username] = Profile(user, identify(user.username, user.groups).kind)
        found.rows.append(row)
        found.sessions.append((event.userAgent, event.sourceIPs))
        right = Right.of(event)
        if right is not None and right.role and event.annotations is not None:
            found.rights[right.role][event.annotations.reason or ""] += 1
        deed = Deed.of(event)
        if deed is None:
            return
        found.deeds.update(deed.forms)
        if deed.namespace:
            found.namespaces[deed.namespace] += 1
        if deed.name:
            self.objects[kind_of(event), deed.namespace].setdefault(deed.name, set()).add(user.username)


def kind_of(event: AuditEvent) -> str:
    """Group and resource of the object a request was about."""
    ref = event.objectRef
    return "" if ref is None else resource_name(ref.apiGroup, ref.resource, "")
