"""Rounds of fuzzing, each made of a seed and its number, so that a run that was ended goes on where it was."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

#: CPU time after which a round counts as hanging, in seconds; one takes about a tenth of a second.
HANG_SECONDS = 60.0
_SAVE_SECONDS = 5.0
_SAY_SECONDS = 30.0

Item = TypeVar("Item")


class BrokenPromiseError(AssertionError):
    """What must always hold does not.

    Attributes:
        inputs: the smallest inputs that show it.
    """

    def __init__(self, what: str, inputs: list[bytes]) -> None:
        super().__init__(what)
        self.inputs = inputs


class HangError(AssertionError):
    """A round took far too long."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise HangError in what takes longer, in CPU time of this process."""

    def stop(*_: object) -> None:
        raise HangError(f"took more than {seconds:.0f} s of CPU time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def in_time(data: bytes, seconds: float) -> Iterator[None]:
    """Raise BrokenPromiseError if what is done with some bytes takes longer.

    By the clock on the wall, as that of the processor is slow to read on some machines; other programs may cause it too.
    """
    begin = time.perf_counter()
    yield
    taken = time.perf_counter() - begin
    if taken > seconds:
        raise BrokenPromiseError(f"took {taken:.1f} s", [data])


def smallest(inputs: list[Item], breaks: Callable[[list[Item]], bool]) -> list[Item]:
    """The smallest part of some inputs that still breaks a promise, found by leaving out halves, quarters and so on."""
    part = max(len(inputs) // 2, 1)
    while len(inputs) > 1:
        for begin in range(0, len(inputs), part):
            rest = inputs[:begin] + inputs[begin + part :]
            if rest and breaks(rest):
                inputs = rest
                break
        else:
            if part == 1:
                break
            part = max(part // 2, 1)
            continue
        part = max(min(part, len(inputs) // 2), 1)
    return inputs


def checked(
    items: list[Item],
    check: Callable[[list[Item]], Counter[str]],
    kind: str,
    data_of: Callable[[Item], bytes],
) -> Counter[str]:
    """Counts of a check and of its inputs; raises BrokenPromiseError with the smallest part of them for which it fails."""
    try:
        counts = check(items)
    except Exception as error:
        few = smallest(items, lambda some: _breaks(lambda: check(some)))
        raise BrokenPromiseError(
            f"{kind}: {type(error).__name__}: {error}", [data_of(one) for one in few]
        ) from error
    counts["inputs"] += len(items)
    return counts


def _breaks(check: Callable[[], object]) -> bool:
    try:
        with time_limit(HANG_SECONDS):
            check()
    except Exception:
        return True
    return False


class Campaign:
    """Rounds that are counted in a report.

    Args:
        report: JSON file with the figures; a campaign that finds it goes on from there.
        seed: of all rounds.
        say: called with a line now and then.
    """

    def __init__(self, report: Path, seed: int, say: Callable[[str], None] = print) -> None:
        self._report, self._say = report, say
        self.figures: dict[str, Any] = {"seed": seed, "rounds": 0, "inputs": 0, "broken": 0, "cpu_s": 0.0}
        if report.exists():
            self.figures |= json.loads(report.read_text())
        self.seed = int(self.figures["seed"])
        self._counts: Counter[str] = Counter(self.figures.get("counts", {}))

    def run(self, wanted: int, play: Callable[[random.Random], Counter[str]]) -> dict[str, Any]:
        """Play rounds until there were so many inputs, those of earlier runs among them; returns the figures.

        A round returns counts, `inputs` among them, and raises BrokenPromiseError or anything else that it must not.
        """
        self._report.parent.mkdir(parents=True, exist_ok=True)
        began, first, saved, said = time.monotonic(), self.figures["inputs"], 0.0, time.monotonic()
        while self.figures["inputs"] < wanted:
            self._play(play)
            now = time.monotonic()
            if now - saved > _SAVE_SECONDS:
                self._save()
                saved = now
            if now - said > _SAY_SECONDS:
                self._say(self._progress(wanted, (self.figures["inputs"] - first) / (now - began)))
                said = now
        self._save()
        return self.figures

    def _play(self, play: Callable[[random.Random], Counter[str]]) -> None:
        number, begin = self.figures["rounds"], time.process_time()
        try:
            with time_limit(HANG_SECONDS):
                counts = play(random.Random(f"{self.seed} {number}"))
        except Exception as error:
            self.figures["broken"] += 1
            self._keep(number, error)
            counts = Counter()
        taken = time.process_time() - begin
        self.figures["inputs"] += counts.pop("inputs", 0)
        self._counts.update(counts)
        self.figures["rounds"] = number + 1
        self.figures["cpu_s"] += taken
        self.figures["slowest_round_s"] = max(self.figures.get("slowest_round_s", 0.0), taken)

    def _keep(self, number: int, error: Exception) -> None:
        """Write the smallest inputs of a round that broke a promise beside the report."""
        inputs = error.inputs if isinstance(error, BrokenPromiseError) else []
        for place, content in enumerate(inputs):
            self._report.with_suffix(f".round{number}.{place}").write_bytes(content)
        self._say(f"ROUND {number}: {type(error).__name__}: {error}: {[one[:300] for one in inputs[:3]]}")

    def _save(self) -> None:
        self.figures["counts"] = dict(sorted(self._counts.items()))
        draft = self._report.with_name(f"{self._report.name}.part")
        draft.write_text(json.dumps(self.figures, indent=1))
        draft.replace(self._report)

    def _progress(self, wanted: int, rate: float) -> str:
        done, cpu = self.figures["inputs"], max(self.figures["cpu_s"], 1e-9)
        left = (wanted - done) / max(rate, 1e-9) / 60
        return (
            f"{time.strftime('%H:%M:%S')} {done:,} of {wanted:,} inputs, {rate:,.0f} a second, {done / cpu:,.0f} a second of CPU "
            f"time, {left:.0f} minutes to go, {self.figures['broken']} broken"
        )


def command(
    description: str | None, of: str, what: str, play: Callable[[random.Random], Counter[str]]
) -> None:
    """The command line of a campaign; ends the process, with 1 if a promise was broken.

    Args:
        description: for its help.
        of: the option that says how many inputs there shall be, without its dashes.
        what: inputs, in words.
        play: as of `Campaign.run`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        f"--{of}", dest="wanted", type=int, default=1_000_000, help=f"{what}, with those of earlier calls"
    )
    name = Path(sys.argv[0]).stem.replace("_", "-")
    parser.add_argument("--report", type=Path, default=Path(f".kubehabit/{name}.json"), help="figures so far")
    parser.add_argument("--seed", type=int, default=0, help="of a run that begins")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    figures = Campaign(options.report, options.seed, say).run(options.wanted, play)
    print(json.dumps(figures, indent=1))
    sys.exit(bool(figures["broken"]))
