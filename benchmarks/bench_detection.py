"""Detection from start to finish: builds a dataset from the shipped normal recording, trains, and judges on the labelled one.

Every baseline is fitted on the same dataset to the same budget. Rows of commands that need data from elsewhere or hours of time
(published sets, a simulated month) are taken from what those commands left in `benchmarks/results`; see COMPANIONS.

Run: python -m benchmarks.bench_detection [--report FILE.md] [--home DIR] [--once] [--recording LOG:LABELS]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, Row, at_least, at_most, report

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "recordings"
CONFIG = RECORDINGS.parent.parent / "configs" / "train.yaml"
#: Names under which other commands report detection (`benchmarks.report.report`); their rows are added to the table if
#: there.
COMPANIONS = ("published-hdfs", "published-adfa-ld", "published-openstack", "twin-detection")

#: Minutes of the training log that habits and calibration are learned from again.
LEARNING = (2, 5, 10, 30)

#: Harder questions that are held to a share of attack runs (`training.evaluation.strict_replay.ROWS`).
_BARS = {"one request per 30 minutes": 0.70, "after a rehearsal": 0.85, "once in the training log": 0.80}

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
    return [*product, *_alone(figures), *_beside_best_baseline(figures), *_of_detectors(figures)]


def _alone(figures: Mapping[str, Any]) -> list[Row]:
    """The strict figures: every run alone, transplants, and the harder questions."""
    if "alone" not in figures:
        return []
    strict, moved = figures["alone"]["strict"], figures["alone"]["transplants"]
    runs = "of attack runs"
    rows = [
        at_least("recall, every run alone", number(strict["recall"]), runs, 0.85),
        Row("transplants", moved["attack_runs"], "attack runs"),
        at_least("recall of transplants", number(moved["recall"]), runs, 0.85),
        at_least(
            "recall of transplants, same address and client",
            number(moved["recall_by_mode"].get("same")),
            runs,
            0.85,
        ),
        at_least(
            "transplants detected that are high or critical",
            number(moved["high_of_detected"]),
            "of them",
            0.85,
        ),
        at_most(
            "transplanted look-alikes raised high", number(moved["lookalikes_high"]), "of look-alikes", 0.20
        ),
    ]
    for name, row in moved["rows"].items():
        if "recall" in row:
            title, bar = f"recall of transplants, {name}", _BARS.get(name)
            share = number(row["recall"])
            rows.append(Row(title, share, runs) if bar is None else at_least(title, share, runs, bar))
        else:
            rows.append(at_least(f"seen {name}", number(row["of_first"]), "of what was seen", 0.95))
    return rows


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
    others = {**figures["baselines"], **figures["ablations"], **figures.get("in_decision", {})}
    for title, block in others.items():
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


def learning_rows(model_uri: str, dataset: Path, log: Path, labels: Path) -> list[Row]:
    """What habits and calibration of fewer minutes of log would have caught, around the same network."""
    from data.dataset.table import load
    from data.paths import shipped
    from detection.bundle import Bundle
    from training.calibrate import calibration_config
    from training.evaluation.alone import judge_alone
    from training.evaluation.learning_curve import relearned
    from training.evaluation.metrics import read_labels
    from training.registry import download

    bundle, table = Bundle.load(download(model_uri)), load(dataset)
    config = calibration_config(shipped("train.yaml")["calibration"])
    rows = []
    for minutes in LEARNING:
        short = relearned(bundle, table, config, minutes)
        found = judge_alone(short, log, read_labels(labels), attacks=100, lookalikes=0, rows=())
        name = f"{minutes} minutes of log"
        rows += [
            Row(f"recall of transplants, {name}", number(found["transplants"]["recall"]), "of attack runs"),
            Row(
                f"strict false incidents, {name}",
                found["strict_false_per_10k_person_actions"],
                "per 10,000 person-and-pipeline actions",
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


def measure(home: Path, page: Path | None, more: Sequence[str], *, twice: bool) -> list[Row]:
    """Build, train and judge in a folder of its own, whatever MLflow the user has.

    `more` are further labelled recordings, LOG:LABELS, which get rows of their own.
    """
    os.environ["KUBEHABIT_HOME"] = str(home)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    from data.dataset.build import build
    from training.evaluation.alone import ATTACKS
    from training.evaluation.evaluate import evaluate
    from training.train import train

    dataset = home / "dataset"
    build([RECORDINGS / "normal.jsonl.zst"], dataset)
    trained = train(CONFIG, dataset)
    figures = evaluate(
        trained.model_uri,
        RECORDINGS / "labelled.jsonl.zst",
        RECORDINGS / "labels.json",
        data=dataset,
        transplants=ATTACKS,
        report=page,
    )
    rows = rows_of(figures)
    given = RECORDINGS / "labelled.jsonl.zst", RECORDINGS / "labels.json"
    rows += learning_rows(trained.model_uri, dataset, *given)
    for recording in more:
        log, _, labels = recording.partition(":")
        other = evaluate(trained.model_uri, Path(log), Path(labels), data=dataset, transplants=ATTACKS)
        name = Path(log).name.split(".")[0]
        rows += [replace(row, name=f"{name}: {row.name}") for row in rows_of(other)]
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
    parser.add_argument(
        "--recording", action="append", default=[], help="LOG:LABELS of another labelled recording"
    )
    parser.add_argument("--once", action="store_true", help="leave out the second training of the same seed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        rows = measure(home, options.report, options.recording, twice=not options.once)
    report("detection", [*rows, *companions()])


if __name__ == "__main__":
    main()
