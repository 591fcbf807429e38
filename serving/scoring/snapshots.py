"""Snapshots of everything learned since the model was made, each with its position in the journal.

A snapshot and the journal after it are the state: at the start the newest good one is loaded and the rest is scored again. A
file is

    magic line | SHA-256 of the rest | zstd of an .npz: plain arrays, and one of MessagePack for everything else

written beside the others and renamed when it is on disk. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from data.actions.breadth import ReadTracker
from data.actions.stage_folding import StageFolder
from data.actions.vocabulary import Vocabulary
from data.durable_file import replacing
from data.errors import KubehabitError
from data.principals.ownership import OwnerTracker
from detection.detector import Detector
from detection.evidence import Sums
from detection.novelty import OwnHabits
from detection.probation import unpack_records
from detection.state_transfer import transfer_contexts, transfer_sums
from detection.windows import Contexts
from serving.scoring.deduplication import EventDeduplicator
from serving.scoring.engine import Engine

_log = logging.getLogger("kubehabit.state")
_MAGIC = b"kubehabit state 1\n"
_DIGEST_BYTES = 32
_HEAD = len(_MAGIC) + _DIGEST_BYTES
_SUFFIX = ".snapshot"
_LEVEL = 1

Array = npt.NDArray[Any]


class SnapshotError(KubehabitError):
    """A snapshot is damaged, or was written by another version."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was known after the record of the journal at `position`, in the terms of a bundle (its checksum; empty for none)."""

    position: int
    bundle: str
    meta: dict[str, Any]
    arrays: dict[str, Array]

    def write(self, out: BinaryIO) -> None:
        """Write the seekable file piece by piece."""
        meta = {"position": self.position, "bundle": self.bundle} | self.meta
        packed = np.frombuffer(msgspec.msgpack.encode(meta), np.uint8)
        out.write(_MAGIC + bytes(_DIGEST_BYTES))
        digested = _DigestedFile(out)
        with zstandard.ZstdCompressor(level=_LEVEL).stream_writer(digested, closefd=False) as compressed:  # type: ignore[arg-type]
            np.savez(_ByteStream(compressed), meta=packed, **self.arrays)  # type: ignore[arg-type]
        out.seek(len(_MAGIC))
        out.write(digested.digest.digest())

    @classmethod
    def unpack(cls, content: bytes) -> Snapshot:
        """Inverse of `write`; raises SnapshotError."""
        if not content.startswith(_MAGIC):
            raise SnapshotError("it is no snapshot of this version of kubehabit")
        body = memoryview(content)[_HEAD:]
        if hashlib.sha256(body).digest() != content[len(_MAGIC) : _HEAD]:
            raise SnapshotError("its checksum does not match: it is damaged")
        try:
            file = io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(body))
            with np.load(file, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
            meta = msgspec.msgpack.decode(arrays.pop("meta").tobytes())
            return cls(meta.pop("position"), meta.pop("bundle"), meta, arrays)
        except Exception as error:  # whatever a file with the right checksum can hold
            raise SnapshotError(f"it cannot be read: {error!r}") from error


class _DigestedFile:
    """A file to write to that computes the SHA-256 of what is written."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._out.write(data)


class _ByteStream:
    """Write-only file adapter, so that `np.savez` can stream into a compressor."""

    def __init__(self, compressed: zstandard.ZstdCompressionWriter) -> None:
        self.write = compressed.write
        self.flush = lambda: None  # of the compressor's, that would end a block and cost room

    def read(self) -> bytes:
        raise io.UnsupportedOperation("read")  # by having it, numpy takes this for a file


class Snapshots:
    """The newest snapshots in a folder, private to its owner; raises SnapshotError if it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob("*.part"):
                left.unlink()
        except OSError as error:
            raise SnapshotError(
                f"The folder {folder} cannot be used ({error.strerror}). Check state.path and its permissions."
            ) from error

    def positions(self) -> list[int]:
        """Positions of the snapshots there are, oldest first."""
        return sorted(int(path.stem) for path in self.folder.glob("*" + _SUFFIX) if path.stem.isdecimal())

    def write(self, snapshot: Snapshot, keep: int = 2) -> None:
        """Add a snapshot; only so many of the newest are kept. After an OSError those before are untouched."""
        with replacing(self._path(snapshot.position), 0o600) as out:
            snapshot.write(out)
        for position in self.positions()[:-keep]:
            self._path(position).unlink(missing_ok=True)

    def read(self, position: int) -> Snapshot:
        """One of them; raises SnapshotError or OSError."""
        return Snapshot.unpack(self._path(position).read_bytes())

    def newest(self) -> Snapshot | None:
        """The newest good snapshot. A damaged one is logged as an error and renamed."""
        for position in reversed(self.positions()):
            path = self._path(position)
            try:
                return Snapshot.unpack(path.read_bytes())
            except (SnapshotError, OSError) as error:
                _log.error(
                    "a snapshot is refused; the one before it is used",
                    extra={"path": str(path), "reason": str(error)},
                )
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".damaged"))
        return None

    def _path(self, position: int) -> Path:
        return self.folder / f"{position:020d}{_SUFFIX}"


