"""From surprise to evidence: the arithmetic that turns reconstruction errors into calibrated p-values and verdicts.

Fitting is done offline (`training.calibrate`); this module only applies what was fitted, for training and serving alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTES
from data.actions.fields import FIELDS
from data.actions.sensitivity import LEVELS
from data.actions.vocabulary import Vocabulary
from data.principals.identity import PEOPLE_AND_PIPELINES
from data.principals.ownership import NOBODY
from detection.novelty import MATURE, PriorCounts, counted_levels, novelty_levels, roots
from detection.rarity import CLASSES, SESSION, Rarity, classes_of, is_machinery
from detection.severity import SeverityScale

#: Share of the largest values that a tail is fitted to (peaks over threshold).
TAIL_SHARE = 0.05

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Levels = npt.NDArray[np.int8]
_ATTRIBUTES = list(ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Tail:
    """Exponential tail of a statistic: P(X > x) = TAIL_SHARE * exp(-(x - start) / scale) for x > start.

    Attributes:
        start: quantile at which the tail begins.
        scale: mean excess over `start`.
        count: values it was fitted on.
    """

    start: float
    scale: float
    count: int


#: The attribute whose count says how familiar a field's value is to the principal.
_FIELD_ATTRIBUTE: Mapping[str, str] = {
    "verb": "verb_resource",
    "resource": "verb_resource",
    "namespace": "verb_resource_namespace",
    "name": "object",
    "code": "code",
    "client": "client",
    "place": "place",
    "binding": "binding",
    "impersonates": "impersonates",
    "traits": "traits",
    "images": "images",
    "uri": "uri",
}

#: Columns of these fields in the NLL, those of their attributes, and whether all actions of a session have the same value:
#: what is new in it counts once, not with every action.
_COUNTED = [FIELDS.index(name) for name in _FIELD_ATTRIBUTE]
_COUNTS = [_ATTRIBUTES.index(name) for name in _FIELD_ATTRIBUTE.values()]
_WEARS_OFF = np.isin(list(_FIELD_ATTRIBUTE), SESSION)

#: Worst fields of an action that are counted: an attack differs in a few fields, and the rest is noise.
_TOP_FIELDS = 3

#: Columns that do not count of the machinery: always, and when it acts for others.
_PLACES = np.isin(FIELDS, ("namespace", "name", "binding"))
_CONTENTS = np.isin(FIELDS, ("traits", "images"))

_BINDING = FIELDS.index("binding")
#: Who did this before, with the same outcome, did it by another binding then; see `detection.novelty.counted_levels`.
_DONE = [_ATTRIBUTES.index(name) for name in ("verb_resource_namespace", "code")]

_PLACE = _ATTRIBUTES.index("place")
#: Actions from a place after which it is no longer a new one.
_SETTLED = 10

#: What less than one in so many members of a peer group did is no common habit of theirs.
_OF_FEW = 3
_CONTROLLERS = CLASSES.index("controllers")
#: Least sensitivity at which a newcomer is held to what most of its peers do.
_HARMFUL = LEVELS.index("medium")


def acts_for_others(
    tokens: npt.NDArray[np.integer[Any]], vocabulary: Vocabulary, kinds: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Actions that carry out what another principal asked for, bool [N]: all of controllers, known owner or not."""
    owned = tokens[:, FIELDS.index("owner")] != vocabulary.token("owner", NOBODY)
    return np.asarray(owned | (classes_of(kinds) == _CONTROLLERS))


