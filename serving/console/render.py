"""Renders pages: templates with everything escaped, terms explained in place, and the headers of a page."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import jinja2
from fastapi import Request, Response
from jinja2.runtime import Context
from markupsafe import Markup, escape
from starlette.requests import HTTPConnection
from starlette.types import Scope

from data.visible_text import visible as visible_line
from serving.access.gate import Caller
from serving.access.scopes import NEEDS, Need
from serving.access.sessions import COOKIE
from serving.console.when import zone_name, zone_of
from serving.settings import Settings

HERE = Path(__file__).parent

#: Nothing of another host, nothing inline: even text of a log that became markup could do nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    # With no-referrer a browser sends "Origin: null" with its forms, and their origin would be unknown.
    "Referrer-Policy": "same-origin",
}

THEME_COOKIE = "kubehabit_theme"
_THEMES = ("light", "dark")


class NavigationItem(NamedTuple):
    """A page in the navigation."""

    path: str
    name: str
    icon: str


#: Those that are declared in `access.NEEDS` are shown.
NAVIGATION = (
    NavigationItem("/console/", "Overview", "gauge"),
    NavigationItem("/console/alerts", "Alerts", "bell"),
    NavigationItem("/console/incidents", "Incidents", "graph"),
    NavigationItem("/console/principals", "Principals", "people"),
    NavigationItem("/console/search", "Search", "search"),
    NavigationItem("/console/rights", "Rights", "key"),
    NavigationItem("/console/rules", "Rules", "shield"),
    NavigationItem("/console/model", "Model", "chip"),
    NavigationItem("/console/fleet", "Fleet", "fleet"),
    NavigationItem("/console/exceptions", "Exceptions", "mute"),
    NavigationItem("/console/glossary", "Glossary", "book"),
)


def visible(text: str) -> str:
    """A text with an escape for each invisible character; lines stay lines, which a page does not show as its own."""
    return "\n".join(map(visible_line, text.split("\n")))


def _finish(value: Any) -> Any:
    """Filters everything that a template outputs."""
    if value is None or isinstance(value, Markup | int | float):
        return value
    return visible(str(value))


# -- words explained ----------------------------------------------------------------------------------------------


class Words:
    """The glossary, with a search for its terms in texts."""

    def __init__(self, glossary: Mapping[str, str]) -> None:
        self.meanings = {name.lower(): meaning for name, meaning in glossary.items()}
        ordered = sorted(glossary, key=len, reverse=True)
        # A capital letter is part of a Kubernetes kind's name; words of everyday language may begin a sentence.
        names = (re.escape(name) if name[0].isupper() else _either(name) for name in ordered)
        self._regex = (
            re.compile(rf"(?<![\w./:-])({'|'.join(names)})(s?)(?![\w/:-])(?!\.\w)") if ordered else None
        )

    def split(self, text: str) -> Iterable[tuple[str, str]]:
        """Pieces of a text, each with its term or ""."""
        at = 0
        for found in self._regex.finditer(text) if self._regex is not None else ():
            yield text[at : found.start()], ""
            yield found[0], found[1].lower()
            at = found.end()
        yield text[at:], ""


def _either(name: str) -> str:
    return f"[{name[0].upper()}{name[0]}]{re.escape(name[1:])}"


@lru_cache(maxsize=4)
def _words(glossary: tuple[tuple[str, str], ...]) -> Words:
    return Words(dict(glossary))


class _Explained:
    """Terms that a page has explained: each once, where it first occurs."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.explained: set[str] = set()

    def term(self, key: str, shown: str) -> Markup:
        """A term with its meaning, shown on hover, focus and tap."""
        meaning = self.words.meanings.get(key.lower())
        if meaning is None or key.lower() in self.explained:
            return escape(visible(shown))
        self.explained.add(key.lower())
        number = len(self.explained)
        return Markup(
            '<dfn class="term" tabindex="0" aria-describedby="word-{0}">{1}'
            '<span class="tip" role="tooltip" id="word-{0}">{2}</span></dfn>'
        ).format(number, visible(shown), meaning)

    def text(self, text: str) -> Markup:
        """A text with its words explained."""
        pieces = (
            self.term(key, piece) if key else escape(visible(piece)) for piece, key in self.words.split(text)
        )
        return Markup("").join(pieces)


