"""What each principal, its peers and everyone has done before: counts of attributes, for novelty and for reasons.

An attribute is kept as a stable 64-bit hash of its values and of whose habit it is. Values themselves are not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTES, mix
from data.actions.breadth import SPANS
from data.actions.fields import stable_hash
from data.actions.recent_hashes import Hashes
from detection.count_table import NOBODY, CountTable

#: Attributes whose novelty does not count for the cluster's machinery: it works wherever others do, by bindings of its own.
MACHINERY_IGNORES = (
    *("namespace", "resource_namespace", "verb_resource_namespace", "object", "image_of"),
    "binding",
)

#: Attributes of the request's content, which one who acts for another did not choose.
CONTENTS = ("traits", "images")

#: Actions from which what a principal does has a shape of its own; before, it is judged by what its peers do.
MATURE = 100

#: Decades that a detail is worth where a principal has been once, beyond what its actions there allow.
_DETAIL = 1.0

#: Most entries that live habits keep, if their bundle has not more already; with their free places that is 270 MB at most.
LIMIT = 8_000_000
Ints = npt.NDArray[np.int64]
Levels = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]

_OWN, _PEERS, _ANYONE, _MEMBER = (
    np.uint64(stable_hash(f"level:{name}")) for name in ("own", "peers", "anyone", "member")
)


@dataclass(frozen=True, slots=True)
class PriorCounts:
    """How often the attributes of N actions were seen before them.

    Attributes:
        own: int64 [N, attributes], earlier actions of the principal itself.
        peers: int64 [N, attributes], other principals of its peer group that ever did; 0 where the attribute is not new to the
            principal, for nobody asks then.
        anyone: int64 [N, attributes], principals that ever did; 0 as before.
        actions: int64 [N], earlier actions of the principal.
    """

    own: Ints
    peers: Ints
    anyone: Ints
    actions: Ints

    def __getitem__(self, rows: Ints | slice) -> PriorCounts:
        """That of some of the actions."""
        return PriorCounts(self.own[rows], self.peers[rows], self.anyone[rows], self.actions[rows])


@dataclass(frozen=True, slots=True)
class OwnHabits:
    """Counts of single principals as arrays of one length, which can be evicted while these are quiet.

    Attributes:
        principal: uint64, stable hash of the name.
        key: uint64, of an attribute of that principal.
        count: int64, its actions that had it.
    """

    principal: Hashes
    key: Hashes
    count: Ints


class HabitTable:
    """Counts of attributes per principal, per peer group and overall.

    One table maps a 64-bit key to a count. Keys are salted by level: own (principal, attribute) -> actions;
    peers (group, attribute) and anyone (attribute) -> number of distinct principals; own of the principal alone -> its actions.

    Entries made by `observe` or `restore` know their owner: those of a quiet principal can be evicted and restored. Entries
    of a bundle have no owner and stay.

    Args:
        limit: most entries; with more, those that were counted least are forgotten, a quarter of all at a time.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._table = CountTable()
        self._code_of: dict[int, int] = {}
        self._owners: list[int] = []  # by code
        self._free: list[int] = []  # codes without an owner

    def __len__(self) -> int:
        return len(self._table)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._table.nbytes

    def observe(
        self, attributes: Hashes, principal: Hashes, group: Hashes, held: Flags | None = None
    ) -> PriorCounts:
        """Count actions in order; return what was known before each. Principal and peer group are stable hashes.

        Args:
            held: bool [N, attributes], attributes that are looked up but not counted; None for none.
        """
        own, actions = self.observe_own(attributes, principal, held)
        return PriorCounts(own, *self.observe_shared(attributes, group, own == 0, held), actions)

    def observe_own(
        self, attributes: Hashes, principal: Hashes, held: Flags | None = None
    ) -> tuple[Ints, Ints]:
        """As `observe`, for the counts of the principals themselves alone: `own` and `actions`."""
        rows, width = attributes.shape
        keys = self._own_keys(attributes, principal).ravel()
        owners = np.repeat(self._owner_codes(principal), width + 1)
        if held is None:
            before = self._table.add(keys, owners)
        else:
            counted = _counted(held)
            before = np.zeros(len(keys), np.int64)
            before[counted] = self._table.add(keys[counted], owners[counted])
        own, actions = np.split(before.reshape(rows, width + 1), [width], axis=1)
        return own, actions[:, 0]

    def observe_shared(
        self, attributes: Hashes, group: Hashes, new: Flags, held: Flags | None = None
    ) -> tuple[Ints, Ints]:
        """As `observe`, for what others did alone: `peers` and `anyone`.

        Args:
            new: bool [N, attributes], attributes that are new to their principals; others are passed over.
        """
        peers, anyone = np.zeros(new.shape, np.int64), np.zeros(new.shape, np.int64)
        # A principal is counted once with its peers and with everybody: when it does what it never did.
        places = np.nonzero(new)
        if len(places[0]):
            shared = self._shared_keys(attributes, group, new)
            counted = np.ones(len(shared), bool) if held is None else ~np.tile(held[places], 2)
            known = self._add_some(shared, counted)
            peers[places], anyone[places] = np.split(known, 2)
        if self.limit is not None and len(self._table) > self.limit:
            self._table.forget_rare(self.limit - self.limit // 4)
        return peers, anyone

    def _add_some(self, keys: Hashes, counted: Flags) -> Ints:
        """Count some of the keys once more, in order; the count of each before, those of earlier places included."""
        if counted.all():
            return self._table.add(keys)
        others = np.flatnonzero(counted)
        before = np.empty(len(keys), np.int64)
        before[~counted] = self._table.get(keys[~counted])
        for place in np.flatnonzero(~counted & np.isin(keys, keys[others])).tolist():
            before[place] += int((keys[others[others < place]] == keys[place]).sum())
        before[others] = self._table.add(keys[others])
        return before

    @staticmethod
    def _own_keys(attributes: Hashes, principal: Hashes) -> Hashes:
        rows, width = attributes.shape
        keys = np.empty((rows, width + 1), np.uint64)
        keys[:, :width] = mix(mix(_OWN, principal)[:, None], attributes)
        keys[:, width] = mix(_MEMBER, principal)
        return keys

    @staticmethod
    def _shared_keys(attributes: Hashes, group: Hashes, new: Flags) -> Hashes:
        places = np.nonzero(new)
        what = attributes[places]
        return np.concatenate([mix(mix(_PEERS, group[places[0]]), what), mix(_ANYONE, what)])

    def unobserve(
        self,
        attributes: Hashes,
        principal: Hashes,
        group: Hashes,
        known: PriorCounts,
        held: Flags | None = None,
    ) -> None:
        """Undo the last call of `observe`, given its arguments and what it returned, or the last rows of both."""
        self.unobserve_own(attributes, principal, held)
        new = known.own == 0
        self.unobserve_shared(attributes, group, new if held is None else new & ~held)

    def unobserve_own(self, attributes: Hashes, principal: Hashes, held: Flags | None = None) -> None:
        """Undo `observe_own`, also of some of its rows; counts of the same principals in later rows have to be undone as well."""
        own = self._own_keys(attributes, principal).ravel()
        self._table.subtract(own if held is None else own[_counted(held)])

    def unobserve_shared(self, attributes: Hashes, group: Hashes, counted: Flags) -> None:
        """Undo `observe_shared`, also of some attributes, all later ones of the same value among them.

        Args:
            counted: bool [N, attributes], which were counted.
        """
        self._table.subtract(self._shared_keys(attributes, group, counted))

    def withdraw(self, principal: int, group: int, attributes: Hashes) -> Callable[[], None]:
        """Forget that a principal ever did something, for its peers and everybody as well; returns what undoes that.

        Args:
            principal, group: stable hashes.
            attributes: uint64 [K], each once; those it never did are passed over.
        """
        table = self._table
        own = mix(mix(_OWN, np.uint64(principal)), attributes)
        done = attributes[table.get(own) > 0]
        if not len(done):
            return lambda: None
        entries = table.take(mix(mix(_OWN, np.uint64(principal)), done))
        shared = self._keys_of_others(group, done)
        table.subtract(shared)

        def undo() -> None:
            table.merge(*entries)
            table.add(shared)

        return undo

    def grant(self, principal: int, group: int, attributes: Hashes, times: Ints) -> Callable[[], None]:
        """Count that a principal did something so many times; returns what undoes that. Arguments as of `withdraw`."""
        table = self._table
        own = mix(mix(_OWN, np.uint64(principal)), attributes)
        shared = self._keys_of_others(group, attributes[table.get(own) == 0])
        owners = np.repeat(self._owner_codes(np.array([principal], np.uint64)), len(own))
        table.merge(own, times, owners)
        table.add(shared)

        def undo() -> None:
            table.subtract(np.repeat(own, times))
            table.subtract(shared)

        return undo

    @staticmethod
    def _keys_of_others(group: int, attributes: Hashes) -> Hashes:
        return np.concatenate([mix(mix(_PEERS, np.uint64(group)), attributes), mix(_ANYONE, attributes)])

    def own_counts(self, principals: Hashes, attributes: Hashes) -> Ints:
        """Earlier actions of K principals with each of M attributes, int64 [K, M]."""
        keys = mix(mix(_OWN, principals)[:, None], attributes[None, :])
        return self._table.get(keys.ravel()).reshape(keys.shape)

    def count_own(self, principals: Hashes, attributes: Hashes) -> Callable[[], None]:
        """Count N attributes of their principals alone; returns what undoes that."""
        keys = mix(mix(_OWN, principals), attributes)
        self._table.add(keys, self._owner_codes(principals))
        return lambda: self._table.subtract(keys)

    def tally(self, keys: Hashes) -> Callable[[], None]:
        """Count keys that are nobody's own; returns what undoes that. Their counts are those of `counts`."""
        self._table.add(keys)
        return lambda: self._table.subtract(keys)

    def pop(self, principals: Hashes) -> OwnHabits:
        """Remove the entries of some principals, by stable hash, and return them. Walks the whole table."""
        goes = np.zeros(len(self._owners), bool)
        codes = [self._code_of.pop(one) for one in principals.tolist() if one in self._code_of]
        goes[codes] = True
        keys, counts, owners = self._table.pop(goes)
        self._free += codes
        return OwnHabits(self._named(owners), keys, counts)

    def restore(self, own: OwnHabits) -> None:
        """Give back what `pop` or `own` returned; what was counted in between adds up."""
        self._table.merge(own.key, own.count, self._owner_codes(own.principal))

    def learn(self, other: HabitTable, before: HabitTable) -> None:
        """Take over what another table counted since it was like `before`.

        Both may have counted the same actions, so the greater count is kept instead of the sum.
        """
        keys, counts, owners = other._table.entries()
        changed = counts != before._table.get(keys)
        self._learn(other, keys[changed], counts[changed], owners[changed])

    def catch_up(self, other: HabitTable, copy: HabitTable) -> None:
        """Take over what another table counted since `copy`, from which this one learned, was taken; quick if that is little."""
        self._learn(other, *other._table.changed(copy._table))

    def _learn(self, other: HabitTable, keys: Hashes, counts: Ints, owners: npt.NDArray[np.int32]) -> None:
        theirs, place = np.unique(owners, return_inverse=True)
        known = theirs >= 0
        mine = np.full(len(theirs), NOBODY, np.int32)
        mine[known] = self._owner_codes(other._named(theirs[known]))
        self._table.merge(keys, counts, mine[place], greater=True)

    def merge_greater(self, own: OwnHabits, others: npt.NDArray[np.uint64]) -> None:
        """As `restore` and `restore_others`, for counts under another bundle: of two counts of one key the greater is kept."""
        self._table.merge(own.key, own.count, self._owner_codes(own.principal), greater=True)
        self._table.merge(others[:, 0], others[:, 1], None, greater=True)

    def own(self) -> OwnHabits:
        """All entries whose owner is known, in the order of their keys."""
        keys, counts, owners = self._table.entries()
        known = owners >= 0
        return OwnHabits(self._named(owners[known]), keys[known], counts[known])

    def others(self) -> npt.NDArray[np.uint64]:
        """All entries whose owner is not known, as `to_array`."""
        keys, counts, owners = self._table.entries()
        nobody = owners < 0
        return np.stack([keys[nobody], counts[nobody].astype(np.uint64)], axis=1)

    def grown(self, before: HabitTable) -> npt.NDArray[np.uint64]:
        """What was counted of entries without an owner since the table was like `before`: keys and counts, uint64 [K, 2]."""
        held = self.others()
        added = held[:, 1].astype(np.int64) - before._table.get(held[:, 0])
        return np.stack([held[:, 0], added.astype(np.uint64)], axis=1)[added > 0]

    def counts(self, keys: Hashes) -> Ints:
        """Count of each key, int64 [n]."""
        return self._table.get(keys)

    def restore_others(self, grown: npt.NDArray[np.uint64]) -> None:
        """Count what `grown` or `others` returned; counts add up."""
        self._table.merge(grown[:, 0], grown[:, 1], None)

    def to_array(self) -> npt.NDArray[np.uint64]:
        """Sorted keys and counts of all entries, uint64 [K, 2]."""
        keys, counts, _ = self._table.entries()
        return np.stack([keys, counts.astype(np.uint64)], axis=1)

    @classmethod
    def from_array(cls, saved: npt.NDArray[np.uint64]) -> HabitTable:
        """Inverse of `to_array`; the owners of the entries are not known then."""
        habits = cls()
        habits._table = CountTable(int(1.2 * len(saved)))
        habits._table.merge(saved[:, 0], saved[:, 1], None)
        return habits

    def copy(self, limit: int | None = None) -> HabitTable:
        """Independent copy, with a limit of its own."""
        other = HabitTable(limit)
        other._table, other._code_of = self._table.copy(), dict(self._code_of)
        other._owners, other._free = list(self._owners), list(self._free)
        return other

    def _named(self, codes: npt.NDArray[np.int32]) -> Hashes:
        """Principal of each code, uint64 [K]."""
        return np.array(self._owners, np.uint64)[codes] if len(codes) else np.empty(0, np.uint64)

    def _owner_codes(self, principals: Hashes) -> npt.NDArray[np.int32]:
        """Code of each principal in the table, int32 [N]; new ones get the next."""
        known = self._code_of
        codes = []
        for one in principals.tolist():
            if one not in known:
                code = known[one] = self._free.pop() if self._free else len(self._owners)
                self._owners[code : code + 1] = [one]
            codes.append(known[one])
        return np.array(codes, np.int32)


def _counted(held: Flags) -> Flags:
    """Which of a row's own keys, the last of which is that of the principal alone, are counted; one after the other."""
    return ~np.concatenate([held, np.zeros((len(held), 1), bool)], axis=1).ravel()


_DEED, _BINDING, _CODE = map(list(ATTRIBUTES).index, ("verb_resource_namespace", "binding", "code"))
_PLACES, _CONTENTS = (np.isin(list(ATTRIBUTES), names) for names in (MACHINERY_IGNORES, CONTENTS))
_BROADER = [
    [j for j, broad in enumerate(ATTRIBUTES.values()) if j != i and set(broad) <= set(fields)]
    for i, fields in enumerate(ATTRIBUTES.values())
]
#: The same of details: how many objects were read at once is no detail of having read one.
_DETAIL_OF = [[] if name in SPANS else broader for name, broader in zip(ATTRIBUTES, _BROADER, strict=True)]


def counted_levels(levels: Levels, actions: Ints, machinery: Flags, for_others: Flags) -> Levels:
    """Novelty levels as far as they are news of the principal, int8 [N, attributes].

    Args:
        levels: int8 [N, attributes]; here and below the first so many, as many as the bundle knows.
        machinery: bool [N], whether the cluster's own machinery acted.
        for_others: bool [N], whether it acted for a known principal (the `owner` field).
    """
    width = levels.shape[1]
    left_out = machinery[:, None] & _PLACES[:width]
    left_out |= (machinery & for_others)[:, None] & _CONTENTS[:width]
    left_out |= (actions < MATURE)[:, None] & (levels == 1)
    # What was done before and is allowed by another binding now: that is the doing of those who changed the rights.
    left_out[:, _BINDING] |= (levels[:, _DEED] == 0) & (levels[:, _CODE] == 0)
    return np.where(left_out, 0, levels).astype(np.int8)


def roots(levels: Levels) -> Levels:
    """Novelty without what follows from broader novelty, int8 [N, attributes].

    In a new namespace every object is new; only the namespace counts then, unless the object is new to more people.
    """
    out = levels.copy()
    if not levels.any():  # as of most actions by themselves
        return out
    for i, broader in enumerate(_BROADER[: levels.shape[1]]):
        if broader:
            out[:, i] = np.where((levels[:, broader] >= levels[:, i : i + 1]).any(axis=1), 0, levels[:, i])
    return out


def most_decades(own: Ints) -> npt.NDArray[np.float64]:
    """Most that the novelty of each attribute is worth, decades, inf where nothing broader was done before; as `own`.

    Where a principal has been k times, nearly everything is new to it still: of the next k + 1 actions one may well bring the
    first of its kind. So who lists the secrets of a new namespace and then reads one is reported once for going there.

    Args:
        own: int64 [N, attributes], earlier actions of the principal with each attribute.
    """
    most = np.full(own.shape, np.inf)
    for i, broader in enumerate(_DETAIL_OF[: own.shape[1]]):
        if broader:
            times = own[:, broader]
            least = np.where(times > 0, times, np.inf).min(axis=1)
            most[:, i] = np.log10(1.0 + least) + _DETAIL
    return most


def novelty_levels(known: PriorCounts) -> Levels:
    """0 for an attribute known to the principal, 1 new to it, 2 to its peers as well, 3 to everybody. int8 [N, attributes]."""
    new = np.where(known.peers > 0, 1, np.where(known.anyone > 0, 2, 3))
    return np.where(known.own > 0, 0, new).astype(np.int8)
