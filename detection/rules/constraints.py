"""What a rule is about, in the form of ValidatingAdmissionPolicy, and its answer on columns of events.

A constraint is answered once for each distinct value (verb and resource, namespace, user, kind, code), so that an event that
no rule is about costs a few look-ups whatever the number of rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from data.events.audit_event import AuditEvent
from data.principals.identity import KINDS
from detection.rules.patterns import check_pattern, matches_any
from detection.rules.scopes import ClusterWideResources

#: Values of one memo. Names of namespaces and users come from the log.
_MEMO_LIMIT = 50_000
_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
Patterns = Annotated[tuple[str, ...], msgspec.Meta(max_length=256)]
_Key = tuple[str, ...]


class ResourceRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests for objects.

    Attributes:
        apiGroups: `""` is the core group, `*` any.
        resources: `pods`, `pods/exec`, `pods/*` (every subresource of pods), `*` (every resource, no subresource), `*/*` (all).
        verbs: of the audit event: get, list, watch, create, update, patch, delete, deletecollection.
        resourceNames: patterns of object names; empty for any.
    """

    apiGroups: Patterns = ("*",)
    resources: Patterns = ("*/*",)
    verbs: Patterns = ("*",)
    resourceNames: Patterns = ()

    def covers(self, verb: str, group: str, resource: str, subresource: str) -> bool:
        """Whether a request for a resource is meant; names apart."""
        return (
            ("*" in self.verbs or verb in self.verbs)
            and matches_any(self.apiGroups, group)
            and any(_covers(one, resource, subresource) for one in self.resources)
        )


def _covers(pattern: str, resource: str, subresource: str) -> bool:
    wanted, slash, sub = pattern.partition("/")
    if wanted not in ("*", resource):
        return False
    return (
        (sub == "*" and (wanted == "*" or bool(subresource))) or sub == subresource
        if slash
        else not subresource
    )


class NonResourceRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests for paths outside the resource API.

    Attributes:
        nonResourceURLs: patterns of paths, without the query.
        verbs: as of a ResourceRule.
    """

    nonResourceURLs: Patterns
    verbs: Patterns = ("*",)

    def covers(self, verb: str, path: str) -> bool:
        """Whether a request for a path is meant."""
        return ("*" in self.verbs or verb in self.verbs) and matches_any(self.nonResourceURLs, path)


class MatchConstraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule is about: one of the rules for resources or paths, and everything else that is given.

    Attributes:
        resourceRules, nonResourceRules: requests that are meant.
        excludeResourceRules: requests that are not, whatever the others say.
        namespaces, excludeNamespaces: patterns; the namespace of cluster-wide requests is `""`.
        users, excludeUsers: patterns of the user name that is logged.
        kinds, excludeKinds: of the principal: human, serviceaccount, controller, component, node, anonymous.
        codes: of the response: `200`, `2xx`.
        impersonated: whether the request must (true) or must not (false) act as another user.
        excludeNonResourceURLs: patterns of paths that are not meant.
        uriContains: texts of which the request's URI must contain one.
        bodyContains: texts of which the request's body must contain one, as JSON writes them; a body with escapes is let through.
        clusterWide: only custom resources that the log has shown to be cluster-wide.
        silentDays: only a request before which its principal did nothing on so many days of which the log had anything.
    """

    resourceRules: Annotated[tuple[ResourceRule, ...], msgspec.Meta(max_length=64)] = ()
    nonResourceRules: Annotated[tuple[NonResourceRule, ...], msgspec.Meta(max_length=64)] = ()
    excludeResourceRules: Annotated[tuple[ResourceRule, ...], msgspec.Meta(max_length=64)] = ()
    namespaces: Patterns = ()
    excludeNamespaces: Patterns = ()
    users: Patterns = ()
    excludeUsers: Patterns = ()
    kinds: Patterns = ()
    excludeKinds: Patterns = ()
    codes: Annotated[tuple[int | str, ...], msgspec.Meta(max_length=64)] = ()
    impersonated: bool | None = None
    excludeNonResourceURLs: Patterns = ()
    uriContains: Patterns = ()
    bodyContains: Patterns = ()
    clusterWide: bool = False
    silentDays: Annotated[int, msgspec.Meta(ge=0, le=3_650)] = 0

    def __post_init__(self) -> None:
        """Refuse what can match nothing, or is no pattern."""
        if not self.resourceRules and not self.nonResourceRules:
            raise ValueError("resourceRules or nonResourceRules must say which requests are meant")
        unknown = {*self.kinds, *self.excludeKinds} - set(KINDS)
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]!r} is no kind of principal; kinds: {', '.join(KINDS)}")
        for code in map(str, self.codes):
            if code not in _CLASSES and not (code.isdecimal() and 100 <= int(code) < 600):
                raise ValueError(f"{code!r} is no response code; write 403, or 4xx for all of a class")
        rules = (*self.resourceRules, *self.excludeResourceRules)
        for patterns in (
            *(
                self.namespaces,
                self.excludeNamespaces,
                self.users,
                self.excludeUsers,
                self.excludeNonResourceURLs,
            ),
            *(one.apiGroups for one in rules),
            *(one.resourceNames for one in rules),
            *(one.nonResourceURLs for one in self.nonResourceRules),
        ):
            for pattern in patterns:
                check_pattern(pattern)

    def about(self, key: _Key) -> bool:
        """Whether a request is meant: (verb, path), or (verb, group, resource, subresource)."""
        if len(key) == 2:
            return any(one.covers(*key) for one in self.nonResourceRules) and not matches_any(
                self.excludeNonResourceURLs, key[1]
            )
        verb, group, resource, sub = key
        return any(one.covers(verb, group, resource, sub) for one in self.resourceRules) and not any(
            one.covers(verb, group, resource, sub)
            for one in self.excludeResourceRules
            if not one.resourceNames
        )

    def in_namespace(self, namespace: str) -> bool:
        """Whether requests in a namespace are meant."""
        return _wanted(self.namespaces, self.excludeNamespaces, namespace)

    def of_user(self, username: str) -> bool:
        """Whether requests of a user are meant."""
        return _wanted(self.users, self.excludeUsers, username)

    def of_kind(self, kind: str) -> bool:
        """Whether requests of a kind of principal are meant."""
        return (not self.kinds or kind in self.kinds) and kind not in self.excludeKinds

    def with_code(self, code: str) -> bool:
        """Whether requests with a response code are meant."""
        wanted = {str(one) for one in self.codes}
        return not wanted or code in wanted or f"{code[:1]}xx" in wanted

    def _in_body(self, body: bytes) -> bool:
        # A patch is logged as it was sent, so that a client may have written any letter as an escape.
        return any(text.encode() in body for text in self.bodyContains) or b"\\u" in body

    @property
    def names_objects(self) -> bool:
        """Whether the name of the object decides."""
        return any(one.resourceNames for one in (*self.resourceRules, *self.excludeResourceRules))

    def accepts(self, event: AuditEvent) -> bool:
        """Whether what no column answers holds as well: names of objects, impersonation, texts of the URI."""
        if self.impersonated is not None and (event.impersonatedUser is not None) != self.impersonated:
            return False
        if self.uriContains and not any(text in event.requestURI for text in self.uriContains):
            return False
        if self.bodyContains and not self._in_body(bytes(event.requestObject)):
            return False
        ref = event.objectRef
        if ref is None or not self.names_objects:
            return True
        key = event.verb, ref.apiGroup, ref.resource, ref.subresource

        def named(rule: ResourceRule) -> bool:
            return rule.covers(*key) and (not rule.resourceNames or matches_any(rule.resourceNames, ref.name))

        return any(map(named, self.resourceRules)) and not any(map(named, self.excludeResourceRules))


def _wanted(wanted: Sequence[str], unwanted: Sequence[str], text: str) -> bool:
    return (not wanted or matches_any(wanted, text)) and not (unwanted and matches_any(unwanted, text))


class _Memo(dict[Any, int]):
    """Bit masks by value, each computed once; bit i says whether the i-th constraint holds.

    Args:
        constraints: which.
        holds: whether a constraint holds for a value.
        asks: whether a constraint asks for the value at all; one that does not holds for each.
    """

    def __init__(
        self,
        constraints: Sequence[MatchConstraints],
        holds: Callable[[MatchConstraints, Any], bool],
        asks: Callable[[MatchConstraints], object] = lambda _one: True,
    ) -> None:
        super().__init__()
        self._always = _bits(not asks(one) for one in constraints)
        self._asking = [(1 << bit, one) for bit, one in enumerate(constraints) if asks(one)]
        self._holds = holds

    def __missing__(self, value: Any) -> int:
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        mask, holds = self._always, self._holds
        for bit, constraints in self._asking:
            if holds(constraints, value):
                mask |= bit
        self[value] = mask
        return mask


