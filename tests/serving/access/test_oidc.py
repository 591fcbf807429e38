"""Sign-in by OpenID Connect: against a provider on loopback, and against whatever is not what it answers."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import oidc_provider_mock
import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import RSAKey

from data.errors import KubehabitError
from serving.access.oidc import OidcError, OidcSignIn, _Pending
from serving.console.pages.login import target_of
from serving.settings import OidcSettings, read_settings

# The provider speaks of its own library.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PUBLIC = "http://127.0.0.1:8646"
PAGE = {"Accept": "text/html"}
GROUPS = {"soc": ("read",), "soc-leads": ("read", "admin")}
USERS = (
    ("alice", {"email": "alice@corp.example", "groups": ["soc-leads", "unknown"]}),
    ("bob", {"email": "bob@corp.example", "groups": ["soc"]}),
    ("eve", {"email": "alice@corp.example", "email_verified": False, "groups": ["soc"]}),
    ("mallory", {"email": "mallory@corp.example", "groups": ["sales"]}),
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    users = [oidc_provider_mock.User(sub=sub, claims=claims) for sub, claims in USERS]
    with oidc_provider_mock.run_server_in_thread(require_nonce=True, user_claims=users) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def console(make_client: Callable[..., TestClient], issuer: str) -> TestClient:
    return make_client(access={"oidc": oidc(issuer)})


def oidc(issuer: str, **more: Any) -> dict[str, Any]:
    about = {"issuer": issuer, "client_id": "kubehabit", "client_secret": "secret", "public_url": PUBLIC}
    return about | {"groups": GROUPS, "name": "the test provider"} | more


def at_provider(url: str, person: str) -> dict[str, str]:
    """What a person's browser comes back with, after they signed in at the provider."""
    answer = httpx.post(url, data={"sub": person})
    assert answer.status_code == 302, answer.text
    place = urlsplit(answer.headers["location"])
    assert f"{place.scheme}://{place.netloc}{place.path}" == f"{PUBLIC}/signin/oidc/callback"
    return dict(parse_qsl(place.query))


def begin(console: TestClient, target: str = "/console/incidents") -> str:
    answer = console.get("/signin/oidc", params={"next": target}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def sign_in(console: TestClient, person: str, target: str = "/console/incidents") -> Any:
    return console.get("/signin/oidc/callback", params=at_provider(begin(console, target), person))


def test_a_person_signs_in_at_the_provider_and_acts_under_their_name(
    console: TestClient, own_home: Path
) -> None:
    assert "Sign in with the test provider" in console.get("/console/login", headers=PAGE).text
    assert console.get("/v1/alerts").status_code == 401  # a configured sign-in guards the API as well
    url = begin(console)
    asked = dict(parse_qsl(urlsplit(url).query))
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["state"]) >= 43
    assert len(asked["nonce"]) >= 43
    assert asked["scope"].split()[0] == "openid"
    done = console.get("/signin/oidc/callback", params=at_provider(url, "alice"))
    assert done.status_code == 200
    assert 'content="0;url=/console/incidents"' in done.text
    [session] = [one for one in done.headers.get_list("set-cookie") if one.startswith("kubehabit_session=")]
    assert {"httponly", "samesite=strict", "path=/console"} <= {
        part.strip().lower() for part in session.split(";")
    }
    page = console.get("/console/incidents", headers=PAGE)
    assert page.status_code == 200
    assert "alice@corp.example" in page.text
    assert console.get("/v1/alerts").status_code == 401  # the session opens pages only
    lines = [json.loads(line) for line in (own_home / "access.jsonl").read_text().splitlines()]
    came_back, seen = (
        next(one for one in lines if one["route"] == name)
        for name in ("/signin/oidc/callback", "/console/incidents")
    )
    assert (seen["by"], seen["name"]) == ("person", "alice@corp.example")
    assert set(came_back["query"].values()) == {"…"}  # a code is a secret


def test_groups_give_the_scopes(console: TestClient) -> None:
    assert sign_in(console, "bob").status_code == 200
    page = console.get("/console/", headers=PAGE)
    token = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
    refused = console.post(
        "/console/incidents/x/close",
        data={"form_token": token[1] if token else ""},
        headers={"Origin": PUBLIC},
    )
    assert refused.status_code == 403
    assert "admin" in refused.text or "analyst" in refused.text
    console.cookies.clear()
    refused = sign_in(console, "mallory")
    assert refused.status_code == 403
    assert "none of your groups" in refused.text
    assert console.get("/console/incidents", headers=PAGE, follow_redirects=False).status_code in (303, 401)


def test_an_address_that_the_provider_has_not_checked_is_no_name(console: TestClient) -> None:
    sign_in(console, "eve")
    page = console.get("/console/incidents", headers=PAGE).text
    assert "alice@corp.example" not in page
    assert "eve" in page


