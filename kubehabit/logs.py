"""Events of audit logs, for commands that read files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kubehabit import options as opt

if TYPE_CHECKING:
    from data.events.audit_event import AuditEvent, DeadLetter
    from detection.authorization.changes import ChangeFollower


class _Unreadable:
    """Counts records that cannot be read."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, source: str, letter: DeadLetter) -> None:
        """Count one."""
        del source, letter
        self.count += 1


def read_all(logs: Sequence[Path]) -> Iterator[AuditEvent]:
    """Events of logs, in their order; what cannot be read is counted on standard error."""
    for chunk in chunks(logs):
        yield from chunk


def chunks(logs: Sequence[Path]) -> Iterator[Sequence[AuditEvent]]:
    """The same, some events at a time."""
    from data.events.reader import read_events

    unreadable = _Unreadable()
    for log in logs:
        yield from read_events(log, unreadable)
    if unreadable.count:
        opt.say(
            f"{unreadable.count:,} records could not be read: `kubehabit data inspect` says why.", err=True
        )


def following(logs: Sequence[Path], follower: ChangeFollower) -> Iterator[AuditEvent]:
    """Events of logs, while RBAC follows them."""
    for event in read_all(logs):
        follower.follow(event)
        yield event
