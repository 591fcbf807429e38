"""The copy of the event store in object storage: complete, as sealed, read by engines as it is, and never ahead of its proof."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest

from data.errors import KubehabitError
from data.principals.person import Person
from serving.forensics import clock, erasure
from serving.forensics.archive import ArchivedStore, open_files
from serving.forensics.event_store import EventStore
from serving.forensics.ingest import EventIngest
from serving.forensics.queries import EventFilter, EventQueries
from serving.forensics.records import SQL_TYPES
from serving.forensics.verify import Report, verify
from serving.scoring.journal import Journal
from serving.storage.object_files import ObjectFiles
from tests.serving.event_stores import body, new_store, story
from tests.serving.fakes import raw_event

_DAY = 86_400_000_000


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an archive in objects of this process, of one on a file system, and of one on a server that speaks S3."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/archive"
    return f"{request.param}://{tmp_path}/archive"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock of the machine, to be set."""
    moment = [1_767_571_200_000_000]  # 2026-01-05, 00:00 UTC
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    return moment


@pytest.fixture
def opened(tmp_path: Path, url: str) -> Callable[..., EventStore]:
    """A store that is archived."""

    def make(days: float | None = None, **settings: Any) -> EventStore:
        archive = {"url": url, "cluster": "prod", "retention_days": days}
        return new_store(tmp_path / "events", archive=archive, **settings)

    return make


def three_days(store: EventStore, now: list[int]) -> None:
    """Events of three days, in several files each; the third day is today."""
    events = story()
    for day in range(3):
        for part in range(3):
            some = events[(3 * day + part) * 3 :][:3]
            store.append(body(some), received=now[0])
            store.seal()
        now[0] += _DAY * (day < 2)


def shipped(store: EventStore, now: list[int]) -> EventStore:
    """The store with events of three days, of which the first two are merged and copied."""
    three_days(store, now)
    store.merge()
    store.ship()
    return store


def of_prod(url: str) -> str:
    return f"{url}/cluster=prod"


def listed(url: str) -> list[str]:
    """Parquet files of an archive."""
    system, root = fsspec.core.url_to_fs(of_prod(url))
    return sorted(path.removeprefix(f"{root}/") for path in system.glob(f"{root}/date=*/*.parquet"))


def checked(url: str) -> Report:
    return verify(ArchivedStore(of_prod(url)))


def test_files_are_copied_once_they_are_not_merged_any_more(
    opened: Callable[..., EventStore], now: list[int], url: str
) -> None:
    store = opened()
    three_days(store, now)
    store.ship()
    assert listed(url) == []  # the parts of past days are still to be merged
    store.merge()
    store.ship()
    assert listed(url) == ["date=2026-01-05/0-1.parquet", "date=2026-01-06/9-1.parquet"]
    lines = len(store.ledger.entries)
    store.ship()
    assert len(store.ledger.entries) == lines
    now[0] += _DAY
    store.merge()
    store.ship()
    assert listed(url)[2:] == ["date=2026-01-07/18-1.parquet"]
    store.close()
    report = checked(url)
    assert report.findings == []
    assert (report.records, report.files) == (27, 3)


def test_a_copy_answers_as_the_store_does(
    opened: Callable[..., EventStore], now: list[int], url: str, tmp_path: Path
) -> None:
    store = opened()
    three_days(store, now)
    now[0] += _DAY
    store.merge()
    store.ship()
    store.close()
    here, there = EventQueries(tmp_path / "events"), EventQueries(ArchivedStore(of_prod(url)))
    for wanted in (EventFilter(), EventFilter(principal="mallory@corp"), EventFilter(resource="secrets")):
        found = there.events(wanted)
        assert found.records == here.events(wanted).records
        assert found.records
    assert there.extent() == here.extent()
    secrets = EventFilter(resource="secrets", namespace="payments", name="db")
    assert there.touched(secrets) == here.touched(secrets)
    since = min(record.time for record in found.records)
    assert there.newcomers("payments", since) == here.newcomers("payments", since)
    assert there.life("mallory@corp") == here.life("mallory@corp")


def test_the_database_of_a_copy_can_read_nothing_else(
    opened: Callable[..., EventStore], now: list[int], url: str, tmp_path: Path
) -> None:
    store = shipped(opened(), now)
    store.close()
    fsspec.filesystem("memory").pipe_file(f"{tmp_path}/other/secret.csv", b"a,b\n")
    (tmp_path / "secret.csv").write_text("a,b\n")
    place = ArchivedStore(of_prod(url))
    with place.connect(256, 1) as connection:
        for path in (f"memory://{tmp_path}/other/secret.csv", f"{tmp_path}/secret.csv"):
            with pytest.raises(duckdb.Error, match=r"[Pp]ermission"):
                connection.execute(f"SELECT * FROM read_csv('{path}')")


