"""How far a partition is: for each of its clusters a snapshot, all at one place of the log.

    TOPIC/00003/0000-00000000000000123456.json                  the checkpoint: the next record, and where each snapshot is
    TOPIC/00003/prod/0000-00000000000000123456.snapshot         what is known of a cluster before that record

The checkpoint is written last, and nothing is ever changed: one that was begun and not ended is as if it had never been. The
newest two stay. The first number is that of the topic's life: when it was emptied or made again, its records count from 0.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping

import msgspec

from data.errors import KubehabitError
from serving.fleet.state_files import StateFiles, StateFilesError
from serving.scoring.snapshots import Snapshot, SnapshotError

_log = logging.getLogger("kubehabit.fleet")
_KEPT = 2


class PartitionCheckpoint(msgspec.Struct, frozen=True):
    """A place in a partition's log.

    Attributes:
        life: how often the topic was made again.
        offset: of the first record that is not in the snapshots.
        clusters: name of each cluster -> name of its snapshot.
    """

    life: int = 0
    offset: int = 0
    clusters: dict[str, str] = {}

    @property
    def stem(self) -> str:
        """Sorts as the checkpoints follow each other."""
        return f"{self.life:04d}-{self.offset:020d}"


class Checkpoints:
    """The checkpoints of one partition.

    Args:
        files: where they are.
        topic, partition: whose they are.
    """

    def __init__(self, files: StateFiles, topic: str, partition: int) -> None:
        self._files = files
        self._folder = f"{topic}/{partition:05d}"
        self._refused: set[str] = set()
        self._named: dict[str, frozenset[str]] = {}
        self._tidied = False

    def newest(self) -> PartitionCheckpoint | None:
        """The newest good one; None if there is none. Raises KubehabitError if the store fails."""
        for name in reversed(self._names()):
            try:
                found = msgspec.json.decode(self._files.read(name), type=PartitionCheckpoint)
            except msgspec.DecodeError as error:
                self.refuse(name, str(error))
                continue
            self._named[name] = frozenset(found.clusters.values())
            return found
        return None

    def _names(self) -> list[str]:
        names = [name for name in self._files.names(self._folder) if name.endswith(".json")]
        return [name for name in names if name not in self._refused]

    def count_start(self, checkpoint: PartitionCheckpoint) -> int:
        """Number of starts from this checkpoint, this one included; only those that ended without a checkpoint add up."""
        name = f"{self._folder}/starts"
        stem, count = "", 0
        try:
            if name in self._files.names(self._folder):
                with contextlib.suppress(msgspec.DecodeError):
                    stem, count = msgspec.json.decode(self._files.read(name), type=tuple[str, int])
            count = count + 1 if stem == checkpoint.stem else 1
            self._files.write(name, msgspec.json.encode((checkpoint.stem, count)))
        except KubehabitError as error:
            _log.warning("a start cannot be counted", extra={"reason": str(error)})
        return count

    def forget_starts(self) -> None:
        """Note that this start ends in order."""
        with contextlib.suppress(KubehabitError):
            self._files.delete(f"{self._folder}/starts")

    def refuse(self, name: str, reason: str) -> None:
        """Use this checkpoint no more: it, or a snapshot that it names, is damaged."""
        self._refused.add(name)
        shown = {"checkpoint": name, "reason": reason}
        _log.error("a checkpoint is refused; the one before it is used", extra=shown)

    def is_elsewhere(self, checkpoint: PartitionCheckpoint, cluster: str) -> bool:
        """Whether an earlier checkpoint has another snapshot of a cluster; raises StateFilesError if the store fails."""
        same = checkpoint.clusters.get(cluster)
        for name in self._names():
            if name < self.name(checkpoint):
                found = msgspec.json.decode(self._files.read(name), type=PartitionCheckpoint)
                if found.clusters.get(cluster, same) != same:
                    return True
        return False

    def name(self, checkpoint: PartitionCheckpoint) -> str:
        """Name of a checkpoint's file."""
        return f"{self._folder}/{checkpoint.stem}.json"

    def snapshot(self, checkpoint: PartitionCheckpoint, cluster: str) -> Snapshot | None:
        """What a checkpoint knows of a cluster; None if nothing.

        Raises:
            SnapshotError: it is damaged or missing.
            StateFilesError: the store fails.
        """
        name = checkpoint.clusters.get(cluster)
        if name is None:
            return None
        try:
            content = self._files.read(name)
        except StateFilesError as error:
            if name in self._files.names(name.rpartition("/")[0]):
                raise
            raise SnapshotError(f"{name} is missing") from error
        return Snapshot.unpack(content)

    def write(
        self, checkpoint: PartitionCheckpoint, changed: Mapping[str, Callable[[], Snapshot]]
    ) -> tuple[PartitionCheckpoint, int]:
        """Write snapshots of the clusters that changed, then a checkpoint of all; returns it, and the bytes that were written.

        Raises:
            KubehabitError: the store fails. The checkpoints before stay good.
        """
        clusters, size = dict(checkpoint.clusters), 0
        for cluster, make in changed.items():
            clusters[cluster] = f"{self._folder}/{cluster}/{checkpoint.stem}.snapshot"
            content = io.BytesIO()
            make().write(content)
            self._files.write(clusters[cluster], content.getvalue())
            size += len(content.getvalue())
        made = msgspec.structs.replace(checkpoint, clusters=clusters)
        name = self.name(made)
        self._refused.discard(name)
        self._files.write(name, msgspec.json.encode(made))
        self._named[name] = frozenset(clusters.values())
        return made, size

    def clear(self) -> None:
        """Delete all but the newest two; only who owns the partition may. After a failure, logged, the rest stays for later."""
        try:
            names = self._names()
            kept = frozenset[str]().union(*(self._snapshots_of(name) for name in names[-_KEPT:]))
            for name in names[:-_KEPT]:
                for snapshot in self._snapshots_of(name) - kept:
                    self._files.delete(snapshot)
                self._files.delete(name)
                del self._named[name]
            if not self._tidied:
                self._tidy(kept)
                self._tidied = True
        except (KubehabitError, msgspec.DecodeError) as error:
            _log.warning("old checkpoints cannot be deleted yet", extra={"reason": str(error)})

    def _snapshots_of(self, name: str) -> frozenset[str]:
        if name not in self._named:
            found = msgspec.json.decode(self._files.read(name), type=PartitionCheckpoint)
            self._named[name] = frozenset(found.clusters.values())
        return self._named[name]

    def _tidy(self, kept: frozenset[str]) -> None:
        """Delete snapshots of checkpoints that were begun by processes that died."""
        oldest: dict[str, str] = {}
        for name in sorted(kept, reverse=True):
            oldest[name.rpartition("/")[0]] = name
        for folder, first in oldest.items():
            for name in self._files.names(folder):
                if name < first:
                    self._files.delete(name)
