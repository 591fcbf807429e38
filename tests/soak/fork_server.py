"""Forks processes that share what was made before, listens to what they say, and kills them at a given moment."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

_PR_SET_PDEATHSIG = 1
#: A process that says nothing for so long hangs.
_PATIENCE = 120.0

Ending = Literal["killed", "closed", "failed", "hung"]


@dataclass(slots=True)
class Ended:
    """What became of a process.

    Attributes:
        how: `killed` by SIGKILL; `closed` of itself without an error; `failed`; or `hung` until it was killed.
        messages: what it said, in order.
        seconds: how long it lived.
    """

    how: Ending
    messages: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def last(self, kind: str) -> dict[str, Any] | None:
        """The last message of a kind, if there is one."""
        return next((one for one in reversed(self.messages) if one["kind"] == kind), None)

    def all(self, kind: str) -> list[dict[str, Any]]:
        """All messages of a kind."""
        return [one for one in self.messages if one["kind"] == kind]

    @property
    def phase(self) -> str:
        """What it was doing at its end."""
        for kind, phase in (("closed", "closed"), ("finished", "ending"), ("ready", "working")):
            if self.last(kind) is not None:
                return phase
        return "starting"


@dataclass(frozen=True, slots=True)
class Sigkill:
    """When to send SIGKILL: seconds after the fork, or after the message `ready`."""

    seconds: float
    after: Literal["fork", "ready"] = "fork"


def freeze() -> None:
    """Call once everything is made that processes share: they are then forked without copying it."""
    gc.collect()
    gc.freeze()


def run(work: Callable[[Callable[..., None]], None], kill: Sigkill | None = None) -> Ended:
    """Run work in a forked process until it ends or is killed; `work` gets the function that it says things with."""
    reader, writer = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_and_exit(work, writer)
    os.close(writer)
    try:
        ended = Ended("closed")
        hung = _listen(reader, child, ended, kill, began)
    finally:
        os.close(reader)
    _, status = os.waitpid(child, 0)
    ended.seconds = time.monotonic() - began
    if hung:
        ended.how = "hung"
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        ended.how = "killed"
    elif status:
        ended.how = "failed"
    return ended


def _listen(reader: int, child: int, ended: Ended, kill: Sigkill | None, began: float) -> bool:
    """Collect messages until the process is gone; whether it had to be ended because it hung."""
    due = began + kill.seconds if kill is not None and kill.after == "fork" else None
    rest, last = b"", time.monotonic()
    while True:
        now = time.monotonic()
        until = last + _PATIENCE if due is None else min(due, last + _PATIENCE)
        ready, _, _ = select.select([reader], [], [], max(until - now, 0))
        if not ready:
            os.kill(child, signal.SIGKILL)
            if due is None or time.monotonic() < due:
                return True
            due = None
            continue
        part = os.read(reader, 1 << 16)
        if not part:
            return False
        last = time.monotonic()
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            message = json.loads(line)
            ended.messages.append(message)
            if message["kind"] == "ready" and kill is not None and kill.after == "ready":
                due = last + kill.seconds


def _run_and_exit(work: Callable[[Callable[..., None]], None], writer: int) -> NoReturn:
    turn = threading.Lock()

    def tell(kind: str, **details: Any) -> None:
        message = memoryview(json.dumps({"kind": kind} | details).encode() + b"\n")
        with turn:
            while message:
                message = message[os.write(writer, message) :]

    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        work(tell)
        status = 0
    except BaseException:
        tell("failed", trace=traceback.format_exc())
    finally:
        sys.stderr.flush()
        os._exit(status)
