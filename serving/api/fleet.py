"""The route of the fleet: every cluster that workers score, as they last said it is."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from cachetools import TTLCache, cached
from fastapi import FastAPI
from pydantic import Field

from serving.fleet.state_files import StateFiles, open_state
from serving.fleet.status import STALE_SECONDS, ClusterStatus, PartitionStatus, read_statuses
from serving.runtime import Service
from serving.schemas import SEVERITIES, ApiModel
from serving.settings import Settings

#: How long the files of the workers are shown as they were read.
_FRESH_SECONDS = 5.0
ClusterState = Literal["silent", "waiting", "behind", "current"]
_STATES: tuple[ClusterState, ...] = ("silent", "waiting", "behind", "current")
#: Records that wait for the next batch are no delay.
_BEHIND = 10_000


class FleetCluster(ApiModel):
    """One cluster that workers score."""

    name: str
    state: Annotated[
        ClusterState,
        Field(
            description="silent: its worker has said nothing for two minutes; waiting: its partition waits, see trouble; "
            "behind: more than 10,000 records are not scored yet"
        ),
    ]
    trouble: Annotated[str, Field(description="why its partition waits; empty if it does not")] = ""
    topic: str
    partition: int
    worker: str
    model: str
    written: Annotated[datetime, Field(description="when the worker said so")]
    per_second: Annotated[float, Field(description="events scored a second, over half a minute")]
    lag_records: Annotated[int | None, Field(description="records of its partition not scored yet")] = None
    newest_event: Annotated[datetime | None, Field(description="the API server's time")] = None
    readiness: Annotated[
        float | None,
        Field(
            description="share of its last 100,000 actions that are by principals with habits of their own"
        ),
    ] = None
    open_incidents: dict[str, int]
    unattended: Annotated[int, Field(description="open, not acknowledged, and assigned to nobody")]
    console: Annotated[str | None, Field(description="address of its console (console.cluster_url)")] = None


class Fleet(ApiModel):
    """All clusters that workers score, the most urgent first."""

    clusters: list[FleetCluster]
    workers: Annotated[int, Field(description="that said something within two minutes")]
    per_second: float
    lag_records: int
    open_incidents: Annotated[dict[str, int], Field(description="most severe first")]
    unattended: int


class FleetReader:
    """Reads what the workers said, out of where their checkpoints are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files: StateFiles | None = None
        self._lock = threading.Lock()
        self._statuses = cached(TTLCache[object, list[PartitionStatus]](1, _FRESH_SECONDS), lock=self._lock)(
            self._read
        )

    def _read(self) -> list[PartitionStatus]:
        worker = self._settings.worker
        if worker.state is None and not Path(worker.state_url).is_dir():
            return []  # no worker ever ran here; opening it would make the folder
        self._files = self._files or open_state(worker.state_url)
        return read_statuses(self._files)

    def fleet(self) -> Fleet:
        """All clusters; none if there is no fleet.

        Raises:
            KubehabitError: the state of the fleet cannot be read.
        """
        statuses, now = self._statuses(), time.time()
        newest: dict[str, tuple[PartitionStatus, ClusterStatus]] = {}
        for status in statuses:
            for one in status.clusters:
                if one.name not in newest or newest[one.name][1].updated < one.updated:
                    newest[one.name] = status, one
        clusters = [self._cluster(status, one, now) for status, one in newest.values()]
        open_ = Counter[str]()
        for cluster in clusters:
            open_.update(cluster.open_incidents)
        alive = [status for status in statuses if not _is_stale(status, now)]
        return Fleet(
            clusters=sorted(clusters, key=_need),
            workers=len({status.worker for status in alive}),
            per_second=round(sum(cluster.per_second for cluster in clusters), 2),
            lag_records=sum(status.lag or 0 for status in alive),
            open_incidents={name: open_[name] for name in reversed(SEVERITIES[1:])},
            unattended=sum(cluster.unattended for cluster in clusters),
        )

    def _cluster(self, status: PartitionStatus, one: ClusterStatus, now: float) -> FleetCluster:
        url = self._settings.console.cluster_url
        state: ClusterState = "current"
        if _is_stale(status, now):
            state = "silent"
        elif status.trouble:
            state = "waiting"
        elif (status.lag or 0) > _BEHIND:
            state = "behind"
        return FleetCluster(
            name=one.name,
            state=state,
            trouble=status.trouble,
            topic=status.topic,
            partition=status.partition,
            worker=status.worker,
            model=status.model,
            written=_moment(status.written),
            # One that is not in memory has had no events for a while.
            per_second=one.per_second if one.updated >= status.written and state != "silent" else 0.0,
            lag_records=status.lag,
            newest_event=None if one.newest is None else _moment(one.newest),
            readiness=one.known / one.actions if one.actions else None,
            open_incidents={name: max(one.incidents.get(name, 0), 0) for name in reversed(SEVERITIES[1:])},
            unattended=one.unattended,
            console=None if url is None else url.replace("{cluster}", one.name),
        )


def _is_stale(status: PartitionStatus, now: float) -> bool:
    return now - status.written > STALE_SECONDS


def _moment(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def _need(cluster: FleetCluster) -> tuple[object, ...]:
    """Sort key: clusters that are not scored come first, then those with more and more severe open incidents."""
    return (
        _STATES.index(cluster.state),
        *(-number for number in cluster.open_incidents.values()),
        cluster.name,
    )


def add_fleet_routes(app: FastAPI, service: Service) -> None:
    """Add the route."""
    reader = app.state.fleet = FleetReader(service.settings)

    @app.get("/v1/fleet", tags=["operation"])
    def fleet() -> Fleet:
        """Show every cluster that workers score: whether events arrive, readiness, and what is open."""
        return reader.fleet()
