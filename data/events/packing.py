"""Opens what a log is packed in: gzip, zstd, bzip2, xz, tar and zip, one inside the other, and UTF-16; in bounded memory."""

from __future__ import annotations

import bz2
import codecs
import io
import lzma
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Protocol

import zstandard

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from typing_extensions import Buffer

    Stream: TypeAlias = io.BufferedReader[Any]

_PACKED_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 20
#: Of bzip2 and xz, which make a thousand times as much of a few bytes, at a time.
_UNPACKED_BYTES = 1 << 20
_LZMA_MEMORY = 256 << 20
#: One packing inside the other: a folder of compressed logs in a compressed archive takes three.
_MAX_PACKINGS = 4
#: Of an archive: files, bytes of its directory, and how many times its size it may unpack to; logs shrink to a hundredth.
_MAX_MEMBERS = 20_000
_MAX_DIRECTORY = 16 << 20
_MAX_RATIO = 1000
_LEAST_ALLOWED = 64 << 20
_TAR_BLOCK = 512
#: Bytes that are read first of what was put back.
_LEAST_SMALL = 256
_TAR_MAGIC = slice(257, 262)
_BEGINNING = 512
#: By which UTF-16 is recognised where it has no mark.
_MARK_BYTES = 4
_IN_MEMORY = 16 << 20
_MAX_SPOOLED = 8 << 30
_NAME_SHOWN = 100
#: What reading may raise where a log is damaged.
DAMAGE = (EOFError, zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, UnicodeError)


class _Frame(Protocol):
    """One compressed frame or member being read."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Stepwise:
    """A frame of bzip2 or xz, unpacked by bounded steps: what is not unpacked yet comes with the next, of no more bytes."""

    def __init__(self, decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._decompressor = decompressor

    @property
    def eof(self) -> bool:
        """Whether the frame is at its end."""
        return self._decompressor.eof

    @property
    def unused_data(self) -> bytes:
        """What came after the end."""
        return self._decompressor.unused_data

    @property
    def waits(self) -> bool:
        """Whether there is more to unpack of what was given."""
        return not self._decompressor.needs_input and not self._decompressor.eof

    def decompress(self, data: bytes, /) -> bytes:
        """Unpack some of the bytes given now and before."""
        return self._decompressor.decompress(data, _UNPACKED_BYTES)


class _Frames(io.RawIOBase):
    """Decompressed bytes of concatenated frames.

    Unlike the libraries' file objects it returns everything before a damage, and notices a missing end.
    """

    def __init__(self, raw: IO[bytes], new: Callable[[], _Frame]) -> None:
        self._raw = raw
        self._new = new
        self._frame = new()
        self._inside = False
        self._ready = memoryview(b"")
        self._failure: Exception | None = (
            None  # raised again by every later read: the first may only have looked at the beginning
        )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            packed = b""
            if not getattr(self._frame, "waits", False):
                packed = self._frame.unused_data if self._frame.eof else b""
                if not self._inside:
                    packed = packed.lstrip(b"\0")  # padding after a gzip member is allowed
                packed = packed or self._raw.read(_PACKED_BYTES)
                if not packed:
                    if self._inside:
                        raise EOFError("its end is missing")
                    return 0
            if self._frame.eof:
                self._frame = self._new()
            try:
                self._ready = memoryview(self._frame.decompress(packed))
            except DAMAGE as error:
                self._failure = error
                raise
            self._inside = not self._frame.eof
        target = memoryview(buffer)
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _zstd_frame() -> _Frame:
    # Long-distance windows are common in archived logs; the default limit would refuse them.
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def _gzip_member() -> _Frame:
    return zlib.decompressobj(wbits=31)


def _bzip2_stream() -> _Frame:
    return _Stepwise(bz2.BZ2Decompressor())


def _xz_stream() -> _Frame:
    return _Stepwise(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY))


#: First bytes of a compressed file -> what decompresses it.
_PACKINGS: dict[bytes, Callable[[], _Frame]] = {
    b"\x1f\x8b": _gzip_member,
    b"\x28\xb5\x2f\xfd": _zstd_frame,
    b"BZh": _bzip2_stream,
    b"\xfd7zXZ\x00": _xz_stream,
}


class _Pieces(io.RawIOBase):
    """A stream of pieces that come one after the other."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._ready = memoryview(piece)
        target = memoryview(buffer)
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _stream(pieces: Iterator[bytes]) -> Stream:
    return io.BufferedReader(_Pieces(pieces), _BUFFER_BYTES)


