"""Says what of a log did not become events: how many records could not be read, and how many were skipped, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from data.events.audit_event import DeadLetter

_SHOWN = 3


@dataclass(slots=True)
class LeftOut:
    """Counts records by what became of them instead of an event.

    Attributes:
        unreadable: number of dead letters.
        skipped: records that were never meant to be audit events, by reason.
        first: the first dead letter.
    """

    unreadable: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: DeadLetter | None = None

    def add(self, source: str, letter: DeadLetter) -> None:
        """Count one unreadable record."""
        del source  # the first is named by its line
        self.unreadable += 1
        self.first = self.first or letter

    def skip(self, skipped: Mapping[str, int]) -> None:
        """Count records that were left out on purpose, by reason."""
        self.skipped.update(skipped)

    def sentence(self) -> str:
        """All of it in one sentence; "" if nothing was left out."""
        parts = []
        if self.first is not None:
            records = "record" if self.unreadable == 1 else "records"
            parts.append(
                f"{self.unreadable:,} {records} could not be read; the first at line {self.first.line}: {self.first.reason}"
            )
        if self.skipped:
            parts.append(f"{self.skipped.total():,} skipped: {self.reasons()}")
        return ". ".join(part[0].upper() + part[1:] for part in parts) + "." if parts else ""

    def reasons(self) -> str:
        """The most frequent reasons of what was skipped."""
        shown = [f"{count:,} x {reason}" for reason, count in self.skipped.most_common(_SHOWN)]
        more = len(self.skipped) - len(shown)
        return ", ".join([*shown, f"{more} more kinds"] if more else shown)
