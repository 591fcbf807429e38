"""Exported events have what the schemas of SIEMs require, and all of them arrive however many there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from kubehabit.client import event_export
from kubehabit.main import app as command_line
from serving.forensics.records import COLUMNS
from tests.serving.event_stores import body, new_store, story, with_credential
from tests.serving.fakes import raw_event

#: Attributes that OCSF 1.4.0 requires of an API Activity and of its objects (schema.ocsf.io/1.4.0/classes/api_activity).
REQUIRED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "": {
        **dict.fromkeys(("activity_id", "category_uid", "class_uid", "severity_id", "type_uid", "time"), int),
        **dict.fromkeys(("actor", "api", "metadata", "src_endpoint"), dict),
    },
    "metadata": {"product": dict, "version": str},
    "metadata.product": {"name": str, "vendor_name": str},
    "api": {"operation": str},
    "api.request": {"uid": str},
    "api.service": {"name": str},
    "enrichments": {"name": str, "value": str, "data": dict},
    "observables": {"name": str, "type_id": int},
}
#: Of these objects one attribute at least is required.
ONE_OF = {"actor": {"user"}, "actor.user": {"name", "uid"}, "src_endpoint": {"ip", "name", "uid"}}


def objects_at(document: Any, path: str) -> list[Mapping[str, Any]]:
    for key in filter(None, path.split(".")):
        document = document[key]
    return document if isinstance(document, list) else [document]


def check_ocsf(document: Mapping[str, Any]) -> None:
    for path, attributes in REQUIRED.items():
        for found in objects_at(document, path):
            for name, kind in attributes.items():
                assert isinstance(found[name], kind), (path, name)
    for path, names in ONE_OF.items():
        assert names & objects_at(document, path)[0].keys(), path
    assert document["class_uid"] == 6003
    assert document["category_uid"] == 6
    assert document["activity_id"] in (0, 1, 2, 3, 4, 99)
    assert document["type_uid"] == 600_300 + document["activity_id"]
    assert document["status_id"] in (0, 1, 2, 99)
    assert document["time"] > 1_700_000_000_000


#: Allowed values of the Elastic Common Schema 8.17 (elastic.co/guide/en/ecs/8.17/ecs-allowed-values-event-type.html).
TYPES = {"access", "allowed", "change", "creation", "deletion", "denied", "info"}


def check_ecs(document: Mapping[str, Any]) -> None:
    assert document["@timestamp"].endswith("Z")
    assert document["ecs"]["version"].startswith("8.")
    event = document["event"]
    assert (event["kind"], event["category"]) == ("event", ["api"])
    assert event["type"]
    assert set(event["type"]) <= TYPES
    assert event["outcome"] in ("success", "failure", "unknown")
    assert document["orchestrator"]["type"] == "kubernetes"
    assert document["user"]["name"]


def events() -> list[dict[str, Any]]:
    return [
        *story(),
        raw_event(40, user="alice@corp", verb="create", subresource="exec", requestURI="/x?command=--token%3Dhunter2abc"),
        raw_event(41, user="", resource="", code=401, objectRef=None, requestURI="/version?timeout=32s", sourceIPs=[]),
        with_credential(raw_event(42, user="system:serviceaccount:web:ci", verb="patch"), "JTI=1"),
        raw_event(43, user="alice@corp", verb="delete", impersonatedUser={"username": "admin"}),
        raw_event(44, user="alice@corp", stage="RequestReceived", responseStatus=None),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    store = new_store(path)
    store.append(body(events()), alerts={"id-31": "7d0c6a1f52b8e934"})
    store.close()
    return path


def ask(folder: Path, *words: str) -> Any:
    return CliRunner().invoke(command_line, ["events", *words, "--store", str(folder)])


def documents(folder: Path, *words: str) -> dict[str, dict[str, Any]]:
    answer = ask(folder, *words)
    assert answer.exit_code == 0, answer.output
    return {json.loads(line)["message"]: json.loads(line) for line in answer.stdout.splitlines()}


def test_every_event_is_a_valid_api_activity(folder: Path) -> None:
    answer = ask(folder, "--format", "ocsf")
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(lines) == len(events())
    for line in lines:
        check_ocsf(line)
    by_id = {line["api"]["request"]["uid"]: line for line in lines}
    denied, execution, anonymous = by_id["id-31"], by_id["id-40"], by_id["id-41"]
    assert denied["enrichments"][0]["data"] == {
        "principal": "mallory@corp",
        "kind": "human",
        "alert": "7d0c6a1f52b8e934",
    }
    assert (denied["status_id"], denied["status_code"], denied["is_alert"]) == (2, "403", True)
    assert denied["metadata"]["correlation_uid"] == "7d0c6a1f52b8e934"
    assert denied["actor"]["user"]["groups"] == [{"name": "team-a"}, {"name": "system:authenticated"}]
    assert denied["resources"] == [{"type": "secrets", "name": "db", "namespace": "payments"}]
    assert execution["activity_id"] == 99
    assert "hunter2" not in answer.stdout
    assert anonymous["src_endpoint"] == {"name": "unknown"}
    assert by_id["id-42"]["enrichments"][0]["data"]["kind"] == "serviceaccount"
    assert by_id["id-44"]["status_id"] == 0
    assert not any("raw_data" in line for line in lines)


def test_every_event_is_valid_in_the_elastic_common_schema(folder: Path) -> None:
    answer = ask(folder, "--format", "ecs", "--original")
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(lines) == len(events())
    for line in lines:
        check_ecs(line)
        assert json.loads(line["event"]["original"])["auditID"] == line["event"]["id"]
    by_id = {line["event"]["id"]: line for line in lines}
    denied = by_id["id-31"]
    assert denied["kubehabit"]["alert"] == {"id": "7d0c6a1f52b8e934"}
    assert (denied["kubehabit"]["principal"], denied["kubehabit"]["kind"]) == ("mallory@corp", "human")
    assert denied["event"]["type"] == ["access", "denied"]
    assert denied["orchestrator"]["resource"] == {"type": "secrets", "name": "db"}
    assert denied["source"] == {"ip": "203.0.113.7", "address": "203.0.113.7"}
    assert by_id["id-43"]["user"]["effective"] == {"name": "admin"}
    assert by_id["id-43"]["event"]["type"] == ["deletion", "allowed"]
    assert by_id["id-41"]["url"] == {
        "original": "/version?timeout=32s",
        "path": "/version",
        "query": "timeout=32s",
    }


def test_a_parquet_file_holds_all_columns_and_the_kind(folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "events.parquet"
    answer = ask(folder, "--format", "parquet", "--to", str(to))
    assert answer.exit_code == 0, answer.output
    assert f"{len(events())} events -> {to}" in answer.stderr
    exported = duckdb.sql(f"SELECT * FROM read_parquet('{to}')")
    assert exported.columns == [*COLUMNS, "kind"]
    assert duckdb.sql("SELECT DISTINCT event FROM exported").fetchall() == [("",)]
    kinds = dict(duckdb.sql("SELECT principal, any_value(kind) FROM exported GROUP BY 1").fetchall())
    assert kinds["system:anonymous"] == "anonymous"
    assert kinds["mallory@corp"] == "human"
    assert duckdb.sql("SELECT alert FROM exported WHERE audit_id = 'id-31'").fetchall() == [
        ("7d0c6a1f52b8e934",)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["events.parquet"]
    again = ask(folder, "--format", "parquet", "--to", str(to))
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_pages_are_read_to_the_end_and_a_limit_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(event_export, "PAGE_EVENTS", 5)
    whole = ask(folder, "--format", "ocsf").stdout.splitlines()
    assert len(whole) == len(events())
    first = ask(folder, "--format", "ocsf", "--limit", "12")
    assert first.stdout.splitlines() == whole[:12]
    cursor = first.stderr.rpartition("--cursor ")[2].split()[0]
    rest = ask(folder, "--format", "ocsf", "--cursor", cursor.rstrip(","), "--to", str(tmp_path / "rest"))
    assert (tmp_path / "rest").read_text().splitlines() == whole[12:]
    assert f"{len(whole) - 12} events" in rest.stderr
    assert len(ask(folder, "--json", "--limit", "7").stdout.splitlines()) == 7
    assert len(ask(folder, "--format", "json").stdout.splitlines()) == len(events())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--format", "parquet"), "--to"),
        (("--to", "x"), "--format"),
        (("--format", "csv"), "'csv' is not one of"),
    ],
)
def test_what_does_not_fit_together_is_said(folder: Path, words: tuple[str, ...], sentence: str) -> None:
    answer = ask(folder, *words)
    assert answer.exit_code == 2
    assert sentence in answer.stderr
