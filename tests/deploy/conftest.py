from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.alerts.explain.explainer import Explainer
from tests.deploy.served import Served
from tests.serving.conftest import explainer, own_home

__all__ = ["explainer", "own_home"]


@pytest.fixture
def served(tmp_path: Path, explainer: Explainer) -> Iterator[Served]:
    """A running service on loopback, that can be stopped and started again."""
    service = Served(tmp_path / "service", explainer)
    service.start()
    yield service
    service.stop()
