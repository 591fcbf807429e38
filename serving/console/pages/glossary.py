"""The page of words."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from serving.console.render import page
from serving.runtime import Service

router = APIRouter(include_in_schema=False)


@router.get("/console/glossary")
def glossary(request: Request) -> Response:
    """Every word that pages explain, with its meaning."""
    service: Service = request.app.state.service
    words = sorted(service.ready().glossary.items(), key=lambda item: item[0].lower())
    return page(request, "glossary.html", words=words)
