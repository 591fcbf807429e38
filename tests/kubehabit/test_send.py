"""`kubehabit send`: every record of a log reaches the service once, in order, whatever outage comes between."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from data.events.decode import decode_originals
from kubehabit.client import send
from kubehabit.client.batches import BATCH_BYTES, BATCH_EVENTS, batches
from kubehabit.client.remote import Remote
from kubehabit.main import app
from serving.app import create_app
from serving.scoring.engine import Engine
from serving.settings import Settings
from tests.data.samples import event
from tests.serving.event_stores import body, story
from tests.serving.live import Live

MANY = [event(auditID=f"id-{i}") for i in range(3000)]  # more than one request's worth
TOKEN = "t" * 16


class Service:
    """Stands for the scoring service: takes lines, or answers with what is in `answers` first."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.answers: list[int] = []
        self.requests: list[dict[str, str]] = []
        self.retry_after: str | None = "0"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, **self.headers})
                code = outer.answers.pop(0) if outer.answers else 200
                lines = body.split(b"\n")
                if b"unreadable" in body:
                    code = 400
                repeats = len(set(lines) & set(outer.lines))
                if code == 200:
                    outer.lines += lines
                counts = {"scored": len(lines) - repeats, "repeated": repeats, "rejected": 0, "flagged": 0}
                content: dict[str, Any] = {"counts": counts, "results": []}
                if code != 200:
                    content = {"detail": f"This is answer {code}."}
                answer = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Location", "/elsewhere")
                if outer.retry_after is not None:
                    self.send_header("Retry-After", outer.retry_after)
                self.end_headers()
                self.wfile.write(answer)

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


def write(path: Path, lines: Sequence[bytes] = MANY) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: str, status: int = 0) -> Any:
    monkeypatch.setenv("KUBEHABIT_TOKEN", TOKEN)
    done = CliRunner().invoke(app, ["send", *words])
    assert done.exit_code == status, done.output
    return done


