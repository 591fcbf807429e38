"""How serious a flagged action is: how rarely normal work of its class does something as sensitive and as new.

What is new about client and address says that a stranger may be acting, but harm comes from what is done; so they raise
an alert, and not its severity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.sensitivity import LEVELS
from detection.rarity import CLASSES, Floats, Ints

SEVERITIES = ("none", "low", "medium", "high", "critical")

#: Rarity of a deed, in decades, from which normal work's tail is fitted.
_START = 1.0
#: Deeds beyond the start that the scale of all sensitivities weighs as much as, and those that a scale of 0.5 weighs as much as.
_SHRINKAGE, _PRIOR, _PRIOR_SCALE = 10.0, 5.0, 0.5
#: -log10 of the share of normal actions with such deeds, at which an alert is medium, high and critical.
_MEDIUM, _HIGH, _CRITICAL = 2.0, 3.0, 4.0
_MEDIUM_HARM = LEVELS.index("medium")
#: Novelty level of what nobody has done before.
_TO_EVERYBODY = 3
#: Decades less where the principal does that kind of thing anyway, and only a detail is new.
_FAMILIAR = 1.0

#: Times its threshold below which evidence is barely, and from which it is clearly out of habit (version 1).
_BARELY, _CLEAR = 1.5, 2.0


@dataclass(frozen=True, slots=True)
class SeverityScale:
    """How often normal work of a class does something at least as sensitive, and how new that is.

    Attributes:
        actions: int64 [classes], normal actions seen.
        deeds: int64 [classes, levels], those of at least a sensitivity whose deed is rarer than a start.
        excess: float64 [classes, levels], sum of their rarity beyond it, decades.
    """

    actions: Ints
    deeds: Ints
    excess: Floats

    @classmethod
    def fit(cls, classes: Ints, sensitivity: npt.NDArray[np.integer[Any]], deed: Floats) -> SeverityScale:
        """Count normal actions: class, level of sensitivity and rarity of the deed of each."""
        shape = len(CLASSES), len(LEVELS)
        deeds, excess = np.zeros(shape, np.int64), np.zeros(shape)
        for level in range(len(LEVELS)):
            rows = (sensitivity >= level) & (deed > _START)
            deeds[:, level] = np.bincount(classes[rows], minlength=len(CLASSES))
            excess[:, level] = np.bincount(classes[rows], deed[rows] - _START, minlength=len(CLASSES))
        return cls(np.bincount(classes, minlength=len(CLASSES)).astype(np.int64), deeds, excess)

    def rank(self, classes: Ints, sensitivity: npt.NDArray[np.integer[Any]], deed: Floats) -> Floats:
        """-log10 of the share of normal actions that are as sensitive and as new, float64 [N]; 0 where no deed is new."""
        every = (self.excess[:, :1] + _PRIOR * _PRIOR_SCALE) / (self.deeds[:, :1] + _PRIOR)
        scale = (self.excess + _SHRINKAGE * every) / (self.deeds + _SHRINKAGE)
        start = -np.log10((self.deeds + 0.5) / (self.actions + 1.0)[:, None])
        at = classes, sensitivity
        beyond = np.maximum(deed - _START, 0.0) / (scale[at] * np.log(10.0))
        rank: Floats = np.maximum(start[at], 0.0) * np.minimum(deed / _START, 1.0) + beyond
        return rank

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {name: getattr(self, name).tolist() for name in ("actions", "deeds", "excess")}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> SeverityScale:
        """Inverse of `to_dict`."""
        actions, deeds = (np.array(saved[name], np.int64) for name in ("actions", "deeds"))
        return cls(actions, deeds, np.array(saved["excess"], np.float64))


def severity_by_rank(rank: float, sensitivity: int, novelty: int, is_newcomer: bool) -> str:
    """Severity of a flagged action.

    Args:
        rank: from `SeverityScale.rank`.
        sensitivity: level in data.actions.sensitivity.LEVELS.
        novelty: to whom the kind of action is new: 0 nobody, 1 the principal, 2 its peers as well, 3 everybody.
        is_newcomer: whether the principal has no habits yet: everything is new about it, also the best.
    """
    if not novelty:
        rank -= _FAMILIAR
    harmful = LEVELS[sensitivity] == "high"
    if is_newcomer:
        # What nobody ever did and does most harm is serious even so.
        serious = rank >= _CRITICAL and harmful and novelty == _TO_EVERYBODY
        return "high" if serious else "medium" if rank >= _MEDIUM or sensitivity >= _MEDIUM_HARM else "low"
    if rank >= _HIGH:
        return "critical" if rank >= _CRITICAL and harmful else "high"
    return "medium" if rank >= _MEDIUM or sensitivity >= _MEDIUM_HARM else "low"


def newcomers(classes: Ints, actions: Ints, mature: int) -> npt.NDArray[np.bool_]:
    """Principals with fewer than `mature` actions, bool [N]; nodes apart, of which each does what the others do."""
    return np.asarray((classes != CLASSES.index("nodes")) & (actions < mature))


def severity_of(flagged: bool, times: float, sensitivity: int, novelty: int) -> str:
    """Severity by a calibration of version 1: what harm it could do, lowered if peers do such things or it is barely unusual.

    Of what could do most harm, what is far out of habit is critical.

    Args:
        flagged: whether evidence reached its threshold.
        times: evidence over threshold.
        sensitivity: level in data.actions.sensitivity.LEVELS.
        novelty: to whom the kind of action is new: 0 nobody, 1 the principal, 2 its peers as well, 3 everybody.
    """
    if not flagged:
        return "none"
    level = sensitivity - (1 if novelty <= 1 else 0) - (1 if times < _BARELY else 0)
    if level >= SEVERITIES.index("high") and times >= _CLEAR:
        level += 1
    return SEVERITIES[min(max(level, 1), len(SEVERITIES) - 1)]
