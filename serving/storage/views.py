"""Saved views: the filters of a list under a name; reads and writes within a transaction of the alert store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serving.storage.tables import SAVED_VIEWS, microseconds

#: Views of one list; more are refused.
MOST_VIEWS = 50


@dataclass(frozen=True, slots=True)
class SavedView:
    """Filters under a name; `query` is the query of the list's address, `saved_by` who saved them."""

    name: str
    query: str
    saved_by: str


def saved_views(connection: Connection, page: str) -> list[SavedView]:
    """Views of a list, by name."""
    view = SAVED_VIEWS.c
    query = sa.select(view.name, view.query, view.saved_by).where(view.page == page).order_by(view.name)
    return [SavedView(*row) for row in connection.execute(query)]


def save_view(connection: Connection, page: str, view: SavedView) -> bool:
    """Save a view, in place of one of the same name; returns False if there are too many."""
    remove_view(connection, page, view.name)
    held = sa.select(sa.func.count()).where(SAVED_VIEWS.c.page == page)
    if (connection.scalar(held) or 0) >= MOST_VIEWS:
        return False
    values = {"page": page, "name": view.name, "query": view.query, "saved_by": view.saved_by}
    connection.execute(sa.insert(SAVED_VIEWS).values(values | {"time": microseconds(datetime.now(UTC))}))
    return True


def remove_view(connection: Connection, page: str, name: str) -> None:
    """Remove a view, if there is one of this name."""
    connection.execute(sa.delete(SAVED_VIEWS).where(SAVED_VIEWS.c.page == page, SAVED_VIEWS.c.name == name))
