"""Files of a fleet's state in a table of PostgreSQL, for workers that have no file system in common."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from serving.storage.database import StoreError, open_database, shown_url, take_turn

#: Key of the lock that is held while the table is made; another one than those of the alert store.
_MAKING = 0x6B75_6267
_metadata = sa.MetaData()
_FILES = sa.Table(
    "fleet_state",
    _metadata,
    sa.Column("name", sa.Text(), primary_key=True),
    sa.Column("content", sa.LargeBinary(), nullable=False),
)


class StateTable:
    """Files by name; the table is made if there is none. All methods raise StoreError when the database fails."""

    def __init__(self, url: str) -> None:
        self._shown = shown_url(url)
        self._engine = open_database(url)
        try:
            with self._engine.begin() as connection:
                if not sa.inspect(connection).has_table(_FILES.name):
                    take_turn(connection, _MAKING)  # workers may start together
                    _metadata.create_all(connection)
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreError:
        cause = (str(getattr(error, "orig", None) or error).splitlines() or ["?"])[0]
        return StoreError(
            f"The state of the fleet in {self._shown} cannot be used: {cause}. Check that the server admits this user."
        )

    def write(self, name: str, content: bytes) -> None:
        """Add or replace a file."""
        new = insert(_FILES).values(name=name, content=content)
        change = new.on_conflict_do_update(index_elements=["name"], set_={"content": new.excluded.content})
        try:
            with self._engine.begin() as connection:
                connection.execute(change)
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is none of that name."""
        try:
            with self._engine.connect() as connection:
                found = connection.scalar(sa.select(_FILES.c.content).where(_FILES.c.name == name))
        except SQLAlchemyError as error:
            raise self._failed(error) from error
        return None if found is None else bytes(found)

    def names(self, prefix: str) -> list[str]:
        """Names that begin so, sorted."""
        name = _FILES.c.name
        try:
            with self._engine.connect() as connection:
                found = connection.scalars(sa.select(name).where(name.startswith(prefix, autoescape=True)))
                return sorted(found)
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.delete(_FILES).where(_FILES.c.name == name))
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
