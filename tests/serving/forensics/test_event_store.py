"""The event store: what is taken in stays, over seals, merges and crashes, and what is dropped leaves its mark."""

from __future__ import annotations

import json
import random
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from data.errors import KubehabitError
from serving.forensics import clock, event_store, kept_files, parquet_writer
from serving.forensics.catalog import StoredFile
from serving.forensics.event_store import EventStore, EventStoreUnusableError
from serving.forensics.kept_files import mergeable
from serving.forensics.merkle import BLOCK, blocks_of, climb, leaf_of, path_in, root_of
from serving.forensics.queries import EventFilter, EventQueries
from serving.forensics.records import CONTENT_SQL, EventRecord, content_of
from serving.forensics.verify import verify
from tests.data.envelopes import gke_entry
from tests.data.samples import event
from tests.serving.event_stores import ISSUED, body, new_store, story, with_credential
from tests.serving.fakes import ndjson, raw_event, secret_event


def all_records(folder: Path) -> list[EventRecord]:
    return EventQueries(folder).events(EventFilter(), limit=10_000).records


def rfc6962(leaves: list[bytes]) -> bytes:
    """The tree hash as RFC 6962 defines it."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + rfc6962(leaves[:k]) + rfc6962(leaves[k:])).digest()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 255, 256, 257, 600, 1025])
def test_the_tree_is_that_of_rfc_6962_and_every_path_leads_to_its_root(count: int) -> None:
    leaves = [leaf_of(str(number).encode()) for number in range(count)]
    blocks = blocks_of(leaves)
    root = rfc6962(leaves)
    assert root_of(leaves) == root_of(blocks) == root
    for index in {0, count // 2, count - 1}:
        block = index // BLOCK
        path = path_in(leaves[block * BLOCK : (block + 1) * BLOCK], index % BLOCK) + path_in(blocks, block)
        assert climb(leaves[index], path) == root


def test_every_event_is_kept_with_its_own_text(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert store.append(body(story()), received=1_700_000_000_000_000, alerts={"id-30": "a1"}) == 27
    store.close()
    records = all_records(tmp_path)
    assert [record.number for record in records] == list(range(27))
    assert [json.loads(record.event) for record in records] == story()
    mallory = records[23]
    assert (mallory.principal, mallory.verb, mallory.resource, mallory.namespace) == (
        "mallory@corp",
        "list",
        "secrets",
        "payments",
    )
    assert (mallory.credential, mallory.uid, mallory.alert) == ("JTI=3f2a8c1e", "u-1", "a1")
    assert mallory.received == 1_700_000_000_000_000
    assert records[0].source_ips == "203.0.113.7,127.0.0.1"


def test_a_credential_that_a_request_brings_into_being_is_noted(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    minted = raw_event(1, verb="create", resource="serviceaccounts", subresource="token")
    store.append(body([minted | {"annotations": {ISSUED: "JTI=new"}}]))
    store.close()
    assert EventQueries(tmp_path).events(EventFilter(issued="new")).records[0].issued == "JTI=new"


def test_no_draft_that_a_kill_left_outlives_the_next_start(tmp_path: Path) -> None:
    new_store(tmp_path).close()
    drafts = [
        tmp_path / name
        for name in (".head.json.0a1b2c3d.part", "recent/.160.digests.0a1b2c3d.part", "blocks/.0.part")
    ]
    for draft in drafts:
        draft.touch()
    new_store(tmp_path).close()
    assert not [draft for draft in drafts if draft.exists()]


def test_questions_see_what_is_not_sealed_yet(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.append(body(story()[:5]))
    store.seal()
    store.append(body(story()[5:]))
    assert len(all_records(tmp_path)) == 27
    store.close()
    assert len(all_records(tmp_path)) == 27


def test_a_batch_that_is_sent_again_is_kept_once_but_another_event_with_its_audit_id_is_kept(
    tmp_path: Path,
) -> None:
    store = new_store(tmp_path)
    assert store.append(body(story())) == 27
    assert store.append(body(story())) == 0
    assert store.append(ndjson([raw_event(0, user="someone@else")])) == 1
    store.close()


@pytest.mark.parametrize("ended", ["no", "closed", "crashed"])
def test_a_gap_that_a_log_fills_stores_nothing_twice(
    tmp_path: Path, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    items = [
        {name: value for name, value in event.items() if name not in ("kind", "apiVersion")}
        for event in story()
    ]
    assert store.append(body(items[:10])) == 10
    store.seal()
    assert store.append(body(items[10:20])) == 10
    if ended == "crashed":
        store.sync()
        store._lock_file.close()
        store = new_store(tmp_path)
    elif ended == "closed":
        store.close()
        store = new_store(tmp_path)
    assert store.append(ndjson(story())) == 7
    assert store.append(ndjson(story())) == 0
    store.close()


def test_only_the_last_events_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_store, "_REMEMBERED", 4)
    store = new_store(tmp_path)
    for number in range(6):
        assert store.append(body([raw_event(number), raw_event(100 + number)])) == 2
        store.seal()
    assert len([*tmp_path.glob("recent/*.digests")]) == 2
    (tmp_path / "recent" / "10.digests").write_bytes(b"torn")
    store.close()
    store = new_store(tmp_path)
    assert store.append(body([raw_event(4), raw_event(5)])) == 1
    store.close()


def test_a_token_in_an_item_of_a_list_is_in_no_column(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    item = raw_event(
        1, name="hunter2-token=hunter2abc", requestURI="/x?token=hunter2abc", userAgent="token=hunter2abc"
    )
    del item["apiVersion"]
    store.append(body([item]))
    store.close()
    (record,) = EventQueries(tmp_path).events(EventFilter(), texts=True).records
    assert "hunter2abc" not in repr(record)


@pytest.mark.parametrize("text", ["\0", "a\nb", "\u202e", "\x7f\x1b[31m", "ü漢😀", "'; DROP TABLE t; --"])
def test_texts_of_any_kind_are_kept_and_proved(tmp_path: Path, text: str) -> None:
    store = new_store(tmp_path)
    assert store.append(ndjson([raw_event(1, user=f"x{text}y", name=text, userAgent=text)])) == 1
    store.close()
    assert verify(tmp_path).is_sound
    (record,) = all_records(tmp_path)
    assert json.loads(record.event)["objectRef"]["name"] == text
    assert EventQueries(tmp_path).events(EventFilter(principal=record.principal)).records == [record]


def test_what_is_hashed_is_the_same_in_sql_and_in_python(tmp_path: Path) -> None:
    import duckdb

    store = new_store(tmp_path)
    store.append(body([*story(), secret_event(99, name="ü漢😀", userAgent="a,b:c")]))
    store.close()
    rows = duckdb.sql(
        f"SELECT {CONTENT_SQL} FROM read_parquet('{tmp_path}/*/*/*.parquet') ORDER BY number"
    ).fetchall()
    assert [row[0].encode() for row in rows] == [content_of(record) for record in all_records(tmp_path)]


def test_no_file_of_the_store_holds_a_secret(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtYWxsb3J5In0.c2lnbmF0dXJl"
    secret = {"kind": "Secret", "data": {"password": "aHVudGVyMg=="}, "stringData": {"x": "hunter2"}}
    events = [
        secret_event(1, verb="create", requestObject=secret),
        raw_event(2, requestURI=f"/api?token={token}", userAgent=f"curl {token}"),
    ]
    store.append(body(events))
    open_file = next(tmp_path.glob("open-*")).read_bytes()
    store.close()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    shown = b"".join(record.event.encode() + content_of(record) for record in all_records(tmp_path))
    for content in (open_file, shown, *files):
        for word in (b"aHVudGVyMg", b"hunter2", b"c2lnbmF0dXJl"):
            assert word not in content
    first, second = all_records(tmp_path)
    assert first.redactions == 2
    assert second.path == "/api?token=[redacted]"
    assert len(first.original) == 64
    assert first.original != sha256(json.dumps(events[0], separators=(",", ":")).encode()).hexdigest()


# -- crashes ----------------------------------------------------------------------------------------------------


def crashed(store: EventStore, to: Path) -> Path:
    """A copy of the folder as a crash would leave it."""
    shutil.copytree(store.folder, to)
    store.close()
    return to


def test_after_a_crash_what_was_open_is_sealed_and_goes_on(tmp_path: Path) -> None:
    store = new_store(tmp_path / "a")
    store.append(body(story()[:10]), batch=1)
    store.seal()
    store.append(body(story()[10:]), batch=2)
    folder = crashed(store, tmp_path / "b")
    again = new_store(folder)
    assert again.position == 2
    again.append(body([raw_event(77)]), batch=3)
    again.close()
    assert [record.number for record in all_records(folder)] == list(range(28))
    report = verify(folder)
    assert report.is_sound
    assert any(entry.fields.get("after_crash") for entry in again.ledger.entries)


@pytest.mark.parametrize("lost", [1, 200, 4000])
def test_a_batch_that_a_crash_tore_counts_as_not_taken_in(tmp_path: Path, lost: int) -> None:
    store = new_store(tmp_path / "a")
    store.append(body(story()[:10]), batch=1)
    store.append(body(story()[10:]), batch=2)
    folder = crashed(store, tmp_path / "b")
    path = next(folder.glob("open-*"))
    path.write_bytes(path.read_bytes()[:-lost])
    again = new_store(folder)
    assert again.position == 1
    assert again.append(body(story()[10:]), batch=2) == 17
    again.close()
    assert [json.loads(record.event) for record in all_records(folder)] == story()
    assert verify(folder).is_sound


def test_a_crash_between_file_and_ledger_or_ledger_and_removal_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    store = new_store(tmp_path / "a")
    store.append(body(story()), batch=1)
    open_file = next((tmp_path / "a").glob("open-*"))
    before = open_file.read_bytes()
    ledger = (tmp_path / "a" / "ledger.jsonl").read_bytes(), (tmp_path / "a" / "head.json").read_bytes()
    store.seal()
    for name, lines in (("unsealed", ledger), ("sealed", None)):
        folder = tmp_path / name
        shutil.copytree(tmp_path / "a", folder)
        (folder / open_file.name).write_bytes(before)
        if lines is not None:
            (folder / "ledger.jsonl").write_bytes(lines[0])
            (folder / "head.json").write_bytes(lines[1])
        new_store(folder).close()
        assert [json.loads(record.event) for record in all_records(folder)] == story()
        assert verify(folder).is_sound
    store.close()


def test_a_line_of_the_ledger_that_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.append(body(story()))
    store.close()
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"entry":{"number":3,"ti')
    new_store(tmp_path).close()
    assert verify(tmp_path).is_sound


def test_a_disk_that_is_full_keeps_nothing_of_a_batch_and_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    store.append(body(story()[:10]), batch=1)

    class Full:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def write(self, text: bytes) -> int:
            self._inner.write(text[:100])
            self._inner.flush()
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr(store._open, "_file", Full(store._open._file))
    with pytest.raises(OSError, match="No space"):
        store.append(body(story()[10:]), batch=2)
    assert store.append(body(story()[10:]), batch=2) == 17
    store.close()
    assert [json.loads(record.event) for record in all_records(tmp_path)] == story()
    assert verify(tmp_path).is_sound


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    with pytest.raises(KubehabitError, match=r"events\.path"):
        new_store(tmp_path)
    store.close()
    new_store(tmp_path).close()


def test_a_damaged_ledger_is_not_written_to(tmp_path: Path) -> None:
    new_store(tmp_path).close()
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"opened"', b'"closed"', 1))
    with pytest.raises(KubehabitError, match="kubehabit verify"):
        new_store(tmp_path)


# -- damage ------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def sealed_store(folder: Path) -> Path:
    """A closed store of three segments."""
    store = new_store(folder)
    for number in range(3):
        store.append(body(story()[number * 9 : number * 9 + 9]), batch=number + 1)
        store.seal()
    store.close()
    return folder


def cut(folder: Path, lines: int, torn: int = 0) -> None:
    """Take lines off the end of the ledger, and bytes off the last that is left."""
    path = folder / "ledger.jsonl"
    kept = b"".join(path.read_bytes().splitlines(keepends=True)[:-lines] if lines else [path.read_bytes()])
    path.write_bytes(kept[: len(kept) - torn])


DAMAGES = {
    "lost its tail": lambda folder: cut(folder, 2),
    "lost its end": lambda folder: cut(folder, 0, torn=20),
    "lost all": lambda folder: (folder / "ledger.jsonl").unlink(),
    "is empty": lambda folder: (folder / "ledger.jsonl").write_bytes(b""),
    "has no head": lambda folder: (folder / "head.json").unlink(),
    "has a damaged head": lambda folder: (folder / "head.json").write_bytes(b"{"),
    "has an older head": lambda folder: (folder / "head.json").write_bytes(
        json.dumps({"number": 1, "hash": json.loads((folder / "ledger.jsonl").read_bytes().splitlines()[1])["hash"]}).encode()
    ),
    "has another head": lambda folder: (folder / "head.json").write_bytes(
        (folder / "head.json").read_bytes().replace(b'"hash":"', b'"hash":"00', 1)
    ),
    "has a damaged line": lambda folder: (folder / "ledger.jsonl").write_bytes(
        (folder / "ledger.jsonl").read_bytes().replace(b'"sealed"', b'"Sealed"', 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_store_whose_ledger_is_damaged_is_not_opened_and_not_a_byte_of_it_changes(
    tmp_path: Path, damage: str
) -> None:
    folder = sealed_store(tmp_path)
    DAMAGES[damage](folder)
    before = contents(folder)
    with pytest.raises(EventStoreUnusableError, match="kubehabit verify"):
        new_store(folder)
    assert contents(folder) == before
    assert not verify(folder).is_sound


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_files_that_a_ledger_with_its_head_put_back_does_not_name_are_set_aside_and_reported(
    tmp_path: Path, lines: int
) -> None:
    folder = sealed_store(tmp_path)
    sealed = {path.read_bytes() for path in folder.rglob("*.parquet")}
    cut(folder, lines + 1)
    last = (folder / "ledger.jsonl").read_bytes().splitlines()[-1]
    (folder / "head.json").write_bytes(
        json.dumps({"number": 4 - lines - 1, "hash": json.loads(last)["hash"]}).encode()
    )
    for turn in range(2):
        store = new_store(folder)
        assert store.set_aside() == lines
        assert store.append(body([raw_event(50 + turn)])) == 1
        store.close()
        assert sealed <= {path.read_bytes() for path in folder.rglob("*.parquet")}
        findings = verify(folder).findings
        assert [finding.kind for finding in findings] == ["stranger"]
        assert "set aside" in findings[0].what
    shutil.rmtree(folder / "set-aside")
    assert verify(folder).is_sound


@pytest.mark.parametrize("damage", [b"\0" * 40, b'{"number":12,"x":"\xff"}'])
def test_an_open_file_that_goes_on_after_a_damaged_line_is_kept_whole_aside(
    tmp_path: Path, damage: bytes
) -> None:
    store = new_store(tmp_path / "a")
    store.append(body(story()[:10]), batch=1)
    store.append(body(story()[10:]), batch=2)
    folder = crashed(store, tmp_path / "b")
    path = next(folder.glob("open-*"))
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:12], damage + b"\n", *lines[13:]])
    path.write_bytes(damaged)
    again = new_store(folder)
    assert (again.position, again.set_aside()) == (1, 1)
    again.close()
    assert [record.number for record in all_records(folder)] == list(range(10))
    assert damaged in contents(folder).values()
    assert not verify(folder).is_sound


def test_an_open_file_that_no_sealed_record_precedes_is_set_aside(tmp_path: Path) -> None:
    store = new_store(tmp_path / "a")
    store.append(body(story()[:10]), batch=1)
    folder = crashed(store, tmp_path / "b")
    path = next(folder.glob("open-*"))
    content = path.read_bytes()
    path.rename(folder / "open-500.ndjson")
    (folder / "open-0.ndjson").write_bytes(b'{"number":0')
    again = new_store(folder)
    assert again.set_aside() == 1
    again.close()
    assert content in contents(folder).values()


def test_a_head_is_signed_and_its_signature_is_checked(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    private = Ed25519PrivateKey.generate()
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    folder = tmp_path / "store"
    for _ in range(2):
        store = new_store(folder, signing_key=key)
        store.append(body(story()), batch=1)
        store.close()
    assert verify(folder, key=private.public_key()).is_sound
    head = json.loads((folder / "head.json").read_bytes())
    for signature in ("", "00" * 64):
        (folder / "head.json").write_text(json.dumps(head | {"signature": signature}))
        assert [finding.kind for finding in verify(folder).findings] == ["signature"]
    with pytest.raises(EventStoreUnusableError, match="not signed"):
        new_store(folder, signing_key=key)


# -- large events ------------------------------------------------------------------------------------------------


def test_a_large_open_file_is_sealed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_store, "_SEGMENT_SHARE", 6000 / (256 << 20))
    store = new_store(tmp_path)
    large = raw_event(90, requestObject={"spec": "x" * 9000})
    store.append(body([*story(), large, raw_event(91)]), batch=3)
    store.close()
    assert [json.loads(record.event) for record in all_records(tmp_path)] == [*story(), large, raw_event(91)]
    counts = [said["count"] for said in kinds(store, "sealed")]
    assert len(counts) > 4
    assert counts[-2:] == [1, 1]
    assert [said["batch"] for said in kinds(store, "sealed")] == [0] * (len(counts) - 1) + [3]
    assert verify(tmp_path).is_sound


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_crash_between_two_pieces_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    monkeypatch.setattr(event_store, "_SEGMENT_SHARE", 6000 / (256 << 20))
    store = new_store(tmp_path / "a")
    store.append(body(story()[:20]), batch=1)
    store.append(body(story()[20:]), batch=2)
    sealing, pieces = store.seal_rows, iter(range(done))

    def fail(*given: Any) -> None:
        if next(pieces, None) is None:
            raise OSError(28, "No space left on device")
        sealing(*given)

    with monkeypatch.context() as broken:
        broken.setattr(store, "seal_rows", fail)
        with pytest.raises(OSError, match="No space"):
            store.seal()
        assert len(all_records(tmp_path / "a")) == 27
    assert store.append(body([raw_event(70)]), batch=3) == 1
    folder = crashed(store, tmp_path / "b")
    for one in (tmp_path / "a", folder):
        again = new_store(one)
        assert (again.position, again.set_aside()) == (3, 0)
        again.close()
        assert [json.loads(record.event) for record in all_records(one)] == [*story(), raw_event(70)]
        assert [record.number for record in all_records(one)] == list(range(28))
        assert verify(one).is_sound


def test_a_store_that_cannot_seal_at_start_is_opened_and_seals_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path / "a")
    store.append(body(story()), batch=1)
    folder = crashed(store, tmp_path / "b")
    with monkeypatch.context() as broken:
        broken.setattr(parquet_writer, "_answer_of_process", lambda _: {"error": "no room"})
        again = new_store(folder)
        again.append(body([raw_event(70)]), batch=2)
        broken.setattr(event_store, "_MAX_OPEN_BYTES", 1)
        with pytest.raises(OSError, match="full"):
            again.append(body([raw_event(71)]), batch=3)
    assert len(all_records(folder)) == 28
    again.append(body([raw_event(71)]), batch=3)
    again.close()
    assert len(all_records(folder)) == 29
    assert verify(folder).is_sound


@pytest.mark.slow
@pytest.mark.writes_elsewhere
def test_a_flood_of_long_paths_is_sealed_merged_and_survives_a_restart_in_little_memory(
    tmp_path: Path,
) -> None:
    rng = random.Random(1)
    store = new_store(tmp_path / "a", memory_mb=256)
    for batch in range(7):
        paths = [rng.randbytes(450_000).hex() for _ in range(10)]
        events = [raw_event(10 * batch + at, requestURI=f"/{path}") for at, path in enumerate(paths)]
        assert store.append(body(events), batch=batch + 1) == 10
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    store.close()
    again = new_store(tmp_path / "b", memory_mb=256)
    assert again.position == 7
    assert list((tmp_path / "b").glob("open-*")) == []
    for number in range(29):
        again.append(body([raw_event(1000 + number)]))
        again.seal()
    again.merge()
    again.close()
    assert verify(tmp_path / "b").is_sound
    records = EventQueries(tmp_path / "b").events(EventFilter(), limit=400, texts=False).records
    assert len(records) == 99
    assert max(len(record.path) for record in records) <= 16_384


def test_long_texts_are_cut_in_columns_and_whole_in_the_events_own_text(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    long = raw_event(1, requestURI="/" + "x" * 20_000, userAgent="\u0001" * 20_000)
    long |= {"user": long["user"] | {"uid": "u" * 20_000}}
    store.append(body([long]))
    store.close()
    (record,) = all_records(tmp_path)
    assert record.path.startswith("/" + "x" * 4_000)
    assert len(record.path) <= 16_384
    assert len(record.user_agent) <= 16_384
    assert record.uid == "u" * 16_383 + "…"
    assert json.loads(record.event) == long


def test_events_of_files_that_were_set_aside_are_kept_when_they_are_sent_again(tmp_path: Path) -> None:
    folder = sealed_store(tmp_path)
    cut(folder, 2)
    last = (folder / "ledger.jsonl").read_bytes().splitlines()[-1]
    (folder / "head.json").write_bytes(json.dumps({"number": 2, "hash": json.loads(last)["hash"]}).encode())
    store = new_store(folder)
    assert store.set_aside() == 1
    before = len(all_records(folder))
    assert before < len(story())
    assert store.append(body(story())) == len(story()) - before
    store.close()


def test_bytes_that_are_no_text_make_no_line_that_cannot_be_sealed(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    raw = json.dumps(raw_event(1, note="NOTE"), separators=(",", ":")).encode()
    store.append(raw.replace(b"NOTE", b"\xff" * (5 << 20)))
    again = json.dumps(raw_event(2, note="NOTE"), separators=(",", ":")).encode()
    store.append(again.replace(b"NOTE", b"\xff" * 10))
    store.close()
    first, second = all_records(tmp_path)
    assert first.event == '"[too long]"'
    assert json.loads(second.event)["note"] == "\ufffd" * 10
    assert verify(tmp_path).is_sound


def test_a_folder_that_is_named_like_a_partition_changes_no_record(tmp_path: Path) -> None:
    folder = tmp_path / "cluster=prod" / "date=2026-11-24"
    store = new_store(folder)
    for part in range(32):  # so many that they are merged
        store.append(body([raw_event(part)]))
        store.seal()
    store.merge()
    store.append(body([raw_event(100)]))
    assert {record.cluster for record in all_records(folder)} == {""}
    store.close()
    assert verify(folder).is_sound


# -- merging and dropping ---------------------------------------------------------------------------------------


def test_small_files_are_merged_and_prove_the_same(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for number in range(32):
        store.append(body([raw_event(number)]))
        store.seal()
    store.merge()
    store.close()
    (merged,) = tmp_path.rglob("*.parquet")
    assert merged.name == "0-1.parquet"
    assert [record.audit_id for record in all_records(tmp_path)] == [f"id-{number}" for number in range(32)]
    report = verify(tmp_path)
    assert (report.is_sound, report.segments, report.files, report.records) == (True, 32, 1, 32)


def file(first: int, count: int, day: str = "2026-11-24", level: int = 0) -> StoredFile:
    return StoredFile(f"{day}/{first}.parquet", first, count, 0, 0, 1, "", level)


def test_files_of_today_are_merged_in_sets_and_those_of_days_before_as_they_fit() -> None:
    today = "2026-11-24"
    small = [file(number * 10, 10) for number in range(33)]
    assert mergeable(small[:31], today) == []
    assert mergeable(small, today) == [small[:32]]
    mixed = [*small[:31], file(310, 10, level=1)]
    assert mergeable(mixed, today) == []
    assert mergeable(mixed, "2026-11-25") == [mixed]
    large = [
        file(0, 1_500_000, "2026-11-23"),
        file(1_500_000, 600_000, "2026-11-23"),
        file(2_100_000, 5, "2026-11-23"),
    ]
    assert mergeable(large, today) == [large[1:]]


DAY = 86_400_000_000


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock of the machine, to be set: microseconds since 1970 UTC."""
    moment = [1_767_571_200_000_000]
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    return moment


