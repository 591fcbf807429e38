"""Evidence: an export proves itself, on any machine, and says who made it."""

from __future__ import annotations

import csv
import json
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.signing_keys import load_public_key, load_signing_key, make_keys
from serving.forensics.evidence.csv_table import as_csv
from serving.forensics.evidence.export import EvidenceError, Subject, check, export
from serving.forensics.evidence.page import check_page, render
from serving.forensics.evidence.picture import picture
from serving.forensics.ledger import Ledger
from serving.forensics.queries import EventQueries
from serving.forensics.verify import verify
from tests.conftest import ROOT
from tests.serving.event_stores import body, new_store, story
from tests.serving.fakes import raw_event, secret_event

FIXTURES = ROOT / "tests" / "fixtures"
ALERT: dict[str, Any] = {
    "id": "a1",
    "sentence": "mallory@corp listed Secrets in payments: <b>never before</b>.",
    "severity": "high",
    "principal": "mallory@corp",
    "firstSeen": "2026-11-23T14:00:30.000000Z",
    "lastSeen": "2026-11-23T14:00:31.000000Z",
    "actionCount": 2,
    "techniques": [{"id": "T1552.007", "name": "Container API", "tactic": "Credential Access", "url": ""}],
    "auditIDs": ["id-30", "id-31", "gone"],
    "model": {"name": "kubehabit", "version": "7"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = new_store(tmp_path / "store")
    store.append(body(story()))
    secret = {
        "kind": "Secret",
        "metadata": {"name": "<script>alert(1)</script>"},
        "data": {"a": "aHVudGVyMg=="},
    }
    store.append(body([secret_event(40, user="mallory@corp", verb="create", name="x", requestObject=secret)]))
    store.seal()
    store.append(body([raw_event(number, user="eve@corp") for number in range(100, 700)]))
    store.close()
    return tmp_path / "store"


def make(folder: Path, subject: Subject, **more: Any) -> bytes:
    queries = EventQueries(folder)
    try:
        return export(queries, Ledger(folder), subject, by="kim@corp", **more)
    finally:
        queries.close()


def written(folder: Path, made: bytes) -> Path:
    path = folder.parent / "evidence.json"
    path.write_bytes(made)
    return path


def test_an_export_of_an_alert_holds_its_events_and_proves_itself(folder: Path) -> None:
    made = make(
        folder,
        Subject(alerts=("a1",), note="Incident 42"),
        alerts=[ALERT],
        models=[{"name": "kubehabit", "version": "7"}],
    )
    path = written(folder, made)
    content = json.loads(made)["content"]
    assert [event["record"]["audit_id"] for event in content["events"]] == ["id-30", "id-31"]
    assert [json.loads(event["record"]["event"]) for event in content["events"]] == story()[23:25]
    assert content["missing"] == ["gone"]
    assert content["by"] == "kim@corp"
    assert content["clock"]["zone"] == "UTC"
    checked = check(path)
    assert (checked.findings, checked.events, checked.by) == ([], 2, "kim@corp")
    assert verify(folder, head=checked.head).is_sound


def test_everything_a_principal_did_in_a_time_is_exported_across_segments(folder: Path) -> None:
    made = make(folder, Subject(principal="eve@corp"))
    assert check(written(folder, made)).findings == []
    assert len(json.loads(made)["content"]["events"]) == 600
    with pytest.raises(EvidenceError, match="None of these events"):
        make(folder, Subject(principal="eve@corp", until=0))
    with pytest.raises(EvidenceError, match="Say what"):
        make(folder, Subject())


def test_custody_tells_of_every_export_before(folder: Path) -> None:
    for note in ("first", "second"):
        make(folder, Subject(alerts=("a1",), note=note), alerts=[ALERT])
    third = json.loads(make(folder, Subject(alerts=("a1",), note="third"), alerts=[ALERT]))["content"]
    assert [(line["note"], line["by"]) for line in third["custody"]] == [
        ("first", "kim@corp"),
        ("second", "kim@corp"),
    ]
    assert verify(folder).is_sound


def _content(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda file: change(file["content"])


def _drop_event(content: dict[str, Any]) -> None:
    del content["events"][0]


@pytest.mark.parametrize(
    "change",
    [
        _content(lambda content: content["events"][0]["record"].update(principal="someone@else")),
        _content(lambda content: content["events"][1]["record"].update(event="{}")),
        _content(_drop_event),
        _content(lambda content: content.update(by="nobody")),
        lambda file: file.update(sha256="0" * 64),
        lambda file: file["ledger"]["digests"].__setitem__(0, "0" * 64),
        lambda file: next(iter(file["ledger"]["lines"].values())).update(hash="0" * 64),
        lambda file: file["ledger"].update(before="1" * 64),
        lambda file: file["ledger"]["lines"].popitem(),
    ],
)
def test_a_changed_export_is_reported(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = json.loads(make(folder, Subject(alerts=("a1",)), alerts=[ALERT]))
    change(file)
    assert check(written(folder, json.dumps(file, separators=(",", ":")).encode())).findings


def test_a_record_changed_with_all_checksums_of_the_file_is_reported_by_its_proof(folder: Path) -> None:
    from hashlib import sha256

    file = json.loads(make(folder, Subject(alerts=("a1",)), alerts=[ALERT]))
    record = file["content"]["events"][0]["record"]
    record["event"] = record["event"].replace("mallory@corp", "alice@corp")
    file["content"]["events"][0]["sha256"] = sha256(record["event"].encode()).hexdigest()
    content = json.dumps(file["content"], separators=(",", ":"), ensure_ascii=False)
    file["sha256"] = sha256(content.encode()).hexdigest()
    path = written(folder, json.dumps(file, separators=(",", ":"), ensure_ascii=False).encode())
    assert any("not as it was recorded" in finding for finding in check(path).findings)


def test_what_was_tampered_with_in_the_store_is_not_exported(folder: Path) -> None:
    import duckdb

    path = next(folder.glob("*/*/0.parquet"))
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS SELECT * REPLACE ('x' AS verb) FROM read_parquet('{path}')")
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    with pytest.raises(EvidenceError, match="not as they were sealed"):
        make(folder, Subject(audit_ids=("id-30",)))


def test_the_page_shows_all_and_runs_nothing(folder: Path) -> None:
    made = make(
        folder,
        Subject(alerts=("a1",), audit_ids=("id-40",), note="<img src=x>"),
        alerts=[ALERT],
        models=[{"name": "kubehabit", "version": "7", "card": "# Card\nTrained on <b>"}],
    )
    page = render(made)
    for shown in (
        "id-30",
        "id-31",
        "kim@corp",
        "# Card",
        "T1552.007",
        "Chain of custody",
        json.loads(made)["sha256"],
    ):
        assert shown in page
    assert "not in the store" in page
    assert "hunter2" not in page
    assert "aHVudGVyMg" not in page
    for raw in ("<script", "<img", "<b>"):
        assert raw not in page
    assert "default-src 'none'" in page


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_prints_to_pdf(folder: Path, tmp_path: Path) -> None:
    made = make(folder, Subject(alerts=("a1",)), alerts=[ALERT])
    page, pdf = tmp_path / "evidence.html", tmp_path / "evidence.pdf"
    page.write_text(render(made))
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        [*command, f"--print-to-pdf={pdf}", page.as_uri()], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.stat().st_size > 10_000


HOSTILE = "a\x1b[31m\x7f\u202eb\u200bc\U000e0041\x9b2J\u2066d"


def test_nothing_of_a_log_that_nobody_sees_is_in_a_page_or_a_file_but_as_an_escape(folder: Path) -> None:
    store = new_store(folder)
    event = raw_event(900, user=f"x{HOSTILE}", name=HOSTILE, userAgent=HOSTILE, requestURI=f"/{HOSTILE}")
    store.append(body([event]))
    store.close()
    alert = ALERT | {"auditIDs": ["id-900"], "sentence": HOSTILE, "principal": HOSTILE}
    models = [{"name": "kubehabit", "version": "7", "card": f"# Card\nsecond line {HOSTILE}"}]
    made = make(folder, Subject(alerts=("a1",), audit_ids=("id-900",)), alerts=[alert], models=models)
    path = written(folder, made)
    page = folder.parent / "evidence.html"
    page.write_text(render(made), encoding="utf-8")
    for text in (page.read_text(encoding="utf-8"), made.decode()):
        assert all(one == "\n" or (one.isprintable() and one != "\u200b") for one in text)
    assert "second line a\\x1b[31m" in page.read_text(encoding="utf-8")
    assert "# Card\nsecond line" in page.read_text(encoding="utf-8")
    for one in (path, page):
        assert check(one).findings == []
    assert check_page(page) == []
    record = json.loads(made)["content"]["events"][0]["record"]
    assert json.loads(record["event"])["userAgent"] == HOSTILE


def test_a_page_that_was_made_before_unseen_characters_were_shown_is_still_right(folder: Path) -> None:
    made = make(folder, Subject(alerts=("a1",)), alerts=[ALERT | {"sentence": HOSTILE}])
    page = folder.parent / "evidence.html"
    page.write_text(render(made, str), encoding="utf-8")
    assert check_page(page) == []
    page.write_text(render(made, str).replace("mallory", "alice"), encoding="utf-8")
    assert check_page(page) != []


def test_a_page_of_an_earlier_version_is_made_again_as_it_was(tmp_path: Path) -> None:
    page = tmp_path / "evidence.html"
    page.write_bytes(lzma.decompress((FIXTURES / "evidence-f70c9b3.html.xz").read_bytes()))
    assert check(page).findings == check_page(page) == []
    page.write_text(page.read_text().replace("Where it began", "Where it ended"))
    assert check_page(page) == ["The page does not say what the export in it says: it was changed."]


def test_events_from_before_the_ledger_was_signed_are_proved_by_the_signed_line_at_its_end(
    folder: Path,
) -> None:
    key = folder.parent / "ledger.key"
    public = load_public_key(make_keys(key))
    store = new_store(folder, signing_key=key)
    store.append(body([raw_event(900, user="mallory@corp")]))
    store.close()
    queries = EventQueries(folder)
    signing = Ledger(folder, load_signing_key(key))
    made = export(queries, signing, Subject(principal="mallory@corp"), by="kim@corp")
    queries.close()
    checked = check(written(folder, made), public)
    assert (checked.findings, checked.events) == ([], 5)
    assert verify(folder, key=public).is_sound
    file = json.loads(made)
    last = max(file["ledger"]["lines"], key=int)
    file["ledger"]["lines"][last]["signature"] = ""
    assert check(written(folder, json.dumps(file, separators=(",", ":")).encode()), public).findings
    file = json.loads(made)
    first = min(file["ledger"]["lines"], key=int)
    file["ledger"]["lines"][first]["entry"]["root"] = "0" * 64
    assert check(written(folder, json.dumps(file, separators=(",", ":")).encode()), public).findings


def test_a_spreadsheet_runs_nothing_of_the_table(folder: Path) -> None:
    store = new_store(folder)
    store.append(body([raw_event(900, user="=cmd|' /C calc'!A0", userAgent="@SUM(1)", name="-2+3,\n")]))
    store.close()
    made = make(folder, Subject(audit_ids=("id-900",)))
    [row] = csv.DictReader(as_csv(made).splitlines())
    assert row["username"] == "'=cmd|' /C calc'!A0"
    assert row["user_agent"] == "'@SUM(1)"
    assert row["name"] == "'-2+3,\\n"
    assert len(row["record_hash"]) == 64


def test_the_picture_has_a_box_for_each_node_and_one_for_those_without_a_place() -> None:
    def node(number: int, kind: str, role: str = "touched", **more: str) -> dict[str, object]:
        base = {"id": f"{kind}{number}", "kind": kind, "name": f"{kind} <{number}>", "role": role}
        return base | {"actions": number, "sensitivity": ""} | more

    nodes = [node(0, "principal", "source"), *(node(number, "object") for number in range(12))]
    nodes.append(node(50, "object", sensitivity="high"))
    edges = [
        {
            "source": "principal0",
            "target": one["id"],
            "confidence": "possible" if one["id"] == "object1" else "certain",
        }
        for one in nodes[1:]
    ]
    drawn = str(picture({"nodes": nodes, "edges": edges}, str))
    assert drawn.count("<rect") == 1 + 7
    assert drawn.count("<path") == 7
    assert "and 7 more" in drawn
    assert "object &lt;50&gt;" in drawn
    assert "<0>" not in drawn
    assert drawn.count('class="possible"') == 1
    assert picture({"nodes": [], "edges": []}, str) == ""
