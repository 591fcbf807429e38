"""One poisoned event among 1,000 good ones, again and again: the good ones must get the verdicts that they get without it.

`python -m benchmarks.fuzz_poisoned --bundle BUNDLE --log LOG --events 5000`. Two detectors go through the log, one of them with a
poisoned event in each batch of 1,000; what earlier ones left behind counts as well. At the end of the log both begin again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.fuzz_decoders import RECORDINGS, mutate
from benchmarks.fuzzing.poison import Verdict, poisoned, verdicts
from data.events.decode import decode_body
from data.events.reader import open_lines
from detection.bundle import Bundle
from detection.detector import Detector

GOOD = 1000
#: Of evidence, threshold and surprise: another batch size makes onnxruntime round otherwise.
TOLERANCE = 1e-4


def batches(log: Path) -> Iterator[list[bytes]]:
    """The log, 1,000 events at a time."""
    lines = iter(open_lines(log))
    while len(batch := list(islice(lines, GOOD))) == GOOD:
        yield batch


def score(detector: Detector, lines: list[bytes]) -> dict[str, Verdict]:
    """Verdicts on the good events of a body."""
    events = decode_body(b"\n".join(lines)).events
    return verdicts([(detector.score(events), [event.auditID for event in events])])


def differences(expected: dict[str, Verdict], found: dict[str, Verdict]) -> int:
    """Number of good events that lost their verdict, or got another one."""
    count = 0
    for audit_id, verdict in expected.items():
        other = found.get(audit_id)
        same = other is not None and other[3:] == verdict[3:]
        count += not (same and np.allclose(other[:3], verdict[:3], rtol=TOLERANCE, atol=TOLERANCE))  # type: ignore[index]
    return count


def run(bundle: Bundle, log: Path, events: int, seed: int = 0) -> dict[str, float]:
    """Feed so many poisoned events; returns how many, and how many good verdicts were compared and differed."""
    chance = random.Random(seed)
    tried = compared = differed = failed = 0
    begin = time.monotonic()
    while tried < events:
        alone, beside = Detector(bundle), Detector(bundle)
        before = tried
        for batch in islice(batches(log), events - tried):
            poison = next(poisoned(batch, chance.randrange(2**31)))
            if chance.random() < 0.5:
                pool = [poison]
                poison = mutate(poison, chance, pool).replace(b"\n", b" ")
            at = chance.randrange(GOOD)
            expected = score(alone, batch)
            try:
                found = score(beside, [*batch[:at], poison, *batch[at:]])
            except Exception as error:
                failed += 1
                print(f"FAILED {error!r}: {poison[:500]!r}", flush=True)
                found = expected
            differed += differences(expected, found)
            compared += len(expected)
            tried += 1
            if tried % 50 == 0:
                figures = {"tried": tried, "compared": compared, "differed": differed, "failed": failed}
                print(json.dumps(figures | {"seconds": round(time.monotonic() - begin)}), flush=True)
        if tried == before:
            sys.exit(f"{log} has fewer than {GOOD:,} events.")
    return {"tried": tried, "compared": compared, "differed": differed, "failed": failed}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a model's bundle")
    parser.add_argument("--log", type=Path, default=RECORDINGS / "labelled.jsonl.zst", help="good events")
    parser.add_argument("--events", type=int, default=1000, help="poisoned events")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figures = run(Bundle.load(options.bundle), options.log, options.events, options.seed)
    print(json.dumps(figures))
    sys.exit(bool(figures["differed"] or figures["failed"]))


if __name__ == "__main__":
    main()
