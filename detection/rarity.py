"""How rarely normal work shows what is new about an action, by whose it is, on what resource, and by who acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTES, HASHED, HOURS
from detection.novelty import most_decades

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Levels = npt.NDArray[np.int8]

#: Whose novelty is compared with whose: people, service accounts of workloads and pipelines, and the cluster's own machinery
#: (nodes, controllers, everything else). Calibrations of version 1 have one class for all machinery.
CLASSES = ("people", "pipelines", "nodes", "controllers", "components")
MACHINERY = CLASSES.index("nodes")
_CLASS_OF_KIND = {
    "human": "people",
    "serviceaccount": "pipelines",
    "node": "nodes",
    "controller": "controllers",
}

_INDEX_OF_KIND = {kind: CLASSES.index(name) for kind, name in _CLASS_OF_KIND.items()}

#: Attributes of the session rather than of the action. What is new in both is rarer than what is new in either.
SESSION = ("client", "place", HOURS)
_OF_SESSION = np.isin(list(ATTRIBUTES), SESSION)

_HOURS = HASHED
#: A pause that ends a session, microseconds.
_SESSION_ENDS = 1_800_000_000
#: Actions on a resource that weigh as much as all others of the class in how rare a novelty there is.
_SHRINKAGE = 200.0
#: A principal's own actions on a resource that weigh as much as what the class shows there.
_OWN_SHRINKAGE = 50.0


def classes_of(kinds: Sequence[str]) -> Ints:
    """Index into CLASSES of each action's principal, int64 [N]."""
    known, others = _INDEX_OF_KIND.get, len(CLASSES) - 1
    return np.array([known(kind, others) for kind in kinds], np.int64)


def hours_by_class(
    classes: Ints, pauses: Ints, judged: npt.NDArray[np.bool_], strange: npt.NDArray[np.bool_]
) -> Ints:
    """Sessions of each class whose hours could be strange, their actions, and those in a strange hour, int64 [classes, 3].

    Args:
        classes: int64 [N], of actions of which those of one principal lie together in the order of the log.
        pauses: int64 [N], microseconds since the previous action of the principal; 0 for its first.
    """
    number = np.cumsum((pauses > _SESSION_ENDS) | (np.diff(classes, prepend=-1) != 0))
    first = np.unique(number[judged], return_index=True)[1]
    counted = (classes[judged][first], classes[judged], classes[judged & strange])
    return np.stack([np.bincount(one, minlength=len(CLASSES)) for one in counted], axis=1).astype(np.int64)


def is_machinery(classes: Ints) -> npt.NDArray[np.bool_]:
    """Which indices into CLASSES are of the cluster's own machinery, bool [N]."""
    return np.asarray(classes >= MACHINERY)


@dataclass(frozen=True, slots=True)
class OwnRates:
    """How often the normal work of single principals brings news: a release manager deploys a new image every day.

    Attributes:
        row: (principal, token of the resource) -> row of the arrays, for pairs with any news.
        actions: int64 [K], normal actions of the pair that were seen.
        hits: int64 [K, attributes, 4], those whose novelty of an attribute has at least the level.
    """

    row: Mapping[tuple[str, int], int]
    actions: Ints
    hits: Ints

    @classmethod
    def fit(cls, principals: Sequence[str], resource: Ints, levels: Levels) -> OwnRates:
        """Count normal actions of people and pipelines; `levels` int8 [N, attributes]."""
        pairs = list(zip(principals, resource.tolist(), strict=True))
        new: list[bool] = np.any(levels > 0, axis=1).tolist()
        row = {
            pair: at
            for at, pair in enumerate(
                dict.fromkeys(pair for pair, is_new in zip(pairs, new, strict=True) if is_new)
            )
        }
        which = np.array([row.get(pair, -1) for pair in pairs], np.int64)
        kept = which >= 0
        actions = np.bincount(which[kept], minlength=len(row)).astype(np.int64)
        hits = np.zeros((len(row), levels.shape[1], 4), np.int64)
        for level in (1, 2, 3):
            np.add.at(hits[:, :, level], which[kept], levels[kept] >= level)
        return cls(row, actions, hits)

    @classmethod
    def none(cls) -> OwnRates:
        """Of nobody."""
        return cls({}, np.zeros(0, np.int64), np.zeros((0, len(ATTRIBUTES), 4), np.int64))

    def to_list(self) -> list[list[Any]]:
        """JSON form: principal, resource, actions, and the hits that are not zero."""
        return [
            [
                *pair,
                int(self.actions[at]),
                [[*map(int, i), int(self.hits[at][tuple(i)])] for i in np.argwhere(self.hits[at])],
            ]
            for pair, at in self.row.items()
        ]

    @classmethod
    def from_list(cls, saved: Sequence[Sequence[Any]], width: int) -> OwnRates:
        """Inverse of `to_list`, of so many attributes."""
        rates = cls(
            {(str(one[0]), int(one[1])): at for at, one in enumerate(saved)},
            np.array([one[2] for one in saved], np.int64),
            np.zeros((len(saved), width, 4), np.int64),
        )
        for at, one in enumerate(saved):
            for attribute, level, count in one[3]:
                rates.hits[at, attribute, level] = count
        return rates


