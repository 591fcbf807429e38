"""Judging months of old logs, cluster by cluster: what a model would have raised, day by day.

The verdicts are those of one process that reads a cluster's log from beginning to end. Clusters have nothing in common, so each
is judged by itself, on any core or machine; within one, habits build on each other and time is followed in order. What was judged
is kept now and then (`state/`), so that a run that was stopped goes on where it was, and one that ended goes on with logs that
came since.

    OUT/NAME/alerts.db        the alerts, as the service keeps them
    OUT/NAME/alerts.jsonl     the same when all is done, one a line, with all audit IDs
    OUT/NAME/state/           snapshots of what was learned
    OUT/NAME/progress.json    how far it is, and the days
"""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from data.durable_file import replacing, write_durably
from data.errors import KubehabitError
from data.events.left_out import LeftOut
from data.events.reader import read_events, size_of
from data.events.remote_log import log_of
from data.timestamps import parse_times
from serving.registry.client import parse_model
from serving.rollout.loader import load_engine
from serving.scoring.deduplication import EventDeduplicator
from serving.scoring.snapshots import Snapshots, restore, take_snapshot
from serving.settings import load_settings

if TYPE_CHECKING:
    from data.events.audit_event import AuditEvent
    from serving.scoring.engine import Engine

_PAGE = 500
#: Events between two snapshots.
_CHECKPOINT = 500_000
#: None of a year's alerts may be dropped.
_MOST_ALERTS = 100_000_000
_DAY = 86_400_000_000


class ClusterLogs(msgspec.Struct, frozen=True):
    """One cluster: its name, and its log files, oldest first."""

    name: str
    files: tuple[str, ...]


class BacktestOptions(msgspec.Struct, frozen=True):
    """What to judge, and by which model.

    Attributes:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or the folder of a bundle.
        out: folder of the results, the same for all machines that take part.
        since, until: microseconds since 1970 UTC; events before and from then on are left out. None for no bound.
        checkpoint: events between two snapshots.
    """

    model: str
    out: str
    since: int | None = None
    until: int | None = None
    checkpoint: int = _CHECKPOINT


class DayCount(msgspec.Struct):
    """What happened on one day, UTC: events that were read, actions judged, actions flagged, alerts raised by severity."""

    events: int = 0
    actions: int = 0
    flagged: int = 0
    alerts: dict[str, int] = msgspec.field(default_factory=dict)


class JudgedFile(msgspec.Struct, frozen=True):
    """A file that is judged to its end: its size in bytes, and the counts over it and all files before it."""

    size: int
    chunks: int
    unreadable: int
    skipped: int


class ClusterBacktest(msgspec.Struct):
    """How far the backtest of a cluster is.

    Attributes:
        logs: what is judged; a run continues this one if its logs begin with these.
        options: as it was begun.
        chunks: of the reader that were judged, over all files.
        events, outside: events judged, and events outside the time that was asked for.
        unreadable, skipped: records that are no events.
        judged: the files that need not be read again, the first ones of the logs.
        days: counts by day, as `2026-01-05`.
        done: whether all is judged.
    """

    logs: ClusterLogs
    options: BacktestOptions
    chunks: int = 0
    events: int = 0
    outside: int = 0
    unreadable: int = 0
    skipped: int = 0
    judged: list[JudgedFile] = msgspec.field(default_factory=list)
    days: dict[str, DayCount] = msgspec.field(default_factory=dict)
    done: bool = False

    def total(self) -> DayCount:
        """The sum of all days."""
        total = DayCount()
        for day in self.days.values():
            total.events += day.events
            total.actions += day.actions
            total.flagged += day.flagged
            for severity, count in day.alerts.items():
                total.alerts[severity] = total.alerts.get(severity, 0) + count
        return total


def backtest(
    logs: ClusterLogs, options: BacktestOptions, on_events: Callable[[int], None] = lambda _: None
) -> ClusterBacktest:
    """Judge one cluster's logs, or go on where an earlier run was stopped or ended.

    Args:
        on_events: called now and then with the number of events judged so far.

    Raises:
        KubehabitError: another run is at it, the folder holds a run of other logs or options, a file that was judged has changed,
            the model is another version or cannot be loaded, or no log can be read.
    """
    folder = Path(options.out) / logs.name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        run = _begun(folder, logs, options)
        if not run.done:
            settings = load_settings()
            store = settings.store.model_copy(update={"max_alerts": _MOST_ALERTS, "retention_days": 36_500})
            engine = load_engine(
                settings.model_copy(update={"store": store}),
                parse_model(options.model),
                store_url=f"sqlite:///{folder / 'alerts.db'}",
            )
            try:
                _Backtest(run, folder, engine).run(on_events)
            finally:
                engine.close()
        return run


