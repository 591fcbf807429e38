"""Who may use the service, for what and how often, and what is written down of it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from data.errors import KubehabitError
from kubehabit.main import app as command_line
from serving.access import connection_limits, reloading_file
from serving.access.access_log import AccessLog
from serving.access.gate import Access
from serving.access.rate_limit import Bucket, CallerRate, Limiter, network_of
from serving.access.scopes import NEEDS
from serving.access.tokens import PREFIX, Tokens, create, digest, read_tokens, revoke
from serving.app import create_app
from serving.http.problems import SECURITY_HEADERS
from serving.scoring.engine import Engine
from serving.settings import AccessLogSettings, Settings, load_settings
from serving.telemetry.metrics import Metrics
from tests.serving.api.test_api import is_problem
from tests.serving.fakes import raw_event, secret_event
from tests.serving.live import Live, read_all

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TOKEN = "a-token-of-sixteen-or-more"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading_file, "_SECONDS_BETWEEN_LOOKS", 0.0)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def make(path: Path, name: str, *scopes: Any, **more: Any) -> str:
    return create(path, name, scopes, now=datetime.now(UTC), **more)[1]


def lines(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "access.jsonl").read_text().splitlines()]


def kept(**change: Any) -> str:
    """A tokens file of one token with something changed."""
    token = {"name": "x", "sha256": "0" * 64, "scopes": ["read"], "created": "2026-01-01T00:00:00Z"}
    return json.dumps({"tokens": [token | change]})


# -- tokens -----------------------------------------------------------------------------------------------------


def test_a_token_is_kept_as_a_hash_in_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tokens.json"
    token, secret = create(path, "pipeline", ["ingest"], now=NOW, days=30)
    assert secret.startswith(PREFIX)
    assert len(secret) >= len(PREFIX) + 43  # 256 bits in base64
    assert secret not in path.read_text()
    assert secret.removeprefix(PREFIX) not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert read_tokens(path) == [token]
    assert token.expires == NOW + timedelta(days=30)
    assert make(path, "another", "read") != secret
    assert [one.name for one in read_tokens(path)] == ["pipeline", "another"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["tokens.json"]


def test_a_token_is_found_by_itself_only(tmp_path: Path) -> None:
    kept, secret = create(tmp_path / "t", "pipeline", ["read"], now=NOW)
    tokens = Tokens([kept])
    assert tokens.find(secret) == kept
    for other in (
        "",
        secret[:-1],
        secret + "A",
        secret.swapcase(),
        kept.sha256,
        digest(secret),
        "x" * 100_000,
    ):
        assert tokens.find(other) is None


def test_a_new_file_keeps_the_readers_that_the_old_one_had(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    make(path, "one", "read")
    path.chmod(0o640)
    make(path, "two", "read")
    assert path.stat().st_mode & 0o777 == 0o640


def test_two_commands_at_once_lose_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    makers = [threading.Thread(target=make, args=(path, f"token-{number}", "read")) for number in range(20)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert {token.name for token in read_tokens(path)} == {f"token-{number}" for number in range(20)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no tokens file"),
        ("[]", "no tokens file"),
        ('{"tokens": [{"name": "x"}]}', "tokens.0.sha256"),
        ('{"tokens": [], "extra": 1}', "extra"),
        (kept(sha256="00"), "sha256"),
        (kept(scopes=["root"]), "scopes"),
        (kept(scopes=[]), "scopes"),
        (kept(created="2026-01-01T00:00:00"), "created"),
        (kept(name="a b"), "name"),
        (json.dumps({"tokens": json.loads(kept())["tokens"] * 2}), "twice"),
    ],
)
def test_a_file_with_something_else_in_it_is_refused_with_the_place(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(content)
    with pytest.raises(KubehabitError, match=words):
        read_tokens(path)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    make(path, "one", "read")
    path.chmod(0o620)
    with pytest.raises(KubehabitError, match="chmod go-w"):
        read_tokens(path)
    with pytest.raises(KubehabitError, match="kubehabit token create"):
        read_tokens(tmp_path / "missing")


@pytest.mark.parametrize(
    "given", ["short", "a" * 64, "0123456789abcdef", "with a space in it and long enough"]
)
def test_a_token_that_could_be_guessed_or_not_be_sent_is_not_taken(tmp_path: Path, given: str) -> None:
    with pytest.raises(KubehabitError, match=r"could be guessed|made of letters") as raised:
        make(tmp_path / "t", "own", "read", given=given)
    assert given not in str(raised.value)
    assert not (tmp_path / "t").exists()


def test_the_commands_make_list_and_revoke(own_home: Path) -> None:
    def run(*arguments: str, sent: str | None = None) -> Any:
        return CliRunner().invoke(command_line, ["token", *arguments], input=sent)

    made = run("create", "pipeline", "--scope", "ingest", "--days", "7", "--requests-per-second", "5")
    secret = made.stdout.strip()
    assert made.exit_code == 0
    assert Tokens(read_tokens(own_home / "tokens.json")).find(secret) is not None
    brought = "0123456789abcdef0123456789abcdef"
    assert (
        run(
            "create", "brought", "--scope", "read", "--scope", "admin", "--from", "-", sent=brought + "\n"
        ).exit_code
        == 0
    )
    assert [token.scopes for token in read_tokens(own_home / "tokens.json")] == [
        ("ingest",),
        ("read", "admin"),
    ]
    listed = run("list").stdout
    assert "pipeline" in listed
    assert "brought" in listed
    assert secret not in listed
    assert digest(secret) not in listed
    assert run("revoke", "pipeline").exit_code == 0
    assert [token.name for token in read_tokens(own_home / "tokens.json")] == ["brought"]
    for wrong, words in (
        (("create", "brought", "--scope", "read"), "already"),
        (("create", "other", "--scope", "root"), "no scope"),
        (("create", "../x", "--scope", "read"), "no name"),
        (("revoke", "pipeline"), "kubehabit token list"),
        (("list", "--file", "nowhere.json"), "kubehabit token create"),
    ):
        refused = run(*wrong)
        assert refused.exit_code == 2
        assert words in refused.stderr


# -- scopes -----------------------------------------------------------------------------------------------------


def operations(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of every route that the application has."""
    return [(method, route.path) for route in app.routes for method in route.methods]  # type: ignore[attr-defined]


