"""Memory of a service over many hours of a simulated cluster, as fast as it can score, and what every structure in it holds.

A simulated hour is scored, everything is waited for, free memory is given back as the service does, and then it is measured:
what the system counts, what the C library has given out and holds back, and the elements and bytes of each container, so that
data that grows, caches that fill up, and a heap with holes in it can be kept apart.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data.events.audit_event import decode_event
from data.events.decode import decode_body
from data.events.reader import open_lines
from data.simulation import simulate
from data.simulation.config import load_settings
from serving.process import resources
from serving.rollout.loader import load_engine
from serving.runtime import Runtime, Service
from serving.scoring.journal import record
from serving.settings import Settings
from tests.soak.service import settled

_BATCH = 400
#: Files of the event store, and snapshots, in an hour of the simulation; the service makes up to 60 of each.
_AN_HOUR = 6
_ROOMS = ("serving.", "data.", "detection.")
_CONTAINERS = (dict, list, set, deque, Counter)
_PLAIN = (str, bytes, bytearray, int, float, complex, dict, list, tuple, set, frozenset, deque)
_PATIENCE = 600.0
#: Containers of less than this are not reported by their bytes.
_LEAST_BYTES = 50_000


def soak(bundle: Path, folder: Path, hours: float, principals: int, seed: int) -> Iterator[dict[str, Any]]:
    """Score simulated hours; yields what was measured after each.

    Args:
        bundle: of the model.
        folder: for the log and the home.
        hours: of the simulation.
        principals: in the cluster.
    """
    resources.configure_allocator()
    log = folder / "log"
    simulate(log, principals, hours / 24, seed, attacks="none", settings=load_settings())
    settings = Settings(
        events={"seal_seconds": 1e9},
        state={"snapshot_events": 1_000_000_000, "snapshot_seconds": 1e9},
    )
    service = Service(settings)
    service.start(load_engine(settings, bundle))
    resources.freeze_gc()
    runtime = service.running()
    events = 0
    for number, lines in enumerate(_hours(log)):
        began = time.process_time()
        part = max(len(lines) // _AN_HOUR, 1)
        for start in range(0, len(lines), part):
            _score(runtime, lines[start : start + part])
            _maintain(runtime)
        events += len(lines)
        gc.collect()
        resources.trim_heap()
        yield {
            "hour": number + 1,
            "events": events,
            "seconds": round(time.process_time() - began, 1),
            "memory": _memory(),
            "heap": heap(),
            "sizes": sizes_of(runtime),
            "bytes": bytes_of(runtime),
        }
    service.close()


def _hours(log: Path) -> Iterator[list[bytes]]:
    """Lines of each simulated hour; what arrives late counts for the hour in which it does."""
    now, lines = "", list[bytes]()
    for line in chain(open_lines(log / "normal.jsonl.zst"), open_lines(log / "labelled.jsonl.zst")):
        hour = decode_event(line).requestReceivedTimestamp[:13]
        if hour > now:
            if lines:
                yield lines
            now, lines = hour, []
        lines.append(line)
    yield lines


def _score(runtime: Runtime, lines: list[bytes]) -> None:
    for start in range(0, len(lines), _BATCH):
        body = b"\n".join(lines[start : start + _BATCH])
        runtime.pipeline.append(record("/v1/audit", body, "", body), decode_body(body)).result(_PATIENCE)
    settled(runtime)


def _maintain(runtime: Runtime) -> None:
    """What timers do in life: seal events, take a snapshot, delete what is old."""
    assert runtime.ingest is not None
    runtime.ingest.wait(_PATIENCE)
    if runtime.ingest.store is not None:
        runtime.ingest.store.seal()
    checkpointer = runtime.pipeline._checkpointer
    checkpointer._due = 0.0
    runtime.pipeline.run_on_scoring_thread(lambda: checkpointer.scored(runtime.pipeline.position, 0)).result(
        _PATIENCE
    )
    checkpointer._wait()
    runtime.engine.store.prune()


def _memory() -> dict[str, float]:
    """MB of this process: in all, and without files that are mapped."""
    text = Path("/proc/self/status").read_text()
    resident, anonymous = (
        int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) / 1e3 for name in ("VmRSS", "RssAnon")
    )
    return {"resident": resident, "anonymous": anonymous}


class _HeapState(ctypes.Structure):
    """glibc's mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def heap() -> dict[str, float]:
    """MB given out by the C library, in its heap or mapped, and MB of holes in its heap; the same of Python's own arenas."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _HeapState
    state = ask()
    used, arenas = _arenas()
    return {
        "given out": (state.uordblks + state.hblkhd) / 1e6,
        "holes": state.fordblks / 1e6,
        "Python objects": used / 1e6,
        "Python holes": (arenas - used) / 1e6,
    }


def _arenas() -> tuple[int, int]:
    """Bytes of the objects in Python's arenas, and of these arenas; only written to standard error by the interpreter."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        said = file.read().decode().replace(",", "")
    used = re.search(r"# bytes in allocated blocks\s*=\s*(\d+)", said)
    arenas = re.search(r"\d+ arenas \* \d+ bytes/arena\s*=\s*(\d+)", said)
    assert used is not None
    assert arenas is not None
    return int(used[1]), int(arenas[1])


