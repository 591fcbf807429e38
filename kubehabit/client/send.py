"""Sending logs to a running service once: in batches, each tried again while the service is busy or away."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay

from data.errors import KubehabitError
from kubehabit.client.batches import batches_of
from kubehabit.client.remote import AnswerError, BusyError, Remote, UnreachableError

#: How long one batch is tried again: a service that restarts and loads its model is back by then.
_PATIENCE = 600.0
_LONGEST_WAIT = 30.0
_PROBLEMS = 3
_OUTCOMES = ("scored", "accepted", "folded", "repeated", "rejected", "skipped")
#: Answers about what was sent, not about the sender: the same lines would be refused again.
_UNREADABLE = frozenset(
    (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)
)


@dataclass(slots=True)
class Sent:
    """What became of the records that were sent.

    Attributes:
        events: all records that the service answered for: the sum of those scored, accepted (published
            for workers to score), folded, repeated, rejected and skipped.
        folded: not scored by themselves: stages of an action that was scored, and what the model's settings leave out.
        repeated: events that the service has had before.
        skipped: records of other logs in the same stream; `reasons` says what they are.
        problems: what was rejected or could not be read, the first few as sentences.
    """

    events: int = 0
    scored: int = 0
    accepted: int = 0
    folded: int = 0
    repeated: int = 0
    rejected: int = 0
    skipped: int = 0
    flagged: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """The counts as a sentence."""
        left_out = "; ".join(f"{count:,} x {reason}" for reason, count in self.reasons.items())
        return (
            f"{self.events:,} events sent: {self.scored:,} scored ({self.flagged:,} flagged), "
            f"{f'{self.accepted:,} accepted for workers, ' if self.accepted else ''}"
            f"{self.folded:,} folded into an action, {self.repeated:,} repeats, {self.rejected:,} rejected, "
            f"{self.skipped:,} skipped{f' ({left_out})' if left_out else ''}."
        )


class Sender:
    """Sends logs to a service. Sending a log again is harmless: the service recognises events that it has had.

    Args:
        service: where to.
        say: called with a sentence when a batch has to be sent again.
        patience: seconds for which one batch is tried.
    """

    def __init__(self, service: Remote, say: Callable[[str], None], *, patience: float = _PATIENCE) -> None:
        self._service = service
        self._say = say
        self.sent = Sent()
        self._retrying = patiently(patience, BusyError, UnreachableError, before_sleep=self._before_sleep)

    def send(self, logs: Sequence[Path]) -> Sent:
        """Send logs, files or folders, one after the other; `-` is standard input.

        Raises:
            KubehabitError: a log cannot be read, or the service refuses the sender or stays away. What was sent until then
                counts, and sending everything again is harmless.
        """
        for batch in batches_of(logs, "sending", self._note):
            self._post(batch)
        return self.sent

    def _note(self, problem: str) -> None:
        if len(self.sent.problems) < _PROBLEMS:
            self.sent.problems.append(problem)

    def _post(self, lines: Sequence[bytes]) -> None:
        body = b"\n".join(lines)
        try:
            answer = self._retrying(self._service.post_events, zlib.compress(body, 1, wbits=31), "gzip")
        except AnswerError as error:
            if error.status not in _UNREADABLE:
                raise KubehabitError(
                    f"{self._service.url} refuses the log ({error.status}): {error} After {self.sent.events:,} events. Check the "
                    "address and KUBEHABIT_TOKEN, then send the log again: an event that the service has had counts once."
                ) from error
            if len(lines) > 1:  # find the lines at fault; the others are sent
                middle = len(lines) // 2
                self._post(lines[:middle])
                self._post(lines[middle:])
                return
            answer = {"counts": {"rejected": 1}, "results": [{"status": "rejected", "reason": error}]}
        counts = answer["counts"]
        self.sent.events += sum(int(counts.get(name, 0)) for name in _OUTCOMES)
        for name in (*_OUTCOMES, "flagged"):
            setattr(self.sent, name, getattr(self.sent, name) + int(counts.get(name, 0)))
        for reason, count in answer.get("skipped", {}).items():
            self.sent.reasons[reason] = self.sent.reasons.get(reason, 0) + int(count)
        for result in answer.get("results", ()):
            if result["status"] == "rejected":
                self._note(str(result.get("reason")))

    def _before_sleep(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        self._say(f"{state.outcome.exception()} Trying again in {state.next_action.sleep:g} s.")


def patiently(
    seconds: float,
    *errors: type[Exception],
    before_sleep: Callable[[RetryCallState], None] | None = None,
) -> Retrying:
    """Calls a function again while it raises one of some errors, as `Retry-After` says, for at most so long."""
    return Retrying(
        retry=retry_if_exception_type(errors),
        wait=_wait,
        stop=stop_after_delay(seconds),
        before_sleep=before_sleep,
        reraise=True,
    )


def _wait(state: RetryCallState) -> float:
    """Seconds until the next try: what `Retry-After` says, or twice as long each time."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, BusyError) and error.seconds is not None:
        return error.seconds
    return min(2.0 ** (state.attempt_number - 1), _LONGEST_WAIT)
