"""Writes one Parquet file of the store in a subprocess, because DuckDB does not return memory and its code alone takes 30 MB.

The subprocess reads a request from standard input as a line of JSON and answers with one on standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from data.errors import KubehabitError
from serving.forensics.duckdb import connect, parquet, quoted

_ROW_GROUP = 61_440


def write_parquet(
    rows: str, to: Path, *, folder: Path, memory_mb: int, first: int | None = None, small_groups: bool = False
) -> int:
    """Write the rows that SQL selects in order from files in the store to a file in its folder, and return their number.

    Args:
        rows: SQL.
        to: the file.
        folder: all that the database has access to.
        memory_mb: of the database.
        first: number of the first record; only those that are in the order of their numbers are counted.
        small_groups: bound the bytes of a row group, as it is held in memory; the rows of one file may be gigabytes.

    Raises:
        KubehabitError: it failed.
    """
    request = {
        "rows": rows,
        "to": str(to),
        "folder": str(folder),
        "memory_mb": memory_mb,
        "first": first,
        "small_groups": small_groups,
    }
    answer = _answer_of_process(request)
    if "error" in answer:
        raise KubehabitError(f"{to.name} could not be written: {answer['error']}")
    return int(answer["count"])


def _answer_of_process(request: dict[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "serving.forensics.parquet_writer"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return {"error": f"no process can be started ({error.strerror}). Is there memory for another one?"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"its process ended with status {done.returncode}"])[-1]
        return {"error": last}
    return answer


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request: the `count` of records, or an `error`."""
    import duckdb

    to = quoted(Path(request["to"]))
    options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP}"
    if request["small_groups"]:
        options += f", ROW_GROUP_SIZE_BYTES '{request['memory_mb'] // 16}MB'"
    # DuckDB bounds the bytes of a group only when it may change the order, which one thread does not; it is checked.
    keep_order = not request["small_groups"]
    try:
        with connect(Path(request["folder"]), request["memory_mb"], keep_order=keep_order) as connection:
            written = connection.execute(f"COPY ({request['rows']}) TO {to} ({options})").fetchone()
            if request["first"] is not None:
                written = connection.execute(
                    f"SELECT count(*) FILTER (number = file_row_number + {int(request['first'])}) "
                    f"FROM {parquet(request['to'], more=', file_row_number = true')}"
                ).fetchone()
    except duckdb.Error as error:
        return {"error": str(error)}
    return {"count": 0 if written is None else written[0]}


def main() -> None:
    """Answer one request."""
    sys.stdout.write(json.dumps(answer(json.loads(sys.stdin.readline()))))


if __name__ == "__main__":
    main()
