"""Defaults that ship with kubehabit, read from the `configs` package."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml


def shipped(name: str) -> dict[str, Any]:
    """Content of a YAML file of `configs/`, by file name."""
    content: dict[str, Any] = yaml.safe_load(files("configs").joinpath(name).read_text("utf-8"))
    return content