def bytes_of(root: object) -> dict[str, int]:
    """Bytes of every container that can be reached from an object, with the plain values in it: `Class.attribute` -> bytes."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting = deque([root])
    while waiting:
        one = waiting.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for name, value in _attributes(one):
            key = f"{type(one).__name__}.{name}"
            inner = [value]
            while inner:
                item = inner.pop()
                if id(item) in seen:
                    continue
                if _is_ours(item) and not isinstance(item, tuple):
                    waiting.append(item)
                    continue
                if isinstance(item, type) or callable(item):
                    continue
                seen.add(id(item))
                if isinstance(item, np.ndarray):
                    found[key] += item.nbytes
                elif isinstance(item, _PLAIN):  # what others say of themselves is not always true
                    found[key] += sys.getsizeof(item)
                if isinstance(item, dict):
                    inner += item.keys()
                    inner += item.values()
                elif isinstance(item, list | tuple | set | frozenset | deque):
                    inner += item
    return {name: size for name, size in found.items() if size >= _LEAST_BYTES}


def sizes_of(root: object) -> dict[str, int]:
    """Elements of every container, and bytes of every array, that can be reached from an object: `Class.attribute` -> size."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting = deque([root])
    while waiting:
        one = waiting.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for name, value in _attributes(one):
            key = f"{type(one).__name__}.{name}"
            if isinstance(value, np.ndarray):
                found[key] += value.nbytes
            elif isinstance(value, _CONTAINERS) or hasattr(value, "maxsize"):
                found[key] += len(value)
                items = value.values() if hasattr(value, "values") else value
                waiting.extend(item for item in list(items)[:1000] if _is_ours(item))
            elif hasattr(value, "cache_info"):
                found[key] += value.cache_info().currsize
            elif _is_ours(value):
                waiting.append(value)
    return dict(found)


def _is_ours(value: object) -> bool:
    return type(value).__module__.startswith(_ROOMS)


def _attributes(one: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(one, "__dict__", {}).items()
    for kind in type(one).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if isinstance(name, str) and hasattr(one, name):
                yield name, getattr(one, name)


def growth(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """MB an hour after the first third, by a line through the hours, and the structures that grew in the last third."""
    third = len(measured) // 3
    late, last = measured[third:], measured[-1]["sizes"]
    hours = [one["hour"] for one in late]
    middle = measured[2 * third]["sizes"]
    grew = {name: (middle.get(name, 0), size) for name, size in last.items() if size > middle.get(name, 0)}
    return {
        f"{name} MB/hour": round(float(np.polyfit(hours, [one["memory"][name] for one in late], 1)[0]), 3)
        for name in ("resident", "anonymous")
    } | {"grew in the last third": dict(sorted(grew.items(), key=lambda one: one[1][0] - one[1][1])[:40])}
