"""What `kubehabit data inspect` advises about proxies, from what a log says of them."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import pytest

from data.events.decode import decode_lines
from data.paths import shipped
from data.principals.identity import Identity
from data.reports.advice import SettingsAdvice
from data.reports.log_summary import inspect
from tests.data.samples import event

IDENTITY = Identity(shipped("identity.yaml"))
CLIENTS = [f"203.0.113.{number}" for number in range(40)]


def settings_of(*lines: bytes) -> SettingsAdvice:
    found = SettingsAdvice()
    found.count(decode_lines(lines).events, IDENTITY)
    return found


def chains(*before: list[str], count: int = 200) -> list[bytes]:
    """Requests of many clients, each with one of the lists of further addresses behind its own."""
    pairs = zip(islice(cycle(CLIENTS), count), cycle(before), strict=False)
    return [event(sourceIPs=[client, *proxies]) for client, proxies in pairs]


@pytest.mark.parametrize(
    ("lines", "hops"),
    [
        (chains([]), 0),
        (chains(["127.0.0.1"]), 1),
        (chains(["10.0.0.9"], ["10.0.0.10"], []), 1),
        (chains(["192.0.2.1", "10.0.0.9"], ["192.0.2.2", "10.0.0.9"]), 2),
        # One of its clients writes the header itself.
        (chains([], count=400) + chains(["198.51.100.66"], count=10), 0),
        # Many do, and no address comes twice: no proxy of one's own.
        ([event(sourceIPs=[CLIENTS[0], f"198.51.100.{number}"]) for number in range(200)], 0),
        # Too little to tell.
        (chains(["172.31.36.137", "10.42.0.34"], count=3), 0),
        ([event(sourceIPs=[])], 0),
    ],
)
def test_the_proxies_before_the_api_server_are_counted(lines: list[bytes], hops: int) -> None:
    assert settings_of(*lines).trusted_hops() == hops


def test_it_says_which_value_fits_and_what_it_takes() -> None:
    assert settings_of(*chains(["127.0.0.1"])).advice() == []  # it is seen through
    (advice,) = settings_of(*chains(["10.0.0.9"])).advice()
    assert advice.what == "200 of 200 requests came through 1 proxy with few addresses (10.0.0.9)"
    assert "--trusted-hops 1" in advice.do
    (advice,) = settings_of(*chains([], count=400), *chains(["198.51.100.66"], count=10)).advice()
    assert "10 of 410 requests carry addresses that their clients can have written" in advice.what
    assert settings_of(*chains([])).advice() == []


def acting(account: str, *users: str) -> list[bytes]:
    caller = {"user": {"username": account}, "sourceIPs": ["10.0.0.1"]}
    return [event(impersonatedUser={"username": user}, **caller) for user in users]


def test_an_account_that_acts_as_many_users_may_be_a_proxy() -> None:
    gateway = "system:serviceaccount:gateway:proxy"
    lines = acting(gateway, *(f"user-{number}" for number in range(30)))
    (advice,) = settings_of(*lines).advice()
    assert advice.what == f"{gateway} acts as 30 users (user-0, user-1 ...)"
    assert "`proxies` in identity.yaml" in advice.do


@pytest.mark.parametrize(
    ("account", "users"),
    [
        ("system:serviceaccount:cattle-system:kontainer-engine", [f"u-{n}" for n in range(30)]),  # is known
        ("mallory", ["vera", "otto"]),
        ("flux", [f"system:serviceaccount:team-{n}:reconciler" for n in range(30)]),
    ],
)
def test_other_impersonation_is_no_reason_for_advice(account: str, users: list[str]) -> None:
    assert settings_of(*acting(account, *users)).advice() == []


def test_inspect_prints_the_advice_and_counts_people_by_name(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rancher = "system:serviceaccount:cattle-system:kontainer-engine"
    log.write_bytes(b"\n".join([*chains(["10.0.0.9"]), *acting(rancher, "u-1", "u-2")]))
    found = inspect([log])
    assert "--trusted-hops 1" in found.to_dict()["advice"][0]["do"]
    assert found.kinds() == {"human": 3}
