"""How much attack traffic in the training data makes attacks go undetected: `python benchmarks/poisoning.py`.

Runs of every other attack scenario of a labelled recording are copied into the normal log, each copy at another time of the
fitting part and with audit IDs of its own; then a model is trained and judged on the untouched recording. Reported apart: the
runs whose very actions were trained on, the other runs, and false incidents.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Copies lie in this first share of the log's span; the part from 0.8 on is held back and must stay clean.
FITTING = 0.75


def moment_of(event: Mapping[str, Any]) -> datetime:
    """When an event was written."""
    return datetime.fromisoformat(event.get("stageTimestamp") or event["requestReceivedTimestamp"])


def stamp(moment: datetime) -> str:
    """As the API server writes it."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def poison(
    normal: Sequence[bytes], labelled: Sequence[bytes], labels: Sequence[Mapping[str, Any]], copies: int
) -> tuple[list[bytes], set[str], int]:
    """Mix copies of attack runs into a normal log.

    Returns:
        The mixed log, the scenarios that are in it, and how many events were added.
    """
    attacks = [run for run in labels if run["kind"] == "attack"]
    chosen = set(sorted({str(run["scenario"]) for run in attacks})[::2])
    wanted = {
        audit_id: number
        for number, run in enumerate(attacks)
        if run["scenario"] in chosen
        for audit_id in run["audit_ids"]
    }
    runs: dict[int, list[dict[str, Any]]] = {}
    for line in labelled:
        event = json.loads(line)
        if event.get("auditID") in wanted:
            runs.setdefault(wanted[event["auditID"]], []).append(event)
    timed = [(moment_of(json.loads(line)), line) for line in normal]
    first, last = timed[0][0], timed[-1][0]
    room = (last - first) * FITTING
    added = 0
    for copy in range(copies):
        for place, (_, events) in enumerate(sorted(runs.items())):
            begin = min(moment_of(event) for event in events)
            # Spread evenly, and for each run at another phase, so that copies do not fall together.
            share = (copy + (place + 0.5) / len(runs)) / copies
            shift = first + room * share - begin
            for event in events:
                moved = dict(event, auditID=f"{event['auditID'][:24]}{copy:04d}{place:08d}")
                for key in ("requestReceivedTimestamp", "stageTimestamp"):
                    if key in event:
                        at = datetime.fromisoformat(event[key]) + shift
                        moved[key] = stamp(min(at, last - timedelta(seconds=1)))
                timed.append((moment_of(moved), json.dumps(moved, separators=(",", ":")).encode()))
                added += 1
    return [line for _, line in sorted(timed, key=lambda pair: pair[0])], chosen, added


def _alone(figures: Mapping[str, Any], chosen: set[str]) -> dict[str, float]:
    """Recall with every run replayed alone, of the scenarios that were trained on and of the others."""
    runs = [run for run in figures["alone"]["strict"]["runs"] if run["kind"] == "attack"]
    parts = {"poisoned": True, "others": False}
    some = {
        name: [run["seen"] for run in runs if (run["scenario"] in chosen) is into]
        for name, into in parts.items()
    }
    return {f"strict_recall_{name}": sum(seen) / max(len(seen), 1) for name, seen in some.items()}


def measure(
    log: Path, recording: Path, labels: Path, copies: int, options: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Train on a log with so many copies of each chosen run, and judge."""
    from data.dataset.build import build
    from data.events.reader import open_lines
    from training.evaluation.evaluate import evaluate
    from training.train import train

    listed = json.loads(labels.read_text())
    mixed, chosen, added = poison(list(open_lines(log)), list(open_lines(recording)), listed, copies)
    path = folder / f"mixed-{copies}.jsonl"
    path.write_bytes(b"\n".join(mixed) + b"\n")
    build([path], folder / f"dataset-{copies}", progress=False)
    result = train(ROOT / "configs" / "train.yaml", folder / f"dataset-{copies}", list(options))
    figures = evaluate(result.model_uri, recording, labels, progress=False, track=False)
    path.unlink()
    attacks = [run for run in figures["runs"] if run["kind"] == "attack"]
    groups = {
        "poisoned": [run for run in attacks if run["scenario"] in chosen],
        "others": [run for run in attacks if run["scenario"] not in chosen],
    }
    return {
        "copies": copies,
        "events_added": added,
        "share_of_log": added / len(mixed),
        **{
            f"recall_{name}": sum(bool(run["detected"]) for run in some) / max(len(some), 1)
            for name, some in groups.items()
        },
        **{f"runs_{name}": len(some) for name, some in groups.items()},
        **_alone(figures, chosen),
        **{name: figures[name] for name in ("false_per_10k_person_actions", "false_per_1m_system_actions")},
    }


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Recall over copies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label, colour in (
        ("poisoned", "scenarios that were trained on", "#b91c1c"),
        ("others", "other scenarios", "#1f2937"),
    ):
        axes.plot(
            [row["copies"] for row in rows],
            [row[f"recall_{name}"] for row in rows],
            marker="o",
            color=colour,
            label=f"{label} ({rows[0][f'runs_{name}']} runs)",
        )
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set(xlabel="copies of each run in the training data", ylabel="recall of attack runs", ylim=(0, 1.02))
    axes.set_xticks([row["copies"] for row in rows], [str(row["copies"]) for row in rows])
    axes.set_title("Attack traffic in the training data", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=90)


def main() -> None:
    recordings = ROOT / "data" / "recordings"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--normal", type=Path, default=recordings / "normal.jsonl.zst")
    parser.add_argument("--log", type=Path, default=recordings / "labelled.jsonl.zst")
    parser.add_argument("--labels", type=Path, default=recordings / "labels.json")
    parser.add_argument("--copies", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    chosen, options = parser.parse_known_args()  # further options go to `kubehabit train`
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KUBEHABIT_HOME"] = str(Path(folder) / "home")
        for copies in chosen.copies:
            rows.append(measure(chosen.normal, chosen.log, chosen.labels, copies, options, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
            if chosen.out:
                chosen.out.write_text(json.dumps(rows, indent=1) + "\n")
    if chosen.plot:
        plot(rows, chosen.plot)


if __name__ == "__main__":
    main()
