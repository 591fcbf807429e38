"""What receivers of alerts can rely on, each over a real connection on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydantic import TypeAdapter
from tenacity import wait_fixed

from data.actions.fields import FIELDS
from data.errors import KubehabitError
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.delivery import outbox as outbox_module
from serving.delivery.dispatcher import Dispatcher
from serving.delivery.outbox import Outbox
from serving.rollout.loader import outbox_of
from serving.schemas import SEVERITIES
from serving.scoring.engine import Engine
from serving.settings import Settings, load_settings
from serving.sinks import AnySinkSettings
from serving.sinks.base import SinkSettings, UnavailableError, Update
from serving.storage.database import AlertStore
from serving.storage.tables import ALERTS, DELIVERIES
from tests.serving.conftest import SHIPPED, model_info
from tests.serving.fakes import FakeDetector, decoded, secret_event
from tests.serving.receivers import HttpReceiver, StreamReceiver, until

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJl"


def settings_of(**values: Any) -> SinkSettings:
    return TypeAdapter(AnySinkSettings).validate_python({"name": "out", **values})


def an_alert(explainer: Explainer, *events: dict[str, Any]) -> Update:
    """An alert as the engine makes it."""
    store = AlertStore("sqlite://", retention_days=90, max_alerts=10)
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
    batch = engine.score(decoded(events or [secret_event(0)]))
    alert = store.get(batch.raised[0].id)
    store.close()
    assert alert is not None
    return Update(alert, None, NOW)


def send(update: Update, **values: Any) -> None:
    sink = settings_of(**values).open()
    try:
        sink.send(update)
    finally:
        sink.close()


# -- what arrives -------------------------------------------------------------------------------------------------


def test_a_webhook_gets_a_cloud_event(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "s3cret-of-the-hook")
    update = an_alert(explainer)
    with HttpReceiver() as receiver:
        send(update, type="webhook", url=receiver.url + "/in", token={"env": "HOOK_TOKEN"})
        (got,) = receiver.arrived.wait(1)
    assert got.path == "/in"
    assert got.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert got.headers["idempotency-key"] == update.key
    assert got.headers["authorization"] == "Bearer s3cret-of-the-hook"
    assert b"s3cret" not in got.body
    event = got.json
    assert (event["specversion"], event["type"]) == ("1.0", "kubehabit.alert.raised")
    assert event["id"] == update.key
    assert event["data"] == json.loads(update.alert.model_dump_json(by_alias=True))


def test_alertmanager_gets_an_alert_that_ends_unless_repeated(explainer: Explainer) -> None:
    update = an_alert(explainer)
    with HttpReceiver() as receiver:
        send(update, type="alertmanager", url=receiver.url, labels={"cluster": "prod"})
        (got,) = receiver.arrived.wait(1)
    assert got.path == "/api/v2/alerts"
    (posted,) = got.json
    assert posted["labels"] == {
        "cluster": "prod",
        "alertname": "KubehabitUnusualBehaviour",
        "alert_id": update.alert.id,
        "principal": "alice@corp",
        "kind": "human",
        "severity": "high",
    }
    assert posted["annotations"]["summary"] == update.alert.sentence
    assert (posted["startsAt"], posted["endsAt"]) == ("2026-11-23T14:00:00Z", "2026-11-23T17:00:00Z")


def test_alertmanager_gets_the_end_of_the_lower_severity_when_it_rises(explainer: Explainer) -> None:
    update = an_alert(explainer)
    with HttpReceiver() as receiver:
        send(Update(update.alert, "medium", NOW), type="alertmanager", url=receiver.url)
        (got,) = receiver.arrived.wait(1)
    assert [(one["labels"]["severity"], one["endsAt"]) for one in got.json] == [
        ("high", "2026-11-23T17:00:00Z"),
        ("medium", "2026-11-23T15:00:00Z"),
    ]


def test_slack_gets_a_message_that_calls_nobody(explainer: Explainer, tmp_path: Path) -> None:
    update = an_alert(explainer, secret_event(0, user="<!channel> @here & co"))
    with HttpReceiver() as receiver:
        address = tmp_path / "address"
        address.write_text(receiver.url + "/services/T0/B0/x\n")
        send(update, type="slack", url={"file": str(address)})
        (got,) = receiver.arrived.wait(1)
    assert got.path == "/services/T0/B0/x"
    text = got.body.decode()
    assert "<!" not in text
    assert "@here" not in text
    assert "&lt;!channel&gt;" in got.json["text"]
    assert got.json["attachments"][0]["footer"].endswith(update.key)


def test_ocsf_findings_are_of_class_2004_and_name_their_update(explainer: Explainer, tmp_path: Path) -> None:
    update = an_alert(explainer)
    with HttpReceiver() as receiver:
        send(update, type="ocsf", url=receiver.url)
        (got,) = receiver.arrived.wait(1)
    send(update, type="ocsf", path=str(tmp_path / "findings.jsonl"))
    assert json.loads((tmp_path / "findings.jsonl").read_text()) == got.json
    finding = got.json
    assert (finding["class_uid"], finding["category_uid"], finding["type_uid"]) == (2004, 2, 200401)
    assert finding["severity_id"] == 4
    assert (finding["metadata"]["uid"], finding["finding_info"]["uid"]) == (update.key, update.alert.id)
    assert finding["evidences"][0]["api"]["operation"] == "list"
    assert finding["evidences"][0]["actor"]["user"]["name"] == "alice@corp"


def test_kubernetes_gets_an_event_and_a_repeat_counts_as_delivered(
    explainer: Explainer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("account-token-1")
    account = "system:serviceaccount:web:ci-deployer"
    update = an_alert(explainer, secret_event(0, user=account))
    options = {
        "type": "kubernetes",
        "namespace": "security",
        "token": {"file": str(token)},
        "tls": {},
    }
    with HttpReceiver([201, 409]) as receiver:
        send(update, **options, server=receiver.url)
        token.write_text("account-token-2")
        send(update, **options, server=receiver.url)
        first, second = receiver.attempts.wait(2)
    assert first.path == "/api/v1/namespaces/security/events"
    assert [one.headers["authorization"] for one in (first, second)] == [
        "Bearer account-token-1",
        "Bearer account-token-2",
    ]
    event = first.json
    assert event["metadata"]["name"] == f"kubehabit-{update.key}"
    assert event["involvedObject"]["namespace"] == event["metadata"]["namespace"] == "security"
    assert event["related"] == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "namespace": "web",
        "name": "ci-deployer",
    }
    assert len(event["message"].encode()) <= 1024


def _is_cef(text: bytes, update: Update) -> None:
    head, _, payload = text.partition(b"\xef\xbb\xbf")
    assert head.startswith(b"<107>1 2026-11-23T14:00:00Z ")  # facility 13, level 3
    assert payload.startswith(b"CEF:0|kubehabit|kubehabit|")
    assert b"|Unusual behaviour|8|externalId=" + update.key.encode() in payload
    assert b"suser=a\\=b\\\\c|d " in payload


def test_syslog_carries_cef_over_udp_and_tcp(explainer: Explainer) -> None:
    update = an_alert(explainer, secret_event(0, user="a=b\\c|d"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(60)
        port = receiver.getsockname()[1]
        send(update, type="syslog", host="127.0.0.1", port=port, transport="udp")
        _is_cef(receiver.recv(65536), update)
    with StreamReceiver() as stream:
        send(update, type="syslog", host="127.0.0.1", port=stream.port, transport="tcp")
        (framed,) = stream.arrived.wait(1)
    length, _, text = framed.partition(b" ")
    assert int(length) == len(text)
    _is_cef(text, update)


def test_syslog_over_tls_trusts_only_the_named_authority(explainer: Explainer, tmp_path: Path) -> None:
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip(
            "openssl, which makes the certificate of this test, is not installed: apt-get install openssl"
        )
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")),
        ],
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    update = an_alert(explainer, secret_event(0, user="a=b\\c|d"))
    with StreamReceiver(context=context) as stream:
        where: dict[str, Any] = {"type": "syslog", "host": "127.0.0.1", "port": stream.port}
        with pytest.raises(UnavailableError, match="SSLCertVerificationError"):
            send(update, **where)
        send(update, **where, tls={"ca": str(tmp_path / "cert.pem")})
        (framed,) = stream.arrived.wait(1)
    _is_cef(framed.partition(b" ")[2], update)


def test_stdout_and_file_get_json_lines(
    explainer: Explainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    update = an_alert(explainer)
    send(update, type="stdout")
    file = tmp_path / "deep" / "alerts.jsonl"
    send(update, type="file", path=str(file))
    assert file.read_text() == capsys.readouterr().out
    line = json.loads(file.read_text())
    assert (line["key"], line["change"], line["alert"]["id"]) == (update.key, "raised", update.alert.id)
    assert file.stat().st_mode & 0o077 == 0


def test_a_full_file_is_set_aside_and_the_oldest_goes(explainer: Explainer, tmp_path: Path) -> None:
    update = an_alert(explainer)
    file = tmp_path / "alerts.jsonl"
    for _ in range(4):
        send(update, type="file", path=str(file), max_mb=0.000001, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "alerts.jsonl",
        "alerts.jsonl.1",
        "alerts.jsonl.2",
    ]


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(explainer: Explainer, tmp_path: Path) -> None:
    file = tmp_path / "alerts.jsonl"
    file.write_text('{"key": "cut o')
    send(an_alert(explainer), type="file", path=str(file))
    assert json.loads(file.read_text().splitlines()[1])["change"] == "raised"


def test_no_payload_holds_a_secret(explainer: Explainer, tmp_path: Path) -> None:
    event = secret_event(
        0,
        user=f"eve Bearer {JWT}",
        userAgent=f"curl token={JWT}",
        requestObject={"data": {"password": "aHVudGVyMg=="}, "stringData": {"password": "hunter2"}},
        responseObject={"data": {"password": "aHVudGVyMg=="}},
        requestURI=f"/api/v1/namespaces/payments/secrets?access_token={JWT}",
    )
    update = an_alert(explainer, event)
    token = tmp_path / "token"
    token.write_text("token-of-the-sink")
    sent: list[bytes] = []
    with HttpReceiver() as receiver, StreamReceiver() as stream:
        for kind, more in (
            ("webhook", {"url": receiver.url, "token": {"file": str(token)}}),
            ("alertmanager", {"url": receiver.url, "token": {"file": str(token)}}),
            ("slack", {"url": receiver.url}),
            ("ocsf", {"url": receiver.url, "token": {"file": str(token)}}),
            (
                "kubernetes",
                {"server": receiver.url, "namespace": "s", "token": {"file": str(token)}, "tls": {}},
            ),
        ):
            send(update, type=kind, **more)
        send(update, type="syslog", host="127.0.0.1", port=stream.port, transport="tcp")
        send(update, type="file", path=str(tmp_path / "alerts.jsonl"))
        sent += [got.body for got in receiver.arrived.wait(5)]
        sent += stream.arrived.wait(1)
        sent.append((tmp_path / "alerts.jsonl").read_bytes())
    assert len(sent) == 7
    for payload in sent:
        for secret in (b"hunter2", b"aHVudGVyMg", b"eyJhbGci", b"token-of-the-sink"):
            assert secret not in payload


# -- delivery -----------------------------------------------------------------------------------------------------


class Service:
    """An engine on a store on disk, with its dispatcher; `counts` are what its metrics would be."""

    def __init__(self, url: str, explainer: Explainer, *sinks: SinkSettings) -> None:
        self.store = AlertStore(url, retention_days=90, max_alerts=1000)
        outbox = Outbox(self.store, sinks)
        self.engine = Engine(FakeDetector(), FIELDS, model_info(), self.store, explainer, outbox=outbox)
        self.counts: list[tuple[str, str]] = []
        self.dropped: list[tuple[str, str, int]] = []
        self.dispatcher = Dispatcher(
            outbox,
            sinks,
            lambda *what: self.counts.append(what),
            lambda *what: self.dropped.append(what),
            wait=wait_fixed(0.01),
        )

    def score(self, *events: dict[str, Any]) -> list[str]:
        batch = self.engine.score(decoded(events))
        self.dispatcher.wake()
        return [alert.id for alert in (*batch.raised, *batch.grown)]

    def depth(self, name: str = "out") -> int:
        return self.dispatcher.outbox.depths()[name][0]

    def waiting(self) -> list[str]:
        """Principals of the alerts that wait, in the order in which they were raised."""
        wait = sa.select(ALERTS.c.principal).join(DELIVERIES, DELIVERIES.c.alert == ALERTS.c.number)
        with self.store.reading() as connection:
            query = wait.where(DELIVERIES.c.due.is_not(None)).order_by(ALERTS.c.number)
            return list(connection.execute(query).scalars())

    def close(self) -> None:
        self.dispatcher.close()
        self.engine.close()


@pytest.fixture
def make_service(store_url: str, explainer: Explainer) -> Iterator[Callable[..., Service]]:
    opened: list[Service] = []

    def make(*sinks: SinkSettings, start: bool = True) -> Service:
        service = Service(store_url, explainer, *sinks)
        opened.append(service)
        if start:
            service.dispatcher.start()
        return service

    yield make
    for service in opened:
        service.close()


def ids(receiver: HttpReceiver) -> list[str]:
    return [got.json["id"] for got in receiver.arrived.items]


def test_what_a_receiver_missed_while_it_was_down_arrives_once(make_service: Callable[..., Service]) -> None:
    with HttpReceiver() as receiver:
        pass  # its port is free again, and nobody listens there
    service = make_service(settings_of(type="webhook", url=receiver.url))
    raised = service.score(*(secret_event(n, user=f"user-{n}") for n in range(5)))
    until(lambda: service.counts.count(("out", "failed")) >= 3)
    assert service.depth() == 5
    with HttpReceiver(port=receiver.port) as back:
        until(lambda: service.depth() == 0)
        assert ids(back) == [f"{alert}-1" for alert in raised]
    assert service.counts.count(("out", "sent")) == 5


def test_a_receiver_that_answers_5xx_or_401_gets_it_later_and_one_that_says_400_never(
    make_service: Callable[..., Service],
) -> None:
    with HttpReceiver([503, 401, 429, 400, 200]) as receiver:
        service = make_service(settings_of(type="webhook", url=receiver.url))
        first, second = service.score(secret_event(0, user="a"), secret_event(1, user="b"))
        until(lambda: ("out", "sent") in service.counts)
        assert [got.json["subject"] for got in receiver.attempts.items] == [first] * 4 + [second]
    outcomes = [what for _, what in service.counts]
    assert outcomes == ["failed", "failed", "failed", "refused", "sent"]


def test_what_was_written_before_a_kill_is_sent_after_the_next_start(
    make_service: Callable[..., Service], store_url: str
) -> None:
    with HttpReceiver() as receiver:
        code = (
            "import os, signal, sys\n"
            "from serving.alerts.explain.explainer import Explainer\n"
            "from tests.serving.sinks.test_sinks import SHIPPED, Service, secret_event, settings_of\n"
            "service = Service(sys.argv[1], Explainer.load(SHIPPED / 'explain.yaml'),"
            " settings_of(type='webhook', url=sys.argv[2]))\n"
            "print(*service.score(secret_event(0)), flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        command = [sys.executable, "-c", code, store_url, receiver.url]
        killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert receiver.arrived.items == []
        service = make_service(settings_of(type="webhook", url=receiver.url))
        until(lambda: service.depth() == 0)
        assert ids(receiver) == [f"{killed.stdout.strip()}-1"]


def test_what_may_have_arrived_is_sent_again_under_the_same_key(make_service: Callable[..., Service]) -> None:
    hold = threading.Event()
    with HttpReceiver(hold=hold) as receiver:
        sink = settings_of(type="webhook", url=receiver.url, timeout_seconds=0.2)
        service = make_service(sink)
        (alert,) = service.score(secret_event(0))
        first, second = receiver.attempts.wait(2)[:2]
        hold.set()
        until(lambda: service.depth() == 0)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == f"{alert}-1"


def test_a_stuck_sink_blocks_nobody(make_service: Callable[..., Service]) -> None:
    with HttpReceiver(hold=threading.Event()) as stuck, HttpReceiver() as well:
        service = make_service(
            settings_of(name="stuck", type="webhook", url=stuck.url, timeout_seconds=300),
            settings_of(name="well", type="webhook", url=well.url),
        )
        service.score(secret_event(0, user="a"))
        stuck.attempts.wait(1)
        service.score(secret_event(1, user="b"))
        well.arrived.wait(2)
        assert service.depth("stuck") == 2


def test_an_alert_that_grows_is_sent_again_only_after_the_quiet_interval(
    make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [NOW]
    monkeypatch.setattr(outbox_module, "now", lambda: clock[0])
    with HttpReceiver() as receiver:
        service = make_service(settings_of(type="webhook", url=receiver.url, repeat_minutes=30))
        (alert,) = service.score(secret_event(0))
        receiver.arrived.wait(1)
        until(lambda: service.depth() == 0)
        for number in (1, 2, 3):
            service.score(secret_event(number))
        clock[0] += timedelta(minutes=29)
        assert service.depth() == 0  # it waits, but is not due
        clock[0] += timedelta(minutes=2)
        service.dispatcher.wake()
        receiver.arrived.wait(2)
        until(lambda: service.depth() == 0)
        assert ids(receiver) == [f"{alert}-1", f"{alert}-4"]
        assert receiver.arrived.items[1].json["type"] == "kubehabit.alert.grown"


class RisingDetector(FakeDetector):
    """Severity is medium for what is in "medium", else high."""

    def score(self, events: Any) -> Any:
        scores = super().score(events)
        for row, index in enumerate(scores.event.tolist()):
            if events[index].objectRef.namespace == "medium":
                scores.severity[row] = "medium"
        return scores


def test_a_rise_in_severity_is_sent_at_once(make_service: Callable[..., Service]) -> None:
    with HttpReceiver() as receiver:
        service = make_service(settings_of(type="webhook", url=receiver.url, repeat_minutes=1000))
        service.engine.detector = RisingDetector()
        service.score(secret_event(0, namespace="medium"))
        receiver.arrived.wait(1)
        until(lambda: service.depth() == 0)
        service.score(secret_event(1, namespace="medium"))
        service.score(secret_event(2))
        until(lambda: len(receiver.arrived.items) == 2)
        assert [got.json["data"]["severity"] for got in receiver.arrived.items] == ["medium", "high"]


@pytest.mark.parametrize(
    ("conditions", "passed"),
    [
        ({}, ["alice@corp", "bob@corp", "system:serviceaccount:web:ci"]),
        ({"severity": "critical"}, []),
        ({"kinds": ["serviceaccount"]}, ["system:serviceaccount:web:ci"]),
        ({"namespaces": ["vault"]}, ["bob@corp"]),
        ({"principals": "^(alice|bob)@"}, ["alice@corp", "bob@corp"]),
        ({"principals": "@corp$", "namespaces": ["payments"]}, ["alice@corp"]),
    ],
)
def test_filters_choose_what_a_sink_gets(
    conditions: dict[str, Any], passed: list[str], make_service: Callable[..., Service], tmp_path: Path
) -> None:
    sink = settings_of(type="file", path=str(tmp_path / "out.jsonl"), filter=conditions)
    service = make_service(sink, start=False)
    service.score(
        secret_event(0),
        secret_event(1, user="bob@corp", namespace="vault"),
        secret_event(2, user="system:serviceaccount:web:ci"),
    )
    got = []
    while (entry := service.dispatcher.outbox.next(sink)) is not None:
        got.append(entry.update.alert.principal)
        service.dispatcher.outbox.done(sink, entry, delivered=True)
    assert sorted(got) == passed


def test_a_queue_that_is_full_keeps_the_worst_and_counts_what_it_drops(
    make_service: Callable[..., Service],
) -> None:
    sink = settings_of(type="webhook", url="http://127.0.0.1:9", max_queued=2)
    service = make_service(sink, start=False)
    service.score(secret_event(0, user="worst"))
    with service.store.transaction() as connection:
        connection.execute(sa.update(ALERTS).values(severity=SEVERITIES.index("critical")))
    for number in range(1, 6):
        service.score(secret_event(number, user=f"user-{number}"))
    service.dispatcher.start()
    until(lambda: len(service.dropped) > 0)
    assert service.dropped == [("out", "high", 4)]
    assert service.waiting() == ["worst", "user-5"]


def test_a_queue_that_is_full_gives_up_its_oldest(make_service: Callable[..., Service]) -> None:
    sink = settings_of(type="webhook", url="http://127.0.0.1:9", max_queued=2)
    service = make_service(sink, start=False)
    for number in range(5):
        service.score(secret_event(number, user=f"user-{number}"))
    assert service.dispatcher.outbox.trim(sink) == {"high": 3}
    assert service.dispatcher.outbox.trim(sink) == {}
    assert service.depth() == 2
    entry = service.dispatcher.outbox.next(sink)
    assert entry is not None
    assert entry.update.alert.principal == "user-3"


def test_an_alert_and_its_entry_are_stored_together_or_not_at_all(
    make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = settings_of(type="webhook", url="http://127.0.0.1:9")
    service = make_service(sink, start=False)

    def fail(*_: Any) -> None:
        raise KeyError("no disk")

    monkeypatch.setattr(service.dispatcher.outbox, "note", fail)
    service.score(secret_event(0))  # the action goes to the dead letters, in no alert
    assert service.store.page().alerts == []


def test_the_service_sends_counts_and_shows_what_waits(
    tmp_path: Path, explainer: Explainer, own_home: Path
) -> None:
    store = AlertStore(f"sqlite:///{tmp_path}/serving.db", retention_days=90, max_alerts=1000)
    with HttpReceiver() as receiver:
        settings = Settings(
            sinks=[
                {"name": "hook", "type": "webhook", "url": receiver.url},
                {"name": "down", "type": "webhook", "url": "http://127.0.0.1:9"},
            ]
        )
        outbox = outbox_of(settings, store)
        engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer, outbox=outbox)
        with TestClient(create_app(settings, engine), base_url="http://127.0.0.1") as client:
            (alert,) = client.post("/v1/score", json=[secret_event(0)]).json()["alerts"]
            (got,) = receiver.arrived.wait(1)
            assert got.json["data"] == client.get(f"/v1/alerts/{alert}").json()
            until(lambda: 'kubehabit_sink_alerts_total{outcome="sent",sink="hook"} 1.0' in metrics(client))
            until(lambda: 'kubehabit_sink_outbox{sink="hook"} 0.0' in metrics(client))
            assert 'kubehabit_sink_outbox{sink="down"} 1.0' in metrics(client)
            assert 'kubehabit_sink_oldest_seconds{sink="down"}' in metrics(client)
            assert 'kubehabit_sink_alerts_total{outcome="refused",sink="hook"} 0.0' in metrics(client)


def metrics(client: TestClient) -> str:
    return client.get("/metrics").text


# -- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sinks", "words"),
    [
        ("[{type: stdout}]", ["name"]),
        ("[{name: A b, type: stdout}]", ["name"]),
        ("[{name: a, type: stdout}, {name: a, type: stdout}]", ["more than one sink"]),
        ("[{name: a, type: pigeon}]", ["sinks.0"]),
        ("[{name: a, type: stdout, fliter: {}}]", ["fliter", "is no setting"]),
        ("[{name: a, type: stdout, filter: {severity: grave}}]", ["filter.severity"]),
        ("[{name: a, type: stdout, filter: {principals: '('}}]", ["filter.principals", "regular expression"]),
        ("[{name: a, type: webhook, url: 'ftp://x'}]", ["https://host/path"]),
        ("[{name: a, type: webhook, url: 'https://me:hunter2@x/'}]", ["without user and password"]),
        ("[{name: a, type: webhook, url: {env: NOT_THERE}}]", ["NOT_THERE is not set"]),
        ("[{name: a, type: webhook, url: 'https://x', token: hunter2}]", ["token"]),
        ("[{name: a, type: ocsf}]", ["either 'url' or 'path'"]),
        ("[{name: a, type: alertmanager, url: 'http://x', resolve_minutes: 5}]", ["repeat_minutes"]),
        ("[{name: a, type: syslog, host: x, port: 1, transport: udp, tls: {ca: f}}]", ["transport: tls"]),
    ],
)
def test_wrong_settings_of_a_sink_are_named(tmp_path: Path, sinks: str, words: list[str]) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(f"sinks: {sinks}\n")
    with pytest.raises(KubehabitError) as raised:
        load_settings(file)
    for word in words:
        assert word in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_every_example_in_the_documentation_is_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import re

    import yaml

    monkeypatch.setenv("SLACK_URL", "https://hooks.slack.example/services/T/B/x")
    text = (SHIPPED.parent / "docs" / "sinks.md").read_text()
    examples = [yaml.safe_load(found) for found in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    loaded = [Settings(sinks=example["sinks"]).sinks for example in examples]
    types = {sink.type for sinks in loaded for sink in sinks}
    assert types == {
        *("stdout", "file", "webhook", "alertmanager", "slack", "ocsf", "syslog", "kubernetes"),
        *("pagerduty", "teams", "jira", "email"),
    }


def test_an_unavailable_receiver_is_reported_without_its_address(explainer: Explainer) -> None:
    with pytest.raises(UnavailableError) as raised:
        send(an_alert(explainer), type="slack", url="http://127.0.0.1:9/services/secret-part")
    assert "secret-part" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_where_there_are_several_clusters_each_alert_says_of_which_it_is(explainer: Explainer) -> None:
    update = an_alert(explainer)
    of_cluster = Update(update.alert, None, NOW, "prod-eu")
    assert of_cluster.alert.sentence == f"[prod-eu] {update.alert.sentence}"
    assert of_cluster.document()["cluster"] == "prod-eu"
    assert "cluster" not in update.document()
