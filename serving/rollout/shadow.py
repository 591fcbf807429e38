"""A challenger in shadow: it scores what the champion scored and counts where the two differ; it never raises an alert.

Its thread has a lower priority and waits while the champion scores; what it cannot keep up with is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from data.actions.fields import stable_hash
from data.events.audit_event import AuditEvent
from serving.process.worker import Worker
from serving.schemas import ApiModel, clean
from serving.scoring.engine import Loaded
from serving.telemetry.model_metrics import ModelMetrics

if TYPE_CHECKING:
    from detection.detector import Scores

_log = logging.getLogger("kubehabit.shadow")
#: Events that may wait for the challenger; some 40 MB of them.
_CAPACITY = 20_000
#: Events that it scores at a time: the shorter, the sooner it gives way.
_CHUNK = 64
#: Longest wait for the champion to be idle before each chunk; a service may never be idle.
_GIVE_WAY_SECONDS = 0.05
_EXAMPLES = 20
#: Principals whose last flagged action is remembered, to tell incidents from actions.
_FOLLOWED = 50_000
_STOP_SECONDS = 3.0
By = Literal["champion", "challenger"]


class Disagreement(ApiModel):
    """An action that one of the two flags and the other does not."""

    audit_id: str
    principal: str
    time: datetime
    flagged_by: By
    champion_evidence: float
    challenger_evidence: float


class ChallengerInfo(ApiModel):
    """The challenger, and how its verdicts have differed from the champion's since it started."""

    name: str
    version: str
    since: datetime
    notice: str | None = None
    scored: Annotated[int, Field(description="actions that both have scored")] = 0
    dropped: Annotated[int, Field(description="events it could not keep up with")] = 0
    waiting: Annotated[int, Field(description="events that it has still to score")] = 0
    flagged_by_both: int = 0
    flagged_by_champion_only: int = 0
    flagged_by_challenger_only: int = 0
    incidents: Annotated[
        dict[str, int],
        Field(description="what would have been alerts of each, over the same actions", default_factory=dict),
    ]
    mean_evidence_difference: Annotated[
        float, Field(description="challenger less champion, decades, over actions where either has any")
    ] = 0.0
    latest: Annotated[
        list[Disagreement], Field(description="the last 20 disagreements, newest first", default_factory=list)
    ]


@dataclass(frozen=True, slots=True)
class _Offered:
    """A batch and what the champion made of it: rows are actions, `event` says of which event."""

    events: Sequence[AuditEvent]
    event: npt.NDArray[np.int64]
    flagged: npt.NDArray[np.bool_]
    evidence: npt.NDArray[np.float64]


class Shadow:
    """Scores batches with another model in a thread of its own.

    Args:
        loaded: the challenger.
        metrics: counts every comparison.
        busy: whether the champion is scoring at the moment.
        gap_minutes: flagged actions of a principal at most this far apart are one incident.
        principals: most that it remembers; beyond it a quarter of them, those idle longest, are dropped.
        capacity: events that may wait.
    """

    def __init__(
        self,
        loaded: Loaded,
        metrics: ModelMetrics,
        *,
        busy: Callable[[], bool],
        gap_minutes: float,
        principals: int,
        capacity: int = _CAPACITY,
    ) -> None:
        self.loaded = loaded
        self._metrics = metrics
        self._busy = busy
        self._gap = round(gap_minutes * 60e6)
        self._most = principals
        self._capacity = capacity
        self._queue: deque[_Offered] = deque()
        self._waiting = 0
        self._counts: Counter[str] = Counter()
        self._incidents: Counter[By] = Counter()
        self._differences: list[float] = [0.0, 0.0]  # their sum and number
        self._since = datetime.now(UTC)
        self._notice: str | None = None
        self._latest: deque[Disagreement] = deque(maxlen=_EXAMPLES)
        self._last: dict[tuple[By, str], int] = {}
        self._lock = threading.Lock()
        self._worker = Worker("shadow", self._step, low_priority=True)

    def start(self) -> None:
        """Score what is offered from now on."""
        self._worker.start()

    def close(self) -> None:
        """Stop; what waits is dropped."""
        self._worker.close(_STOP_SECONDS)

    def offer(self, events: Sequence[AuditEvent], scores: Scores) -> None:
        """Take a batch that the champion scored, or drop it at once if too much waits."""
        with self._lock:
            if self._worker.closing.is_set() or self._notice is not None:
                return
            if self._waiting + len(events) > self._capacity:
                self._counts["dropped"] += len(events)
                self._metrics.shadow_dropped(len(events))
                return
            self._waiting += len(events)
            self._queue.append(_Offered(events, scores.event, scores.flagged, scores.evidence))
        self._worker.wake()

    def drained(self) -> bool:
        """Whether everything that was offered has been compared or dropped."""
        return self._waiting == 0

    def _step(self) -> bool:
        while self._queue and not self._worker.closing.is_set():
            offered = self._queue.popleft()
            try:
                self._compare(offered)
            except Exception as error:
                _log.exception("the challenger failed; it is not asked any more")
                self._notice = f"It failed on an event ({error!r}) and is not asked any more."
                with self._lock:
                    self._queue.clear()
                    self._waiting = 0
                return False
            with self._lock:
                self._waiting -= len(offered.events)
            self._metrics.shadow_waiting(self._waiting)
        return True

    def _give_way(self) -> None:
        until = time.monotonic() + _GIVE_WAY_SECONDS
        while self._busy() and time.monotonic() < until:
            time.sleep(0.001)

    def _compare(self, offered: _Offered) -> None:
        champion = np.full(len(offered.events), np.nan)
        champion[offered.event] = offered.evidence
        flagged = np.zeros(len(offered.events), bool)
        flagged[offered.event] = offered.flagged
        for begin in range(0, len(offered.events), _CHUNK):
            if self._worker.closing.is_set():
                return
            self._give_way()
            part = offered.events[begin : begin + _CHUNK]
            scores = self.loaded.detector.score(part)
            self._count(part, scores, champion[begin + scores.event], flagged[begin + scores.event])
        self._keep_bounded()

    def _keep_bounded(self) -> None:
        """Drop the principals idle longest: only the champion's are kept on disk."""
        detector = self.loaded.detector
        if len(detector.windows) <= self._most:
            return
        held = detector.windows.contexts()
        quiet = np.argsort(held.last, kind="stable")[: len(held.names) - self._most + self._most // 4]
        names = [held.names[row] for row in quiet.tolist()]
        detector.windows.pop(names)
        detector.accumulator.pop(names)
        detector.probation.pop(names)
        detector.habits.pop(np.array([stable_hash(name) for name in names], np.uint64))

    def _count(
        self,
        events: Sequence[AuditEvent],
        scores: Scores,
        evidence: npt.NDArray[np.float64],
        flagged: npt.NDArray[np.bool_],
    ) -> None:
        """Count one chunk. Rows that the champion left out by its own settings have NaN for evidence and are not compared."""
        both_scored = ~np.isnan(evidence)
        mine, theirs = scores.flagged & both_scored, flagged & both_scored
        compared = both_scored & ((scores.evidence > 0) | (evidence > 0))
        differences = (scores.evidence - evidence)[compared]
        self._differences[0] += float(differences.sum())
        self._differences[1] += len(differences)
        counts = {
            "scored": int(both_scored.sum()),
            "both": int((mine & theirs).sum()),
            "champion": int((theirs & ~mine).sum()),
            "challenger": int((mine & ~theirs).sum()),
        }
        self._counts.update(counts)
        moments = scores.time.astype(np.int64)
        verdicts: dict[By, npt.NDArray[np.bool_]] = {"champion": theirs, "challenger": mine}
        for row in np.flatnonzero(mine | theirs).tolist():
            for by, is_flagged in verdicts.items():
                if is_flagged[row]:
                    self._incident(by, scores.principal[row], int(moments[row]))
            if mine[row] != theirs[row]:
                self._latest.append(
                    Disagreement(
                        audit_id=clean(events[scores.event[row]].auditID, 128),
                        principal=clean(scores.principal[row]),
                        time=datetime.fromtimestamp(moments[row] / 1e6, UTC),
                        flagged_by="challenger" if mine[row] else "champion",
                        champion_evidence=round(float(evidence[row]), 3),
                        challenger_evidence=round(float(scores.evidence[row]), 3),
                    )
                )
        self._metrics.shadow_compared(**counts, differences=differences.tolist())

    def _incident(self, by: By, principal: str, moment: int) -> None:
        before = self._last.get((by, principal))
        self._last[by, principal] = moment if before is None else max(before, moment)
        if before is None or moment - before > self._gap:
            self._incidents[by] += 1
            self._metrics.shadow_incident(by)
        if len(self._last) > _FOLLOWED:
            del self._last[next(iter(self._last))]

    def info(self) -> ChallengerInfo:
        """What `/v1/model` shows of it."""
        counts, model = self._counts, self.loaded.model
        total, number = self._differences
        return ChallengerInfo(
            name=model.name,
            version=model.version,
            since=self._since,
            notice=self._notice or model.notice,
            scored=counts["scored"],
            dropped=counts["dropped"],
            waiting=self._waiting,
            flagged_by_both=counts["both"],
            flagged_by_champion_only=counts["champion"],
            flagged_by_challenger_only=counts["challenger"],
            incidents={by: self._incidents[by] for by in get_args(By)},
            mean_evidence_difference=round(total / max(number, 1), 4),
            latest=list(self._latest)[::-1],
        )