def progress_of(out: Path, name: str) -> ClusterBacktest | None:
    """How far a cluster is; None if it has not begun."""
    try:
        return msgspec.json.decode((out / name / "progress.json").read_bytes(), type=ClusterBacktest)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise KubehabitError(
            f"{out / name / 'progress.json'} is damaged ({error}): remove the folder {out / name}."
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise KubehabitError(
                f"Another backtest writes to {folder}: wait for it, or name another --out."
            ) from error
        yield


def _begun(folder: Path, logs: ClusterLogs, options: BacktestOptions) -> ClusterBacktest:
    found = progress_of(folder.parent, logs.name)
    if found is None:
        return ClusterBacktest(logs, options)
    before = found.logs.files
    same = (before, found.options.model, found.options.since, found.options.until)
    if same != (logs.files[: len(before)], options.model, options.since, options.until):
        raise KubehabitError(
            f"{folder} holds a backtest of other logs, another model or another time. New files may only follow those that it "
            "judged. Name another --out, or remove that folder."
        )
    for file, judged in zip(before, found.judged, strict=False):
        if size_of(log_of(file)) != judged.size:
            raise KubehabitError(
                f"{file} has changed since it was judged for {folder}. Name another --out, or remove that folder."
            )
    found.done = found.done and logs.files == before
    found.logs = logs
    return found


class _Backtest:
    """One run over one cluster's logs."""

    def __init__(self, run: ClusterBacktest, folder: Path, engine: Engine) -> None:
        self._run = run
        self._folder = folder
        self._engine = engine
        self._snapshots = Snapshots(folder / "state")
        self._unsaved = 0

    def run(self, on_events: Callable[[int], None]) -> None:
        run = self._run
        if run.chunks:
            snapshot, loaded = self._snapshots.read(run.chunks), self._engine.loaded
            if loaded is None or snapshot.bundle != loaded.detector.bundle.checksum:
                raise KubehabitError(
                    f"{run.options.model} is another version than the one that judged {self._folder} so far. Name another "
                    "--out, and a model by its number where logs are to be added later."
                )
            restore(snapshot, self._engine)
        last = run.judged[-1] if run.judged else JudgedFile(0, 0, 0, 0)
        seen, left_out = last.chunks, LeftOut(last.unreadable, Counter(earlier=last.skipped))
        for file in map(log_of, run.logs.files[len(run.judged) :]):
            size = size_of(file)
            for chunk in read_events(file, left_out, on_skipped=left_out.skip):
                seen += 1
                if seen <= run.chunks:
                    continue
                self._judge(chunk)
                run.unreadable, run.skipped = left_out.unreadable, left_out.skipped.total()
                on_events(run.events)
                if self._unsaved >= run.options.checkpoint:
                    self._save(seen)
            run.unreadable, run.skipped = left_out.unreadable, left_out.skipped.total()
            run.judged.append(JudgedFile(size, seen, run.unreadable, run.skipped))
        if not run.events and not run.outside:
            raise KubehabitError(
                f"{', '.join(run.logs.files)}: no audit event found. docs/sources.md lists what can be read."
            )
        self._engine.flush()
        self._finish()
        run.done = True
        self._save(seen)

    def _judge(self, chunk: Sequence[AuditEvent]) -> None:
        run, options = self._run, self._run.options
        times = parse_times([event.requestReceivedTimestamp or event.stageTimestamp for event in chunk])
        wanted = np.ones(len(chunk), bool)
        if options.since is not None:
            wanted &= times >= options.since
        if options.until is not None:
            wanted &= times < options.until
        run.outside += len(chunk) - int(wanted.sum())
        rows = np.flatnonzero(wanted).tolist()
        # How events are split over calls changes no verdict: a day's are judged together, to be counted together.
        for day, group in groupby(rows, lambda row: int(times[row]) // _DAY):
            events = [chunk[row] for row in group]
            batch = self._engine.score(events)
            count = run.days.setdefault(str(np.datetime64(day, "D")), DayCount())
            count.events += batch.events
            count.actions += batch.scored
            count.flagged += sum(batch.flagged.values())
            run.events += batch.events
            self._unsaved += batch.events

    def _save(self, chunks: int) -> None:
        """The snapshot first: progress never names one that is not there."""
        self._engine.flush()  # what surrounds alerts is not in the snapshot
        self._engine.store.flush()
        self._run.chunks = chunks
        self._snapshots.write(take_snapshot(self._engine, EventDeduplicator(1), chunks)())
        write_durably(self._folder / "progress.json", msgspec.json.encode(self._run))
        self._unsaved = 0

    def _finish(self) -> None:
        """Write the alerts as lines, and count them by the day of their first action."""
        for day in self._run.days.values():
            day.alerts.clear()
        store, cursor = self._engine.store, None
        with replacing(self._folder / "alerts.jsonl") as out:
            while True:
                page = store.page(limit=_PAGE, cursor=cursor)
                for summary in page.alerts:
                    alert = store.get(summary.id)
                    if alert is None:
                        continue
                    out.write(alert.model_dump_json(by_alias=True).encode() + b"\n")
                    alerts = self._run.days.setdefault(f"{alert.first_seen:%Y-%m-%d}", DayCount()).alerts
                    alerts[alert.severity] = alerts.get(alert.severity, 0) + 1
                cursor = page.cursor
                if cursor is None:
                    return
