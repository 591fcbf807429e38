"""Speed and memory of the way from a log file to encoded columns, against a bare compiled decode of the same file.

Run: python -m benchmarks.bench_data [--rounds 5] [--gigabytes 1 10]
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec

from benchmarks.report import Row, at_least, at_most, report
from data.actions import ActionSettings
from data.events import AuditEvent
from data.parts import Job, encode_job
from data.reader import open_lines
from data.sensitivity import Sensitivity
from data.shipped import shipped

RECORDING = Path(__file__).resolve().parent.parent / "data" / "recordings" / "normal.jsonl.zst"
EVENTS = 60_000


def bare_decode(log: Path) -> int:
    """The floor: read lines and decode the same fields, keeping nothing."""
    decode = msgspec.json.Decoder(AuditEvent).decode
    count = 0
    with log.open("rb") as raw:
        for line in raw:
            decode(line)
            count += 1
    return count


def plain_json(log: Path) -> int:
    """What a script of one's own would do: `json.loads` of every line, keeping nothing."""
    count = 0
    with log.open("rb") as raw:
        for line in raw:
            json.loads(line)
            count += 1
    return count


def encoded(log: Path) -> int:
    """The product: log file -> encoded columns on disk, as a worker of `kubehabit data build` does it."""
    with tempfile.TemporaryDirectory() as folder:
        rules = shipped("sensitivity.yaml")["rules"]
        settings = ActionSettings.from_dict(shipped("actions.yaml")).to_dict()
        Sensitivity(rules)
        encode_job(Job(log, 0, 0, None, log.stat().st_size), Path(folder), settings, rules)
    return EVENTS


def rates(log: Path, rounds: int) -> dict[str, list[float]]:
    """Events a second of each way, in turn, so that a machine whose speed drifts treats them alike."""
    ways: dict[str, Callable[[Path], int]] = {"bare": bare_decode, "json": plain_json, "encoded": encoded}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            gc.collect()
            began = time.process_time()
            count = way(log)
            if number:  # the first is a warm-up
                found[name].append(count / (time.process_time() - began))
    return found


def grow(log: Path, gigabytes: float) -> None:
    """A log of some size from the recording, repeated with audit IDs of its own."""
    lines = list(open_lines(RECORDING))
    size, number = 0, 0
    with log.open("wb") as out:
        while size < gigabytes * 1e9:
            number += 1
            text = b"\n".join(lines).replace(b'"auditID":"', b'"auditID":"%04x-' % number) + b"\n"
            out.write(text)
            size += len(text)


_BUILD = """
import re, resource, sys
from pathlib import Path
from data.dataset import build

if __name__ == "__main__":
    actions = build([Path(sys.argv[1])], Path(sys.argv[2]), progress=False).card["actions"]
    # VmHWM, not ru_maxrss: that one begins at the size of whoever started this process.
    own = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    print(actions, max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def peak_of_build(log: Path, out: Path) -> tuple[float, float, int]:
    """(largest resident size of any process in MB, seconds, actions) of a build in processes of its own."""
    script = out.parent / "build.py"
    script.write_text(_BUILD)
    began = time.monotonic()
    root = str(RECORDING.parent.parent.parent)
    done = subprocess.run(
        [sys.executable, str(script), str(log), str(out)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": root, "PATH": ""},
    )
    actions, peak = map(int, done.stdout.split())
    return peak / 1024, time.monotonic() - began, actions


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--gigabytes", type=float, nargs="*", default=[1.0], help="sizes of logs for the memory figures"
    )
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log.jsonl"
        log.write_bytes(b"\n".join(islice(open_lines(RECORDING), EVENTS)) + b"\n")
        found = rates(log, options.rounds)
        ratio = statistics.median(e / b for e, b in zip(found["encoded"], found["bare"], strict=True))
        against_json = statistics.median(e / j for e, j in zip(found["encoded"], found["json"], strict=True))
        rows += [
            Row(f"{way}, one core", statistics.median(values), "events/s") for way, values in found.items()
        ]
        rows.append(at_least("encoded columns / bare decode", ratio, "ratio", 0.35))
        rows.append(at_least("encoded columns / json.loads", against_json, "ratio", 1.0))
        for gigabytes in options.gigabytes:
            grow(log, gigabytes)
            peak, seconds, actions = peak_of_build(log, folder / "out")
            rows.append(at_most(f"peak memory of a process, {gigabytes:g} GB log", peak, "MB", 600))
            rows.append(Row(f"build of a {gigabytes:g} GB log, all cores", actions / seconds, "actions/s"))
            shutil.rmtree(folder / "out")
    report("data", rows)


if __name__ == "__main__":
    main()