class ColumnMatcher:
    """Says of each event which of many constraints it meets."""

    def __init__(self, constraints: Sequence[MatchConstraints]) -> None:
        self._constraints = constraints
        self._about = _Memo(constraints, MatchConstraints.about)
        self._kinds = _Memo(constraints, MatchConstraints.of_kind, lambda one: one.kinds or one.excludeKinds)
        self._namespaces = _Memo(
            constraints,
            MatchConstraints.in_namespace,
            lambda one: one.namespaces or one.excludeNamespaces,
        )
        self._users = _Memo(constraints, MatchConstraints.of_user, lambda one: one.users or one.excludeUsers)
        self._codes = _Memo(constraints, lambda one, code: one.with_code(str(code)), lambda one: one.codes)
        self._plain, self._acting = (
            _bits(one.impersonated in (None, value) for one in constraints) for value in (False, True)
        )
        self._unsure = _bits(
            bool(one.uriContains) or bool(one.bodyContains) or one.names_objects for one in constraints
        )
        self._wide = _bits(one.clusterWide for one in constraints)
        self._uri_texts = [
            (1 << bit, one.uriContains) for bit, one in enumerate(constraints) if one.uriContains
        ]

    def matches(
        self,
        events: Sequence[AuditEvent],
        kinds: Sequence[str],
        cluster_wide: ClusterWideResources,
        among: int = -1,
    ) -> Iterator[tuple[int, int]]:
        """(row, mask) of the events that meet at least one; bit i of the mask says that they meet the i-th.

        Args:
            events: finished requests.
            kinds: of their principals.
            cluster_wide: what earlier events have shown; it learns from these.
            among: bit mask of the constraints to ask; `silentDays` is not asked here.
        """
        about, by_code, wide = self._about, self._codes, self._wide
        possible = self._possible(events) & among
        by_kind = {kind: self._kinds[kind] & possible for kind in set(kinds)}
        for row, event in enumerate(events):
            ref = event.objectRef
            mask = by_kind[kinds[row]] & (self._plain if event.impersonatedUser is None else self._acting)
            if ref is None or not ref.resource:
                mask &= about[event.verb, event.requestURI.partition("?")[0]]
            else:
                mask &= about[event.verb, ref.apiGroup, ref.resource, ref.subresource]
                if mask & wide and (ref.apiGroup, ref.resource) not in cluster_wide:
                    mask &= ~wide
                if not ref.namespace:
                    cluster_wide.learn(event)
            if not mask:
                continue
            mask &= by_code[0 if event.responseStatus is None else event.responseStatus.code]
            if not mask:
                continue
            mask &= self._users[event.user.username]
            mask &= self._namespaces[ref.namespace if ref is not None else ""]
            if mask & self._unsure:
                mask = self._sure(event, mask)
            if mask:
                yield row, mask

    def _possible(self, events: Sequence[AuditEvent]) -> int:
        """Constraints that one of the events may meet, by the texts that a URI must contain: one search over all URIs."""
        if not self._uri_texts:
            return -1
        uris = "\n".join([event.requestURI for event in events])
        impossible = sum(bit for bit, texts in self._uri_texts if not any(text in uris for text in texts))
        return ~impossible

    def _sure(self, event: AuditEvent, mask: int) -> int:
        for bit in bits_of(mask & self._unsure):
            if not self._constraints[bit].accepts(event):
                mask &= ~(1 << bit)
        return mask


def bits_of(mask: int) -> Iterator[int]:
    """Numbers of the bits that are set, the lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _bits(flags: Iterator[bool] | Sequence[bool]) -> int:
    return sum(1 << bit for bit, flag in enumerate(flags) if flag)


def constraints_from(content: Mapping[str, Any]) -> MatchConstraints:
    """Constraints from plain data; raises msgspec.ValidationError."""
    return msgspec.convert(content, MatchConstraints)
