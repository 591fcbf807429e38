"""The plain model: events scored from the habits in the bundle alone, whichever convention asks.

What is asked here teaches the service nothing and raises no alert, and equal input gives equal output. A thread of low priority
answers, so that it does not hold up what the cluster sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Request

from data.pyfunc import AuditModel
from serving.body import decompress
from serving.engine import Loaded
from serving.problems import ProblemError
from serving.service import Service

COLUMN = "event"
EXAMPLE = (
    '{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"0abe9025-690a-4c64-ab70-22c373c72194",'
    '"stage":"ResponseComplete","requestURI":"/api/v1/namespaces/payments/secrets","verb":"list",'
    '"user":{"username":"system:serviceaccount:web:ci-deployer"},"sourceIPs":["10.244.1.40"],'
    '"objectRef":{"resource":"secrets","namespace":"payments","apiVersion":"v1"},"responseStatus":{"code":200},'
    '"requestReceivedTimestamp":"2026-11-23T14:31:12.575126Z","stageTimestamp":"2026-11-23T14:31:12.586453Z"}'
)
_WAITING = 8


class PlainModel:
    """The way to the plain model, and how many requests may be on it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._waiting = 0

    def loaded(self) -> Loaded:
        """What is served now.

        Raises:
            ProblemError: 503, there is none yet, or it has no bundle.
        """
        loaded = self.service.ready().loaded
        if loaded is None:
            raise ProblemError(503, "The model that is served has no bundle to be asked by itself.")
        return loaded

    async def ask(self, request: Request, answer: Callable[[bytes], bytes]) -> bytes:
        """Read a request within the limits and answer it when its turn comes.

        Args:
            request: with the body to read.
            answer: gives the answer's body for the request's, decompressed; called in the thread of low priority.

        Raises:
            ProblemError: 503, too many requests wait; 400, 413 or 415 for a body that cannot be read; what `answer` raises.
        """
        if self._waiting >= _WAITING:
            raise ProblemError(503, "Too many requests wait for the plain model.", {"Retry-After": "1"})
        self._waiting += 1
        try:
            body = await self.service.body(request)
            encoding = request.headers.get("content-encoding", "")
            limit = self.service.settings.limits.decompressed_bytes
            work = partial(_answered, answer, body, encoding, limit)
            return await asyncio.get_running_loop().run_in_executor(self.service.aside, work)
        finally:
            self._waiting -= 1


def _answered(answer: Callable[[bytes], bytes], body: bytes, encoding: str, limit: int) -> bytes:
    return answer(decompress(body, encoding, limit))


def predict(loaded: Loaded, events: list[Any]) -> list[dict[str, Any]]:
    """As the model's pyfunc; see `data.pyfunc.AuditModel.predict`."""
    detector = loaded.detector
    return AuditModel(detector.bundle, detector.model).predict({COLUMN: events})
