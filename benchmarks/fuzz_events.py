"""Fuzzed events, decoded, encoded and stored among untouched ones: `python -m benchmarks.fuzz_events --report FILE`.

What must hold is said in `benchmarks.fuzzing.events`; `benchmarks.fuzz_poisoned` goes on to the verdicts. A body that breaks it
is cut down to the smallest events that still do; they are written beside the report, from which a later call goes on.
"""

from __future__ import annotations

from benchmarks.fuzzing.campaign import command
from benchmarks.fuzzing.events import FuzzedEvents

if __name__ == "__main__":
    command(__doc__, "events", "fuzzed events", FuzzedEvents().play)
