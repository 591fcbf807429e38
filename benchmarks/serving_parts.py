"""Where scoring time goes: each step from a body to durable alerts, timed in this process.

Times are processor time of the thread; a part's time excludes the other parts that it calls.
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

from detection.bundle import Bundle

PARTS = (
    "decode",
    "pack for the journal",
    "recognise repeats",
    "encode",
    "windows",
    "reconstruct",
    "habits",
    "sensitivity",
    "calibration",
    "flags and probation",
    "rules",
    "context",
    "explain",
    "results",
    "store",
    "rest of the engine",
)
#: What changes and reads the counts of habits.
_OF_HABITS = ("observe_own", "observe_shared", "unobserve_own", "unobserve_shared", "withdraw", "grant")


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


def timed_methods() -> list[tuple[type, str, str]]:
    """Class, method and part of what is timed."""
    from data.actions.encoder import ActionEncoder
    from data.actions.sensitivity import Sensitivity
    from data.actions.vocabulary import Vocabulary
    from detection.calibration import Calibration
    from detection.detector import Detector
    from detection.evidence import Accumulator
    from detection.judging import ActionJudge
    from detection.novelty import HabitTable
    from detection.reconstruction import Reconstruction
    from detection.windows import Windows
    from serving.incidents.context import ContextTracker
    from serving.scoring.alert_writer import AlertWriter
    from serving.scoring.engine import Engine

    return [
        (ActionEncoder, "encode", "encode"),
        (Vocabulary, "encode", "encode"),
        (Windows, "cut", "windows"),
        (Reconstruction, "nll", "reconstruct"),
        *((HabitTable, name, "habits") for name in _OF_HABITS),
        (Sensitivity, "levels", "sensitivity"),
        (Calibration, "weigh", "calibration"),
        (Calibration, "thresholds", "calibration"),
        (Calibration, "verdict", "calibration"),
        (Accumulator, "add_until_flagged", "calibration"),
        (Reconstruction, "log_probs", "explain"),
        (Detector, "_explain", "explain"),
        (ActionJudge, "judge", "flags and probation"),
        (Engine, "_rule_hits", "rules"),
        (ContextTracker, "observe", "context"),
        (Engine, "_record", "results"),
        (Engine, "_flagged", "results"),
        (AlertWriter, "save", "store"),
    ]


def breakdown(bundle: Path, bodies: Sequence[tuple[bytes, int]]) -> dict[str, float]:
    """CPU microseconds an event of each of PARTS, on the way of `/v1/audit` without HTTP."""
    from data.events.decode import decode_body
    from detection import detector as detecting
    from detection.calibration import ActionFeatures
    from serving.rollout.loader import load_engine
    from serving.scoring.deduplication import EventDeduplicator
    from serving.scoring.journal import record
    from serving.settings import load_settings

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for owner, name, part in timed_methods():
            stack.enter_context(mock.patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        hashes = clock.timed("habits", detecting.attribute_hashes)
        stack.enter_context(mock.patch.object(detecting, "attribute_hashes", hashes))
        deeds = classmethod(clock.timed("calibration", ActionFeatures.from_counts.__func__))  # type: ignore[attr-defined]
        stack.enter_context(mock.patch.object(ActionFeatures, "from_counts", deeds))
        settings = load_settings()
        deduplicator = EventDeduplicator(settings.journal.remembered_events)
        engine = load_engine(settings, bundle, store_url=f"sqlite:///{folder}/alerts.db")
        for body, _ in bodies:
            with clock.part("decode"):
                decoded = decode_body(body)
            with clock.part("pack for the journal"):
                record("/v1/audit", body, "", body)
            with clock.part("recognise repeats"):
                deduplicator.first(decoded.events)
            with clock.part("rest of the engine"):
                engine.score(decoded.events)
        engine.close()
    events = sum(count for _, count in bodies)
    return {name: 1e6 * seconds / events for name, seconds in clock.seconds.items()}


def bare_reconstruction(
    bundle: Path, bodies: Sequence[tuple[bytes, int]], batch: int = 256
) -> tuple[float, float | None]:
    """CPU microseconds a window of the bundle's graphs alone in onnxruntime, one thread, on the windows of the recording.

    Returns:
        The whole graph, and the one for the newest action if the bundle has it. What they are fed is made beforehand.
    """
    from data.actions.encoder import ActionEncoder
    from data.events.decode import decode_body
    from detection.reconstruction import NewestOnnxModel, OnnxModel
    from detection.windows import Windows

    opened = Bundle.load(bundle)
    encoder, windows = ActionEncoder(opened.settings), Windows(opened.window)
    parts = []
    for body, _ in bodies:
        actions = encoder.encode(decode_body(body).events)
        names = [actions.principals[code].name for code in actions.principal.tolist()]
        ids = np.array([opened.principals.ids.get(name, 0) for name in names], np.int64)
        parts.append((windows.cut(names, opened.vocabulary.encode(actions, encoder), actions.time), ids))
    events = sum(len(ids) for _, ids in parts)
    nobody = np.zeros(max(len(ids) for _, ids in parts), np.int64)
    model = OnnxModel(str(opened.model_path))
    newest = None if opened.newest_path is None else NewestOnnxModel(str(opened.newest_path))

    def whole() -> float:
        spent = 0.0
        for cut, ids in parts:
            for at in range(0, len(ids), batch):
                some = slice(at, at + batch)
                tokens = cut.tokens(some)
                began = time.process_time()
                model(tokens, cut.lengths[some], ids[some], nobody[: len(tokens)], nobody[:1])
                spent += time.process_time() - began
        return spent

    def alone() -> float:
        assert newest is not None
        began = time.process_time()
        for cut, ids in parts:
            newest(cut, ids, nobody[: len(ids)], np.arange(len(ids)))
        return time.process_time() - began

    best = [
        None if newest is None and run is alone else 1e6 * min(run() for _ in range(2)) / events
        for run in (whole, alone)
    ]
    assert best[0] is not None
    return best[0], best[1]