#: The scopes that are enough where one is needed: an analyst may look, and who decides everything may judge.
SUFFICES = {
    "ingest": {"ingest"},
    "read": {"read", "analyst"},
    "analyst": {"analyst", "admin"},
    "admin": {"admin"},
}


@pytest.fixture
def tokens_of_each_scope(own_home: Path) -> dict[str, str]:
    return {scope: make(own_home / "tokens.json", scope, scope) for scope in SUFFICES}


def test_every_route_answers_those_with_its_scope_and_nobody_else(
    tokens_of_each_scope: dict[str, str], make_client: Callable[..., TestClient]
) -> None:
    client = make_client(access={"rates": {"refused_per_second": 1000}})
    seen = set()
    # A stream never ends by itself, so one that goes through is asked for an event that cannot be.
    query = {"/v1/alerts/stream": "?severity=grave", "/console/stream": "?severity=grave"}
    for method, path in operations(client.app):  # type: ignore[arg-type]
        need = NEEDS[method, path]
        seen.add((method, path))
        url = re.sub(r"{[^}]+}", "x", path) + query.get(path, "")
        # As a page of the console itself would ask; what else its forms need is tested in tests/console.
        own = {"Sec-Fetch-Site": "same-origin"}
        anonymous = client.request(method, url, headers=own, follow_redirects=False)
        if need == "nothing":
            assert anonymous.status_code in (200, 303, 404, 415), path
            continue
        is_problem(anonymous, 401, "Bearer")
        for scope, token in tokens_of_each_scope.items():
            answer = client.request(method, url, headers=bearer(token))
            if scope in SUFFICES[need]:
                assert answer.status_code not in (401, 403), (path, answer.text)
            else:
                is_problem(answer, 403, f"'{need}'", f"'{scope}'")
                assert f'scope="{need}"' in answer.headers["www-authenticate"]
    assert seen == set(NEEDS), "serving.access.scopes.NEEDS names routes that there are not"