def unpacked(stream: Stream) -> Stream:
    """The text of a log, by its content: without its packings, in UTF-8, without a byte order mark.

    The files of an archive come one after the other, each ending its last line; hidden and empty ones are left out. Reading what
    is returned raises one of DAMAGE where the log is damaged, after all that could be read.
    """
    return _unpacked(stream, _MAX_PACKINGS)


def _unpacked(stream: Stream, left: int) -> Stream:
    begin, stream = _beginning(stream)
    frame = next((frame for start, frame in _PACKINGS.items() if begin.startswith(start)), None)
    archive: Callable[[Stream, int], Iterator[bytes]] | None = None
    if begin.startswith(b"PK\x03\x04"):
        archive = _zip_members
    elif begin[_TAR_MAGIC] == b"ustar":
        archive = _tar_members
    if frame is None and archive is None:
        return _text(begin, stream)
    if not left:
        return _stream(_refused(f"more than {_MAX_PACKINGS} packings one inside the other"))
    if archive is not None:
        return _stream(archive(stream, left - 1))
    assert frame is not None
    return _unpacked(io.BufferedReader(_Frames(stream, frame), _BUFFER_BYTES), left - 1)


def read_within(stream: Stream, limit: int) -> tuple[bytes, Exception | None]:
    """What a stream has up to its damage, and the damage; more than `limit` bytes are one."""
    text = bytearray()
    try:
        while piece := stream.read1(_BUFFER_BYTES):
            text += piece
            if len(text) > limit:
                return bytes(text[:limit]), EOFError(f"it unpacks to more than {limit:,} bytes")
    except DAMAGE as error:
        return bytes(text), error
    return bytes(text), None


def replayed(text: bytes, damage: Exception | None) -> Stream:
    """A stream of what `read_within` has read."""

    def pieces() -> Iterator[bytes]:
        yield text
        if damage is not None:
            raise damage

    return _stream(pieces())


def _refused(reason: str) -> Iterator[bytes]:
    yield from ()
    raise EOFError(reason)


def _beginning(stream: Stream) -> tuple[bytes, Stream]:
    """The first bytes of a stream, and the stream with them: enough to know what it is, however few come at a time."""
    begin = b""
    with suppress(*DAMAGE):  # damage met here is met again on reading
        begin = stream.peek(_BEGINNING)[:_BEGINNING]
    if len(begin) >= _BEGINNING or _is_text(begin):
        return begin, stream
    read = b""
    failure: Exception | None = None
    try:
        while (
            len(read) < _BEGINNING and not _is_text(read) and (more := stream.read1(_BEGINNING - len(read)))
        ):
            read += more
    except DAMAGE as error:
        failure = error

    def again() -> Iterator[bytes]:
        yield read
        if failure is not None:
            raise failure
        while more := stream.read1(_BUFFER_BYTES):
            yield more

    return read, _stream(again())


def _is_text(begin: bytes) -> bool:
    """Whether the first bytes of a log are neither packed nor in UTF-16: of a live one no more may come for a while."""
    is_json = len(begin) >= _MARK_BYTES and begin[:1] in (b"{", b"[")
    return b"\0" not in begin and (is_json or (b"\n" in begin and not begin.startswith(tuple(_PACKINGS))))