@dataclass(frozen=True)
class ActionFeatures:
    """What is known of N actions before they are judged.

    Attributes:
        levels: int8 [N, attributes], novelty levels.
        own: int64 [N, attributes], earlier actions of the principal with each attribute.
        actions: int64 [N], earlier actions of the principal.
        resource: int64 [N], token of the resource.
        for_others: bool [N], whether it carries out what another principal asked for.
        sensitivity: int8 [N], level in data.actions.sensitivity.LEVELS, or HARMLESS.
    """

    principals: Sequence[str]
    kinds: Sequence[str]
    levels: Levels
    own: Ints
    actions: Ints
    resource: Ints
    for_others: npt.NDArray[np.bool_]
    sensitivity: npt.NDArray[np.int8]

    @classmethod
    def from_counts(
        cls,
        known: PriorCounts,
        tokens: npt.NDArray[np.integer[Any]],
        vocabulary: Vocabulary,
        principals: Sequence[str],
        kinds: Sequence[str],
        sensitivity: npt.NDArray[np.int8],
        members: Ints | None = None,
    ) -> ActionFeatures:
        """From what the habits knew before each action and its tokens, int [N, F].

        Args:
            members: int64 [N], principals of the peer group. With it, what few of its peers ever did counts as new to them where
                a newcomer does it and it could do harm: that one of twenty has read a secret once is no leave for the next.
        """
        levels = novelty_levels(known)
        if members is not None:
            few = _OF_FEW * known.peers < members[:, None]
            newcomer = (known.actions < MATURE) & (sensitivity >= _HARMFUL) & ~is_machinery(classes_of(kinds))
            levels[few & (levels == 1) & newcomer[:, None]] = 2
        return cls(
            principals=principals,
            kinds=kinds,
            levels=levels,
            own=known.own,
            actions=known.actions,
            resource=tokens[:, FIELDS.index("resource")].astype(np.int64),
            for_others=acts_for_others(tokens, vocabulary, kinds),
            sensitivity=sensitivity,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[ActionFeatures]) -> ActionFeatures:
        """One after the other; at least one part."""
        names, *arrays = ([getattr(part, one.name) for part in parts] for one in fields(cls))
        kinds = arrays.pop(0)
        return cls([*chain(*names)], [*chain(*kinds)], *map(np.concatenate, arrays))

    @cached_property
    def classes(self) -> Ints:
        """Index into CLASSES, int64 [N]."""
        return classes_of(self.kinds)

    @cached_property
    def machinery(self) -> npt.NDArray[np.bool_]:
        """Which are by the cluster's own machinery, bool [N]."""
        return is_machinery(self.classes)

    @cached_property
    def root(self) -> Levels:
        """Novelty that is news of the principal and follows from nothing broader, int8 [N, attributes]."""
        return roots(counted_levels(self.levels, self.actions, self.machinery, self.for_others))


@dataclass(frozen=True, slots=True)
class ActionEvidence:
    """Evidence of N single actions, float64 [N] each, decades.

    Attributes:
        novelty: rarity of what is new.
        error: of the reconstruction error, -log10 of its p-value.
        novelty_evidence: what of the novelty adds up.
        error_evidence: what of the error adds up.
        deed: rarity of what is new apart from client and place.
    """

    novelty: Floats
    error: Floats
    novelty_evidence: Floats
    error_evidence: Floats
    deed: Floats


