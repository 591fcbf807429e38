"""The stream of alerts as server-sent events (the HTML standard's `text/event-stream`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

from serving.schemas import Alert
from serving.storage.database import AlertChange, AlertStore, StoreError

_log = logging.getLogger("kubehabit.stream")
#: Shorter than the idle limits of common proxies (30 s and more).
HEARTBEAT_SECONDS = 15.0
_RETRY_MILLISECONDS = 2000


class Stream:
    """Wakes all followers. Lives on the event loop; `notify` may be called from any thread."""

    def __init__(self) -> None:
        self.followers = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self) -> None:
        """Use the running loop as the one that `notify` wakes."""
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        """Announce that alerts have changed."""
        self._call(self._wake)

    def end(self) -> None:
        """Let every stream end, so that the process can."""
        self._ended = True
        self._call(self._wake)

    def _call(self, what: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what)

    def _wake(self) -> None:
        before, self._changed = self._changed, asyncio.Event()
        before.set()

    async def follow(
        self, store: AlertStore, after: int, wanted: Callable[[Alert], bool]
    ) -> AsyncGenerator[str]:
        """Events after a position, without end; `wanted` says which alerts the caller wants."""
        self.followers += 1
        try:
            yield f"retry: {_RETRY_MILLISECONDS}\nid: {after}\n\n"
            while not self._ended:
                changed = self._changed  # taken before reading: what happens meanwhile is not missed
                try:
                    while changes := await asyncio.to_thread(store.changes, after):
                        for change in changes:
                            after = change.position
                            if wanted(change.alert):
                                yield event(change)
                except StoreError as error:
                    _log.error("the stream of alerts ends", extra={"reason": str(error)})
                    return  # followers reconnect, and go on where they were
                try:
                    await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield f": still here\nid: {after}\n\n"
        finally:
            self.followers -= 1


def event(change: AlertChange) -> str:
    """One alert as an event; JSON has no line breaks in it."""
    return f"id: {change.position}\nevent: alert\ndata: {change.alert.model_dump_json(by_alias=True)}\n\n"