def test_an_engine_that_knows_hive_partitions_reads_it_as_it_is(
    opened: Callable[..., EventStore], now: list[int], url: str
) -> None:
    store = shipped(opened(), now)
    store.close()
    files = open_files(url)
    with duckdb.connect() as engine:
        if not files.is_local:
            engine.register_filesystem(files.system)
        rows = engine.sql(
            f"FROM read_parquet('{files.place}/cluster=*/date=*/*.parquet', hive_partitioning = true)"
        )
        assert set(rows.columns) == {*SQL_TYPES, "date"}
        found = engine.execute(
            "SELECT cluster, date::VARCHAR, count(*), min(number) FROM rows GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert found == [("prod", "2026-01-05", 9, 0), ("prod", "2026-01-06", 9, 9)]


def test_nothing_is_deleted_before_its_copy_was_read_back(
    opened: Callable[..., EventStore],
    now: list[int],
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = opened(retention_days=1)
    three_days(store, now)
    store.merge()
    now[0] += 30 * _DAY
    store.append(body([raw_event(100)]), received=now[0])
    store.seal()
    monkeypatch.setattr(store._age, "may_drop", lambda: True)
    store.drop()
    assert len(EventQueries(tmp_path / "events").events(EventFilter()).records) == 28
    with monkeypatch.context() as patch:
        patch.setattr(ObjectFiles, "upload", lambda *_: None)  # which loses what it is given
        with pytest.raises(KubehabitError, match=r"events\.archive|not what was sent"):
            store.ship()
        assert store.archive_trouble
        store.drop()
        assert len(EventQueries(tmp_path / "events").events(EventFilter()).records) == 28
    store.merge()
    store.ship()
    assert not store.archive_trouble
    store.drop()
    store.close()
    assert len(EventQueries(tmp_path / "events").events(EventFilter()).records) == 1
    assert len(EventQueries(ArchivedStore(of_prod(url))).events(EventFilter()).records) == 27
    assert verify(tmp_path / "events").is_sound
    assert checked(url).findings == []


def test_copies_go_when_their_time_is_over_and_the_ledger_says_so(
    opened: Callable[..., EventStore],
    now: list[int],
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = opened(days=10)
    three_days(store, now)
    monkeypatch.setattr(store._age, "may_drop", lambda: True)
    for passed in (1, 9):
        now[0] += passed * _DAY
        store.merge()
        store.ship()
    assert listed(url) == ["date=2026-01-07/18-1.parquet"]
    lines = len(store.ledger.entries)
    store.ship()  # files that are still here are not copied again
    assert len(store.ledger.entries) == lines
    report = checked(url)
    assert report.findings == []
    assert report.records == 9
    first = next(iter((tmp_path / "events").glob("2026-01-05/*.parquet")))
    now[0] += 365 * _DAY
    store.append(body([raw_event(100)]), received=now[0])
    store.seal()
    store.drop()
    assert len(EventQueries(tmp_path / "events").events(EventFilter()).records) == 1
    store.close()
    assert not first.exists()
    assert verify(tmp_path / "events").is_sound


def test_copies_stay_while_the_clock_may_be_wrong(
    opened: Callable[..., EventStore], now: list[int], url: str
) -> None:
    store = shipped(opened(days=10), now)
    now[0] += 365 * _DAY  # in a moment
    store.ship()
    assert len(listed(url)) == 2  # and nothing is added: the third day's files are not merged yet
    store.close()


def test_a_file_that_is_not_as_it_was_sealed_is_not_copied(
    opened: Callable[..., EventStore], now: list[int], url: str, tmp_path: Path
) -> None:
    store = opened()
    three_days(store, now)
    store.merge()
    (second,) = (tmp_path / "events").glob("2026-01-06/*.parquet")
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    with pytest.raises(KubehabitError, match="not as it was sealed"):
        store.ship()
    assert listed(url) == ["date=2026-01-05/0-1.parquet"]
    store.close()


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize("ends", ["write", "upload", "checksum", "delete"])
def test_a_copy_that_ends_at_any_place_is_gone_on_with(
    opened: Callable[..., EventStore], now: list[int], url: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shipped(opened(), now)
    _erase(store, "alice@corp")
    real, chance, failures = getattr(ObjectFiles, ends), random.Random(3), [0]

    def fail(self: ObjectFiles, *given: Any) -> Any:
        if chance.random() < 0.4:
            failures[0] += 1
            raise KubehabitError("the network is gone")
        return real(self, *given)

    monkeypatch.setattr(ObjectFiles, ends, fail)
    for _ in range(50):  # each time in a new process
        try:
            store.ship()
            break
        except KubehabitError:
            store.close()
            store = opened()
    else:
        pytest.fail("it never ended")
    assert failures[0] > 0
    monkeypatch.setattr(ObjectFiles, ends, real)
    store.close()
    report = checked(url)
    assert report.findings == []
    assert (report.records, len(report.erasures)) == (18, 4)
    assert len(listed(url)) == 2


def _erase(store: EventStore, name: str) -> int:
    request = erasure.ErasureRequest(Person(name), "erased-1", "request 7", "dpo", False)
    return erasure.erase(store, request, 256)


def test_an_erasure_replaces_the_copies(opened: Callable[..., EventStore], now: list[int], url: str) -> None:
    store = shipped(opened(), now)
    before = listed(url)
    assert _erase(store, "alice@corp") > 10
    store.ship()
    store.close()
    assert len(listed(url)) == len(before)
    assert not set(listed(url)) & set(before)
    queries = EventQueries(ArchivedStore(of_prod(url)))
    assert queries.events(EventFilter(principal="alice@corp")).records == []
    assert len(queries.events(EventFilter(principal="erased-1")).records) == 18
    report = checked(url)
    assert report.findings == []
    assert len(report.erasures) == 4  # two of them in files of today, which are not copied yet


def test_what_an_erasure_cannot_reach_in_the_archive_is_counted(
    opened: Callable[..., EventStore], now: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(retention_days=1)
    three_days(store, now)
    store.merge()
    store.ship()
    alice, mallory = Person("alice@corp"), Person("mallory@corp")
    assert erasure.count_out_of_reach(store.settings, store._catalog, alice) == 0
    now[0] += 30 * _DAY
    store.append(body([raw_event(100)]), received=now[0])
    store.seal()
    monkeypatch.setattr(store._age, "may_drop", lambda: True)
    store.drop()
    assert erasure.count_out_of_reach(store.settings, store._catalog, alice) == 18
    assert erasure.count_out_of_reach(store.settings, store._catalog, mallory) == 0
    elsewhere = store.settings.model_copy(update={"archive": None})
    assert erasure.count_out_of_reach(elsewhere, store._catalog, alice) == 18
    store.close()


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("what", "kind"),
    [("change", "file"), ("remove", "missing"), ("add", "stranger"), ("blocks", "file"), ("tail", "ledger")],
)
def test_what_is_changed_in_a_copy_is_found(
    opened: Callable[..., EventStore], now: list[int], url: str, what: str, kind: str
) -> None:
    store = shipped(opened(), now)
    now[0] += _DAY
    store.merge()
    store.ship()
    store.close()
    assert checked(url).is_sound
    files = open_files(of_prod(url))
    first = listed(url)[0]
    content = files.read(first)
    if what == "change":
        at = content.index(b"PAR1", 4)
        files.write(first, content[: at - 200] + bytes([content[at - 200] ^ 1]) + content[at - 199 :])
    elif what == "remove":
        files.delete(first)
    elif what == "add":
        files.write("date=2026-01-05/7.parquet", content)
    elif what == "blocks":
        files.delete("_ledger/blocks/0-1.msgpack")
    else:
        files.delete(files.names("_ledger")[1])
    assert kind in {finding.kind for finding in checked(url).findings}


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize("head", [b"", b"[]", b'{"number": -7, "hash": ""}', b"\xff"])
def test_a_head_that_cannot_be_read_is_a_sentence(
    opened: Callable[..., EventStore], now: list[int], url: str, head: bytes
) -> None:
    store = shipped(opened(), now)
    store.close()
    open_files(of_prod(url)).write("_ledger/head.json", head)
    with pytest.raises(KubehabitError, match="head of the archive's ledger cannot be read"):
        checked(url)
    store = opened()
    with pytest.raises(KubehabitError, match="head of the archive's ledger cannot be read"):
        store.ship()
    store.close()


def test_the_copy_of_another_store_is_not_overwritten(
    opened: Callable[..., EventStore], now: list[int], url: str, tmp_path: Path
) -> None:
    store = shipped(opened(), now)
    store.close()
    before = checked(url).head
    shutil.rmtree(tmp_path / "events")  # the machine is lost, and its store begins again
    now[0] += _DAY
    store = opened()
    three_days(store, now)
    store.merge()
    with pytest.raises(KubehabitError, match=r"holds the events of another store.*another URL or cluster"):
        store.ship()
    store.close()
    assert checked(url).head == before


def test_an_archive_that_cannot_be_reached_is_a_notice_to_the_operator(
    tmp_path: Path, now: list[int]
) -> None:
    store = new_store(tmp_path / "events", archive={"url": "nowhere://bucket", "cluster": "prod"})
    journal = Journal(tmp_path / "journal", 1 << 20)
    follower = EventIngest(lambda: store, journal, lambda: 0)
    three_days(store, now)
    assert follower.notice is None
    store._tidy()
    assert "not archived" in (follower.notice or "")
    assert "nowhere://bucket/cluster=prod" in (follower.notice or "")
    follower.close()
    journal.close()
    assert verify(tmp_path / "events").is_sound


def test_a_place_without_a_copy_says_so(url: str) -> None:
    with pytest.raises(KubehabitError, match=r"no archived events.*Name the cluster"):
        ArchivedStore(url)
