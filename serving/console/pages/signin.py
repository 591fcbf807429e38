"""Signing in by OpenID Connect: to the provider and back.

Outside of `/console/`, as the provider may add parameters of its own to the address that it sends the browser back to.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from serving.access.gate import Access
from serving.access.oidc import CALLBACK, COOKIE, PENDING_SECONDS, OidcError, OidcSignIn
from serving.access.sessions import COOKIE as SESSION
from serving.console.pages.login import cookie_settings, login_page, target_of
from serving.console.render import PAGE_HEADERS
from serving.http.problems import ProblemError

router = APIRouter(include_in_schema=False)
_log = logging.getLogger("kubehabit.api")
_PATH = CALLBACK.rpartition("/")[0]
#: The session's cookie is sent only from pages of this site: a redirect would still be the provider's navigation.
_ON = Markup(
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={target}">'
    '<title>Signed in</title></head><body><p>Signed in. <a href="{target}">Go on</a></p></body></html>'
)


@router.get(_PATH)
async def begin(request: Request, next: str = "") -> Response:  # noqa: A002 - what the link says
    """Send the browser to the provider."""
    access, provider = _provider(request)
    if wait := access.stranger(request.scope):
        return _wrong(request, f"Too many attempts from your address: wait {wait:.0f} seconds.", 429)
    try:
        url, cookie = await asyncio.to_thread(provider.begin, target_of(next))
    except OidcError as error:
        return _wrong(request, str(error), 502)
    answer = Response(status_code=303, headers={"Location": url, "Referrer-Policy": "no-referrer"})
    # Lax: the provider sends the browser back here, which is a navigation from another site.
    answer.set_cookie(COOKIE, cookie, max_age=PENDING_SECONDS, **_cookie_settings(request))
    return answer


@router.get(CALLBACK)
async def come_back(request: Request) -> Response:
    """Take the provider's answer, and begin a session."""
    access, provider = _provider(request)
    if access.stranger(request.scope):
        return _wrong(request, "Too many attempts from your address: wait a moment.", 429)
    # Read here and not declared: the access log writes the values of declared parameters, and a code is a secret.
    answer = dict(request.query_params)
    try:
        person = await asyncio.to_thread(provider.finish, answer, request.cookies.get(COOKIE, ""))
        caller, sent = access.begin_session(person.name, person.scopes)
    except (OidcError, ProblemError) as error:
        return _wrong(request, str(error), 403)
    request.scope["kubehabit.visitor"] = caller
    _log.info("signed in", extra={"caller": caller.name})
    done = Response(
        _ON.format(target=person.target), media_type="text/html; charset=utf-8", headers=dict(PAGE_HEADERS)
    )
    done.set_cookie(SESSION, sent, **cookie_settings(request))
    done.delete_cookie(COOKIE, **_cookie_settings(request))
    return done


def _provider(request: Request) -> tuple[Access, OidcSignIn]:
    access: Access = request.app.state.access
    if access.oidc is None:
        raise ProblemError(404, "This service has no sign-in by OpenID Connect (access.oidc in serve.yaml).")
    return access, access.oidc


def _wrong(request: Request, sentence: str, status: int) -> Response:
    request.scope["kubehabit.refused"] = sentence
    return login_page(request, status=status, wrong=sentence)


def _cookie_settings(request: Request) -> dict[str, Any]:
    return cookie_settings(request) | {"path": _PATH, "samesite": "lax"}
