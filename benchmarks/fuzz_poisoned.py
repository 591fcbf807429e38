"""Poisoned events among 1,000 good ones, again and again: the good ones must get the verdicts that they get without them.

`python -m benchmarks.fuzz_poisoned --bundle BUNDLE --log LOG --events 5000`. A detector goes through the log with some poisoned
events in each batch of 1,000; what earlier ones left behind counts as well. At the end of the log it begins again. The verdicts
without them are found on the first way through. `--each 1` is the promise to the letter; more are harder, and faster.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.fuzz_decoders import RECORDINGS, mutate
from benchmarks.fuzzing.poison import Verdict, poisoned, verdicts
from data.events.decode import decode_body, decode_lines
from data.events.reader import open_lines
from detection.bundle import Bundle
from detection.detector import Detector

GOOD = 1000
#: Of evidence, threshold and surprise: another batch size makes onnxruntime round otherwise.
TOLERANCE = 1e-4
_SAY_SECONDS = 30.0
_SHOWN = 5


def batches(log: Path) -> Iterator[list[bytes]]:
    """The log, 1,000 events at a time."""
    lines = iter(open_lines(log))
    while len(batch := list(islice(lines, GOOD))) == GOOD:
        yield batch


def score(detector: Detector, lines: list[bytes]) -> dict[str, Verdict]:
    """Verdicts on the good events of a body."""
    events = decode_body(b"\n".join(lines)).events
    return verdicts([(detector.score(events), [event.auditID for event in events])])


def differences(expected: dict[str, Verdict], found: dict[str, Verdict]) -> list[str]:
    """Good events that lost their verdict, or got another one, with both."""
    other = []
    for audit_id, verdict in expected.items():
        got = found.get(audit_id)
        same = got is not None and got[3:] == verdict[3:]
        if not (same and np.allclose(got[:3], verdict[:3], rtol=TOLERANCE, atol=TOLERANCE)):  # type: ignore[index]
            other.append(f"{audit_id}: {got} for {verdict}")
    return other


class PoisonedLog:
    """A log that is scored with poisoned events in it.

    Args:
        bundle: of the model.
        log: good events.
        each: poisoned events in each batch of good ones.
        seed: of everything random.
    """

    def __init__(self, bundle: Bundle, log: Path, each: int = 1, seed: int = 0) -> None:
        self._bundle, self._log, self._each = bundle, log, each
        self._chance = random.Random(seed)
        self._expected: list[dict[str, Verdict]] = []
        self.figures: Counter[str] = Counter(tried=0, compared=0, differed=0, failed=0)

    def run(self, events: int, say: Callable[[str], None] = print) -> dict[str, int]:
        """Feed so many poisoned events; returns how many, and how many good verdicts were compared and differed."""
        begin = said = time.monotonic()
        while self.figures["tried"] < events:
            before = self.figures["tried"]
            alone, beside = Detector(self._bundle), Detector(self._bundle)
            known: list[bytes] = []
            for number, batch in enumerate(batches(self._log)):
                if self.figures["tried"] >= events:
                    break
                if number == len(self._expected):
                    self._expected.append(score(alone, batch))
                poisons = [self._poison(known) for _ in range(self._each)] if known else []
                self._try(beside, batch, poisons, self._expected[number], say)
                known = batch
                if time.monotonic() - said > _SAY_SECONDS:
                    said = time.monotonic()
                    say(json.dumps(self.figures | {"seconds": round(said - begin)}))
            if self.figures["tried"] == before:
                sys.exit(f"{self._log} has fewer than {2 * GOOD:,} events.")
        return dict(self.figures)

    def _try(
        self,
        detector: Detector,
        batch: list[bytes],
        poisons: list[bytes],
        expected: dict[str, Verdict],
        say: Callable[[str], None],
    ) -> None:
        lines = list(batch)
        for poison in poisons:
            lines.insert(self._chance.randrange(len(lines)), poison)
        try:
            found = score(detector, lines)
        except Exception as error:
            self.figures["failed"] += 1
            say(f"FAILED {error!r}: {[poison[:500] for poison in poisons][:_SHOWN]}")
            found = expected
        differed = differences(expected, found)
        if differed:
            say(f"DIFFERED {len(differed)}: {differed[:_SHOWN]}")
        self.figures.update(tried=len(poisons), compared=len(expected), differed=len(differed))

    def _poison(self, known: list[bytes]) -> bytes:
        """An event of nobody else, made of one that was scored before: what its body holds is new to nobody any more."""
        while True:
            poison = next(poisoned(known, self._chance.randrange(2**31)))
            if self._chance.random() < 0.5:
                poison = mutate(poison, self._chance, [poison]).replace(b"\n", b" ")
            if all(event.user.username.startswith("mallory") for event in decode_lines([poison]).events):
                return poison


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a model's bundle")
    parser.add_argument("--log", type=Path, default=RECORDINGS / "labelled.jsonl.zst", help="good events")
    parser.add_argument("--events", type=int, default=1000, help="poisoned events")
    parser.add_argument("--each", type=int, default=1, help="poisoned events in each 1,000 good ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    log = PoisonedLog(Bundle.load(options.bundle), options.log, options.each, options.seed)
    figures = log.run(options.events, lambda text: print(text, flush=True))
    print(json.dumps(figures))
    sys.exit(bool(figures["differed"] or figures["failed"]))


if __name__ == "__main__":
    main()
