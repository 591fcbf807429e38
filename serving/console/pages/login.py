"""Signing in and out, and the files that pages load."""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from serving.access.gate import Access, Caller
from serving.access.sessions import COOKIE
from serving.console.forms import read_form, read_login
from serving.console.render import HERE, PAGE_HEADERS, page
from serving.http.problems import ProblemError

router = APIRouter(include_in_schema=False)
_log = logging.getLogger("kubehabit.api")

_HOME = "/console/"
_LONGEST_TARGET = 2000
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_NAME = re.compile(r"[a-z0-9-]+\.(css|js|svg)")


def _to(path: str) -> Response:
    return Response(status_code=303, headers={"Location": path, **PAGE_HEADERS})


def target_of(wanted: str) -> str:
    """Where to go after signing in: a path of the console, whatever else a link may say."""
    parts = urlsplit(wanted)
    fits = (
        len(wanted) <= _LONGEST_TARGET
        and wanted.isprintable()
        and "\\" not in wanted
        and not parts.scheme
        and not parts.netloc
        and parts.path.startswith(_HOME)
        and not parts.path.startswith("/console/log")
    )
    return wanted if fits else _HOME


def login_page(
    request: Request, *, status: int = 200, wanted: str = "", ended: bool = False, wrong: str = ""
) -> Response:
    """The page to sign in on: by a token, and at the provider if there is one."""
    access: Access = request.app.state.access
    provider = access.oidc.name if access.oidc is not None else ""
    values: dict[str, Any] = {"wanted": wanted, "ended": ended, "wrong": wrong, "provider": provider}
    return page(request, "login.html", status=status, **values)


@router.get("/")
@router.get("/console")
def home() -> Response:
    """The console, for who opens the service's bare address or leaves the last slash out."""
    return _to(_HOME)


@router.get("/console/login")
async def login(request: Request, next: str = "", ended: str = "") -> Response:  # noqa: A002 - what the link says
    """The form that takes a token; who needs none is led on."""
    access: Access = request.app.state.access
    try:
        access.caller(request.scope)
    except ProblemError:
        return login_page(request, wanted=target_of(next), ended=bool(ended))
    return _to(target_of(next))


@router.post("/console/login")
async def sign_in(request: Request) -> Response:
    """Begin a session."""
    access: Access = request.app.state.access
    form = await read_login(request)
    wanted = target_of(form.get("next"))
    if not access.guarded:
        return _to(wanted)
    try:
        caller, sent = access.sign_in(form.get("token"))
    except ProblemError as error:
        wait = access.stranger(request.scope)
        status = 429 if wait else error.status
        wrong = "Too many attempts from your address: wait a moment." if wait else error.detail
        request.scope["kubehabit.refused"] = wrong
        return login_page(request, status=status, wanted=wanted, wrong=wrong)
    request.scope["kubehabit.visitor"] = caller
    _log.info("signed in", extra={"caller": caller.name})
    answer = _to(wanted)
    answer.set_cookie(COOKIE, sent, **cookie_settings(request))
    return answer


@router.post("/console/logout")
async def sign_out(request: Request) -> Response:
    """End the session."""
    await read_form(request)
    access: Access = request.app.state.access
    caller: Caller = request.scope["kubehabit.visitor"]
    access.sessions.end(caller.session)
    answer = _to("/console/login")
    answer.delete_cookie(COOKIE, **cookie_settings(request))
    return answer


def cookie_settings(request: Request) -> dict[str, Any]:
    """Attributes of the session's cookie."""
    # The browser speaks TLS, to this server or to a proxy in front of it.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    return {"path": "/console", "httponly": True, "samesite": "strict", "secure": secure}


@router.get("/console/static/{name}")
def static(name: str) -> Response:
    """A style sheet, script or picture of ours."""
    path = HERE / "static" / name
    if not _NAME.fullmatch(name) or not path.is_file():
        raise ProblemError(404, "There is no such file.")
    return Response(
        path.read_bytes(),
        media_type=_KINDS[path.suffix],
        # Its URL changes with its content.
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )
