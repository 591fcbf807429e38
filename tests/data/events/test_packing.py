"""Archives whose own headers are damaged."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from benchmarks.wrapped_logs import PACKINGS
from data.events.decode import decode_body, decode_originals
from data.events.left_out import LeftOut
from data.events.packing import read_within, unpacked
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


class SlowStream(io.BytesIO):
    """Gives few bytes at a time."""

    def __init__(self, data: bytes, few: int) -> None:
        super().__init__(data)
        self._few = few

    def read1(self, size: int | None = -1) -> bytes:
        return super().read1(min(size, self._few) if size and size > 0 else self._few)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        part = super().read(min(len(buffer), self._few))
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("few", [1, 3, 100])
@pytest.mark.parametrize("packing", PACKINGS)
def test_what_a_log_is_packed_in_does_not_depend_on_how_many_bytes_come_at_a_time(
    packing: str, few: int
) -> None:
    """A file of an archive could begin at the end of a buffer, and be taken for text."""
    raw = io.BufferedReader(SlowStream(PACKINGS[packing](EVENT * 3), few))  # type: ignore[arg-type]
    assert read_within(unpacked(raw), 1 << 20) == (EVENT * 3, None)


def test_a_live_log_is_read_without_waiting_for_more_than_its_first_line() -> None:
    class Live(io.RawIOBase):
        waits = False

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
            assert not self.waits, "more is waited for"
            self.waits = True
            buffer[: len(EVENT)] = EVENT
            return len(EVENT)

    assert unpacked(io.BufferedReader(Live())).read1(1 << 20) == EVENT
