"""Fuzzes all targets guided by coverage: `make fuzz`, or `python -m benchmarks.fuzz --inputs 10000000`. Needs atheris.

One process has all targets; the first byte of an input says which is meant. `figures.json` in the state's folder has the figures
of each target at any time, and a later call goes on from there. What crashes or hangs is kept in `crashes`; copy it to
`tests/fuzz/corpus/TARGET`, where `tests/fuzz/test_corpus.py` feeds it to the target in every run. `--minimise` makes that corpus
again from what was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).resolve().parent.parent / "tests" / "fuzz" / "corpus"
MAX_BYTES = 3_000
#: Longest that one input may take, in seconds of wall-clock time on a busy machine.
HANG_SECONDS = 60
_REPORT_SECONDS = 2.0
_INSTRUMENTED = (
    *(
        "data.actions",
        "data.events",
        "data.principals",
        "data.patterns",
        "data.timestamps",
        "data.visible_text",
    ),
    *(
        "serving.forensics",
        "serving.schemas",
        "serving.http.body",
        "serving.api.parameters",
        "serving.alerts.query",
    ),
)
#: Bytes of a target's corpus in the repository.
_KEPT_BYTES = 24_000
_NOTHING = {"inputs": 0, "crashes": 0, "slowest_s": 0.0, "seconds": 0.0}


class Recorder:
    """Feeds each input to its target, counts inputs and time, and keeps what crashes, one of each kind: the search goes on.

    Args:
        targets: name -> target; an input's first byte is the place of its target among them.
        state: folder of the figures, which are added to those that it has, and of the crashes.
        skip: targets whose inputs are passed over, for a search in the others.
    """

    def __init__(
        self, targets: dict[str, Callable[[bytes], None]], state: Path, skip: Collection[str] = ()
    ) -> None:
        self._skip = frozenset(skip)
        self._targets = list(targets.items())
        self._state = state
        self._kinds: set[str] = set()
        self._due = 0.0
        self.figures = read_figures(state)
        for name in targets:
            self.figures.setdefault(name, dict(_NOTHING))

    def __call__(self, data: bytes) -> None:
        """Feed one input."""
        name, target = self._targets[data[0] % len(self._targets) if data else 0]
        if name in self._skip:
            return
        mine = self.figures[name]
        begin = time.process_time()
        try:
            target(data[1:])
        except Exception as error:
            mine["crashes"] += 1
            self._keep(name, data[1:], error)
        taken = time.process_time() - begin
        mine["inputs"] += 1
        mine["seconds"] += taken
        mine["slowest_s"] = max(mine["slowest_s"], taken)
        if time.monotonic() > self._due:
            self.write()
            self._due = time.monotonic() + _REPORT_SECONDS

    def _keep(self, name: str, data: bytes, error: Exception) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{name}:{type(error).__name__}:{place.filename}:{place.lineno}"
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        path = self._state / "crashes" / f"{name}-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
        if not path.exists():
            path.write_bytes(data)
            path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))

    def write(self) -> None:
        """Write the figures so far."""
        draft = self._state / "figures.part"
        draft.write_text(json.dumps(self.figures, indent=1))
        draft.replace(self._state / "figures.json")


def read_figures(state: Path) -> dict[str, dict[str, Any]]:
    """Target -> inputs, crashes, slowest input and all inputs together in seconds of CPU time."""
    path = state / "figures.json"
    return json.loads(path.read_text()) if path.exists() else {}


def total(state: Path) -> int:
    """Inputs of all targets so far."""
    return sum(one["inputs"] for one in read_figures(state).values())


def search(state: Path, arguments: list[str], skip: Collection[str]) -> None:
    """Let libFuzzer search in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=list(_INSTRUMENTED), enable_loader_override=False):
        from benchmarks.fuzzing.targets import TARGETS
    recorder = Recorder({name: make() for name, make in TARGETS.items()}, state, skip)
    recorder.write()
    atheris.Setup([str(_again(state)), f"-max_len={MAX_BYTES}", *arguments], recorder)
    atheris.Fuzz()


def _again(state: Path) -> Path:
    """A command that starts this process again: libFuzzer merges in processes of their own."""
    script = state / "again.sh"
    if not script.exists():
        call = shlex.join([sys.executable, "-m", "benchmarks.fuzz", "--state", str(state), "--child"])
        script.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        script.chmod(0o700)
    return script


def spread(state: Path, names: list[str]) -> None:
    """Put the inputs of the repository and of `seeds/TARGET` into the corpus that is searched from."""
    (state / "corpus").mkdir(parents=True, exist_ok=True)
    (state / "crashes").mkdir(exist_ok=True)
    for place, name in enumerate(names):
        for folder in (CORPUS / name, state / "seeds" / name):
            for path in folder.iterdir() if folder.is_dir() else ():
                content = bytes([place]) + path.read_bytes()
                (state / "corpus" / hashlib.sha1(content).hexdigest()).write_bytes(content)


