"""Browser sessions: a token is entered once, after that a random cookie stands for it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.settings import AccessScope

COOKIE = "kubehabit_session"
_BYTES = 32
_LONGEST_COOKIE = 128
_MAX_SESSIONS = 10_000
# Repeated sign-ins push out sessions of the same token only.
_MAX_OF_ONE_TOKEN = 50


@dataclass(slots=True)
class BrowserSession:
    """The server's side of a session: times are monotonic seconds, `name` is that of the token.

    `key` is the hash of the cookie's value, enough to recognise it, not to send it; `proof` that of the token, which is checked
    again for each request. Of a person who signed in at a provider `granted` has the scopes, until the session ends.
    """

    key: str
    name: str
    proof: str
    began: float
    used: float
    granted: frozenset[AccessScope] | None = None


class Sessions:
    """The sessions of one process, in memory: a restart ends them. Used on the event loop only.

    A session ends after `idle_seconds` without use, and after `seconds` in any case.
    """

    def __init__(
        self, idle_seconds: float, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle = idle_seconds
        self._longest = seconds
        self._clock = clock
        self._sessions: dict[str, BrowserSession] = {}
        # New in every process: form tokens of another one are invalid here.
        self._seal = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, name: str, proof: str, granted: frozenset[AccessScope] | None = None) -> str:
        """Start a session. Returns the cookie's value, which is not kept."""
        now = self._clock()
        alive = [one for one in self._sessions.values() if not self._over(one, now)]
        alive.sort(key=lambda one: one.used)
        ended = {one.key for one in [one for one in alive if one.proof == proof][: 1 - _MAX_OF_ONE_TOKEN]}
        kept = [one for one in alive if one.key not in ended][1 - _MAX_SESSIONS :]
        self._sessions = {one.key: one for one in kept}
        sent = secrets.token_urlsafe(_BYTES)
        key = _hash(sent)
        self._sessions[key] = BrowserSession(key, name, proof, now, now, granted)
        return sent

    def find(self, sent: str) -> BrowserSession | None:
        """The session of a cookie, marked as used now; None if there is none or it has ended."""
        found = self.held(_hash(sent)) if len(sent) <= _LONGEST_COOKIE else None
        if found is not None:
            found.used = self._clock()
        return found

    def held(self, key: str) -> BrowserSession | None:
        """The session of a key, not marked as used; None if there is none or it has ended."""
        found = self._sessions.get(key)
        return None if found is None or self._over(found, self._clock()) else found

    def end(self, key: str) -> None:
        """End a session, if it is there."""
        self._sessions.pop(key, None)

    def form_token(self, holder: str) -> str:
        """The CSRF token of the forms on this holder's pages."""
        return hmac.new(self._seal, holder.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def is_form_token(self, holder: str, sent: str) -> bool:
        """Whether a form came from a page of this holder."""
        return hmac.compare_digest(self.form_token(holder).encode(), sent.encode("utf-8", "replace"))

    def _over(self, session: BrowserSession, now: float) -> bool:
        return now - session.used >= self._idle or now - session.began >= self._longest


def _hash(sent: str) -> str:
    return hashlib.sha256(sent.encode("utf-8", "replace")).hexdigest()
