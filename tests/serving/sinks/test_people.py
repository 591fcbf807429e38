"""Sinks that reach people: PagerDuty, Teams, Jira and e-mail, and the made-up alert that tries them."""

from __future__ import annotations

import email
import email.policy
import json
import re
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError
from typer.testing import CliRunner

from kubehabit.main import app
from serving.alerts.explain.explainer import Explainer
from serving.sinks.base import DeliveryRefusedError, UnavailableError, Update
from tests.serving.fakes import secret_event
from tests.serving.receivers import HttpReceiver
from tests.serving.sinks.test_sinks import NOW, an_alert, send, settings_of

HOSTILE = "mallory [click](https://evil.example) {noformat}{color:red}\r\nBcc: all@corp.example <!channel>"


@pytest.fixture
def secret(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "secret"
    path.write_text("s3cret-of-the-sink\n")
    return {"file": str(path)}


def test_pagerduty_gets_one_alert_that_grows(explainer: Explainer, secret: dict[str, str]) -> None:
    update = an_alert(explainer)
    link = "https://kubehabit.example/"
    with HttpReceiver(statuses=[202]) as receiver:
        for sent in (None, "low"):
            again = Update(update.alert, sent, NOW)
            send(again, type="pagerduty", url=receiver.url, routing_key=secret, console=link)
        first, second = (got.json for got in receiver.arrived.wait(2))
    assert first["routing_key"] == "s3cret-of-the-sink"
    assert first["event_action"] == "trigger"
    assert first["dedup_key"] == second["dedup_key"] == f"kubehabit-{update.alert.id}"
    assert first["client_url"] == f"https://kubehabit.example/console/alerts/{update.alert.id}"
    assert first["payload"]["severity"] == "error"
    assert first["payload"]["summary"] == update.alert.sentence
    assert first["payload"]["custom_details"]["audit IDs"] == update.alert.audit_ids


def test_pagerduty_is_never_asked_again_about_what_it_calls_invalid(
    explainer: Explainer, secret: dict[str, str]
) -> None:
    update = an_alert(explainer)
    for status, error in ((400, DeliveryRefusedError), (429, UnavailableError), (500, UnavailableError)):
        with HttpReceiver(statuses=[status]) as receiver, pytest.raises(error):
            send(update, type="pagerduty", url=receiver.url, routing_key=secret)


def test_teams_gets_a_card_whose_texts_are_no_markdown(explainer: Explainer) -> None:
    update = an_alert(explainer, secret_event(0, user=HOSTILE))
    with HttpReceiver(statuses=[202]) as receiver:
        send(update, type="teams", url=receiver.url, console="https://kubehabit.example")
        (got,) = receiver.arrived.wait(1)
    (attachment,) = got.json["attachments"]
    card = attachment["content"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    # What a client chose is in runs of text, which are shown as they are; a TextBlock would make a link of it.
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    assert "[click](https://evil.example)" in json.dumps(card["body"])
    assert card["actions"][0]["url"].startswith("https://kubehabit.example/console/alerts/")
    assert len(got.body) < 28_000


class _Jira:
    """The parts of Jira's REST API that the sink uses: it stores issues and finds them by label."""

    def __init__(self, cloud: bool) -> None:
        self.issues: list[dict[str, Any]] = []
        self.authorizations: set[str] = set()
        jira = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                jira.authorizations.add(self.headers["Authorization"])
                path = self.path.removeprefix("/jira/rest/api/2/")
                status, answer = jira.answer(path, body, cloud)
                raw = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/jira"

    def answer(self, path: str, body: Any, cloud: bool) -> tuple[int, Any]:
        if path == ("search/jql" if cloud else "search"):
            label = re.findall(r'labels = "([^"]+)"', body["jql"])[0]
            assert 'project = "SEC"' in body["jql"]
            found = [one for one in self.issues if label in one["fields"]["labels"]]
            return 200, {"issues": found}
        if path == "issue":
            key = f"SEC-{len(self.issues) + 1}"
            self.issues.append({"key": key, "fields": body["fields"] | {"comment": {"comments": []}}})
            return 201, {"key": key}
        if match := re.fullmatch(r"issue/(SEC-\d+)/comment", path):
            issue = next(one for one in self.issues if one["key"] == match[1])
            issue["fields"]["comment"]["comments"].append(body)
            return 201, {}
        return 404, {"errorMessages": ["no such path"]}


@pytest.mark.parametrize("cloud", [True, False])
def test_jira_has_one_issue_an_alert_however_often_it_is_sent(
    explainer: Explainer, secret: dict[str, str], cloud: bool
) -> None:
    jira = _Jira(cloud)
    update = an_alert(explainer, secret_event(0, user=HOSTILE))
    values = {"type": "jira", "url": jira.url, "project": "SEC", "token": secret, "labels": ["k8s"]}
    if cloud:
        values["user"] = "bot@corp.example"
    grown = Update(update.alert, "low", NOW)
    for one in (update, update, grown, grown):
        send(one, **values)
    (issue,) = jira.issues
    fields = issue["fields"]
    assert fields["labels"] == ["kubehabit", f"kubehabit-{update.alert.id}", "k8s"]
    assert fields["project"] == {"key": "SEC"}
    assert len(fields["comment"]["comments"]) == 1
    # Nothing that a client chose ends the block in which text is shown as it is.
    assert fields["description"].count("{noformat}") == 2
    assert len(fields["summary"]) <= 255
    (authorization,) = jira.authorizations
    assert authorization.startswith("Basic " if cloud else "Bearer s3cret-of-the-sink")
    jira.server.shutdown()


class _Smtp(socketserver.StreamRequestHandler):
    """Enough of SMTP (RFC 5321, with STARTTLS and AUTH PLAIN) to take a message."""

    def handle(self) -> None:
        server: Any = self.server
        encrypted = False
        self._say("220 receiver ESMTP")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                self._say(
                    "250-receiver",
                    *(() if encrypted or not server.tls else ("250-STARTTLS",)),
                    "250 AUTH PLAIN",
                )
            elif line[:8].upper() == b"STARTTLS":
                self._say("220 go on")
                self.request = server.tls.wrap_socket(self.request, server_side=True)
                self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb")
                encrypted = True
            elif verb == b"AUTH":
                server.logins.append((encrypted, line.split()[-1]))
                self._say("235 welcome")
            elif verb in (b"MAIL", b"RCPT"):
                server.envelope.append(line.decode().strip())
                self._say("250 fine")
            elif verb == b"DATA":
                self._say("354 go on")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                if server.answer == 250:
                    server.mails.append(
                        email.message_from_bytes(b"".join(lines), policy=email.policy.default)
                    )
                self._say(f"{server.answer} said")
            elif verb == b"QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 fine")

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())
        self.wfile.flush()


