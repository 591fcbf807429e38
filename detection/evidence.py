"""Evidence that adds up: what one principal's unusual actions amount to together, fading with time.

One mildly unusual action is everyday life; ten of them within minutes, or a trickle over a day, are not. Each principal has,
for each horizon, two sums that fade exponentially: of what was new, and of what the autoencoder could not reconstruct.
Their geometric mean is the evidence: an action has to stand out by both to count for much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Least reconstruction evidence counted beside something new, in decades: what is new cannot be cancelled altogether.
FLOOR = 0.1

#: Alerts of one principal at most this far apart are one incident.
INCIDENT_SECONDS = 600

#: Principals remembered; those longest quiet are forgotten first, half of them at a time.
_LIMIT = 500_000


@dataclass(frozen=True, slots=True)
class Sums:
    """What has added up of K principals, as a plain array: can be evicted while they are quiet.

    Attributes:
        names: who, length K.
        rows: float64 [K, 1 + 2 * horizons], time of the last evidence in microseconds since 1970 UTC; then for each horizon
            the sums of what was new and of what was not reconstructed, as of that time, decades.
    """

    names: list[str]
    rows: Floats


class Accumulator:
    """Fading sums of evidence per principal.

    Args:
        horizons: seconds in which a sum fades to 1/e, shortest first.
    """

    def __init__(self, horizons: Sequence[float]) -> None:
        self.horizons = tuple(horizons)
        self._fade = [1.0 / (seconds * 1e6) for seconds in self.horizons]
        self._restarts = [seconds > INCIDENT_SECONDS for seconds in self.horizons]
        self._sums: dict[str, list[float]] = {}

    def add(
        self,
        principals: Sequence[str],
        time: npt.NDArray[np.int64],
        novelty: Floats,
        error: Floats,
        limits: Floats | None = None,
    ) -> Floats:
        """Add actions in order; return the evidence up to and including each.

        Args:
            time: int64 [N], microseconds.
            novelty, error: float64 [N], evidence of each that counts, decades; 0 where none does.
            limits: float64 [N, horizons], evidence at which each is flagged. After a flag at a horizon longer than an incident
                its sums restart, or every later trifle would flag again.

        Returns:
            float64 [N, horizons], decades; 0 for an action that adds nothing itself, whatever came before it.
        """
        return self._add(principals, time, novelty, error, limits, stop=False)[0]

    def add_until_flagged(
        self,
        principals: Sequence[str],
        time: npt.NDArray[np.int64],
        novelty: Floats,
        error: Floats,
        limits: Floats,
    ) -> tuple[Floats, int | None]:
        """As `add`, up to and including the first action that reaches a limit; returns its row too, None if none does."""
        return self._add(principals, time, novelty, error, limits, stop=True)

    def _add(
        self,
        principals: Sequence[str],
        time: npt.NDArray[np.int64],
        novelty: Floats,
        error: Floats,
        limits: Floats | None,
        *,
        stop: bool,
    ) -> tuple[Floats, int | None]:
        out = np.zeros((len(principals), len(self.horizons)))
        for row in ((novelty > 0) | (error > 0)).nonzero()[0].tolist():
            name, now, reached = principals[row], float(time[row]), False
            new, wrong = float(novelty[row]), float(error[row])
            sums = self._sums.get(name)
            if sums is None:
                self._keep_bounded()
                sums = self._sums[name] = [now, *([0.0] * (2 * len(self._fade)))]
            passed = now - sums[0]
            if passed > 0:  # an event that comes late finds the sums as they are
                sums[0] = now
            for i, fade in enumerate(self._fade):
                kept = math.exp(-passed * fade) if passed > 0 else 1.0
                a = sums[1 + 2 * i] = sums[1 + 2 * i] * kept + new
                b = sums[2 + 2 * i] = sums[2 + 2 * i] * kept + wrong
                out[row, i] = together = math.sqrt(a * max(b, FLOOR))
                if limits is not None and together >= limits[row, i]:
                    reached = True
                    if self._restarts[i]:
                        sums[1 + 2 * i] = sums[2 + 2 * i] = 0.0
            if reached and stop:
                return out, row
        return out, None

    def peek(self, principal: str, time: int, novelty: float, error: float) -> Floats:
        """The evidence that one action would amount to, if it were added; float64 [1, horizons]."""
        held = self.sums([principal])
        together = self.add([principal], np.array([time]), np.array([novelty]), np.array([error]))
        self.pop([principal])
        self.restore(held)
        return together

    def __len__(self) -> int:
        return len(self._sums)

    def sums(self, principals: Sequence[str] | None = None) -> Sums:
        """What has added up of some principals, or of all; those of whom nothing has are left out."""
        held = self._sums
        names = [name for name in (held if principals is None else principals) if name in held]
        rows = np.array([held[name] for name in names]).reshape(len(names), 1 + 2 * len(self.horizons))
        return Sums(names, rows)

    def pop(self, principals: Sequence[str]) -> Sums:
        """Remove some principals and return what has added up of them."""
        taken = self.sums(principals)
        for name in taken.names:
            del self._sums[name]
        return taken

    def restore(self, sums: Sums) -> None:
        """Give back what `sums` or `pop` returned; what has added up since is replaced."""
        self._sums.update(zip(sums.names, sums.rows.tolist(), strict=True))

    def _keep_bounded(self) -> None:
        if len(self._sums) >= _LIMIT:
            quiet = sorted(self._sums, key=lambda name: self._sums[name][0])
            self.pop(quiet[: _LIMIT // 2])


def replay(
    principal: npt.NDArray[np.int64],
    time: npt.NDArray[np.int64],
    novelty: Floats,
    error: Floats,
    horizons: Sequence[float],
    limits: Floats,
    scales: Floats,
) -> npt.NDArray[np.bool_]:
    """What an `Accumulator` that begins with nothing would let be flagged, under many limits at once.

    Args:
        principal: int64 [N], who acted, as numbers from 0 on without many gaps.
        novelty, error: float64 [N], what counts of them, decades; rows are in the order in which they were scored.
        scales: float64 [S], what the limits are multiplied by, in each of S cases.

    Returns:
        bool [N, S], whether the evidence of any horizon reached its limit.
    """
    count, cases = len(time), len(scales)
    flagged = np.zeros((count, cases), bool)
    if not count:
        return flagged
    order = np.argsort(principal, kind="stable")
    _, first, sizes = np.unique(principal[order], return_index=True, return_counts=True)
    # The k-th action of all principals at once; the most active come first, so that those that go on are a slice.
    most = np.argsort(-sizes, kind="stable")
    first, sizes = first[most], sizes[most]
    fade = 1.0 / (np.asarray(horizons) * 1e6)
    restarts = np.asarray(horizons) > INCIDENT_SECONDS
    last = time[order[first]].astype(np.float64)
    sums = np.zeros((2, len(first), cases, len(fade)))
    for step in range(int(sizes[0])):
        going = int(np.searchsorted(-sizes, -step, side="left"))
        rows = order[first[:going] + step]
        passed = np.maximum(time[rows] - last[:going], 0.0)
        last[:going] += passed
        kept = np.exp(-passed[:, None] * fade)[:, None, :]
        now = sums[:, :going]
        now *= kept
        now[0] += novelty[rows, None, None]
        now[1] += error[rows, None, None]
        reached = np.sqrt(now[0] * np.maximum(now[1], FLOOR)) >= limits[rows, None] * scales[:, None]
        flagged[rows] = reached.any(axis=2)
        now[:, reached & restarts] = 0.0
    return flagged
