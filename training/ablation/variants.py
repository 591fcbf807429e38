"""Variants of an ablation (`configs/ablate.yaml`), and the calibration with one of its choices changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from data.arrays import Floats
from data.errors import KubehabitError
from detection.calibration import ActionEvidence, ActionFeatures, Calibration
from detection.reconstruction import Nll

SHIPPED = "shipped"


@dataclass(frozen=True, slots=True)
class Variant:
    """One choice changed; the attributes are explained in `configs/ablate.yaml`."""

    name: str
    block: str
    train: Mapping[str, Any] = field(default_factory=dict)
    blind: tuple[str, ...] = ()
    seed: int | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """Its changes to the experiment, as options of Lightning's command line."""
        seeds = {} if self.seed is None else {"seed_everything": self.seed, "data.seed": self.seed}
        return [f"--{key}={json.dumps(value)}" for key, value in (*seeds.items(), *self.train.items())]

    @property
    def model(self) -> str:
        """Key of its model; variants with equal keys share one."""
        return json.dumps([self.options, sorted(self.blind)])


@dataclass(frozen=True, slots=True)
class Block:
    """Variants of one kind and the question they answer."""

    title: str
    question: str
    variants: tuple[Variant, ...]

    @classmethod
    def from_dict(cls, title: str, question: str, variants: Sequence[Mapping[str, Any]]) -> Block:
        """From YAML."""
        made = (Variant(**{**one, "block": title, "blind": tuple(one.get("blind", ()))}) for one in variants)
        return cls(title, question, tuple(made))


@dataclass(frozen=True, slots=True)
class AblateConfig:
    """All variants; see `configs/ablate.yaml`."""

    blocks: tuple[Block, ...]

    @classmethod
    def load(cls, path: Path) -> AblateConfig:
        """From YAML; KubehabitError if it cannot be read, a key is unknown, a name stands twice, or `shipped` is missing."""
        try:
            found = yaml.safe_load(path.read_text("utf-8"))
            blocks = tuple(Block.from_dict(**block) for block in found["blocks"])
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise KubehabitError(
                f"Cannot read the variants {path}: {error}. Start from the shipped configs/ablate.yaml."
            ) from error
        names = [variant.name for block in blocks for variant in block.variants]
        if len(set(names)) < len(names) or SHIPPED not in names:
            raise KubehabitError(
                f"{path}: every variant needs a name of its own, and one must be named {SHIPPED}, to compare with."
            )
        return cls(blocks)

    def chosen(self, only: Sequence[str]) -> list[Variant]:
        """All variants, or those named and the shipped one; KubehabitError if there is no variant of a name."""
        every = [variant for block in self.blocks for variant in block.variants]
        unknown = set(only) - {variant.name for variant in every}
        if unknown:
            raise KubehabitError(
                f"No variant {', '.join(sorted(unknown))}. There are: {', '.join(v.name for v in every)}."
            )
        return [variant for variant in every if not only or variant.name in (SHIPPED, *only)]


@dataclass(frozen=True, slots=True)
class Ablated(Calibration):
    """The calibration with one of its choices changed.

    Attributes:
        fields: worst fields of an action that are summed; 0 for all.
        own_counts: whether a field costs no more than the principal's own counts allow.
        last: actions of the principal whose errors are pooled, this one included.
        pool: how they are pooled.
        parts: what evidence is made of; with one part alone it takes the other's place as well.
    """

    fields: int = 3
    own_counts: bool = True
    last: int = 1
    pool: Literal["mean", "max"] = "mean"
    parts: Literal["both", "novelty", "error"] = "both"

    def error(self, nll: Nll, deeds: ActionFeatures) -> Floats:
        """See `Calibration.error`."""
        if not len(nll):
            return np.empty(0)
        known = deeds if self.own_counts else replace(deeds, own=np.zeros_like(deeds.own))
        costs = np.sort(Calibration.costs(self, nll, known), axis=1)
        error: Floats = costs[:, -self.fields :].sum(axis=1)
        return error if self.last == 1 else _pooled(error, deeds.principals, self.last, self.pool)

    def weigh(self, nll: Nll, deeds: ActionFeatures) -> ActionEvidence:
        """See `Calibration.weigh`."""
        weighed = Calibration.weigh(self, nll, deeds)
        if self.parts == "novelty":
            return replace(weighed, error_evidence=weighed.novelty_evidence)
        if self.parts == "error":
            # Without the rule that the machinery's errors count only beside something new.
            wrong = weighed.error * np.asarray(self.sensitivity_weights)[deeds.sensitivity]
            wrong = np.where(wrong > self.gate, wrong, 0.0)
            return replace(weighed, novelty_evidence=wrong, error_evidence=wrong)
        return weighed


def _pooled(error: Floats, principals: Sequence[str], last: int, pool: str) -> Floats:
    """Mean or maximum of each principal's last errors, float64 [N]."""
    out = np.empty(len(error))
    names = np.asarray(principals, object)
    for name in set(principals):
        rows = np.flatnonzero(names == name)
        padded = np.concatenate([np.full(last - 1, np.nan), error[rows]])
        windows = np.lib.stride_tricks.sliding_window_view(padded, last)
        out[rows] = np.nanmean(windows, axis=1) if pool == "mean" else np.nanmax(windows, axis=1)
    return out