@contextmanager
def smtp(tls: ssl.SSLContext | None = None, answer: int = 250) -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Smtp) as server:
        state: Any = server
        state.daemon_threads = True
        state.tls, state.answer = tls, answer
        state.mails, state.envelope, state.logins = [], [], []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield state
        server.shutdown()


def mail_settings(server: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "email",
        "host": "127.0.0.1",
        "port": server.server_address[1],
        "sender": "kubehabit@corp.example",
        "to": ["oncall@corp.example", "soc@corp.example"],
        "security": "none",
    } | more


def test_mail_of_one_alert_is_one_thread_and_no_name_adds_a_header(explainer: Explainer) -> None:
    update = an_alert(explainer, secret_event(0, user=HOSTILE))
    with smtp() as server:
        for sent in (None, "low"):
            send(
                Update(update.alert, sent, NOW), **mail_settings(server, console="https://kubehabit.example")
            )
        first, second = server.mails
    assert isinstance(first, EmailMessage)
    assert first["Bcc"] is None
    recipients = ("oncall", "soc")
    assert {line.upper() for line in server.envelope} == {
        "MAIL FROM:<KUBEHABIT@CORP.EXAMPLE>",
        *(f"RCPT TO:<{one.upper()}@CORP.EXAMPLE>" for one in recipients),
    }
    assert first["Message-ID"] == f"<{update.key}@corp.example>"
    assert first["References"] == second["References"]
    assert first["Subject"].startswith("[kubehabit] HIGH: ")
    text = first.get_content()
    assert update.alert.sentence in text.replace("\n", "")
    assert f"https://kubehabit.example/console/alerts/{update.alert.id}" in text


def test_a_password_goes_only_over_an_encrypted_connection_to_a_verified_server(
    explainer: Explainer, secret: dict[str, str], tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    login = {"security": "starttls", "user": "bot", "password": secret}
    with smtp(context) as server:
        with pytest.raises(UnavailableError, match="SSL"):
            send(an_alert(explainer), **mail_settings(server, **login))
        assert not server.logins
        send(an_alert(explainer), **mail_settings(server, **login, tls={"ca": str(ca)}))
        ((encrypted, _),) = server.logins
        assert encrypted
        assert len(server.mails) == 1
    with smtp() as server:  # it offers no STARTTLS
        with pytest.raises(UnavailableError):
            send(an_alert(explainer), **mail_settings(server, **login))
        assert not server.logins
    with pytest.raises(ValidationError, match="never sent in the clear"):
        settings_of(**mail_settings(server, user="bot", password=secret))


@pytest.mark.parametrize(("answer", "error"), [(451, UnavailableError), (554, DeliveryRefusedError)])
def test_a_mail_that_is_refused_for_good_is_not_sent_again(
    explainer: Explainer, answer: int, error: type[Exception]
) -> None:
    with smtp(answer=answer) as server, pytest.raises(error, match=str(answer)):
        send(an_alert(explainer), **mail_settings(server))


def test_test_alert_says_of_each_sink_what_became_of_it(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    with HttpReceiver() as good, HttpReceiver(statuses=[500]) as bad:
        sinks = [
            {"name": "good", "type": "webhook", "url": good.url},
            {"name": "bad", "type": "webhook", "url": bad.url},
            {"name": "narrow", "type": "webhook", "url": good.url, "filter": {"kinds": ["node"]}},
        ]
        config.write_text(json.dumps({"sinks": sinks}))
        done = CliRunner().invoke(app, ["test-alert", "--config", str(config), "--json"])
        (got,) = good.arrived.wait(1)
        one = CliRunner().invoke(app, ["test-alert", "--config", str(config), "--sink", "good"])
        unknown = CliRunner().invoke(app, ["test-alert", "--config", str(config), "--sink", "pager"])
    assert done.exit_code == 1
    assert [(each["sink"], each["outcome"]) for each in json.loads(done.stdout)] == [
        ("good", "sent"),
        ("bad", "failed"),
        ("narrow", "filtered"),
    ]
    assert "This is a test" in got.json["data"]["sentence"]
    assert one.exit_code == 0, one.output
    assert unknown.exit_code == 2
    assert "There is no sink pager: the configuration has bad, good, narrow." in unknown.stderr
