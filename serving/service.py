"""What stands between the routes and the engine: requests become batches, scored one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import Request

from data.events import Decoded, decode_body
from serving.body import decompress, too_large
from serving.dead_letters import BoundedDeadLetters
from serving.engine import Batch, Engine, EventResult
from serving.metrics import Metrics
from serving.problems import ProblemError
from serving.retention import Retention
from serving.settings import Settings
from serving.sinks.dispatch import Dispatcher
from serving.stream import Stream

_log = logging.getLogger("kubehabit.api")


class Service:
    """What the routes share: the engine once there is one, and the single thread that works for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engine: Engine | None = None
        self.reason = "The model is being loaded."
        self.dead_letters = BoundedDeadLetters(
            settings.dead_letters.resolved_path, int(settings.dead_letters.max_mb * (1 << 20))
        )
        self.stream = Stream()
        self.dispatcher: Dispatcher | None = None
        self._retention: Retention | None = None
        # One thread: the detector's state depends on the order of events, and the event loop stays free to answer.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._waiting = 0

    def use(self, engine: Engine) -> None:
        """Serve an engine from now on."""
        if self._retention is None:
            engine.store.on_error = self.metrics.store_error
            self._retention = Retention(engine.store)
            self._retention.start()
        if self.dispatcher is None and self.settings.sinks:
            self.dispatcher = Dispatcher(engine.store, self.settings.sinks, self.metrics.sink)
            self.metrics.sinks((sink.name for sink in self.settings.sinks), self.dispatcher.outbox)
            self.dispatcher.start()
        if self.dispatcher is not None:
            engine.note = self.dispatcher.outbox.note
        self.engine = engine
        self.metrics.served(engine.model)

    def ready(self) -> Engine:
        """The engine.

        Raises:
            ProblemError: 503 while there is none.
        """
        if self.engine is None:
            raise ProblemError(503, self.reason, {"Retry-After": "2"})
        return self.engine

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
        """Decode, score and store what a request carries, off the event loop and in order of arrival.

        Raises:
            ProblemError: no model, too much, unreadable, or too many requests waiting.
        """
        engine = self.ready()
        if self._waiting >= self.settings.limits.waiting_requests:
            detail = "Too many batches wait to be scored: send them again later, or fewer at a time."
            raise ProblemError(503, detail, {"Retry-After": "1"})
        self._waiting += 1
        try:
            self.metrics.waiting(self._waiting)
            body = await self.body(request)
            encoding = request.headers.get("content-encoding", "")
            work = partial(self._score, engine, body, encoding, source)
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            self._waiting -= 1
            self.metrics.waiting(self._waiting)

    def _score(self, engine: Engine, body: bytes, encoding: str, source: str) -> tuple[Decoded, Batch]:
        decoded = decode_body(decompress(body, encoding, self.settings.limits.decompressed_bytes))
        if decoded.dead:
            self.dead_letters.add_all(source, decoded.dead)
        batch = engine.score(decoded.events)
        if batch.raised or batch.grown:
            self.stream.notify()
            if self.dispatcher is not None:
                self.dispatcher.wake()
        self.metrics.batch(batch, len(decoded.dead))
        for alert in batch.raised:
            _log.warning(
                "alert raised",
                extra={"alert": alert.id, "principal": alert.principal, "severity": alert.severity},
            )
        return decoded, batch

    def close(self) -> None:
        """Finish the batch in progress and give everything back."""
        self._worker.shutdown(wait=True)
        if self.dispatcher is not None:
            self.dispatcher.close()
        if self._retention is not None:
            self._retention.close()
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