def test_every_record_is_sent_once_in_order_and_counted(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write(tmp_path / "one", MANY[:1700]), tmp_path / "two.gz"
    second.write_bytes(gzip.compress(b"\n\n".join(MANY[1700:])))
    done = run(monkeypatch, str(first), str(second), "--url", service.url)
    assert service.lines == MANY
    assert (
        "3,000 events sent: 3,000 scored (0 flagged), 0 folded into an action, 0 repeats, 0 rejected, 0 skipped."
        in done.stdout
    )
    assert {request["path"] for request in service.requests} == {"/v1/score"}
    assert {request["Authorization"] for request in service.requests} == {f"Bearer {TOKEN}"}
    again = json.loads(run(monkeypatch, str(first), "--json", "--url", service.url).stdout)
    assert (again["events"], again["scored"], again["repeated"], again["rejected"]) == (1700, 0, 1700, 0)


def test_the_parts_of_one_line_stay_in_one_batch(tmp_path: Path) -> None:
    parts = [
        b"2026-01-05T09:30:00.123456789Z stdout %b %b" % (b"F" if n % 3 == 2 else b"P", b"x" * 9)
        for n in range(3000)
    ]
    found = list(batches(write(tmp_path / "log", parts)))
    assert len(found) > 2
    assert [line for batch in found for line in batch] == parts
    assert all(batch[-1][38:39] == b"F" for batch in found)


def test_batches_are_bounded_in_bytes_and_events(tmp_path: Path) -> None:
    long = b'{"a": "' + b"x" * BATCH_BYTES + b'"}'
    found = list(batches(write(tmp_path / "log", [*MANY[:2500], long, MANY[0]])))
    assert [len(batch) for batch in found] == [*(len(batch) for batch in found[:-2]), 1, 1]
    assert max(map(len, found)) <= BATCH_EVENTS
    assert all(sum(map(len, batch)) <= BATCH_BYTES for batch in found if len(batch) > 1)
    assert [record for batch in found for record in batch] == [*MANY[:2500], long, MANY[0]]


def test_a_document_of_many_lines_is_sent_record_by_record(tmp_path: Path) -> None:
    log = tmp_path / "list.json"
    log.write_text(json.dumps(json.loads(body(story())), indent=2))
    [batch] = batches(log)
    assert len(batch) == len(story())
    assert all(b"\n" not in record for record in batch)
    kept = [found.auditID for found, _ in decode_originals(b"\n".join(batch))]
    assert kept == [one["auditID"] for one in story()]


def test_an_outage_of_the_service_loses_nothing(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers = [503, 429, 200, 503]
    done = run(monkeypatch, str(write(tmp_path / "log")), "--url", service.url)
    assert service.lines == MANY
    assert [word for line in done.stderr.splitlines() for word in ("503", "429") if word in line] == [
        "503",
        "429",
        "503",
    ]
    assert "Trying again in 0 s" in done.stderr


def test_a_service_that_stays_busy_or_away_ends_the_command_with_counts(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(tmp_path / "log")
    service.answers = [200, *[503] * 100_000]
    sender = send.Sender(Remote(service.url), lambda _: None, patience=0.2)
    with pytest.raises(KubehabitError, match="answer 503"):
        sender.send([log])
    assert sender.sent.events == len(service.lines)
    assert 0 < sender.sent.events < len(MANY)
    away = send.Sender(Remote("http://127.0.0.1:1"), lambda _: None, patience=0.0)
    with pytest.raises(KubehabitError, match="does not answer"):
        away.send([log])


def test_without_retry_after_it_waits_longer_each_time(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    service.answers, service.retry_after = [503] * 7, None
    send.Sender(Remote(service.url), lambda _: None).send([write(tmp_path / "log", MANY[:3])])
    assert waited == [1, 2, 4, 8, 16, 30, 30]
    assert service.lines == MANY[:3]


@pytest.mark.parametrize("code", [401, 404, 302])
def test_a_refusal_is_said_and_what_was_refused_can_be_sent_later(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    log = write(tmp_path / "log", MANY[:1])
    service.answers = [code]
    refused = run(monkeypatch, str(log), "--url", service.url, status=2)
    assert str(code) in refused.stderr
    assert "KUBEHABIT_TOKEN" in refused.stderr
    assert len(service.requests) == 1  # no redirect was followed
    run(monkeypatch, str(log), "--url", service.url)
    assert service.lines == MANY[:1]


def test_a_record_that_is_refused_costs_no_other(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [b'{"unreadable": 1}', b'{"unreadable": 2}']
    log = write(tmp_path / "log", [*MANY[:700], bad[0], *MANY[700:2500], bad[1], *MANY[2500:]])
    done = run(monkeypatch, str(log), "--url", service.url, status=1)
    assert service.lines == MANY
    assert "3,002 events sent: 3,000 scored" in done.stdout
    assert "2 rejected" in done.stdout
    assert done.stderr.count("This is answer 400.") == 2


def test_a_damaged_log_is_sent_as_far_as_it_goes(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gzip.compress(b"\n".join(MANY), 0)
    log = tmp_path / "log.gz"
    log.write_bytes(whole[: len(whole) // 2])
    done = run(monkeypatch, str(log), "--url", service.url, status=1)
    assert "damaged" in done.stderr
    assert 0 < len(service.lines) < len(MANY)


def test_a_wrong_address_is_said_before_anything_is_read(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "127.0.0.1:8646", "http://"):
        done = CliRunner().invoke(app, ["send", str(tmp_path / "log"), "--url", url])
        assert done.exit_code == 2
        assert "http://127.0.0.1:8646" in done.output


@pytest.mark.slow
def test_the_service_scores_what_is_sent_and_recognises_a_repetition(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = b'{"log":"I0105 09:30:00.000000       1 trace.go:219] Trace"}'
    log = write(tmp_path / "log", [*(json.dumps(one).encode() for one in story()), b"{broken", other])
    application = create_app(Settings(token=TOKEN, events={"enabled": False}), engine)  # type: ignore[arg-type]
    with Live(application) as live:
        url = f"http://127.0.0.1:{live.port}"
        first = json.loads(run(monkeypatch, str(log), "--json", "--url", url, status=1).stdout)
        again = json.loads(run(monkeypatch, str(log), "--json", "--url", url, status=1).stdout)
        assert httpx.get(f"{url}/v1/alerts", headers={"Authorization": f"Bearer {TOKEN}"}).json()["alerts"]
    count = len(story())
    assert (first["events"], first["scored"] + first["folded"], first["rejected"]) == (count + 2, count, 1)
    assert (first["skipped"], first["reasons"]) == (1, {"line of another program's log": 1})
    assert first["problems"] != []
    assert (again["events"], again["scored"], again["repeated"], again["rejected"]) == (
        count + 2,
        0,
        count,
        1,
    )


def test_the_parts_of_a_container_s_line_go_in_one_batch(tmp_path: Path) -> None:
    whole = MANY[0]
    time = b"2026-01-05T09:30:00.123456789Z stdout "
    cut = [time + b"P " + whole[:100], time + b"P " + whole[100:200], time + b"F " + whole[200:]]
    for before in (BATCH_EVENTS - 2, BATCH_EVENTS - 1, BATCH_EVENTS):
        lines = [*MANY[:before], *cut]
        (tmp_path / "log").write_bytes(b"\n".join([*lines, whole]))
        found = list(batches(tmp_path / "log"))
        assert [line for batch in found for line in batch] == [*lines, whole]
        [place] = [number for number, batch in enumerate(found) if cut[0] in batch]
        assert set(cut) <= set(found[place])
