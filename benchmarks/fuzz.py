"""Fuzzes all targets guided by coverage: `make fuzz`, or `python -m benchmarks.fuzz --inputs 10000000`. Needs atheris.

Targets take turns, each in a process of its own; figures stand in `figures.json` of the state's folder after each turn, and a
later call goes on from there. What crashes or hangs is kept in `crashes/TARGET`; copy it to `tests/fuzz/corpus/TARGET`,
where `tests/fuzz/test_corpus.py` feeds it to the target in every run. `--minimise` makes that corpus again from what was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).resolve().parent.parent / "tests" / "fuzz" / "corpus"
#: Inputs of one turn. Those that read less of the input are faster, and get more.
TURN = {
    "readers": 10_000,
    "wrapped": 20_000,
    "redaction": 40_000,
    "files": 20_000,
    "requests": 40_000,
    "patterns": 40_000,
}
_TURN = 200_000
#: A turn ends after so many seconds all the same.
TURN_SECONDS = 300
MAX_BYTES = {"readers": 8_000, "wrapped": 4_000, "files": 16_000, "traits": 4_000, "redaction": 4_000}
_MAX_BYTES = 1_000
#: Longest that one input may take, in seconds of wall-clock time on a busy machine.
HANG_SECONDS = 20
_REPORT_SECONDS = 1.0
_INSTRUMENTED = (
    "data.actions",
    "data.events",
    "data.principals",
    "data.patterns",
    "data.timestamps",
    "data.visible_text",
)
_INSTRUMENTED += (
    "serving.forensics",
    "serving.schemas",
    "serving.http.body",
    "serving.api.parameters",
    "serving.alerts.query",
)
_KEPT_BYTES = 26_000


class Recorder:
    """Counts inputs and their time, and keeps what crashes, one of each kind, so that the search goes on."""

    def __init__(self, target: Any, folder: Path, report: Path) -> None:
        self._target, self._folder, self._report = target, folder, report
        self._inputs, self._slowest, self._crashes = 0, 0.0, 0
        self._kinds: set[str] = set()
        self._due = 0.0

    def __call__(self, data: bytes) -> None:
        """Feed one input."""
        begin = time.process_time()
        try:
            self._target(data)
        except Exception as error:
            self._crashed(data, error)
        self._inputs += 1
        self._slowest = max(self._slowest, time.process_time() - begin)
        if time.monotonic() > self._due:
            self.write()
            self._due = time.monotonic() + _REPORT_SECONDS

    def _crashed(self, data: bytes, error: Exception) -> None:
        self._crashes += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__}:{place.filename}:{place.lineno}"
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / hashlib.sha256(kind.encode()).hexdigest()[:12]
        if not path.exists():
            path.write_bytes(data)
            path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))

    def write(self) -> None:
        """Write the figures so far."""
        draft = self._report.with_suffix(".part")
        figures = {"inputs": self._inputs, "crashes": self._crashes, "slowest_s": self._slowest}
        draft.write_text(json.dumps(figures))
        draft.replace(self._report)


def one_turn(name: str, state: Path, inputs: int, seed: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=list(_INSTRUMENTED), enable_loader_override=False):
        from benchmarks.fuzzing.targets import TARGETS
    recorder = Recorder(TARGETS[name](), state / "crashes" / name, state / f"{name}.turn.json")
    recorder.write()
    (state / "crashes" / name).mkdir(parents=True, exist_ok=True)
    found = state / "corpus" / name
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-runs={inputs}",
        f"-max_total_time={TURN_SECONDS}",
        f"-seed={seed}",
        f"-max_len={MAX_BYTES.get(name, _MAX_BYTES)}",
        f"-timeout={HANG_SECONDS}",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=1",
        f"-artifact_prefix={state}/crashes/{name}/hang-",
        str(found),
        str(CORPUS / name),
    ]
    atheris.Setup(arguments, recorder)
    atheris.Fuzz()


def _figures(state: Path) -> dict[str, dict[str, Any]]:
    path = state / "figures.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _add_turn(state: Path, name: str, seconds: float, coverage: int, ended: int) -> dict[str, dict[str, Any]]:
    """Add the figures of a turn to those of the target, and return those of all."""
    turn = json.loads((state / f"{name}.turn.json").read_text())
    figures = _figures(state)
    mine = figures.setdefault(
        name, {"inputs": 0, "crashes": 0, "slowest_s": 0.0, "seconds": 0.0, "edges": 0, "hangs": 0}
    )
    mine["inputs"] += turn["inputs"]
    mine["crashes"] += turn["crashes"]
    mine["slowest_s"] = max(mine["slowest_s"], turn["slowest_s"])
    mine["seconds"] += seconds
    mine["edges"] = max(mine["edges"], coverage)
    mine["hangs"] += ended != 0
    draft = state / "figures.part"
    draft.write_text(json.dumps(figures, indent=1))
    draft.replace(state / "figures.json")
    return figures


def _edges(output: str) -> int:
    """The last `cov:` that libFuzzer printed."""
    seen = [
        int(word)
        for before, word in zip(output.split(), output.split()[1:], strict=False)
        if before == "cov:"
    ]
    return max(seen, default=0)


def run(names: list[str], state: Path, inputs: int) -> dict[str, dict[str, Any]]:
    """Let the targets take turns until they had so many inputs altogether; returns their figures."""
    state.mkdir(parents=True, exist_ok=True)
    figures = _figures(state)
    number = 0
    while sum(one["inputs"] for one in figures.values()) < inputs:
        name = names[number % len(names)]
        number += 1
        (state / "crashes" / name).mkdir(parents=True, exist_ok=True)
        seed = 1 + random.SystemRandom().randrange(2**31 - 1)
        (state / f"{name}.turn.json").write_text('{"inputs": 0, "crashes": 0, "slowest_s": 0.0}')
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz",
            "--turn",
            name,
            "--state",
            str(state),
            "--seed",
            str(seed),
        ]
        command += ["--inputs", str(TURN.get(name, _TURN))]
        begin = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=os.environ)
        figures = _add_turn(state, name, time.monotonic() - begin, _edges(done.stderr), done.returncode)
        said = figures[name]
        print(
            f"{name}: {said['inputs']:,} inputs, {said['edges']:,} edges, {said['crashes']} crashes, {said['hangs']} hangs, "
            f"slowest {said['slowest_s']:.3f} s; in all {sum(one['inputs'] for one in figures.values()):,}",
            flush=True,
        )
        if done.returncode:
            print(done.stderr[-2000:], flush=True)
        if not json.loads((state / f"{name}.turn.json").read_text())["inputs"]:
            sys.exit(f"The target {name} does not start:\n{done.stderr[-3000:]}")
    return figures


def minimise(names: list[str], state: Path) -> None:
    """Make the corpus of the repository again: the smallest inputs that reach what all that were found reach."""
    for name in names:
        merged = state / "merged" / name
        merged.mkdir(parents=True, exist_ok=True)
        for old in merged.iterdir():
            old.unlink()
        command = [sys.executable, "-m", "benchmarks.fuzz", "--merge", name, "--state", str(state)]
        subprocess.run(command, capture_output=True, check=True)
        into = CORPUS / name
        into.mkdir(parents=True, exist_ok=True)
        for old in into.iterdir():
            if not old.name.startswith("crash-"):
                old.unlink()
        room = _KEPT_BYTES
        for path in sorted(merged.iterdir(), key=lambda one: (one.stat().st_size, one.name)):
            content = path.read_bytes()
            if len(content) > room:
                break
            room -= len(content)
            (into / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)
        print(f"{name}: {sum(1 for _ in into.iterdir())} inputs, {_KEPT_BYTES - room:,} bytes", flush=True)


def merge(name: str, state: Path) -> None:
    """libFuzzer's merge of one target, in this process."""
    import atheris

    with atheris.instrument_imports(include=list(_INSTRUMENTED), enable_loader_override=False):
        from benchmarks.fuzzing.targets import TARGETS
    (state / "crashes" / name).mkdir(parents=True, exist_ok=True)
    recorder = Recorder(TARGETS[name](), state / "crashes" / name, state / f"{name}.merge.json")
    folders = [str(state / "merged" / name), str(state / "corpus" / name), str(CORPUS / name)]
    atheris.Setup(
        [sys.argv[0], "-merge=1", f"-max_len={MAX_BYTES.get(name, _MAX_BYTES)}", *folders], recorder
    )
    atheris.Fuzz()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=1_000_000, help="altogether, with those of earlier calls"
    )
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument(
        "--state", type=Path, default=Path(".kubehabit/fuzz"), help="what was found, crashes, figures"
    )
    parser.add_argument(
        "--minimise", action="store_true", help="make tests/fuzz/corpus again from what was found"
    )
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    parser.add_argument("--merge", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    state = options.state.absolute()
    if options.turn:
        one_turn(options.turn, state, options.inputs, options.seed)
    if options.merge:
        merge(options.merge, state)
    from benchmarks.fuzzing.targets import TARGETS

    names = options.target or list(TARGETS)
    if options.minimise:
        minimise(names, state)
        return
    figures = run(names, state, options.inputs)
    print(json.dumps(figures, indent=1))
    sys.exit(any(one["crashes"] or one["hangs"] for one in figures.values()))


if __name__ == "__main__":
    main()
