"""What workers say of themselves: for each partition a file with the state of its clusters, and when it was written.

    status/TOPIC.00003.json

It lies beside the checkpoints and is replaced every half minute by the worker that has the partition. It is for people: no
verdict and no checkpoint rests on it.
"""

from __future__ import annotations

import logging
from typing import Annotated

import msgspec

from data.errors import KubehabitError
from serving.fleet.state_files import StateFiles

_log = logging.getLogger("kubehabit.fleet")
#: Seconds between two files of a partition, and from when on one is out of date.
STATUS_SECONDS = 30.0
STALE_SECONDS = 4 * STATUS_SECONDS
_FOLDER = "status"
#: Actions over which the share of those with habits is taken; older ones count half.
_SHARE_OF = 100_000
#: A cluster that has had no events for so long is not listed any more.
FORGOTTEN_SECONDS = 30 * 86_400.0
#: Of a reason why a partition waits, which may quote anything.
_LONGEST = 500

_Name = Annotated[str, msgspec.Meta(max_length=256)]


class ClusterStatus(msgspec.Struct, frozen=True):
    """One cluster.

    Attributes:
        name: of the cluster.
        updated: when this was last so, seconds since 1970; earlier than the file for a cluster that has had no events since.
        per_second: events scored a second, in the time before `updated`.
        newest: the API server's time of the newest event, seconds since 1970; None before the first.
        actions, known: actions that were scored, and those of them by principals with habits of their own.
        incidents: open ones by severity, the most severe first.
        unattended: open ones that nobody has acknowledged or taken.
    """

    name: _Name
    updated: float
    per_second: float = 0.0
    newest: float | None = None
    actions: int = 0
    known: int = 0
    incidents: dict[str, int] = {}
    unattended: int = 0


class PartitionStatus(msgspec.Struct, frozen=True):
    """One partition, and the clusters in it.

    Attributes:
        topic, partition: which.
        worker: that has it.
        written: seconds since 1970.
        model: that scores it, as "name version".
        lag: records that are not scored yet; None if that is not known.
        trouble: why it waits; empty if it does not.
        clusters: by name.
    """

    topic: _Name
    partition: int
    worker: _Name
    written: float
    model: _Name = ""
    lag: int | None = None
    trouble: Annotated[str, msgspec.Meta(max_length=_LONGEST)] = ""
    clusters: list[ClusterStatus] = []


class ClusterFigures:
    """Counts what is scored of a cluster, for its status; goes on from the one before."""

    def __init__(self, before: ClusterStatus | None = None) -> None:
        self._newest = None if before is None else before.newest
        self._actions, self._known = (0, 0) if before is None else (before.actions, before.known)
        self._events = 0
        self._since: float | None = None

    def scored(self, events: int, actions: int, known: int, newest: float | None) -> None:
        """Count a batch; `newest` is the API server's time of its newest event."""
        self._events += events
        self._actions += actions
        self._known += known
        if self._actions > _SHARE_OF:
            self._actions, self._known = self._actions // 2, self._known // 2
        if newest is not None:
            self._newest = newest if self._newest is None else max(self._newest, newest)

    def status(self, name: str, now: float) -> ClusterStatus:
        """The state now, without incidents; the next rate begins here."""
        seconds = STATUS_SECONDS if self._since is None else max(now - self._since, 1.0)
        rate, self._events, self._since = self._events / seconds, 0, now
        return ClusterStatus(name, now, round(rate, 2), self._newest, self._actions, self._known)


def _file(topic: str, partition: int) -> str:
    return f"{_FOLDER}/{topic}.{partition:05d}.json"


def write_status(files: StateFiles, status: PartitionStatus) -> None:
    """Replace the file of a partition. A failure is logged: the scoring does not depend on it."""
    short = msgspec.structs.replace(status, trouble=status.trouble[:_LONGEST])
    try:
        files.write(_file(status.topic, status.partition), msgspec.json.encode(short))
    except KubehabitError as error:
        shown = {"partition": status.partition, "reason": str(error)}
        _log.warning("the status of a partition cannot be written", extra=shown)


def last_status(files: StateFiles, topic: str, partition: int) -> dict[str, ClusterStatus]:
    """The clusters of a partition as they were last, by name; empty if nothing is known of them."""
    name = _file(topic, partition)
    try:
        if name in files.names(_FOLDER):
            return {one.name: one for one in _read(files, name).clusters}
    except (KubehabitError, msgspec.DecodeError) as error:
        _log.warning(
            "the last status of a partition cannot be read",
            extra={"partition": partition, "reason": str(error)},
        )
    return {}


def _read(files: StateFiles, name: str) -> PartitionStatus:
    return msgspec.json.decode(files.read(name), type=PartitionStatus)


def read_statuses(files: StateFiles) -> list[PartitionStatus]:
    """All partitions in order; a file that is damaged is left out.

    Raises:
        KubehabitError: the store fails.
    """
    found = []
    for name in files.names(_FOLDER):
        try:
            found.append(_read(files, name))
        except msgspec.DecodeError as error:
            _log.warning("a status is damaged", extra={"file": name, "reason": str(error)})
    return found
