"""Fixtures of the service's tests, for commands that ask one or read its files."""

from tests.serving.conftest import (
    engine,
    explainer,
    own_home,
    parquet_written_here,
    postgres,
    registry_asked_here,
    s3,
    s3_server,
    store,
)

__all__ = [
    "engine",
    "explainer",
    "own_home",
    "parquet_written_here",
    "postgres",
    "registry_asked_here",
    "s3",
    "s3_server",
    "store",
]
