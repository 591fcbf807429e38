"""Reconstruction errors of windows: the bundle's graphs in onnxruntime, and a cache of errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from data.actions.fields import FIELDS
from detection.windows import Cut

if TYPE_CHECKING:
    import onnxruntime

Ints = npt.NDArray[np.int64]
Nll = npt.NDArray[np.float32]

#: Windows computed at once: more overflow a processor's caches, fewer do not fill its vector units.
_BATCH = 256

#: Actions per run of the graph, which bounds the memory of windows that share none.
_MOST_ACTIONS = 1024

#: Flagged windows whose alternatives are computed at once: they are few, and the log-probabilities of all tokens are large.
_FLAGGED = 64

_NEWEST = np.zeros(1, np.int64)


class Model(Protocol):
    """Computes reconstruction errors; onnxruntime in serving, torch in training."""

    def __call__(
        self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints, positions: Ints
    ) -> tuple[Nll, npt.NDArray[np.float32]]:
        """(nll [B, P, F], log_probs [B, P, V]); see `training.model.Scorer`."""


def _session(path: str, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # It would keep a pattern of every combination of shapes, and few occur twice.
    options.enable_mem_pattern = False
    # The arena saves 3 to 10 % of the graph's time, but never gives its memory back.
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """The bundle's graph in an onnxruntime session."""

    def __init__(self, path: str, threads: int = 1) -> None:
        self.session = _session(path, threads)

    def __call__(
        self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints, positions: Ints
    ) -> tuple[Nll, npt.NDArray[np.float32]]:
        """Run the graph. Those of earlier releases have a third output, which nothing reads."""
        inputs = {"tokens": tokens, "lengths": lengths, "principal": principal, "group": group}
        inputs["positions"] = positions
        nll, log_probs = self.session.run(["nll", "log_probs"], inputs)
        return nll, log_probs


class NewestOnnxModel:
    """The bundle's graph for the newest action alone, which computes once what windows share."""

    def __init__(self, path: str, threads: int = 1) -> None:
        self.session = _session(path, threads)

    def __call__(self, cut: Cut, principal: Ints, group: Ints, rows: Ints) -> Nll:
        """NLL of the newest action of the windows in `rows`, float32 [n, F]; `principal` and `group` are of all, int64 [N]."""
        out = np.empty((len(rows), cut.block.shape[1]), np.float32)
        newest = cut.first + cut.lengths - 1
        # The windows of a principal lie side by side, so that each part needs a stretch of the actions.
        order = np.argsort(newest[rows], kind="stable")
        begin = 0
        while begin < len(rows):
            part = order[begin : begin + _BATCH]
            at = rows[part]
            low = int(cut.first[at].min())
            fit = int(np.searchsorted(newest[at], low + _MOST_ACTIONS))
            part, at = part[:fit], at[:fit]
            begin += fit
            high = int(newest[at[-1]]) + 1
            index = newest[at, None] + np.arange(1 - cut.window, 1)
            index = np.where(index < cut.first[at, None], high, index) - low
            whose = cut.whose[low:high]
            inputs = {
                "actions": cut.block[low:high].astype(np.int64),
                "principal": principal[whose],
                "group": group[whose],
                "index": index,
            }
            out[part] = self.session.run(["nll"], inputs)[0]
        return out


class WindowCache:
    """LRU cache of reconstruction errors, keyed by window.

    Attributes:
        capacity: most windows.
        hits, misses: windows that were found, and that were not.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.hits = self.misses = 0
        self._held: LRUCache[bytes, Nll] = LRUCache(capacity)

    def look_up(self, keys: list[bytes], compute: Callable[[Ints], Nll]) -> Nll:
        """Errors of windows by what they depend on, float32 [N, F]; `compute` gives those of some by their index."""
        found = [self._held.get(key) for key in keys]
        missing: dict[bytes, int] = {}
        for row, (key, error) in enumerate(zip(keys, found, strict=True)):
            if error is None:
                missing.setdefault(key, row)
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        new = compute(np.array(list(missing.values()), np.int64))
        fresh = dict(zip(missing, new, strict=True))
        for key, error in fresh.items():
            self._held[key] = error.copy()  # a view would keep its batch alive
        rows = [fresh[key] if error is None else error for key, error in zip(keys, found, strict=True)]
        return np.array(rows, np.float32).reshape(len(keys), len(FIELDS))


class Reconstruction:
    """Reconstructs the newest action of windows.

    Args:
        model: the whole graph.
        newest: the graph for the newest action alone, if there is one.
        cached_windows: capacity of the cache; 0 for none.
    """

    def __init__(self, model: Model, newest: NewestOnnxModel | None = None, cached_windows: int = 0) -> None:
        self.model = model
        self.newest = newest
        self.cache = WindowCache(cached_windows)

    def nll(self, cut: Cut, ids: Ints, groups: Ints) -> Nll:
        """NLL of each field of the newest action of each window, float32 [N, F], from the cache where it has it."""
        if not self.cache.capacity:
            self.cache.misses += len(ids)
            return self._computed(cut, ids, groups, np.arange(len(ids)))
        return self.cache.look_up(cut.keys(ids, groups), lambda rows: self._computed(cut, ids, groups, rows))

    def _computed(self, cut: Cut, ids: Ints, groups: Ints, rows: Ints) -> Nll:
        if self.newest is not None:
            return self.newest(cut, ids, groups, rows)
        out = np.empty((len(rows), len(FIELDS)), np.float32)
        for begin in range(0, len(rows), _BATCH):
            at = rows[begin : begin + _BATCH]
            nll, _ = self.model(cut.tokens(at), cut.lengths[at], ids[at], groups[at], _NEWEST)
            out[begin : begin + _BATCH] = nll[:, 0]
        return out

    def log_probs(self, cut: Cut, ids: Ints, groups: Ints, rows: Ints) -> npt.NDArray[np.float32]:
        """Log-probabilities of all tokens for the newest action of some windows, float32 [n, V]."""
        parts = []
        for begin in range(0, len(rows), _FLAGGED):
            at = rows[begin : begin + _FLAGGED]
            parts.append(self.model(cut.tokens(at), cut.lengths[at], ids[at], groups[at], _NEWEST)[1][:, 0])
        return np.concatenate(parts)
