"""Archives whose own headers are damaged."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from data.events.decode import decode_body, decode_originals
from data.events.left_out import LeftOut
from tests.data.events.formats.shapes import tar

EVENT = (
    b'{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a","stage":"ResponseComplete","verb":"get",'
    b'"requestURI":"/","user":{"username":"alice"},"requestReceivedTimestamp":"2026-01-05T09:30:00.000000Z"}\n'
)
CHECKSUM, KIND, SIZE = 148, 156, 124


@pytest.mark.parametrize("at", [0, SIZE + 9, CHECKSUM + 2, KIND])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_what_a_damaged_header_says_of_a_file_is_not_believed(at: int, form: int) -> None:
    """A log could be taken for a link, or for shorter than it is, and be left out without a word."""
    packed = bytearray(tar({"audit.log": EVENT, "audit-2.log": EVENT.replace(b'"a"', b'"b"')}, form))
    packed[at] ^= 1
    left_out = LeftOut()
    assert not list(decode_originals(gzip.compress(packed), left_out))
    assert left_out.unreadable == 1


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_sound_archive_is_read_whole(form: int) -> None:
    left_out = LeftOut()
    packed = tar({"audit-é.log": EVENT, "b.log": EVENT.replace(b'"a"', b'"b"')}, form)
    assert [event.auditID for event, _ in decode_originals(packed, left_out)] == ["a", "b"]
    assert not left_out.unreadable


def test_a_file_without_a_name_is_read() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.log", EVENT)
    body = packed.getvalue().replace(b"x.log", b"\0.log")
    assert [one.auditID for one in decode_body(body).events] == ["a"]
