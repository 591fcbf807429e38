"""A person is erased from all that a service keeps; what is left is sound and goes on, also after a kill in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from data.errors import KubehabitError
from data.events.reader import open_lines
from data.principals.person import NoPersonError, Person
from data.signing_keys import load_signing_key
from detection.probation import PrincipalProbation, pack_records, unpack_records
from kubehabit.main import app
from serving.app import create_app
from serving.forensics import clock
from serving.forensics.archive import ArchivedStore
from serving.forensics.event_store import EventStore
from serving.forensics.evidence.export import Subject, check, export
from serving.forensics.ledger import Ledger, LedgerReader
from serving.forensics.queries import EventFilter, EventQueries
from serving.forensics.verify import verify
from serving.privacy import erasure
from serving.privacy.places import find_person, report
from serving.rollout.loader import load_engine
from serving.scoring.snapshots import Snapshots
from serving.settings import Settings
from serving.storage.database import AlertStore
from serving.storage.erasure import NAMING
from serving.storage.tables import ALERTS
from tests.conftest import RECORDINGS, ROOT
from tests.serving.fakes import raw_event

MIKE, GRACE = "mike@corp.example", "grace@corp.example"
ACCUSED = "system:serviceaccount:search:ci-deployer"
WHY, BY = "Request 2026-41", "privacy officer"


def settings_of(home: Path, **events: Any) -> Settings:
    return Settings(
        alerts={"threshold_scale": 0.3},
        events={"path": home / "events", "memory_mb": 256, **events},
        store={"url": f"sqlite:///{home / 'serving.db'}"},
        state={"path": home / "state"},
        journal={"path": home / "journal"},
        dead_letters={"path": home / "dead-letters.jsonl"},
        model={"cache": home / "models"},
        access={"log": {"path": home / "access.jsonl"}},
    )


def serve(home: Path, bundle: Path, bodies: list[bytes]) -> dict[str, Any]:
    """Let a service with a real model take some bodies, and end cleanly."""
    settings = settings_of(home)
    api = create_app(settings, load_engine(settings, bundle))
    with TestClient(api, base_url="http://127.0.0.1:8646") as client:
        for body in bodies:
            assert client.post("/v1/score", content=body).status_code == 200
        client.get(f"/v1/principals/{MIKE}")
        return client.get("/v1/alerts?limit=500").json()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def lived(registered_before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a service that has scored 1,501 events: a person's own, and one of another that names the person."""
    from serving.forensics import parquet_writer

    home = tmp_path_factory.mktemp("lived")
    lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 1_500))
    grant = json.loads(next(line for line in lines if GRACE.encode() in line))
    body = {"kind": "RoleBinding", "subjects": [{"kind": "User", "name": MIKE}], "note": f"for\n{MIKE}"}
    impersonation = {
        "verb": "create",
        "requestObject": body,
        "impersonatedUser": {"username": MIKE, "groups": []},
    }
    lines.append(json.dumps(grant | impersonation | {"auditID": "grants-mike"}).encode())
    lines.append(b'{"user": {"username": "' + MIKE.encode() + b'"}, "broken')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBEHABIT_HOME", str(home))
        patch.setattr(parquet_writer, "_answer_of_process", parquet_writer.answer)
        serve(home, registered_before / "data" / "bundle", [b"\n".join(lines[:700]), b"\n".join(lines[700:])])
    with closing(sqlite3.connect(home / "serving.db")) as file, file:
        accuse(file)
    put_on_probation(home / "state")
    return home


def put_on_probation(state: Path) -> None:
    snapshots = Snapshots(state)
    for position in snapshots.positions():
        snapshot = snapshots.read(position)
        held = unpack_records(snapshot.meta["probation"])
        held |= {MIKE: PrincipalProbation(), GRACE: PrincipalProbation()}
        snapshots.write(replace(snapshot, meta=snapshot.meta | {"probation": pack_records(held)}))


