"""Secrets of every documented format are found in texts, and what is none stays readable."""

from __future__ import annotations

import base64
import time

import pytest

from data.secret_text import secret_spans, without_secrets
from tests.data.secret_corpus import left, shapes

SHAPES = list(shapes())


def test_the_corpus_has_more_than_two_hundred_shapes() -> None:
    assert len({shape.label for shape in SHAPES}) >= 200


def test_nothing_of_a_secret_is_left_in_a_text() -> None:
    kept = {shape.label: without_secrets(shape.text, "[x]") for shape in SHAPES}
    leaks = {
        shape.label: kept[shape.label]
        for shape in SHAPES
        if any(left(kept[shape.label], secret) for secret in shape.secrets)
    }
    assert leaks == {}


@pytest.mark.parametrize(
    "text",
    [
        "registry.example:5000/team/app:1.2@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "docker-pullable://registry:5000/a@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "8f6f2f52-0c4c-4d9e-9a0e-6b6c9d1a0001",
        "web-5d4f8c7b9-x2x4z",
        "orders.18eab1f5de191f69",
        "system:serviceaccount:kube-system:token-cleaner",
        "default-token-x2x4z",
        "bootstrap-token-abcdef",
        "kubectl/v1.30.1 (linux/amd64) kubernetes/6911225",
        "/api/v1/namespaces/web/serviceaccounts/default/token?timeout=10s&fieldManager=kubelet",
        "/api/v1/secrets?fieldSelector=type%3Dkubernetes.io%2Fservice-account-token&limit=500",
        "/api/v1/namespaces/web/pods/db/exec?command=ls&command=-la&command=%2Fetc&container=a&stdout=true",
        "--authentication-token-webhook-config-file /etc/a --tls-private-key-file=/etc/key.pem",
        "mkdir -p /var/lib/data; ssh -p 2222 host; docker run -p 8080:80 nginx",
        'secrets "db" is forbidden: User "bob@example.com" cannot get resource "secrets" in API group "" in the namespace "web"',
        "--password=$(DB_PASSWORD) --token=$TOKEN",
        "http://10.0.0.1:6443/healthz?verbose alice@example.com",
        "curl -u 1000:1000",
        "the token has expired",
        "Unauthorized token: expired",
    ],
)  # fmt: skip
def test_names_digests_and_sentences_stay(text: str) -> None:
    assert without_secrets(text, "[x]") == text


def test_a_text_with_too_many_secrets_is_one_secret() -> None:
    text = b"token=a&" * 2000  # each of them is found
    assert secret_spans(text) == [(0, len(text))]


@pytest.mark.parametrize("unit", [b"token=true ", b"pass:null ", b"--token none ", b"mysql "])
def test_a_text_in_which_too_much_looks_like_a_secret_is_one_secret(unit: bytes) -> None:
    assert secret_spans(3_000 * unit) == []
    text = 6_000 * unit
    assert secret_spans(text) == [(0, len(text))]


def test_lines_of_base64_are_decoded_each_for_itself() -> None:
    plain = base64.b64encode(b"nothing of it is for nobody else to know, ")
    secret = base64.b64encode(b"export PASSWORD=Correct-horse-battery-1 ")
    text = b"\n".join([plain, secret, plain])
    assert secret_spans(text) == [(len(plain) + 1, len(plain) + 1 + len(secret))]


REPEATED = [
    b"token=a&", b"token=", b"a://b:", b"a://b:c@", b"%25", b"ghp_", b"-p x mysql ", b'password: "', b"ZZZZ", b"--token ",
    b"cookie:", b"--token-", b"eyJa.", b"password '", b"?command=", b"AKIA", b"mysql -p", b"token:bearer   ",
    b"abcdef.", b"hvs.-", b"token=true ", b"pass:null ", b"CDEFCDEFCDEFCDEFCDEFCDEF ", b"?token=true&",
    b"abcdef.0123456789abcdef ",
]  # fmt: skip


@pytest.mark.parametrize("unit", REPEATED)
def test_time_is_linear_whatever_is_repeated(unit: bytes) -> None:
    def seconds(size: int) -> float:
        text, best = unit * (size // len(unit)), 60.0
        for _ in range(2):
            began = time.process_time()
            secret_spans(text)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(100_000) < 30 * seconds(10_000) + 0.1