def kinds(store: EventStore, kind: str) -> list[dict[str, Any]]:
    return [entry.fields for entry in store.ledger.entries if entry.fields["kind"] == kind]


def test_what_is_too_old_is_dropped_with_a_tombstone_that_keeps_its_roots(
    tmp_path: Path, now: list[int]
) -> None:
    store = new_store(tmp_path, retention_days=30)
    for number in range(3):
        if number == 2:
            now[0] += 31 * DAY
        store.append(body([raw_event(number)]))
        store.seal()
    now[0] += DAY
    store.drop()
    store.close()
    assert [record.audit_id for record in all_records(tmp_path)] == ["id-2"]
    (tombstone,) = kinds(store, "dropped")
    sealed = [said["root"] for said in kinds(store, "sealed")]
    assert (tombstone["why"], tombstone["first"], tombstone["count"]) == ("age", 0, 2)
    assert tombstone["roots"] == sealed[:2]
    report = verify(tmp_path)
    assert (report.is_sound, report.dropped, report.records) == (True, 2, 1)
    assert len(list(tmp_path.rglob("*.parquet"))) == len(list(tmp_path.rglob("*.blocks"))) == 1


@pytest.mark.parametrize("moment", ["2099-01-01T00:00:00.000000Z", "1971-01-01T00:00:00.000000Z"])
def test_age_is_counted_from_receipt_whatever_time_an_event_says(
    tmp_path: Path, now: list[int], moment: str
) -> None:
    store = new_store(tmp_path, retention_days=30)
    store.append(body([raw_event(0, requestReceivedTimestamp=moment)]))
    store.seal()
    for number in range(1, 41):
        now[0] += DAY
        store.append(body([raw_event(number)]))
        store.seal()
        store.drop()
        assert (not kinds(store, "dropped")) == (number < 31)
    store.close()
    assert verify(tmp_path).dropped == 10


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_jumps_ahead_ends_no_events_for_a_day_and_little_at_once_after_it(
    tmp_path: Path, now: list[int], restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_files, "_DROPPED_BYTES", 1)
    store = new_store(tmp_path, retention_days=90)
    for number in range(40):
        store.append(body([raw_event(number)]))
        store.seal()
    if restarted:
        store.close()
    now[0] += 400 * DAY
    if restarted:
        store = new_store(tmp_path, retention_days=90)

    def hours(count: int) -> None:
        for _ in range(count):
            now[0] += DAY // 24
            store.append(body([raw_event(now[0] // 1_000_000 % 10**8)]))
            store.seal()
            store.drop()
            store.drop()

    store.drop()
    hours(23)
    assert kinds(store, "dropped") == []
    hours(5)
    assert 4 <= sum(said["count"] for said in kinds(store, "dropped")) <= 5
    now[0] -= 400 * DAY
    before = len(kinds(store, "dropped"))
    hours(48)
    assert len(kinds(store, "dropped")) == before
    store.close()
    assert verify(tmp_path).is_sound


def test_days_without_events_are_no_jump_of_the_clock(
    tmp_path: Path, now: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = now[0]
    monkeypatch.setattr(event_store.time, "monotonic_ns", lambda: (now[0] - begun) * 1000)
    store = new_store(tmp_path, retention_days=30)
    for number in range(12):
        now[0] += 3 * DAY
        store.append(body([raw_event(number)]))
        store.seal()
        store.drop()
    store.close()
    assert sum(said["count"] for said in kinds(store, "dropped")) == 1


def test_the_oldest_are_dropped_when_all_are_too_large(tmp_path: Path) -> None:
    store = new_store(tmp_path, retention_days=36_500, max_gb=1e-6)
    for number in range(3):
        store.append(body([raw_event(number)]))
        store.seal()
    store.drop()
    store.close()
    assert [record.audit_id for record in all_records(tmp_path)] == ["id-2"]
    assert verify(tmp_path).is_sound


def test_an_open_file_is_sealed_when_its_time_has_come(tmp_path: Path) -> None:
    store = new_store(tmp_path, seal_seconds=1e-9)
    store.append(body(story()), batch=4)
    store.tick()
    assert list(tmp_path.glob("open-*")) == []
    assert store.position == 4
    store.close()


def test_an_event_from_a_cloud_is_kept_as_the_cloud_wrote_it(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    raw = json.dumps(gke_entry(json.loads(event()))).encode()
    assert store.append(raw) == 1
    store.close()
    (record,) = all_records(tmp_path)
    assert record.event == raw.decode()
    assert record.verb


def test_the_credential_of_every_event_is_found_again(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.append(body([with_credential(raw_event(1), "X509SHA256=ab12"), raw_event(2)]))
    store.close()
    for name in ("ab12", "X509SHA256=ab12"):
        assert [
            one.audit_id for one in EventQueries(tmp_path).events(EventFilter(credential=name)).records
        ] == ["id-1"]


def test_an_event_that_is_too_long_is_kept_without_its_text(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    long = raw_event(1, requestObject={"spec": {"notes": '"' * (3 << 20)}})
    assert store.append(body([long, raw_event(2)])) == 2
    store.close()
    first, second = all_records(tmp_path)
    assert (first.audit_id, first.event, first.redactions, len(first.original)) == (
        "id-1",
        '"[too long]"',
        1,
        64,
    )
    assert json.loads(second.event) == raw_event(2)
    assert verify(tmp_path).is_sound
