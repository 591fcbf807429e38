"""Tasks on Apache Spark, which is installed with the extra `spark`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from data.errors import KubehabitError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def run_tasks(
    master: str, name: str, function: Callable[[_Task], _Result], tasks: Sequence[_Task]
) -> list[_Result]:
    """Call a function with each task, on the machines of a Spark cluster; the results in the order of the tasks.

    Args:
        master: as `spark-submit` takes it: local[4], spark://host:7077, k8s://..., yarn.
        name: of the application, for Spark's pages.

    Raises:
        KubehabitError: pyspark is not installed, Spark does not start, or a task failed.
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
        session = SparkSession.builder.master(master).appName(name).getOrCreate()
        found: list[_Result] = session.sparkContext.parallelize(tasks, len(tasks)).map(function).collect()
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
    return found
