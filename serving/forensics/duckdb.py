"""DuckDB confined: in memory, with bounded resources, and without access to anything but the store's folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from serving.storage.object_files import ObjectFiles

if TYPE_CHECKING:
    import duckdb


def connect(
    folder: Path,
    memory_mb: int,
    threads: int = 1,
    *,
    keep_order: bool = True,
    objects: ObjectFiles | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB that can access only the store's folder, and what is below the URL of `objects`."""
    import duckdb  # 30 MB

    scratch = folder / f"scratch-{os.getpid()}-{secrets.token_hex(4)}"
    connection = duckdb.connect(
        config={
            "threads": threads,
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": str(scratch),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "preserve_insertion_order": keep_order,
        }
    )
    allowed = [quoted(folder)]
    if objects is not None:
        allowed.append(quoted(objects.place))
        if not objects.is_local:
            connection.register_filesystem(objects.system)
    connection.execute(f"SET allowed_directories = [{', '.join(allowed)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def quoted(path: Path | str) -> str:
    """A path or URL as an SQL string literal."""
    return "'" + str(path).replace("'", "''") + "'"


def parquet(*paths: Path | str, more: str = "") -> str:
    """SQL that reads Parquet files with the columns that are in them; a folder of a path may be named like `cluster=prod`."""
    return f"read_parquet([{', '.join(map(quoted, paths))}], hive_partitioning = false{more})"
