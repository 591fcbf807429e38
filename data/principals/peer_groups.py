"""Peer groups: what gives a principal without history a first expectation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from data.principals.identity import KINDS, Kind, Principal

#: What a principal did: (verb, resource, namespace), or anything else that is hashable and sortable -> how often.
Profile = Mapping[Any, int]

#: Most principals of a kind that are compared with each other (memory grows with the square): those who act most.
COMPARED_LIMIT = 2000


def similarity(profiles: Sequence[Sequence[Profile]]) -> npt.NDArray[np.float64]:
    """Cosine of every two principals' habits, float64 [N, N].

    Each principal has one or more views, which count different features (with and without the namespace, say) and weigh the same.
    Counts enter as the square root of their share (the Hellinger kernel), so that one busy loop does not drown everything else.
    """
    total = np.zeros((len(profiles), len(profiles)))
    views = list(zip(*profiles, strict=True))
    for view in views:
        index = {key: place for place, key in enumerate(dict.fromkeys(chain.from_iterable(view)))}
        matrix = np.zeros((len(profiles), len(index)))
        for row, profile in zip(matrix, view, strict=True):
            whole = sum(profile.values()) or 1
            for key, times in profile.items():
                row[index[key]] = np.sqrt(times / whole)
        total += matrix @ matrix.T
    return np.asarray(total / max(len(views), 1))


def cluster(similar: npt.NDArray[np.float64], least: float) -> list[list[int]]:
    """Average-linkage agglomeration of a similarity matrix down to `least`; clusters of two and more, smallest index first."""
    count = len(similar)
    linked = similar.copy()
    np.fill_diagonal(linked, -1.0)
    sizes = np.ones(count)
    members: dict[int, list[int]] = {i: [i] for i in range(count)}
    while len(members) > 1:
        left, right = divmod(int(linked.argmax()), count)
        if linked[left, right] < least:
            break
        merged = (linked[left] * sizes[left] + linked[right] * sizes[right]) / (sizes[left] + sizes[right])
        merged[[left, right]] = -1.0
        merged[linked[left] < 0] = -1.0
        linked[left], linked[:, left] = merged, merged
        linked[right], linked[:, right] = -1.0, -1.0
        sizes[left] += sizes[right]
        members[left] = sorted([*members[left], *members.pop(right)])
    return sorted(group for group in members.values() if len(group) > 1)


_SHARED = {
    "group": "is in the group {name}, as are {others}",
    "account": "has the account name {name}, as have {others} in other namespaces",
    "namespace": "works in the namespace {name}, as do {others}",
    "aws-sso": "uses the SSO role {name}, as do {others}",
    "workforce": "is in the workforce pool {name}, as are {others}",
    "ci": "is a pipeline of {name}, as are {others}",
}
_EVERY: Mapping[Kind, str] = {
    "human": "everybody",
    "serviceaccount": "every service account",
    "controller": "every controller",
    "component": "every component of the control plane",
    "node": "every node",
    "anonymous": "all requests without identity",
}
_COMPARABLE: frozenset[str] = frozenset(("human", "serviceaccount", "controller", "component"))


@dataclass(slots=True)
class PrincipalTable:
    """Principals and peer groups known from training, as dense ids. Id 0 stands for "never seen"."""

    ids: dict[str, int] = field(default_factory=dict)  # principal name -> id, from 1
    groups: dict[str, int] = field(default_factory=dict)  # peer group -> id, from 1
    group_of: dict[str, str] = field(default_factory=dict)  # principal name -> its peer group
    sizes: dict[str, int] = field(default_factory=dict)  # peer group -> number of members in training
    reasons: dict[str, str] = field(default_factory=dict)  # principal name -> why it is in its peer group

    @classmethod
    def fit(
        cls,
        principals: Iterable[Principal],
        profiles: Mapping[str, Sequence[Profile]] | None = None,
        similar_from: float = 0.5,
    ) -> PrincipalTable:
        """Give each principal its narrowest candidate group in which it is not alone, and say why.

        The narrowest of a person's groups is the smallest. A service account's candidates are ordered: accounts of the same name
        do the same work in other namespaces, which says more than a shared namespace. A principal alone in all of them is grouped
        with those of its kind that behave alike, or else with its whole kind.

        Args:
            principals: those of the fitting part, one entry a name.
            profiles: principal name -> views of what it did (see `similarity`). Without them nobody is grouped by behaviour.
            similar_from: least average similarity of peers by behaviour.
        """
        unique = sorted({p.name: p for p in principals}.values(), key=lambda p: p.name)
        group_of = _by_candidates(unique)
        reasons: dict[str, str] = {}
        alone = [p for p in unique if group_of[p.name] == f"kind:{p.kind}"]
        for kind in KINDS:
            lonely = [p for p in alone if p.kind == kind and profiles and p.name in profiles]
            if kind not in _COMPARABLE or len(lonely) < 2:
                continue
            assert profiles is not None
            lonely.sort(key=lambda p: (-sum(profiles[p.name][0].values()), p.name))
            lonely = sorted(lonely[:COMPARED_LIMIT], key=lambda p: p.name)
            similar = similarity([profiles[p.name] for p in lonely])
            for found in cluster(similar, similar_from):
                name = f"similar:{lonely[found[0]].name}"
                for index in found:
                    others = sorted((o for o in found if o != index), key=lambda o: (-similar[index, o], o))
                    group_of[lonely[index].name] = name
                    reasons[lonely[index].name] = "shares no group or namespace, but behaves like " + _and(
                        [f"{lonely[other].name} ({similar[index, other]:.0%} alike)" for other in others]
                    )
        members: dict[str, list[str]] = {}
        for name, group in group_of.items():
            members.setdefault(group, []).append(name)
        reasons = {p.name: _reason(p, group_of[p.name], members) for p in unique} | reasons
        candidates = Counter(group for p in unique for group in p.groups)
        sizes = {f"kind:{kind}": candidates.get(f"kind:{kind}", 0) for kind in KINDS}
        sizes |= {group: len(names) for group, names in members.items() if not group.startswith("kind:")}
        return cls(
            ids={p.name: index for index, p in enumerate(unique, 1)},
            groups={group: index for index, group in enumerate(sorted(sizes), 1)},
            group_of=group_of,
            sizes=dict(sorted(sizes.items())),
            reasons=reasons,
        )

    def group(self, principal: Principal) -> str:
        """Peer group of any principal; a newcomer gets its narrowest group that training knew."""
        known = next((group for group in principal.groups if group in self.groups), principal.groups[-1])
        return self.group_of.get(principal.name, known)

    def alone(self) -> list[str]:
        """Principals whose only peers are their kind, where the kind does not say what they do."""
        kinds = {f"kind:{kind}" for kind in _COMPARABLE}
        return [name for name, group in self.group_of.items() if group in kinds]

    def to_dict(self) -> dict[str, object]:
        """JSON form."""
        return {column.name: getattr(self, column.name) for column in fields(self)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, object]) -> PrincipalTable:
        """Inverse of `to_dict`."""
        return cls(
            **{column.name: dict(cast(Mapping[str, Any], saved[column.name])) for column in fields(cls)}
        )


def _by_candidates(unique: list[Principal]) -> dict[str, str]:
    """Principal name -> the narrowest of its candidate groups with another member."""
    members = Counter(group for p in unique for group in p.groups)
    settled: dict[str, str] = {}
    while True:
        group_of = settled | {
            p.name: min(
                (group for group in p.groups if members[group] > 1 or group.startswith("kind:")),
                key=lambda group, p=p: (members[group] if p.kind == "human" else 0, p.groups.index(group)),  # type: ignore[misc]
            )
            for p in unique
            if p.name not in settled
        }
        # Where all other candidates found a narrower group, the one left alone has to look further.
        chosen = Counter(group_of.values())
        deserted = {group for group, count in chosen.items() if count == 1 and not group.startswith("kind:")}
        if not deserted:
            return group_of
        for group in deserted:
            members[group] = 0
        settled = {name: group for name, group in group_of.items() if group not in deserted}


def _and(names: Sequence[str], limit: int = 3) -> str:
    """`a, b and 4 others`."""
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _reason(principal: Principal, group: str, members: Mapping[str, Sequence[str]]) -> str:
    """Why a principal is in a group that its name or its groups gave it."""
    sort, _, name = group.partition(":")
    others = [other for other in members.get(group, ()) if other != principal.name]
    if sort != "kind":
        return _SHARED.get(sort, "shares {name} with {others}").format(
            name=name, others=_and(others) or "others"
        )
    everyone = "compared with " + _EVERY[principal.kind]
    if principal.kind in ("node", "anonymous", "component"):
        return f"is {everyone}"
    return f"shares no group, account name or namespace with anybody and behaves like nobody else: {everyone}"