def test_an_application_with_a_route_that_needs_nothing_said_does_not_start(engine: Engine) -> None:
    app = create_app(Settings(), engine)
    access = Access(Settings(), Metrics())
    access.routes.protect(app.routes)

    @app.get("/v1/forgotten")
    def forgotten() -> None:
        pass

    with pytest.raises(RuntimeError, match="GET /v1/forgotten"):
        access.routes.protect(app.routes)
    app.mount("/inside", FastAPI())
    with pytest.raises(RuntimeError):
        access.routes.protect(app.routes)


def test_no_spelling_of_a_path_goes_around_its_scope(
    tokens_of_each_scope: dict[str, str], make_client: Callable[..., TestClient], own_home: Path
) -> None:
    client = make_client()
    client.post("/v1/score", json=secret_event(), headers=bearer(tokens_of_each_scope["ingest"]))
    for spelled in (
        "/v1/alerts/", "//v1/alerts", "/v1//alerts", "/v1/./alerts", "/x/../v1/alerts", "/V1/alerts", "/v1/alerts;x",
        "/v1/alerts%2f", "/%761/alerts", "/v1/alerts%00", "/docs/../v1/alerts", "/docs/%2e%2e/v1/alerts", "/v1/alerts%0a",
    ):  # fmt: skip
        answer = client.get(spelled, headers=bearer(tokens_of_each_scope["ingest"]))
        assert answer.status_code in (403, 404), (spelled, answer.text)
        assert "secrets" not in answer.text


def test_only_a_caller_with_a_token_learns_that_a_path_does_not_exist(
    tokens_of_each_scope: dict[str, str], make_client: Callable[..., TestClient]
) -> None:
    client = make_client()
    is_problem(client.get("/nowhere"), 401)
    is_problem(client.get("/nowhere", headers=bearer(tokens_of_each_scope["ingest"])), 404)
    is_problem(client.delete("/v1/alerts", headers=bearer(tokens_of_each_scope["ingest"])), 405)


def test_the_simple_token_may_do_everything(make_client: Callable[..., TestClient]) -> None:
    client = make_client(token=TOKEN)
    assert client.post("/v1/score", json=secret_event(), headers=bearer(TOKEN)).status_code == 200
    [alert] = client.get("/v1/alerts", headers=bearer(TOKEN)).json()["alerts"]
    feedback = client.post(
        f"/v1/alerts/{alert['id']}/feedback", json={"verdict": "normal"}, headers=bearer(TOKEN)
    )
    assert feedback.status_code == 201


# -- rotation ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("looks_at_once")
def test_tokens_come_and_go_without_a_restart(own_home: Path, make_client: Callable[..., TestClient]) -> None:
    path = own_home / "tokens.json"
    first = make(path, "first", "read")
    client = make_client()
    assert client.get("/v1/model", headers=bearer(first)).status_code == 200
    second = make(path, "second", "read")
    for token in (first, second):
        assert client.get("/v1/model", headers=bearer(token)).status_code == 200
    revoke(path, "first")
    is_problem(client.get("/v1/model", headers=bearer(first)), 401, "revoked")
    assert client.get("/v1/model", headers=bearer(second)).status_code == 200


