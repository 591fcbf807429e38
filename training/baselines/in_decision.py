"""Other errors inside the product's decision: what the autoencoder is worth when everything around it stays as it is.

Each model of errors takes the place of the autoencoder in the detector. Habits, rarity, tails, sums and thresholds are those of
the product, fitted again on the same held-back normal actions (`training.calibrate.fit`) with the errors of that model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self, cast

import numpy as np
import numpy.typing as npt

from data.actions.fields import FIELDS
from data.arrays import Ints
from data.dataset.table import ActionTable
from detection.bundle import Bundle
from detection.calibration import ActionEvidence, ActionFeatures, Calibration
from detection.detector import Detector, Scores
from detection.reconstruction import Model, Nll, Reconstruction
from detection.windows import Cut
from training.baselines.base import Prediction
from training.baselines.next_action import NextActionLstm
from training.baselines.witten_bell import WittenBell
from training.calibrate import CalibrationConfig, HeldBack, fit
from training.stretch import Stretch, window_inputs, windows_in_order

_BATCH = 2048
_VERB, _RESOURCE = FIELDS.index("verb"), FIELDS.index("resource")
#: What an n-gram is over, as that of the raw baseline; its error is shared among three of them, as many as are counted.
_SYMBOL = [FIELDS.index(name) for name in ("verb", "resource", "namespace", "code")]
_SHARED = [FIELDS.index(name) for name in ("verb", "namespace", "code")]
#: Fields that are context only.
_SCORED = [index for index, name in enumerate(FIELDS) if name not in ("gap", "owner")]


class ErrorModel(ABC):
    """Errors by field of actions that come in the order of the log; `title` is its name in tables."""

    title: ClassVar[str]
    #: How its errors become evidence.
    make: type[Calibration] = Calibration

    @abstractmethod
    def nll(self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints) -> Nll:
        """NLL of each field of the newest action of windows, float32 [N, F]; a model that counts learns them.

        `tokens` int64 [N, W, F] is padded with 0 at the end.
        """

    @contextmanager
    def fork(self) -> Iterator[None]:
        """Learn on trial: on exit the model is what it was on entry."""
        yield

    def fit(self, table: ActionTable, window: int) -> Nll:
        """Learn the fitting part of a dataset; returns the errors of the held-back actions in the order of the log."""
        self._over(table, "train", window)
        return self._over(table, "calibration", window)

    def _over(self, table: ActionTable, split: str, window: int) -> Nll:
        rows = windows_in_order(table, split)
        return np.concatenate(
            [
                self.nll(*window_inputs(table, rows[begin : begin + _BATCH], window))
                for begin in range(0, len(rows), _BATCH)
            ]
        )


class FieldCounts(ErrorModel):
    """Interpolated counts of each field's value, by the chain rule: given the verb and resource of the same action.

    Contexts from broad to narrow: anyone, the peer group, the principal; then the principal with this verb and resource, for verb
    and resource themselves with those of its previous action.
    """

    title: ClassVar[str] = "counts in the decision"

    def __init__(self) -> None:
        self.counts = WittenBell()
        self._values: list[set[int]] = [set() for _ in FIELDS]

    def nll(self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints) -> Nll:
        """See `ErrorModel.nll`."""
        out = np.zeros((len(tokens), len(FIELDS)), np.float32)
        rows = np.arange(len(tokens))
        newest = tokens[rows, lengths - 1].tolist()
        before = tokens[rows, np.maximum(lengths - 2, 0)].tolist()
        columns = (newest, before, lengths.tolist(), principal.tolist(), group.tolist())
        for row, (mine, last, length, who, peers) in enumerate(zip(*columns, strict=True)):
            actor = who if who else (who, peers)
            previous = (last[_VERB], last[_RESOURCE]) if length > 1 else None
            for field in _SCORED:
                value = mine[field]
                if field == _VERB:
                    narrow: tuple[object, ...] = (field, actor, "after", previous)
                elif field == _RESOURCE:
                    narrow = (field, actor, mine[_VERB], previous)
                else:
                    narrow = (field, actor, mine[_VERB], mine[_RESOURCE])
                contexts = (field, (field, "group", peers), (field, "who", actor), narrow)
                known = self._values[field]
                likelihood = self.counts.likelihood(contexts, value, 1.0 / (len(known) + 1))
                known.add(value)
                out[row, field] = -np.log(likelihood)
        return out

    @contextmanager
    def fork(self) -> Iterator[None]:
        """See `ErrorModel.fork`."""
        values = [set(known) for known in self._values]
        with self.counts.fork():
            yield
        self._values = values


class TrigramCounts(ErrorModel):
    """The n-gram baseline's error: an action (verb, resource, namespace, answer) after the two before it."""

    title: ClassVar[str] = "n-gram in the decision"

    def __init__(self) -> None:
        self.counts = WittenBell()
        self._known: set[tuple[int, ...]] = set()

    def nll(self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints) -> Nll:
        """See `ErrorModel.nll`."""
        out = np.zeros((len(tokens), len(FIELDS)), np.float32)
        columns = (tokens[:, :, _SYMBOL].tolist(), lengths.tolist(), principal.tolist(), group.tolist())
        for row, (actions, length, who, peers) in enumerate(zip(*columns, strict=True)):
            actor = who if who else (who, peers)
            symbol, last, earlier = (
                tuple(actions[length - back]) if length >= back else () for back in (1, 2, 3)
            )
            contexts = (0, ("group", peers), ("who", actor), (actor, last), (actor, earlier, last))
            likelihood = self.counts.likelihood(contexts, symbol, 1.0 / (len(self._known) + 1))
            self._known.add(symbol)
            out[row, _SHARED] = -np.log(likelihood) / len(_SHARED)
        return out

    @contextmanager
    def fork(self) -> Iterator[None]:
        """See `ErrorModel.fork`."""
        known = set(self._known)
        with self.counts.fork():
            yield
        self._known = known


