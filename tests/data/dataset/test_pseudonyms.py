"""A dataset with pseudonyms: no person's name is in it, and everything else is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data.dataset.build import build
from data.dataset.pseudonyms import load_key, pseudonym, without_people
from data.dataset.table import load
from data.errors import KubehabitError
from kubehabit.main import app
from serving.forensics.event_store import EventStore
from serving.settings import EventSettings

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
    assert b"alice@corp.example" in (tmp_path / "plain" / "dead-letters.jsonl").read_bytes()
    assert b"alice@corp.example" not in (tmp_path / "kept" / "dead-letters.jsonl").read_bytes()
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


def test_a_document_names_no_person_that_acts_in_it_wherever_the_name_stands() -> None:
    document = {
        "user": {"username": "alice@corp", "groups": ["dev"]},
        "requestURI": "/users/alice%40corp?x",
        "objectRef": {"name": "alice@corp.example"},
        "contributors": [{"principal": "bob", "note": "bob, not bobby"}, {"principal": "system:node:n1"}],
    }
    alice, bob = pseudonym("alice@corp", KEY), pseudonym("bob", KEY)
    assert without_people(document, KEY) == {
        "user": {"username": alice, "groups": ["dev"]},
        "requestURI": f"/users/{alice}?x",
        "objectRef": {"name": "alice@corp.example"},
        "contributors": [{"principal": bob, "note": f"{bob}, not bobby"}, {"principal": "system:node:n1"}],
    }
    assert without_people("text", KEY) == "text"


def test_the_commands_replace_names(
    tmp_path: Path, normal_lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path))
    (tmp_path / "key").write_bytes(KEY)
    people = [line for line in normal_lines[:3000] if b'"username":"erin@corp.example"' in line][:3]
    (tmp_path / "log").write_bytes(b"\n".join([*normal_lines[:200], *people]))
    built = CliRunner().invoke(
        app,
        [
            "data",
            "build",
            str(tmp_path / "log"),
            "--out",
            str(tmp_path / "out"),
            "--pseudonyms",
            str(tmp_path / "key"),
        ],
    )
    assert built.exit_code == 0, built.output
    assert b"erin@corp" not in written(tmp_path / "out")
    store = EventStore(EventSettings(path=tmp_path / "events", memory_mb=256))
    store.append(b"\n".join(people))
    store.close()
    options = ["events", "--local", "--pseudonyms", str(tmp_path / "key")]
    for form in ("--json", "--original"):
        shown = CliRunner().invoke(app, [*options, form])
        assert shown.exit_code == 0, shown.output
        assert "erin@corp" not in shown.stdout
        assert shown.stdout.count(pseudonym("erin@corp.example", KEY)) >= 3
    assert CliRunner().invoke(app, options).exit_code == 2
