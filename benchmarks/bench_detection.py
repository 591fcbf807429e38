"""Detection from start to finish: builds a dataset from the shipped normal recording, trains, and judges on the labelled one.

Every baseline is fitted on the same dataset to the same budget. Rows of commands that need data from elsewhere or hours of time
(published sets, a simulated month) are taken from what those commands left in `benchmarks/results`; see COMPANIONS.

Run: python -m benchmarks.bench_detection [--report FILE.md] [--home DIR] [--once]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, Row, at_least, at_most, report
from data.actions.encoder import ActionSettings
from data.paths import Recordings

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "recordings"
CONFIG = RECORDINGS.parent.parent / "configs" / "train.yaml"
#: Names under which other commands report detection (`benchmarks.report.report`); their rows are added to the table if
#: there.
COMPANIONS = ("published-hdfs", "published-adfa-ld", "published-openstack", "twin-detection")

#: Metrics of a training that are times, and so differ between equal runs.
CHANGING = ("seconds", "per_second")


def number(value: float | None) -> float:
    """A figure as a row can hold it: what does not exist is no number, and meets no bar."""
    return math.nan if value is None else float(value)


def rows_of(figures: Mapping[str, Any]) -> list[Row]:
    """The bars that a labelled recording can show, from the figures of `kubehabit evaluate --data`."""
    product = [
        at_least("recall at the shipped threshold", figures["recall"], "of attack runs", 0.90),
        at_least(
            "recall at the shipped threshold, habit-only",
            number(figures["recall_by_class"].get("habit-only")),
            "of attack runs",
            0.80,
        ),
        at_most(
            "false incidents at the shipped threshold",
            figures["false_per_10k_person_actions"],
            "per 10,000 person-and-pipeline actions",
            3.0,
        ),
        Row(
            "false incidents at the shipped threshold, strict",
            figures["strict_false_per_10k_person_actions"],
            "per 10,000 person-and-pipeline actions",
        ),
        at_most(
            "false incidents at the shipped threshold, system",
            figures["false_per_1m_system_actions"],
            "per 1,000,000 system actions",
            4.0,
        ),
        at_least("recall at 1 per 10,000, strict curve", figures["recall_at"]["1"], "of attack runs", 0.80),
        Row(
            "recall at 1 per 10,000, shadows of attacks excused",
            figures["recall_at_as_counted"]["1"],
            "of attack runs",
        ),
        at_most(
            "look-alikes raised high",
            figures["lookalikes_high"] / max(figures["lookalikes"], 1),
            "of look-alikes",
            0.30,
        ),
        at_most("median detection", number(figures["median_actions_to_detection"]), "malicious actions", 3),
        at_least(
            "recall, same address and client",
            number(figures["recall_by_mode"].get("same")),
            "of attack runs",
            0.90,
        ),
    ]
    return [*product, *_beside_best_baseline(figures), *_of_detectors(figures)]


def _beside_best_baseline(figures: Mapping[str, Any]) -> list[Row]:
    rows = []
    for rate, found in figures["compared_with_best_baseline"].items():
        best = f"{found['best_baseline']}, at {rate} per 10,000"
        share = found["share_of_missed_caught"]
        rows += [
            at_least(
                f"caught of what the best baseline misses ({best})",
                1.0 if share is None else share,
                "of its misses",
                0.5,
            ),
            at_least(
                f"recall minus the best baseline's ({best})",
                found["recall_minus_best_baseline"],
                "of attack runs",
                0.20,
            ),
            at_most(
                f"families worse than the best baseline ({best})",
                len(found["families_worse"]),
                "families",
                0,
            ),
        ]
    return rows


def _of_detectors(figures: Mapping[str, Any]) -> list[Row]:
    rows = []
    for title, block in {**figures["baselines"], **figures["ablations"]}.items():
        if "recall_at" not in block:
            continue
        rows += [
            Row(f"{title}: recall with its threshold", block["recall"], "of attack runs"),
            Row(
                f"{title}: false incidents with its threshold",
                block["false_per_10k_person_actions"],
                "per 10,000 person-and-pipeline actions",
            ),
            *(
                Row(f"{title}: recall at {rate} per 10,000, strict curve", recall, "of attack runs")
                for rate, recall in block["recall_at"].items()
            ),
        ]
    return rows


def companions(folder: Path = RESULTS) -> list[Row]:
    """Rows that other commands left, each named after where it comes from."""
    rows = []
    for name in COMPANIONS:
        path = folder / f"{name}.json"
        if path.is_file():
            rows += [Row(**{**row, "name": f"{name}: {row['name']}"}) for row in json.loads(path.read_text())]
    return rows


def differing(first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    """Metrics of two trainings that differ, times aside."""
    names = {name for name in {*first, *second} if not any(part in name for part in CHANGING)}
    return sorted(name for name in names if first.get(name) != second.get(name))


def measure(home: Path, page: Path | None, *, twice: bool) -> list[Row]:
    """Build, train and judge in a folder of its own, whatever MLflow the user has."""
    os.environ["KUBEHABIT_HOME"] = str(home)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    from data.dataset.build import build
    from training.evaluation.evaluate import evaluate
    from training.train import train

    dataset = home / "dataset"
    build(
        [RECORDINGS / "normal.jsonl.zst"],
        dataset,
        settings=ActionSettings.shipped(trusted_hops=Recordings.TRUSTED_HOPS),
    )
    trained = train(CONFIG, dataset)
    figures = evaluate(
        trained.model_uri,
        RECORDINGS / "labelled.jsonl.zst",
        RECORDINGS / "labels.json",
        data=dataset,
        report=page,
    )
    rows = rows_of(figures)
    rows += [
        at_most("training from nothing", trained.metrics["seconds_training"], "seconds", 600),
        Row("training", trained.metrics["actions_per_second_training"], "windows/s"),
        Row("fitting all baselines", figures["seconds_fitting_baselines"], "seconds"),
        Row("scoring, all detectors", figures["events"] / figures["seconds"], "events/s"),
    ]
    if twice:
        again = train(CONFIG, dataset)
        differ = differing(trained.metrics, again.metrics)
        rows.append(at_most("metrics that differ in a second training, same seed", len(differ), "metrics", 0))
    return rows


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, help="also write the evaluation as a Markdown page")
    parser.add_argument(
        "--home", type=Path, help="keep dataset, models and MLflow store in this empty folder"
    )
    parser.add_argument("--once", action="store_true", help="leave out the second training of the same seed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.home or Path(folder), options.report, twice=not options.once)
    report("detection", [*rows, *companions()])


if __name__ == "__main__":
    main()
