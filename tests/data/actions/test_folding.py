"""Folding: what machines made up is folded, what people chose is kept."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data.actions.folding import (
    SAFE,
    client_family,
    fold_client,
    fold_name,
    network_of,
    place_of,
    reach_of,
)

WORDS = st.sampled_from(["web", "payments", "ingress-nginx", "kube-proxy", "db"])
SUFFIX = st.text(SAFE, min_size=5, max_size=5)


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("web-5d4f8c7b9-x2x4z", "web-*"),
        ("web-x2x4z", "web-*"),
        ("ingress-nginx-controller-7d4f8c7b9-bcdfg", "ingress-nginx-controller-*"),
        ("db-0", "db-*"),
        ("db-12", "db-*"),
        ("sh.helm.release.v1.pay.v53", "sh.helm.release.vN.pay.vN"),
        ("web-5d4f8c7b9-x2x4z.17a2b3c4d5e6f7a8", "web-*"),
        ("backup-20260105", "backup-*"),
        ("pvc-8f6f2f52-0c4c-4d9e-9a0e-6b6c9d1a0001", "pvc-*"),
        ("payments-db-credentials", "payments-db-credentials"),
        ("system:node-bootstrapper", "system:node-bootstrapper"),
        ("kube-root-ca.crt", "kube-root-ca.crt"),
        ("ip-10-0-3-17.internal", "ip-*.internal"),
        ("index-abebb", "index-*"),
        ("index-7c9e7", "index-*"),
        ("feat-eeef", "feat-*"),
        ("web-cafe", "web-cafe"),
        ("news-feed", "news-feed"),
        ("data-facade-0", "data-facade-*"),
        ("", "-"),
    ],
)
def test_names(name: str, folded: str) -> None:
    assert fold_name(name) == folded


@given(st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789-._:/*N"), max_size=40))
def test_folding_twice_changes_nothing(name: str) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)


@given(WORDS, SUFFIX, SUFFIX)
def test_replicas_of_a_workload_are_one_object(word: str, first: str, second: str) -> None:
    assert fold_name(f"{word}-{first}") == fold_name(f"{word}-{second}")


@given(
    WORDS,
    st.text("0123456789abcdef", min_size=5, max_size=5),
    st.text("0123456789abcdef", min_size=5, max_size=5),
)
def test_hexadecimal_suffixes_are_random_with_or_without_a_digit(word: str, first: str, second: str) -> None:
    assume(not {first, second} & {"added", "bedad", "ceded", "decaf", "faced", "faded"})
    assert fold_name(f"{word}-{first}") == fold_name(f"{word}-{second}")


@given(st.lists(WORDS, min_size=2, max_size=3, unique=True), st.integers(0, 99))
def test_different_words_stay_different(words: list[str], number: int) -> None:
    assert len({fold_name(f"{word}-config-{number}") for word in words}) == len(words)


@pytest.mark.parametrize(
    ("agent", "folded"),
    [
        ("kubectl/v1.20.2 (linux/amd64) kubernetes/faecb19", "kubectl/1.20 linux"),
        (
            "kube-scheduler/v1.20.2 (linux/amd64) kubernetes/faecb19/leader-election",
            "kube-scheduler/1.20 linux leader-election",
        ),
        ("Go-http-client/2.0", "Go-http-client/2.0"),
        ("Helm/3.14.2", "Helm/3.14"),
        ("controller/v1.2.0 (linux/amd64) cert-manager/969b678f", "controller/1.2 linux cert-manager"),
        ("tool_8f14e45f-ceea", "tool"),
        ("k9s/v0.24.2 (darwin/amd64) kubernetes/$Format", "k9s/0.24 darwin"),
        ("", "-"),
    ],
)
def test_clients(agent: str, folded: str) -> None:
    assert fold_client(agent) == folded


@given(st.text(max_size=60))
def test_any_agent_folds(agent: str) -> None:
    assert client_family(fold_client(agent)) is not None


def test_a_forged_forwarded_address_is_not_believed() -> None:
    through_load_balancer = ("6.6.6.6", "10.0.0.9", "172.16.0.1")  # forged, real client, load balancer
    assert place_of(through_load_balancer, trusted_hops=1) == "10.0.0.9"
    assert place_of(("6.6.6.6", "10.0.0.9"), trusted_hops=0) == "10.0.0.9"
    assert place_of((), trusted_hops=1) == "-"


@pytest.mark.parametrize(
    ("chain", "hops", "place"),
    [
        (("10.0.0.9", "127.0.0.1"), 0, "10.0.0.9"),
        (("10.0.0.9", "::1"), 0, "10.0.0.9"),
        (("10.0.0.9", "127.0.0.1", "127.0.0.1"), 0, "10.0.0.9"),
        # What is counted already is not counted twice: nothing further left is trusted.
        (("6.6.6.6", "10.0.0.9", "127.0.0.1"), 0, "10.0.0.9"),
        (("6.6.6.6", "10.0.0.9", "127.0.0.1"), 1, "10.0.0.9"),
        (("192.0.2.1", "10.0.0.9", "127.0.0.1"), 2, "192.0.2.1"),
        (("127.0.0.1",), 0, "127.0.0.1"),
        (("127.0.0.1", "10.0.0.9"), 0, "10.0.0.9"),
    ],
)
def test_a_proxy_on_the_api_servers_own_machine_is_seen_through(
    chain: tuple[str, ...], hops: int, place: str
) -> None:
    assert place_of(chain, hops, through_loopback=True) == place


@pytest.mark.parametrize(
    ("logged", "place"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9:54321", "203.0.113.9"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::1", "::1"),
        ("unknown", "unknown"),
        ("999.1.1.1:80", "999.1.1.1"),
        ("", "-"),
    ],
)
def test_an_address_has_one_form(logged: str, place: str) -> None:
    assert place_of((logged,), trusted_hops=0) == place


@pytest.mark.parametrize(
    ("address", "network", "reach"),
    [
        ("10.1.2.3", "10.1.2.0/24", "private"),
        ("127.0.0.1", "127.0.0.0/24", "loopback"),
        ("198.51.100.7", "198.51.100.0/24", "public"),
        ("2001:db8:1:2::3", "2001:db8:1::/48", "public"),
        ("fd00::1", "fd00::/48", "private"),
        ("nonsense", "-", "-"),
    ],
)
def test_addresses_widen(address: str, network: str, reach: str) -> None:
    assert (network_of(address), reach_of(address)) == (network, reach)
