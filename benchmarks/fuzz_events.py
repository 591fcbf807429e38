"""Fuzzed events, decoded, encoded and stored among untouched ones: `python -m benchmarks.fuzz_events --report FILE`.

What must hold is said in `benchmarks.fuzzing.events`; `benchmarks.fuzz_poisoned` goes on to the verdicts. A body that breaks it
is cut down to the smallest events that still do; they are written beside the report, from which a later call goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.fuzzing.campaign import Campaign
from benchmarks.fuzzing.events import FuzzedEvents


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="fuzzed events, with those of earlier calls"
    )
    parser.add_argument(
        "--report", type=Path, default=Path(".kubehabit/fuzz-events.json"), help="figures so far"
    )
    parser.add_argument("--seed", type=int, default=0, help="of a run that begins")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    figures = Campaign(options.report, options.seed, say).run(options.events, FuzzedEvents().play)
    print(json.dumps(figures, indent=1))
    sys.exit(bool(figures["broken"]))


if __name__ == "__main__":
    main()
