"""What stands between the routes and the engine: requests become batches, scored one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Request

from data.events import AuditEvent, DeadLetter, Decoded, decode_body
from serving.body import decompress, too_large
from serving.dead_letters import BoundedDeadLetters
from serving.engine import Engine
from serving.forensics.follower import Follower
from serving.forensics.store import EventStore
from serving.history.keep import History
from serving.journal import Journal, JournalError, Record, record
from serving.keeper import Keeper
from serving.memory import Trimmer
from serving.metrics import Metrics
from serving.pipeline import Pipeline
from serving.priority import give_way
from serving.problems import ProblemError
from serving.reload import ModelWatch
from serving.retention import Retention
from serving.settings import Settings
from serving.sinks.dispatch import Dispatcher
from serving.stream import Stream
from serving.tracing import carried, span
from serving.verdicts import Batch, EventResult

_log = logging.getLogger("kubehabit.api")
_RECEIVING = 2
"""Threads that decode bodies: more would wait for one another, decoding needs the interpreter."""

_SMALL = 16 << 10
"""Bytes that are decoded sooner than a thread wakes up."""


class Service:
    """What the routes share: the engine once there is one, and the way of batches to it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engine: Engine | None = None
        self.metrics.detector(lambda: None if self.engine is None else self.engine.figures)
        self.reason = "The model is being loaded."
        self.dead_letters = BoundedDeadLetters(
            settings.dead_letters.resolved_path, int(settings.dead_letters.max_mb * (1 << 20))
        )
        self.stream = Stream()
        self.dispatcher: Dispatcher | None = None
        self._retention: Retention | None = None
        self.watch: ModelWatch | None = None
        self._trimmer = Trimmer()
        self.pipeline: Pipeline | None = None
        self.events: EventStore | None = None
        self.history: History | None = None
        self._follower: Follower | None = None
        # The event loop stays free to answer while a large body is decoded.
        self._receiving = ThreadPoolExecutor(_RECEIVING, thread_name_prefix="receiving")
        # Of low priority: what is asked of the plain model must not hold up what the cluster sends.
        self.aside = ThreadPoolExecutor(1, thread_name_prefix="aside", initializer=give_way)
        self._waiting = 0

    def use(self, engine: Engine) -> None:
        """Serve an engine from now on.

        Raises:
            KubehabitError: the journal or the event store cannot be opened.
        """
        if self._retention is None:
            engine.store.on_error = self.metrics.store_error
            self._retention = Retention(engine.store)
            self._retention.start()
            self._trimmer.start()
        if self.dispatcher is None and self.settings.sinks:
            assert engine.outbox is not None
            self.dispatcher = Dispatcher(engine.outbox, self.settings.sinks, self.metrics.sink)
            self.metrics.sinks((sink.name for sink in self.settings.sinks), self.dispatcher.outbox)
        if self.pipeline is None:
            self.pipeline = self._begin(engine)
            if self.dispatcher is not None:
                self.dispatcher.start()  # not before the journal is ours: two processes on one folder would be one claimer
        self.pipeline.engine = self.engine = engine
        self.metrics.served(engine.model)
        if engine.loaded is not None and engine.model.source != "folder":
            self.watch = ModelWatch(self.settings, engine, self.metrics, self.pipeline)
            self.watch.start()

    def _begin(self, engine: Engine) -> Pipeline:
        """Go on where the journal says the process before ended."""
        settings = self.settings.journal
        journal = Journal(settings.resolved_path, settings.max_bytes)
        kept = self.settings.history
        self.history = History(
            kept.resolved_path(self.settings.state.resolved_path),
            retention_days=kept.retention_days,
            max_rows=kept.max_rows,
        )
        keeper = Keeper(self.settings.state, engine, journal, settings.remembered_events, self.history)
        pipeline = Pipeline(engine, journal, keeper, self.dead_letters, self._tell)
        if self.settings.events.enabled:
            self.events = EventStore(self.settings.events)
            self._follower = Follower(
                self.events,
                journal,
                scored=lambda: pipeline.position,
                queued=lambda: pipeline.backlog().batches > 0,
                busy=lambda: self._waiting > 0,
            )
        pipeline.start(keeper.restore())
        if self._follower is not None:
            self._follower.start()
            self.metrics.event_store(self._follower.behind)
        self.metrics.intake(pipeline)
        return pipeline

    def ready(self) -> Engine:
        """The engine.

        Raises:
            ProblemError: 503 while there is none.
        """
        if self.engine is None:
            raise ProblemError(503, self.reason, {"Retry-After": "2"})
        return self.engine

    def settle_events(self, seconds: float) -> int:
        """Let the event store take in what is scored by now; returns how many batches are still missing after so many seconds."""
        return 0 if self._follower is None else self._follower.wait(seconds)

    async def body(self, request: Request) -> bytes:
        """Read a request body within the limits.

        Raises:
            ProblemError: 413 or 415.
        """
        limit = self.settings.limits.body_bytes
        declared = request.headers.get("content-length", "")
        chunks: list[bytes] = []
        size = int(declared) if declared.isdecimal() else 0
        if size <= limit:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    break
                chunks.append(chunk)
        if size > limit:
            raise too_large(limit, "", "limits.body_mb")
        return b"".join(chunks)

    async def score(self, request: Request, source: str) -> tuple[Decoded, Batch]:
        """Take in what a request carries and score it when its turn comes.

        Raises:
            ProblemError: no model, too much, unreadable, no room in the journal, or too many requests waiting.
        """
        async with self._turn() as pipeline:
            decoded, record = await self._decoded(request, source)
            if record is None:
                return decoded, Batch.from_results([], [], [], 0.0)
            return decoded, await asyncio.wrap_future(pipeline.score(record, decoded))

    async def take(self, request: Request, source: str) -> None:
        """Take in what a request carries; it is durable when this returns.

        Raises:
            ProblemError: as for `score`.
        """
        async with self._turn() as pipeline:
            decoded, record = await self._decoded(request, source)
            if record is not None:
                await asyncio.wrap_future(pipeline.take(record, decoded))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Pipeline]:
        """One of the requests that may be in work at the same time; failures of the journal become problems."""
        self.ready()
        assert self.pipeline is not None
        if self._waiting >= self.settings.limits.waiting_requests:
            detail = "Too many batches wait to be scored: send them again later, or fewer at a time."
            raise ProblemError(503, detail, {"Retry-After": "1"})
        self._waiting += 1
        try:
            self.metrics.waiting(self._waiting)
            yield self.pipeline
        except JournalError as error:
            raise ProblemError(503, str(error), {"Retry-After": "5"}) from error
        finally:
            self._waiting -= 1
            self.metrics.waiting(self._waiting)

    async def _decoded(self, request: Request, source: str) -> tuple[Decoded, Record | None]:
        """Decode a body, so that what cannot be read is refused; nothing needs to be kept of a body without events."""
        body = await self.body(request)
        encoding = request.headers.get("content-encoding", "")
        loop = asyncio.get_running_loop()
        decode = partial(self._decode, body, encoding, source)
        if len(body) <= _SMALL and not encoding:
            decoded, kept = decode()
        else:
            decoded, kept = await loop.run_in_executor(self._receiving, carried(decode))
        if decoded.dead:
            await loop.run_in_executor(self._receiving, self.dead_letters.add_all, source, decoded.dead)
            self.metrics.rejected(len(decoded.dead))
        return decoded, kept

    def _decode(self, body: bytes, encoding: str, source: str) -> tuple[Decoded, Record | None]:
        with span("decode", bytes=len(body)):
            plain = decompress(body, encoding, self.settings.limits.decompressed_bytes)
            decoded = decode_body(plain)
        return decoded, record(source, body, encoding, plain) if decoded.events else None

    def _tell(self, batch: Batch, events: Sequence[AuditEvent], repeated: int) -> None:
        """Let everybody know what was scored; on the scoring thread."""
        if batch.raised or batch.grown:
            self.stream.notify()
            if self.dispatcher is not None:
                self.dispatcher.wake()
        self.metrics.batch(batch, repeated)
        self.metrics.lag(events)
        for one in batch.refused:
            _log.error(
                "an unusual action is in no alert",
                extra={"principal": one.principal, "audit_id": one.action.audit_id, "reason": one.reason},
            )
            letter = DeadLetter(1, one.reason, one.action.model_dump_json(by_alias=True).encode())
            self.dead_letters.add_all("alerts", [letter])
        if self._follower is not None:
            self._follower.note(batch.results)
        for alert in batch.raised:
            _log.warning(
                "alert raised",
                extra={"alert": alert.id, "principal": alert.principal, "severity": alert.severity},
            )

    def close(self) -> None:
        """Finish the batch in progress and give everything back."""
        if self.watch is not None:
            self.watch.close()
        self._receiving.shutdown(wait=True)
        self.aside.shutdown(wait=True, cancel_futures=True)
        if self.pipeline is not None:
            self.pipeline.close()
        if self._follower is not None:
            self._follower.close()
        if self.dispatcher is not None:
            self.dispatcher.close()
        if self._retention is not None:
            self._retention.close()
            self._trimmer.close()
        if self.engine is not None:
            self.engine.close()
        self.dead_letters.close()


def merge(decoded: Decoded, batch: Batch) -> list[EventResult]:
    """Results in the order in which the events were sent, those that could not be read among them."""
    good = zip(decoded.lines, batch.results, strict=True)
    bad: Iterator[tuple[int, EventResult]] = (
        (letter.line, {"status": "rejected", "line": letter.line, "reason": letter.reason})
        for letter in decoded.dead
    )
    if not decoded.dead:
        return batch.results
    return [result for _, result in sorted([*good, *bad], key=lambda pair: pair[0])]
