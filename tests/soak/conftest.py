"""A small model and few batches for the tests of the suite itself."""

from __future__ import annotations

import pytest

from tests.soak.material import Material, prepare


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Ten batches of the labelled recording, in which alerts begin and grow."""
    return prepare(tmp_path_factory.mktemp("material"), events=800, size=80)