@pytest.mark.usefixtures("looks_at_once")
@pytest.mark.parametrize("damage", ["{", '{"tokens": [{}]}', None])
def test_a_bad_or_missing_tokens_file_leaves_the_last_good_one_in_use_and_says_so(
    own_home: Path,
    make_client: Callable[..., TestClient],
    damage: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = own_home / "tokens.json"
    token = make(path, "one", "read")
    client = make_client()
    good = path.read_text()
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    assert client.get("/v1/model", headers=bearer(token)).status_code == 200
    assert client.get("/v1/model").status_code == 401
    assert "the tokens file changed and cannot be used; the one before stays in use" in caplog.text
    refused = 'kubehabit_access_file_refused{file="tokens"} '
    assert refused + "1.0" in client.get("/metrics", headers=bearer(token)).text
    path.write_text(good)
    assert refused + "0.0" in client.get("/metrics", headers=bearer(token)).text


@pytest.mark.usefixtures("looks_at_once")
def test_the_first_token_closes_the_door_of_a_running_service(
    own_home: Path, make_client: Callable[..., TestClient]
) -> None:
    client = make_client()
    assert client.get("/v1/model").status_code == 200
    token = make(own_home / "tokens.json", "first", "read")
    assert client.get("/v1/model").status_code == 401
    revoke(own_home / "tokens.json", "first")
    for headers in ({}, bearer(token)):
        assert client.get("/v1/model", headers=headers).status_code == 401


def test_a_tokens_file_that_cannot_be_used_is_reported_at_the_start(own_home: Path) -> None:
    with pytest.raises(KubehabitError, match="kubehabit token create"):
        create_app(Settings(access={"tokens": "nowhere.json"}))  # type: ignore[arg-type]


def test_an_expired_token_is_refused_from_that_moment_on(own_home: Path) -> None:
    secret = create(own_home / "tokens.json", "short", ["read"], now=NOW, days=1)[1]
    moment = [NOW]
    access = Access(Settings(), Metrics(), now=lambda: moment[0])
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {secret}".encode())], "client": None}
    assert access.caller(scope).name == "short"
    moment[0] = NOW + timedelta(days=1)
    with pytest.raises(Exception, match=r"'short' has expired") as raised:
        access.caller(scope)
    assert raised.value.status == 401  # type: ignore[attr-defined]


def test_two_tokens_at_once_are_none(make_client: Callable[..., TestClient]) -> None:
    client = make_client(token=TOKEN)
    twice = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]
    assert client.get("/v1/model", headers=twice).status_code == 401


# -- where to listen --------------------------------------------------------------------------------------------


def test_listening_wider_needs_a_token_a_tokens_file_or_certificates(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.yaml"

    def loads(text: str) -> bool:
        file.write_text("host: 0.0.0.0\n" + text)
        try:
            return load_settings(file).host == "0.0.0.0"
        except KubehabitError as refusal:
            assert "Refusing to listen on '0.0.0.0' without a token" in str(refusal)  # noqa: PT017
            return False

    assert not loads("")
    # An authority alone lets nobody in, nor keeps anybody out: no certificate is listed.
    assert not loads("tls: {certificate: c.pem, client_ca: ca.pem}")
    assert loads(
        "tls: {certificate: c.pem, client_ca: ca.pem}\naccess: {certificates: [{common_name: a, scopes: [ingest]}]}"
    )
    assert loads("access: {tokens: some.json}")
    make(own_home / "tokens.json", "one", "read")
    assert loads("")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tls: {key: k.pem}", "need a certificate"),
        ("tls: {client_ca: k.pem}", "need a certificate"),
        ("access: {certificates: [{common_name: a, scopes: [ingest]}]}", "tls.client_ca"),
        ("access: {certificates: [{scopes: [ingest]}]}", "common_name or by uri"),
        ("access: {certificates: [{common_name: a, uri: b, scopes: [ingest]}]}", "common_name or by uri"),
        ("access: {certificates: [{common_name: a, scopes: []}]}", "scopes"),
        ("access: {certificates: [{common_name: a, scopes: [all]}]}", "scopes"),
    ],
)
def test_settings_of_access_that_do_not_fit_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(KubehabitError, match=re.escape(words)):
        load_settings(file)


# -- rates ------------------------------------------------------------------------------------------------------


def test_a_bucket_holds_the_average_and_lets_a_burst_through() -> None:
    clock = Clock()
    limiter = Limiter(clock)
    rate = CallerRate(requests=10, bytes=1000, burst=2)
    assert [limiter.request("a", rate) for _ in range(20)] == [0.0] * 20
    assert limiter.request("a", rate) == pytest.approx(0.1)
    assert limiter.request("b", rate) == 0.0
    clock.seconds += 0.1
    assert limiter.request("a", rate) == 0.0
    assert limiter.request("a", rate) > 0
    clock.seconds += 3600
    assert sum(limiter.request("a", rate) == 0.0 for _ in range(100)) == 20


def test_bytes_are_paid_for_afterwards_and_on_average() -> None:
    clock = Clock()
    limiter = Limiter(clock)
    rate = CallerRate(requests=100, bytes=1000, burst=2)
    assert limiter.request("a", rate) == 0.0
    limiter.received("a", rate, 5000)  # 2000 were there: 3000 are owed
    assert limiter.request("a", rate) == pytest.approx(3.001)
    clock.seconds += limiter.request("a", rate)
    assert limiter.request("a", rate) == 0.0


