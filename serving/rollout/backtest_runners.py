"""Runs the backtests of several clusters side by side: in processes of this machine, or on a Spark cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

from data.errors import KubehabitError
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
        KubehabitError: pyspark is not installed, or Spark does not start.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise KubehabitError(
            "Apache Spark is not installed: pip install 'kubehabit[spark]', and Java 17."
        ) from error
    if master.startswith("local"):  # else it is for the cluster to say which Python its machines run
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = None
    try:
        session = SparkSession.builder.master(master).appName("kubehabit backtest").getOrCreate()
        tasks = session.sparkContext.parallelize([(one, options) for one in clusters], len(clusters))
        yield from tasks.map(lambda task: _outcome(*task)).collect()
    except Exception as error:  # py4j's, Java's own, and those of a machine without kubehabit
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = next(
            (line for line in reversed(lines) if "Error" in line.partition(":")[0]),
            lines[0] if lines else repr(error),
        )
        raise KubehabitError(
            f"Spark at {master} did not run it: {said}. Its machines need Python with kubehabit installed (PYSPARK_PYTHON)."
        ) from error
    finally:
        if session is not None:
            session.stop()


def _outcome(logs: ClusterLogs, options: BacktestOptions) -> Outcome:
    try:
        return logs.name, backtest(logs, options)
    except KubehabitError as error:
        return logs.name, str(error)