def _text(begin: bytes, stream: Stream) -> Stream:
    """A stream of text in UTF-8, of whatever encoding its first bytes show."""
    if begin.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
        return stream
    encoding = ""
    if begin.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif begin[1:4:2] == b"\0\0" and begin[:1] in (b"{", b"["):
        encoding = "utf-16-le"
    elif begin[0:3:2] == b"\0\0" and begin[1:2] in (b"{", b"["):
        encoding = "utf-16-be"
    if not encoding:
        return stream

    def transcoded() -> Iterator[bytes]:
        # A lone surrogate stays one, and makes its line unreadable and no other.
        decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        while more := stream.read1(_BUFFER_BYTES):
            yield decoder.decode(more).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")

    return _stream(transcoded())


class _Archive:
    """What is unpacked of an archive, counted against its bounds."""

    def __init__(self, packed: Callable[[], int], left: int) -> None:
        self._packed, self._left = packed, left
        self._size = self._members = 0
        self.problems: list[str] = []

    def member(self, name: str, content: Stream) -> Iterator[bytes]:
        """The lines of one file; a damaged one ends early, and is among the problems."""
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise EOFError(f"an archive of more than {_MAX_MEMBERS:,} files")
        if any(part.startswith(".") for part in name.split("/")) or name.startswith("__MACOSX/"):
            return
        last = b"\n"
        try:
            inner = _unpacked(content, self._left)
            while piece := inner.read1(_BUFFER_BYTES):
                last = piece[-1:]
                yield piece
                self._size += len(piece)
                if self._size > max(_LEAST_ALLOWED, _MAX_RATIO * self._packed()):
                    raise _TooLargeError(
                        f"an archive that unpacks to more than {_MAX_RATIO:,} times its size"
                    )
        except _TooLargeError:
            raise
        except (*DAMAGE, RuntimeError, zipfile.BadZipFile) as error:
            self.problems.append(f"{name[:_NAME_SHOWN]} in the archive: {error}")
        if last != b"\n":
            yield b"\n"

    def finish(self) -> None:
        """Raise EOFError if a file could not be read to its end."""
        if self.problems:
            more = f", and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
            raise EOFError(self.problems[0] + more)


class _TooLargeError(EOFError):
    """An archive is beyond its bounds."""


class _Bounded(io.RawIOBase):
    """The next bytes of a stream, so many of them."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer)
        data = self._stream.read1(min(len(target), self.left))
        if not data and self.left and len(target):
            raise EOFError("its end is missing")
        target[: len(data)] = data
        self.left -= len(data)
        return len(data)


def _tar_members(stream: Stream, left: int) -> Iterator[bytes]:
    """The lines of the files in a tar archive. Links and what is no file are left out; names are only looked at."""
    position = 0
    archive = _Archive(lambda: position, left)
    while True:
        header = stream.read(_TAR_BLOCK)
        position += len(header)
        if len(header) < _TAR_BLOCK:
            if header.strip(b"\0"):
                archive.problems.append("the archive ends in the middle of a file")
            break
        if not header.strip(b"\0"):
            break
        if header[_TAR_MAGIC] != b"ustar" or not _is_intact(header):
            archive.problems.append("the archive is damaged")
            break
        size = _tar_size(header[124:136])
        content = _Bounded(stream, size)
        if header[156:157] in (b"0", b"\0", b"7"):
            prefix = header[345:500].split(b"\0")[0] if header[262:263] == b"\0" else b""
            path = b"/".join(filter(None, (prefix, header[:100].split(b"\0")[0])))
            yield from archive.member(
                path.decode("utf-8", "replace"), io.BufferedReader(content, _BUFFER_BYTES)
            )
        content.left += -size % _TAR_BLOCK
        position += size
        try:
            while content.left and (skipped := stream.read(min(content.left, _BUFFER_BYTES))):
                content.left -= len(skipped)
        except DAMAGE as error:
            archive.problems.append(str(error))
            break
    while stream.read(_BUFFER_BYTES):  # what follows the end is padding
        pass
    archive.finish()


def _is_intact(header: bytes) -> bool:
    """Whether the checksum of a header of a tar archive is right: what it says of a damaged one's file is not to be believed."""
    counted = header[:148] + b" " * 8 + header[156:]
    high = sum(byte >= 0x80 for byte in counted)  # some programs add up signed bytes
    return _tar_size(header[148:156]) in (sum(counted), sum(counted) - 256 * high)


