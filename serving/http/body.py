"""Request bodies: validated, and decompressed in bounded memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import zstandard
from fastapi import Request
from pydantic import BaseModel, ValidationError

from serving.http.problems import ProblemError, not_known
from serving.settings import MEBIBYTE

ENCODINGS = ("gzip", "zstd")
_GZIP = 31  # zlib's window bits for "gzip header expected"
_MAX_WINDOW = 64 * MEBIBYTE
# zstd can turn 4 bytes into a block of 128 KiB: a step of this size yields at most 16 MiB before the limit is checked.
_ZSTD_STEP = 512
# gzip yields at most 1,032 bytes for one: 16 MiB a step. The rest after a member is copied, so a step bounds that cost, too.
_GZIP_STEP = 16 * 1024
# 16 MiB could hold a million empty parts without reaching the limit on the result. bgzip makes a part of each 64 KiB.
_MAX_PARTS = 10_000
_TOO_LARGE = "The body is larger than {:g} MiB{}: send smaller batches, or raise {}."

_MAX_SHOWN = 128
_Model = TypeVar("_Model", bound=BaseModel)


def too_large(limit: int) -> ProblemError:
    """The problem of a body over the limit; the rest of it is not read, which ends the connection."""
    return ProblemError(
        413, _TOO_LARGE.format(limit / MEBIBYTE, "", "limits.body_mb"), {"Connection": "close"}
    )


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """Part of the OpenAPI document: the body of a route that calls `read_model`."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def read_model(request: Request, model: type[_Model], empty: bytes = b"") -> _Model:
    """The body of a request as a model, which has an example; an empty body stands for `empty`.

    Raises:
        ProblemError: 422 if it does not fit.
    """
    try:
        return model.model_validate_json(await request.body() or empty)
    except ValidationError as error:
        # An unknown field explains best why another one is missing.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        name = ".".join(str(part) for part in first["loc"])[:_MAX_SHOWN] or "body"
        reason = first["msg"].rstrip(".")
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            reason = "it " + not_known(
                info.alias or field for field, info in model.model_fields.items()
            ).rstrip(".")
        example = json.dumps((model.model_config.get("json_schema_extra") or {}).get("example"))  # type: ignore[union-attr]
        detail = f"'{name}' is wrong: {reason}. Send something like {example}."
        raise ProblemError(422, detail) from error


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding; empty or "identity" is none. The result has at most `limit` bytes.

    Raises:
        ProblemError: 415 for another encoding, 413 over the limit, 400 for damaged or truncated data.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ENCODINGS and name != "x-gzip":
        raise ProblemError(415, f"Content-Encoding {name[:40]!r} is not read here: use gzip, zstd or none.")
    try:
        if name == "zstd":
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            return _inflate(body, limit, _ZSTD_STEP, decompressor.decompressobj, padded=False)
        return _inflate(body, limit, _GZIP_STEP, lambda: zlib.decompressobj(_GZIP), padded=True)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        detail = f"The {name} body is damaged or cut off ({error}): nothing of it was scored, send it again."
        raise ProblemError(400, detail) from error


def _inflate(body: bytes, limit: int, step_bytes: int, new_part: Callable[[], Any], *, padded: bool) -> bytes:
    """Decompress concatenated parts (gzip members, zstd frames) step by step; NULs may follow a gzip member."""
    out = bytearray()
    part, begun, parts = new_part(), False, 0
    for start in range(0, len(body), step_bytes):
        step = body[start : start + step_bytes]
        while step:
            if padded and parts and not begun:
                step = step.lstrip(b"\0")
                if not step:
                    break
            out += part.decompress(step)
            begun = True
            if len(out) > limit:
                detail = _TOO_LARGE.format(limit / MEBIBYTE, " after decompression", "limits.decompressed_mb")
                raise ProblemError(413, detail)
            step = part.unused_data if part.eof else b""
            if part.eof:
                if parts >= _MAX_PARTS:
                    raise ProblemError(
                        413,
                        f"The body consists of more than {_MAX_PARTS:,} compressed parts: compress a batch as a whole.",
                    )
                part, begun, parts = new_part(), False, parts + 1
    if begun:
        raise EOFError("it ends too early")
    return bytes(out)
