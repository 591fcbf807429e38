"""Logs by URL (s3://, gs://, abfs://, memory:// ...): whatever fsspec can open, read as a stream and never held as a whole."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from data.errors import KubehabitError
from data.visible_text import visible

if TYPE_CHECKING:
    from typing_extensions import Buffer

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://")
#: Read ahead; no more of a file is in memory.
_BLOCK_BYTES = 4 << 20


def is_url(text: str) -> bool:
    """Whether a name of a log is a URL, not a path."""
    return _URL.match(text) is not None


def log_of(text: str) -> Path | RemoteLog:
    """What an argument names: a path of this machine (file:// too), or a log elsewhere."""
    if not is_url(text):
        return Path(text)
    if text.lower().startswith(("file://", "local://")):
        return Path(unquote(urlsplit(text).path))
    return RemoteLog(text)


class _RemoteFile(io.RawIOBase):
    """A file elsewhere; an error of its store is a KubehabitError, so that it is not taken for a damaged file."""

    def __init__(self, log: RemoteLog) -> None:
        self._log = log
        with log.errors():
            self._file = log.system.open(log.path, "rb", block_size=_BLOCK_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer)
        with self._log.errors():
            data = self._file.read(len(target))
            size = getattr(self._file, "size", None)
            if len(target) and not data and size is not None and self._file.tell() < size:
                raise EOFError(f"it ended after {self._file.tell():,} of {size:,} bytes")
        target[: len(data)] = data
        return len(data)

    def seek(self, offset: int, origin: int = io.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, origin))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@dataclass(frozen=True)
class RemoteLog:
    """A log elsewhere: a file, a folder of files, or a pattern of names with `*`. Has what the reader uses of a Path.

    Every use raises KubehabitError if the store does not answer, refuses, or has no such file.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}  # a connection stays with its process

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rstrip("/").rpartition("/")[2]

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        scheme = self.url.partition("://")[0]
        try:
            import fsspec

            system, path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise KubehabitError(
                f"Logs of {scheme}:// need a package that is not installed: {visible(str(error))}. "
                "For S3: pip install fsspec s3fs."
            ) from error
        except Exception as error:  # each file system has errors of its own
            raise self._failed(error) from error
        return system, path

    @property
    def system(self) -> Any:
        """The file system of fsspec."""
        return self._opened[0]

    @property
    def path(self) -> str:
        """As the file system writes it."""
        return self._opened[1]

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the store raises into a KubehabitError."""
        try:
            yield
        except KubehabitError:
            raise
        except FileNotFoundError as error:
            raise KubehabitError(f"There is no log {self.url}. Check the URL.") from error
        except Exception as error:  # each file system has errors of its own
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> KubehabitError:
        reason = visible(f"{type(error).__name__}: {error}")[:500]
        return KubehabitError(
            f"Cannot read {self.url}: {reason}. Check the URL, the network and the credentials of this account; "
            "nothing of this log is taken for complete."
        )

    def raw(self) -> io.RawIOBase:
        """Its bytes; what was read of them is its position."""
        return _RemoteFile(self)

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:  # noqa: ARG002 - as that of a Path
        """As `Path.open`, for reading bytes."""
        return io.BufferedReader(self.raw(), 1 << 20)

    def size(self) -> int:
        """Bytes of the file."""
        return int(self._info()["size"] or 0)

    def version(self) -> list[object]:
        """Changes when the file does: its size, and what its store knows it by."""
        info = self._info()
        known = next(
            (info[key] for key in ("ETag", "etag", "generation", "mtime", "created") if info.get(key)), ""
        )
        return [int(info["size"] or 0), str(known)]

    def _info(self) -> dict[str, Any]:
        with self.errors():
            info: dict[str, Any] = self.system.info(self.path)
        return info

    def absolute(self) -> RemoteLog:
        """Itself: a URL means the same on every machine."""
        return self

    def files(self) -> list[RemoteLog]:
        """The file itself, or the files of the folder or pattern by name; hidden and empty ones are left out."""
        system = self.system
        with self.errors():
            if system.isfile(self.path):
                return [self]
            find = system.glob if "*" in self.path else system.find
            found = find(self.path, detail=True)
        root = self.path.partition("*")[0].rpartition("/")[0] if "*" in self.path else self.path.rstrip("/")
        files = [
            RemoteLog(system.unstrip_protocol(name))
            for name, info in sorted(found.items())
            if info["type"] == "file"
            and info["size"] != 0
            and not any(part.startswith(".") for part in name.removeprefix(root).split("/"))
        ]
        if not files:
            raise KubehabitError(
                f"There is no log {self.url}, nor a folder or pattern with files. Check the URL."
            )
        return files
