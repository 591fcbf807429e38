"""A thread that runs one step again and again until it is closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from serving.process.resources import lower_priority

_log = logging.getLogger("kubehabit.worker")


class Worker:
    """A daemon thread that runs a step until closed, with pauses that `wake` cuts short. A failed step is logged and tried again.

    Args:
        name: of the thread.
        step: what to do; returns False to end the worker.
        seconds: pause between two steps, or what gives it; None to wait for `wake`.
        finish: called by the thread when it ends.
        low_priority: whether the thread lets others have the processor first.
        pause_first: whether to pause before the first step too.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], bool | None],
        *,
        seconds: float | Callable[[], float] | None = None,
        finish: Callable[[], None] = lambda: None,
        low_priority: bool = False,
        pause_first: bool = False,
    ) -> None:
        self.closing = threading.Event()
        self._wake = threading.Event()
        self._step = step
        self._seconds = seconds
        self._finish = finish
        self._low_priority = low_priority
        self._pause_first = pause_first
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Run the next step at once."""
        self._wake.set()

    def stop(self) -> None:
        """Run no further step; does not wait for one that runs."""
        self.closing.set()
        self._wake.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, at most so many seconds."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Stop and wait for the step that runs, at most so many seconds."""
        self.stop()
        self.join(timeout)

    def _run(self) -> None:
        if self._low_priority:
            lower_priority()
        if self._pause_first:
            self._pause()
        while self._goes_on():
            self._pause()
        self._finish()

    def _goes_on(self) -> bool:
        self._wake.clear()
        if self.closing.is_set():
            return False
        try:
            return self._step() is not False
        except Exception:
            _log.exception("a step failed", extra={"worker": self._thread.name})
            return True

    def _pause(self) -> None:
        self._wake.wait(self._seconds() if callable(self._seconds) else self._seconds)
