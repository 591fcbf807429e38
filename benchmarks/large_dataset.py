"""Memory and rate of `kubehabit data build` in the number of events: one cluster of the twin, as many days as it takes.

Run: python -m benchmarks.large_dataset --folder DIR [--events 100000000] [--sizes 1000000 5000000] [--workers 2]

The twin (500 principals, the default profile) runs until it has written that many events, in files of a million as a log is
rotated; those that are there are used again. Then a dataset is built of the first million, of the first five and so on. Memory
is that of all processes of the build together, looked at every fifth of a second: what they have resident (pages of files
that are mapped included, though the kernel can take those back), and of it what is theirs alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from threading import Event, Thread

import zstandard

from benchmarks.report import Row, at_most, report
from data.simulation import load_settings
from data.simulation.cluster import make_cast
from data.simulation.config import SECOND
from data.simulation.control_plane import start_machines
from data.simulation.kernel import Kernel
from data.simulation.people import start_people
from data.simulation.world import World

ROOT = Path(__file__).resolve().parent.parent
START = 1_793_577_600 * SECOND  # 2026-11-02, a Monday
PRINCIPALS, DAYS, SEED = 500, 365, 1
FILE_EVENTS = 1_000_000
#: MiB that all processes of a build may have together.
_MOST = 2048
_RESIDENT = re.compile(r"^(VmRSS|RssAnon):\s+(\d+)", re.MULTILINE)


class Rotated:
    """Writes lines to log-0000.jsonl.zst, log-0001.jsonl.zst, ...; a file appears under its name when it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.whole, self.events = folder, 0, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        self._path = self.folder / f"log-{self.whole:04d}.jsonl.zst"
        self._file = self._path.with_suffix(".draft").open("wb")
        self._writer = zstandard.ZstdCompressor(level=3).stream_writer(self._file)

    def write(self, lines: bytes) -> None:
        """Append lines; begins the next file when this one has its events."""
        self._writer.write(lines)
        self.events += lines.count(b"\n")
        if self.events >= FILE_EVENTS:
            self.close()
            self._open()

    def close(self) -> None:
        """End the file."""
        self._writer.close()  # type: ignore[no-untyped-call]
        self._path.with_suffix(".draft").rename(self._path)
        self.whole, self.events = self.whole + 1, 0


def simulate(folder: Path, events: int) -> None:
    """Normal work of one cluster until that many events are written."""
    settings = load_settings()
    out = Rotated(folder)
    kernel = Kernel(START, SEED, settings.policy, out.write)
    world = World(kernel, make_cast(settings, PRINCIPALS, Random(SEED)), settings)
    start_machines(world)
    start_people(world, DAYS)
    began = time.process_time()
    while kernel.events < events:
        kernel.run(kernel.now + 3600 * SECOND)
        days = (kernel.now - START) / SECOND / 86_400
        print(
            f"{kernel.events:>12,} events  day {days:6.2f}  {time.process_time() - began:7.0f} s CPU",
            flush=True,
        )
    out.close()


def resident(process: int) -> dict[str, int]:
    """Memory of a process and all its descendants, KiB."""
    total = {"VmRSS": 0, "RssAnon": 0}
    todo = [str(process)]
    while todo:
        try:
            where = Path("/proc", todo.pop())
            for name, size in _RESIDENT.findall((where / "status").read_text()):
                total[name] += int(size)
            for thread in (where / "task").iterdir():
                todo += (thread / "children").read_text().split()
        except OSError:
            continue  # it has ended
    return total


def peak_of_build(logs: list[Path], out: Path, workers: int) -> tuple[dict[str, int], float, float]:
    """(largest memory of all processes in KiB, CPU seconds, wall-clock seconds) of a build."""
    code = (
        "import sys; from pathlib import Path; from data.dataset.build import build\n"
        "if __name__ == '__main__':\n"
        "    logs = [Path(log) for log in sys.argv[3:]]\n"
        "    print(build(logs, Path(sys.argv[1]), progress=False, workers=int(sys.argv[2])).describe())\n"
    )
    script = out.with_suffix(".py")
    script.write_text(code)
    before, began = os.times(), time.monotonic()
    build = subprocess.Popen(
        [sys.executable, str(script), str(out), str(workers), *map(str, logs)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    peak = {"VmRSS": 0, "RssAnon": 0}
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.2):
            for name, size in resident(build.pid).items():
                peak[name] = max(peak[name], size)

    watcher = Thread(target=watch)
    watcher.start()
    code_of_build = build.wait()
    ended.set()
    watcher.join()
    if code_of_build:
        raise SystemExit(f"The build of {len(logs)} files failed.")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return peak, cpu, time.monotonic() - began


def main() -> None:
    """Simulate what is missing, build, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="for logs (80 bytes an event) and datasets"
    )
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000_000, 5_000_000, 20_000_000])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    logs = options.folder / "logs"
    if not (logs / f"log-{-(-options.events // FILE_EVENTS) - 1:04d}.jsonl.zst").exists():
        simulate(logs, options.events)
    rows = []
    files = sorted(logs.glob("*.zst"))
    for size in sorted({*options.sizes, options.events}):
        out = options.folder / f"dataset-{size}"
        shutil.rmtree(out, ignore_errors=True)
        peak, cpu, wall = peak_of_build(files[: -(-size // FILE_EVENTS)], out, options.workers)
        rows += [
            at_most(f"{size:,} events: memory of all processes", peak["VmRSS"] / 1024, "MiB", _MOST),
            Row(f"{size:,} events: of it their own", peak["RssAnon"] / 1024, "MiB"),
            Row(f"{size:,} events: CPU time", 1e6 * cpu / size, "µs/event"),
            Row(f"{size:,} events: wall-clock time", wall, "s"),
        ]
        report("large_dataset", rows)
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
