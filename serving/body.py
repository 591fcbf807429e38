"""Request bodies: decompression that cannot be made to fill the memory."""

from __future__ import annotations

import zlib

import zstandard
from fastapi import Request

from serving.problems import ProblemError
from serving.settings import MEBIBYTE

ENCODINGS = ("gzip", "zstd")
_GZIP = 31  # zlib's window bits for "gzip header expected"
_MAX_WINDOW = 64 * MEBIBYTE
# zstd can turn 4 bytes into a block of 128 KiB: a step of this size yields at most 16 MiB before the limit is checked.
_ZSTD_STEP = 512
# gzip at most 1,032 bytes of one: 16 MiB a step. What follows a member is copied, so a step also bounds what small ones cost.
_GZIP_STEP = 16 * 1024
# In 16 MiB a million parts of nothing could come, and never meet the limit on the result. bgzip makes one of each 64 KiB.
_MAX_PARTS = 10_000


def too_large(limit: int, what: str, setting: str) -> ProblemError:
    """The problem of a body over a limit."""
    size = f"{limit / MEBIBYTE:g} MiB"
    return ProblemError(
        413, f"The body is larger than {size}{what}: send smaller batches, or raise {setting}."
    )


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request, if it has at most so many bytes.

    Raises:
        ProblemError: 413.
    """
    declared = request.headers.get("content-length", "")
    chunks: list[bytes] = []
    size = int(declared) if declared.isdecimal() else 0
    if size <= limit:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                break
            chunks.append(chunk)
    if size > limit:
        raise too_large(limit, "", "limits.body_mb")
    return b"".join(chunks)


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
    member, begun, members = zlib.decompressobj(_GZIP), False, 0
    for start in range(0, len(body), _GZIP_STEP):
        step = body[start : start + _GZIP_STEP]
        while step:
            if not begun:
                step = step.lstrip(b"\0") if members else step  # padding after a member is legal
                if not step:
                    break
            out += member.decompress(step)
            begun = True
            if len(out) > limit:
                raise too_large(limit, " after decompression", "limits.decompressed_mb")
            step = member.unused_data
            if member.eof:
                members = _one_more(members)
                member, begun = zlib.decompressobj(_GZIP), False
    if begun:
        raise EOFError("it ends too early")
    return bytes(out)


def _unzstd(body: bytes, limit: int) -> bytes:
    out = bytearray()
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    frame, begun, frames = decompressor.decompressobj(), False, 0
    for start in range(0, len(body), _ZSTD_STEP):
        step = body[start : start + _ZSTD_STEP]
        while step:
            out += frame.decompress(step)
            begun = True
            if len(out) > limit:
                raise too_large(limit, " after decompression", "limits.decompressed_mb")
            step = frame.unused_data if frame.eof else b""
            if frame.eof:
                frames = _one_more(frames)
                frame, begun = decompressor.decompressobj(), False
    if begun:
        raise EOFError("it ends too early")
    return bytes(out)


def _one_more(parts: int) -> int:
    if parts >= _MAX_PARTS:
        detail = (
            f"The body consists of more than {_MAX_PARTS:,} compressed parts: compress a batch as a whole."
        )
        raise ProblemError(413, detail)
    return parts + 1
