"""The access log: JSON lines, appended and rotated, without tokens and bodies."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from typing import Literal
from urllib.parse import parse_qsl

from cachetools import LRUCache

from serving.access.rate_limit import Bucket
from serving.access.tokens import PREFIX
from serving.schemas import clean
from serving.settings import MEBIBYTE, AccessLogSettings

_log = logging.getLogger("kubehabit.access")
_ROUTINE_SECONDS = 600.0
_REFUSALS_A_SECOND = 1.0
_REFUSALS_AT_ONCE = 100.0
_MAX_REMEMBERED = 10_000
_MAX_QUERY = 20
_OURS = re.compile(rf"{PREFIX}[A-Za-z0-9_-]+")

Weight = Literal["always", "routine", "refusal"]


class AccessLog:
    """One line for each request: time, caller, address, request and status.

    Frequent requests are thinned so that they cannot push the rest out of the file; the next line of their kind counts the
    omitted ones in `more`. Accepted batches and scrapes ("routine"): one line in ten minutes for each caller, address, route
    and status. Refusals ("refusal"): a hundred at once, then one a second. Reads and changes ("always") are never omitted.
    `lost` is called for each line that could not be written; the request is served all the same.
    """

    def __init__(
        self,
        settings: AccessLogSettings,
        lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._lost = lost
        self._clock = clock
        self._now = now
        self._handler: _PrivateFile | None = None
        self._routine: LRUCache[tuple[object, ...], tuple[float, int]] = LRUCache(_MAX_REMEMBERED)
        self._refusals = Bucket(_REFUSALS_A_SECOND, _REFUSALS_AT_ONCE, clock())
        self._refused = 0

    def write(self, entry: Mapping[str, object], weight: Weight) -> None:
        """Append one request."""
        more = 0
        if weight == "routine":
            key = tuple(entry.get(name) for name in ("by", "name", "address", "route", "status"))
            written, more = self._routine.get(key, (-_ROUTINE_SECONDS, 0))
            if self._clock() - written < _ROUTINE_SECONDS:
                self._routine[key] = (written, more + 1)
                return
            self._routine[key] = (self._clock(), 0)
        elif weight == "refusal":
            if self._refusals.wait(1.0, self._clock()) > 0:
                self._refused += 1
                return
            self._refusals.take(1.0)
            more, self._refused = self._refused, 0
        time = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": time, **entry, **({"more": more} if more else {})}
        try:
            if self._handler is None:
                self._settings.resolved_path.parent.mkdir(parents=True, exist_ok=True)
                self._handler = _PrivateFile(self._settings, self._failed)
        except OSError as error:
            self._failed(error)
            return
        # ASCII: a Unicode line separator in a path must not end the line for a reader.
        self._handler.emit(logging.makeLogRecord({"msg": json.dumps(line, ensure_ascii=True)}))

    def _failed(self, error: BaseException | None) -> None:
        self._lost()
        _log.error("the access log cannot be written", extra={"reason": str(error)})

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        if self._handler is not None:
            self._handler.close()
            self._handler = None


class _PrivateFile(RotatingFileHandler):
    """Rotating files that only their owner can read."""

    def __init__(self, settings: AccessLogSettings, failed: Callable[[BaseException | None], None]) -> None:
        self._failed = failed
        super().__init__(
            settings.resolved_path,
            maxBytes=max(1, int(settings.max_mb * MEBIBYTE)),
            backupCount=settings.files - 1,
            encoding="utf-8",
        )

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the name is logging's
        """Report an error such as a full disk to the service's own log instead of a traceback on stderr."""
        self._failed(sys.exc_info()[1])


def shown_path(path: str) -> str:
    """A path as it is logged."""
    return clean(_OURS.sub("[token]", path), 512)


def shown_query(query: bytes, known: Collection[str]) -> dict[str, str]:
    """A query as it is logged: values only of parameters that the route has, as others may be secrets."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)[:_MAX_QUERY]
    return {
        clean(name, 64): clean(_OURS.sub("[token]", value)) if name in known else "…" for name, value in pairs
    }
