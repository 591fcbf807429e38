"""A dataset with pseudonyms: no person's name is in it, and everything else is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from data.dataset.build import build
from data.dataset.pseudonyms import load_key, pseudonym
from data.dataset.table import load
from data.errors import KubehabitError

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, normal_lines: list[bytes]) -> Path:
    path = tmp_path_factory.mktemp("log") / "normal.jsonl"
    eve = {"impersonatedUser": {"username": "eve@corp.example", "groups": []}}
    first = json.loads(normal_lines[0])
    impersonating = [json.dumps(first | eve | {"auditID": f"impersonating-{i}"}).encode() for i in range(50)]
    unreadable = b'{"user": {"username": "alice@corp.example"}, '
    path.write_bytes(b"\n".join([*impersonating, *normal_lines, unreadable]))
    return path


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_no_name_of_a_person_is_left_and_all_else_is(log: Path, tmp_path: Path) -> None:
    build([log], tmp_path / "plain", progress=False, workers=1)
    build([log], tmp_path / "kept", pseudonyms=KEY, progress=False, workers=1)
    plain, kept = load(tmp_path / "plain"), load(tmp_path / "kept")
    people = sorted({str(name) for name, kind in zip(plain.name, plain.kind, strict=True) if kind == "human"})
    assert len(people) > 5
    content = written(tmp_path / "kept")
    for name in (*people, "eve@corp.example"):
        assert name.encode() in written(tmp_path / "plain")
        assert name.encode() not in content, name
    assert "unreadable" not in content.decode("latin-1")
    replaced = [pseudonym(name, KEY) if name in people else name for name in plain.name.tolist()]
    order, other = np.argsort(plain.arrival), np.argsort(kept.arrival)
    assert np.array(replaced, object)[order].tolist() == kept.name[other].tolist()
    assert plain.kind[order].tolist() == kept.kind[other].tolist()
    assert plain.attributes[order].tolist() == kept.attributes[other].tolist()
    names, names_kept = plain.principals.group_of, kept.principals.group_of
    assert {pseudonym(name, KEY) if name in people else name for name in names} == set(names_kept)
    assert plain.card["dead_letters"] == kept.card["dead_letters"] == 1


def test_a_key_gives_its_own_pseudonyms_always_the_same() -> None:
    assert pseudonym("alice", KEY) == pseudonym("alice", KEY)
    assert pseudonym("alice", KEY) != pseudonym("alice", KEY[::-1])
    assert pseudonym("alice", KEY) != pseudonym("Alice", KEY)
    assert pseudonym("\ud800", KEY)


def test_a_key_is_read_from_a_file_that_holds_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(KubehabitError, match="openssl rand"):
        load_key(path)
    path.write_bytes(b"short")
    with pytest.raises(KubehabitError, match="fewer than 32"):
        load_key(path)
    key = os.urandom(32)
    path.write_bytes(key)
    assert load_key(path) == key
