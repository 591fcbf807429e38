"""Strict figures of a model bundle on labelled recordings: every run alone, hundreds of transplants, and the harder questions.

    python -m benchmarks.transplants BUNDLE LOG:LABELS [LOG:LABELS ...] [--quick] [--json OUT]
    python -m benchmarks.transplants BUNDLE LOG:LABELS --data DATASET --minutes 2,5,10,30 [--picture curve.png]
    python -m benchmarks.transplants BUNDLE LOG:LABELS --rows again,pace,rehearsal,taught

With `--data` alone, habits and calibration are learned again by the code at hand, around the bundle's network. Recordings are
reported apart and never mixed. `--quick` leaves out the harder questions and three in four transplants.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table for each recording, and each false incident with its reason."""
    from training.evaluation.report import alone_rows, false_incident

    console = Console(width=200, highlight=False)
    for name, one in found.items():
        person, system = (one[f"strict_false_per_{key}_actions"] for key in ("10k_person", "1m_system"))
        table = Table(
            title=f"{name}: {person:.2f} strict false incidents per 10,000, {system:.1f} per 1M system"
        )
        for heading in ("", "runs, each alone", "transplants"):
            table.add_column(heading)
        for row in alone_rows(one):
            table.add_row(*row)
        console.print(table)
        for each in one["false_incidents"]:
            console.print(f"  {false_incident(each)}", markup=False)


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """All recordings side by side as a Markdown table."""
    from training.evaluation.report import alone_rows

    heads = ["", *(f"{name}: {what}" for name in found for what in ("runs alone", "transplants"))]
    rows: list[list[str]] = []
    cells = {name: {row[0]: row[1:] for row in alone_rows(one)} for name, one in found.items()}
    for title in dict.fromkeys(title for one in cells.values() for title in one):
        rows.append([title, *(cell for one in cells.values() for cell in one.get(title, ("-", "-")))])
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def curve(found: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[float, float, float, float]]]:
    """Rows of `training.evaluation.plots.learning_curve`, of figures whose names say of how many minutes they are."""
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, one in found.items():
        recording, _, minutes = name.removesuffix(" minutes of log").rpartition(", ")
        strict = one["strict_false_per_10k_person_actions"]
        row = float(minutes), one["strict"]["recall"], one["transplants"]["recall"], strict
        rows.setdefault(recording, []).append(row)
    return rows


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    from data.paths import shipped, shipped_rules
    from detection.bundle import Bundle
    from detection.rules.rule_files import read_rules
    from training.evaluation.alone import ATTACKS, LOOKALIKES, judge_alone
    from training.evaluation.metrics import read_labels
    from training.evaluation.strict_replay import GAPS, PACES, REHEARSAL, TAUGHT

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("recordings", nargs="+", help="LOG:LABELS")
    parser.add_argument("--rows", default="again,pace,rehearsal,taught")
    parser.add_argument("--attacks", type=int, default=ATTACKS)
    parser.add_argument("--lookalikes", type=int, default=LOOKALIKES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--data", type=Path, help="dataset that the bundle was trained on: calibrate it again"
    )
    parser.add_argument("--minutes", help="learning curve: habits and calibration of the last minutes alone")
    parser.add_argument("--report", type=Path, help="also write the tables side by side as Markdown")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="of --minutes: also draw the learning curve, as PNG")
    options = parser.parse_args(given)
    sets = {"again": GAPS, "pace": PACES, "rehearsal": (REHEARSAL,), "taught": (TAUGHT,), "none": ()}
    rows = [] if options.quick else [row for name in options.rows.split(",") for row in sets[name]]
    share = 4 if options.quick else 1
    bundle = Bundle.load(options.bundle)
    bundles = {"": bundle}
    if options.data:
        from data.dataset.table import load
        from training.calibrate import calibration_config
        from training.evaluation.learning_curve import relearned

        table, config = load(options.data), calibration_config(shipped("train.yaml")["calibration"])
        if options.minutes:
            rows = []
            bundles = {
                f", {minutes} minutes of log": relearned(bundle, table, config, float(minutes))
                for minutes in options.minutes.split(",")
            }
        else:
            bundles = {"": relearned(bundle, table, config)}
    rules = tuple(read_rules([shipped_rules()]).rules.values())
    found = {}
    for recording in options.recordings:
        log, _, labels = recording.partition(":")
        for suffix, one in bundles.items():
            found[Path(log).name.split(".")[0] + suffix] = judge_alone(
                one,
                Path(log),
                read_labels(Path(labels)),
                attacks=options.attacks // share,
                lookalikes=options.lookalikes // share,
                rows=rows,
                rules=rules,
            )
    show(found)
    if options.report:
        options.report.write_text(markdown(found))
    if options.picture and options.minutes:
        from training.evaluation.plots import learning_curve

        learning_curve(curve(found)).savefig(options.picture, dpi=110)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
