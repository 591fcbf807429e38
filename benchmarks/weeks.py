"""How well a model that is not trained again tells attacks from normal work, week by week.

Run: python -m benchmarks.weeks BUNDLE FOLDER

FOLDER is what `kubehabit data simulate` writes. The attack actions of all weeks are ranked against the normal actions of
each, so that only the normal work differs; people and pipelines alone. A week in which normal work looks odder has a smaller
area under the curve.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.events.left_out import LeftOut
from data.events.reader import read_events
from data.principals.identity import PEOPLE_AND_PIPELINES
from detection.bundle import Bundle
from detection.detector import Detector

WEEK = 7 * 86_400_000_000
Floats = npt.NDArray[np.float64]


def scored(bundle: Bundle, folder: Path) -> tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.int8]]:
    """The actions of people and pipelines, as columns.

    Returns:
        Week, int64 [N]; error as it is counted, sum of errors and novelty, float64 [N, 3]; 1 for an action of an attack, 2 for
        another that the labels name, 0 for normal work, int8 [N].
    """
    labels = json.loads((folder / "labels.json").read_text())
    kind_of: dict[str, int] = {}
    for run in labels:
        for key in ("induced_audit_ids", "ignore_audit_ids", "audit_ids"):
            code = 1 if key == "audit_ids" and run["kind"] == "attack" else 2
            kind_of |= dict.fromkeys(run.get(key, ()), code)
    detector = Detector(bundle)
    times, scores, kinds = [], [], []
    for chunk in read_events(folder / "labelled.jsonl.zst", LeftOut()):
        found = detector.score(chunk)
        mine = np.array([kind in PEOPLE_AND_PIPELINES for kind in found.kind], bool)
        named = [kind_of.get(chunk[index].auditID, 0) for index in found.event.tolist()]
        times.append(found.time.astype(np.int64)[mine])
        scores.append(np.stack([found.error, found.surprise, found.novelty], axis=1)[mine])
        kinds.append(np.array(named, np.int8)[mine])
    time = np.concatenate(times)
    return (time - time.min()) // WEEK, np.concatenate(scores), np.concatenate(kinds)


def by_week(
    week: npt.NDArray[np.int64], score: Floats, kind: npt.NDArray[np.int8]
) -> list[tuple[int, float]]:
    """Of each week: normal actions, and the area under the curve of all attack actions against them."""
    from sklearn.metrics import roc_auc_score

    attacks, found = score[kind == 1], []
    for one in range(int(week.max()) + 1):
        normal = score[(kind == 0) & (week == one)]
        truth = np.r_[np.ones(len(attacks)), np.zeros(len(normal))]
        found.append((len(normal), float(roc_auc_score(truth, np.r_[attacks, normal]))))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    week, scores, kind = scored(Bundle.load(given.bundle), given.folder)
    print("| actions | score | " + " | ".join(f"week {one + 1}" for one in range(int(week.max()) + 1)) + " |")
    for title, rows in (("all", np.ones(len(kind), bool)), ("with news", scores[:, 2] > 0)):
        for name, column in (("error as it is counted", 0), ("sum of errors", 1)):
            found = by_week(week[rows], scores[rows, column], kind[rows])
            print(f"| {title} | {name} | " + " | ".join(f"{area:.4f}" for _, area in found) + " |")


if __name__ == "__main__":
    main()
