"""Request bodies: decompression that cannot be made to fill the memory."""

from __future__ import annotations

import zlib

import zstandard

from serving.problems import ProblemError
from serving.settings import MEBIBYTE

ENCODINGS = ("gzip", "zstd")
_GZIP = 31  # zlib's window bits for "gzip header expected"
_MAX_WINDOW = 64 * MEBIBYTE
# zstd can turn 4 bytes into a block of 128 KiB: a step of this size yields at most 16 MiB before the limit is checked.
_ZSTD_STEP = 512


def too_large(limit: int, what: str, setting: str) -> ProblemError:
    """The problem of a body over a limit."""
    size = f"{limit / MEBIBYTE:g} MiB"
    return ProblemError(
        413, f"The body is larger than {size}{what}: send smaller batches, or raise {setting}."
    )


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding.

    Args:
        body: as sent.
        encoding: value of the header; empty or "identity" for none.
        limit: most bytes the result may have.

    Raises:
        ProblemError: 415 for another encoding, 413 over the limit, 400 for damaged or cut-off data.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ENCODINGS and name != "x-gzip":
        raise ProblemError(415, f"Content-Encoding {name[:40]!r} is not read here: use gzip, zstd or none.")
    try:
        return _unzstd(body, limit) if name == "zstd" else _gunzip(body, limit)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        detail = f"The {name} body is damaged or cut off ({error}): nothing of it was scored, send it again."
        raise ProblemError(400, detail) from error


def _gunzip(body: bytes, limit: int) -> bytes:
    out = bytearray()
    rest = body
    while rest:  # a gzip file may have several members
        member = zlib.decompressobj(_GZIP)
        out += member.decompress(rest, limit + 1 - len(out))
        if len(out) > limit:
            raise too_large(limit, " after decompression", "limits.decompressed_mb")
        if not member.eof:
            raise EOFError("it ends too early")
        rest = member.unused_data.lstrip(b"\0")  # padding after the last member is legal
    return bytes(out)


def _unzstd(body: bytes, limit: int) -> bytes:
    out = bytearray()
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    frame = decompressor.decompressobj()
    begun = False
    for start in range(0, len(body), _ZSTD_STEP):
        step = body[start : start + _ZSTD_STEP]
        while step:
            out += frame.decompress(step)
            begun = True
            if len(out) > limit:
                raise too_large(limit, " after decompression", "limits.decompressed_mb")
            step = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame, begun = decompressor.decompressobj(), False
    if begun:
        raise EOFError("it ends too early")
    return bytes(out)
