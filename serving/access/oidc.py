"""Sign-in by OpenID Connect: authorization code with PKCE, state and nonce; who somebody is, and which scopes their groups give.

OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636 (PKCE), RFC 9207 (issuer in the response). The library speaks the protocol
and checks tokens; this decides whom to ask, binds an answer to the browser that asked, and maps groups to scopes.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache

from data.errors import KubehabitError
from serving.schemas import clean
from serving.settings import AccessScope, OidcSettings

if TYPE_CHECKING:
    from authlib.integrations.requests_client import OAuth2Session

#: Where the provider sends the browser back to, below the service's public address.
CALLBACK = "/signin/oidc/callback"
#: Cookie that binds an answer of the provider to the browser that asked.
COOKIE = "kubehabit_signin"
#: For a person to type a password and a second factor.
PENDING_SECONDS = 600
_MAX_PENDING = 1000
_DISCOVERY_SECONDS = 3600.0
#: Between two times that keys are fetched because a token names one that is not known.
_KEYS_SECONDS = 60.0
_TIMEOUT = 10.0
_LEEWAY = 60
_LONGEST = 4096
#: Signatures with a public key only: with HMAC the provider's public key could be taken for a secret.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class OidcError(KubehabitError):
    """A sign-in that does not succeed; the message is for the person who signs in."""


@dataclass(frozen=True, slots=True)
class SignedInPerson:
    """Who has signed in: a name, the scopes that the groups give, and where in the console they wanted to go."""

    name: str
    scopes: frozenset[AccessScope]
    target: str


@dataclass(frozen=True, slots=True)
class _Pending:
    """A sign-in that the provider has not answered yet; `browser` is the hash of its cookie."""

    nonce: str
    verifier: str
    browser: str
    target: str


class OidcSignIn:
    """The client of one provider; thread-safe.

    Args:
        settings: the provider, this service's registration with it, and the scopes of groups.
        clock: monotonic seconds.
    """

    def __init__(self, settings: OidcSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._pending: TTLCache[str, _Pending] = TTLCache(_MAX_PENDING, PENDING_SECONDS, clock)
        self._metadata: TTLCache[str, dict[str, Any]] = TTLCache(1, _DISCOVERY_SECONDS, clock)
        self._keys: dict[str, Any] | None = None
        self._keys_at = -_KEYS_SECONDS
        self._turn = threading.Lock()

    @classmethod
    def of(cls, settings: OidcSettings | None) -> OidcSignIn | None:
        """The client of the provider that is configured; None if there is none.

        Raises:
            KubehabitError: the package that speaks the protocol is not installed.
        """
        if settings is None:
            return None
        if find_spec("authlib") is None:
            raise KubehabitError(
                "access.oidc needs the package 'authlib': install it with pip install 'kubehabit[oidc]'."
            )
        return cls(settings)

    @property
    def name(self) -> str:
        """What the button on the sign-in page calls the provider."""
        return self._settings.name

    def begin(self, target: str) -> tuple[str, str]:
        """Begin a sign-in. Returns the provider's address to send the browser to, and the value of its cookie.

        Raises:
            OidcError: the provider does not answer.
        """
        state, nonce, verifier, cookie = (secrets.token_urlsafe(32) for _ in range(4))
        with self._session() as session:
            url, _ = session.create_authorization_url(
                self._described(session)["authorization_endpoint"],
                state=state,
                code_verifier=verifier,
                nonce=nonce,
            )
        with self._turn:
            self._pending[state] = _Pending(nonce, verifier, _hash(cookie), target)
        return str(url), cookie

    def finish(self, answer: Mapping[str, str], cookie: str) -> SignedInPerson:
        """Finish a sign-in with the parameters that the provider sent the browser back with.

        Raises:
            OidcError: it was refused, it is not of this browser, a token is not valid, or the person's groups give no scope.
        """
        with self._turn:
            pending = self._pending.pop(answer.get("state", "")[:_LONGEST], None)
        if pending is None or not hmac.compare_digest(pending.browser, _hash(cookie)):
            raise OidcError(
                "This sign-in was not begun in this browser, or took longer than ten minutes: try again."
            )
        if answer.get("iss", self._settings.issuer) != self._settings.issuer:
            raise OidcError("The answer is not from the provider that was asked: try again.")
        if "code" not in answer:
            reason = clean(answer.get("error_description") or answer.get("error") or "no reason was given")
            raise OidcError(f"{self.name} did not sign you in: {reason}")
        claims = self._claims_of(answer["code"], pending)
        return SignedInPerson(self._name_of(claims), self._scopes_of(claims), pending.target)

    # -- the provider -------------------------------------------------------------------------------------------

    def _session(self) -> OAuth2Session:
        from authlib.integrations.requests_client import OAuth2Session  # an optional package

        settings = self._settings
        secret = settings.client_secret.get_secret_value() if settings.client_secret is not None else None
        session = OAuth2Session(
            settings.client_id,
            secret,
            scope=" ".join(("openid", *settings.request)),
            redirect_uri=settings.public_url.rstrip("/") + CALLBACK,
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
            code_challenge_method="S256",
            default_timeout=_TIMEOUT,
        )
        session.verify = str(settings.ca) if settings.ca is not None else True
        return session

    def _described(self, session: OAuth2Session) -> dict[str, Any]:
        """The provider's own description (Discovery), kept for an hour."""
        with self._turn:
            known = self._metadata.get("")
        if known is not None:
            return known
        found = self._get(session, self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != self._settings.issuer:
            raise OidcError(
                f"The provider calls itself {clean(str(found.get('issuer')))!r} and not as access.oidc.issuer says."
            )
        if lacking := {"authorization_endpoint", "token_endpoint", "jwks_uri"} - found.keys():
            raise OidcError(f"The provider's description lacks {', '.join(sorted(lacking))}.")
        with self._turn:
            self._metadata[""] = found
        return found

    def _get(self, session: OAuth2Session, url: str) -> dict[str, Any]:
        import requests

        try:
            answer = session.get(url, withhold_token=True, timeout=_TIMEOUT, allow_redirects=False)
            answer.raise_for_status()
            found = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise OidcError(
                f"{self.name} does not answer as an OpenID provider ({type(error).__name__})."
            ) from error
        if not isinstance(found, dict):
            raise OidcError(f"{self.name} does not answer as an OpenID provider.")
        return found

    def _claims_of(self, code: str, pending: _Pending) -> Mapping[str, Any]:
        """The claims of the ID token that a code is exchanged for."""
        import requests
        from authlib.common.errors import AuthlibBaseError

        with self._session() as session:
            described = self._described(session)
            try:
                tokens = session.fetch_token(
                    described["token_endpoint"],
                    code=code,
                    grant_type="authorization_code",
                    code_verifier=pending.verifier,
                    timeout=_TIMEOUT,
                    allow_redirects=False,
                )
            except (AuthlibBaseError, requests.RequestException, ValueError) as error:
                raise OidcError(f"{self.name} did not accept its own answer: try again.") from error
            token = tokens.get("id_token")
            if not isinstance(token, str):
                raise OidcError(f"{self.name} sent no ID token: ask for the scope openid.")
            return self._checked(session, token, pending.nonce, tokens.get("access_token"))

    def _checked(
        self, session: OAuth2Session, token: str, nonce: str, access_token: object
    ) -> Mapping[str, Any]:
        """The claims of an ID token, after its signature and each claim that Core 3.1.3.7 names were checked."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        settings = self._settings
        try:
            for again in (False, True):
                keys = KeySet.import_key_set(self._key_set(session, again=again))
                try:
                    decoded = jwt.decode(token, keys, algorithms=list(_ALGORITHMS))
                    break
                except (JoseError, ValueError):
                    if again:
                        raise
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                options={
                    "iss": {"essential": True, "value": settings.issuer},
                    "aud": {"essential": True, "value": settings.client_id},
                    "nonce": {"essential": True, "value": nonce},
                },
                params={"nonce": nonce, "client_id": settings.client_id, "access_token": access_token},
            )
            claims.validate(leeway=_LEEWAY)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise OidcError(
                f"The ID token of {self.name} is not valid ({type(error).__name__}): try again."
            ) from error
        return dict(claims)

    def _key_set(self, session: OAuth2Session, *, again: bool) -> Any:
        """The provider's keys; fetched again, once a minute at most, for a token that none of them has signed."""
        with self._turn:
            fresh = self._clock() - self._keys_at < _KEYS_SECONDS
            if self._keys is not None and (not again or fresh):
                return self._keys
        found = self._get(session, self._described(session)["jwks_uri"])
        with self._turn:
            self._keys, self._keys_at = found, self._clock()
        return found

    # -- the person ---------------------------------------------------------------------------------------------

    def _name_of(self, claims: Mapping[str, Any]) -> str:
        """What the person is called in the access log and in what they decide; `sub` alone is unique and never reused."""
        for claim in (self._settings.name_claim, "sub"):
            value = claims.get(claim)
            # An address that the provider has not checked could be anybody's.
            if claim == "email" and claims.get("email_verified") is False:
                continue
            if isinstance(value, str) and value:
                return clean(value, 128)
        raise OidcError(f"{self.name} does not say who you are.")

    def _scopes_of(self, claims: Mapping[str, Any]) -> frozenset[AccessScope]:
        value = claims.get(self._settings.groups_claim, [])
        groups = (
            {value} if isinstance(value, str) else set(map(str, value if isinstance(value, list) else []))
        )
        scopes = {scope for group in groups for scope in self._settings.groups.get(group, ())}
        scopes |= {*self._settings.everyone}
        if not scopes:
            raise OidcError(
                "You are signed in, but none of your groups may use this service (access.oidc.groups): ask its operator."
            )
        return frozenset(scopes)


def _hash(cookie: str) -> str:
    return sha256(cookie.encode("utf-8", "replace")).hexdigest()
