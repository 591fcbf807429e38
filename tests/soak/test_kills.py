"""A short run of the suite: it finds nothing in a sound service, and finds what is put into one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import alembic.command  # before the forks, which would each import it
import alembic.config  # noqa: F401
import pytest

from serving.scoring.pipeline import Pipeline
from serving.storage.database import AlertStore
from tests.soak import fork_server
from tests.soak.fault_points import FaultPoints
from tests.soak.kills import Kills
from tests.soak.material import Material
from tests.soak.migration import migrate
from tests.soak.service import Tell

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kills(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kills]:
    made = Kills(material, tmp_path_factory.mktemp("kills"), seed=5, kinds={"ingest": 1})
    yield made
    made.close()


def test_a_service_that_is_killed_again_and_again_ends_as_one_that_was_not(kills: Kills) -> None:
    killed = 0
    for number in count():
        episode = kills.episode(number)
        assert episode.problems == []
        killed += episode.kills
        if killed >= 12:
            return


def test_a_batch_that_is_acknowledged_and_not_kept_is_found(
    kills: Kills, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills.expected("ingest")
    monkeypatch.setattr(Pipeline, "_is_set_aside", lambda self, place: place.sequence == self.journal.last)
    assert any(kills.episode(number, most=2).problems for number in range(10))


@pytest.mark.parametrize("revision", [0, 4])
def test_a_store_whose_migration_was_killed_at_any_statement_is_brought_up_to_date(
    tmp_path: Path, revision: int
) -> None:
    """At the first start, too: before that was so, the store could not be opened any more."""
    url = f"sqlite:///{tmp_path / 'serving.db'}"
    if revision:
        fork_server.run(lambda _: migrate(url, f"a{revision:03d}"))

    def open_store(tell: Tell, kill_at: int | None = None) -> None:
        points = FaultPoints(kill_at)
        points.install()
        AlertStore(url, retention_days=90, max_alerts=100).close()
        tell("opened", changes=points.count)

    for kill_at in range(1, 60, 9):
        ended = fork_server.run(lambda tell, at=kill_at: open_store(tell, at))
        if ended.how == "closed":
            break
        assert ended.how == "killed", ended.messages
    else:
        assert kill_at > 40
    ended = fork_server.run(open_store)
    assert ended.how == "closed", ended.messages
    again = fork_server.run(open_store)
    assert again.how == "closed"
