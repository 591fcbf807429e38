"""The first half of a dataset build: logs -> encoded parts on disk, in parallel over cores, resumable after a kill.

A part is a bounded stretch of one log, encoded by itself: columns as `.npy`, and the values its codes stand for. A part
appears under its name only when it is whole, so what a killed build has finished is used by the next.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn

from data.actions.attributes import attribute_hashes, mix
from data.actions.breadth import Read
from data.actions.encoder import ActionBatch, ActionEncoder, ActionSettings, joined
from data.actions.fields import STATIC_FIELDS
from data.actions.sensitivity import Sensitivity
from data.errors import KubehabitError
from data.events.audit_event import MAX_EVENT_BYTES, AuditEvent, DeadLetter
from data.events.decode import decode_lines
from data.events.formats.registry import Sources
from data.events.reader import STDIN, LogPath, read_events, read_range, size_of
from data.events.remote_log import RemoteLog
from data.principals.ownership import Link
from data.spark import run_tasks
from data.timestamps import parse_times
from data.usable_cores import usable_cores
from data.work_progress import WorkProgress

#: Actions in a part: bounds the memory of a worker, and what a kill can cost.
PART_ACTIONS = 100_000

#: Uncompressed logs are cut into ranges of this size, so that one large file keeps every core busy.
RANGE_BYTES = 64 << 20

COLUMNS = ("codes", "attributes", "principal", "time", "sensitivity", "request", "started")
_MANIFEST = 7
_LINKS = msgspec.json.Decoder(list[tuple[int, Link]])
_READS = msgspec.json.Decoder(list[tuple[int, Read]])
#: Actions taken from the encoder at a time: enough to amortise what is done per call.
_BATCH_ACTIONS = 2048


@dataclass(frozen=True, slots=True)
class Job:
    """A stretch of a log that one worker reads: the whole of it, or a range of bytes of an uncompressed one."""

    log: LogPath
    index: int
    begin: int
    end: int | None
    size: int

    @property
    def name(self) -> str:
        """Sorts in log order."""
        return f"{self.index:06d}"


@dataclass(frozen=True, slots=True)
class DatasetPart:
    """A finished part.

    Attributes:
        path: its folder.
        meta: counts, values of each field by code, principals by code; `completed`: when the first action was (see `build`).
    """

    path: Path
    meta: dict[str, Any]

    @property
    def links(self) -> list[tuple[int, Link]]:
        """(row, what it tells about ownership); to be followed in the order of the whole log."""
        return _LINKS.decode((self.path / "links.json").read_bytes())

    @property
    def reads(self) -> list[tuple[int, Read]]:
        """(row, what a person read); to be followed in the order of the whole log."""
        return _READS.decode((self.path / "reads.json").read_bytes())

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column, memory-mapped."""
        return cast(npt.NDArray[Any], np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _is_plain(log: LogPath) -> bool:
    """Whether a log is uncompressed with one native event a line, and so can be entered anywhere."""
    sources = Sources()
    with log.open("rb") as raw:
        decoded = decode_lines([raw.readline(MAX_EVENT_BYTES)], sources=sources)
    return len(decoded.events) == 1 and set(sources.records) == {"native"}


def plan(logs: Sequence[LogPath]) -> list[Job]:
    """Cut logs into jobs, in log order.

    Raises:
        KubehabitError: a log cannot be read.
    """
    jobs: list[Job] = []
    for log in logs:
        if log == STDIN:
            raise KubehabitError(
                "A dataset is built from files, so that a build that is stopped can go on. Write standard input to a file first."
            )
        size = size_of(log)
        if size > RANGE_BYTES and _is_plain(log):
            for begin, end in itertools.pairwise([*range(0, size, RANGE_BYTES), size]):
                jobs.append(Job(log, len(jobs), begin, end, end - begin))
        else:
            jobs.append(Job(log, len(jobs), 0, None, size))
    return jobs


_ID_BYTES = 36
_AUDIT_ID, _STAGE = attrgetter("auditID"), attrgetter("stage")


def request_hashes(audit_ids: list[str], time: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """What identifies requests across parts, uint64 [N]: the audit ID and the server's own time."""
    joined_ids = "".join(audit_ids).encode()
    if len(joined_ids) == _ID_BYTES * len(audit_ids) and set(map(len, audit_ids)) <= {_ID_BYTES}:
        padded = np.zeros((len(audit_ids), 64), np.uint8)  # what API servers choose: UUIDs
        padded[:, :_ID_BYTES] = np.frombuffer(joined_ids, np.uint8).reshape(-1, _ID_BYTES)
        words = padded.view(np.uint64)
    else:
        words = np.array([text.encode()[:64] for text in audit_ids], "S64").view(np.uint64).reshape(-1, 8)
    hashed = time.view(np.uint64)
    for column in words.T:
        hashed = mix(hashed, column)
    return hashed


class _PartWriter:
    """Collects the batches of a job and writes them as parts."""

    def __init__(self, folder: Path, job: Job, settings: ActionSettings, rules: Sensitivity) -> None:
        self.folder, self.job, self.settings, self.rules = folder, job, settings, rules
        self.written = 0
        self.lines = 0
        self._restart()

    def _restart(self) -> None:
        self.encoder = ActionEncoder(self.settings, join_owners=False)
        self.batches: list[ActionBatch] = []
        self.requests: list[npt.NDArray[np.uint64]] = []
        self.started: list[npt.NDArray[np.bool_]] = []
        self.audit_ids: list[str] = []
        self.completions: list[str] = []
        self.completed: int | None = None
        self.begun: list[bool] = []
        self.rows = 0
        self.counts: Counter[str] = Counter(events=0, folded=0, dropped=0)
        self.skipped: Counter[str] = Counter()
        self.letters: list[tuple[int, str, str]] = []
        self.links: list[tuple[int, Link]] = []
        self.reads: list[tuple[int, Read]] = []

    def add(self, source: str, letter: DeadLetter) -> None:  # noqa: ARG002 - the part knows its log
        """Note an unreadable record."""
        self.letters.append((letter.line, letter.reason, letter.text))

    def skip(self, skipped: Mapping[str, int]) -> None:
        """Count what is no audit event; by reason."""
        self.skipped.update(skipped)

    def write(self, events: list[AuditEvent]) -> None:
        """Encode events, in the order of the log."""
        kept = self.encoder.append(events)
        self.audit_ids += map(_AUDIT_ID, kept)
        self.completions += [event.stageTimestamp or event.requestReceivedTimestamp for event in kept]
        self.begun += [stage == "ResponseStarted" for stage in map(_STAGE, kept)]
        self.counts["events"] += len(events)
        if len(self.audit_ids) >= _BATCH_ACTIONS:
            self._take()
        if self.rows >= PART_ACTIONS:
            self.flush()

    def _take(self) -> None:
        batch = self.encoder.flush()
        self.requests.append(request_hashes(self.audit_ids, batch.time))
        self.started.append(np.array(self.begun, bool))
        if self.completions:
            first = int(parse_times(self.completions).min())
            self.completed = first if self.completed is None else min(first, self.completed)
        self.audit_ids, self.begun, self.completions = [], [], []
        self.links += [(self.rows + row, link) for row, link in batch.links]
        self.reads += [(self.rows + row, read) for row, read in batch.reads]
        batch.links, batch.reads = [], []
        self.batches.append(batch)
        self.rows += len(batch)
        self.counts.update(folded=len(batch.folded), dropped=len(batch.dropped))

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """What COLUMNS names. What follows from the codes is worked out here, for all actions of the part at once."""
        whole = joined(self.batches)
        return {
            "codes": np.stack([whole.codes[field] for field in STATIC_FIELDS], axis=1),
            "attributes": attribute_hashes(whole, self.encoder),
            "principal": whole.principal,
            "time": whole.time,
            "sensitivity": self.rules.levels(whole, self.encoder),
            "request": np.concatenate(self.requests),
            "started": np.concatenate(self.started),
        }

    def flush(self) -> None:
        """Write what was collected as one part; it gets its name when it is whole."""
        self._take()
        if not self.counts["events"] and not self.letters and not self.skipped:
            return
        path = self.folder / f"{self.job.name}-{self.written:06d}"
        draft = path.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        if self.rows:
            for name, column in self._columns().items():
                np.save(draft / f"{name}.npy", column, allow_pickle=False)
        encoder = self.encoder
        meta = {
            "rows": self.rows,
            "completed": self.completed,
            "counts": dict(self.counts),
            "skipped": dict(self.skipped),
            "letters": self.letters,
            "log": self.job.log.name,
            "values": {field: encoder.interners[field].values for field in STATIC_FIELDS},
            "principals": [[p.name, p.kind, list(p.groups)] for p in encoder.principals],
            "folds": encoder.identity.folds(),
        }
        (draft / "links.json").write_bytes(msgspec.json.encode(self.links))
        (draft / "reads.json").write_bytes(msgspec.json.encode(self.reads))
        (draft / "part.json").write_text(json.dumps(meta))
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)
        self.written += 1
        self._restart()


def encode_job(job: Job, folder: Path, settings: dict[str, Any], rules: list[dict[str, Any]]) -> int:
    """Encode one job into parts; returns how many. Runs in a worker process."""
    writer = _PartWriter(
        folder, job, ActionSettings.from_dict(settings, strict=False), Sensitivity(rules, strict=False)
    )
    on_skipped = writer.skip
    if job.end is None:
        chunks = read_events(job.log, writer, on_skipped=on_skipped)
    else:
        on_lines = partial(setattr, writer, "lines")
        chunks = read_range(job.log, job.begin, job.end, writer, on_skipped=on_skipped, on_lines=on_lines)
    # Events make many small objects and no cycles: a collector that looks for some costs a third of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for events in chunks:
            writer.write(events)
        writer.flush()
    finally:
        if was_enabled:
            gc.enable()
    note = folder / f"{job.name}.draft"
    note.write_text(json.dumps({"parts": writer.written, "lines": writer.lines}))
    note.rename(folder / f"{job.name}.done")
    return writer.written


def _version(log: LogPath) -> list[object]:
    if isinstance(log, RemoteLog):
        return log.version()
    found = log.stat()
    return [found.st_size, found.st_mtime_ns]


def _manifest(jobs: list[Job], settings: dict[str, Any], rules: list[dict[str, Any]]) -> str:
    """Changes when the parts of an earlier build would no longer be right."""
    logs = {str(log.absolute()): _version(log) for log in {job.log for job in jobs}}
    described = json.dumps([_MANIFEST, PART_ACTIONS, RANGE_BYTES, logs, settings, rules], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def encode_all(
    jobs: list[Job],
    folder: Path,
    settings: ActionSettings,
    rules: Sensitivity,
    *,
    workers: int | None = None,
    progress: bool = True,
    spark: str | None = None,
) -> list[DatasetPart]:
    """Encode all jobs, continuing where an earlier, killed build of the same logs and settings stopped.

    Args:
        jobs: from `plan`.
        folder: for the parts.
        workers: processes; all cores if not given, and none but this one if 1.
        spark: master of a Spark cluster that does it instead; its machines must reach logs and folder under the same paths.

    Returns:
        The parts in log order.
    """
    described = _manifest(jobs, settings.to_dict(), rules.table)
    note = folder / "manifest"
    if not note.exists() or note.read_text() != described:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        note.write_text(described)
    todo = [job for job in jobs if not (folder / f"{job.name}.done").exists()]
    percent = TextColumn("{task.percentage:>3.0f}%")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeRemainingColumn())
    with WorkProgress(*columns, disable=not progress) as bar:
        total, left = sum(job.size for job in jobs), sum(job.size for job in todo)
        task = bar.add_task("reading audit log", total=total, completed=total - left)
        count = min(workers or usable_cores(), len(todo))
        arguments = (folder.absolute(), settings.to_dict(), rules.table)
        if spark is not None and todo:
            elsewhere = [replace(job, log=job.log.absolute()) for job in todo]
            run_tasks(spark, "kubehabit data build", partial(_encode, arguments=arguments), elsewhere)
        elif count <= 1:
            for job in todo:
                encode_job(job, *arguments)
                bar.update(task, advance=job.size)
        else:
            _in_parallel(todo, arguments, count, bar, task)
    return list(_parts(jobs, folder))


def _encode(job: Job, arguments: tuple[Path, dict[str, Any], list[dict[str, Any]]]) -> int:
    return encode_job(job, *arguments)


def _in_parallel(
    todo: list[Job], arguments: tuple[Any, ...], count: int, bar: WorkProgress, task: TaskID
) -> None:
    """Keep `count` workers busy. Spawned, not forked: a fork of a process with threads may lock up."""
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        with _signals_deferred():  # a worker whose start is cut off prints a traceback of its own
            running = {pool.submit(encode_job, job, *arguments): job for job in todo}
        try:
            for future in as_completed(running):
                future.result()
                bar.update(task, advance=running[future].size)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM take effect after the block; nothing on other threads than the main one, which alone gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _parts(jobs: list[Job], folder: Path) -> Iterator[DatasetPart]:
    lines = 0  # before this job, in its log
    shared: dict[str, str] = {}  # the parts of a log hold mostly the same values: each is kept once
    for job in jobs:
        done = json.loads((folder / f"{job.name}.done").read_text())
        lines = lines if job.begin else 0
        for number in range(done["parts"]):
            path = folder / f"{job.name}-{number:06d}"
            meta = json.loads((path / "part.json").read_text())
            meta["values"] = {
                field: [shared.setdefault(value, value) for value in values]
                for field, values in meta["values"].items()
            }
            meta["letters"] = [(line + lines, reason, raw) for line, reason, raw in meta["letters"]]
            yield DatasetPart(path, meta)
        lines += done["lines"]
