"""Token ids: what a value that training did not know falls back on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from data.actions.fields import FIELDS, STATIC_FIELDS
from data.actions.vocabulary import UNKNOWN, Vocabulary, back_offs

KNOWN: dict[str, tuple[str, ...]] = {
    "name": ("-", "web-*", "web-config", "ledger", "ledger-*", "orders-db"),
    "namespace": ("web", "team-a", "team-b"),
    "client": ("kubectl/1.20 linux",),
    "place": ("10.20.1.5",),
    "resource": ("apps/deployments",),
    "traits": ("-", "containers=1,replicas=1", "containers=1,replicas=2", "asks=get pods"),
    "images": ("registry.example/web/api", "registry.example/web/static", "registry.example/pay/pay"),
    "binding": ("-", "RoleBinding edit/web", "RoleBinding view/web", "RoleBinding edit/pay"),
    "owner": (
        "alice@corp.example",
        "bob@corp.example",
        "system:serviceaccount:ci:a",
        "system:serviceaccount:ci:b",
    ),
    "uri": ("command&stdin sh", "command&stdin bash", "metrics?"),
}


def fitted(known: dict[str, Iterable[str]], times: int = 5, limit: int = 100) -> Vocabulary:
    counts = {field: Counter(dict.fromkeys(known.get(field, ()), times)) for field in STATIC_FIELDS}
    return Vocabulary.fit(counts, span_days=0.1, limit=limit)


VOCABULARY = fitted(dict(KNOWN))


@pytest.mark.parametrize(
    ("field", "value", "falls_back_on"),
    [
        ("name", "web-frontend", "web?"),
        ("name", "web", "web?"),
        ("name", "orders-cache", "<named>"),  # one value of that stem is no kind
        ("namespace", "team-c", "team?"),
        ("namespace", "payments", "<unknown>"),
        ("client", "kubectl/1.99 linux", "kubectl/?"),
        ("place", "10.20.1.9", "10.20.1.0/24"),
        ("place", "10.99.1.9", "private"),
        ("resource", "apps/daemonsets", "apps/?"),
        ("traits", "containers=3,replicas=9", "containers,replicas ?"),
        ("traits", "containers=3,privileged", "<traits>"),
        ("images", "registry.example/web/miner", "registry.example/web/?"),
        ("images", "registry.example/pay/miner", "registry.example/?"),
        ("images", "registry.example/web/api,registry.example/web/miner", "registry.example/web/?"),
        ("images", "elsewhere.example/miner", "<unknown>"),
        ("images", "miner", "<unknown>"),
        ("binding", "RoleBinding own/web", "RoleBinding ?/web"),
        ("binding", "RoleBinding own/pay", "RoleBinding ?"),
        ("binding", "ClusterRoleBinding own", "<unknown>"),
        ("owner", "system:serviceaccount:ci:c", "system:serviceaccount:ci:?"),
        ("owner", "system:serviceaccount:web:c", "system:serviceaccount:?"),
        ("owner", "carol@corp.example", "?@corp.example"),
        ("owner", "carol@elsewhere.example", "<unknown>"),
        ("uri", "command&stdin xmrig", "command&stdin ?"),
        ("uri", "limit", "<unknown>"),
    ],
)
def test_an_unseen_value_falls_back_on_the_narrowest_kind_that_is_known(
    field: str, value: str, falls_back_on: str
) -> None:
    assert VOCABULARY.tokens[field][VOCABULARY.token(field, value)] == falls_back_on


def test_values_that_are_known_are_themselves() -> None:
    for field, values in KNOWN.items():
        for value in values:
            assert VOCABULARY.tokens[field][VOCABULARY.token(field, value)] == value


def test_only_what_stands_for_a_kind_falls_back_on_itself() -> None:
    """So it differs from values, also where it is shown."""
    values = {field: set(known) for field, known in KNOWN.items()}
    for field in KNOWN:
        for value in VOCABULARY.tokens[field][3:]:
            if value not in ("loopback", "private", "public"):
                assert (value in back_offs(field, value)) == (value not in values[field]), (field, value)


def test_every_kind_is_of_a_broader_one_and_none_counts_itself() -> None:
    for field in STATIC_FIELDS:
        known, broader = VOCABULARY.tokens[field], VOCABULARY.broader(field)
        for index, wider in enumerate(broader.tolist()):
            always_known = index < 3 or known[index] in ("-", "denied")
            assert (wider == index) == always_known, (field, known[index])
            assert known[wider] not in ("-", "denied", "<pad>", "<mask>") or always_known
    assert (
        VOCABULARY.tokens["place"][VOCABULARY.broader("place")[VOCABULARY.token("place", "10.20.1.9")]]
        == "private"
    )


@pytest.mark.parametrize(
    ("field", "kind", "size"),
    [
        ("name", "web?", 2),
        ("name", "<named>", 7),
        ("images", "registry.example/web/?", 2),
        ("images", "<unknown>", 5),
    ],
)
def test_a_kind_is_as_large_as_what_falls_back_on_it(field: str, kind: str, size: int) -> None:
    start = sum(VOCABULARY.sizes[: FIELDS.index(field)])
    assert VOCABULARY.kind_sizes[start + VOCABULARY.tokens[field].index(kind)] == size


def test_names_that_are_made_to_go_in_circles_do_no_harm() -> None:
    vocabulary = fitted({"name": ["<named>-a", "<named>-b", "<named>?", "?", "<unknown>-a", "<unknown>-b"]})
    assert len(vocabulary.kind_sizes) == sum(vocabulary.sizes)
    assert vocabulary.token("name", "<named>-c") < len(vocabulary.tokens["name"])


def test_an_older_vocabulary_without_such_kinds_goes_on_as_it_was() -> None:
    tokens = {
        field: [
            value
            for value in known
            if value in KNOWN.get(field, ()) or value.startswith("<") or field == "gap"
        ]
        for field, known in VOCABULARY.tokens.items()
    }
    older = Vocabulary(tokens, uses_hour=False)
    assert older.tokens["name"][older.token("name", "web-frontend")] == "<named>"
    assert older.tokens["traits"][older.token("traits", "containers=3,replicas=9")] == "<traits>"
    assert older.token("images", "registry.example/web/miner") == UNKNOWN


def test_many_kinds_do_not_outgrow_the_limit() -> None:
    names = [f"kind{number}-{letter}" for number in range(300) for letter in "ab"]
    vocabulary = fitted({"name": names}, limit=50)
    kinds = [value for value in vocabulary.tokens["name"] if value.endswith("?")]
    assert len(kinds) in (49, 50)  # with `<named>`
    assert len(vocabulary.tokens["name"]) <= 2 * 50 + 1


@pytest.mark.parametrize("value", ["", "-", "?", "/", " ", ",", "a//b", "::", "@", "x" * 9000, "\x00\u202e"])
def test_any_text_has_a_token(value: str) -> None:
    for field in STATIC_FIELDS:
        assert 0 <= VOCABULARY.token(field, value) < len(VOCABULARY.tokens[field])
