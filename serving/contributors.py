"""The milder actions that add up: a bounded memory of what each principal did that counted, and what of it led to a flag.

Only actions that add evidence are remembered, about one in a hundred; nothing is made of the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from data.evidence import FLOOR
from serving.alerts import Contributor

_PER_PRINCIPAL = 64
_LIMIT = 50_000
"""Contributions remembered of all principals, about 1 KB each; those of whoever is longest quiet go first, half at a time."""

_SPANS = (600, 3_600, 86_400)
"""Seconds looked back for what led to a flag: an incident, then the longer horizons at which evidence adds up."""

_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Contribution:
    """One action that added evidence.

    Attributes:
        time: microseconds since 1970 UTC.
        audit_id: of its request.
        new, wrong: what it added, decades (`data.detector.Scores`).
        packed: its short form as JSON, a fifth of its size in memory; None if it was flagged, for the alert holds it then.
        address, client: from where and with what it came.
        elsewhere: whether its principal never came from there before.
    """

    time: int
    audit_id: str
    new: float
    wrong: float
    packed: bytes | None
    address: str
    client: str
    elsewhere: bool = False

    @property
    def told(self) -> Contributor | None:
        """Its short form."""
        return None if self.packed is None else Contributor.model_validate_json(self.packed)


def weight_of(new: float, wrong: float) -> float:
    """Evidence of one action alone, decades: as `data.evidence` would sum it, were it the only one."""
    return math.sqrt(new * max(wrong, FLOOR)) if new > 0 else 0.0


Saved = tuple[int, str, float, float, bytes | None, str, str, bool]
"""A contribution as plain values."""


class Contributors:
    """What each principal did lately that added evidence."""

    def __init__(self) -> None:
        self._of: dict[str, deque[Contribution]] = {}
        self._held = 0

    def add(self, principal: str, contribution: Contribution) -> None:
        """Remember one."""
        held = self._of.pop(principal, None)
        if held is None:
            held = deque(maxlen=_PER_PRINCIPAL)
        self._held += len(held) < _PER_PRINCIPAL
        held.append(contribution)
        self._of[principal] = held  # at the end: the order is that of the last contribution
        if self._held > _LIMIT:
            while self._held > _LIMIT // 2:
                self._held -= len(self._of.pop(next(iter(self._of))))

    def saved(self) -> list[tuple[str, list[Saved]]]:
        """Everything, in the order of the last contributions, as plain values: the fields of `Contribution`, in their order."""
        return [
            (
                principal,
                [
                    (
                        one.time,
                        one.audit_id,
                        one.new,
                        one.wrong,
                        one.packed,
                        one.address,
                        one.client,
                        one.elsewhere,
                    )
                    for one in held
                ],
            )
            for principal, held in self._of.items()
        ]

    def within(self, principal: str, since: int, until: int) -> list[Contribution]:
        """Those of a principal in a span of time, both ends included, in order of time."""
        held: Iterable[Contribution] = self._of.get(principal, ())
        found = [one for one in held if since <= one.time <= until]
        return sorted(found, key=lambda one: one.time)

    def leading_to(self, principal: str, moment: int, threshold: float) -> list[Contribution]:
        """What led up to a flag, the flagged action itself included, in order of time.

        Everything within an incident's length; and from further back only if that does not reach the threshold, for then older
        evidence must have.

        Args:
            principal: who was flagged.
            moment: when, microseconds since 1970 UTC.
            threshold: evidence at which it was, decades.
        """
        found: list[Contribution] = []
        for seconds in _SPANS:
            found = self.within(principal, moment - seconds * _MICRO, moment)
            new, wrong = sum(one.new for one in found), sum(one.wrong for one in found)
            if math.sqrt(new * max(wrong, FLOOR)) >= threshold:
                break
        return found