def _tar_size(written: bytes) -> int:
    """A size as tar writes it: octal digits, or a binary number for more than they can say."""
    if written[0] & 0x80:
        return int.from_bytes(written[1:], "big")
    try:
        return max(int(written.strip(b"\0 ") or b"0", 8), 0)
    except ValueError:
        return 0


def _zip_members(stream: Stream, left: int) -> Iterator[bytes]:
    """The lines of the files in a zip archive, which is read from its end, so that it has to be copied where it is piped in."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        size = 0
        while more := stream.read(_BUFFER_BYTES):
            size += len(more)
            if size > _MAX_SPOOLED:
                raise EOFError("a zip archive of more than 8 GiB: unpack it")
            copy.write(more)
        archive = _Archive(lambda: size, left)
        try:
            _check_directory(copy, size)
            with zipfile.ZipFile(copy) as packed:
                for info in packed.infolist():
                    if info.filename.endswith("/"):  # `is_dir` fails on a file without a name
                        continue
                    if info.flag_bits & 1:
                        archive.problems.append(
                            f"{info.filename[:_NAME_SHOWN]} in the archive: it is encrypted"
                        )
                        continue
                    with packed.open(info) as content:
                        yield from archive.member(info.filename, io.BufferedReader(content))
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, LookupError) as error:
            archive.problems.append(f"the zip archive is damaged: {error}")
        archive.finish()


def _check_directory(copy: IO[bytes], size: int) -> None:
    """Raise EOFError for a directory that would fill the memory: all of it is read at once."""
    tail = min(size, _BUFFER_BYTES // 8)
    copy.seek(size - tail)
    end = copy.read(tail)
    at = end.rfind(b"PK\x05\x06")
    if at >= 0 and int.from_bytes(end[at + 12 : at + 16], "little") > _MAX_DIRECTORY:
        raise EOFError("a zip archive of too many files: unpack it")


class Blocks:
    """Bytes of a log in blocks; what was read too far can be put back.

    Args:
        stream: the log.
        size: bytes of a block: enough to amortise what is done for each, small enough that its events stay in a core's cache.
        small: most bytes of a block of what was put back; the first has few, each more than the one before, so that damage which
            makes the reader turn back at every line costs a few lines each time.
        interactive: give what there is at once, as of a live log that is piped in.
    """

    def __init__(
        self, stream: Stream | io.BytesIO, size: int, small: int, *, interactive: bool = False
    ) -> None:
        self._stream = stream
        self._size, self._small = size, small
        self._unread: list[memoryview] = []
        self._next_small = _LEAST_SMALL
        self._interactive = interactive
        self.damage: Exception | None = None

    def unread(self, data: bytes) -> None:
        """Put bytes back."""
        if data:
            self._unread.append(memoryview(data))
            self._next_small = _LEAST_SMALL

    def block(self) -> bytes:
        """The next bytes; none at the end, which is also where damage is met."""
        if self._unread:
            data, size = self._unread.pop(), min(self._next_small, self._small)
            self._next_small = 2 * size
            if len(data) > size:
                self._unread.append(data[size:])
            return bytes(data[:size])
        pieces: list[bytes] = []
        size = 0
        while self.damage is None and size < self._size:
            try:
                piece = self._stream.read1(self._size - size)
            except DAMAGE as error:
                self.damage = error
                break
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if self._interactive:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
