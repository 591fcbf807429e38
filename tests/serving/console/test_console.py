"""Signing in and out, what a session is worth, and which forms are believed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.access.sessions import COOKIE, Sessions
from serving.access.tokens import create, revoke
from serving.app import create_app
from serving.console.pages.login import target_of
from serving.scoring.engine import Engine
from serving.settings import Settings
from tests.serving.conftest import settle
from tests.serving.fakes import secret_event

Make = Callable[..., TestClient]
OURS = {"Origin": "http://127.0.0.1:8646", "Accept": "text/html"}


@pytest.fixture
def tokens(own_home: Path) -> dict[str, str]:
    file = own_home / "tokens.json"
    now = datetime.now(UTC)
    return {
        "admin": create(file, "on-call", ("read", "admin", "ingest"), now=now)[1],
        "reader": create(file, "dashboard", ("read",), now=now)[1],
        "pipeline": create(file, "pipeline", ("ingest",), now=now)[1],
    }


def sign_in(client: TestClient, token: str, wanted: str = "", **headers: str) -> object:
    return client.post(
        "/console/login",
        data={"token": token, "next": wanted},
        headers=OURS | headers,
        follow_redirects=False,
    )


def form_token(client: TestClient, path: str = "/console/") -> str:
    text = client.get(path, headers=OURS).text
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', text)
    assert found is not None, text[:500]
    return found[1]


def an_alert(client: TestClient, token: str = "") -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    alerts = client.post("/v1/score", json=secret_event(), headers=headers).json()["alerts"]
    settle(client)
    return str(alerts[0])


def access_lines(home: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (home / "access.jsonl").read_text().splitlines()]


# -- signing in and out -----------------------------------------------------------------------------------------


def test_a_token_begins_a_session_that_lasts_until_signing_out(
    tokens: dict[str, str], make_client: Make, own_home: Path
) -> None:
    client = make_client()
    answer = client.get("/console/incidents?state=closed", headers=OURS, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/login?next=%2Fconsole%2Fincidents%3Fstate%3Dclosed"
    answer = sign_in(client, tokens["admin"], "/console/incidents?state=closed")
    assert answer.headers["location"] == "/console/incidents?state=closed"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for part in ("HttpOnly", "SameSite=strict", "Path=/console"):
        assert part in cookie
    assert "Secure" not in cookie
    assert tokens["admin"] not in cookie
    assert client.get("/console/", headers=OURS).status_code == 200
    # The cookie opens the console, and not the API.
    assert client.get("/v1/alerts", headers={"Cookie": cookie.partition(";")[0]}).status_code == 401

    sent = form_token(client)
    held = client.cookies[COOKIE]
    out = client.post("/console/logout", data={"form_token": sent}, headers=OURS, follow_redirects=False)
    assert out.status_code == 303
    assert f'{COOKIE}=""' in out.headers["set-cookie"]
    again = client.get("/console/", headers=OURS | {"Cookie": f"{COOKIE}={held}"}, follow_redirects=False)
    assert again.status_code == 303, "the session has ended, not only its cookie"
    lines = access_lines(own_home)
    assert all(tokens["admin"] not in json.dumps(line) and held not in json.dumps(line) for line in lines)
    entered = next(line for line in lines if line["route"] == "/console/login" and line["method"] == "POST")
    assert (entered["by"], entered["name"], entered["status"]) == ("token", "on-call", 303)
    seen = [line for line in lines if line["route"] == "/console/" and line["status"] == 200]
    assert {line["name"] for line in seen} == {"on-call"}
    assert len({line["session"] for line in seen}) == 1


def test_the_cookie_is_for_tls_only_where_the_browser_speaks_tls(
    tokens: dict[str, str], make_client: Make
) -> None:
    client = make_client(base_url="https://console.example")
    answer = sign_in(client, tokens["reader"], Origin="https://console.example")
    assert "Secure" in answer.headers["set-cookie"]


def test_the_cookie_is_for_tls_only_behind_a_proxy_that_speaks_it(
    tokens: dict[str, str], make_client: Make
) -> None:
    headers = {"Origin": "https://console.example", "Sec-Fetch-Site": "same-origin"}
    answer = sign_in(make_client(), tokens["reader"], **headers)
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("sent", ["", "hunter2", "kubehabit_" + "x" * 43, "ü" * 40, "x" * 5000])
def test_what_is_no_token_begins_nothing_and_is_not_written_down(
    sent: str, tokens: dict[str, str], make_client: Make, own_home: Path
) -> None:
    client = make_client()
    answer = sign_in(client, sent)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "no token of this service" in answer.text
    if sent:
        assert sent not in answer.text
        assert sent not in (own_home / "access.jsonl").read_text()
    line = access_lines(own_home)[-1]
    assert line["by"] == "nobody"
    assert "no token" in str(line["refused"])


def test_a_token_that_may_not_read_has_nothing_to_see(tokens: dict[str, str], make_client: Make) -> None:
    answer = sign_in(make_client(), tokens["pipeline"])
    assert answer.status_code == 403
    assert "&#39;read&#39;" in answer.text
    assert "set-cookie" not in answer.headers


def test_who_guesses_is_slowed_down_by_the_limiter_of_the_api(
    tokens: dict[str, str], make_client: Make
) -> None:
    client = make_client(access={"rates": {"refused_per_second": 0.5, "burst_seconds": 4}})
    statuses = [sign_in(client, f"guess-{number}").status_code for number in range(4)]
    assert statuses == [401, 401, 429, 429]
    knock = client.get("/v1/alerts", headers={"Authorization": "Bearer guess"})
    assert knock.status_code == 429, "one bucket for both doors"
    assert sign_in(client, tokens["reader"]).status_code == 303, "who has a token is not held up by it"


def test_revoking_a_token_ends_its_sessions(
    tokens: dict[str, str], make_client: Make, own_home: Path
) -> None:
    client = make_client()
    sign_in(client, tokens["reader"])
    assert client.get("/console/", headers=OURS).status_code == 200
    revoke(own_home / "tokens.json", "dashboard")
    client.app.state.access._tokens._next = 0.0  # type: ignore[attr-defined]  # not to wait a second
    answer = client.get("/console/", headers=OURS, follow_redirects=False)
    assert answer.status_code == 303
    assert "ended=1" in answer.headers["location"]
    assert "Your session has ended" in client.get(answer.headers["location"], headers=OURS).text


def test_a_session_ends_when_it_is_idle_and_at_the_latest_after_its_time() -> None:
    now = [0.0]
    sessions = Sessions(idle_seconds=60, seconds=150, clock=lambda: now[0])
    sent = sessions.start("on-call", "proof")
    for now[0] in (50, 100, 149):
        found = sessions.find(sent)
        assert found is not None
        assert found.name == "on-call"
    now[0] = 150
    assert sessions.find(sent) is None
    other = sessions.start("on-call", "proof")
    now[0] = 209
    key = sessions.find(other).key  # type: ignore[union-attr]
    now[0] = 268
    assert sessions.held(key) is not None
    now[0] = 269
    assert sessions.held(key) is None, "looking whether it goes on is no use of it"
    assert sessions.find(other) is None


def test_sessions_are_kept_by_hash_and_one_token_cannot_push_out_others() -> None:
    sessions = Sessions(60, 600, clock=lambda: 0.0)
    mine = sessions.start("me", "my proof")
    found = sessions.find(mine)
    assert found is not None
    assert mine not in found.key
    theirs = [sessions.start("them", "their proof") for _ in range(200)]
    assert sessions.find(mine) is not None
    assert sessions.find(theirs[0]) is None
    assert sessions.find(theirs[-1]) is not None
    assert len(sessions) < 100
    assert sessions.find("x" * 10_000) is None
    assert sessions.find("ü\udcff") is None


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/console/",
        "//evil.example/console/",
        "/\\evil.example",
        "/console/../v1/alerts\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "/v1/alerts",
        "/console/logout",
        "/console/" + "x" * 3000,
        "",
    ],
)
def test_signing_in_leads_nowhere_but_into_the_console(wanted: str) -> None:
    assert target_of(wanted) == "/console/"


# -- forms ------------------------------------------------------------------------------------------------------


def test_a_form_of_another_site_changes_nothing(tokens: dict[str, str], make_client: Make) -> None:
    client = make_client()
    sign_in(client, tokens["admin"])
    alert = an_alert(client, tokens["admin"])
    path = f"/console/alerts/{alert}/feedback"
    sent = form_token(client, f"/console/alerts/{alert}")
    form = {"verdict": "normal", "form_token": sent}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8646"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {},
    ):
        assert client.post(path, data=form, headers=headers).status_code == 403, headers
    for wrong in ("", "0" * 64, sent[:-1], "ü"):
        answer = client.post(path, data={"verdict": "normal", "form_token": wrong}, headers=OURS)
        assert answer.status_code == 403
        assert "load the page again" in answer.text
    read = {"Authorization": f"Bearer {tokens['admin']}"}
    assert client.get("/v1/feedback", headers=read).text == ""
    assert client.post(path, data=form, headers=OURS).status_code == 200
    assert json.loads(client.get("/v1/feedback", headers=read).text)["verdict"] == "normal"
    for target in ("/console/login", "/console/logout"):
        answer = client.post(target, data={"token": "x"}, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403


def test_a_form_token_is_worth_nothing_in_another_session(tokens: dict[str, str], make_client: Make) -> None:
    client = make_client()
    sign_in(client, tokens["admin"])
    alert = an_alert(client, tokens["admin"])
    sent = form_token(client, f"/console/alerts/{alert}")
    sign_in(client, tokens["admin"])
    answer = client.post(
        f"/console/alerts/{alert}/feedback", data={"verdict": "normal", "form_token": sent}, headers=OURS
    )
    assert answer.status_code == 403


def test_who_may_only_look_cannot_send_what_the_page_does_not_let_them(
    tokens: dict[str, str], make_client: Make
) -> None:
    client = make_client()
    alert = an_alert(client, tokens["pipeline"])
    sign_in(client, tokens["reader"])
    sent = form_token(client, f"/console/alerts/{alert}")
    answer = client.post(
        f"/console/alerts/{alert}/feedback", data={"verdict": "normal", "form_token": sent}, headers=OURS
    )
    assert answer.status_code == 403
    assert "needs the scope &#39;analyst&#39;" in answer.text


def test_without_tokens_nobody_signs_in_and_forms_are_still_guarded(make_client: Make) -> None:
    client = make_client()
    assert client.get("/", headers=OURS).url.path == "/console/"
    assert client.get("/console", headers=OURS).url.path == "/console/"
    assert client.get("/console/login", headers=OURS).url.path == "/console/"
    alert = an_alert(client)
    path = f"/console/alerts/{alert}/feedback"
    sent = form_token(client, f"/console/alerts/{alert}")
    assert client.post(path, data={"verdict": "normal"}, headers=OURS).status_code == 403
    assert client.post(path, data={"verdict": "normal", "form_token": sent}, headers=OURS).status_code == 200
    assert client.get("/console/", headers=OURS | {"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "Choose whether this was normal or malicious."),
        ({"verdict": "maybe"}, "Choose whether this was normal or malicious."),
        ({"verdict": "normal", "note": "x" * 1001}, "shorten it"),
    ],
)
def test_a_form_that_is_wrong_says_what_to_do(form: dict[str, str], words: str, make_client: Make) -> None:
    client = make_client()
    alert = an_alert(client)
    form = form | {"form_token": form_token(client, f"/console/alerts/{alert}")}
    answer = client.post(f"/console/alerts/{alert}/feedback", data=form, headers=OURS)
    assert answer.status_code == 422
    assert words in answer.text
    assert client.get("/v1/feedback").text == ""


def test_bodies_that_are_no_forms_are_refused(make_client: Make) -> None:
    client = make_client()
    path = f"/console/alerts/{an_alert(client)}/feedback"
    assert client.post(path, json={"verdict": "normal"}, headers=OURS).status_code == 415
    assert client.post(path, data={"note": "x" * 70_000}, headers=OURS).status_code == 413
    many = {f"f{number}": "" for number in range(3000)}
    assert client.post(path, data=many, headers=OURS).status_code == 400


# -- the answers ------------------------------------------------------------------------------------------------


def test_every_page_has_the_policy_and_is_kept_nowhere(make_client: Make) -> None:
    client = make_client()
    alert = an_alert(client)
    for path in (
        "/console/",
        "/console/alerts",
        f"/console/alerts/{alert}",
        f"/console/incidents/{alert}",
        "/console/incidents",
        "/console/exceptions",
        "/console/fleet",
        "/console/glossary",
        "/console/nowhere",
        "/console/alerts/nowhere",
    ):
        answer = client.get(path, headers=OURS)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", answer.text), path
    assert client.get("/console/static/console.css").headers["cache-control"].startswith("public")
    for name in ("nothing.css", "..%2frender.py", "console.css%00", "../routes.py"):
        assert client.get(f"/console/static/{name}").status_code == 404


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


def test_what_a_log_says_stays_text(make_client: Make) -> None:
    client = make_client()
    # A bidi override and a zero-width space, which could make one name look like another.
    user = HOSTILE + "\u202egnp.exe\u200b"
    event = secret_event(user=user, namespace="pay<b>ments", name=HOSTILE, userAgent=HOSTILE)
    alert = client.post("/v1/score", json=event).json()["alerts"][0]
    settle(client)
    incident = client.get("/v1/incidents").json()["incidents"][0]["id"]
    token = form_token(client, f"/console/alerts/{alert}")
    for path, form in (
        (f"/console/alerts/{alert}/feedback", {"verdict": "normal", "note": HOSTILE, "by": HOSTILE}),
        (f"/console/incidents/{incident}/notes", {"note": HOSTILE, "by": HOSTILE}),
    ):
        assert client.post(path, data=form | {"form_token": token}, headers=OURS).status_code == 200
    for path in (
        "/console/",
        "/console/alerts",
        f"/console/alerts/{alert}",
        "/console/incidents",
        f"/console/incidents/{incident}",
        f"/console/alerts?q={HOSTILE}&principal={HOSTILE}&namespace={HOSTILE}",
    ):
        text = client.get(path, headers=OURS).text
        assert "script&gt;alert(1)" in text, path
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "<b>ments" not in text
        assert "{{7*7}}" in text
        assert not re.search("[\u202e\u200b]", text), path


def test_links_lead_to_pages_of_this_console_only(make_client: Make) -> None:
    client = make_client()
    event = secret_event(user="javascript:alert(1)//https://evil.example/")
    alert = client.post("/v1/score", json=event).json()["alerts"][0]
    settle(client)
    for path in (
        *("/console/", "/console/alerts", "/console/incidents", "/console/exceptions"),
        *(f"/console/alerts/{alert}", f"/console/incidents/{alert}"),
    ):
        text = client.get(path, headers=OURS).text
        for link in re.findall(r'(?:href|src|action)="([^"]*)"', text):
            in_catalogue = re.fullmatch(r"https://attack\.mitre\.org/techniques/T\d{4}/(\d{3}/)?", link)
            assert link.startswith(("/console/", "#")) or in_catalogue, link


def test_the_console_can_be_switched_off(engine: Engine) -> None:
    app = create_app(Settings(console={"enabled": False}, events={"enabled": False}), engine)  # type: ignore[arg-type]
    client = TestClient(app, base_url="http://127.0.0.1:8646")
    assert client.get("/console/").status_code == 404
    assert client.get("/v1/alerts").status_code == 200


def test_an_expired_token_opens_nothing(make_client: Make, own_home: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=2)
    token = create(own_home / "tokens.json", "old", ("read",), now=past, days=1)[1]
    answer = sign_in(make_client(), token)
    assert answer.status_code == 401
    assert "has expired" in answer.text