class NextActionErrors(ErrorModel):
    """The errors of the next-action LSTM baseline, which is fitted already."""

    title: ClassVar[str] = "next-action LSTM in the decision"

    def __init__(self, lstm: NextActionLstm) -> None:
        self.lstm = lstm

    def nll(self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints) -> Nll:
        """See `ErrorModel.nll`."""
        return self.lstm.nll(padded_in_front(tokens, lengths), principal, group).astype(np.float32)

    def fit(self, table: ActionTable, window: int) -> Nll:
        """See `ErrorModel.fit`."""
        return self._over(table, "calibration", window)


class NoveltyAloneCalibration(Calibration):
    """The calibration without errors: what is new is all the evidence there is."""

    __slots__ = ()

    def weigh(self, nll: Nll, features: ActionFeatures) -> ActionEvidence:
        """See `Calibration.weigh`."""
        weighed = Calibration.weigh(self, nll, features)
        return replace(weighed, error_evidence=weighed.novelty_evidence)


class NoErrors(ErrorModel):
    """No model at all."""

    title: ClassVar[str] = "novelty alone in the decision"
    make = NoveltyAloneCalibration

    def nll(self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints) -> Nll:  # noqa: ARG002
        """See `ErrorModel.nll`."""
        return np.zeros((len(tokens), len(FIELDS)), np.float32)

    def fit(self, table: ActionTable, window: int) -> Nll:  # noqa: ARG002
        """See `ErrorModel.fit`."""
        return np.zeros((len(table.windows["calibration"]), len(FIELDS)), np.float32)


def padded_in_front(tokens: Ints, lengths: Ints) -> Ints:
    """Windows padded at the end, int64 [N, W, F], padded in front instead, so that the newest action is the last."""
    width = tokens.shape[1]
    steps = np.arange(width) - (width - lengths[:, None])
    out = np.take_along_axis(tokens, np.maximum(steps, 0)[:, :, None], axis=1)
    out[steps < 0] = 0
    return out


class _ErrorsInPlace(Reconstruction):
    """Stands where the detector has its autoencoder. It expects nothing, so that explanations name no alternatives."""

    def __init__(self, errors: ErrorModel, tokens: int) -> None:
        super().__init__(cast(Model, _no_model))
        self.errors, self._tokens = errors, tokens

    def nll(self, cut: Cut, ids: Ints, groups: Ints) -> Nll:
        """See `Reconstruction.nll`."""
        if not len(ids):
            return np.empty((0, len(FIELDS)), np.float32)
        return self.errors.nll(cut.tokens(), cut.lengths, ids, groups)

    def log_probs(self, cut: Cut, ids: Ints, groups: Ints, rows: Ints) -> npt.NDArray[np.float32]:  # noqa: ARG002
        """See `Reconstruction.log_probs`."""
        return np.zeros((len(rows), self._tokens), np.float32)


def _no_model(*_: Any) -> Any:
    raise RuntimeError("There is no autoencoder here.")


class SwappedDetector(Detector):
    """The product's detector with other errors; a fork forks what these have learned as well."""

    def __init__(self, bundle: Bundle, errors: ErrorModel) -> None:
        super().__init__(bundle, model=cast(Model, _no_model))
        self.errors = errors
        self.reconstruction = _ErrorsInPlace(errors, sum(bundle.vocabulary.sizes))

    @contextmanager
    def fork(self) -> Iterator[None]:
        """See `Detector.fork`."""
        with super().fork(), self.errors.fork():
            yield


class InDecision:
    """The product with the errors of another model, behind the detectors' interface.

    A copy (`copy.deepcopy`) starts from the state after fitting, whatever was predicted since.
    """

    def __init__(self, bundle: Bundle, errors: ErrorModel) -> None:
        """`bundle` is calibrated for the errors."""
        self.title = errors.title
        self.bundle, self._errors = bundle, errors
        self._detector: Detector | None = None

    @classmethod
    def fitted(
        cls, bundle: Bundle, errors: ErrorModel, table: ActionTable, held: HeldBack, config: CalibrationConfig
    ) -> Self:
        """Learn a dataset, and calibrate on its held-back part; `held` is of that dataset."""
        nll = errors.fit(table, bundle.window)
        calibration = fit(table, held, nll, config, partial(errors.make)).calibration
        # The habits are the bundle's, without what its own errors made suspect.
        calibration = replace(calibration, left_out=bundle.calibration.left_out)
        return cls(replace(bundle, calibration=calibration), errors)

    def detector(self) -> SwappedDetector:
        """A new detector in the state after fitting."""
        return SwappedDetector(self.bundle, deepcopy(self._errors))

    def predict(self, stretch: Stretch) -> Prediction:
        """As `training.baselines.product.ProductDetector.predict`."""
        if stretch.events is None:
            raise ValueError("The product scores events; a dataset does not keep them.")
        if self._detector is None:
            self._detector = self.detector()
        scores: Scores = self._detector.score(stretch.events)
        times = scores.evidence / scores.threshold
        return Prediction(times, scores.flagged, scores.severity, scores.nll.astype(np.float64))

    def __deepcopy__(self, memo: dict[int, Any]) -> InDecision:
        return InDecision(self.bundle, self._errors)


def error_models(lstm: NextActionLstm) -> list[ErrorModel]:
    """Every model of errors to compare with; `lstm` is fitted."""
    return [NoErrors(), FieldCounts(), TrigramCounts(), NextActionErrors(lstm)]
