"""What each half of the network is worth: one trained network, its decoders apart and mixed, in the decision and by themselves.

The product mixes them half and half. Beside that stands the mixture that is likeliest on the held-back actions, by field and with
a quarter for either at least. Thresholds are set again on the held-back normal actions of the dataset for every row. *In the
decision* the errors stand where the product's do; *by themselves* they are the only evidence, with nothing that is new beside
them.

    python -m benchmarks.decoders MODEL DATASET LOG:LABELS [LOG:LABELS ...] [--report OUT.md]

MODEL is a registered model (models:/kubehabit@champion), whose run keeps the weights. Recordings are reported apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.actions.fields import FIELDS
from data.arrays import Floats, Ints
from detection.bundle import Bundle
from detection.reconstruction import Nll
from training.ablation.ablate import judge
from training.ablation.exam import Errors, Exam
from training.ablation.variants import Variant
from training.calibrate import CalibrationConfig
from training.evaluation.metrics import RATES, read_labels
from training.model import Autoencoder, ModelConfig, field_nll, targets_at
from training.registry import download
from training.warm_start import weights_of

#: Rounds of expectation maximisation, and the least share of either decoder, of the fitted mixture.
_ROUNDS, _LEAST = 200, 0.25

_HEADS = ("errors", "caught", "strict per 10,000", *(f"caught at {rate}" for rate in RATES))


class BothDecoders:
    """A network as a model that gives the NLL of both decoders side by side, float32 [B, P, 2F]."""

    def __init__(self, network: Autoencoder) -> None:
        self.network = network.eval()

    def __call__(
        self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints, positions: Ints
    ) -> tuple[Nll, Nll]:
        """See `detection.reconstruction.Model`; there are no log-probabilities."""
        given = [
            torch.from_numpy(np.ascontiguousarray(one))
            for one in (tokens, lengths, principal, group, positions)
        ]
        targets, sizes = targets_at(given[0], given[1], given[4]), self.network.config.vocabulary
        with torch.no_grad():
            cost = self.network.cost_of_kinds(targets)
            sides = [field_nll(logits, targets, sizes) + cost for logits in self.network(*given)]
        return torch.cat(sides, dim=-1).numpy(), np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Weighing:
    """A row of the table: how the two decoders become one error; `share` float64 [F] is that of the rebuilding one."""

    title: str
    share: np.ndarray[Any, np.dtype[np.float64]]

    def __call__(self, both: Nll) -> Nll:
        """NLL of the mixture, float32 [N, F], of both decoders' [N, 2F]."""
        rebuilt, predicted = np.split(both.astype(np.float64), 2, axis=1)
        with np.errstate(divide="ignore"):
            mixed = np.logaddexp(np.log(self.share) - rebuilt, np.log1p(-self.share) - predicted)
        return (-mixed).astype(np.float32)


def likeliest_share(both: Nll, weight: Floats) -> Floats:
    """Share of the rebuilding decoder in each field's mixture that makes the truth likeliest, float64 [F].

    By expectation maximisation, which for two fixed parts has no other optimum to end in (Dempster et al. 1977).

    Args:
        both: float32 [N, 2F], NLL of both decoders on the same actions.
        weight: [N], of each action.
    """
    rebuilt, predicted = np.split(both.astype(np.float64), 2, axis=1)
    ahead = rebuilt - predicted  # log of how much likelier the prediction made the truth
    share = np.full(ahead.shape[1], 0.5)
    weight = weight / weight.sum()
    for _ in range(_ROUNDS):
        odds = np.log(share / (1 - share)) - ahead
        share = np.clip(weight @ (1 / (1 + np.exp(-np.clip(odds, -60, 60)))), _LEAST, 1 - _LEAST)
    return share


def evenly(principals: Sequence[str]) -> Floats:
    """Weight of each action, float64 [N]: principals count alike as far as the square root of their actions."""
    _, who, count = np.unique(np.asarray(principals, object), return_inverse=True, return_counts=True)
    weight: Floats = 1.0 / np.sqrt(count[who])
    return weight


def network_of(bundle: Bundle, model_uri: str) -> Autoencoder:
    """The network of a registered model with its weights."""
    config = bundle.meta["model"]
    network = Autoencoder(ModelConfig(**config | {"vocabulary": tuple(config["vocabulary"])}))
    saved = weights_of(bundle, model_uri)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in saved.items()})
    return network


def rows_of(
    exam: Exam, both: Errors, weighings: Sequence[Weighing]
) -> list[tuple[str, str, Mapping[str, float]]]:
    """(place in the decision, title, figures of `training.ablation.ablate.judge`) of every weighing and of no network."""
    budget, rows = CalibrationConfig(), []
    for place, parts in (("in the decision", "both"), ("by themselves", "error")):
        for weighing in weighings:
            errors = Errors(*(weighing(one) for one in (both.held, both.whole, both.clean)))
            rows.append((place, weighing.title, judge(exam, errors, _variant(parts), budget)))
            if parts == "both" and weighing is weighings[-1]:
                rows.append(
                    (place, "no network: novelty alone", judge(exam, errors, _variant("novelty"), budget))
                )
    return rows


def _variant(parts: str) -> Variant:
    return Variant(parts, "decoders", judge={"parts": parts})


def markdown(found: Mapping[str, Sequence[tuple[str, str, Mapping[str, float]]]]) -> str:
    """A table for each recording."""
    lines = []
    for name, rows in found.items():
        lines += [f"| {name} | {' | '.join(_HEADS)} |", f"|{'---|' * (len(_HEADS) + 1)}"]
        for place, title, figures in rows:
            caught = [figures["recall"], *(figures[f"recall_at_{rate}"] for rate in RATES)]
            first, *others = (f"{share:.0%}" for share in caught)
            cells = (place, title, first, f"{figures['strict_per_10k']:.2f}", *others)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("recordings", nargs="+", help="LOG:LABELS")
    parser.add_argument("--report", type=Path, help="also write the tables as Markdown")
    options = parser.parse_args(given)
    bundle = Bundle.load(download(options.model))
    network = network_of(bundle, options.model)
    every = np.ones(len(FIELDS))
    found = {}
    for recording in options.recordings:
        log, _, labels = recording.partition(":")
        exam = Exam.prepare(options.dataset, Path(log), read_labels(Path(labels)))
        both = Errors.compute(BothDecoders(network), bundle.window, exam, ())
        weighings = [
            Weighing("rebuilt alone", every),
            Weighing("predicted alone", 0.0 * every),
            Weighing("fitted by field", likeliest_share(both.held, evenly(exam.held.deeds.principals))),
            Weighing("**half and half**", 0.5 * every),
        ]
        found[Path(log).name.split(".")[0]] = rows_of(exam, both, weighings)
    text = markdown(found)
    print(text)
    if options.report:
        options.report.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
