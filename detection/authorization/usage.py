"""What each user did with its rights, counted from a log: the base of least privilege."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from data.events.audit_event import AuditEvent
from detection.authorization.requests import AccessRequest, access_request

#: Names of one right that are kept; a right used on more objects than that is used on any.
_NAMES = 64
_NOT_USED = (401, 403)
#: Users whose rights are counted, and rights of each: what a log holds can be long.
_USERS, _RIGHTS = 200_000, 20_000


@dataclass(frozen=True, slots=True)
class UsedRight:
    """A right as it was used: one verb on one kind of object in one namespace, or on one path."""

    verb: str
    group: str
    resource: str  # with its subresource
    namespace: str
    path: str | None = None

    @classmethod
    def from_request(cls, request: AccessRequest) -> UsedRight:
        """The right that a request needs."""
        if request.path is not None:
            return cls(request.verb, "", "", "", request.path)
        return cls(request.verb, request.group, request.combined, request.namespace)

    def request(self, name: str = "") -> AccessRequest:
        """A request that needs this right."""
        if self.path is not None:
            return AccessRequest(self.verb, self.path)
        resource, _, subresource = self.resource.partition("/")
        return AccessRequest(self.verb, None, self.group, resource, subresource, self.namespace, name)

    def __str__(self) -> str:
        """As people write it."""
        return str(self.request())


@dataclass(slots=True)
class UserUsage:
    """What one user did.

    Attributes:
        groups: of the newest request.
        counts: requests by right; what was refused is no use, what found nothing or conflicted is.
        names: objects of each right; None where there are too many.
        last: newest use of each right, RFC 3339.
    """

    groups: tuple[str, ...] = ()
    counts: Counter[UsedRight] = field(default_factory=Counter)
    names: dict[UsedRight, set[str] | None] = field(default_factory=dict)
    last: dict[UsedRight, str] = field(default_factory=dict)

    def add(self, request: AccessRequest, time: str, times: int = 1) -> None:
        """Count a request that was made so many times, last at a time."""
        right = UsedRight.from_request(request)
        if right not in self.counts and len(self.counts) >= _RIGHTS:
            return
        self.counts[right] += times
        self.last[right] = max(time, self.last.get(right, ""))
        names = self.names.setdefault(right, set())
        if names is not None:
            names.add(request.name)
            if len(names) > _NAMES:
                self.names[right] = None


def count_usage(events: Iterable[AuditEvent]) -> dict[str, UserUsage]:
    """What each user of a log did with its rights: user name as logged -> usage. An impersonator uses another's rights."""
    found: dict[str, UserUsage] = {}
    for event in events:
        code = event.responseStatus.code if event.responseStatus else 0
        allowed = event.annotations is not None and event.annotations.decision == "allow"
        if event.stage != "ResponseComplete" or code in _NOT_USED or not allowed:
            continue
        who = event.impersonatedUser or event.user
        usage = found.get(who.username)
        if usage is None:
            if len(found) >= _USERS:
                continue
            usage = found[who.username] = UserUsage()
        usage.groups = who.groups
        usage.add(access_request(event.verb, event.requestURI), event.requestReceivedTimestamp)
    return found