def test_a_clock_that_goes_back_gives_and_takes_nothing() -> None:
    bucket = Bucket(1.0, 1.0, 100.0)
    bucket.take(1.0)
    assert bucket.wait(1.0, 50.0) == pytest.approx(1.0)
    assert bucket.wait(1.0, 100.5) == pytest.approx(0.5)


def test_remembered_callers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.access.rate_limit._MAX_CALLERS", 100)
    limiter = Limiter(Clock())
    for number in range(1000):
        limiter.request(number, CallerRate(1, 1, 1))
    assert len(limiter._callers) == 100
    assert limiter.request(999, CallerRate(1, 1, 1)) > 0


def test_callers_over_their_rate_get_the_time_to_come_back(
    own_home: Path, make_client: Callable[..., TestClient]
) -> None:
    slow = make(own_home / "tokens.json", "slow", "read", requests_per_second=0.01)
    quick = make(own_home / "tokens.json", "quick", "read")
    client = make_client()
    assert client.get("/v1/model", headers=bearer(slow)).status_code == 200
    answer = client.get("/v1/model", headers=bearer(slow))
    is_problem(answer, 429, "this token", "access.rates")
    assert 90 <= int(answer.headers["retry-after"]) <= 100
    assert client.get("/v1/model", headers=bearer(quick)).status_code == 200


def test_bytes_of_bodies_count(own_home: Path, make_client: Callable[..., TestClient]) -> None:
    token = make(own_home / "tokens.json", "pipeline", "ingest", megabytes_per_second=0.0001)
    client = make_client()
    assert client.post("/v1/score", json=raw_event(), headers=bearer(token)).status_code == 200
    is_problem(client.post("/v1/score", json=raw_event(1), headers=bearer(token)), 429, "bytes")


def test_without_tokens_an_address_has_a_rate(make_client: Callable[..., TestClient]) -> None:
    client = make_client(access={"rates": {"requests_per_second": 0.01}})
    assert client.get("/v1/model").status_code == 200
    is_problem(client.get("/v1/model"), 429, "this address")


def test_guessing_is_slowed_down_and_locks_nobody_out(make_client: Callable[..., TestClient]) -> None:
    client = make_client(token=TOKEN, access={"rates": {"refused_per_second": 0.01}})
    assert client.get("/v1/model", headers=bearer("wrong")).status_code == 401
    answer = client.get("/v1/model", headers=bearer("wrong"))
    is_problem(answer, 429, "from this address")
    assert answer.headers["retry-after"]
    assert client.get("/v1/model", headers=bearer(TOKEN)).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_an_ipv6_network_is_one_address() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") != network_of("10.0.0.2")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
    assert network_of("testclient") == "testclient"


# -- the access log ---------------------------------------------------------------------------------------------


def test_reads_changes_and_refusals_are_written_down_and_no_token_is(
    own_home: Path, tokens_of_each_scope: dict[str, str], make_client: Callable[..., TestClient]
) -> None:
    client = make_client()
    ingest, read, admin = (bearer(tokens_of_each_scope[scope]) for scope in ("ingest", "read", "admin"))
    client.post("/v1/score", json=secret_event(), headers=ingest)
    asked = {"severity": "low", "state": "open", "q": "secrets"}
    [alert] = client.get("/v1/alerts", params=asked, headers=read).json()["alerts"]
    client.post(f"/v1/alerts/{alert['id']}/feedback", json={"verdict": "normal"}, headers=admin)
    client.get(f"/v1/alerts/{alert['id']}", headers=ingest)
    client.get("/v1/alerts", headers=bearer("kubehabit_" + "g" * 43))
    client.get("/healthz")
    found = lines(own_home)
    assert [(line["by"], line["name"], line["method"], line["route"], line["status"]) for line in found] == [
        ("token", "ingest", "POST", "/v1/score", 200),
        ("token", "read", "GET", "/v1/alerts", 200),
        ("token", "admin", "POST", "/v1/alerts/{alert_id}/feedback", 201),
        ("token", "ingest", "GET", "/v1/alerts/{alert_id}", 403),
        ("nobody", "", "GET", "/v1/alerts", 401),
    ]
    assert found[1]["query"] == asked
    assert found[2]["path"] == f"/v1/alerts/{alert['id']}/feedback"
    assert "'read'" in found[3]["refused"]
    for line in found:
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
        assert line["address"] == "testclient"
    text = (own_home / "access.jsonl").read_text()
    for secret in (*tokens_of_each_scope.values(), "g" * 43):
        assert secret not in text
        assert digest(secret) not in text
    assert (own_home / "access.jsonl").stat().st_mode & 0o077 == 0


