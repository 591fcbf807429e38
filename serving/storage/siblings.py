"""Alert stores of a fleet's other clusters, to read: other schemas of the same PostgreSQL, or files beside the cluster's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from serving.storage.database import AlertStore, StoreError, sqlite_file
from serving.storage.tables import MEMBERS

#: SQLite files of a fleet on one machine are `clusters/NAME/serving.db` (`StoreSettings.of_cluster`).
_FOLDER = "clusters"


class SiblingStores:
    """The other stores; a store that has no name of a cluster has none.

    Args:
        store: of this cluster.
        url: of it.
    """

    def __init__(self, store: AlertStore, url: str) -> None:
        self._store = store
        self._schema = make_url(url).query.get("schema")
        file = sqlite_file(url)
        self._file = file if file is not None and file.parent.parent.name == _FOLDER else None

    def names(self) -> list[str]:
        """Names of the other clusters, sorted; raises StoreError."""
        if self._file is not None:
            files = self._file.parent.parent.glob(f"*/{self._file.name}")
            return sorted(file.parent.name for file in files if file.parent != self._file.parent)
        if self._schema is None:
            return []
        tables = sa.table("tables", sa.column("table_schema"), sa.column("table_name"))
        tables.schema = "information_schema"
        with self._store.reading() as connection:
            found = connection.scalars(
                sa.select(tables.c.table_schema).where(tables.c.table_name == MEMBERS.name)
            )
            return sorted(name for name in found if name not in (self._schema, "public"))

    @contextmanager
    def reading(self, name: str) -> Iterator[Connection]:
        """A connection to read a store with; raises StoreError if there is none."""
        if self._file is None:
            with self._store.reading() as connection:
                yield connection.execution_options(schema_translate_map={None: name})
            return
        address = f"file:{quote(str(self._file.parent.parent / name / self._file.name))}?mode=ro"
        engine = sa.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=sa.NullPool
        )
        try:
            with engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"The alert store of {name} cannot be read.") from error