def accuse(file: sqlite3.Connection) -> None:
    """Give the person an alert like the one that was raised, and name the person in that one."""
    assert file.execute("SELECT principal FROM alerts").fetchall() == [(ACCUSED,)]
    for table, key in (
        *(("alerts", "number"), ("alert_lines", "alert"), ("alert_events", "position")),
        *(("alert_surroundings", "position"), ("alert_ties", "position"), ("incident_alerts", "")),
    ):
        rows = file.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in rows.description]
        for row in rows.fetchall():
            new = dict(zip(names, row, strict=True))
            shifted = {
                name: new[name] + 1000
                for name in {key, "number", "alert"} & set(names)
                if isinstance(new[name], int)
            }
            texts = {
                name: value.replace(ACCUSED, MIKE) for name, value in new.items() if isinstance(value, str)
            }
            new |= texts | shifted
            for name in {"id"} | ({"alert"} if table == "incident_alerts" else set()):
                if name in new:
                    new[name] = str(new[name])[::-1]
            file.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(new))})", list(new.values()))
    file.execute(
        "UPDATE alert_lines SET sentence = sentence || ' beside ' || ? WHERE principal = ?", (MIKE, ACCUSED)
    )
    verdict = '{"principal":"%s","auditIDs":[],"verdict":"normal","note":"asked %s","alertID":"%s"}'
    [(theirs,)] = file.execute("SELECT id FROM alerts WHERE principal = ?", (ACCUSED,)).fetchall()
    for who in (ACCUSED, MIKE):
        action = json.dumps({"auditID": f"of-{who}", "note": f"for {MIKE}"})
        columns = "exception, principal, audit_id, time, received, document"
        file.execute(
            f"INSERT INTO allowed_actions ({columns}) VALUES ('x', ?, ?, 1, 1, ?)", (who, who[:3], action)
        )
    for alert, who in ((theirs, ACCUSED), (theirs[::-1], MIKE)):
        row = (alert, 1, verdict % (who, MIKE, alert), "normal")
        file.execute("INSERT INTO feedback (alert, time, document, verdict) VALUES (?, ?, ?, ?)", row)