def test_a_log_line_cannot_be_forged(
    own_home: Path, tokens_of_each_scope: dict[str, str], make_client: Callable[..., TestClient]
) -> None:
    client = make_client()
    forged = '\n{"by": "token", "name": "admin", "status": 200}\u2028\x1b[2K\x00'
    read = bearer(tokens_of_each_scope["read"])
    client.get("/v1/principals/" + quote(forged), headers=read)
    client.get("/v1/alerts", params={"principal": forged, forged: "x"}, headers=read)
    mine = tokens_of_each_scope["read"]
    client.get("/v1/alerts", params={"principal": mine, "access_token": "of another service"}, headers=read)
    client.get(f"/v1/principals/{mine}", headers=read)
    text = (own_home / "access.jsonl").read_bytes()
    assert text.isascii()
    assert len(lines(own_home)) == 4
    assert {line["name"] for line in lines(own_home)} == {"read"}
    assert b"\\u001b" not in text
    assert mine.encode() not in text
    assert b"another service" not in text


def test_what_comes_all_the_time_is_thinned_with_its_number(tmp_path: Path) -> None:
    clock = Clock()
    log = AccessLog(AccessLogSettings(path=tmp_path / "a.jsonl"), clock=clock, now=lambda: NOW)
    batch = {"by": "token", "name": "pipeline", "address": "10.0.0.1", "route": "/v1/audit", "status": 200}
    for _ in range(5):
        log.write(batch, "routine")
    log.write(batch | {"status": 503}, "routine")
    clock.seconds += 601
    log.write(batch, "routine")
    for _ in range(500):
        log.write({"by": "nobody"}, "refusal")
    clock.seconds += 1
    log.write({"by": "nobody"}, "refusal")
    for _ in range(3):
        log.write({"by": "token"}, "always")
    log.close()
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["status"], line.get("more")) for line in found[:3]] == [(200, None), (503, None), (200, 4)]
    refused = [line for line in found if line["by"] == "nobody"]
    assert len(refused) == 101
    assert refused[-1]["more"] == 400
    assert len(found) == 3 + 101 + 3


def test_the_log_is_rotated_within_its_bounds(tmp_path: Path) -> None:
    settings = AccessLogSettings(path=tmp_path / "folder" / "a.jsonl", max_mb=0.001, files=3)
    log = AccessLog(settings, clock=Clock(), now=lambda: NOW)
    for number in range(200):
        log.write({"by": "token", "number": number}, "always")
    log.close()
    files = sorted((tmp_path / "folder").iterdir())
    assert [file.name for file in files] == ["a.jsonl", "a.jsonl.1", "a.jsonl.2"]
    kept = [json.loads(line)["number"] for file in reversed(files) for line in file.read_text().splitlines()]
    assert kept == list(range(kept[0], 200))
    for file in files:
        assert file.stat().st_size <= 1049
        assert file.stat().st_mode & 0o077 == 0


