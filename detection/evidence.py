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

_INCIDENT = INCIDENT_SECONDS * 1e6

#: Principals remembered; those longest quiet are forgotten first, half of them at a time.
_LIMIT = 500_000


@dataclass(frozen=True, slots=True)
class Sums:
    """What has added up of K principals, as a plain array: can be evicted while they are quiet.

    Attributes:
        names: who, length K.
        rows: float64 [K, 2 + 2 * horizons], time of the last evidence in microseconds since 1970 UTC; then for each horizon
            the sums of what was new and of what was not reconstructed, as of that time, decades; then the principal's
            actions by then, NaN if they are not known. Rows of an earlier release lack the last column.
    """

    names: list[str]
    rows: Floats


class Accumulator:
    """Fading sums of evidence per principal.

    Args:
        horizons: seconds in which a sum fades to 1/e, shortest first.
        activity: for each horizon, actions of the principal in which a sum fades to 1/e; it fades by the slower of the two, so
            that an intruder who waits is not forgotten before the account has been used for ordinary work. Without it,
            sums fade with time alone.
    """

    def __init__(self, horizons: Sequence[float], activity: Sequence[float] = ()) -> None:
        self.horizons = tuple(horizons)
        self._fade = [1.0 / (seconds * 1e6) for seconds in self.horizons]
        self._per_action = [1.0 / actions for actions in activity] or [math.inf] * len(self.horizons)
        self._counts = bool(activity)
        self._restarts = [seconds > INCIDENT_SECONDS for seconds in self.horizons]
        self._sums: dict[str, list[float]] = {}

    def add(
        self,
        principals: Sequence[str],
        time: npt.NDArray[np.int64],
        novelty: Floats,
        error: Floats,
        limits: Floats | None = None,
        actions: npt.NDArray[np.int64] | None = None,
    ) -> Floats:
        """Add actions in order; return the evidence up to and including each.

        Args:
            time: int64 [N], microseconds.
            novelty, error: float64 [N], evidence of each that counts, decades; 0 where none does.
            limits: float64 [N, horizons], evidence at which each is flagged. After a flag at a horizon longer than an incident
                its sums restart, or every later trifle would flag again.
            actions: int64 [N], earlier actions of the principal; if not given, sums fade with time alone.

        Returns:
            float64 [N, horizons], decades; 0 for an action that adds nothing itself, whatever came before it.
        """
        return self._add(principals, time, novelty, error, limits, actions, None)[0]

    def add_until_flagged(
        self,
        principals: Sequence[str],
        time: npt.NDArray[np.int64],
        novelty: Floats,
        error: Floats,
        limits: Floats,
        actions: npt.NDArray[np.int64] | None = None,
        passed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Floats, int | None]:
        """As `add`, up to and including the first action that reaches a limit; returns its row too, None if none does.

        Args:
            passed: bool [N], actions that may reach a limit without ending it.
        """
        stop = np.ones(len(principals), bool) if passed is None else ~passed
        return self._add(principals, time, novelty, error, limits, actions, stop)

    def _add(
        self,
        principals: Sequence[str],
        time: npt.NDArray[np.int64],
        novelty: Floats,
        error: Floats,
        limits: Floats | None,
        actions: npt.NDArray[np.int64] | None,
        stop: npt.NDArray[np.bool_] | None,
    ) -> tuple[Floats, int | None]:
        out = np.zeros((len(principals), len(self.horizons)))
        for row in ((novelty > 0) | (error > 0)).nonzero()[0].tolist():
            name, now, reached = principals[row], float(time[row]), False
            new, wrong = float(novelty[row]), float(error[row])
            count = math.nan if actions is None else float(actions[row])
            sums = self._sums.get(name)
            if sums is None:
                self._keep_bounded()
                sums = self._sums[name] = [now, *([0.0] * (2 * len(self._fade))), count]
            passed = now - sums[0]
            if passed > 0:  # an event that comes late finds the sums as they are
                sums[0] = now
            done, sums[-1] = count - sums[-1], count
            if not (self._counts and done >= 0):  # not known, or counted afresh
                done = math.inf
            for i, (fade, per_action) in enumerate(zip(self._fade, self._per_action, strict=True)):
                kept = math.exp(-min(passed * fade, done * per_action)) if passed > 0 else 1.0
                if self._counts and limits is not None and passed > _INCIDENT:
                    reported = math.sqrt(sums[1 + 2 * i] * max(sums[2 + 2 * i], FLOOR)) >= limits[row, i]
                    kept = 0.0 if reported else kept
                a = sums[1 + 2 * i] = sums[1 + 2 * i] * kept + new
                b = sums[2 + 2 * i] = sums[2 + 2 * i] * kept + wrong
                out[row, i] = together = math.sqrt(a * max(b, FLOOR))
                if limits is not None and together >= limits[row, i]:
                    reached = True
                    if self._restarts[i]:
                        sums[1 + 2 * i] = sums[2 + 2 * i] = 0.0
            if reached and stop is not None and stop[row]:
                return out, row
        return out, None

    def peek(
        self, principal: str, time: int, novelty: float, error: float, actions: int | None = None
    ) -> Floats:
        """The evidence that one action would amount to, if it were added; float64 [1, horizons]."""
        held = self.sums([principal])
        count = None if actions is None else np.array([actions])
        given = np.array([time]), np.array([novelty]), np.array([error])
        together = self.add([principal], *given, actions=count)
        self.pop([principal])
        self.restore(held)
        return together

    def __len__(self) -> int:
        return len(self._sums)

    def sums(self, principals: Sequence[str] | None = None) -> Sums:
        """What has added up of some principals, or of all; those of whom nothing has are left out."""
        held = self._sums
        names = [name for name in (held if principals is None else principals) if name in held]
        rows = np.array([held[name] for name in names]).reshape(len(names), 2 + 2 * len(self.horizons))
        return Sums(names, rows)

    def pop(self, principals: Sequence[str]) -> Sums:
        """Remove some principals and return what has added up of them."""
        taken = self.sums(principals)
        for name in taken.names:
            del self._sums[name]
        return taken

    def restore(self, sums: Sums) -> None:
        """Give back what `sums` or `pop` returned; what has added up since is replaced."""
        rows = sums.rows
        if rows.shape[1] == 1 + 2 * len(self.horizons):  # of an earlier release
            rows = np.concatenate([rows, np.full((len(rows), 1), np.nan)], axis=1)
        self._sums.update(zip(sums.names, rows.tolist(), strict=True))

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
    activity: Sequence[float] = (),
    actions: Floats | None = None,
) -> npt.NDArray[np.bool_]:
    """What an `Accumulator` that begins with nothing would let be flagged, under many limits at once.

    Args:
        principal: int64 [N], who acted, as numbers from 0 on without many gaps.
        novelty, error: float64 [N], what counts of them, decades; rows are in the order in which they were scored.
        scales: float64 [S], what the limits are multiplied by, in each of S cases.
        activity: as of `Accumulator`.
        actions: float64 [N], earlier actions of the principal, NaN where not known.

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
    per_action = 1.0 / np.asarray(activity) if activity else np.full(len(fade), np.inf)
    counts = actions if actions is not None and activity else np.full(count, np.nan)
    before = counts[order[first]].astype(np.float64)
    last = time[order[first]].astype(np.float64)
    sums = np.zeros((2, len(first), cases, len(fade)))
    for step in range(int(sizes[0])):
        going = int(np.searchsorted(-sizes, -step, side="left"))
        rows = order[first[:going] + step]
        passed = np.maximum(time[rows] - last[:going], 0.0)
        last[:going] += passed
        done = counts[rows] - before[:going]
        before[:going] = counts[rows]
        done = np.where(done >= 0, done, np.inf)  # not known, or counted afresh
        now = sums[:, :going]
        kept = np.exp(-np.minimum(passed[:, None] * fade, done[:, None] * per_action))
        kept = np.where(passed[:, None] > 0, kept, 1.0)[:, None, :]
        if activity:
            was = np.sqrt(now[0] * np.maximum(now[1], FLOOR)) >= limits[rows, None] * scales[:, None]
            kept = np.where((passed > _INCIDENT)[:, None, None] & was, 0.0, kept)
        now *= kept
        now[0] += novelty[rows, None, None]
        now[1] += error[rows, None, None]
        reached = np.sqrt(now[0] * np.maximum(now[1], FLOOR)) >= limits[rows, None] * scales[:, None]
        flagged[rows] = reached.any(axis=2)
        now[:, reached & restarts] = 0.0
    return flagged