@cache
def _not_scored(scored: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    return ~np.isin(FIELDS, scored)


#: Format of a calibration: 2 has classes of machinery, rates of single principals, and sums that wait; 3 limits what a detail is
#: worth (`detection.novelty.most_decades`).
VERSION = 3
_SINCE_2 = ("class_scales", "activity")
_TUPLES = ("scored_fields", "sensitivity_weights", "horizons", "person_thresholds", "system_thresholds")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything between the model's NLL and a verdict.

    Attributes:
        scored_fields: fields whose reconstruction error counts.
        tails: principal name, peer group (`group:...`, `namespace:...`) or `kind:...` -> tail of the reconstruction error.
        shrinkage: values a principal must have for its own tail to weigh as much as that of its kind.
        rarity: how rarely normal work shows a novelty.
        sensitivity_weights: how far evidence counts at each sensitivity level.
        gate: evidence below this, in decades, does not add up.
        horizons: seconds over which evidence adds up, shortest first.
        person_thresholds: evidence at which people and pipelines are flagged, for each horizon.
        system_thresholds: the same for the machinery of the cluster.
        budget: what the thresholds were set for, as words for a person.
        scale: what the thresholds were multiplied by since they were set; a bundle's are as set.
        class_scales: what evidence of each of CLASSES is multiplied by, so that one threshold serves all machinery.
        activity: actions of a principal over which evidence adds up, for each horizon, where it acts less often than that.
        severity: how often normal work does something as sensitive and as new; None in version 1.
        version: 1 for calibrations of earlier releases, which go on as they were.
        left_out: actions of the log whose news is in no habit, since they would have been flagged and were not done on another
            occasion; None where every action of the log was counted.
    """

    scored_fields: tuple[str, ...]
    tails: Mapping[str, Tail]
    shrinkage: float
    rarity: Rarity
    sensitivity_weights: tuple[float, ...]
    gate: float
    horizons: tuple[float, ...]
    person_thresholds: tuple[float, ...]
    system_thresholds: tuple[float, ...]
    budget: Mapping[str, Any]
    scale: float = 1.0
    class_scales: tuple[float, ...] = (1.0,) * len(CLASSES)
    activity: tuple[float, ...] = ()
    severity: SeverityScale | None = None
    version: int = 1
    left_out: int | None = None

    def scaled(self, scale: float) -> Calibration:
        """The same with every threshold as set, times a number: below 1 more is flagged, above 1 less."""
        change = scale / self.scale
        if change == 1.0:
            return self
        return replace(
            self,
            person_thresholds=tuple(limit * change for limit in self.person_thresholds),
            system_thresholds=tuple(limit * change for limit in self.system_thresholds),
            scale=scale,
        )

    def tail(self, principal: str, kind: str) -> Tail:
        """Tail of a principal, shrunk to that of its kind (a newcomer has its kind's)."""
        broad = self.tails.get(f"kind:{kind}") or self.tails["kind:any"]
        own = self.tails.get(principal)
        if own is None:
            return broad
        share = own.count / (own.count + self.shrinkage)
        start, scale = (
            share * own.start + (1 - share) * broad.start,
            share * own.scale + (1 - share) * broad.scale,
        )
        return Tail(start, scale, own.count)

    def thresholds(self, kinds: Sequence[str]) -> Floats:
        """Evidence at which each action is flagged, float64 [N, horizons]."""
        person = np.array([kind in PEOPLE_AND_PIPELINES for kind in kinds], bool)[:, None]
        return np.where(person, np.array(self.person_thresholds), np.array(self.system_thresholds))

    def error(self, nll: npt.NDArray[np.float32], features: ActionFeatures) -> Floats:
        """Reconstruction error that is calibrated: the sum of an action's worst fields, nats. float64 [N]."""
        if not len(nll):
            return np.empty(0)
        fields = self.costs(nll, features)
        worst: Floats = np.partition(fields, -_TOP_FIELDS, axis=1)[:, -_TOP_FIELDS:].sum(axis=1)
        return worst

    def costs(self, nll: npt.NDArray[np.float32], features: ActionFeatures) -> Floats:
        """What each field of an action costs, nats, 0 for a field that is not scored. float64 [N, F].

        A field costs no more than the principal's own counts allow: what it did k times in n actions is worth at most
        ln((n + 1) / k), however badly the model reconstructs it. So what is done again wears off without retraining. Where
        the cluster's machinery acts, and what a known principal asked it for, does not count, nor does the binding of what the
        principal did before.

        Args:
            nll: float32 [N, F], reconstruction NLL of the same actions.
        """
        cost = nll.astype(np.float64)
        counted, times = cost[:, _COUNTED], features.own[:, _COUNTS]
        most = np.log((features.actions + 1.0)[:, None] / np.maximum(times, 1))
        counted = np.where(times > 0, np.minimum(counted, most), counted)
        cost[:, _COUNTED] = counted / np.where(_WEARS_OFF, 1.0 + times, 1.0)
        machinery = features.machinery[:, None]
        cost[machinery & _PLACES | machinery & features.for_others[:, None] & _CONTENTS] = 0.0
        cost[(features.own[:, _DONE] > 0).all(axis=1), _BINDING] = 0.0
        cost[:, _not_scored(self.scored_fields)] = 0.0
        return cost

    def weigh(self, nll: npt.NDArray[np.float32], features: ActionFeatures) -> ActionEvidence:
        """Evidence of single actions, and how far each adds up.

        Evidence counts as far as the action could do harm, and not at all below `gate`. A machine that repeats itself in a
        way the model finds odd is no burst: its reconstruction error counts only where something is new as well.
        """
        root, classes = features.root, features.classes
        own = features.own if self.version > 2 else None
        session, deed = self.rarity.parts(classes, features.resource, root, features.principals, own)
        novelty = session + deed
        error = self.evidence(self.error(nll, features), features.principals, features.kinds)
        weights = np.array([*self.sensitivity_weights, 0.0])  # the last is that of HARMLESS
        weight = weights[features.sensitivity]
        new, wrong = novelty * weight, error * weight
        wrong = np.where(is_machinery(classes) & (new <= 0), 0.0, wrong)
        new, wrong = np.where(new > self.gate, new, 0.0), np.where(wrong > self.gate, wrong, 0.0)
        if self.version > 1:
            scale = self._scales(features, classes, root)
            new, wrong = new * scale, wrong * scale
        return ActionEvidence(novelty, error, new, wrong, deed)

    def _scales(self, features: ActionFeatures, classes: Ints, root: Levels) -> Floats:
        """What evidence of each action is multiplied by, float64 [N].

        The control plane does rare things by itself, so its evidence counts for less; but not where its credentials are used
        from a place that they were hardly ever used from.
        """
        here = features.own[:, _PLACE]
        elsewhere = (here < _SETTLED) & (2 * here < features.actions) | (root[:, _PLACE] > 0)
        scale: Floats = np.where(elsewhere, 1.0, np.asarray(self.class_scales)[classes])
        return scale

    def verdict(self, sums: Floats, kinds: Sequence[str]) -> tuple[Floats, Floats]:
        """Evidence and threshold of each action, float64 [N] each, at the horizon where it stands out most.

        Args:
            sums: float64 [N, horizons], from `detection.evidence.Accumulator`.
        """
        return stand_out(sums, self.thresholds(kinds))

    def evidence(self, statistic: Floats, principals: Sequence[str], kinds: Sequence[str]) -> Floats:
        """-log10 of the p-value of each statistic under its principal's tail, float64 [N].

        Below the tail's start the p-value is not resolved: evidence runs linearly from 0 to -log10(TAIL_SHARE).
        """
        keys = list(zip(principals, kinds, strict=True))
        place_of = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        which = np.array([place_of[key] for key in keys], np.int64)
        tails = [self.tail(*key) for key in place_of]
        start = np.array([tail.start for tail in tails], np.float64)[which]
        scale = np.array([tail.scale for tail in tails], np.float64)[which]
        at_start = -np.log10(TAIL_SHARE)
        below = at_start * np.clip(statistic / np.maximum(start, 1e-9), 0.0, 1.0)
        beyond = at_start + (statistic - start) / (scale * np.log(10.0))
        evidence: Floats = np.where(statistic > start, beyond, below)
        return evidence

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        tails = {name: [tail.start, tail.scale, tail.count] for name, tail in sorted(self.tails.items())}
        keys = (*_TUPLES, *_SINCE_2, "shrinkage", "gate", "budget", "version", "left_out")
        severity = None if self.severity is None else self.severity.to_dict()
        saved = {key: getattr(self, key) for key in keys}
        return saved | {"rarity": self.rarity.to_dict(), "tails": tails, "severity": severity}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`."""
        version = int(saved.get("version", 1))
        keys = _TUPLES if version == 1 else (*_TUPLES, *_SINCE_2)
        tuples: dict[str, Any] = {key: tuple(saved[key]) for key in keys}
        return cls(
            tails={name: Tail(float(a), float(b), int(c)) for name, (a, b, c) in saved["tails"].items()},
            shrinkage=float(saved["shrinkage"]),
            rarity=Rarity.from_dict(saved["rarity"]),
            gate=float(saved["gate"]),
            budget=dict(saved["budget"]),
            severity=SeverityScale.from_dict(saved["severity"]) if saved.get("severity") else None,
            version=version,
            left_out=saved.get("left_out"),
            **tuples,
        )


def stand_out(sums: Floats, limits: Floats) -> tuple[Floats, Floats]:
    """Evidence and threshold of each action at the horizon where it stands out most, float64 [N] each.

    Args:
        sums, limits: float64 [N, horizons], evidence and that at which it is flagged.
    """
    if not len(sums):
        return np.empty(0), np.empty(0)
    rows, at = np.arange(len(sums)), (sums / limits).argmax(axis=1)
    return sums[rows, at], limits[rows, at]
