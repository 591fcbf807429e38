"""The oracle of a running service: every finished request compared with the rules as of its moment, most of them from memory.

What an event says about its authorization repeats: the same user with the same right by the same binding. Such a shape is
compared once and remembered until RBAC changes. Names of objects are left out of it where no rule of the user depends on one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data.events.audit_event import Annotations, AuditEvent, User
from detection.authorization.agreement import ANONYMOUS, Comparison, check_write, compare, confirm
from detection.authorization.authorizer import Authorizer
from detection.authorization.changes import WRITES, ChangeFollower
from detection.authorization.node_authorizer import NodeAuthorizer
from detection.authorization.node_changes import FOLLOWED
from detection.authorization.node_graph import NodeGraph
from detection.authorization.rbac import RESOURCES, ObjectKey, Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.rules import PolicyRule

_log = logging.getLogger(__name__)
_FINISHED = ("ResponseComplete", "Panic")
_CHANGING = FOLLOWED | frozenset(RESOURCES)
#: Shapes that are remembered, of all users, and the longest text of one.
_REMEMBERED, _LONGEST = 100_000, 512
#: Outcomes that are the same for every object of a shape.
_SHARED = ("agrees", "not authorized")
_UNAUTHORIZED = 401
#: Parts of a URI before the name of an object: `/api/v1/namespaces/NS/RESOURCE/NAME`, or `/apis/GROUP/V/namespaces/NS/...`.
_NAME_AT = {"api": 6, "apis": 7}
_CLUSTER_NAME_AT = {"api": 4, "apis": 5}

_Shape = tuple[str, str, Annotations | None, int]


@dataclass(slots=True)
class OracleFigures:
    """Requests that were compared, and those of them that were not answered from memory."""

    compared: int = 0
    computed: int = 0


class AuthorizationOracle:
    """Compares events with the rules, which follow the events.

    Args:
        rbac: as of the first event.
        follower: applies changes to it.
        graph: which pods run where; it follows the log too.
    """

    def __init__(self, rbac: Rbac, follower: ChangeFollower, graph: NodeGraph | None = None) -> None:
        self.rbac = rbac
        self.follower = follower
        self.graph = NodeGraph() if graph is None else graph
        self.authorizer = Authorizer(rbac, NodeAuthorizer(self.graph))
        self.figures = OracleFigures()
        self._known: dict[User, dict[_Shape, Comparison]] = {}
        self._shapes = 0
        self._generation = rbac.generation
        rbac.take_affected()

    def compare(self, events: Sequence[AuditEvent]) -> list[Comparison | None]:
        """Compare events in their order, and follow the changes in them; None for a stage before the end of a request."""
        found: list[Comparison | None] = []
        append, known, rbac = found.append, self._known, self.rbac
        for event in events:
            if event.stage not in _FINISHED:
                append(None)
                continue
            uri, status = event.requestURI, event.responseStatus
            if "?" in uri and "fieldSelector" not in uri:
                uri = uri.partition("?")[0]
            code = 0 if status is None else status.code
            # Of the status only this decides.
            code = 1 if 100 <= code < 300 else 2 if code == _UNAUTHORIZED else 0
            if self._generation != rbac.generation:
                self._forget_affected()
            user = event.impersonatedUser or event.user
            shapes = known.get(user)
            one = None if shapes is None else shapes.get((event.verb, uri, event.annotations, code))
            if one is None:
                one = self._look_up(event, user, uri, code)
            append(one)
            ref = event.objectRef
            if ref is not None and ref.resource in _CHANGING and event.verb in WRITES:
                if ref.resource in RESOURCES:
                    found[-1] = self._check_write(event, one)
                self.follower.follow(event)
        self.figures.compared += len(found) - found.count(None)
        return found

    def _check_write(self, event: AuditEvent, one: Comparison) -> Comparison:
        try:
            return check_write(event, one, self.authorizer, self.follower)
        except Exception:  # as in `_look_up`
            _log.exception("a write of roles or bindings cannot be checked")
            return one

    def _forget_affected(self) -> None:
        affected = self.rbac.take_affected()
        self._generation = self.rbac.generation
        for user in [one for one in self._known if affected.has(one.username or ANONYMOUS, one.groups)]:
            self._shapes -= len(self._known.pop(user))

    def _look_up(self, event: AuditEvent, user: User, uri: str, code: int) -> Comparison:
        shape = event.verb, _without_name(uri), event.annotations, code
        shapes = self._known.get(user)
        if shapes is not None and (one := shapes.get(shape)) is not None:
            self._remember(user, (event.verb, uri, event.annotations, code), one)
            return one
        self.figures.computed += 1
        try:
            one = compare(event, self.authorizer)
            if one.outcome not in _SHARED:
                return confirm(event, one, self.authorizer, self.follower)
            by_name = self._depends_on_name(user, one)
        except Exception:  # whatever a log can hold: no event may keep others from being compared
            _log.exception("an event cannot be compared with the rules")
            return Comparison("unknown", user.username, user.groups, AccessRequest(event.verb, uri))
        is_lasting = one.ruling is None or one.ruling.lasting
        if is_lasting and self._generation == self.rbac.generation:
            self._remember(user, (event.verb, uri, event.annotations, code), one)
            if not by_name:
                self._remember(user, shape, one)
        return one

    def _remember(self, user: User, shape: _Shape, one: Comparison) -> None:
        if len(shape[1]) > _LONGEST or len(user.groups) > _LONGEST:
            return
        if self._shapes >= _REMEMBERED:
            self._known.clear()
            self._shapes = 0
        shapes = self._known.setdefault(user, {})
        if shape not in shapes:
            shapes[shape] = one
            self._shapes += 1

    def _depends_on_name(self, user: User, one: Comparison) -> bool:
        """Whether another name could change what the rules say: a rule of the user names objects of this kind."""
        request = one.request
        if request.path is not None or not request.name:
            return True
        grants = self.rbac.bindings_of(user.username, user.groups, request.namespace)
        return any(
            _names_objects(rule, request) for grant in grants for rule in self.rbac.rules(grant.role) or ()
        )

    def made(self, key: ObjectKey) -> datetime | None:
        """When a role or binding was made, in UTC; None if neither snapshot nor log says so."""
        try:
            moment = datetime.fromisoformat(self.follower.created.get(key, ""))
        except ValueError:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    def restore(self, rules: Mapping[str, Any], graph: Sequence[Any]) -> None:
        """Take over rules and graph from what `ChangeFollower.snapshot` and `NodeGraph.snapshot` gave."""
        self.follower.restore(rules)
        self.graph.restore(graph)
        self.rbac.take_affected()
        self._known.clear()
        self._shapes, self._generation = 0, self.rbac.generation


def _names_objects(rule: PolicyRule, request: AccessRequest) -> bool:
    return bool(rule.names) and PolicyRule(rule.verbs, rule.groups, rule.resources).allows(request)


def _without_name(uri: str) -> str:
    """A URI with the name of its object left out, if it is one of a named object."""
    parts = uri.split("/")
    if len(parts) < 5 or "?" in uri:
        return uri
    at = _NAME_AT.get(parts[1], 0)
    if not at or parts[at - 3] != "namespaces":
        at = _CLUSTER_NAME_AT.get(parts[1], 0)
        if not at or parts[at - 1] in ("namespaces", "watch", "proxy"):
            return uri
    if len(parts) <= at:
        return uri
    parts[at] = ""
    return "/".join(parts)
