"""The rights of roles, broken down once and found by the request that uses one: for many users at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from detection.authorization.rbac import BindingGrant, ObjectKey, Rbac, RbacBinding
from detection.authorization.risks import risk_of
from detection.authorization.rules import ALL, PolicyRule, breakdown, path_matches
from detection.authorization.usage import UsedRight, UserUsage

_Key = tuple[str, str, str]
_CACHED, _ROLES = 1 << 16, 4_096


@lru_cache(_CACHED)
def _keys(right: UsedRight) -> tuple[_Key, ...]:
    """Under which keys a rule that allows a right stands."""
    subresource = right.resource.partition("/")[2]
    resources = (right.resource, ALL, *((f"*/{subresource}",) if subresource else ()))
    return tuple(
        (verb, group, resource)
        for verb in (right.verb, ALL)
        for group in dict.fromkeys((right.group, ALL))
        for resource in resources
    )


class RoleRights:
    """The rights of a role.

    Attributes:
        rights: each a rule of one verb on one resource, or on one path.
        risks: what each leads to; empty for an ordinary one.
    """

    def __init__(self, rules: Iterable[PolicyRule]) -> None:
        self.rights = tuple(dict.fromkeys(breakdown(rules)))
        self.risks = tuple(map(risk_of, self.rights))
        self._at: dict[_Key, list[int]] = defaultdict(list)
        self._paths: list[int] = []
        for number, right in enumerate(self.rights):
            if right.paths:
                self._paths.append(number)
            else:
                self._at[right.verbs[0], right.groups[0], right.resources[0]].append(number)

    @cached_property
    def risky(self) -> int:
        """How many lead to others."""
        return sum(map(bool, self.risks))

    @cached_property
    def kinds_of_risk(self) -> dict[str, None]:
        """What its rights lead to, each once."""
        return dict.fromkeys(filter(None, self.risks))

    @cached_property
    def boundless(self) -> bool:
        """Whether a wildcard is among them."""
        return any(ALL in (*one.verbs, *one.groups, *one.resources, *one.paths) for one in self.rights)

    def allowing(self, right: UsedRight, names: set[str] | None) -> Iterator[int]:
        """Numbers of the rights that allow one that was used; `names` of the objects, None where they were too many."""
        if right.path is not None:
            for number in self._paths:
                rule = self.rights[number]
                if rule.verbs[0] in (right.verb, ALL) and path_matches(rule.paths[0], right.path):
                    yield number
            return
        for key in _keys(right):
            for number in self._at.get(key, ()):
                rule = self.rights[number]
                if not rule.names or names is None or rule.names[0] in names:
                    yield number

    def uses(self, usage: UserUsage, namespace: str) -> Counter[int]:
        """How often each right was used that a binding in a namespace gives (empty: in all); those never used are missing."""
        found: Counter[int] = Counter()
        for right, count in usage.counts.items():
            if namespace in ("", right.namespace):
                for number in self.allowing(right, usage.names[right]):
                    found[number] += count
        return found


@lru_cache(_ROLES)
def _rights_of(rules: tuple[PolicyRule, ...]) -> RoleRights:
    """Many roles have the same rules, and most of them still have them when RBAC has changed."""
    return RoleRights(rules)


@dataclass(frozen=True, slots=True)
class RightsTotal:
    """Rights of a user, a group or a binding in numbers.

    Attributes:
        granted, used: rights, each once for every binding that gives it.
        risky_unused: never used, and leading to others.
        risks: what these lead to.
        unknown: bindings of which the log did not say what they give.
    """

    granted: int = 0
    used: int = 0
    risky_unused: int = 0
    risks: tuple[str, ...] = ()
    unknown: int = 0

    def __add__(self, other: RightsTotal) -> RightsTotal:
        """Both together."""
        return RightsTotal(
            self.granted + other.granted,
            self.used + other.used,
            self.risky_unused + other.risky_unused,
            tuple(dict.fromkeys((*self.risks, *other.risks))),
            self.unknown + other.unknown,
        )


class RightIndex:
    """Rights of everybody by the bindings of an `Rbac`, with what each did with them.

    Args:
        rbac: as it stands; it must not change as long as this is used.
        usage: user name as logged -> what it did.
    """

    def __init__(self, rbac: Rbac, usage: Mapping[str, UserUsage]) -> None:
        self.rbac = rbac
        self.usage = usage
        self._roles: dict[ObjectKey, RoleRights | None] = {}
        self._uses: dict[tuple[ObjectKey, ObjectKey, str], Counter[int]] = {}
        self._of_groups: dict[tuple[str, ...], tuple[frozenset[BindingGrant], RightsTotal]] = {}
        self._members: dict[str, list[str]] = defaultdict(list)
        for user, one in usage.items():
            for group in one.groups:
                self._members[group].append(user)

    def role(self, key: ObjectKey) -> RoleRights | None:
        """The rights of a role; None if the log did not say what they are."""
        if key not in self._roles:
            rules = self.rbac.rules(key)
            self._roles[key] = None if rules is None else _rights_of(rules)
        return self._roles[key]

    def members(self, group: str) -> Sequence[str]:
        """Users who were in a group when they acted last."""
        return self._members.get(group, ())

    def uses(self, grant: BindingGrant, user: str) -> Counter[int]:
        """How often a user used each right of a binding."""
        key = grant.binding, grant.role, user
        if key not in self._uses:
            role, usage = self.role(grant.role), self.usage.get(user)
            found = (
                Counter[int]() if role is None or usage is None else role.uses(usage, grant.binding.namespace)
            )
            self._uses[key] = found
        return self._uses[key]

    def uses_by(self, grant: BindingGrant, users: Iterable[str]) -> Counter[int]:
        """How often some users together used each right of a binding."""
        found: Counter[int] = Counter()
        for user in users:
            found.update(self.uses(grant, user))
        return found

    def bound(self, binding: RbacBinding) -> list[str]:
        """Users that acted, and that a binding names by themselves or by a group."""
        named = [user for user in binding.users or () if user in self.usage]
        of_groups = (user for group in binding.groups or () for user in self.members(group))
        return list(dict.fromkeys((*named, *of_groups)))

    def total(self, grants: Iterable[BindingGrant], users: Sequence[str]) -> RightsTotal:
        """The rights of some bindings in numbers, as far as some users used them."""
        granted = used = risky_unused = unknown = 0
        risks: dict[str, None] = {}
        for grant in grants:
            role = self.role(grant.role)
            if role is None or self.rbac.bindings[grant.binding].users is None:
                unknown += 1
                continue
            by = self.uses_by(grant, users) if users else ()
            granted += len(role.rights)
            used += len(by)
            if not role.risky:
                continue
            if not by:
                risky_unused += role.risky
                risks.update(role.kinds_of_risk)
                continue
            unused = [risk for number, risk in enumerate(role.risks) if risk and number not in by]
            risky_unused += len(unused)
            risks.update(dict.fromkeys(unused))
        return RightsTotal(granted, used, risky_unused, tuple(risks), unknown)

    def total_of_user(self, user: str, groups: tuple[str, ...]) -> RightsTotal:
        """The rights of a user in numbers; its groups are those of its newest request, or else the ones given."""
        usage = self.usage.get(user)
        if usage is not None:
            return self.total(self.rbac.all_bindings_of(user, usage.groups), [user])
        # Of those who did nothing many are alike but for their own bindings.
        if groups not in self._of_groups:
            shared = frozenset(self.rbac.all_bindings_of("", groups))
            self._of_groups[groups] = shared, self.total(sorted(shared), [])
        shared, total = self._of_groups[groups]
        own = [grant for grant in self.rbac.all_bindings_of(user, ()) if grant not in shared]
        return total + self.total(own, [])
