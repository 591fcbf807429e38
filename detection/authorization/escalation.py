"""Who can become whom: steps by which a user's rights lead to those of another, and paths of such steps.

A step is possible by RBAC alone. Admission, pod security and what runs where may still stand in its way. The rights of two users,
or of two roles that can be bound, are not put together: each is followed by itself.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from detection.authorization.authorizer import MASTERS
from detection.authorization.powers import (
    ACCOUNT_WAYS,
    CLIENT_SIGNERS,
    KUBELET_SIGNERS,
    MASTERS_GROUP,
    NODE_WAYS,
    AccountWay,
    Names,
    powers_of,
)
from detection.authorization.rbac import SERVICE_ACCOUNT, BindingGrant, ObjectKey, Rbac
from detection.authorization.rules import ALL, PolicyRule


class RightsHolder(NamedTuple):
    """Whose rights they are.

    Attributes:
        kind: a user, a group, the rights of a role, whatever runs on a node, everything; `accounts` stands for all service
            accounts of a namespace, or of the cluster if its name is empty, and is in no path.
    """

    kind: Literal["user", "group", "role", "node", "everything", "accounts"]
    name: str


#: The end of every path: everything is allowed here.
ADMIN = RightsHolder("everything", "cluster-admin")
#: A node of the cluster: an attacker on it has what its pods have.
NODE = RightsHolder("node", "any node")
_NODES_GROUP = "system:nodes"
#: It is in every cluster, and may be missing in a snapshot.
_ADMIN_ROLE = ObjectKey("clusterroles", "", "cluster-admin")
_ALL_RULES = (PolicyRule((ALL,), (ALL,), (ALL,)),)
#: A namespace that no object can have: of a binding in every namespace, which gives nothing of the whole cluster.
_EVERY = "*"
_EVERYWHERE = ("", _EVERY)
#: Powers that lead to everything by themselves, or with others of these.
_TO_ADMIN = frozenset(("reach kubelets", "approve certificates", "change admission", "change policies"))
_TO_NODES = frozenset((*NODE_WAYS, "approve certificates"))
#: Powers that lead somewhere only together with others, or that lead away from who has them.
_COMBINED = frozenset(
    (
        *("bind roles", "bind clusterroles", "escalate roles", "escalate clusterroles"),
        *("act as user", "act as group", "approve certificates"),
    )
)


@dataclass(frozen=True, slots=True)
class EscalationStep:
    """One step: what has the rights of `start` can have those of `end`.

    Attributes:
        how: in words.
        grant: binding that makes it possible; None where none is needed.
        technique: ATT&CK technique.
    """

    start: RightsHolder
    end: RightsHolder
    how: str
    grant: BindingGrant | None
    technique: str

    @property
    def source(self) -> str:
        """Name of where it starts."""
        return self.start.name

    @property
    def target(self) -> str:
        """Name of where it ends."""
        return self.end.name


class _Power(NamedTuple):
    """A power as a binding gives it: in a namespace (empty: everywhere), for some names (None: for all)."""

    namespace: str
    names: Names
    grant: BindingGrant


class _Held:
    """The powers that an identity has, with the bindings that give them."""

    def __init__(self, grants: Iterable[tuple[BindingGrant, Mapping[str, Names]]]) -> None:
        self.grants: list[BindingGrant] = []
        self.powers: dict[str, list[_Power]] = defaultdict(list)
        for grant, powers in grants:
            self.grants.append(grant)
            for power, names in powers.items():
                self.powers[power].append(_Power(grant.binding.namespace, names, grant))

    def __contains__(self, power: str) -> bool:
        """Whether it is held anywhere, for any name."""
        return power in self.powers

    def __bool__(self) -> bool:
        """Whether any is."""
        return bool(self.powers)

    def all(self, power: str, namespace: str | None = None) -> list[_Power]:
        """Everything that gives a power; in a namespace only what reaches it, and for an empty one what reaches all."""
        found = self.powers.get(power, [])
        return found if namespace is None else [one for one in found if one.namespace in ("", namespace)]

    def any(
        self, power: str, namespace: str = "", names: frozenset[str] = frozenset()
    ) -> BindingGrant | None:
        """The first binding that gives a power in a namespace, for all names or for one of some."""
        for one in self.all(power, namespace):
            if one.names is None or not names.isdisjoint(one.names):
                return one.grant
        return None

    def namespaces(self, *powers: str) -> list[str]:
        """Where at least one of some powers is held; empty for everywhere."""
        return sorted({one.namespace for power in powers for one in self.powers.get(power, ())})


def _for(names: Names, name: str) -> bool:
    return names is None or name in names


class Escalation:
    """The steps that an `Rbac` allows, found when they are asked for.

    Args:
        rbac: as it stands; it must not change as long as this is used.
        accounts: service accounts that exist, as user names; those that bindings name are added.
        on_nodes: service accounts of pods that run, as user names: what a node has the tokens of.
    """

    def __init__(self, rbac: Rbac, accounts: Iterable[str] = (), on_nodes: Iterable[str] = ()) -> None:
        self._rbac = rbac
        self._on_nodes = sorted(on_nodes)
        bound = {user for one in rbac.bindings.values() for user in one.users or ()}
        self.users = sorted(bound | set(accounts) | set(self._on_nodes))
        self.groups = sorted({group for one in rbac.bindings.values() for group in one.groups or ()})
        self._accounts: dict[str, list[str]] = {}
        for user in self.users:
            if user.startswith(SERVICE_ACCOUNT):
                namespace = user.removeprefix(SERVICE_ACCOUNT).partition(":")[0]
                self._accounts.setdefault(namespace, []).append(user)
        self._of_role: dict[RightsHolder, list[BindingGrant]] = {}
        self._power_cache: dict[ObjectKey, Mapping[str, Names]] = {}
        self._leads: dict[RightsHolder, list[EscalationStep]] = {}
        self._ends: dict[tuple[ObjectKey, str], frozenset[RightsHolder]] = {}

    def groups_of(self, user: str) -> tuple[str, ...]:
        """Groups that every such user has."""
        if not user.startswith(SERVICE_ACCOUNT):
            return ("system:authenticated",)
        namespace = user.removeprefix(SERVICE_ACCOUNT).partition(":")[0]
        return ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")

    def steps(self, user: str, groups: tuple[str, ...]) -> Iterator[EscalationStep]:
        """Every step of a user with its groups, the most powerful first."""
        me = RightsHolder("user", user)
        for lead in self._find(me, self._granting(user, groups), groups):
            yield from self._spread(lead, me)

    def paths(
        self, user: str, groups: tuple[str, ...], *, most: int = 4
    ) -> dict[RightsHolder, list[EscalationStep]]:
        """The shortest path from a user to everybody whom it can become in at most `most` steps."""
        me = RightsHolder("user", user)
        return self._paths(me, self._find(me, self._granting(user, groups), groups), most)

    def paths_of_group(self, group: str, *, most: int = 4) -> dict[RightsHolder, list[EscalationStep]]:
        """As `paths`, for whatever is a member of a group and of no other."""
        me = RightsHolder("group", group)
        return self._paths(me, self._leads_of(me), most)

    def _paths(
        self, me: RightsHolder, first: Sequence[EscalationStep], most: int
    ) -> dict[RightsHolder, list[EscalationStep]]:
        found: dict[RightsHolder, list[EscalationStep]] = {}
        spread: set[RightsHolder] = set()
        waiting = deque([(me, first, list[EscalationStep]())])
        while waiting:
            here, leads, path = waiting.popleft()
            for lead in leads:
                if lead.end.kind == "accounts":
                    # All of them were found by a shorter path, or by one of this length.
                    if lead.end in spread or RightsHolder("accounts", "") in spread:
                        continue
                    spread.add(lead.end)
                for step in self._spread(lead, here):
                    if step.end == me or step.end in found:
                        continue
                    found[step.end] = [*path, step]
                    if step.end != ADMIN and len(path) + 1 < most:
                        waiting.append((step.end, self._leads_of(step.end), found[step.end]))
        return found

    @cached_property
    def steps_to_admin(self) -> dict[RightsHolder, int]:
        """Of every user and group that can come to everything, in how many steps; users with the groups that all such have."""
        return {one: number for one, number in self._steps.items() if one.kind in ("user", "group")}

    @cached_property
    def _steps(self) -> dict[RightsHolder, int]:
        """As `steps_to_admin`, of every identity; of the accounts of a namespace that of the nearest."""
        back: dict[RightsHolder, set[RightsHolder]] = defaultdict(set)
        waiting = [RightsHolder("user", one) for one in self.users] + [
            RightsHolder("group", one) for one in self.groups
        ]
        seen = set(waiting)
        for one in waiting:  # grows while it is walked
            for end in self._ends_of(one):
                back[end].add(one)
                if end not in seen and end.kind != "accounts":
                    seen.add(end)
                    waiting.append(end)
        steps = {ADMIN: 0}
        around = deque([ADMIN])
        while around:
            here = around.popleft()
            ends = [here]
            if here.kind == "user" and here.name.startswith(SERVICE_ACCOUNT):
                namespace = here.name.removeprefix(SERVICE_ACCOUNT).partition(":")[0]
                ends += (RightsHolder("accounts", namespace), RightsHolder("accounts", ""))
            for end in ends:
                steps.setdefault(end, steps[here])
                for one in back.pop(end, ()):
                    if one not in steps:
                        steps[one] = steps[here] + 1
                        around.append(one)
        return steps

    def steps_of_binding(self, key: ObjectKey) -> int | None:
        """In how many steps the rights that a binding gives lead to everything by themselves; None if they do not."""
        binding = self._rbac.bindings.get(key)
        if binding is None or binding.role is None or not self._powers(binding.role):
            return None
        steps = self._steps
        ends = self._ends_alone(BindingGrant(key, binding.role))
        return min((steps[end] + 1 for end in ends if end in steps), default=None)

    def _ends_alone(self, grant: BindingGrant) -> frozenset[RightsHolder]:
        """Where the rights that a binding gives lead by themselves; the same for all bindings of a role in a namespace."""
        key = grant.role, grant.binding.namespace
        found = self._ends.get(key)
        if found is None:
            leads = self._find(RightsHolder("role", str(grant.binding)), [grant], ())
            found = self._ends[key] = frozenset(lead.end for lead in leads)
        return found

    def _ends_of(self, one: RightsHolder) -> Iterable[RightsHolder]:
        """Where the steps of an identity end: put together from its bindings, as far as they do not need each other."""
        grants, groups = self._grants_of(one)
        together = MASTERS in groups or not all(
            _COMBINED.isdisjoint(self._powers(grant.role)) for grant in grants
        )
        if one.kind == "node" or together:
            return {lead.end for lead in self._leads_of(one)}
        return frozenset[RightsHolder]().union(*map(self._ends_alone, grants))

    def _spread(self, lead: EscalationStep, source: RightsHolder) -> Iterator[EscalationStep]:
        """A step as it is, or one to each service account that it leads to."""
        if lead.end.kind != "accounts":
            yield lead
            return
        namespaces = [lead.end.name] if lead.end.name else sorted(self._accounts)
        for namespace in namespaces:
            for account in self._accounts.get(namespace, ()):
                end = RightsHolder("user", account)
                if end != source:
                    yield EscalationStep(source, end, lead.how, lead.grant, lead.technique)

    def _leads_of(self, one: RightsHolder) -> list[EscalationStep]:
        found = self._leads.get(one)
        if found is None:
            found = self._leads[one] = self._find(one, *self._grants_of(one))
        return found

    def _grants_of(self, one: RightsHolder) -> tuple[Sequence[BindingGrant], tuple[str, ...]]:
        if one.kind == "user":
            groups = self.groups_of(one.name)
            return self._granting(one.name, groups), groups
        if one.kind == "group":
            return self._granting("", (one.name,)), (one.name,)
        if one.kind == "node":
            return self._granting("", (_NODES_GROUP,)), ()
        return self._of_role.get(one, ()), ()

    @cached_property
    def _powerful(self) -> dict[RightsHolder, list[BindingGrant]]:
        """Bindings that give a power, by each user and group that they name: most give none."""
        found: dict[RightsHolder, list[BindingGrant]] = defaultdict(list)
        for key in sorted(self._rbac.bindings):
            binding = self._rbac.bindings[key]
            if binding.role is not None and self._powers(binding.role):
                grant = BindingGrant(key, binding.role)
                for user in binding.users or ():
                    found[RightsHolder("user", user)].append(grant)
                for group in binding.groups or ():
                    found[RightsHolder("group", group)].append(grant)
        return found

    def _granting(self, user: str, groups: Sequence[str]) -> list[BindingGrant]:
        """Bindings by which a user or its groups have a power."""
        none: list[BindingGrant] = []
        found = self._powerful.get(RightsHolder("user", user), none) if user else none
        of_groups = [
            one for group in groups for one in self._powerful.get(RightsHolder("group", group), none)
        ]
        return list(dict.fromkeys((*found, *of_groups))) if of_groups else found

    def _find(
        self, me: RightsHolder, grants: Sequence[BindingGrant], groups: tuple[str, ...]
    ) -> list[EscalationStep]:
        """Steps by some bindings that give powers; those to service accounts by namespace."""
        if me.kind == "node":
            accounts = [RightsHolder("user", one) for one in self._on_nodes]
            how = "reads the token of a pod that runs on it"
            found = [EscalationStep(me, one, how, None, "T1552.007") for one in accounts]
        else:
            found = []
        held = _Held((grant, self._powers(grant.role)) for grant in grants)
        everything = held.any("everything")
        if MASTERS in groups or everything:
            return [EscalationStep(me, ADMIN, "may do everything", everything, "T1078")]
        if not held:
            return found
        if not _TO_ADMIN.isdisjoint(held.powers):
            found += self._to_admin(me, held)
        if "bind clusterroles" in held or "bind roles" in held:
            found += self._by_binding(me, held)
        if "escalate clusterroles" in held or "escalate roles" in held:
            found += self._by_rewriting(me, held, groups)
        if "act as user" in held or "act as group" in held:
            found += self._as_people(me, held)
        found += self._to_accounts(me, held)
        if not _TO_NODES.isdisjoint(held.powers):
            found += _to_nodes(me, held)
        return found

    def _to_admin(self, me: RightsHolder, held: _Held) -> Iterator[EscalationStep]:
        if grant := held.any("reach kubelets"):
            how = "runs commands in any pod through a kubelet (nodes/proxy)"
            yield EscalationStep(me, ADMIN, how, grant, "T1611")
        approves = held.any("ask for certificates") and held.any("approve certificates")
        if approves and held.any("approve for signers", "", CLIENT_SIGNERS):
            yield EscalationStep(me, ADMIN, "approves a client certificate for any name", approves, "T1649")
        if grant := held.any("change admission") or held.any("change policies"):
            how = "changes what administrators write (mutating admission)"
            yield EscalationStep(me, ADMIN, how, grant, "T1546")

    # -- roles and bindings ----------------------------------------------------------------------------------------

    def _by_binding(self, me: RightsHolder, held: _Held) -> Iterator[EscalationStep]:
        """To bind takes the verb on the role in the namespace of the binding, and a write of the binding."""
        yield from self._bound_by(me, held, "clusterrolebindings", "clusterroles", "")
        for of in ("clusterroles", "roles"):
            for where in held.namespaces("create rolebindings", "change rolebindings", f"bind {of}"):
                yield from self._bound_by(me, held, "rolebindings", of, where)

    def _bound_by(
        self, me: RightsHolder, held: _Held, kind: str, of: str, where: str
    ) -> Iterator[EscalationStep]:
        bindings = held.all(f"bind {of}", where)
        if not bindings:
            return
        if held.any(f"create {kind}", where):
            roles = self._roles(of, where)
        else:  # the subjects of a binding can be changed, its role cannot
            written = held.all(f"change {kind}", where)
            roles = [
                one.role
                for key, one in self._rbac.bindings.items()
                if key.resource == kind
                and where in (*_EVERYWHERE, key.namespace)
                and one.role is not None
                and one.role.resource == of
                and any(_for(each.names, key.name) for each in written)
            ]
        place = where if kind == "rolebindings" else None
        own = {grant.role for grant in held.grants}
        found = []
        for role in sorted(set(roles)):
            bind = next((one for one in bindings if _for(one.names, role.name)), None)
            powers = self._powers(role)
            is_all = role == _ADMIN_ROLE or "everything" in powers
            if bind is None or not (is_all or powers) or (role in own and not is_all):
                continue
            end = ADMIN if is_all and place is None else self._rights(role, role.namespace or place, is_all)
            how = "binds a role to itself" if bind.names else "binds any role to itself"
            step = EscalationStep(me, end, how, bind.grant, "T1098.006")
            if is_all and not role.namespace:  # no other role gives more
                yield step
                return
            found.append(step)
        yield from found

    def _roles(self, resource: str, namespace: str) -> list[ObjectKey]:
        found = [
            key
            for key in self._rbac.roles
            if key.resource == resource
            and (resource == "clusterroles" or namespace in (*_EVERYWHERE, key.namespace))
        ]
        return [*found, _ADMIN_ROLE] if resource == "clusterroles" else found

    def _rights(self, role: ObjectKey, namespace: str | None, is_all: bool) -> RightsHolder:
        """The rights that a role gives where it is bound, as an identity; None stands for a binding of the whole cluster."""
        name = "everything" if is_all else str(role)
        if namespace is None:
            found, key = RightsHolder("role", name), ObjectKey("clusterrolebindings", "", "new")
        elif namespace in _EVERYWHERE:
            found, key = (
                RightsHolder("role", f"{name} in every namespace"),
                ObjectKey("rolebindings", _EVERY, "new"),
            )
        else:
            found, key = (
                RightsHolder("role", f"{name} in {namespace}"),
                ObjectKey("rolebindings", namespace, "new"),
            )
        self._of_role[found] = [BindingGrant(key, role)]
        return found

    def _powers(self, role: ObjectKey) -> Mapping[str, Names]:
        found = self._power_cache.get(role)
        if found is None:
            rules = _ALL_RULES if role == _ADMIN_ROLE else self._rbac.rules(role)
            found = self._power_cache[role] = powers_of(rules or ())
        return found

    def _by_rewriting(
        self, me: RightsHolder, held: _Held, groups: tuple[str, ...]
    ) -> Iterator[EscalationStep]:
        """To widen a role takes `escalate` and a change of it; that gives something to who has the role."""
        user = me.name if me.kind == "user" else ""
        for grant in dict.fromkeys((*held.grants, *self._rbac.all_bindings_of(user, groups))):
            role, where = grant.role, grant.binding.namespace
            place = "" if role.resource == "clusterroles" else role.namespace
            verb = f"change {role.resource}"
            allowed = next(
                (one for one in held.all(f"escalate {role.resource}", place) if _for(one.names, role.name)),
                None,
            )
            if allowed is None:
                continue
            aggregated = self._rbac.roles.get(role)
            gathers = aggregated is not None and aggregated.selectors is not None
            writes = any(_for(one.names, role.name) for one in held.all(verb, place))
            if not writes and not (gathers and allowed.names is None and held.any("create clusterroles")):
                continue
            end = self._rights(_ADMIN_ROLE, where, is_all=True) if where else ADMIN
            yield EscalationStep(me, end, "gives a role of its own any right", allowed.grant, "T1098.006")

    # -- whom it can act as ----------------------------------------------------------------------------------------

    def _as_people(self, me: RightsHolder, held: _Held) -> Iterator[EscalationStep]:
        # Groups are only taken over together with a user or an account.
        groups = (
            held.all("act as group", "") if held.all("act as user", "") or held.all("act as account") else []
        )
        if held.any("act as group", "", MASTERS_GROUP) and groups:
            how = f"acts as a member of {MASTERS} (impersonate groups)"
            yield EscalationStep(me, ADMIN, how, held.any("act as group", "", MASTERS_GROUP), "T1078")
        for names, kind, powers in (
            (self.users, "user", held.all("act as user", "")),
            (self.groups, "group", groups),
        ):
            for name in names if powers else ():
                grant = next((one.grant for one in powers if _for(one.names, name)), None)
                end = RightsHolder("user" if kind == "user" else "group", name)
                if (
                    grant is not None
                    and end != me
                    and not (kind == "user" and name.startswith(SERVICE_ACCOUNT))
                ):
                    yield EscalationStep(me, end, "acts as it (impersonate)", grant, "T1078")

    def _to_accounts(self, me: RightsHolder, held: _Held) -> Iterator[EscalationStep]:
        taken: set[str] = set()
        for way in ACCOUNT_WAYS:
            for power in held.powers.get(way.power, ()):
                # What rights of a binding to come lead to is in every namespace but of no cluster-wide object.
                namespace = "" if power.namespace == _EVERY else power.namespace
                if power.names is not None:
                    yield from self._to_named(me, way, power, namespace)
                elif namespace not in taken and "" not in taken:
                    taken.add(namespace)
                    end = RightsHolder("accounts", namespace)
                    yield EscalationStep(me, end, way.how, power.grant, way.technique)

    def _to_named(
        self, me: RightsHolder, way: AccountWay, power: _Power, namespace: str
    ) -> Iterator[EscalationStep]:
        if not way.by_name or power.names is None:
            return
        for place in [namespace] if namespace else sorted(self._accounts):
            for name in sorted(power.names):
                end = RightsHolder("user", f"{SERVICE_ACCOUNT}{place}:{name}")
                if end.name in self._accounts.get(place, ()) and end != me:
                    yield EscalationStep(me, end, way.how, power.grant, way.technique)


def _to_nodes(me: RightsHolder, held: _Held) -> Iterator[EscalationStep]:
    for way in NODE_WAYS:
        for power in held.powers.get(way, ()):
            if power.names is None:
                how = "starts a privileged pod, if admitted"
                yield EscalationStep(me, NODE, how, power.grant, "T1611")
                return
    approves = held.any("ask for certificates") and held.any("approve certificates")
    if approves and held.any("approve for signers", "", KUBELET_SIGNERS):
        yield EscalationStep(me, NODE, "approves a kubelet's certificate for it", approves, "T1649")
