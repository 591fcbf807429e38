"""All pages of the console, put into the application."""

from __future__ import annotations

from fastapi import FastAPI

from serving.console import (
    pages_alerts,
    pages_glossary,
    pages_incidents,
    pages_login,
    pages_model,
    pages_principals,
    pages_search,
)


def add_console(app: FastAPI) -> None:
    """Add the pages. Each module of pages has a `router`; the gate (`serving.gate`) stands before all of them."""
    for pages in (
        *(pages_login, pages_alerts, pages_incidents, pages_principals, pages_search, pages_model),
        pages_glossary,
    ):
        # Not `include_router`, which hides the routes from the gate.
        app.router.routes.extend(pages.router.routes)