@jinja2.pass_context
def _explain(context: Context, text: str) -> Markup:
    explained: _Explained = context["explained"]
    return explained.text(text)


@jinja2.pass_context
def _term(context: Context, key: str, shown: str | None = None) -> Markup:
    explained: _Explained = context["explained"]
    return explained.term(key, shown if shown is not None else key)


# -- times and numbers --------------------------------------------------------------------------------------------


def utc(moment: datetime) -> str:
    """A moment as it is written for people: `2026-11-23 14:31:12`, in UTC."""
    return _zoned(moment).strftime("%Y-%m-%d %H:%M:%S")


def _zoned(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _iso(moment: datetime) -> str:
    return _zoned(moment).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@jinja2.pass_context
def _moment(context: Context, value: datetime | str, form: str = "full") -> Markup:
    return moment(value, form, context["time_zone"])


def moment(value: datetime | str, form: str = "full", zone: tzinfo = UTC) -> Markup:
    """A moment as a `time` element, in a time zone, with UTC in its title.

    Args:
        value: the moment, or an RFC 3339 time.
        form: full, minute, time (of day), or day.
        zone: that it is shown in.
    """
    value = _zoned(datetime.fromisoformat(value) if isinstance(value, str) else value)
    local = value.astimezone(zone)
    shown = {
        "full": f"{local:%Y-%m-%d %H:%M:%S}",
        "minute": f"{local:%Y-%m-%d %H:%M}",
        "time": f"{local:%H:%M:%S}",
        "day": f"{local:%A} {local.day} {local:%B %Y}",
    }[form]
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        _iso(value), value.isoformat(sep=" ", timespec="milliseconds")[:-6], shown
    )


