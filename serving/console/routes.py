"""All pages of the console, put into the application."""

from __future__ import annotations

from fastapi import FastAPI

from serving.console.pages import (
    alerts as pages_alerts,
)
from serving.console.pages import (
    glossary as pages_glossary,
)
from serving.console.pages import (
    incidents as pages_incidents,
)
from serving.console.pages import (
    login as pages_login,
)
from serving.console.pages import (
    model as pages_model,
)
from serving.console.pages import (
    principals as pages_principals,
)
from serving.console.pages import (
    search as pages_search,
)


def add_console(app: FastAPI) -> None:
    """Add the pages. Each module of pages has a `router`; the gate (`serving.access.gate`) stands before all of them."""
    for pages in (
        *(pages_login, pages_alerts, pages_incidents, pages_principals, pages_search, pages_model),
        pages_glossary,
    ):
        # Not `include_router`, which hides the routes from the gate.
        app.router.routes.extend(pages.router.routes)