@pytest.fixture(scope="module")
def erased_once(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same home after an erasure."""
    from serving.forensics import parquet_writer

    home = tmp_path_factory.mktemp("erased") / "home"
    shutil.copytree(lived, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBEHABIT_HOME", str(home))
        patch.setattr(parquet_writer, "_answer_of_process", parquet_writer.answer)
        erase(home)
    return home


@pytest.fixture
def erased_home(erased_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(erased_once, tmp_path / "home")
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def home(lived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(lived, tmp_path / "home")
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_every_table_and_every_part_of_a_snapshot_is_considered(home: Path) -> None:
    """A new one has to say what an erasure does with it."""
    naming = {table.name for table, _ in NAMING}
    without_names = {"alert_events", "deliveries", "incidents", "incident_alerts"}
    assert set(ALERTS.metadata.tables) == naming | without_names
    snapshots = Snapshots(home / "state")
    meta = snapshots.read(snapshots.positions()[-1]).meta
    assert set(meta) == {
        *("principals", "since", "repeats_key", "surroundings", "names", "summed", "horizons", "window"),
        *("vocabulary", "folder_key", "owners", "reads", "probation", "rules"),
    }


def erase(home: Path, who: str = MIKE, **options: Any) -> dict[str, int]:
    return erasure.erase(settings_of(home), who, why=WHY, by=BY, **{"force": True} | options)


def plain(path: Path) -> bytes:
    """All that a file holds, unpacked."""
    raw = path.read_bytes()
    if path.suffix == ".parquet":
        import duckdb

        raw += str(duckdb.sql(f"SELECT * FROM read_parquet('{path}')").fetchall()).encode()
    if path.suffix == ".snapshot":
        snapshot = Snapshots(path.parent).read(int(path.stem))
        raw += repr(msgspec.json.encode(repr(snapshot.meta))).encode()
    return raw


def naming(home: Path, who: str = MIKE) -> list[str]:
    """Files of a home in which a person's name stands."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return sorted(path.relative_to(home).as_posix() for path in files if who.encode() in plain(path))


def kinds(home: Path) -> list[str]:
    reader = LedgerReader(home / "events")
    reader.read_on()
    return [entry.fields["kind"] for entry in reader.entries]


def test_nothing_names_the_person_any_more_and_all_else_is_as_it_was(home: Path) -> None:
    before = naming(home)
    assert {path.partition("/")[0].removesuffix("-wal") for path in before} >= {
        "events",
        "state",
        "serving.db",
        "access.jsonl",
        "dead-letters.jsonl",
    }
    queries = EventQueries(home / "events", memory_mb=256, seconds=60)
    others = {
        record.number: record
        for record in queries.events(EventFilter(), limit=5_000).records
        if MIKE not in record.event and record.principal != MIKE
    }
    store = AlertStore(f"sqlite:///{home / 'serving.db'}", retention_days=90, max_alerts=1000)
    kept_alerts = {alert.id: alert for alert in store.page(limit=500).alerts if alert.principal != MIKE}
    store.close()
    done = erase(home)
    assert naming(home) == []
    assert done["events"] > 30
    assert done["alerts"] > 0
    assert done["snapshots"] > 0
    assert done["history"] > 0
    checked = verify(home / "events")
    assert checked.is_sound, checked.findings
    assert sum(one.records for one in checked.erasures) == done["events"]
    assert {(one.why, one.by, one.forced) for one in checked.erasures} == {(WHY, BY, True)}
    assert kinds(home)[-2:] == ["erasure", "closed"]
    queries = EventQueries(home / "events", memory_mb=256, seconds=60)
    now = {record.number: record for record in queries.events(EventFilter(), limit=5_000).records}
    assert len(now) == 1_501
    assert {number: now[number] for number in others} == others
    pseudonym = checked.erasures[0].pseudonym
    [mine, *_] = queries.events(EventFilter(principal=pseudonym), limit=5_000).records
    assert (mine.source_ips, mine.user_agent, mine.credential, mine.event) == ("", "", "", '"[erased]"')
    assert mine.verb
    [grant] = queries.events(EventFilter(audit_ids=("grants-mike",)), limit=5).records
    assert grant.principal == GRACE
    assert grant.impersonated == pseudonym
    assert json.loads(grant.event)["requestObject"]["note"] == f"for\n{pseudonym}"
    store = AlertStore(f"sqlite:///{home / 'serving.db'}", retention_days=90, max_alerts=1000)
    alerts = {alert.id: alert for alert in store.page(limit=500).alerts}
    assert alerts.keys() == kept_alerts.keys()
    with closing(sqlite3.connect(home / "serving.db")) as file:
        assert file.execute("SELECT principal FROM allowed_actions").fetchall() == [(ACCUSED,)]
    assert [json.loads(text)["note"] for text in store.feedback()] == [f"asked {pseudonym}"]
    store.close()
    assert report(settings_of(home), find_person(settings_of(home), MIKE)).places == []


def test_the_report_names_every_place_that_an_erasure_changes(home: Path) -> None:
    found = report(settings_of(home), find_person(settings_of(home), MIKE))
    places = {Path(place.where.removeprefix("sqlite:///")).name for place in found.places}
    assert places >= {"events", "serving.db", "state", "history.db", "access.jsonl", "dead-letters.jsonl"}
    counts = {place.what: place.count for place in found.places}
    assert (
        counts["events of what the person did"] + counts["events of others that name the person"]
        == erase(home)["events"]
    )


def test_a_service_goes_on_with_what_is_left(lived: Path, erased_home: Path, registered_before: Path) -> None:
    def verdicts(folder: Path) -> list[tuple[Any, ...]]:
        lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 1_500, 1_700))
        settings = settings_of(folder)
        api = create_app(settings, load_engine(settings, registered_before / "data" / "bundle"))
        with TestClient(api, base_url="http://127.0.0.1:8646") as client:
            results = client.post("/v1/score", content=b"\n".join(lines)).json()["results"]
        keys = ("auditID", "status", "flagged", "severity", "evidence")
        return [tuple(one.get(key) for key in keys) for one in results if one.get("principal") != MIKE]

    untouched = erased_home.parent / "untouched"
    shutil.copytree(lived, untouched)
    assert verdicts(erased_home) == verdicts(untouched)
    assert verify(erased_home / "events").is_sound


