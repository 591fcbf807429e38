"""The fleet, in the API and on its page: every cluster as its worker last said it is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.fleet.state_files import StateFiles, open_state
from serving.fleet.status import ClusterStatus, PartitionStatus, write_status
from serving.settings import Settings
from tests.serving.hostile import EVIL

Make = Callable[..., TestClient]
OURS = {"Origin": "http://127.0.0.1:8646", "Accept": "text/html"}


@pytest.fixture
def files(own_home: Path) -> StateFiles:
    return open_state(str(own_home / "fleet"))


def cluster(name: str, written: float, **more: Any) -> ClusterStatus:
    return ClusterStatus(name, **({"updated": written, "per_second": 4.5, "newest": written - 2} | more))


def report(files: StateFiles, partition: int, *clusters: ClusterStatus, **more: Any) -> None:
    written = clusters[0].updated if "written" not in more else more.pop("written")
    known = {"worker": f"worker-{partition}", "model": "kubehabit 7", "lag": 0}
    write_status(
        files,
        PartitionStatus("audit", partition, written=written, clusters=list(clusters), **(known | more)),
    )


def fleet(client: TestClient) -> dict[str, Any]:
    answer = client.get("/v1/fleet")
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def shown(client: TestClient) -> str:
    answer = client.get("/console/fleet", headers=OURS)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_without_workers_the_page_says_so_and_makes_no_folder(make_client: Make, own_home: Path) -> None:
    client = make_client()
    assert fleet(client)["clusters"] == []
    assert "No worker has said anything yet" in shown(client)
    assert not (own_home / "fleet").exists()


def test_clusters_that_need_somebody_come_first(make_client: Make, files: StateFiles) -> None:
    now = time.time()
    report(
        files,
        0,
        cluster("calm", now),
        cluster("attacked", now, incidents={"high": 2, "low": 1}, unattended=1),
    )
    report(files, 1, cluster("slow", now), lag=50_000)
    report(files, 2, cluster("stuck", now), lag=70, trouble="The alert store cannot be written.")
    report(files, 3, cluster("lost", now - 300))
    found = fleet(make_client())
    assert [(one["name"], one["state"]) for one in found["clusters"]] == [
        ("lost", "silent"),
        ("stuck", "waiting"),
        ("slow", "behind"),
        ("attacked", "current"),
        ("calm", "current"),
    ]
    assert found["workers"] == 3
    assert found["lagRecords"] == 50_070
    assert found["perSecond"] == 4 * 4.5
    assert found["openIncidents"] == {"critical": 0, "high": 2, "medium": 0, "low": 1}
    assert found["unattended"] == 1


def test_a_cluster_that_moved_is_shown_where_it_was_last(make_client: Make, files: StateFiles) -> None:
    now = time.time()
    report(files, 0, cluster("prod", now - 60, actions=10, known=1), written=now)
    report(files, 1, cluster("prod", now, actions=200, known=150))
    (prod,) = fleet(make_client())["clusters"]
    assert (prod["partition"], prod["readiness"]) == (1, 0.75)


def test_a_cluster_that_is_not_in_memory_has_no_events_a_second(make_client: Make, files: StateFiles) -> None:
    now = time.time()
    report(files, 0, cluster("night", now - 3600), written=now)
    (night,) = fleet(make_client())["clusters"]
    assert (night["state"], night["perSecond"]) == ("current", 0)


def test_the_page_shows_each_cluster_with_a_link_to_its_console(make_client: Make, files: StateFiles) -> None:
    now = time.time()
    report(files, 0, cluster("prod-eu", now, incidents={"critical": 1}, unattended=1, actions=4, known=3))
    report(files, 1, cluster("prod-us", now - 600))
    url = "https://kubehabit-{cluster}.example/console/"
    text = shown(make_client(console={"cluster_url": url}))
    assert 'href="https://kubehabit-prod-eu.example/console/"' in text
    assert "75%" in text
    assert "last heard of" in text
    assert re.search(r'<a href="/console/fleet" aria-current="page">', text)


def test_without_the_address_of_consoles_the_names_are_no_links(make_client: Make, files: StateFiles) -> None:
    report(files, 0, cluster("prod-eu", time.time()))
    text = shown(make_client())
    assert '<th scope="row">prod-eu<' in text


def test_what_workers_wrote_stays_text(make_client: Make, files: StateFiles) -> None:
    name = EVIL[:60]
    report(files, 0, cluster(name, time.time()), trouble=EVIL[:60], worker=name, model="<b>")
    text = shown(make_client())
    assert "<b>" not in text
    assert not re.search("[\u202e\u200b\x07]", text)


def test_a_state_that_cannot_be_read_is_said(make_client: Make, own_home: Path) -> None:
    (own_home / "fleet").mkdir(parents=True)
    (own_home / "fleet" / "status").write_text("in the way")
    answer = make_client().get("/v1/fleet")
    assert answer.status_code == 503
    assert "worker.state" in answer.json()["detail"]


def test_a_link_to_consoles_needs_the_name_of_the_cluster() -> None:
    with pytest.raises(ValueError, match="cluster_url"):
        Settings(console={"cluster_url": "https://kubehabit.example/console/"})
    with pytest.raises(ValueError, match="cluster_url"):
        Settings(console={"cluster_url": "javascript:alert('{cluster}')"})
