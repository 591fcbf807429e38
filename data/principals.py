"""Who acted: principals, their kind, and the peer groups that give a newcomer a first expectation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["human", "serviceaccount", "controller", "component", "node", "anonymous"]
KINDS: tuple[Kind, ...] = ("human", "serviceaccount", "controller", "component", "node", "anonymous")
PEOPLE_AND_PIPELINES: frozenset[str] = frozenset(("human", "serviceaccount"))
"""Kinds whose alerts a person reads one by one; the others are the machinery of the cluster itself."""

_SERVICE_ACCOUNT = "system:serviceaccount:"
_NODE = "system:node:"
_GENERIC_GROUPS = ("system:",)


@dataclass(frozen=True, slots=True)
class Principal:
    """One identity in the log.

    Attributes:
        name: the user name (`system:anonymous` when the request had no identity).
        kind: what sort of identity it is.
        groups: candidate peer groups, narrowest first; the last is always the kind.
    """

    name: str
    kind: Kind
    groups: tuple[str, ...]


def identify(username: str, groups: Iterable[str]) -> Principal:
    """Principal of a logged user."""
    if username in ("", "system:anonymous"):
        return Principal("system:anonymous", "anonymous", ("kind:anonymous",))
    if username.startswith(_SERVICE_ACCOUNT):
        namespace, _, account = username[len(_SERVICE_ACCOUNT) :].partition(":")
        kind: Kind = "controller" if namespace == "kube-system" else "serviceaccount"
        if (
            account == "default"
        ):  # shared by every workload that names no account of its own: no role to be a peer in
            return Principal(username, kind, (f"namespace:{namespace}", f"kind:{kind}"))
        return Principal(username, kind, (f"account:{account}", f"namespace:{namespace}", f"kind:{kind}"))
    if username.startswith(_NODE):
        return Principal(username, "node", ("kind:node",))
    if username.startswith("system:"):
        return Principal(username, "component", ("kind:component",))
    named = sorted(group for group in groups if not group.startswith(_GENERIC_GROUPS))
    return Principal(username, "human", (*(f"group:{group}" for group in named), "kind:human"))


@dataclass(slots=True)
class PrincipalTable:
    """Principals and peer groups known from training, as dense ids. Id 0 stands for "never seen".

    Attributes:
        ids: principal name -> id, from 1.
        groups: peer group -> id, from 1.
        group_of: principal name -> its peer group.
        sizes: peer group -> number of members in training.
    """

    ids: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    group_of: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def fit(cls, principals: Iterable[Principal]) -> PrincipalTable:
        """Give each principal its narrowest candidate group that has at least two members.

        Of a person's groups the smallest is the narrowest; a service account's candidates come in order: accounts of the
        same name do the same work in other namespaces, which says more than sharing a namespace.
        """
        unique = sorted({p.name: p for p in principals}.values(), key=lambda p: p.name)
        members = Counter(group for p in unique for group in p.groups)
        group_of = {
            p.name: min(
                (group for group in p.groups if members[group] > 1 or group.startswith("kind:")),
                key=lambda group, p=p: (members[group] if p.kind == "human" else 0, p.groups.index(group)),  # type: ignore[misc]
            )
            for p in unique
        }
        sizes = {f"kind:{kind}": members.get(f"kind:{kind}", 0) for kind in KINDS}
        sizes |= {group: members[group] for group in group_of.values()}
        return cls(
            ids={p.name: index for index, p in enumerate(unique, 1)},
            groups={group: index for index, group in enumerate(sorted(sizes), 1)},
            group_of=group_of,
            sizes=dict(sorted(sizes.items())),
        )

    def group(self, principal: Principal) -> str:
        """Peer group of any principal; a newcomer gets its narrowest group that training knew."""
        known = self.group_of.get(principal.name)
        if known is not None:
            return known
        return next((group for group in principal.groups if group in self.groups), principal.groups[-1])

    def to_dict(self) -> dict[str, object]:
        """JSON form."""
        return {"ids": self.ids, "groups": self.groups, "group_of": self.group_of, "sizes": self.sizes}

    @classmethod
    def from_dict(cls, saved: Mapping[str, dict[str, object]]) -> PrincipalTable:
        """Inverse of `to_dict`."""
        return cls(**{name: dict(saved[name]) for name in ("ids", "groups", "group_of", "sizes")})  # type: ignore[arg-type]
