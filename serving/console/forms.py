"""Forms of the console: read within bounds, and only from pages of ours."""

from __future__ import annotations

from typing import cast, get_args
from urllib.parse import parse_qs

from fastapi import Request

from serving.access.gate import Access, Caller
from serving.api.forensics import EvidenceForm
from serving.http.problems import ProblemError

_MAX_BYTES = 64 * 1024
_MAX_FIELDS = 2000
_TYPE = "application/x-www-form-urlencoded"


class Form:
    """The fields of a form that was sent."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str:
        """A field without spaces around it; "" where it was not sent."""
        return self._fields.get(name, [""])[0].strip()

    def all(self, name: str) -> list[str]:
        """All values of a field, such as those of boxes that were ticked."""
        return self._fields.get(name, [])


def evidence_form(form: Form) -> EvidenceForm:
    """How the evidence that a form asks for is to be sent; with its proofs, unless the form says otherwise."""
    wanted = form.get("form")
    return cast(EvidenceForm, wanted) if wanted in get_args(EvidenceForm) else "json"


async def read_form(request: Request) -> Form:
    """Read a form that changes something.

    Raises:
        ProblemError: 403, it does not come from a page of ours; 413 or 415, it is no form of ours.
    """
    access: Access = request.app.state.access
    caller: Caller = request.scope["kubehabit.visitor"]
    if caller.by == "token" and not caller.session:
        return await _read(request)  # no browser sends a token by itself
    from_our_pages(request)
    form = await _read(request)
    if not access.sessions.is_form_token(caller.holder, form.get("form_token")):
        raise ProblemError(
            403, "This form is of an earlier sign-in: go back, load the page again, and send it once more."
        )
    return form


async def read_login(request: Request) -> Form:
    """Read the form with which a session begins, which has no session's token yet; raises as `read_form`."""
    from_our_pages(request)
    return await _read(request)


def from_our_pages(request: Request) -> None:
    """Refuse what another web site makes a browser send.

    Raises:
        ProblemError: 403.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        ours = site == "same-origin"
    else:
        origin = request.headers.get("origin", "")
        ours = bool(origin) and origin.partition("://")[2] == request.headers.get("host")
    if not ours:
        raise ProblemError(
            403,
            "This form was not sent from a page of this console: open the console by its own address and send it there. "
            "Programs use the API (/docs).",
        )


async def _read(request: Request) -> Form:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _TYPE:
        raise ProblemError(415, f"Send a form ({_TYPE}). Programs use the API (/docs).")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BYTES:
            raise ProblemError(
                413, f"The form is larger than {_MAX_BYTES // 1024} KiB: shorten what you wrote."
            )
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="replace")
    except (UnicodeDecodeError, ValueError) as error:
        raise ProblemError(400, "The form cannot be read: load the page again.") from error
    return Form(fields)
