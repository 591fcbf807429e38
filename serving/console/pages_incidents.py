"""Incidents: the list, the page of one, and what people decide about it."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(include_in_schema=False)
