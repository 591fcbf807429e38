"""How soon the starter model gives a useful verdict: recall and strict false incidents after so many minutes of watching.

Run: python -m benchmarks.bench_starter [--bundle FOLDER] [--watch LOG] [--log LOG --labels FILE] [--minutes 0,10,30]

Watches the normal work of a cluster that it was not trained on, then judges every attack run of the labelled log alone, as
`kubehabit evaluate` does. The starter that ships was trained on simulated clusters only: it has seen nothing of the recorded one.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Row, at_least, at_most, report
from data.events.audit_event import AuditEvent
from data.paths import Recordings, starter_bundle
from data.principals.identity import PEOPLE_AND_PIPELINES
from detection.bundle import Bundle
from detection.detector import Detector
from detection.novelty import MATURE
from training.audit_log import read_log
from training.evaluation.alone import judge_alone
from training.evaluation.metrics import read_labels
from training.thresholds import count_incidents

_SLICE_SECONDS = 300
_BATCH = 512


class Watched:
    """What a detector flagged while it watched normal work, by slices of five minutes."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.first: int | None = None
        self.flagged: defaultdict[str, list[int]] = defaultdict(list)
        self.actions: defaultdict[int, int] = defaultdict(int)
        self.ready: defaultdict[int, int] = defaultdict(int)
        self.kinds: dict[str, str] = {}

    def score(self, events: list[AuditEvent]) -> None:
        """Score a batch and count."""
        scores = self.detector.score(events)
        times = scores.time.astype(np.int64)
        if not len(times):
            return
        if self.first is None:
            self.first = int(times[0])
        person = np.isin(np.asarray(scores.kind, object), list(PEOPLE_AND_PIPELINES))
        slices = np.maximum(times - self.first, 0) // (_SLICE_SECONDS * 1_000_000)
        for at in np.unique(slices).tolist():
            mine = (slices == at) & person
            self.actions[at] += int(mine.sum())
            self.ready[at] += int((scores.own_actions[mine] >= MATURE).sum())
        for row in np.flatnonzero(scores.flagged).tolist():
            self.flagged[scores.principal[row]].append(int(times[row]))
            self.kinds[scores.principal[row]] = scores.kind[row]

    def rows(self) -> Iterator[Row]:
        """False incidents of people and pipelines by slice, and the share of actions with enough history."""
        starts: defaultdict[int, int] = defaultdict(int)
        for name, times in self.flagged.items():
            if self.kinds[name] not in PEOPLE_AND_PIPELINES:
                continue
            ordered = np.sort(np.array(times))
            begins = ordered[np.concatenate([[True], np.diff(ordered) > 600_000_000])]
            for moment in begins.tolist():
                starts[max(moment - (self.first or 0), 0) // (_SLICE_SECONDS * 1_000_000)] += 1
        for at, actions in sorted(self.actions.items()):
            span = f"minutes {5 * at} to {5 * at + 5}"
            yield Row(f"false incidents per 10,000, {span}", starts[at] * 1e4 / max(actions, 1), "")
            yield Row(
                f"actions by principals with enough history, {span}",
                100 * self.ready[at] / max(actions, 1),
                "%",
            )
        machinery = [
            times for name, times in self.flagged.items() if self.kinds[name] not in PEOPLE_AND_PIPELINES
        ]
        yield Row(
            "false incidents of machinery while watching",
            sum(count_incidents(np.sort(np.array(one))) for one in machinery),
            "",
        )


def watch(detector: Detector, log: Path, minutes: float) -> Watched:
    """Show a detector the first minutes of a log."""
    watched = Watched(detector)
    end = None
    for events in read_log(log, "watching"):
        for begin in range(0, len(events), _BATCH):
            batch = events[begin : begin + _BATCH]
            watched.score(batch)
            if end is None and watched.first is not None:
                end = watched.first + int(minutes * 60e6)
            times = watched.detector.windows.contexts().last
            if end is not None and len(times) and int(times.max()) > end:
                return watched
    return watched


def main() -> None:
    """Measure and report."""
    shipped = Recordings.shipped()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="folder of another starter bundle")
    parser.add_argument("--watch", type=Path, default=shipped.normal)
    parser.add_argument("--log", type=Path, default=shipped.labelled)
    parser.add_argument("--labels", type=Path, default=shipped.labels)
    parser.add_argument("--minutes", default="10,30")
    parser.add_argument("--scale", type=float, default=1.0, help="what thresholds are multiplied by")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    found: dict[str, Any] = {}
    bundle = Bundle.load(options.bundle or starter_bundle())
    bundle = replace(bundle, settings=replace(bundle.settings, trusted_hops=Recordings.TRUSTED_HOPS))
    bundle = replace(bundle, calibration=bundle.calibration.scaled(options.scale))
    for minutes in map(float, options.minutes.split(",")):
        detector = Detector(bundle, cached_windows=50_000)
        watched = watch(detector, options.watch, minutes) if minutes else None
        if watched is not None and minutes == max(map(float, options.minutes.split(","))):
            rows += watched.rows()
        one = judge_alone(
            bundle,
            options.log,
            read_labels(options.labels),
            attacks=0,
            lookalikes=0,
            rows=(),
            detector=detector,
        )
        found[f"{minutes:g}"] = one
        after = f"after {minutes:g} minutes"
        rows.append(at_least(f"recall, each run alone, {after}", 100 * one["strict"]["recall"], "%", 75.0))
        strict = one["strict_false_per_10k_person_actions"]
        rows.append(at_most(f"strict false incidents per 10,000, {after}", strict, "", 5.0))
        notified = one["notified_false_per_10k_person_actions"]
        rows.append(Row(f"of those, not only repeats of earlier ones, {after}", notified, ""))
        rows.append(
            Row(
                f"strict false incidents per 1M of machinery, {after}",
                one["strict_false_per_1m_system_actions"],
                "",
            )
        )
        rows.append(
            Row(f"detected runs high or critical, {after}", 100 * one["strict"]["high_of_detected"], "%")
        )
    if options.json:
        options.json.write_text(json.dumps(found))
    report("starter", rows)


if __name__ == "__main__":
    main()