def _child(state: Path, *arguments: str, skip: Collection[str] = ()) -> subprocess.Popen[str]:
    left_out = [word for name in skip for word in ("--skip", name)]
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz",
        "--state",
        str(state),
        *left_out,
        "--child",
        *arguments,
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ,
    )


def run(
    names: list[str], state: Path, inputs: int, skip: Collection[str] = (), seconds: float | None = None
) -> int:
    """Search until there were so many inputs altogether, or for so long; returns how often an input ended the process."""
    spread(state, names)
    ended, until = 0, None if seconds is None else time.monotonic() + seconds
    while (left := inputs - total(state)) > 0:
        before = total(state)
        rest = 0 if until is None else max(round(until - time.monotonic()), 0)
        if until is not None and not rest:
            break
        limits = [
            f"-timeout={HANG_SECONDS}",
            "-rss_limit_mb=3072",
            f"-max_total_time={rest}",  # 0: no limit
            f"-artifact_prefix={state}/crashes/ended-",
        ]
        child = _child(state, f"-runs={left}", "-reload=0", *limits, str(state / "corpus"), skip=skip)
        assert child.stderr is not None
        for line in child.stderr:
            if "cov:" in line or "ERROR" in line or "Error" in line:
                print(f"{time.strftime('%H:%M:%S')} {total(state):,} inputs {line.strip()[:160]}", flush=True)
        if child.wait() and total(state) > before:
            ended += 1
        elif child.returncode:
            sys.exit("The search does not start: is atheris installed? See `make fuzz`.")
        elif total(state) == before:
            break
    return ended


def mutations(state: Path, inputs: int, skip: Collection[str], seed: int = 1) -> None:
    """Feed mutations of the repository's corpus, with the targets in turns: no search, but many more inputs in the same time."""
    from benchmarks.fuzz_decoders import mutate
    from benchmarks.fuzzing.targets import TARGETS

    (state / "crashes").mkdir(parents=True, exist_ok=True)
    recorder = Recorder({name: make() for name, make in TARGETS.items()}, state)
    pools = {
        place: [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
        for place, name in enumerate(TARGETS)
        if name not in skip
    }
    chance = random.Random(seed + total(state))
    for _ in range(max(inputs - total(state), 0) // len(pools)):
        for place, pool in pools.items():
            recorder(bytes([place]) + mutate(chance.choice(pool), chance, pool))
    recorder.write()


def minimise(names: list[str], state: Path) -> None:
    """Make the corpus of the repository again: the smallest inputs that reach what all that were found reach."""
    spread(state, names)
    merged = state / "merged"
    merged.mkdir(exist_ok=True)
    for old in merged.iterdir():
        old.unlink()
    child = _child(state, "-merge=1", str(merged), str(state / "corpus"))
    assert child.stderr is not None
    child.stderr.read()
    if child.wait() or not any(merged.iterdir()):
        sys.exit("The merge failed: is atheris installed? See `make fuzz`.")
    contents = sorted((path.read_bytes() for path in merged.iterdir()), key=lambda one: (len(one), one))
    for place, name in enumerate(names):
        into = CORPUS / name
        into.mkdir(parents=True, exist_ok=True)
        for old in into.iterdir():
            if not old.name.startswith(("crash-", "seed-")):
                old.unlink()
        room = _KEPT_BYTES
        for content in contents:
            if content and content[0] % len(names) == place and len(content) <= room:
                room -= len(content)
                (into / hashlib.sha256(content[1:]).hexdigest()[:12]).write_bytes(content[1:])
        print(f"{name}: {sum(1 for _ in into.iterdir())} inputs, {_KEPT_BYTES - room:,} bytes", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=1_000_000, help="altogether, with those of earlier calls"
    )
    parser.add_argument("--minutes", type=float, help="of the search, if it has not had its inputs before")
    parser.add_argument(
        "--state", type=Path, default=Path(".kubehabit/fuzz"), help="what was found, crashes, figures"
    )
    parser.add_argument(
        "--minimise", action="store_true", help="make tests/fuzz/corpus again from what was found"
    )
    parser.add_argument(
        "--mutate", action="store_true", help="only mutate tests/fuzz/corpus; needs no atheris"
    )
    parser.add_argument("--skip", action="append", default=[], help="leave out a target; may be repeated")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    state = options.state.absolute()
    if options.child is not None:
        search(state, options.child, options.skip)
    from benchmarks.fuzzing.targets import TARGETS

    names = list(TARGETS)
    if options.minimise:
        minimise(names, state)
        return
    if options.mutate:
        mutations(state, options.inputs, options.skip)
    seconds = None if options.minutes is None else 60 * options.minutes
    ended = 0 if options.mutate else run(names, state, options.inputs, options.skip, seconds)
    print(json.dumps(read_figures(state), indent=1))
    sys.exit(bool(ended or any(one["crashes"] for one in read_figures(state).values())))


if __name__ == "__main__":
    main()
