"""Times every function that meets a log's text on its worst cases: `make bench-text`.

Of each function the slowest of some dozen repeated patterns is shown: milliseconds for the 4,096 characters to which texts are
cut when they are decoded, milliseconds for 1 MB of what it is given, and how many times as long 1 MB takes as 100 KB (10 is
linear). Only what reads whole records or bodies meets as much as that.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from data.actions.folding import fold_client, fold_name, network_of
from data.errors import KubehabitError
from data.events.audit_event import MAX_TEXT, DeadLetter, cut_text
from data.events.decode import decode_body, decode_lines
from data.events.formats.json_stream import Documents
from data.events.formats.registry import Sources
from data.paths import shipped
from data.principals.identity import Identity, without_generated
from data.principals.person import Person
from data.timestamps import is_time
from data.visible_text import visible
from serving.forensics.redaction import redact
from serving.schemas import clean

SMALL, LARGE = 100_000, 1_000_000
#: What a worst case repeats.
UNITS = (
    *("a", "0", "-", "-0", "-2222222", " ", "\n", "é", "\0", "\x1b", "\u202e", "\u200b", "\U000e0041", "*-", ".*"),
    *("\\", '"', '\\"', "{", "[", "}{", '}{"a":', '{"a":1}', '"data":', "\\u0000", "\\u0061", "%", "%2F", "/a", "?a=", "&a="),
    *("eyJ", "eyJ.", "eyJaaaaaa.", ".eyJaaaaaa", "eyJaaaaaa.eyJaaaaaa", "Bearer ", "Bearer aaaaaaaa ", "basic+", "password="),
    *("-----BEGIN PRIVATE KEY-----", "alice@corp", "alice@corp.", "alice%40corp", "10.", "::", "2026-01-05T", "system:", "a.b"),
    *("token=true ", "?token=true&", "pass:null ", "%20token%3Dtrue ", "mysql "),
    *("CDEFCDEFCDEFCDEFCDEFCDEF ", "abcdef.0123456789abcdef "),
)  # fmt: skip
#: Shorter than this, in seconds, says nothing about growth.
NOISE = 0.002

_identity = shipped(shipped("actions.yaml")["identity"])
_person = Person("alice@corp")


def _string(text: str) -> bytes:
    return json.dumps({"auditID": "a", "requestURI": text}).encode()


def _body(text: str) -> bytes:
    value = {
        "auditID": "a",
        "requestObject": {"data": {"a": text}, "b": text, "env": [{"name": "a", "value": text}]},
    }
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _parts(text: str) -> bytes:
    """A body of many small values."""
    values = [text[at : at + 8] for at in range(0, min(len(text), 100_000), 8)]
    return json.dumps({"auditID": "a", "requestObject": {"token": "x", "list": values}}).encode()


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _documents(data: bytes) -> None:
    splitter = Documents(1)
    splitter.feed(data)
    if not splitter.finished:
        splitter.end()


def _decode(data: bytes) -> None:
    with suppress(KubehabitError):
        decode_body(data)


#: Name -> what makes the argument of a text, and the function.
FUNCTIONS: dict[str, tuple[Callable[[str], object], Callable[..., object]]] = {
    "visible": (str, visible),
    "clean": (str, clean),
    "cut_text": (str, cut_text),
    "fold_name": (str, fold_name),
    "fold_client": (str, fold_client),
    "network_of": (str, network_of),
    "is_time": (str, is_time),
    "without_generated": (str, without_generated),
    "principal": (lambda text: f"system:serviceaccount:{text}", lambda text: Identity(_identity).principal(text, ())),
    "a person's name": (str, lambda text: _person.replaced(text, "x")),
    "dead letter": (lambda text: DeadLetter(1, "", _raw(text)), lambda letter: letter.text),
    "dead letter, in a string": (lambda text: DeadLetter(1, "", _string(text)), lambda letter: letter.text),
    "redact a string": (_string, redact),
    "redact a body": (_body, redact),
    "redact many values": (_parts, redact),
    "decode a line": (lambda text: [_raw(text).replace(b"\n", b" ")], decode_lines),
    "decode a body": (_raw, _decode),
    "decode a string": (lambda text: [_string(text)], decode_lines),
    "open a record": (_raw, lambda raw: Sources().open(raw)),
    "open a wrapped string": (
        lambda text: json.dumps({"records": [{"category": "kube-audit", "properties": {"log": text}}]}).encode(),
        lambda raw: Sources().open(raw),
    ),
    "split a stream": (_raw, _documents),
}  # fmt: skip


def _size(given: object) -> int:
    """Bytes, or characters, of what a function is given."""
    if isinstance(given, DeadLetter):
        given = given.raw
    return sum(map(len, given)) if isinstance(given, list) else len(given)  # type: ignore[arg-type]


def _given(name: str, unit: str, size: int) -> object:
    """What a function is given: of a text of at most so many characters; of a longer one, as many bytes, escapes included."""
    make, _ = FUNCTIONS[name]
    times = size // len(unit)
    given = make(unit * times)
    if size > MAX_TEXT and _size(given) > size:
        given = make(unit * (times * size // _size(given)))
    return given


def seconds(name: str, unit: str, size: int, times: int = 2) -> float:
    """CPU time of a function on a unit repeated to so many characters, or bytes; the best of some tries."""
    _, function = FUNCTIONS[name]
    given = _given(name, unit, size)
    best = float("inf")
    for _ in range(times):
        begin = time.process_time()
        function(given)
        best = min(best, time.process_time() - begin)
        if best > 1:
            break
    return best


def worst(name: str, size: int) -> tuple[float, str]:
    """Time of the slowest unit at a size, and the unit."""
    return max((seconds(name, unit, size, 1), unit) for unit in UNITS)


def growth(name: str, small: int, large: int) -> tuple[float, float, str]:
    """How many times as long the slowest unit takes at the larger size, its time there in seconds, and the unit."""
    _, unit = worst(name, small)
    few, many = seconds(name, unit, small, 3), seconds(name, unit, large)
    slowest, other = worst(name, large)
    if slowest > 2 * many:
        few, many, unit = seconds(name, other, small, 3), seconds(name, other, large), other
    return many / max(few, NOISE / 10), many, unit


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = {name: (worst(name, MAX_TEXT)[0], *growth(name, SMALL, LARGE)) for name in FUNCTIONS}
    if options.json:
        columns = ("cut_s", "ratio", "seconds", "unit")
        print(json.dumps({name: dict(zip(columns, row, strict=True)) for name, row in found.items()}))
    else:
        print(f"{'function':<28}{'4,096, ms':>11}{'1 MB, ms':>10}{'x for x10':>11}  worst unit")
        for name, (cut, ratio, many, unit) in found.items():
            print(f"{name:<28}{1e3 * cut:>11.2f}{1e3 * many:>10.1f}{ratio:>11.1f}  {unit!r}")
    sys.exit(any(ratio > 25 and many > NOISE for _, ratio, many, _ in found.values()))


if __name__ == "__main__":
    main()
