"""Sessions of browsers: a token is shown once, a cookie with a random name of it goes on from there."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

COOKIE = "kubehabit_session"
_BYTES = 32
_LONGEST_COOKIE = 128
_MAX_SESSIONS = 10_000
_MAX_OF_ONE_TOKEN = 50
"""Who signs in again and again pushes out sessions of its own, and nobody else's."""


@dataclass(slots=True)
class Session:
    """What is kept of a session, by the hash of what the cookie holds.

    Attributes:
        key: hash of the cookie's value, hexadecimal: enough to know it when it comes, not enough to send it.
        name: of the token that was shown.
        proof: hash of that token; the session is worth no more than the token is at each request.
        began, used: seconds of a clock that only rises.
    """

    key: str
    name: str
    proof: str
    began: float
    used: float


class Sessions:
    """All sessions of one process, in memory: a restart ends them. Lives on the event loop.

    Args:
        idle_seconds: a session that is not used for so long ends.
        seconds: the longest that one lasts, used or not.
        clock: seconds that only rise.
    """

    def __init__(
        self, idle_seconds: float, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle = idle_seconds
        self._longest = seconds
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        # New in every process, so that forms of another one are worth nothing here.
        self._seal = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, name: str, proof: str) -> str:
        """Start a session; returns what the cookie is to hold, which is not kept."""
        now = self._clock()
        self._sweep(now)
        own = [key for key, one in self._sessions.items() if one.proof == proof]
        for key in own[: max(0, len(own) - _MAX_OF_ONE_TOKEN + 1)]:
            del self._sessions[key]
        if len(self._sessions) >= _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        sent = secrets.token_urlsafe(_BYTES)
        key = _hash(sent)
        self._sessions[key] = Session(key, name, proof, now, now)
        return sent

    def find(self, sent: str) -> Session | None:
        """The session of a cookie, which counts as used now; None if there is none, or its time is over."""
        if len(sent) > _LONGEST_COOKIE:
            return None
        key = _hash(sent)
        found = self._sessions.get(key)
        if found is None:
            return None
        now = self._clock()
        if self._over(found, now):
            del self._sessions[key]
            return None
        found.used = now
        self._sessions.move_to_end(key)
        return found

    def held(self, key: str) -> Session | None:
        """A session that goes on, without counting as a use of it."""
        found = self._sessions.get(key)
        return None if found is None or self._over(found, self._clock()) else found

    def end(self, key: str) -> None:
        """End a session, if it is there."""
        self._sessions.pop(key, None)

    def form_token(self, holder: str) -> str:
        """What a form of this holder's pages carries, and no other page can know: against requests that others forge."""
        return hmac.new(self._seal, holder.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def is_form_token(self, holder: str, sent: str) -> bool:
        """Whether a form came from a page of this holder."""
        return hmac.compare_digest(self.form_token(holder).encode(), sent.encode("utf-8", "replace"))

    def _over(self, session: Session, now: float) -> bool:
        return now - session.used >= self._idle or now - session.began >= self._longest

    def _sweep(self, now: float) -> None:
        for key in [key for key, one in self._sessions.items() if self._over(one, now)]:
            del self._sessions[key]


def _hash(sent: str) -> str:
    return hashlib.sha256(sent.encode("utf-8", "replace")).hexdigest()
