"""What was changed, removed, added or put in another order is reported, and so are gaps in time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from benchmarks.tampering import WAYS, change_and_rechain, make_store, tamper, tamper_and_verify
from data.errors import KubehabitError
from data.signing_keys import load_public_key, load_signing_key
from serving.forensics.verify import verify
from tests.serving.event_stores import body, new_store
from tests.serving.fakes import raw_event


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private key and its public one, as files."""
    folder = tmp_path_factory.mktemp("keys")
    key = Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_store_with_merged_and_dropped_segments_is_sound(sound: Path) -> None:
    report = verify(sound)
    assert report.findings == []
    assert (report.dropped, report.segments, report.files) == (40, 38, 5)
    assert report.records == 701


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_to_tamper_is_reported(
    sound: Path, tmp_path: Path, way: Callable[[Path, Random], None]
) -> None:
    assert tamper_and_verify(sound, tmp_path / "copy", way, Random(11)), way.__doc__


def test_tamperings_can_be_done_in_parts(sound: Path, tmp_path: Path) -> None:
    whole = tamper(sound, tmp_path / "copy", 5, 0, 4)
    parts = [tamper(sound, tmp_path / "copy", 5, first, 2) for first in (0, 2)]
    assert parts[0].seen | parts[1].seen == whole.seen
    assert sum(whole.seen.values()) == 4
    assert whole.missed == []


@pytest.mark.slow
def test_random_tampering_is_reported_whatever_it_is(sound: Path, tmp_path: Path) -> None:
    rng = Random(12)
    for _ in range(60):
        assert tamper_and_verify(sound, tmp_path / "copy", rng.choice(WAYS), rng)


def test_a_changed_record_is_found_by_its_block_even_when_all_checksums_were_made_to_fit(
    tmp_path: Path,
) -> None:
    folder = make_store(tmp_path / "store", records=300)
    rng = Random(1)
    while True:
        change_and_rechain(folder, rng)
        kinds = {finding.kind for finding in verify(folder).findings}
        if "ledger" not in kinds:
            break
    (finding,) = verify(folder).findings
    assert finding.kind == "record"
    assert "A record among numbers" in finding.what


def test_a_signed_ledger_cannot_be_rewritten_without_the_key(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = make_store(tmp_path / "store", signing_key=keys[0])
    key = load_public_key(keys[1])
    report = verify(folder, key=key)
    assert report.is_sound
    assert report.signed
    change_and_rechain(folder, Random(1))
    assert "signature" in {finding.kind for finding in verify(folder, key=key).findings}
    assert "signature" in {finding.kind for finding in verify(folder).findings}


def test_a_key_that_is_not_the_stores_is_reported(
    sound: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    other = Ed25519PrivateKey.generate().public_key()
    signed = make_store(tmp_path / "store", signing_key=keys[0])
    assert verify(signed, key=other).findings[0].kind == "signature"
    assert "No line is signed" in verify(sound, key=other).findings[0].what


def test_a_store_put_back_to_an_earlier_state_is_reported_by_a_head_that_was_noted(tmp_path: Path) -> None:
    store = new_store(tmp_path / "a")
    store.append(body([raw_event(1)]))
    store.close()
    earlier = verify(tmp_path / "a").head
    again = new_store(tmp_path / "a")
    again.append(body([raw_event(2)]))
    again.close()
    later = verify(tmp_path / "a", head=earlier)
    assert later.is_sound
    fresh = new_store(tmp_path / "b")
    fresh.append(body([raw_event(1)]))
    fresh.close()
    assert verify(tmp_path / "b").is_sound
    for head in (earlier, later.head):
        assert verify(tmp_path / "b", head=head).findings[0].kind == "ledger"
    with pytest.raises(KubehabitError, match="not a head"):
        verify(tmp_path / "b", head="latest")


def test_gaps_in_time_are_reported_with_what_is_known_of_them(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    times = [0, 60, 120, 2000, 2060]
    store.append(body([raw_event(number, seconds=seconds) for number, seconds in enumerate(times)]))
    store.note("lost", batches=3, upto=9)
    store.close()
    report = verify(tmp_path, gap_seconds=600)
    assert report.is_sound
    silence, lost = report.gaps
    assert (silence.after, silence.before) == ("2026-11-23T14:02:00.000000Z", "2026-11-23T14:33:20.000000Z")
    assert silence.seconds == 1880
    assert "no event came" in silence.why
    assert "3 batches" in lost.why
    assert len(verify(tmp_path, gap_seconds=3600).gaps) == 1


def test_a_store_in_use_is_sound(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.append(body([raw_event(1)]))
    store.seal()
    store.append(body([raw_event(2)]))
    report = verify(tmp_path)
    assert (report.is_sound, report.records) == (True, 1)
    store.close()


def test_there_has_to_be_a_store_and_a_key(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match="--store"):
        verify(tmp_path)
    wrong = tmp_path / "key"
    wrong.write_text("no key")
    for load in (load_signing_key, load_public_key):
        with pytest.raises(KubehabitError, match="openssl"):
            load(wrong)