class Rarity:
    """How rarely normal work shows a novelty: -log10 of the share of actions that are as new, by class and resource.

    A new object among pods is everyday life, a new object among secrets is not; so rates are kept for each resource and
    shrunk to those of the class. What a principal does more often than its class is rare for others only.

    Args:
        actions: int64 [classes, resources], normal actions seen; the resource is its token.
        hits: int64 [classes, resources, attributes, 4], those whose novelty of an attribute has at least the level.
        own: the same of single principals.
        hours: int64 [classes, 3], sessions whose hours could be strange, their actions, and those in a strange hour; None where
            nobody's are. Strange hours come by the session, so that half a session stands for what was not seen, not half an
            action.
    """

    def __init__(
        self, actions: Ints, hits: Ints, own: OwnRates | None = None, hours: Ints | None = None
    ) -> None:
        self.actions, self.hits, self.own, self.hours = actions, hits, own or OwnRates.none(), hours
        overall = (hits.sum(axis=1) + 0.5) / (actions.sum(axis=1)[:, None, None] + 1.0)
        share = (hits + _SHRINKAGE * overall[:, None]) / (actions[..., None, None] + _SHRINKAGE)
        if hours is not None:
            size = hours[:, 1] / np.maximum(hours[:, 0], 1) + 1.0
            share[:, :, _HOURS] = ((hours[:, 2] + 0.5 * size) / (hours[:, 1] + size))[:, None, None]
        self._decades: Floats = np.maximum(-np.log10(np.minimum(share, 1.0)), 0.0)
        self._decades[..., 0] = 0.0

    @classmethod
    def fit(
        cls,
        classes: Ints,
        resource: Ints,
        levels: Levels,
        resources: int,
        principals: Sequence[str] | None = None,
        hours: Ints | None = None,
    ) -> Rarity:
        """Count normal actions: class, resource token, novelty levels and principal of each.

        `resources` is the vocabulary's size; without principals, rates are those of classes alone; `hours` as of the class.
        """
        actions = np.zeros((len(CLASSES), resources), np.int64)
        hits = np.zeros((len(CLASSES), resources, levels.shape[1], 4), np.int64)
        np.add.at(actions, (classes, resource), 1)
        for attribute in range(levels.shape[1]):
            for level in (1, 2, 3):
                rows = np.flatnonzero(levels[:, attribute] >= level)
                np.add.at(hits[:, :, attribute, level], (classes[rows], resource[rows]), 1)
        own = None
        if principals is not None:
            rows = np.flatnonzero(~is_machinery(classes))
            mine = levels[rows]
            mine[:, _HOURS:] = 0
            own = OwnRates.fit([principals[row] for row in rows.tolist()], resource[rows], mine)
        return cls(actions, hits, own, hours)

    def parts(
        self,
        classes: Ints,
        resource: Ints,
        root: Levels,
        principals: Sequence[str] | None = None,
        own: Ints | None = None,
    ) -> tuple[Floats, Floats]:
        """Rarity of what is new in the session of each action, and in its deed: float64 [N] each, decades; 0 for no news.

        Args:
            root: int8 [N, attributes], novelty that follows from nothing broader.
            principals: who acted; without them all are judged by their class.
            own: int64 [N, attributes], their earlier actions with each attribute, which limit what a detail is worth
                (`detection.novelty.most_decades`).
        """
        session, deed = np.zeros(len(classes)), np.zeros(len(classes))
        rows = np.flatnonzero(root.any(axis=1))
        if not len(rows):
            return session, deed
        known = np.minimum(classes[rows], len(self.actions) - 1)
        attributes = np.arange(root.shape[1])
        each: Floats = self._decades[known[:, None], resource[rows, None], attributes, root[rows]]
        if principals is not None and self.own.row:
            each = np.minimum(each, self._own_decades(rows, resource, root, principals, each))
        if own is not None:
            each = np.minimum(each, most_decades(own[rows]))
        of_session = _OF_SESSION[: root.shape[1]]
        session[rows] = each[:, of_session].max(axis=1)
        deed[rows] = each[:, ~of_session].max(axis=1)
        return session, deed

    def _own_decades(
        self, rows: Ints, resource: Ints, root: Levels, principals: Sequence[str], each: Floats
    ) -> Floats:
        """Decades by the principal's own rate of such news, shrunk to its class's, float64 [rows, attributes]."""
        pairs = ((principals[row], int(resource[row])) for row in rows.tolist())
        at = np.array([self.own.row.get(pair, -1) for pair in pairs], np.int64)
        known = at >= 0
        attributes = np.arange(root.shape[1])
        hits = np.where(known[:, None], self.own.hits[at[:, None], attributes, root[rows]], 0)
        actions = np.where(known, self.own.actions[at], 0)[:, None]
        share = (hits + _OWN_SHRINKAGE * 10.0**-each) / (actions + _OWN_SHRINKAGE)
        own: Floats = np.maximum(-np.log10(np.minimum(share, 1.0)), 0.0)
        own[:, _HOURS:] = np.inf
        return own

    def decades(
        self, classes: Ints, resource: Ints, root: Levels, principals: Sequence[str] | None = None
    ) -> Floats:
        """Rarity of each action, float64 [N]: of what is rarest in its session and in the rest; 0 where nothing is new."""
        session, deed = self.parts(classes, resource, root, principals)
        return session + deed

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the counts that are not zero."""

        def counted(counts: Ints) -> list[list[int]]:
            return [[*at, int(counts[tuple(at)])] for at in np.argwhere(counts).tolist()]

        saved = {
            "shape": list(self.hits.shape),
            "actions": counted(self.actions),
            "hits": counted(self.hits),
            "own": self.own.to_list(),
        }
        return saved if self.hours is None else saved | {"hours": self.hours.tolist()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Rarity:
        """Inverse of `to_dict`; a calibration of version 1 has no rates of single principals."""
        shape = tuple(saved["shape"])
        actions, hits = np.zeros(shape[:2], np.int64), np.zeros(shape, np.int64)
        for *at, count in saved["actions"]:
            actions[tuple(at)] = count
        for *at, count in saved["hits"]:
            hits[tuple(at)] = count
        hours = np.array(saved["hours"], np.int64) if "hours" in saved else None
        return cls(actions, hits, OwnRates.from_list(saved.get("own", ()), shape[2]), hours)
