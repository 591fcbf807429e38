"""Text that a client chose reaches no receiver, log or answer as something a terminal obeys or a reader does not see."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from data.visible_text import visible
from serving.schemas import Alert
from serving.settings import LogSettings
from serving.sinks import AnySinkSettings
from serving.sinks.base import Update
from serving.telemetry.logging import configure
from tests.serving.fakes import START
from tests.serving.receivers import HttpReceiver, StreamReceiver

HOSTILE = (
    "ok\x1b[2J\x1b]0;owned\x07\r\nforged\u202e\u2066\u200b\ufeff\U000e0041\ufe0f\u2028\x9b\ud800\u3164end"
)


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from texts_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts_in(one)


def check(text: str) -> None:
    """A line or a JSON value that was written has nothing hostile left. Line breaks of our own join lists of texts."""
    for line in text.replace("@\u200b", "@").split("\n"):
        assert visible(line) == line
        assert not line.startswith("forged")


def hostile_alert() -> Alert:
    action = {
        "auditID": HOSTILE,
        "time": START,
        "did": HOSTILE,
        "verb": HOSTILE,
        "sourceIPs": [HOSTILE],
        "objectRef": {"resource": HOSTILE, "namespace": HOSTILE, "name": HOSTILE, "apiGroup": HOSTILE},
        "userAgent": HOSTILE,
        "impersonatedUser": {"username": HOSTILE},
        "requestPath": HOSTILE,
        "severity": "high",
        "sensitivity": 1,
        "evidence": 5.0,
        "surprise": 1.0,
        "sensitivityReason": HOSTILE,
        "fields": [{"field": "name", "value": HOSTILE, "nll": 1.0}],
    }
    return Alert.model_validate(
        {
            "id": "7d0c6a1f52b8e934",
            "principal": "system:serviceaccount:" + HOSTILE,
            "kind": "human",
            "peerGroup": HOSTILE,
            "firstSeen": START,
            "lastSeen": START + timedelta(seconds=1),
            "severity": "high",
            "evidence": 5.0,
            "sentence": HOSTILE,
            "actions": [action],
            "actionCount": 1,
            "did": [{"did": HOSTILE, "count": 1}],
            "auditIDs": [HOSTILE],
            "expected": [HOSTILE],
            "techniques": [{"id": "T1", "name": HOSTILE, "tactic": HOSTILE, "url": "https://x"}],
            "checks": [{"kind": "look", "text": HOSTILE, "command": HOSTILE}],
            "terms": {HOSTILE: HOSTILE},
            "severityReasons": [HOSTILE],
            "model": {"name": HOSTILE, "version": HOSTILE},
        }
    )


def send(**settings: Any) -> None:
    sink = TypeAdapter(AnySinkSettings).validate_python({"name": "out", **settings}).open()
    try:
        sink.send(Update(hostile_alert(), None, START))
    finally:
        sink.close()


@pytest.mark.parametrize("kind", ["webhook", "alertmanager", "slack", "ocsf", "kubernetes"])
def test_what_a_sink_posts_is_visible(kind: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    more: dict[str, Any] = {"url": ""}
    if kind == "kubernetes":
        more = {"server": "", "namespace": "soc", "token": {"file": str(tmp_path / "token")}, "tls": {}}
    with HttpReceiver() as receiver:
        send(type=kind, **(more | {next(iter(more)): receiver.url}))
        (got,) = receiver.arrived.wait(1)
    for text in texts_in(got.json):
        check(text)
    assert "\\x1b" in str(got.json)


@pytest.mark.parametrize("kind", ["file", "ocsf", "stdout"])
def test_what_a_sink_writes_is_visible_and_one_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(type=kind, **({} if kind == "stdout" else {"path": str(tmp_path / "out")}))
    written = capsys.readouterr().out if kind == "stdout" else (tmp_path / "out").read_text()
    assert written.count("\n") == 1
    check(written)
    for text in texts_in(json.loads(written)):
        check(text)


def test_what_syslog_carries_is_visible_and_one_message() -> None:
    with StreamReceiver() as stream:
        send(type="syslog", host="127.0.0.1", port=stream.port, transport="tcp")
        (got,) = stream.arrived.wait(1)
    text = got.partition(b" ")[2].decode("utf-8").replace("\ufeff", "", 1)
    assert visible(text) == text
    assert "externalId=7d0c6a1f52b8e934-1" in text


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_log_line_cannot_be_forged(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", stream)
    try:
        configure(LogSettings(format=form))
        log = logging.getLogger("kubehabit.test")
        log.warning("seen %s", HOSTILE, extra={"reason": HOSTILE})
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception(HOSTILE)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = stream.getvalue().splitlines()
    for line in lines:
        check(line)
    if form == "json":
        assert [json.loads(line)["level"] for line in lines] == ["warning", "error"]
    else:
        assert [line for line in lines if not line.startswith("    ")] == [lines[0], lines[1]]


def test_an_answer_that_names_what_was_sent_shows_it(client: TestClient) -> None:
    sent = HOSTILE.replace("\ud800", "")
    for answer in (
        client.get("/v1/events", params={"since": sent[:40]}),
        client.get("/v1/events", params={"code": sent[:40]}),
        client.get("/v1/alerts", params={"cursor": sent}),
        client.get("/v1/alerts", params={"severity": sent}),
        client.get("/v1/alerts", params={sent: "1"}),
        client.get("/v1/principals/" + quote(sent, safe="")),
        client.get("/v1/incidents/%1b%5b2J%0d%0aforged"),
        client.post("/v1/alerts/x/feedback", json={"verdict": sent}),
        client.post("/v1/alerts/x/feedback", json={sent: "normal"}),
        client.post("/v1/evidence", json={"alerts": [sent]}),
        client.post("/v1/score", content=b"[]", headers={"Content-Encoding": b"\x9b[2J"}),
        client.get("/v1/model", headers={"Host": b"\x9b[2J"}),
    ):
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == "application/problem+json"
        check(answer.json()["detail"])
