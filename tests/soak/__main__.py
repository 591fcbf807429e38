"""Kills and faults by the hour.

python -m tests.soak kills --count 1000 --report kills.json      SIGKILL at random moments; --resume continues a run
python -m tests.soak fleet --count 50 --report fleet.json        SIGKILL of workers at random moments, on a Kafka in this process
python -m tests.soak fleet-cpu --events 20000                    what an event costs one worker and two, and their rates
python -m tests.soak faults --count 3 --report faults.json       each fault so many times, at random moments
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.soak import fork_server, memory
from tests.soak.faults import Faults
from tests.soak.kills import KINDS, Kills, campaign
from tests.soak.material import bundles_in, prepare

#: Events of the labelled recording, and in a batch.
_EVENTS, _BATCH = 4_000, 80
#: MB an hour.
_MOST_GROWTH = 1.0


def main() -> int:
    """Parse, run, report; 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("kills", "faults", "memory", "fleet", "fleet-cpu"))
    parser.add_argument("--count", type=int, default=1000, help="SIGKILLs, runs of each fault, or hours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="kinds of episodes, or names of faults, separated by commas")
    parser.add_argument("--report", type=Path, help="JSON file, written after each episode or fault")
    parser.add_argument("--resume", action="store_true", help="go on where the run that wrote --report ended")
    parser.add_argument("--folder", type=Path, help="for the homes; a temporary one by default")
    parser.add_argument("--bundle", type=Path, help="of another model than the small one of the tests")
    parser.add_argument("--events", type=int, default=77_000, help="of the recording, for fleet")
    parser.add_argument("--principals", type=int, default=100, help="of the simulated cluster")
    chosen = parser.parse_args()
    done: list[dict[str, Any]] = []
    if chosen.resume and chosen.report is not None and chosen.report.exists():
        done = json.loads(chosen.report.read_text())["runs"]
    folder = Path(tempfile.mkdtemp(prefix="kubehabit-soak-", dir=chosen.folder))
    if chosen.what == "memory":
        return measure_memory(chosen, folder)
    if chosen.what.startswith("fleet"):
        return kill_workers(chosen, folder)

    def save(runs: list[dict[str, Any]]) -> None:
        if chosen.report is not None:
            chosen.report.write_text(json.dumps(summaries[chosen.what](runs) | {"runs": runs}, indent=1))

    summaries = {"kills": summary_of_kills, "faults": summary_of_faults}
    material = prepare(folder, events=_EVENTS, size=_BATCH, bundle=chosen.bundle)
    fork_server.freeze()
    kinds = KINDS
    if chosen.only and chosen.what == "kills":
        kinds = {kind: KINDS[kind] for kind in chosen.only.split(",")}
    kills = Kills(material, folder / "homes", chosen.seed, kinds)
    try:
        if chosen.what == "kills":
            campaign(kills, chosen.count, done, save)
        else:
            faults = Faults(material, folder / "faults", kills.expected)
            names = chosen.only.split(",") if chosen.only else faults.names
            wanted = [(name, chosen.seed + number) for number in range(chosen.count) for name in names]
            for name, seed in wanted[len(done) :]:
                done.append(faults.run(name, seed).to_dict())
                save(done)
                print(json.dumps(done[-1]), flush=True)
    finally:
        kills.close()
    print(json.dumps(summaries[chosen.what](done), indent=1))
    if any(one["problems"] for one in done):
        print(f"What was wrong can be looked at in {folder}.")
        return 1
    shutil.rmtree(folder)
    return 0


def kill_workers(chosen: argparse.Namespace, folder: Path) -> int:
    """Print what two workers of a fleet made of the log; 1 if it is not what one process makes of it."""
    from tests.soak import fleet

    bundle = chosen.bundle or bundles_in(folder, None)["1"]
    if chosen.what == "fleet-cpu":
        print(json.dumps(fleet.sharing(folder, bundle, chosen.events), indent=1))
        shutil.rmtree(folder)
        return 0
    run = fleet.campaign(folder, bundle, chosen.events, chosen.count, chosen.seed)
    text = json.dumps(fleet.to_dict(run), indent=1)
    if chosen.report is not None:
        chosen.report.write_text(text)
    print(text)
    if run.problems or run.lost or run.doubled or run.differing:
        print(f"What was wrong can be looked at in {folder}.")
        return 1
    shutil.rmtree(folder)
    return 0


def measure_memory(chosen: argparse.Namespace, folder: Path) -> int:
    """Print a line for each hour; 1 if memory grows by more than a megabyte an hour."""
    os.environ["KUBEHABIT_HOME"] = str(folder / "home")
    bundle = chosen.bundle or bundles_in(folder, None)["1"]
    measured = []
    for one in memory.soak(bundle, folder, chosen.count, chosen.principals, chosen.seed):
        measured.append(one)
        print(json.dumps({name: value for name, value in one.items() if name != "sizes"}), flush=True)
        found = memory.growth(measured) if len(measured) > 3 else {}
        if chosen.report is not None:
            chosen.report.write_text(json.dumps(found | {"hours": measured}, indent=1))
    print(json.dumps(found, indent=1))
    shutil.rmtree(folder)
    return 1 if found["anonymous MB/hour"] > _MOST_GROWTH else 0


def summary_of_kills(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all episodes."""
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("phases", "places", "refused")}
    by_kind: Counter[str] = Counter()
    for one in episodes:
        by_kind[one["kind"]] += one["kills"]
        for name, counts in sums.items():
            counts.update(one[name])
    return {
        "kills": by_kind.total(),
        "by_kind": by_kind,
        "episodes": len(episodes),
        "sent_again": sum(one["again"] for one in episodes),
        "problems": sum(len(one["problems"]) for one in episodes),
        "seconds": round(sum(one["seconds"] for one in episodes)),
    } | {name: dict(counts.most_common()) for name, counts in sums.items()}


def summary_of_faults(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """How often each fault came, and what was wrong after it."""
    return {
        "faults": Counter(one["name"] for one in runs),
        "refused": Counter({one["name"]: one["refused"] for one in runs}),
        "problems": sum(len(one["problems"]) for one in runs),
        "seconds": round(sum(one["seconds"] for one in runs)),
    }


if __name__ == "__main__":
    sys.exit(main())
