"""Strict figures of a model bundle on labelled recordings: every run alone, hundreds of transplants, and the harder questions.

    python -m benchmarks.transplants BUNDLE LOG:LABELS [LOG:LABELS ...] [--rows again,pace,rehearsal | none] [--json OUT]

Recordings are reported apart and never mixed. `--quick` leaves out the harder questions and three in four transplants.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def _percent(block: Mapping[str, Any], name: str) -> str:
    share, ends = block.get(name), block.get(f"{name}_interval")
    if share is None:
        return "-"
    return f"{share:.1%}" + (f" ({ends[0]:.0%} to {ends[1]:.0%})" if ends else "")


def lines_of(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and text of every figure that the table shows."""
    lines = [
        (
            "strict false incidents, /10k person-and-pipeline",
            f"{found['strict_false_per_10k_person_actions']:.2f}",
        ),
        ("strict false incidents, /1M system", f"{found['strict_false_per_1m_system_actions']:.1f}"),
    ]
    for title, key in (("runs, each alone", "strict"), ("transplants", "transplants")):
        block = found[key]
        if not block["runs"]:
            continue
        lines += [
            (f"{title}: attack runs of scenarios", f"{block['attack_runs']} of {block['scenarios']}"),
            (f"{title}: recall", _percent(block, "recall")),
            *(
                (f"{title}: recall, {name}", f"{share:.1%}")
                for name, share in block["recall_by_class"].items()
            ),
            *(
                (f"{title}: recall, {name}", f"{share:.1%}")
                for name, share in block["recall_by_mode"].items()
            ),
            (f"{title}: detected that are high or critical", _percent(block, "high_of_detected")),
            (f"{title}: look-alikes high (of {block['lookalikes']})", _percent(block, "lookalikes_high")),
            (f"{title}: look-alikes raised", _percent(block, "lookalikes_raised")),
        ]
        for name, row in block["rows"].items():
            if row.get("recall") is not None:
                lines.append((f"{title}: recall, {name}", _percent(row, "recall")))
            lines.append((f"{title}: still seen of the first, {name}", _percent(row, "of_first")))
    return lines


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print all recordings side by side, and each false incident with its reason."""
    console = Console(width=200, highlight=False)
    table = Table()
    table.add_column("")
    texts = {name: dict(lines_of(one)) for name, one in found.items()}
    for name in texts:
        table.add_column(name)
    for line in dict.fromkeys(line for one in texts.values() for line in one):
        table.add_row(line, *(one.get(line, "-") for one in texts.values()))
    console.print(table)
    for name, one in found.items():
        console.print(f"false incidents on {name}:", markup=False)
        for each in one["false_incidents"]:
            what = f"{each['principal']} x{each['actions']} {each['times']:.2f} of threshold: {each['what']}"
            new = f"new {each['novelty_evidence']:.1f} ({', '.join(each['novelties'])})"
            error = f"error {each['error_evidence']:.1f} ({', '.join(each['fields'])})"
            console.print(f"  {each['severity']:<8} {what}; {new}; {error}", markup=False)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    from detection.bundle import Bundle
    from training.evaluation.alone import ATTACKS, LOOKALIKES, judge_alone
    from training.evaluation.metrics import read_labels
    from training.evaluation.strict_replay import GAPS, PACES, REHEARSAL

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("recordings", nargs="+", help="LOG:LABELS")
    parser.add_argument("--rows", default="again,pace,rehearsal")
    parser.add_argument("--attacks", type=int, default=ATTACKS)
    parser.add_argument("--lookalikes", type=int, default=LOOKALIKES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    sets = {"again": GAPS, "pace": PACES, "rehearsal": (REHEARSAL,), "none": ()}
    rows = [] if options.quick else [row for name in options.rows.split(",") for row in sets[name]]
    share = 4 if options.quick else 1
    bundle = Bundle.load(options.bundle)
    found = {}
    for recording in options.recordings:
        log, _, labels = recording.partition(":")
        found[Path(log).name.split(".")[0]] = judge_alone(
            bundle,
            Path(log),
            read_labels(Path(labels)),
            attacks=options.attacks // share,
            lookalikes=options.lookalikes // share,
            rows=rows,
        )
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
