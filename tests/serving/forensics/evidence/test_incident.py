"""Evidence of an incident: its whole story, every event with its proof, and who took it with them."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from data.actions.fields import FIELDS
from data.signing_keys import load_public_key
from kubehabit.main import app as command_line
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.forensics.evidence.export import EMBEDDED, check
from serving.forensics.evidence.page import check_page, render
from serving.forensics.verify import verify
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from serving.storage.tables import ALERTS
from tests.serving.conftest import model_info, settle
from tests.serving.event_stores import body, new_store, with_credential
from tests.serving.fakes import FakeDetector, decoded, raw_event, secret_event
from tests.serving.live import Live
from tests.serving.postgres import Postgres

WORKER = "system:serviceaccount:web:worker"
CONTROLLER = "system:serviceaccount:kube-system:replicaset-controller"
EVENTS = {"enabled": True, "seal_seconds": 3600, "memory_mb": 256}
TOKEN = "a-token-of-sixteen-or-more"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtYWxsb3J5In0.c2lnbmF0dXJl"


def campaign() -> list[dict[str, Any]]:
    """Alice's credential lists Secrets, starts a miner, and asks for the worker's token, which then lists Secrets too."""
    miner = {"kind": "Deployment", "metadata": {"name": "miner"}, "spec": {"token": "hunter2"}}
    return [
        *(raw_event(number, user="bob@corp") for number in range(5)),
        raw_event(8, seconds=8),
        with_credential(secret_event(10), "JTI=3f2a8c1e"),
        raw_event(
            11,
            verb="create",
            resource="deployments",
            name="miner",
            requestObject=miner,
            requestURI=f"/apis/apps/v1/namespaces/team-a/deployments?token={JWT}",
        ),
        raw_event(12, verb="create", name="miner-5d4f8c7b9-x2x4z", user=CONTROLLER),
        raw_event(9, seconds=12.5, sourceIPs=["10.9.9.9"]),  # its owner, at work elsewhere at the same time
        raw_event(
            13,
            verb="create",
            resource="serviceaccounts",
            subresource="token",
            name="worker",
            namespace="web",
            responseObject={"kind": "TokenRequest", "status": {"token": JWT}},
        ),
        secret_event(14, user=WORKER, userAgent="<script>alert(1)</script>"),
        secret_event(15, user=WORKER, verb="get", name="db", code=403),
        raw_event(16, user="bob@corp"),
    ]


def suspects() -> list[str]:
    return ["id-8", "id-10", "id-11", "id-9", "id-13", "id-14", "id-15"]


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    opened = make_client(events=EVENTS)
    assert opened.post("/v1/audit", content=body(campaign())).status_code == 200
    settle(opened)
    return opened


def incident_of(client: TestClient) -> str:
    [one] = client.get("/v1/incidents").json()["incidents"]
    return str(one["id"])


def exported(client: TestClient, path: Path, **said: str) -> dict[str, Any]:
    answer = client.post(f"/v1/incidents/{incident_of(client)}/evidence", json=said)
    assert answer.status_code == 200, answer.text
    path.write_bytes(answer.content)
    content: dict[str, Any] = answer.json()["content"]
    return content


def test_an_incident_is_exported_with_every_event_and_its_place(client: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    content = exported(client, path, note=f"Case 7, {JWT}", by="kim")
    parts: dict[str, list[str]] = {}
    for event in content["events"]:
        parts.setdefault(event["place"]["part"], []).append(event["record"]["audit_id"])
    assert parts == {"suspect": suspects(), "consequence": ["id-12"]}
    roles = {event["record"]["audit_id"]: event["place"]["role"] for event in content["events"]}
    assert roles["id-8"] == "before"
    assert roles["id-11"] == "contributor"
    assert roles["id-14"] == "flagged"
    assert content["missing"] == []
    assert content["subject"]["note"] == "Case 7, [token]"
    assert content["incident"]["source"]["auditID"] == "id-10"
    assert content["models"][0]["version"] == "7"
    assert content["clock"]["zone"] == "UTC"
    checked = check(path)
    assert checked.findings == []
    assert (checked.incident, checked.events, checked.missing) == (incident_of(client), 8, 0)
    assert "who says to be 'kim'" in checked.by


def test_the_text_of_each_event_is_as_it_came_but_for_secrets(client: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    content = exported(client, path)
    texts = {event["record"]["audit_id"]: event["record"]["event"] for event in content["events"]}
    sent = {event["auditID"]: event for event in campaign()}
    assert json.loads(texts["id-14"]) == sent["id-14"]
    assert json.loads(texts["id-12"]) == sent["id-12"]
    assert "[redacted]" in texts["id-11"]
    for form in (path.read_text(), render(path.read_bytes())):
        plain = form.partition(EMBEDDED.decode())[0]
        assert JWT not in plain
        assert "hunter2" not in plain


def test_spread_and_blast_radius_are_given_with_their_confidence(client: TestClient, tmp_path: Path) -> None:
    content = exported(client, tmp_path / "evidence.json")
    [tie] = [one for one in content["spread"] if one["source"] and one["confidence"] == "certain"]
    assert (tie["source"], tie["target"], tie["auditID"]) == ("alice@corp", WORKER, "id-13")
    assert tie["what"].startswith("token-requested")
    assert tie["why"]
    [join] = [one for one in content["spread"] if not one["source"]]
    assert join["confidence"] == "certain"
    found = content["blastRadius"]
    assert found["principals"] == ["alice@corp", WORKER]
    assert found["consequences"] == 1
    assert found["counts"] == {"read": 3, "wrote": 2, "tried": 1}
    assert found["aside"] == 1
    listed = next(one for one in found["objects"] if one["object"] == "secrets in payments")
    assert (listed["did"], listed["count"], listed["flagged"]) == ("read", 2, True)
    assert listed["by"] == ["alice@corp", WORKER]
    assert {one["object"] for one in found["objects"] if one["did"] == "tried"} == {"secrets payments/db"}


def test_every_export_is_a_line_of_the_ledger_and_of_the_log_of_access(
    client: TestClient, own_home: Path, tmp_path: Path
) -> None:
    exported(client, tmp_path / "first.json", note="first", by="kim")
    content = exported(client, tmp_path / "second.json", note="second")
    [before] = content["custody"]
    assert (before["note"], before["incident"]) == ("first", incident_of(client))
    assert "who says to be 'kim'" in before["by"]
    logged = [json.loads(line) for line in (own_home / "access.jsonl").read_text().splitlines()]
    assert [line["path"] for line in logged if line["route"].endswith("{incident_id}/evidence")] == [
        f"/v1/incidents/{incident_of(client)}/evidence"
    ] * 2
    checked = check(tmp_path / "second.json")
    assert verify(own_home / "events", head=checked.head).is_sound


def test_the_page_is_readable_and_holds_the_export_that_proves_it(client: TestClient, tmp_path: Path) -> None:
    answer = client.post(f"/v1/incidents/{incident_of(client)}/evidence", params={"form": "html"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src" not in answer.headers["content-security-policy"]
    page = answer.text
    ends = [
        page.index(f">{name}</h2>")
        for name in ("Verification", "Where it began", "Blast radius", "Timeline", "Proof", "Glossary")
    ]
    assert ends == sorted(ends)
    for shown in (
        "listed Secrets in payments",
        "Merkle tree",
        "alice@corp",
        "id-12",
        "token-requested",
        "What followed",
    ):
        assert shown in page
    assert "<script" not in page
    path = tmp_path / "evidence.html"
    path.write_text(page)
    assert check(path).findings == check_page(path) == []
    path.write_text(
        page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    )  # as pages were written at first
    assert check_page(path) == []
    path.write_text(page.replace("alice@corp", "carol@corp"))
    assert check(path).findings == []
    assert check_page(path) == ["The page does not say what the export in it says: it was changed."]
    packed = page.partition(EMBEDDED.decode())[2].partition('"')[0]
    changed = gzip.decompress(base64.b64decode(packed)).replace(b"alice@corp", b"carol@corp")
    path.write_text(page.replace(packed, base64.b64encode(gzip.compress(changed)).decode()))
    assert check(path).findings
    (tmp_path / "evidence.json.gz").write_bytes(gzip.compress(changed))
    assert check(tmp_path / "evidence.json.gz").findings


def test_what_cannot_be_exported_is_said(client: TestClient) -> None:
    answer = client.post("/v1/incidents/none/evidence")
    assert (answer.status_code, "no incident" in answer.json()["detail"]) == (404, True)
    first = incident_of(client)
    far = [secret_event(900 + number, user="eve@corp", seconds=200_000 + number) for number in range(2)]
    client.post("/v1/score", content=body(far))
    second = next(one["id"] for one in client.get("/v1/incidents").json()["incidents"] if one["id"] != first)
    client.post(f"/v1/incidents/{first}/merge", json={"incident": second})
    answer = client.post(f"/v1/incidents/{second}/evidence")
    assert answer.status_code == 409
    assert f"merged into {first}" in answer.json()["detail"]


def test_an_incident_whose_alerts_were_deleted_by_age_is_said_to_be_empty(
    client: TestClient, engine: Engine
) -> None:
    incident = incident_of(client)
    with engine.store.writing() as writer:
        writer.connection.execute(sa.delete(ALERTS))
    answer = client.post(f"/v1/incidents/{incident}/evidence")
    assert answer.status_code == 404
    assert "no alert any more" in answer.json()["detail"]


def test_events_that_the_store_does_not_hold_are_named(engine: Engine, own_home: Path) -> None:
    engine.score(decoded(campaign()))  # scored before the store was on
    app = create_app(Settings(events=EVENTS), engine)
    with TestClient(app, base_url="http://127.0.0.1:8646") as client:
        client.post("/v1/score", content=body([secret_event(17, user=WORKER)]))
        answer = client.post(f"/v1/incidents/{incident_of(client)}/evidence")
        content = answer.json()["content"]
        assert [event["record"]["audit_id"] for event in content["events"]] == ["id-17"]
        assert set(suspects()) <= set(content["missing"])
        assert "are not in this file" in render(answer.content)


# -- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(own_home: Path, explainer: Explainer) -> Iterator[str]:
    """An incident in the stores of this machine; gives its ID."""
    settings = Settings()
    kept = AlertStore(settings.store.resolved_url, retention_days=3650, max_alerts=1000)
    engine = Engine(FakeDetector(), FIELDS, model_info(), kept, explainer)
    engine.score(decoded(campaign()))
    engine.flush()
    events = new_store(settings.events.resolved_path)
    events.append(body(campaign()))
    events.close()
    yield engine.incidents.page().incidents[0].id
    kept.close()


def run(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(command_line, list(words))
    assert done.exit_code == status, done.output
    return done.output


def test_the_command_exports_an_incident_and_verifies_it(stored: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = run("evidence", "--local", "--incident", stored, "--note", f"Case 7, {JWT}", "--out", str(out))
    assert "8 events" in printed
    [file] = out.glob("*.json")
    [page] = out.glob("*.html")
    [table] = out.glob("*.csv")
    assert stored in file.name
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["audit_id"] for row in rows] == [f"id-{number}" for number in (8, 10, 11, 12, 9, 13, 14, 15)]
    assert {row["part"] for row in rows} == {"suspect", "consequence"}
    assert json.loads(file.read_text())["content"]["subject"]["note"] == "Case 7, [token]"
    for path in (file, page):
        assert f"is as it was made: incident {stored}, 8 events" in run("verify", str(path))
    page.write_text(page.read_text().replace("Where it began", "Where it ended"))
    assert "it was changed" in run("verify", str(page), status=1)


def test_the_command_says_what_it_cannot_export(stored: str) -> None:
    assert "no incident 'none'" in run("evidence", "--local", "--incident", "none", status=2)
    assert "by itself" in run("evidence", "--incident", stored, "--alert", "x", status=2)


@pytest.mark.slow
def test_what_cannot_be_exported_is_reported_without_the_password_of_the_store(
    own_home: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEHABIT_STORE__URL", postgres.database().replace("tests@", "tests:hunter2@"))
    new_store(Settings().events.resolved_path).close()
    for what in ("incident", "alert"):
        printed = run("evidence", "--local", f"--{what}", "none", status=2)
        assert f"no {what} 'none' in postgresql" in printed.replace("\n", " ")
        assert "hunter2" not in printed


def test_the_command_asks_a_service(
    engine: Engine, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(Settings(token=TOKEN, events=EVENTS), engine)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    monkeypatch.setenv("KUBEHABIT_TOKEN", TOKEN)
    out = tmp_path / "out"
    with Live(app) as live:
        import httpx

        url = f"http://127.0.0.1:{live.port}"
        httpx.post(f"{url}/v1/score", content=body(campaign()), headers=headers).raise_for_status()
        [one] = httpx.get(f"{url}/v1/incidents", headers=headers).json()["incidents"]
        run("evidence", "--incident", one["id"], "--url", url, "--out", str(out))
        [file] = out.glob("*.json")
        checked = check(file, load_public_key(own_home / "ledger.key.pub"))  # made at the first start
        assert (checked.findings, checked.incident) == ([], one["id"])
        assert checked.signed
        assert (own_home / "ledger.key").stat().st_mode & 0o777 == 0o600
        assert "'KUBEHABIT_TOKEN', a caller" in check(file).by
        assert "no incident" in run("evidence", "--incident", "none", "--url", url, status=2)
        monkeypatch.setenv("KUBEHABIT_URL", url)
        run("evidence", "--principal", "bob@corp", "--out", str(out / "bob"))
        [of_bob] = (out / "bob").glob("*.json")
        assert check(of_bob).events == 6


def test_the_page_says_until_when_it_was_done_again(client: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    exported(client, path)
    assert "done again until" not in render(path.read_bytes())
    export = json.loads(path.read_bytes())
    export["content"]["incident"]["lastAgain"] = "2026-11-24T14:20:02Z"
    assert "; done again until 2026-11-24 14:20:02" in render(json.dumps(export).encode())


# -- on paper ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_prints_to_a_pdf_that_can_be_read(client: TestClient, tmp_path: Path) -> None:
    from pypdf import PdfReader

    made = client.post(f"/v1/incidents/{incident_of(client)}/evidence", json={"note": "Case 7"})
    page, pdf = tmp_path / "evidence.html", tmp_path / "evidence.pdf"
    page.write_text(render(made.content))
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-pdf-header-footer",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        [*command, f"--print-to-pdf={pdf}", page.as_uri()], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    printed = re.sub(r"\s+", " ", " ".join(sheet.extract_text() for sheet in PdfReader(pdf).pages))
    for shown in (
        f"Evidence of incident {incident_of(client)}",
        "Where it began",
        "How it spread",
        "Blast radius",
        "Chain of custody",
        "Suspicious requests",
        "What this does not show",
        "What followed automatically",
        "Case 7",
        "Merkle tree",
    ):
        assert shown in printed
    digest = made.json()["sha256"]
    assert digest in printed.replace(" ", "")
    for audit_id in (*suspects(), "id-12"):
        assert audit_id in printed
    assert '"auditID"' not in printed  # texts are in the file, not on paper
    sheets = [sheet.mediabox for sheet in PdfReader(pdf).pages]
    upright = [sheet.height > sheet.width for sheet in sheets]
    assert 2 <= upright.count(True) <= 4
    assert upright == sorted(upright, reverse=True)
    assert len(sheets) <= 25
    assert "The JSON file that this page was made of" not in printed
    assert JWT not in printed.replace(" ", "")
    assert not re.search("[\ufb00-\ufb06]", printed)  # ligatures: a checksum could not be copied