def lasted(length: timedelta) -> str:
    """A length of time in its largest unit: `3 min`, `2 h`, `5 d`."""
    seconds = max(0, int(length.total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def ago(value: datetime) -> Markup:
    """How long ago a moment was; `times.js` keeps it up to date."""
    value = _zoned(value)
    return Markup('<time class="ago" datetime="{}" title="{} UTC">{} ago</time>').format(
        _iso(value), utc(value), lasted(datetime.now(UTC) - value)
    )


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 alert`, `1,204 alerts`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


# -- addresses of pages -------------------------------------------------------------------------------------------


def has_page(path: str, method: str = "GET") -> bool:
    """Whether the service has a page, by its path as declared."""
    return (method, path) in NEEDS


def page_links(path: str, query: Mapping[str, str], cursor: object, following: str | None) -> dict[str, Any]:
    """Links between the pages of a list, as templates take them.

    Args:
        path, query: of the first page.
        cursor: of this page; empty on the first one.
        following: cursor of the next page.
    """
    here = path + (f"?{urlencode(query)}" if query else "")
    following_page = f"{path}?{urlencode({**query, 'cursor': following})}" if following else ""
    return {"first_page": not cursor, "here": here, "next_page": following_page}


def principal_url(name: str) -> str:
    """Where a principal's page is."""
    # Slashes are encoded too: a ".." between two of them would be resolved away by the browser.
    return "/console/principals/" + quote(name, safe=":@")


#: How far before a moment its search begins.
_BEFORE = timedelta(days=7)


def events_url(time: datetime | str | None, **filters: str) -> str:
    """A search of the events around a moment that match filters of `EventQuery`; of the last days without a moment."""
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    since = "28d" if time is None else (_zoned(time) - _BEFORE).date().isoformat()
    return "/console/search?" + urlencode({"ask": "events", **filters, "since": since})


def event_url(audit_id: str, time: datetime | str | None = None) -> str:
    """The page of a request, by its audit ID and time; a time makes it quick to find."""
    at = {} if time is None else {"at": _iso(datetime.fromisoformat(time) if isinstance(time, str) else time)}
    return "/console/event?" + urlencode({"auditID": audit_id, **at})


def object_url(time: datetime | str | None, resource: str, namespace: str = "", name: str = "") -> str:
    """A search of what was done with an object, or with a kind of objects."""
    given = {"resource": resource, "namespace": namespace, "name": name}
    return events_url(time, **{key: value for key, value in given.items() if value})


def allowing_binding_url(text: str) -> str:
    """The page of the binding that a reason of the API server names: `RoleBinding "edit/shop" of ...`; empty if it names none."""
    kind, _, rest = text.partition(' "')
    named, quote_, _ = rest.partition('"')
    if kind not in ("ClusterRoleBinding", "RoleBinding") or not quote_:
        return ""
    name, _, namespace = named.partition("/") if kind == "RoleBinding" else (named, "", "")
    return binding_url(name, namespace)


def binding_url(name: str, namespace: str = "") -> str:
    """The page of a binding; of one of the whole cluster without a namespace."""
    query = {"binding": name} | ({"namespace": namespace} if namespace else {})
    return "/console/rights/binding?" + urlencode(query)


@lru_cache(maxsize=32)
def _fingerprint(name: str) -> str:
    return hashlib.sha256((HERE / "static" / name).read_bytes()).hexdigest()[:12]


def asset(name: str) -> str:
    """URL of a file of ours; it changes with the file's content, so that browsers may keep it."""
    return f"/console/static/{name}?v={_fingerprint(name)}"


# -- pages --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """The templates."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finish,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(explain=_explain, moment=_moment, ago=ago, utc=utc, lasted=lasted, visible=visible)
    made.globals.update(term=_term, asset=asset, count=count, has_page=has_page, principal_url=principal_url)
    made.globals.update(event_url=event_url, events_url=events_url, object_url=object_url)
    made.globals.update(allowing_binding_url=allowing_binding_url)
    return made


def may(scope: Scope, need: Need) -> bool:
    """Whether the scopes of the caller suffice where one is needed."""
    caller: Caller | None = scope.get("kubehabit.visitor")
    return caller is not None and caller.may(need)


def page(
    request: Request | Scope,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> Response:
    """A page for the caller.

    Args:
        request: the request, or its scope.
        template: file in `templates`.
        status: of the response.
        headers: additional ones.
        **values: for the template.
    """
    scope: Scope = request.scope if isinstance(request, Request) else request
    content = environment().get_template(template).render(_shared(scope) | values)
    return Response(content, status, headers={**PAGE_HEADERS, **(headers or {})}, media_type="text/html")


def _shared(scope: Scope) -> dict[str, Any]:
    """What every page shows."""
    state = scope["app"].state
    settings: Settings = state.service.settings
    engine = state.service.engine
    caller: Caller | None = scope.get("kubehabit.visitor")
    form_token = state.access.sessions.form_token(caller.holder) if caller is not None else ""
    glossary = tuple(engine.glossary.items()) if engine is not None else ()
    theme = HTTPConnection(scope).cookies.get(THEME_COOKIE, "")
    zone = zone_of(scope)
    return {
        "path": scope["path"],
        "visitor": caller,
        "may_judge": may(scope, "analyst"),
        "may_change": may(scope, "admin"),
        "time_zone": zone,
        "zone": zone_name(zone),
        "signed_in": caller is not None and bool(caller.session),
        "form_token": form_token,
        "navigation": [place for place in NAVIGATION if has_page(place.path)] if caller else [],
        "theme": theme if theme in _THEMES else "",
        "explained": _Explained(_words(glossary)),
        "model": engine.model if engine is not None else None,
        "open_to_all": settings.host and not state.access.guarded,
        "now": datetime.now(UTC),
    }


def problem_page(
    scope: Scope, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A problem as a page; a browser without a session is redirected to the login, and back."""
    if status == HTTPStatus.UNAUTHORIZED and scope["method"] == "GET" and "app" in scope:
        query = scope["query_string"].decode("latin-1")
        link = {"next": scope["path"] + (f"?{query}" if query else "")}
        if HTTPConnection(scope).cookies.get(COOKIE):
            link["ended"] = "1"
        return Response(
            status_code=303, headers={"Location": f"/console/login?{urlencode(link)}", **PAGE_HEADERS}
        )
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return page(scope, "problem.html", status=status, headers=headers, title=title, detail=detail)
