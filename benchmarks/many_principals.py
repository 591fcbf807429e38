"""Memory with a million principals: all act once, in turn, then many of them again; those quiet longest wait on disk.

Runs in one process what the service runs between its journal and its answers: engine, snapshots, eviction. Events are synthetic:
every principal has its own name and address, and does one or two things in one of 2,000 namespaces. The thresholds of the
bundle are raised, so that nobody is flagged: what is measured is the memory of principals, not that of alerts.

Run: python -m benchmarks.many_principals --bundle DIR [--principals 1000000] [--hot 20000]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.report import Row, at_most, report
from data.events.audit_event import AuditEvent, ObjectRef, Status, User
from detection.bundle import seal
from serving.rollout.loader import load_engine
from serving.scoring.checkpointer import Checkpointer
from serving.scoring.journal import Journal
from serving.settings import Settings

#: Events that the service scores together when batches wait.
BATCH = 1000

#: MiB that a million principals may take with the program and everything else.
_MOST = 1024

_DEEDS = (("get", "pods"), ("list", "configmaps"), ("list", "pods"), ("get", "services"), ("get", "secrets"))
_BEGIN = 1_764_000_000


def events(order: Iterator[int], begin: int) -> Iterator[AuditEvent]:
    """One or two actions of each principal, one principal after the other, ten actions a millisecond."""
    number = begin
    for who in order:
        namespace = f"ns-{who % 2000}"
        user = User(
            f"system:serviceaccount:{namespace}:app-{who}" if who % 4 else f"person-{who}@example.com",
            ("system:authenticated",),
        )
        for deed in range(1 + who % 2):
            verb, resource = _DEEDS[(who + deed) % len(_DEEDS)]
            seconds, rest = divmod(number * 100, 1_000_000)
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(_BEGIN + seconds)) + f".{rest:06d}Z"
            yield AuditEvent(
                auditID=f"id-{number}",
                stage="ResponseComplete",
                verb=verb,
                requestURI=f"/api/v1/namespaces/{namespace}/{resource}",
                apiVersion="audit.k8s.io/v1",
                user=user,
                sourceIPs=(f"10.{who >> 16 & 255}.{who >> 8 & 255}.{who & 255}",),
                userAgent="app/v1.0 (linux/amd64)",
                objectRef=ObjectRef(resource, namespace, "", "", "v1", ""),
                responseStatus=Status(200),
                requestReceivedTimestamp=moment,
                stageTimestamp=moment,
            )
            number += 1


def resident_mb() -> float:
    """Resident memory of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a model bundle")
    parser.add_argument("--principals", type=int, default=1_000_000)
    parser.add_argument("--hot", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(unmoved(options.bundle, Path(folder) / "bundle"), options.principals, options.hot, Path(folder))


def unmoved(bundle: Path, copy: Path) -> Path:
    """A copy of a bundle that flags nothing."""
    shutil.copytree(bundle, copy)
    file = copy / "calibration.json"
    calibration = json.loads(file.read_text())
    for name in ("person_thresholds", "system_thresholds"):
        calibration[name] = [1e9] * len(calibration["horizons"])
    file.write_text(json.dumps(calibration))
    seal(copy)
    return copy


def run(bundle: Path, principals: int, hot: int, folder: Path) -> None:
    """Let them act, and look at the memory now and then."""
    settings = Settings(state={"path": folder / "state", "hot_principals": hot})
    engine = load_engine(settings, bundle, store_url=f"sqlite:///{folder / 'serving.db'}")
    journal = Journal(folder / "journal", 1 << 20)
    checkpointer = Checkpointer(settings.state, engine, journal, settings.journal.remembered_events)
    checkpointer.restore()
    start = resident_mb()
    memory: list[tuple[int, float]] = []
    began, cpu = time.perf_counter(), time.process_time()
    position = done = raised = 0
    longest = 0.0
    again = np.array(random.Random(1).sample(range(principals), principals // 4))
    step = max(principals // 20, 1)

    def score(batch: list[AuditEvent]) -> None:
        nonlocal position, done, raised, longest
        first = checkpointer.deduplicator.first(batch)
        assert all(first)
        raised += len(engine.score(batch).raised)
        position += 1
        done += len(batch)
        before = time.perf_counter()
        checkpointer.scored(position, len(batch))
        longest = max(longest, time.perf_counter() - before)

    acted = 0
    for order in (range(principals), again.tolist()):
        batch: list[AuditEvent] = []
        for begin in range(0, len(order), step):
            for event in events(iter(order[begin : begin + step]), done + len(batch)):
                batch.append(event)
                if len(batch) == BATCH:
                    score(batch)
                    batch = []
            acted += len(order[begin : begin + step])
            memory.append((acted, resident_mb()))
            print(
                f"{acted:>10,} principals  {done:>10,} events  {memory[-1][1]:7.0f} MiB resident  "
                f"{time.perf_counter() - began:7.0f} s",
                flush=True,
            )
        score(batch)
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    checkpointer.close(position)
    disk = sum(path.stat().st_size for path in (folder / "state").iterdir()) / (1 << 20)
    journal.close()
    early = next(mb for count, mb in memory if count >= principals / 10)
    peak = max(mb for _, mb in memory)
    report(
        "many_principals",
        [
            Row("principals", principals, ""),
            Row("in memory, at most", hot, ""),
            Row("events", done, ""),
            Row("resident before the first", start, "MiB"),
            Row("resident after a tenth of them", early, "MiB"),
            at_most("resident at most", peak, "MiB", _MOST),
            Row("on disk: principals and snapshots", disk, "MiB"),
            Row("CPU time an event", 1e6 * spent / done, "µs"),
            Row("wall-clock time", seconds, "s"),
            Row("longest pause for putting principals on disk or taking a snapshot", 1000 * longest, "ms"),
            Row("alerts raised", raised, ""),
        ],
    )


if __name__ == "__main__":
    main()
