"""From a request's body to the pipeline: bodies are decoded off the event loop, bounded in size and number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from data.events.audit_event import Decoded
from data.events.decode import decode_body
from serving.http.body import decompress
from serving.http.problems import ProblemError
from serving.scoring.dead_letters import BoundedDeadLetters
from serving.scoring.journal import JournalError, JournalRecord, record
from serving.scoring.pipeline import Pipeline
from serving.scoring.verdicts import Batch, EventResult
from serving.settings import LimitSettings
from serving.telemetry.metrics import Metrics
from serving.telemetry.tracing import carried, span

_T = TypeVar("_T")
#: Threads that decode bodies: more would wait for one another, decoding needs the interpreter.
_THREADS = 2
#: Bytes that are decoded sooner than a thread wakes up.
_SMALL = 16 << 10


class Intake:
    """Decodes the batches of requests and hands them to the pipeline; events that cannot be read become dead letters."""

    def __init__(self, limits: LimitSettings, metrics: Metrics, dead_letters: BoundedDeadLetters) -> None:
        self._limits = limits
        self._metrics = metrics
        self._dead_letters = dead_letters
        # The event loop stays free to answer while a large body is decoded.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="receiving")
        self._waiting = 0

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self._waiting > 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One of the requests that may be in progress at the same time; failures of the journal become problems.

        Raises:
            ProblemError: 503, too many wait, or the journal has no room.
        """
        if self._waiting >= self._limits.waiting_requests:
            detail = "Too many batches wait to be scored: send them again later, or fewer at a time."
            raise ProblemError(503, detail, {"Retry-After": "1"})
        self._waiting += 1
        try:
            self._metrics.waiting(self._waiting)
            yield
        except JournalError as error:
            raise ProblemError(503, str(error), {"Retry-After": "5"}) from error
        finally:
            self._waiting -= 1
            self._metrics.waiting(self._waiting)

    async def score(
        self, pipeline: Pipeline, body: bytes, encoding: str, source: str
    ) -> tuple[Decoded, Batch]:
        """Decode a body and score its events when their turn comes.

        Args:
            pipeline: scores them.
            body: as sent, in `encoding` (its Content-Encoding).
            source: route it came to, named by dead letters.

        Raises:
            ProblemError: the body cannot be read.
            JournalError: the batch cannot be kept.
        """
        decoded, kept = await self._decoded(body, encoding, source)
        if kept is None:
            return decoded, Batch.from_results([], [], [], 0.0)
        return decoded, await asyncio.wrap_future(pipeline.score(kept, decoded))

    async def accept(self, pipeline: Pipeline, body: bytes, encoding: str, source: str) -> Decoded:
        """As `score`, but returns as soon as the batch is durable: what was in the body."""
        decoded, kept = await self._decoded(body, encoding, source)
        if kept is not None:
            # The pipeline may let go of the decoded events before this returns, and decode them again in their turn.
            await asyncio.wrap_future(pipeline.append(kept, decoded))
        return decoded

    async def _decoded(self, body: bytes, encoding: str, source: str) -> tuple[Decoded, JournalRecord | None]:
        """The events of a body, and its record for the journal if it has any."""

        def keep(plain: bytes, decoded: Decoded) -> JournalRecord | None:
            return record(source, body, encoding, plain) if decoded.events else None

        return await self.decode(body, encoding, source, keep)

    async def decode(
        self, body: bytes, encoding: str, source: str, keep: Callable[[bytes, Decoded], _T]
    ) -> tuple[Decoded, _T]:
        """The events of a body, and what `keep` makes of it and its decompressed bytes, off the event loop.

        Raises:
            ProblemError: the body cannot be read.
        """
        loop = asyncio.get_running_loop()
        decode = partial(self._decode, body, encoding, keep)
        if len(body) <= _SMALL and not encoding:
            decoded, kept = decode()
        else:
            decoded, kept = await loop.run_in_executor(self._threads, carried(decode))
        if decoded.dead:
            await loop.run_in_executor(self._threads, self._dead_letters.add_all, source, decoded.dead)
            self._metrics.rejected(len(decoded.dead))
        if decoded.skipped:
            self._metrics.skipped(decoded.skipped)
        return decoded, kept

    def _decode(self, body: bytes, encoding: str, keep: Callable[[bytes, Decoded], _T]) -> tuple[Decoded, _T]:
        with span("decode", bytes=len(body)):
            plain = decompress(body, encoding, self._limits.decompressed_bytes)
            decoded = decode_body(plain)
        return decoded, keep(plain, decoded)

    def close(self) -> None:
        """Finish decoding."""
        self._threads.shutdown(wait=True)


def merge(decoded: Decoded, batch: Batch) -> list[EventResult]:
    """Results in the order in which the events were sent, including those that could not be read."""
    if not decoded.dead:
        return batch.results
    merged: list[EventResult] = []
    done = 0
    for letter in decoded.dead:
        merged += batch.results[done : letter.before]
        done = letter.before
        merged.append({"status": "rejected", "line": letter.line, "reason": letter.reason})
    return merged + batch.results[done:]