def test_an_erasure_that_is_killed_anywhere_is_finished_by_the_next_call(home: Path) -> None:
    def run(folder: Path, fatal: int) -> tuple[int, int]:
        """Erase in a process that is killed at one of its writes; returns its status and how many writes there were."""
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            seen = 0

            def counted(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(*arguments: Any, **options: Any) -> Any:
                    nonlocal seen
                    seen += 1
                    if seen == fatal:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **options)

                return call

            status = 1
            try:
                os.fsync = counted(os.fsync)
                Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
                Path.replace = counted(Path.replace)  # type: ignore[method-assign]
                erase(folder)
                status = 0
            finally:
                os.write(writes, str(seen).encode())
                os._exit(status)
        os.close(writes)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reads) as count:
            return status, int(count.read() or 0)

    whole = home.parent / "whole"
    shutil.copytree(home, whole)
    status, writes = run(whole, -1)
    assert status == 0
    assert naming(whole) == []
    assert writes > 20
    for point in range(2, writes + 1, max(writes // 3, 1)):
        folder = home.parent / f"killed-{point}"
        shutil.copytree(home, folder)
        assert run(folder, point)[0] == signal.SIGKILL
        begun = erasure.unfinished(settings_of(folder))
        pseudonyms = set() if begun is None else {begun.pseudonym}
        if begun is not None:
            with pytest.raises(erasure.ErasureRefusedError, match="another person"):
                erase(folder, GRACE)
        erase(folder)
        assert naming(folder) == []
        checked = verify(folder / "events")
        assert checked.is_sound, (point, checked.findings)
        assert {one.pseudonym for one in checked.erasures} >= pseudonyms
        assert not erasure.plan_path(settings_of(folder)).exists()
        assert not list(folder.glob("events/erasing*"))


def test_records_on_hold_are_not_erased_unless_forced(home: Path) -> None:
    settings = settings_of(home)
    erasure.hold(settings, GRACE, why="Case 7", by="legal")
    found = report(settings, find_person(settings, GRACE))
    assert any("Case 7" in why for why in found.on_hold)
    assert GRACE.encode() not in (home / "events" / "ledger.jsonl").read_bytes()
    before = naming(home, GRACE)
    with pytest.raises(erasure.ErasureRefusedError, match="Case 7"):
        erase(home, GRACE, force=False)
    assert naming(home, GRACE) == before
    erasure.hold(settings, GRACE, why="Case 7 closed", by="legal", released=True)
    found = report(settings, find_person(settings, GRACE))
    assert not any("Case" in why for why in found.on_hold)
    erasure.hold(settings, GRACE, why="Case 8", by="legal")
    erase(home, GRACE)
    assert {one.forced for one in verify(home / "events").erasures} == {True}


@pytest.fixture
def archived(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same home with a copy of its events in an archive, as of two days later."""
    archive = {"url": f"file://{home}/archive", "cluster": "prod"}
    settings = settings_of(home, archive=archive, retention_days=1)
    later = clock.now() + 2 * 86_400_000_000
    monkeypatch.setattr(clock, "now", lambda: later)
    with closing(EventStore(settings.events.with_key())) as store:
        store.merge()
        store.ship()
    return settings


def copies(home: Path) -> bytes:
    return b"".join(map(plain, sorted(home.glob("archive/cluster=prod/date=*/*.parquet"))))


def test_the_copies_in_the_archive_are_replaced(home: Path, archived: Settings) -> None:
    assert MIKE.encode() in copies(home)
    changed = erasure.erase(archived, MIKE, why=WHY, by=BY, force=True)
    assert changed["events"] > 0
    assert copies(home)
    assert MIKE.encode() not in copies(home)
    report = verify(ArchivedStore(f"file://{home}/archive/cluster=prod"))
    assert report.is_sound
    assert report.records == 1_501


def test_an_erasure_that_would_leave_the_person_in_the_archive_is_refused(
    home: Path, archived: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(EventStore(archived.events.with_key())) as store:
        store.append(json.dumps(raw_event(1)).encode())
        store.seal()
        monkeypatch.setattr(store._age, "may_drop", lambda: True)
        store.drop()
    (left,) = [one for one in report(archived, Person(MIKE)).places if "archive" in one.what]
    assert left.count > 0
    with pytest.raises(erasure.ErasureRefusedError, match=rf"{left.count:,} events in .*cluster=prod name"):
        erasure.erase(archived, MIKE, why=WHY, by=BY, force=True)
    shutil.rmtree(home / "archive")
    erasure.erase(archived, MIKE, why=WHY, by=BY, force=True)
    assert not [one for one in report(archived, Person(MIKE)).places if "archive" in one.what]


def test_an_open_incident_of_the_person_is_a_hold(home: Path) -> None:
    with pytest.raises(erasure.ErasureRefusedError, match=r"Incident \w+ is open"):
        erase(home, force=False)


def test_an_erasure_that_changed_other_records_is_found(erased_home: Path) -> None:
    home = erased_home
    [leaves, *_] = sorted((home / "events" / "blocks").glob("*.leaves"))
    whole = leaves.read_bytes()
    leaves.write_bytes(whole[40:])  # one of the changed records is not named
    assert any("other records than those" in finding.what for finding in verify(home / "events").findings)
    leaves.write_bytes(whole[:-1])
    assert {finding.kind for finding in verify(home / "events").findings} == {"missing"}
    leaves.write_bytes(whole)
    assert verify(home / "events").is_sound


def test_evidence_of_a_store_with_an_erasure_holds(erased_home: Path, tmp_path: Path) -> None:
    home = erased_home
    queries = EventQueries(home / "events", memory_mb=256, seconds=60)
    ledger = Ledger(home / "events", load_signing_key(home / "ledger.key"))
    made = export(queries, ledger, Subject(audit_ids=("grants-mike",)), by="a")
    (tmp_path / "evidence.json").write_bytes(made)
    checked = check(tmp_path / "evidence.json")
    assert (checked.findings, checked.events) == ([], 1)
    (tmp_path / "evidence.json").write_bytes(made.replace(b"erased-", b"Erased-", 1))
    assert check(tmp_path / "evidence.json").findings


def test_two_persons_are_erased_one_after_the_other(erased_home: Path) -> None:
    home = erased_home
    erase(home, GRACE)
    assert naming(home) == naming(home, GRACE) == []
    checked = verify(home / "events")
    assert checked.is_sound, checked.findings
    assert len({one.pseudonym for one in checked.erasures}) == 2


def test_nothing_is_erased_while_a_batch_waits_or_a_service_runs(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(ROOT / "tests" / "fixtures" / "home-d7df1a5.tar.xz") as archive:
        archive.extractall(tmp_path / "killed", filter="data")
    killed = tmp_path / "killed" / "home"
    monkeypatch.setenv("KUBEHABIT_HOME", str(killed))
    with pytest.raises(erasure.ErasureRefusedError, match="stop it with SIGTERM"):
        erase(killed)
    from serving.scoring.journal import Journal

    running = Journal(home / "journal", 1 << 20)
    with pytest.raises(KubehabitError, match="Another process uses the journal"):
        erase(home)
    running.close()


@pytest.mark.parametrize("name", ["system:serviceaccount:web:ci", "system:node:n1", "", "al"])
def test_only_people_are_erased(home: Path, name: str) -> None:
    with pytest.raises(NoPersonError):
        erase(home, name)


def test_a_reason_is_needed_and_must_not_name_the_person(home: Path) -> None:
    for why in ("", f"asked by {MIKE}"):
        with pytest.raises(erasure.ErasureRefusedError, match="ledger for good"):
            erasure.erase(settings_of(home), MIKE, why=why, by=BY, force=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mike@corp.example", "X"),
        ("/users/mike%40corp.example?a", "/users/X?a"),
        ("oidc:mike@corp.example.", "oidc:X."),
        ('"a\\nmike@corp.example"', '"a\\nX"'),
        ("jmike@corp.example mike@corp.example.org mike@corp.examples", None),
        ("mike@corp", None),
    ],
)
def test_a_name_is_replaced_as_a_whole_word_only(text: str, expected: str | None) -> None:
    assert Person(MIKE).replaced(text, "X") == (text if expected is None else expected)


def test_the_command_reports_and_erases(home: Path) -> None:
    config = home / "serve.yaml"
    config.write_text(f"alerts:\n  threshold_scale: 0.3\nstore:\n  url: sqlite:///{home}/serving.db\n")
    environment = {"KUBEHABIT_ACCESS__LOG__PATH": str(home / "access.jsonl"), "COLUMNS": "200"}
    runner = CliRunner(env=environment)
    shown = runner.invoke(app, ["privacy", "report", MIKE, "--config", str(config), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["names"] == [MIKE]
    arguments = ["privacy", "erase", MIKE, "--reason", WHY, "--by", BY, "--config", str(config)]
    assert runner.invoke(app, arguments, input="n\n").exit_code == 1
    assert naming(home)
    done = runner.invoke(app, [*arguments, "--force", "--yes"])
    assert done.exit_code == 0, done.output
    assert naming(home) == []
    checked = runner.invoke(app, ["verify", "--config", str(config)])
    assert checked.exit_code == 0, checked.output
    assert "records were erased on request" in checked.output
    assert WHY in checked.output
    with closing(sqlite3.connect(home / "serving.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