def test_a_log_that_cannot_be_written_is_reported_and_turns_nobody_away(
    tmp_path: Path, make_client: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    client = make_client(access={"log": {"path": tmp_path / "file" / "a.jsonl"}})
    assert client.get("/v1/model").status_code == 200
    assert "the access log cannot be written" in caplog.text
    assert "kubehabit_access_log_lost_total 1.0" in client.get("/metrics").text


# -- answers ----------------------------------------------------------------------------------------------------


def test_every_answer_has_the_security_headers(
    make_client: Callable[..., TestClient], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(token=TOKEN)

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(engine.store, "get", fail)
    answers = [
        client.get("/healthz"),
        client.get("/v1/alerts"),
        client.get("/v1/alerts", headers=bearer(TOKEN)),
        client.get("/nowhere", headers=bearer(TOKEN)),
        client.get("/v1/alerts/7d0c6a1f52b8e934", headers=bearer(TOKEN)),
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 200, 404, 500]
    for answer in answers:
        for name, value in SECURITY_HEADERS:
            assert answer.headers[name.decode()] == value.decode()
        assert "server" not in answer.headers


def test_the_documentation_page_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 4
    assert "<script>" not in page.text
    for name in named:
        assert not re.match(r"\w+://|//", name)
        if not name.startswith("data:"):
            found = client.get("/" + name)
            assert found.status_code == 200
            assert found.headers["x-content-type-options"] == "nosniff"
    assert client.get("/docs/swagger-ui-bundle.js").headers["content-type"].startswith("text/javascript")
    is_problem(client.get("/docs/redoc.standalone.js"), 404)
    is_problem(client.get("/docs/..%2fstart.js"), 404)


def test_the_description_says_which_scope_a_route_needs(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    assert api["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert api["paths"]["/v1/audit"]["post"]["security"] == [{"token": ["ingest"]}]
    assert api["paths"]["/v1/principals/{principal}"]["get"]["security"] == [{"token": ["read"]}]
    assert "security" not in api["paths"]["/healthz"]["get"]


# -- connections ------------------------------------------------------------------------------------------------


@pytest.fixture
def live(engine: Engine) -> Callable[..., Live]:
    return lambda **settings: Live(create_app(Settings(**settings), engine))


def problem_in(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"Connection: close" in head
    return json.loads(body)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * 300_000,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n",
    ],
    ids=["a header without end", "many headers", "a long path", "a long header"],
)
def test_heads_over_the_limit_are_431(live: Callable[..., Live], sent: bytes) -> None:
    with live() as server, server.connect() as connection:
        try:
            connection.sendall(sent)
        except (ConnectionResetError, BrokenPipeError):
            return  # closed while it was still coming
        answer = read_all(connection)
        if answer:  # what is still in flight when the other side closes can cost its last words
            assert problem_in(answer)["status"] == 431


def test_heads_within_the_limit_are_read_whichever_way_they_come(live: Callable[..., Live]) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n"
    with live() as server, server.connect() as connection:
        for _ in range(3):  # one connection, several requests: each has its own count
            for start in range(0, len(head), 1500):
                connection.sendall(head[start : start + 1500])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_large_body_right_behind_its_head_is_no_large_head(live: Callable[..., Live]) -> None:
    body = json.dumps([raw_event(number) for number in range(300)]).encode()
    assert len(body) > connection_limits.MAX_HEAD_BYTES
    head = f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with live() as server, server.connect() as connection:
        connection.sendall(head + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"],
    ids=["nothing", "half a line", "no end"],
)
def test_a_request_that_does_not_come_ends_its_connection(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection_limits, "HEAD_SECONDS", 0.2)
    with live() as server, server.connect() as connection:
        connection.sendall(sent)
        assert problem_in(read_all(connection))["status"] == 408


def test_a_body_that_does_not_come_ends_its_connection_and_gives_its_place_back(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_limits, "BODY_SECONDS", 0.2)
    with live(limits={"waiting_requests": 1}) as server:
        with server.connect() as connection:
            connection.sendall(b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n[")
            assert problem_in(read_all(connection))["status"] == 408
        body = json.dumps(raw_event()).encode()
        with server.connect() as connection:
            head = f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert "Traceback" not in caplog.text


def test_a_caller_that_leaves_in_the_middle_is_no_defect(
    live: Callable[..., Live], caplog: pytest.LogCaptureFixture
) -> None:
    with live() as server:
        with server.connect() as connection:
            connection.sendall(b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n[")
        with server.connect() as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            read_all(connection)
    assert "unexpected error" not in caplog.text
    assert "Traceback" not in caplog.text


def test_what_is_no_http_is_a_problem_too(live: Callable[..., Live]) -> None:
    with live() as server, server.connect() as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert problem_in(read_all(connection))["status"] == 400


def test_no_other_protocol_gets_past_the_gate(live: Callable[..., Live]) -> None:
    upgrade = (
        b"GET /v1/alerts HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with live(token=TOKEN) as server, server.connect() as connection:
        connection.sendall(upgrade)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")
