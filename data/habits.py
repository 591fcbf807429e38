"""What each principal, its peers and anybody has done before: counts of attributes, for novelty and for reasons.

An attribute is a combination of fields ("verb and resource", "this object"), kept as a stable 64-bit hash of its values and of
whose habit it is. Values themselves are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.actions import STATIC_FIELDS, ActionBatch, ActionEncoder, stable_hash

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "verb_resource": ("verb", "resource"),
    "namespace": ("namespace",),
    "resource_namespace": ("resource", "namespace"),
    "verb_resource_namespace": ("verb", "resource", "namespace"),
    "object": ("resource", "namespace", "name"),
    "client": ("client",),
    "place": ("place",),
    "traits": ("verb", "resource", "traits"),
    "images": ("images",),
    "image_of": ("resource", "namespace", "name", "images"),
    "binding": ("resource", "binding"),
    "code": ("verb", "resource", "code"),
    "impersonates": ("impersonates",),
    "uri": ("resource", "uri"),
}
"""Attribute -> the fields that make it."""

MACHINERY_IGNORES = (
    *("namespace", "resource_namespace", "verb_resource_namespace", "object", "image_of"),
    "binding",
)
"""Attributes that are no news of the cluster's machinery: it goes wherever others' work is, by bindings named after itself."""

CONTENTS = ("traits", "images")
"""Attributes that say what was asked for. Who acts for somebody else did not choose that."""

MATURE = 100
"""Actions from which what a principal does has a shape of its own; before, it is judged by what its peers do."""

Hashes = npt.NDArray[np.uint64]
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT_A, _SHIFT_B = np.uint64(29), np.uint64(32)


def mix(left: Hashes | np.uint64, right: Hashes | np.uint64) -> Hashes:
    """Order-dependent combination of two 64-bit hashes (multiply-xorshift), element by element."""
    with np.errstate(over="ignore"):
        mixed = (np.asarray(left, np.uint64) * _MIX) ^ np.asarray(right, np.uint64)
        mixed ^= mixed >> _SHIFT_B
        mixed *= _MIX_2
        mixed ^= mixed >> _SHIFT_A
    return mixed


_SEEDS = {name: np.uint64(stable_hash(f"attribute:{name}")) for name in ATTRIBUTES}
_OWN, _PEERS, _ANYONE, _MEMBER = (
    np.uint64(stable_hash(f"level:{name}")) for name in ("own", "peers", "anyone", "member")
)


def attribute_hashes(batch: ActionBatch, encoder: ActionEncoder) -> Hashes:
    """Stable hash of every attribute of every action, uint64 [N, attributes]."""
    columns = {field: encoder.interners[field].hashes()[batch.codes[field]] for field in STATIC_FIELDS}
    out = np.empty((len(batch), len(ATTRIBUTES)), np.uint64)
    for index, (name, fields) in enumerate(ATTRIBUTES.items()):
        hashed = np.full(len(batch), _SEEDS[name], np.uint64)
        for field in fields:
            hashed = mix(hashed, columns[field])
        out[:, index] = hashed
    return out


@dataclass(frozen=True, slots=True)
class Familiarity:
    """How often an action's attributes were seen before it, each int64 [attributes].

    Attributes:
        own: by the principal itself, number of actions.
        peers: number of other principals of its peer group that ever did.
        anyone: number of principals that ever did.
        actions: earlier actions of the principal (scalar).
    """

    own: list[int]
    peers: list[int]
    anyone: list[int]
    actions: int


class Habits:
    """Counts of attributes per principal, per peer group and overall.

    One table maps a 64-bit key to a count. Keys are salted by level: own (principal, attribute) -> actions;
    peers (group, attribute) and anyone (attribute) -> number of distinct principals; own of the principal alone -> its actions.
    """

    def __init__(self, table: dict[int, int] | None = None) -> None:
        self.table: dict[int, int] = table if table is not None else {}

    def observe(
        self, attributes: Hashes, principal: npt.NDArray[np.uint64], group: npt.NDArray[np.uint64]
    ) -> list[Familiarity]:
        """Count actions in order; return what was known before each.

        Args:
            attributes: uint64 [N, attributes].
            principal: stable hash of each action's principal, uint64 [N].
            group: stable hash of its peer group, uint64 [N].
        """
        table = self.table
        get = table.get
        own_keys = mix(mix(_OWN, principal)[:, None], attributes).tolist()
        peer_keys = mix(mix(_PEERS, group)[:, None], attributes).tolist()
        any_keys = mix(_ANYONE, attributes).tolist()
        self_keys = mix(_MEMBER, principal).tolist()
        result = []
        for own_row, peer_row, any_row, self_key in zip(
            own_keys, peer_keys, any_keys, self_keys, strict=True
        ):
            actions = get(self_key, 0)
            table[self_key] = actions + 1
            own, peers, anyone = [], [], []
            for own_key, peer_key, any_key in zip(own_row, peer_row, any_row, strict=True):
                times = get(own_key, 0)
                table[own_key] = times + 1
                others, everybody = get(peer_key, 0), get(any_key, 0)
                own.append(times)
                if times:  # itself is one of those counted
                    peers.append(others - 1)
                    anyone.append(everybody - 1)
                else:
                    table[peer_key] = others + 1
                    table[any_key] = everybody + 1
                    peers.append(others)
                    anyone.append(everybody)
            result.append(Familiarity(own, peers, anyone, actions))
        return result

    def to_array(self) -> npt.NDArray[np.uint64]:
        """Sorted keys and counts, uint64 [K, 2]."""
        keys = np.fromiter(self.table.keys(), np.uint64, len(self.table))
        counts = np.fromiter(self.table.values(), np.uint64, len(self.table))
        order = np.argsort(keys)
        return np.stack([keys[order], counts[order]], axis=1)

    @classmethod
    def from_array(cls, saved: npt.NDArray[np.uint64]) -> Habits:
        """Inverse of `to_array`."""
        return cls(dict(zip(saved[:, 0].tolist(), saved[:, 1].tolist(), strict=True)))

    def copy(self) -> Habits:
        """Independent copy."""
        return Habits(dict(self.table))


_NAMES = list(ATTRIBUTES)
_BROADER = [
    [j for j, broad in enumerate(ATTRIBUTES.values()) if j != i and set(broad) <= set(fields)]
    for i, fields in enumerate(ATTRIBUTES.values())
]


def counted_levels(
    levels: npt.NDArray[np.int8],
    actions: npt.NDArray[np.int64],
    machinery: npt.NDArray[np.bool_],
    for_others: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int8]:
    """Novelty levels as far as they are news of the principal, int8 [N, attributes].

    Args:
        levels: int8 [N, attributes], from `novelty_levels`.
        actions: int64 [N], earlier actions of the principal.
        machinery: bool [N], whether the cluster's own machinery acted.
        for_others: bool [N], whether it acted for somebody known (the `owner` field).
    """
    places, contents = (np.isin(_NAMES, names) for names in (MACHINERY_IGNORES, CONTENTS))
    left_out = (machinery[:, None] & places) | ((machinery & for_others)[:, None] & contents)
    left_out |= (actions < MATURE)[:, None] & (levels == 1)
    return np.where(left_out, 0, levels).astype(np.int8)


def roots(levels: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Novelty without what follows from broader novelty, int8 [N, attributes].

    In a new namespace every object is new; only the namespace counts then, unless the object is new to more people.

    Args:
        levels: novelty level of each attribute, from `novelty_levels`.
    """
    out = levels.copy()
    for i, broader in enumerate(_BROADER):
        if broader:
            out[:, i] = np.where((levels[:, broader] >= levels[:, i : i + 1]).any(axis=1), 0, levels[:, i])
    return out


def novelty_levels(known: Familiarity) -> list[int]:
    """Per attribute: 0 known to the principal, 1 new to it, 2 new to its peers as well, 3 new to everybody."""
    return [
        0 if own else 1 if peers else 2 if anyone else 3
        for own, peers, anyone in zip(known.own, known.peers, known.anyone, strict=True)
    ]
