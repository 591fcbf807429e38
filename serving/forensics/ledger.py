"""The ledger: an append-only log of changes to the store, each line chained to the one before and, with a key, signed.

A line is `{"entry": {...}, "hash": "<hex>", "signature": "<hex>"}`. `hash` is SHA-256 over the hash of the line before (32 bytes;
zeros before the first) and the SHA-256 of the entry's bytes as they stand in the line. `signature` is Ed25519 over the 32
bytes of `hash`. A second file, `head.json`, repeats the last hash, signed as well: a ledger that ends before its head has lost
its tail, and is not written to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from data.durable_file import write_durably
from data.errors import KubehabitError
from serving.forensics import clock

BEGINNING = bytes(32)
_NAME, _HEAD = "ledger.jsonl", "head.json"


class LedgerLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the ledger as written."""

    entry: msgspec.Raw
    hash: str
    signature: str = ""


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last line: its number from 0 and its hash; with a signature over both if there is a key."""

    number: int
    hash: str
    signature: str = ""

    @property
    def content(self) -> bytes:
        """What is signed."""
        return f"kubehabit head {self.number}:{self.hash}".encode()


class LedgerDamagedError(KubehabitError):
    """A ledger that is not as it was written. Nothing is added to it, or the damage could not be found any more."""


_LINE = msgspec.json.Decoder(LedgerLine)
_ENTRY = msgspec.json.Decoder(dict[str, Any])


def link(before: bytes, entry: bytes | msgspec.Raw) -> bytes:
    """Hash of a line, from the hash of the line before and the entry's bytes."""
    return sha256(before + sha256(entry).digest()).digest()


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A line that was read and whose hash is right; as it was written, since a service holds all lines for years."""

    number: int
    line: LedgerLine

    @property
    def fields(self) -> dict[str, Any]:
        """Content of the line, decoded each time."""
        return _ENTRY.decode(self.line.entry)

    @property
    def hash(self) -> bytes:
        """Hash of the line."""
        return bytes.fromhex(self.line.hash)


def read_lines(folder: Path) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of the ledger's lines; a crash may have torn the last."""
    with contextlib.suppress(FileNotFoundError), (folder / _NAME).open("rb") as file:
        yield from enumerate(file)


def parse(number: int, text: bytes, before: bytes) -> LedgerEntry:
    """Read one line; raises ValueError if it is damaged or not chained to the hash before it."""
    if not text.endswith(b"\n"):
        raise ValueError("its end is missing")
    try:
        line = _LINE.decode(text)
        _ENTRY.decode(line.entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it cannot be read ({error})") from error
    found = link(before, line.entry)
    if found.hex() != line.hash:
        raise ValueError("its hash does not follow from the line before it and its own content")
    return LedgerEntry(number, line)


def read_head(folder: Path) -> Head | None:
    """The end of the ledger when it was last written; None without the file."""
    try:
        return msgspec.json.decode((folder / _HEAD).read_bytes(), type=Head)
    except FileNotFoundError:
        return None


def public_bytes(key: Ed25519PublicKey) -> str:
    """A public key as 64 hexadecimal digits."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def is_signed_by(signed: LedgerLine | Head, key: Ed25519PublicKey) -> bool:
    """Whether the signature of a line, or of the head, is that of a key."""
    try:
        signature = bytes.fromhex(signed.signature)
        key.verify(signature, signed.content if isinstance(signed, Head) else bytes.fromhex(signed.hash))
    except (InvalidSignature, ValueError):
        return False
    return signed.signature == signature.hex()  # the same spelling, not only the same bytes


def named_key(entries: Sequence[LedgerEntry]) -> Ed25519PublicKey | None:
    """The key that signs the last of these lines, as the ledger names it."""
    for entry in reversed(entries):
        if entry.fields.get("kind") == "opened" and (named := entry.fields.get("public_key")):
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(named))
    return None


class LedgerReader:
    """Reads the ledger in a store's folder, each line once, while others may write to it; `entries` are those read so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _NAME
        self.entries: list[LedgerEntry] = []
        self._size = 0

    @property
    def last_hash(self) -> bytes:
        """Hash of the last line that was read."""
        return self.entries[-1].hash if self.entries else BEGINNING

    def read_on(self) -> None:
        """Read what has been appended, up to an incomplete last line; raises LedgerDamagedError if a line is damaged."""
        with self._path.open("rb") as file:
            file.seek(self._size)
            for number, text in enumerate(file, len(self.entries)):
                if not text.endswith(b"\n"):
                    break
                try:
                    entry = parse(number, text, self.last_hash)
                except ValueError as error:
                    raise LedgerDamagedError(
                        f"Line {number + 1} of {self._path} cannot be trusted: {error}. Keep the folder as it is, see what "
                        "`kubehabit verify` reports, and name another one as events.path."
                    ) from error
                self.entries.append(entry)
                self._size += len(text)


class Ledger(LedgerReader):
    """Appends entries; several processes may (the service, and a command that exports).

    Args:
        folder: of the store; created if missing.
        key: signs every line; `signs` says whether there is one.

    Raises:
        LedgerDamagedError: the ledger in the folder is damaged, or ends before its head.
    """

    def __init__(self, folder: Path, key: Ed25519PrivateKey | None = None) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = key
        self.signs = key is not None
        with self._locked():
            if self._path.exists():
                self.read_on()
            self._check_head()
            self._path.touch(mode=0o600)
            self._mend()

    def append(self, kind: str, **fields: Any) -> LedgerEntry:
        """Append an entry durably.

        Raises:
            OSError: it could not be written.
            LedgerDamagedError: the ledger has been damaged.
        """
        with self._locked():
            self._mend()
            number = len(self.entries)
            content = {"number": number, "time": clock.written(clock.now()), "kind": kind, **fields}
            raw = msgspec.json.encode(content)
            found = link(self.last_hash, raw)
            signature = self._key.sign(found).hex() if self._key is not None else ""
            line = LedgerLine(msgspec.Raw(raw), found.hex(), signature)
            text = msgspec.json.encode(line) + b"\n"
            with self._path.open("ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._size += len(text)
            self.entries.append(LedgerEntry(number, line))
            head = Head(number, found.hex())
            if self._key is not None:
                head = msgspec.structs.replace(head, signature=self._key.sign(head.content).hex())
            write_durably(self._folder / _HEAD, msgspec.json.encode(head), 0o600)
            return self.entries[-1]

    def _check_head(self) -> None:
        """Compare the ledger with its head, which a crash may have left one line behind."""
        count = len(self.entries)
        try:
            head = read_head(self._folder)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            problem = "its head.json cannot be read"
        else:
            if head is None and count <= 1:
                return
            if head is None:
                problem = "its head.json is missing"
            elif head.number >= count:
                problem = f"it ends at line {count}, and its head.json names line {head.number + 1}"
            elif head.number < count - 2 or self.entries[head.number].hash.hex() != head.hash:
                problem = "its head.json names another line"
            elif (key := named_key(self.entries)) and head.signature and not is_signed_by(head, key):
                problem = "its head.json is not signed by the key that the ledger names"
            else:
                return
        raise LedgerDamagedError(
            f"The ledger {self._path} is not as it was written: {problem}. Nothing is written to the event store. Keep the "
            "folder as it is, see what `kubehabit verify` reports, and name another one as events.path."
        )

    def _mend(self) -> None:
        """Read on, and cut off a torn last line."""
        self.read_on()
        if self._path.stat().st_size > self._size:
            os.truncate(self._path, self._size)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "ledger.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
