"""What the product finds in weeks of a simulated cluster, slow attacks included, at how many incidents a day.

Run: python -m benchmarks.twin_detection [--principals 500] [--days 42] [--seed 1] [--log FOLDER] [--per-day 5]

Simulates (or takes the FOLDER of `kubehabit data simulate`), learns from the normal part with the shipped configuration and
a budget of so many false incidents a day, and replays the rest event by event. About half an hour on two idle cores.
Figures on the twin say that the method works over weeks, not how well it would do in a real cluster (docs/twin.md).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.report import Row, at_least, at_most, report
from data.actions.encoder import ActionSettings
from data.dataset.build import build
from data.events.reader import DeadLetterFile, read_events
from data.paths import Recordings
from data.simulation import load_settings, simulate
from detection.bundle import Bundle
from detection.detector import Detector
from detection.evidence import INCIDENT_SECONDS
from training.evaluation.metrics import named_by

ROOT = Path(__file__).resolve().parent.parent


class Hit(NamedTuple):
    """A flagged action; `repeat` if it only repeats what was flagged before."""

    principal: str
    time: int
    labelled: bool
    repeat: bool


#: Alerts of a slow attack within one working day count as one case for the analyst.
JOINED_SECONDS = 6 * 3600


def incidents(hits: list[Hit], gap: float = INCIDENT_SECONDS) -> list[list[Hit]]:
    """Flagged actions of one principal at most `gap` seconds apart."""
    by_principal: dict[str, list[Hit]] = defaultdict(list)
    for hit in sorted(hits, key=lambda hit: hit.time):
        by_principal[hit.principal].append(hit)
    found: list[list[Hit]] = []
    for mine in by_principal.values():
        found.append(mine[:1])
        for before, hit in itertools.pairwise(mine):
            if hit.time - before.time > gap * 1_000_000:
                found.append([])
            found[-1].append(hit)
    return found


def notifying(found: list[list[Hit]]) -> int:
    """How many incidents are more than repeats, by which an earlier one grows and nobody is notified."""
    return sum(not all(hit.repeat for hit in incident) for incident in found)


def replay(bundle: Bundle, folder: Path) -> list[Row]:
    """Rows of what the detector found in the labelled part."""
    labels = json.loads((folder / "labels.json").read_text())
    run_of = {audit_id: i for i, run in enumerate(labels) for audit_id in run["audit_ids"]}
    named = named_by(labels)
    log = folder / "labelled.jsonl.zst"
    detector, letters = Detector(bundle, threads=os.cpu_count() or 1), DeadLetterFile(folder / "dead.jsonl")
    hits: list[Hit] = []
    caught: set[int] = set()
    first = last = None
    columns = (
        TextColumn("replaying"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=log.stat().st_size)
        for events in read_events(log, letters, on_bytes=lambda done: bar.update(task, completed=done)):
            scores = detector.score(events)
            times = scores.time.astype(np.int64)
            if len(times):
                first, last = int(times[0]) if first is None else first, int(times[-1])
            for row in np.flatnonzero(scores.flagged).tolist():
                audit_id = events[int(scores.event[row])].auditID
                repeat = bool(scores.repeat[row])
                hits.append(Hit(scores.principal[row], int(times[row]), audit_id in named, repeat))
                if audit_id in run_of:
                    caught.add(run_of[audit_id])
    letters.close()
    days = max(((last or 0) - (first or 0)) / 86_400e6, 1e-9)
    attacks = [i for i, run in enumerate(labels) if run["kind"] == "attack"]
    slow = [i for i in attacks if "slow" in labels[i]["scenario"]]
    found = incidents(hits)
    false = [incident for incident in found if not any(hit.labelled for hit in incident)]
    rows = [
        at_least("attack runs caught", 100 * len(caught & set(attacks)) / len(attacks), "%", 90.0),
        Row("slow attack runs caught", 100 * len(caught & set(slow)) / max(len(slow), 1), "%"),
        at_most("false incidents a day", len(false) / days, "1/day", 5.0),
        Row("of them that notify, repeats left out", notifying(false) / days, "1/day"),
        Row("incidents a day, attacks included", len(found) / days, "1/day"),
        at_most(
            "incidents a day, those of one principal within six hours joined",
            len(incidents(hits, JOINED_SECONDS)) / days,
            "1/day",
            5.0,
        ),
        Row("attack runs", len(attacks), ""),
    ]
    for kind in sorted({labels[i]["class"] for i in attacks}):
        mine = [i for i in attacks if labels[i]["class"] == kind]
        rows.append(Row(f"caught, {kind}", 100 * len(caught & set(mine)) / len(mine), "%"))
    return rows


def main() -> None:
    """Simulate, learn, replay, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--principals", type=int, default=500)
    parser.add_argument("--days", type=float, default=42.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="folder of `kubehabit data simulate`, instead of simulating")
    parser.add_argument("--per-day", type=float, default=5.0, help="false incidents wanted a day")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["KUBEHABIT_HOME"] = str(Path(scratch) / "home")
        from training.registry import download
        from training.train import train

        folder = options.log
        if folder is None:
            folder = Path(scratch) / "twin"
            settings = load_settings(profile="weeks")
            simulate(folder, options.principals, options.days, options.seed, settings=settings, progress=True)
        dataset = Path(scratch) / "dataset"
        build(
            [folder / "normal.jsonl.zst"],
            dataset,
            settings=ActionSettings.shipped(trusted_hops=Recordings.TRUSTED_HOPS),
        )
        per_day = f"--calibration.incidents_per_day={options.per_day}"
        result = train(ROOT / "configs" / "train.yaml", dataset, [per_day])
        rows = replay(Bundle.load(download(f"models:/{result.model_name}/{result.version}")), folder)
    report("twin-detection", rows)


if __name__ == "__main__":
    main()
