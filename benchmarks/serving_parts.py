"""Where the time of scoring goes: the parts of the way from a body to durable alerts, timed in this process.

Each part is timed by the clock of the thread's processor time, without what it calls of the other parts.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from data.bundle import Bundle

PARTS = (
    "decode",
    "encode",
    "windows",
    "reconstruct",
    "habits",
    "sensitivity",
    "calibration",
    "explain",
    "results",
    "store",
    "rest of the engine",
)


class Clock:
    """Adds up the time of parts that call each other."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inner: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what happens within, less the parts within that."""
        self._inner.append(0.0)
        began = time.thread_time()
        try:
            yield
        finally:
            took = time.thread_time() - began
            self.seconds[name] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


def breakdown(bundle: Path, bodies: Sequence[tuple[bytes, int]]) -> dict[str, float]:
    """CPU microseconds an event of each of PARTS, on the way of `/v1/audit` without HTTP."""
    from data import detector as detecting
    from data.actions import ActionEncoder
    from data.calibration import Calibration, Deeds
    from data.events import decode_body
    from data.evidence import Accumulator
    from data.habits import Habits
    from data.sensitivity import Sensitivity
    from data.vocabulary import Vocabulary
    from data.windows import Windows
    from serving.engine import Engine
    from serving.load import load_engine
    from serving.settings import load_settings

    clock = Clock()
    methods: list[tuple[type, str, str]] = [
        (ActionEncoder, "encode", "encode"),
        (Vocabulary, "encode", "encode"),
        (Windows, "cut", "windows"),
        (detecting.Detector, "_reconstruct", "reconstruct"),
        (Habits, "observe", "habits"),
        (Sensitivity, "levels", "sensitivity"),
        (Calibration, "weigh", "calibration"),
        (Calibration, "thresholds", "calibration"),
        (Calibration, "verdict", "calibration"),
        (Accumulator, "add", "calibration"),
        (detecting.Detector, "_alternatives", "explain"),
        (detecting.Detector, "_explain", "explain"),
        (Engine, "_record", "results"),
        (Engine, "_unusual", "results"),
        (Engine, "_save", "store"),
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for owner, name, part in methods:
            stack.enter_context(mock.patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        hashes = clock.timed("habits", detecting.attribute_hashes)
        stack.enter_context(mock.patch.object(detecting, "attribute_hashes", hashes))
        deeds = classmethod(clock.timed("calibration", Deeds.of.__func__))  # type: ignore[attr-defined]
        stack.enter_context(mock.patch.object(Deeds, "of", deeds))
        engine = load_engine(load_settings(), bundle, store_url=f"sqlite:///{folder}/alerts.db")
        for body, _ in bodies:
            with clock.part("decode"):
                decoded = decode_body(body)
            with clock.part("rest of the engine"):
                engine.score(decoded.events)
        engine.close()
    events = sum(count for _, count in bodies)
    return {name: 1e6 * seconds / events for name, seconds in clock.seconds.items()}


def bare_reconstruction(bundle: Path, bodies: Sequence[tuple[bytes, int]], batch: int = 256) -> float:
    """CPU microseconds a window of the bundle's graph alone in onnxruntime, one thread, on the windows of the recording."""
    import onnxruntime

    from data.actions import ActionEncoder
    from data.events import decode_body
    from data.windows import Windows

    opened = Bundle.load(bundle)
    encoder, windows = ActionEncoder(opened.settings), Windows(opened.window)
    parts = []
    for body, _ in bodies:
        actions = encoder.encode(decode_body(body).events)
        names = [actions.principals[code].name for code in actions.principal.tolist()]
        ids = np.array([opened.principals.ids.get(name, 0) for name in names], np.int64)
        cut = windows.cut(names, opened.vocabulary.encode(actions, encoder), actions.time)
        parts.append((cut.tokens(), cut.lengths, ids))
    tokens, lengths, who = (np.concatenate(column) for column in zip(*parts, strict=True))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(opened.model_path), options, providers=["CPUExecutionProvider"]
    )
    newest = np.zeros(1, np.int64)

    def run() -> float:
        began = time.process_time()
        for at in range(0, len(tokens), batch):
            to = at + batch
            session.run(
                ["nll", "rank", "log_probs"],
                {
                    "tokens": tokens[at:to],
                    "lengths": lengths[at:to],
                    "principal": who[at:to],
                    "group": np.zeros(len(who[at:to]), np.int64),
                    "positions": newest,
                },
            )
        return time.process_time() - began

    return 1e6 * min(run() for _ in range(2)) / len(tokens)
