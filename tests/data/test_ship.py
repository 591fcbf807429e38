"""Sending a growing log to a service: every line in order, whatever restart or outage comes between."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from data.ship import Shipper
from kubehabit import app
from tests.data.samples import event

MANY = [event(auditID=f"id-{i}") for i in range(3000)]  # more than one request's worth


class Service:
    """Stands for the scoring service: takes lines, or answers with what is in `answers` first."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.answers: list[int] = []
        self.requests: list[dict[str, str]] = []
        self.stop = threading.Event()
        self.until = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append({"path": self.path, **self.headers})
                code = outer.answers.pop(0) if outer.answers else 200
                lines = body.split(b"\n")
                if b"unreadable" in body:
                    code = 400
                if code == 200:
                    outer.lines += lines
                counts = {"scored": len(lines), "folded": 0, "rejected": 0, "flagged": 0}
                answer = json.dumps({"counts": counts}).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(answer)
                if len(outer.lines) >= outer.until:
                    outer.stop.set()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


def ship(service: Service, tmp_path: Path, until: int) -> list[str]:
    said: list[str] = []
    service.until, service.stop = until, threading.Event()
    shipper = Shipper(
        tmp_path / "log", service.url, tmp_path / "position", token="t" * 16, say=said.append, seconds=0.01
    )
    shipper.run(service.stop)
    return said


def test_every_line_is_sent_once_over_restarts(service: Service, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\n".join(MANY) + b"\n" + event(auditID="half")[:40])
    assert ship(service, tmp_path, len(MANY)) == []
    assert service.lines == MANY
    with log.open("ab") as grown:
        grown.write(event(auditID="half")[40:] + b"\n\n" + event(auditID="last") + b"\n")
    ship(service, tmp_path, len(MANY) + 3)
    assert service.lines == [*MANY, event(auditID="half"), b"", event(auditID="last")]
    assert {request["path"] for request in service.requests} == {"/v1/score"}
    assert {request["Authorization"] for request in service.requests} == {"Bearer " + "t" * 16}


def test_an_outage_of_the_service_loses_nothing(service: Service, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\n".join(MANY) + b"\n")
    service.answers = [503, 429, 200, 500]
    said = ship(service, tmp_path, len(MANY))
    assert service.lines == MANY
    assert [word for word in ("503", "429", "500") for sentence in said if word in sentence] == [
        "503",
        "429",
        "500",
    ]


@pytest.mark.parametrize("code", [401, 404, 302])
def test_a_refusal_is_said_and_what_was_refused_is_sent_later(
    service: Service, tmp_path: Path, code: int
) -> None:
    (tmp_path / "log").write_bytes(MANY[0] + b"\n")
    service.answers = [code]
    with pytest.raises(KubehabitError, match=str(code)):
        ship(service, tmp_path, 1)
    assert ship(service, tmp_path, 1) == []
    assert service.lines == MANY[:1]


def test_a_line_that_is_refused_is_kept_and_costs_no_other(service: Service, tmp_path: Path) -> None:
    bad = [b'{"unreadable": 1}', b'{"unreadable": 2}']
    lines = [*MANY[:700], bad[0], *MANY[700:2500], bad[1], *MANY[2500:]]
    (tmp_path / "log").write_bytes(b"\n".join(lines) + b"\n")
    said = ship(service, tmp_path, len(MANY))
    assert service.lines == MANY
    kept = [json.loads(line) for line in (tmp_path / "position.dead.jsonl").read_text().splitlines()]
    assert [one["raw"].encode() for one in kept] == bad
    assert {one["reason"] for one in kept} == {"refused: 400 Bad Request"}
    assert [sentence for sentence in said if "position.dead.jsonl" in sentence] == said
    assert len(said) == 2


def test_a_wrong_address_is_said_before_anything_is_read(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "127.0.0.1:8646", "http://"):
        done = CliRunner().invoke(app, ["data", "follow", str(tmp_path / "log"), "--to", url])
        assert done.exit_code
        assert "http://127.0.0.1:8646" in done.output
