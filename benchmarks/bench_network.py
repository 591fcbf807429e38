"""What an action costs in the network: the graphs of model bundles for the newest action, timed in turn in one run.

    python -m benchmarks.bench_network DATASET BUNDLE [BUNDLE ...] [--actions 4096] [--rounds 7]

Actions of the dataset are scored in the order of the log, 400 at a time, on one thread. Bundles take turns, so that what else the
machine does meets all alike; the least of the rounds is the figure to compare, the median says how quiet the machine was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.dataset.table import ActionTable, load
from detection.bundle import Bundle
from detection.reconstruction import NewestOnnxModel
from detection.windows import Windows

_BATCH = 400


def microseconds(model: NewestOnnxModel, window: int, table: ActionTable, rows: Sequence[int]) -> float:
    """Processor time of the graph for one action, over actions in the order of the log; the cutting of windows is not in it."""
    windows, spent = Windows(window), 0.0
    at = np.asarray(rows)
    for begin in range(0, len(at), _BATCH):
        some = at[begin : begin + _BATCH]
        names, tokens = table.name[some].tolist(), table.tokens[some].astype(np.int32)
        cut = windows.cut(names, tokens, table.time[some])
        who = (table.principal[some].astype(np.int64), table.group[some].astype(np.int64))
        began = time.thread_time()
        model(cut, *who, np.arange(len(some)))
        spent += time.thread_time() - began
    return 1e6 * spent / len(at)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--actions", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(given)
    table = load(options.dataset)
    order = np.argsort(table.arrival, kind="stable")
    rows = order[len(order) // 2 :][: options.actions].tolist()
    graphs = []
    for path in options.bundles:
        bundle = Bundle.load(path)
        if bundle.newest_path is None:
            parser.error(f"{path} has no graph for the newest action.")
        graphs.append((path, bundle, NewestOnnxModel(str(bundle.newest_path))))
    found: dict[Path, list[float]] = {path: [] for path, _, _ in graphs}
    for _ in range(options.rounds):
        for path, bundle, model in graphs:
            found[path].append(microseconds(model, bundle.window, table, rows))
    for path, bundle, _ in graphs:
        hidden = bundle.meta["model"]["hidden"]
        least, median = min(found[path]), float(np.median(found[path]))
        print(
            f"{path}: {hidden} wide, window {bundle.window}: least {least:.1f}, median {median:.1f} us an action"
        )


if __name__ == "__main__":
    main()
