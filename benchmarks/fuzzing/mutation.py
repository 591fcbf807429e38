"""Mutations that keep JSON whole, so that what is behind the decoders meets them: values become others, of any type."""

from __future__ import annotations

import json
import random

from benchmarks.fuzzing.poison import HUGE, NUMBERS, TEXTS, TIMES

_SHORT = 400
_TEXTS = [text for text in (*TEXTS, *TIMES) if len(text) < _SHORT]
_NAMES = (
    *("system:admin", "system:masters", "system:node:n1", "system:serviceaccount:kube-system:a", "system:anonymous"),
    *("kubernetes-admin", "assumed-role/a/b", "arn:aws:sts::1:assumed-role/a/b", "principal://iam.googleapis.com/a/b"),
    *("alice@example.org", "eks:a", "pods", "secrets", "exec", "proxy", "token", "roles", "clusterrolebindings", "nodes"),
    *("events", "escalate", "bind", "impersonate", "get", "list", "watch", "create", "update", "patch", "delete"),
    *("deletecollection", "connect", "head", "post", "ResponseStarted", "ResponseComplete", "Panic", "RequestReceived"),
    *("Metadata", "RequestResponse", "allow", "forbid", "apps", "rbac.authorization.k8s.io", "audit.k8s.io/v1beta1", "v1"),
    *("kubectl/v1.30.1 (linux/amd64) kubernetes/6911225", "curl/8.5", "10.0.0.7", "::1", "127.0.0.1", "203.0.113.9", "a,b"),
    *("/api", "/", "/api/v1/namespaces/a/pods/b/exec?command=sh&command=-c", "/apis/a/v1/b?watch=true", "/healthz"),
)  # fmt: skip
#: JSON of texts: a name that means something three times.
_JSON_TEXTS = [json.dumps(text).encode() for text in (*_TEXTS, *_NAMES * 3)]
_JSON_NUMBERS = [number.encode() for number in (*NUMBERS, "200", "201", "403", "404", "1")]
#: JSON of values of any type.
_VALUES = [
    *(
        *_JSON_TEXTS,
        *_JSON_NUMBERS,
        b"null",
        b"true",
        b"false",
        HUGE.encode(),
        b'"\\ud800"',
        b'"\\u0000"',
        b'"\xff"',
    ),
    *(b"[]", b"{}", b"[[[]]]", b'{"":{"":null}}', b'["a"]', b"[null,3,{}]", b'{"a":["b"]}'),
    b'{"containers":[{"image":"a","securityContext":{"privileged":true}}]}',
    b'[{"op":"add","path":"/a/b~1c","value":{}}]',
]
#: Share of values that become others of the same type, with which an event stays one.
_SAME_TYPE = 0.85


def change_values(data: bytes, chance: random.Random) -> bytes:
    """One to three values of members of JSON, also of JSON in a text, become others; what holds no JSON stays as it is."""
    for _ in range(chance.randint(1, 3)):
        at = data.find(b'":', chance.randrange(len(data) + 1))
        begin = at + 2
        if at < 0:
            continue
        if data[begin : begin + 1] == b" ":
            begin += 1
        quote = b'\\"' if data[at - 1 : at] == b"\\" else b'"'
        if data.startswith(quote, begin):
            end = data.find(quote, begin + len(quote)) + len(quote)
            pool = _JSON_TEXTS
        elif data[begin : begin + 1] in (b"{", b"["):
            continue
        else:
            ends = (data.find(mark, begin, begin + 40) for mark in (b",", b"}", b"]"))
            end = min((place for place in ends if place >= 0), default=-1)
            pool = _JSON_NUMBERS
        value = chance.choice(pool if chance.random() < _SAME_TYPE else _VALUES)
        if len(quote) > 1:  # in a text
            value = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        if end > begin:
            data = data[:begin] + value + data[end:]
    return data
