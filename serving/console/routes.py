"""All pages of the console, put into the application."""

from __future__ import annotations

from fastapi import FastAPI

from serving.console.pages import (
    alerts,
    events,
    exceptions,
    fleet,
    glossary,
    incidents,
    login,
    model,
    overview,
    principals,
    rights,
    rules,
    search,
    signin,
    versions,
    views,
)


def add_console(app: FastAPI) -> None:
    """Add the pages. Each module of pages has a `router`; the gate (`serving.access.gate`) stands before all of them."""
    for pages in (
        *(
            login,
            signin,
            overview,
            alerts,
            incidents,
            principals,
            rights,
            rules,
            search,
            events,
            model,
            fleet,
            exceptions,
            versions,
            views,
            glossary,
        ),
    ):
        # Not `include_router`, which hides the routes from the gate.
        app.router.routes.extend(pages.router.routes)
