"""Probation of habits: what was flagged is not familiar afterwards, until people say so or it was done on several days.

What an action did for the first time stays out of the habits (`detection.novelty`) if the action was flagged, if it added
evidence in the ten minutes before a flag, or if it did in the ten minutes after one. Such attributes are on probation:

- for ten minutes after one was reported it counts as known, so that a deed is reported once;
- after that it is as new as it was, to its principal and to everybody else. An action that is unusual by an attribute for which
  an action was flagged is flagged again, as a repeat. What is new only by what is on probation does not add up a second time;
- it becomes a habit when people say that it was normal, or after it was done on `days` further days by actions of less than
  high sensitivity. What people call malicious never does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from data.actions.attributes import HASHED
from data.actions.recent_hashes import Hashes
from data.actions.sensitivity import LEVELS
from detection.evidence import INCIDENT_SECONDS

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Verdict = Literal["normal", "malicious", "unclear"]

#: Further days on which something must be done to become a habit although nobody gave a verdict.
PROBATION_DAYS = 3

_WINDOW = INCIDENT_SECONDS * 1_000_000
_DAY = 86_400_000_000
_HIGH = LEVELS.index("high")
_ON, _HABIT, _NORMAL, _MALICIOUS = range(4)
_HELD = (_ON, _MALICIOUS)
#: Cause of what came with an alert whose incident is closed.
_DETACHED = 0
#: Most attributes on probation, of one principal and of all; beyond it those that weigh least are forgotten, a quarter at a time.
_LIMIT_EACH, _LIMIT = 2_048, 100_000
#: Actions of one principal in ten minutes that decide one by one what is on probation; see `HeldRows.crowded`.
CLOSELY = 256
#: Actions before a flag that are remembered of each principal, and principals of whom they are.
_RECENT_EACH, _RECENT = 64, 20_000
#: A habit that people confirmed counts as at most so many actions.
_MOST_TIMES = 100


class AttributeProbation(msgspec.Struct, array_like=True, frozen=True):
    """One attribute of one principal. Times are microseconds since 1970 UTC.

    Attributes:
        cause: time of the flagged action with which it came.
        reported: when it last counted as new.
        times: how often it did.
        day: last day on which it was done by an action of less than high sensitivity, or on which it came.
        days: further days on which it was.
        marked: whether it is a reason for which an action was flagged.
        ratio: highest evidence over threshold of the actions that were flagged for it.
        state: on probation, a habit by now, normal or malicious.
        excepted: whether only an exception has allowed it so far: then it is known to nothing else.
    """

    cause: int
    reported: int
    times: int
    day: int
    days: int
    marked: bool
    ratio: float
    state: int = _ON
    excepted: bool = False

    @property
    def own(self) -> bool:
        """Whether it is raised as something of its own when it is done again: people have judged what came before."""
        return self.state == _MALICIOUS or self.cause == _DETACHED

    @property
    def weight(self) -> tuple[bool, bool, float]:
        """Sort key: what is forgotten last is greatest."""
        return self.state in _HELD, self.marked, self.ratio


class PrincipalProbation(msgspec.Struct, array_like=True):
    """What is held of one principal.

    Attributes:
        group: stable hash of its peer group.
        flagged: time of its last flagged action; 0 for none that is still open.
        attributes: hash of an attribute (`data.actions.attributes`) -> its probation.
        deeds: hash of a flagged action -> the cause of its attributes.
        normal: hashes of actions that people called normal.
        recent: the last actions that added evidence: time, and hashes of what was new in each.
        begun, settled: since when the actions are counted that decided what is on probation, and how many there were.
    """

    group: int = 0
    flagged: int = 0
    attributes: dict[int, AttributeProbation] = {}
    deeds: dict[int, int] = {}
    normal: set[int] = set()
    recent: list[tuple[int, list[int]]] = []
    begun: int = 0
    settled: int = 0

    def copy(self) -> PrincipalProbation:
        """Independent copy."""
        return PrincipalProbation(
            self.group,
            self.flagged,
            dict(self.attributes),
            dict(self.deeds),
            set(self.normal),
            list(self.recent),
            self.begun,
            self.settled,
        )

    @property
    def holds(self) -> bool:
        """Whether it matters for what the principal does next, other than as the lead-up to a flag."""
        return bool(self.flagged or self.attributes or self.normal)

    def held(self) -> list[int]:
        """Hashes of the attributes that must not be in the habits."""
        return [key for key, one in self.attributes.items() if one.state in _HELD]


@dataclass(frozen=True, slots=True)
class HeldRows:
    """What probation says of N actions before they are judged.

    Attributes:
        held: bool [N, attributes], what is on probation.
        times: int64 [N, attributes], the count that stands for it while it was reported recently; 0 where it is new again.
        open: bool [N], whether the principal was flagged within the last ten minutes.
        due: bool [N], whether the action is done on a further day.
        normal: bool [N], whether people called the same action normal.
        crowded: bool [N], whether the principal had `CLOSELY` actions in ten minutes that changed what is on probation. Each of
            them takes a pass over those that follow; so that nobody can keep the judge busy, those beyond are judged and
            flagged like any other, but change nothing: they are no habit, and not on probation.
    """

    held: Flags
    times: Ints
    open: Flags
    due: Flags
    normal: Flags
    crowded: Flags

    @classmethod
    def nothing(cls, count: int, width: int) -> HeldRows:
        """Nothing of so many actions with so many attributes."""
        held, times = np.zeros((count, width), bool), np.zeros((count, width), np.int64)
        return cls(held, times, *(np.zeros(count, bool) for _ in range(4)))

    def __getitem__(self, rows: Ints | slice) -> HeldRows:
        """What it says of some of the actions."""
        return HeldRows(*(getattr(self, one.name)[rows] for one in fields(self)))

    def put(self, rows: Ints | slice, other: HeldRows | None) -> None:
        """Replace what it says of some of the actions; None for nothing."""
        for one in fields(self):
            getattr(self, one.name)[rows] = 0 if other is None else getattr(other, one.name)

    @property
    def fresh(self) -> Flags:
        """Which actions have an attribute on probation that is new again, bool [N]."""
        found: Flags = (self.held & (self.times == 0)).any(axis=1)
        return found


@dataclass(frozen=True, slots=True)
class Repeat:
    """The earlier flag that an action repeats.

    Attributes:
        cause: time of the action that was flagged first, microseconds since 1970 UTC.
        ratio: its evidence over its threshold.
        own: whether it is raised as something of its own all the same.
    """

    cause: int
    ratio: float
    own: bool


class Probation:
    """What each principal did that was flagged, and nobody has accepted.

    Args:
        days: further days on which something must be done to become a habit although nobody gave a verdict.

    Attributes:
        lost: how often attributes of all principals were forgotten because there were too many.
    """

    def __init__(self, days: int = PROBATION_DAYS) -> None:
        self.days = days
        self._records: dict[str, PrincipalProbation] = {}
        self._holding: set[str] = set()
        self._size = 0
        self.lost = 0

    def __len__(self) -> int:
        """Attributes that are held, of all principals in memory."""
        return self._size

    # -- before actions are judged ------------------------------------------------------------------------------

    def view(
        self,
        names: Sequence[str],
        attributes: Hashes,
        time: Ints,
        sensitivity: npt.NDArray[np.int8],
        excepted: Flags,
    ) -> HeldRows | None:
        """What it says of actions; None if nothing.

        Args:
            names: who acts.
            attributes: uint64 [N, attributes].
            time: microseconds.
            sensitivity: levels.
            excepted: bool [N], what an exception allows.
        """
        holding = self._holding
        rows = [row for row, name in enumerate(names) if name in holding] if holding else []
        if not rows:
            return None
        found = HeldRows.nothing(*attributes.shape)
        for row, hashes in zip(rows, attributes[rows].tolist(), strict=True):
            record, now = self._records[names[row]], int(time[row])
            found.open[row] = abs(now - record.flagged) <= _WINDOW
            found.crowded[row] = record.settled >= CLOSELY and abs(now - record.begun) <= _WINDOW
            if record.normal:
                found.normal[row] = deed_hash(attributes[row]) in record.normal
            mild = sensitivity[row] < _HIGH
            for column, key in enumerate(hashes):
                one = record.attributes.get(key)
                if one is None or one.state not in _HELD:
                    continue
                if one.excepted and not one.marked and not excepted[row]:
                    continue  # as if it had never been done
                found.held[row, column] = True
                if abs(now - one.reported) <= _WINDOW and (excepted[row] or not one.excepted):
                    found.times[row, column] = one.times
                if mild and one.state == _ON and now // _DAY > one.day:
                    found.due[row] = True
        return found

    def repeated(self, name: str, attributes: Iterable[int]) -> Repeat | None:
        """The earliest flag of a principal for any of these attributes, or None. The worst of them says how far it stood out."""
        record = self._records[name]
        held = [one for key in attributes if (one := record.attributes.get(key)) is not None and one.marked]
        if not held:
            return None
        return Repeat(
            min(one.cause for one in held),
            max(one.ratio for one in held),
            any(one.own for one in held),
        )

    # -- after an action was judged -----------------------------------------------------------------------------

    def settle(self, name: str, time: int) -> None:
        """Note that an action of a principal that has a record decided what is on probation."""
        record = self._records.get(name)
        if record is None:
            return
        if abs(time - record.begun) > _WINDOW:
            record.begun, record.settled = time, 0
        record.settled += 1

    def remember(self, name: str, time: int, new: list[int]) -> None:
        """Remember an action that added evidence, by the attributes that were new in it, in case a flag follows."""
        record = self._records.get(name)
        if record is None:
            if len(self._records) - len(self._holding) >= _RECENT:
                self._forget_recent(time)
            record = self._records[name] = PrincipalProbation()
        kept = [one for one in record.recent if one[0] >= time - _WINDOW]
        record.recent = [*kept[1 - _RECENT_EACH :], (time, new)]

    def _forget_recent(self, now: int) -> None:
        idle = [name for name in self._records if name not in self._holding]
        old = [name for name in idle if self._records[name].recent[-1][0] < now - _WINDOW]
        for name in old or idle[: len(idle) // 4]:
            del self._records[name]

    def hold(
        self,
        name: str,
        group: int,
        time: int,
        new: Iterable[int],
        reasons: Collection[int] = (),
        flagged: tuple[int, float, int] | None = None,
    ) -> list[int]:
        """Put what was new in an action on probation.

        Args:
            name, group: who acted; its peer group as a stable hash.
            time: of the action, microseconds.
            new: hashes of its attributes that are new, or new again.
            reasons: those of them for which it was flagged.
            flagged: if it was, its hash, evidence over threshold, and the cause of what it repeats (its own time for nothing).

        Returns:
            Attributes of the actions that led up to the flag, to be withdrawn from the habits.
        """
        record = self._records.setdefault(name, PrincipalProbation())
        record.group = group
        led: list[int] = []
        cause, ratio = record.flagged, 0.0
        if flagged is not None:
            deed, ratio, cause = flagged
            record.flagged = max(record.flagged, time)
            record.deeds.setdefault(deed, cause)
            earlier = [one for one in record.recent if abs(time - one[0]) <= _WINDOW]
            led = list(dict.fromkeys(key for _, keys in earlier for key in keys))
            record.recent = []
            if not reasons:  # then what came before it is the reason
                reasons = led
        before = len(record.attributes)
        for key in dict.fromkeys([*new, *led]):
            one = record.attributes.get(key)
            why = key in reasons
            if one is None or one.state not in _HELD:
                record.attributes[key] = AttributeProbation(cause, time, 1, time // _DAY, 0, why, ratio * why)
            else:
                record.attributes[key] = msgspec.structs.replace(
                    one,
                    cause=cause if one.own and flagged is not None else one.cause,
                    reported=max(one.reported, time),
                    times=one.times + 1,
                    marked=one.marked or why,
                    ratio=max(one.ratio, ratio * why),
                    excepted=False,
                )
        self._size += len(record.attributes) - before
        self._holding.add(name)
        self._keep_bounded(record)
        return led

    def allow(
        self, name: str, group: int, time: int, new: Iterable[int], reasons: Collection[int], ratio: float
    ) -> None:
        """Put what was new in an action on probation that an exception allows; arguments as of `hold`.

        When the exception has expired, what it kept from being flagged is raised as something of its own.
        """
        record = self._records.setdefault(name, PrincipalProbation())
        before = {key: record.attributes.get(key) for key in new}
        record.flagged, open_ = _DETACHED, record.flagged
        self.hold(name, group, time, new)
        record.flagged = open_
        for key, held in before.items():
            one = record.attributes.get(key)
            if one is None:  # forgotten: there were too many
                continue
            if key in reasons:
                cause = one.cause if one.marked else _DETACHED
                one = msgspec.structs.replace(one, cause=cause, marked=True, ratio=max(one.ratio, ratio))
            only = held is None or held.excepted
            record.attributes[key] = msgspec.structs.replace(one, excepted=only)

    def report(self, name: str, time: int, attributes: Iterable[int]) -> None:
        """Note that attributes on probation counted as new in an action that is not on probation itself."""
        held = self._records[name].attributes
        for key in attributes:
            one = held[key]
            held[key] = msgspec.structs.replace(
                one, reported=max(one.reported, time), times=one.times + 1, excepted=False
            )

    def another_day(self, name: str, time: int, attributes: Iterable[int]) -> dict[int, int]:
        """Note that attributes were done on a further day; returns those that are habits now, and how often each was new."""
        held = self._records[name].attributes
        habits: dict[int, int] = {}
        for key in attributes:
            one = held.get(key)
            if one is None or one.state != _ON or time // _DAY <= one.day:
                continue
            one = msgspec.structs.replace(one, day=time // _DAY, days=one.days + 1)
            if one.days >= self.days:
                one = msgspec.structs.replace(one, state=_HABIT)
                habits[key] = min(one.times, _MOST_TIMES)
            held[key] = one
        return habits

    def _keep_bounded(self, record: PrincipalProbation) -> None:
        if len(record.attributes) > _LIMIT_EACH:
            self._size -= _forget_least(record, len(record.attributes) - _LIMIT_EACH * 3 // 4)
        while len(record.deeds) > _LIMIT_EACH:
            del record.deeds[next(iter(record.deeds))]
        if self._size > _LIMIT:
            ordered = sorted(
                ((one.weight, one.reported), name, key)
                for name in self._holding
                for key, one in self._records[name].attributes.items()
            )
            least = ordered[: len(ordered) // 4]
            for _, name, key in least:
                del self._records[name].attributes[key]
            self._size -= len(least)
            self.lost += 1

    # -- what people say ----------------------------------------------------------------------------------------

    def judge(self, name: str, times: Collection[int], verdict: Verdict) -> tuple[dict[int, int], list[int]]:
        """Take in a verdict on flagged actions of a principal, given their times; the same verdict twice changes nothing more.

        After "unclear" what is done again is no repeat, but raised as something of its own.

        Returns:
            What becomes a habit now, and how often each was new; and what has to be withdrawn from the habits.
        """
        record = self._records.get(name)
        granted: dict[int, int] = {}
        withdrawn: list[int] = []
        if record is None:
            return granted, withdrawn
        if verdict == "unclear":
            self._detach(record, times)
            return granted, withdrawn
        state = _NORMAL if verdict == "normal" else _MALICIOUS
        for key, one in record.attributes.items():
            if one.cause not in times or one.state == state:
                continue
            if verdict == "malicious" and one.state not in _HELD:
                withdrawn.append(key)
            if verdict == "normal" and one.state in _HELD:
                granted[key] = min(one.times, _MOST_TIMES)
            record.attributes[key] = msgspec.structs.replace(one, state=state)
        deeds = {deed for deed, cause in record.deeds.items() if cause in times}
        if verdict == "normal":
            record.normal |= deeds
            if record.flagged in times:
                record.flagged = 0
        else:
            record.normal -= deeds
        return granted, withdrawn

    @staticmethod
    def _detach(record: PrincipalProbation, times: Collection[int]) -> None:
        for key, one in record.attributes.items():
            if one.cause in times:
                record.attributes[key] = msgspec.structs.replace(one, cause=_DETACHED)
        record.deeds = {deed: cause for deed, cause in record.deeds.items() if cause not in times}

    # -- keeping it ---------------------------------------------------------------------------------------------

    def group(self, name: str) -> int:
        """Stable hash of the peer group of a principal that has a record."""
        return self._records[name].group

    def held_by(self, name: str) -> list[int]:
        """Hashes of the attributes of a principal that must not be in the habits."""
        record = self._records.get(name)
        return [] if record is None else record.held()

    def checkpoint(self, names: Iterable[str]) -> Callable[[], None]:
        """Return a function that brings the records of these principals back to what they are now."""
        held = {name: record.copy() for name in names if (record := self._records.get(name)) is not None}
        rest = [name for name in names if name not in held]

        def undo() -> None:
            self.pop([*held, *rest])
            self.restore(held)

        return undo

    def records(self) -> dict[str, PrincipalProbation]:
        """Copies of all records, by principal."""
        return {name: record.copy() for name, record in self._records.items()}

    def pop(self, names: Iterable[str]) -> dict[str, PrincipalProbation]:
        """Remove the records of some principals, and return them."""
        taken: dict[str, PrincipalProbation] = {}
        for name in names:
            record = self._records.pop(name, None)
            if record is not None:
                taken[name] = record
                self._size -= len(record.attributes)
                self._holding.discard(name)
        return taken

    def to_bytes(self) -> bytes:
        """All records, packed."""
        return pack_records(self._records)

    def restore(self, records: Mapping[str, PrincipalProbation]) -> None:
        """Give back what `records` or `pop` returned; what came since is replaced."""
        self.pop(records)
        for name, record in records.items():
            self._records[name] = record.copy()
            self._size += len(record.attributes)
            if record.holds:
                self._holding.add(name)

    def copy(self) -> Probation:
        """Independent copy."""
        other = Probation(self.days)
        other.restore(self._records)
        return other


def pack_records(records: Mapping[str, PrincipalProbation]) -> bytes:
    """Records as MessagePack."""
    return msgspec.msgpack.encode(records)


def unpack_records(packed: bytes) -> dict[str, PrincipalProbation]:
    """Inverse of `pack_records`; raises msgspec.MsgspecError."""
    return msgspec.msgpack.decode(packed, type=dict[str, PrincipalProbation])


def deed_hash(attributes: Hashes) -> int:
    """One hash of all attributes of an action but its hour, uint64 [attributes]."""
    return int.from_bytes(hashlib.blake2b(attributes[:HASHED].tobytes(), digest_size=8).digest(), "little")


def _forget_least(record: PrincipalProbation, count: int) -> int:
    """Forget so many attributes of a record, those that weigh least first; returns how many."""
    ordered = sorted(
        record.attributes, key=lambda key: (record.attributes[key].weight, record.attributes[key].reported)
    )
    for key in ordered[:count]:
        del record.attributes[key]
    return min(count, len(ordered))