def take_snapshot(
    engine: Engine, deduplicator: EventDeduplicator, position: int, hot: Sequence[str] | None = None
) -> Callable[[], Snapshot]:
    """Copy what changes, on the thread that scores; the result makes the snapshot of it, once, on any thread.

    Args:
        hot: principals in memory, the one idle longest first; None for all.
    """
    meta: dict[str, Any] = {
        "principals": engine.principals.snapshot(),
        "since": engine.principals.since,
        "repeats_key": deduplicator.key,
    }
    if engine.rules is not None:
        meta["rules"] = engine.rules.snapshot()
    context, seen = engine.context.snapshot(), deduplicator.to_arrays()
    rules = None if engine.authorization is None else engine.authorization.snapshot()

    def described() -> dict[str, Any]:
        return {"surroundings": context()} | ({} if rules is None else {"authorization": rules()})

    detector = engine.detector
    if not isinstance(detector, Detector):
        return lambda: Snapshot(position, "", meta | described(), _joined("repeats", seen))
    contexts, sums = detector.windows.contexts(hot), detector.accumulator.sums()
    copied = [detector.habits.copy()]
    requests = detector.encoder.folder.to_arrays()
    owners, reads = detector.encoder.owners, detector.encoder.reads
    meta |= {
        "names": contexts.names,
        "summed": sums.names,
        "horizons": detector.accumulator.horizons,
        "window": detector.windows.window,
        "vocabulary": detector.bundle.vocabulary.to_dict(),
        "folder_key": detector.encoder.folder.key,
        "owners": [] if owners is None else owners.to_list(),
        "reads": [] if reads is None else reads.to_list(),
        "probation": detector.probation.to_bytes(),
    }
    bundle = detector.bundle

    def make() -> Snapshot:
        habits = copied.pop()  # the largest part: it is given back before anything is written
        own, grown = habits.own(), habits.grown(bundle.habits)
        arrays: dict[str, Array] = {
            "tokens": contexts.tokens,
            "lengths": contexts.lengths,
            "last": contexts.last,
            "sums": sums.rows,
            "own_principal": own.principal,
            "own_key": own.key,
            "own_count": own.count.astype(np.uint32),
            "others": grown,
            # For a bundle that adds nothing to them.
            "others_in_all": habits.counts(grown[:, 0]).astype(np.uint64),
            **_joined("repeats", seen),
            **_joined("requests", requests),
        }
        return Snapshot(position, bundle.checksum, meta | described(), arrays)

    return make


def restore_deduplicator(snapshot: Snapshot, capacity: int) -> EventDeduplicator:
    """The memory of events that a snapshot holds."""
    seen = _parted(snapshot.arrays, "repeats")
    return EventDeduplicator.from_arrays(capacity, snapshot.meta["repeats_key"], seen)


def _joined(name: str, parts: Sequence[Array]) -> dict[str, Array]:
    return {name: np.concatenate(parts), f"{name}_sizes": np.array([len(part) for part in parts], np.int64)}


def _parted(arrays: Mapping[str, Array], name: str) -> list[Array]:
    """Inverse of `_joined`."""
    return np.split(arrays[name], np.cumsum(arrays[f"{name}_sizes"])[:-1])


def restore(snapshot: Snapshot, engine: Engine) -> None:
    """Give an engine that has not scored yet what a snapshot holds, fitted to its bundle if it is another one."""
    meta, arrays = snapshot.meta, snapshot.arrays
    engine.principals.restore(meta["principals"], meta["since"])
    if "surroundings" in meta:  # snapshots of before there were incidents have none
        engine.context.restore(meta["surroundings"])
    if engine.authorization is not None and "authorization" in meta:
        engine.authorization.restore(meta["authorization"])
    if engine.rules is not None and "rules" in meta:  # as have those of before there were rules
        engine.rules.restore(meta["rules"])
    detector = engine.detector
    if not isinstance(detector, Detector) or not snapshot.bundle:
        return
    _restore_memory(snapshot, detector)
    names = meta["names"]
    contexts = Contexts(names, arrays["tokens"], arrays["lengths"], arrays["last"])
    sums = Sums(meta["summed"], arrays["sums"])
    own = OwnHabits(arrays["own_principal"], arrays["own_key"], arrays["own_count"].astype(np.int64))
    # An older kubehabit put nothing on probation.
    held = unpack_records(meta["probation"]) if "probation" in meta else {}
    if snapshot.bundle != detector.bundle.checksum:
        transfer_contexts(detector, contexts, Vocabulary.from_dict(meta["vocabulary"]))
        transfer_sums(detector, sums, meta["horizons"])
        in_all = np.stack([arrays["others"][:, 0], arrays["others_in_all"]], axis=1)
        detector.habits.merge_greater(own, in_all)
        detector.restore_probation(held)
        return
    elsewhere = set(detector.windows.contexts().names) - set(names)
    detector.windows.pop(list(elsewhere))  # the bundle's context of principals on disk is out of date
    detector.windows.restore(contexts)
    detector.accumulator.restore(sums)
    detector.habits.restore_others(arrays["others"])
    detector.habits.restore(own)
    detector.restore_probation(held)


def _restore_memory(snapshot: Snapshot, detector: Detector) -> None:
    """The memory of requests, owners and reads, which is the same under every bundle."""
    meta, arrays = snapshot.meta, snapshot.arrays
    folder = detector.encoder.folder
    if meta["folder_key"] is not None:
        # An older kubehabit kept two generations, the later one first.
        before = [arrays["requests_before"], arrays["requests"]] if "requests_before" in arrays else None
        folder = StageFolder.from_arrays(meta["folder_key"], before or _parted(arrays, "requests"))
    reads = ReadTracker.from_list(meta.get("reads", ()))  # an older kubehabit followed none
    detector.encoder.restore(folder, OwnerTracker.from_list(meta["owners"]), reads)
