"""Runs the backtests of several clusters side by side: in processes of this machine, or on a Spark cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial

from data.errors import KubehabitError
from data.spark import run_tasks
from serving.rollout.backtest import BacktestOptions, ClusterBacktest, ClusterLogs, backtest

#: A cluster's name, and its backtest or why there is none.
Outcome = tuple[str, ClusterBacktest | str]


def run_here(
    clusters: Sequence[ClusterLogs],
    options: BacktestOptions,
    processes: int,
    on_events: Callable[[int], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Backtests in processes of this machine, as they end; one cluster, or one process, runs in this one.

    Args:
        on_events: called with the events judged so far, where the work is done in this process.
    """
    if processes == 1 or len(clusters) == 1:
        for logs in clusters:
            try:
                yield logs.name, backtest(logs, options, on_events)
            except KubehabitError as error:
                yield logs.name, str(error)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy onnxruntime's threads in mid-work
    with ProcessPoolExecutor(min(processes, len(clusters)), mp_context=context) as pool:
        waiting: dict[Future[Outcome], str] = {
            pool.submit(_outcome, logs, options): logs.name for logs in clusters
        }
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_on_spark(clusters: Sequence[ClusterLogs], options: BacktestOptions, master: str) -> Iterator[Outcome]:
    """Backtests as tasks of Apache Spark, one a cluster; all machines must reach the logs, the model and the results' folder.

    Args:
        master: as `spark-submit` takes it: local[4], spark://host:7077, k8s://..., yarn.

    Raises:
        KubehabitError: as `run_tasks`.
    """
    yield from run_tasks(master, "kubehabit backtest", partial(_outcome, options=options), clusters)


def _outcome(logs: ClusterLogs, options: BacktestOptions) -> Outcome:
    try:
        return logs.name, backtest(logs, options)
    except KubehabitError as error:
        return logs.name, str(error)
