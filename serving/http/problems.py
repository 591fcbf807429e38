"""Errors of the API as RFC 9457 problem details: the one form of every answer that is no success."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from data.errors import ConflictError, KubehabitError, NotFoundError
from data.visible_text import visible

MEDIA_TYPE = "application/problem+json"

#: Sent with every answer, errors included: it is data, for this caller only, and must not be kept.
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

_log = logging.getLogger("kubehabit.api")

#: Renders a problem as a page: request scope, status, detail, headers.
ProblemPage = Callable[[Scope, int, str, Mapping[str, str] | None], Response]

#: 2^63 has 19 digits: what is longer is none of our numbers.
_LAST_DIGITS = 19


class Problem(BaseModel):
    """RFC 9457 problem details; `detail` is a sentence that says what to do."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Content Too Large",
                "status": 413,
                "detail": "The body is larger than 16 MiB: send smaller batches, or raise limits.body_mb.",
            }
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ProblemError(Exception):
    """A request that cannot be answered; becomes a problem response."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def is_number(text: str) -> bool:
    """Whether a text from outside can be a number that we issued."""
    return text.isascii() and text.isdecimal() and len(text) < _LAST_DIGITS


def not_known(known: Iterable[str]) -> str:
    """The sentence, but for its subject, that refuses a parameter or field which is none of the known ones."""
    return f"is not known here; known are: {', '.join(sorted(known)) or 'none'}."


def position_of(cursor: str | None) -> int | None:
    """Where a page continues, None at the beginning; raises ProblemError 400 if the cursor is not one of ours."""
    if cursor is None:
        return None
    if not is_number(cursor):
        raise ProblemError(400, "'cursor' is not one of ours: use the value of the page before, or none.")
    return int(cursor)


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, kind: str = "about:blank"
) -> JSONResponse:
    """A problem response."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    # What is sent can be in the sentence that refuses it.
    content = Problem(type=kind, title=title, status=status, detail=visible(detail)).model_dump()
    return JSONResponse(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def answer_to(
    scope: Scope,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    kind: str = "about:blank",
) -> Response:
    """A problem in the caller's form: a page for browsers at the console, else problem details."""
    accepted = Headers(scope=scope).get("accept", "")
    page: ProblemPage | None = scope["app"].state.problem_page if "app" in scope else None
    if page is not None and scope["path"].startswith("/console/") and "text/html" in accepted:
        return page(scope, status, visible(detail), headers)
    return problem(status, detail, headers, kind)


def install(
    app: FastAPI,
    unavailable: Mapping[type[KubehabitError], str] | None = None,
    page: ProblemPage | None = None,
) -> None:
    """Make an application answer every error as a problem, for browsers at the console rendered as a page.

    What the service stores may be `unavailable`: such errors are answered with 503 and logged under the given text.
    """
    app.state.problem_page = page
    for failure, text in (unavailable or {}).items():
        app.add_exception_handler(failure, _answer_unavailable(text))

    @app.exception_handler(ProblemError)
    def known(request: Request, error: ProblemError) -> Response:
        return answer_to(request.scope, error.status, error.detail, error.headers)

    @app.exception_handler(ClientDisconnect)
    def gone(_request: Request, _error: ClientDisconnect) -> Response:
        # For the log and the metrics: the caller is gone.
        return problem(400, "The connection ended before the body did: nothing of it was scored.")

    @app.exception_handler(KubehabitError)
    def bad_input(request: Request, error: KubehabitError) -> Response:
        status = 404 if isinstance(error, NotFoundError) else 409 if isinstance(error, ConflictError) else 400
        return answer_to(request.scope, status, str(error), kind=error.problem_type)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:]) or "request"
        detail = f"'{name}' is wrong: {first['msg'].rstrip('.')}. See /docs for what is accepted."
        return answer_to(request.scope, 422, detail)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = "There is nothing at this path. See /docs for what there is."
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.method} is not possible here. See /docs for what is."
        return answer_to(request.scope, error.status_code, detail, error.headers)

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        # Starlette logs the traceback as well, by raising again after this answer is sent.
        _log.error("unexpected error", extra={"path": request.url.path, "error": type(error).__name__})
        # Given outside the gate, which adds these headers everywhere else.
        headers = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
        detail = "This is a defect of kubehabit; its log has the details under the time of this answer."
        return answer_to(request.scope, 500, detail, headers)


def _answer_unavailable(text: str) -> Callable[[Request, Exception], Response]:
    def unavailable(request: Request, error: Exception) -> Response:
        _log.error(text, extra={"reason": str(error)})
        return answer_to(request.scope, 503, str(error), {"Retry-After": "5"})

    return unavailable
