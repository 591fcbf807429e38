"""How much history stands behind the verdicts: which share of what is done is done by principals whose habits are known."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache
from pydantic import Field

from detection.novelty import MATURE
from serving.schemas import ApiModel

#: Actions over which the share is averaged: older ones fade.
_RECENT_ACTIONS = 10_000.0
#: Principals whose history is remembered here; of more, those idle longest are left out of the counts.
_MOST_PRINCIPALS = 50_000
#: Share from which the service calls itself ready.
READY_SHARE = 0.8


class HistoryStatus(ApiModel):
    """How ready the service is to judge."""

    ready: Annotated[bool, Field(description=f"whether the share is {READY_SHARE:.0%} or more")]
    share: Annotated[
        float | None,
        Field(
            description="share of recent actions by principals with enough history; null before the first action"
        ),
    ]
    principals: Annotated[int, Field(description="principals that acted since the service started")]
    principals_ready: Annotated[int, Field(description="those of them with enough history")]
    enough_actions: Annotated[int, Field(description="actions from which a principal has enough history")] = (
        MATURE
    )
    sentence: str


def has_enough(actions: int) -> bool:
    """Whether so many actions are enough to judge a principal by its own habits."""
    return actions >= MATURE


class HistoryTracker:
    """Counts how much history the actions that come in have behind them; safe to read meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: LRUCache[str, int] = LRUCache(_MOST_PRINCIPALS)
        self._ready = self._all = 0.0

    def observe(self, principals: Sequence[str], own_actions: npt.NDArray[np.int64]) -> int:
        """Take in a scored batch: who acted, and how many actions of each were known before. Returns how many had enough."""
        count = len(own_actions)
        if not count:  # a detector that keeps no habits
            return 0
        ready = int((own_actions >= MATURE).sum())
        newest = dict(zip(principals, (own_actions + 1).tolist(), strict=True))
        fading = math.exp(-count / _RECENT_ACTIONS)
        with self._lock:
            self._ready = self._ready * fading + ready
            self._all = self._all * fading + count
            for name, actions in newest.items():
                self._known[name] = actions
        return ready

    def known_actions(self, principal: str) -> int | None:
        """Actions of a principal that its habits are made of; None if it has not acted since the service started."""
        with self._lock:
            return self._known.get(principal)

    @property
    def share(self) -> float | None:
        """Share of recent actions by principals with enough history; None before the first action."""
        with self._lock:
            return self._ready / self._all if self._all else None

    def status(self) -> HistoryStatus:
        """All of it, for `/v1/model`."""
        with self._lock:
            counts = list(self._known.values())
        share = self.share
        return HistoryStatus(
            ready=share is not None and share >= READY_SHARE,
            share=share,
            principals=len(counts),
            principals_ready=sum(map(has_enough, counts)),
            sentence=sentence(share),
        )


def sentence(share: float | None) -> str:
    """The share in words."""
    if share is None:
        return "No action was scored since the service started."
    # Rounded down: 100 % must mean all.
    known = f"{math.floor(share * 100)} % of recent actions are by principals with enough history ({MATURE} actions)."
    if share >= READY_SHARE:
        return known
    return f"{known} Until it is {READY_SHARE:.0%}, much that is unusual is missed."