def test_an_answer_is_taken_once_and_only_from_the_browser_that_asked(console: TestClient) -> None:
    answer = at_provider(begin(console), "alice")
    other = TestClient(console.app, base_url=PUBLIC)  # another browser, which was sent the link
    assert other.get("/signin/oidc/callback", params=answer).status_code == 403
    assert console.get("/signin/oidc/callback", params=answer).status_code == 403  # the state is used up
    answer = at_provider(begin(console), "alice")
    assert console.get("/signin/oidc/callback", params=answer | {"state": "x" * 43}).status_code == 403
    assert (
        console.get("/signin/oidc/callback", params=answer | {"iss": "http://evil.example"}).status_code
        == 403
    )
    url = begin(console)
    denied = dict(parse_qsl(urlsplit(url).query))["state"]
    wrong = console.get("/signin/oidc/callback", params={"state": denied, "error": "access_denied<b>"})
    assert wrong.status_code == 403
    assert "access_denied&lt;b&gt;" in wrong.text
    assert sign_in(console, "alice").status_code == 200


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/console/../v1", "/console/login"]
)
def test_the_way_back_leads_into_the_console_only(console: TestClient, target: str) -> None:
    done = sign_in(console, "alice", target)
    assert f'content="0;url={target_of(target)}"' in done.text
    assert "evil" not in done.text


def test_the_provider_that_is_down_is_one_sentence(make_client: Callable[..., TestClient]) -> None:
    client = make_client(access={"oidc": oidc("http://127.0.0.1:9")})
    answer = client.get("/signin/oidc")
    assert answer.status_code == 502
    assert "does not answer as an OpenID provider" in answer.text


def test_without_a_provider_there_is_no_such_page(client: TestClient) -> None:
    assert client.get("/signin/oidc").status_code == 404
    assert "or with a token" not in client.get("/console/login", headers=PAGE).text


# -- tokens that are not right ----------------------------------------------------------------------------------

KEY = RSAKey.generate_key(2048, {"kid": "one", "alg": "RS256", "use": "sig"})
OTHER = RSAKey.generate_key(2048, {"kid": "one", "alg": "RS256", "use": "sig"})
ISSUER = "https://login.example"


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    about = {"iss": ISSUER, "aud": "kubehabit", "sub": "alice", "iat": now, "exp": now + 300, "nonce": "n"}
    return {name: value for name, value in (about | more).items() if value is not None}


def check(token: str) -> dict[str, Any]:
    client = OidcSignIn(OidcSettings.model_validate(oidc(ISSUER)))
    client._key_set = lambda *_, **__: {"keys": [KEY.as_dict(private=False)]}  # type: ignore[method-assign]
    return dict(client._checked(None, token, "n", None))  # type: ignore[arg-type]


def signed(values: dict[str, Any], key: Any = KEY, algorithm: str = "RS256") -> str:
    return jwt.encode({"alg": algorithm, "kid": "one"}, values, key, algorithms=[algorithm])


def _base64(head: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()


def test_a_right_token_is_taken() -> None:
    assert check(signed(claims()))["sub"] == "alice"


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["kubehabit", "another"], "azp": "another"},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"iat": int(time.time()) + 3600},
        {"nonce": "another"},
        {"nonce": None},
        {"sub": None},
    ],
    ids=lambda wrong: "-".join(f"{name}-{type(value).__name__}" for name, value in wrong.items()),
)
def test_a_token_with_a_wrong_claim_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OidcError, match="not valid"):
        check(signed(claims(**wrong)))


def test_a_token_that_the_provider_did_not_sign_is_refused() -> None:
    payload = signed(claims()).split(".")[1]
    unsigned = ".".join((_base64({"alg": "none"}), payload, ""))
    # The public key taken for the secret of an HMAC, which everybody could compute.
    head = ".".join((_base64({"alg": "HS256", "kid": "one"}), payload))
    mac = hmac.digest(KEY.as_pem(private=False), head.encode(), "sha256")
    confused = f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    for token in (
        signed(claims(), OTHER),
        confused,
        unsigned,
        signed(claims())[:-4] + "AAAA",
        "not a token",
    ):
        with pytest.raises(OidcError, match="not valid"):
            check(token)


def test_sign_ins_that_nobody_finishes_are_forgotten() -> None:
    moment = [0.0]
    client = OidcSignIn(OidcSettings.model_validate(oidc(ISSUER)), clock=lambda: moment[0])
    client._pending["s"] = _Pending("n", "v", "b", "/console/")
    moment[0] = 601.0
    with pytest.raises(OidcError, match="ten minutes"):
        client.finish({"state": "s", "code": "c"}, "")
    for number in range(3000):
        client._pending[str(number)] = _Pending("n", "v", "b", "/console/")
    assert len(client._pending) <= 1000


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://login.example"},
        {"public_url": "ftp://x"},
        {"groups": {}},
        {"groups": {"soc": ["root"]}},
        {"issuer": "https://login.example?x=1"},
    ],
    ids=str,
)
def test_settings_that_would_not_be_safe_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps({"access": {"oidc": oidc(ISSUER) | wrong}}))
    with pytest.raises(KubehabitError, match=r"access\.oidc"):
        read_settings(file)


def test_a_session_of_a_person_ends_like_any_other(console: TestClient) -> None:
    sign_in(console, "alice")
    page = console.get("/console/incidents", headers=PAGE).text
    token = re.search(r'name="form_token" value="([0-9a-f]{64})"', page)
    assert token is not None
    out = console.post(
        "/console/logout", data={"form_token": token[1]}, headers={"Origin": PUBLIC}, follow_redirects=False
    )
    assert out.status_code == 303
    assert console.get("/console/incidents", headers=PAGE, follow_redirects=False).status_code != 200
