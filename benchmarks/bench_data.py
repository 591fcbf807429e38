"""Speed and memory of the way from a log file to encoded columns, against a bare compiled decode of the same file.

Run: python -m benchmarks.bench_data [--rounds 7] [--gigabytes 1 10]

All of it in about two minutes; a log of 10 GB takes some minutes more, and room for it in the temporary folder.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import msgspec

from benchmarks.report import Row, at_least, at_most, report
from data.actions.encoder import ActionSettings
from data.dataset.parts import Job, encode_job
from data.events.audit_event import AuditEvent
from data.events.reader import open_lines
from data.paths import Recordings, shipped

RECORDING = Path(__file__).resolve().parent.parent / "data" / "recordings" / "normal.jsonl.zst"
EVENTS = 60_000
SETTINGS = ActionSettings.shipped(trusted_hops=Recordings.TRUSTED_HOPS).to_dict()
RULES = shipped("sensitivity.yaml")["rules"]


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
        encode_job(Job(log, 0, 0, None, log.stat().st_size), Path(folder), SETTINGS, RULES)
        return sum(
            json.loads(part.read_text())["counts"]["events"] for part in Path(folder).glob("*/part.json")
        )


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


_TIME_OF_DAY = re.compile(rb'(?<=Timestamp":")(\d{4}-\d\d-\d\d)T')
_NAME = re.compile(rb'(?<="username":")[^"]+')


def grow(log: Path, gigabytes: float) -> None:
    """A log of some size from the recording: repeated on later and later days, with audit IDs of its own."""
    lines = [line + b"\n" for line in open_lines(RECORDING)]
    days = sorted({day.decode() for line in lines for day in _TIME_OF_DAY.findall(line)})
    step = (date.fromisoformat(days[-1]) - date.fromisoformat(days[0])).days + 1
    text = b"".join(lines)
    size, number = 0, 0
    with log.open("wb") as out:
        while size < gigabytes * 1e9:
            copy = text.replace(b'"auditID":"', b'"auditID":"%04x' % number)
            for day in reversed(days):  # the last first: a day moved on may be one of the others
                moved = date.fromisoformat(day) + timedelta(days=number * step)
                copy = copy.replace(
                    b'Timestamp":"%s' % day.encode(), b'Timestamp":"%s' % moved.isoformat().encode()
                )
            out.write(copy)
            size += len(copy)
            number += 1


def crowd(log: Path, lines: list[bytes], times: int) -> int:
    """A log of given lines in which each name is that of so many principals in turn; how many there are then."""
    names: set[bytes] = set()

    def renamed(number: int) -> Callable[[re.Match[bytes]], bytes]:
        def rename(match: re.Match[bytes]) -> bytes:
            name = match[0] + b"-x%dx" % (number % times)
            names.add(name)
            return name

        return rename

    with log.open("wb") as out:
        for number, line in enumerate(lines):
            out.write((line if times == 1 else _NAME.sub(renamed(number), line, count=1)) + b"\n")
    return len(names) if times > 1 else len({name for line in lines for name in _NAME.findall(line)[:1]})


def growth(folder: Path, lines: list[bytes]) -> list[Row]:
    """What an event costs in logs with more events, and with more principals; each the median of three."""
    rows = []
    log = folder / "growth.jsonl"

    def cost() -> float:
        def once() -> float:
            gc.collect()
            began = time.process_time()
            count = encoded(log)
            return (time.process_time() - began) / count * 1e6

        return statistics.median(once() for _ in range(3))

    for share in (8, 4, 2, 1):
        count = len(lines) // share
        crowd(log, lines[:count], 1)
        rows.append(Row(f"encoding, {count:,} events", cost(), "us/event"))
    for times in (1, 10, 100, 1000):
        principals = crowd(log, lines[:EVENTS], times)
        rows.append(Row(f"encoding, {EVENTS:,} events of {principals:,} users", cost(), "us/event"))
    log.unlink()
    return rows


_BUILD = """
import re, resource, sys
from pathlib import Path
from data.dataset.build import build

if __name__ == "__main__":
    actions = build([Path(sys.argv[1])], Path(sys.argv[2]), progress=False, workers=int(sys.argv[3]) or None).card["actions"]
    # VmHWM, not ru_maxrss: that one begins at the size of the process that started this one.
    own = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    print(actions, max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def peak_of_build(log: Path, out: Path, workers: int | None) -> tuple[float, float, int]:
    """(largest resident size of any process in MB, seconds, actions) of a build in processes of its own."""
    script = out.parent / "build.py"
    script.write_text(_BUILD)
    began = time.monotonic()
    root = str(RECORDING.parent.parent.parent)
    done = subprocess.run(
        [sys.executable, str(script), str(log), str(out), str(workers or 0)],
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--gigabytes", type=float, nargs="*", default=[1.0], help="sizes of logs for the memory figures"
    )
    parser.add_argument("--workers", type=int, help="processes of a build; all cores if not given")
    options = parser.parse_args()
    rows: list[Row] = []
    lines = list(open_lines(RECORDING))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log.jsonl"
        log.write_bytes(b"\n".join(lines[:EVENTS]) + b"\n")
        found = rates(log, options.rounds)
        ratio = statistics.median(e / b for e, b in zip(found["encoded"], found["bare"], strict=True))
        against_json = statistics.median(e / j for e, j in zip(found["encoded"], found["json"], strict=True))
        rows += [
            Row(f"{way}, one core", statistics.median(values), "events/s") for way, values in found.items()
        ]
        rows.append(at_least("encoded columns / bare decode", ratio, "ratio", 0.35))
        rows.append(at_least("encoded columns / json.loads", against_json, "ratio", 1.0))
        rows += growth(folder, lines)
        del lines
        peaks: list[float] = []
        for gigabytes in sorted(options.gigabytes):
            grow(log, gigabytes)
            peak, seconds, actions = peak_of_build(log, folder / "out", options.workers)
            peaks.append(peak)
            rows.append(at_most(f"peak memory of a process, {gigabytes:g} GB log", peak, "MB", 600))
            label = f"build of a {gigabytes:g} GB log, {options.workers or 'all'} processes"
            rows.append(Row(label, actions / seconds, "actions/s"))
            shutil.rmtree(folder / "out")
        if len(peaks) > 1:
            rows.append(Row("peak memory, largest log / smallest", peaks[-1] / peaks[0], "ratio"))
    report("data", rows)


if __name__ == "__main__":
    main()
