"""Rights: who has which, what of it is used, who can become whom, who can do something, and what a change would deny."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import yaml
from fastapi import APIRouter, Query, Request, Response

from data.errors import KubehabitError
from detection.authorization.escalation import ADMIN, EscalationStep, RightsHolder
from detection.authorization.files import objects_of_text
from detection.authorization.least_privilege import rights_by
from detection.authorization.rbac import KINDS, BindingGrant, ObjectKey, Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.role_manifest import role_yaml
from serving.api.fresh_rights import FreshRights, RightsBook, TriedChange
from serving.api.incidents import read_incident
from serving.authorization.overview import RightsBy, RightsRow
from serving.authorization.rights import who_can
from serving.console.forms import read_form
from serving.console.render import binding_url, page, page_links, principal_url
from serving.console.rights_graph import draw_paths, short, subject_url
from serving.forensics.containment import incident_containment
from serving.forensics.queries import QueryError
from serving.http.problems import ProblemError
from serving.runtime import Service

router = APIRouter(include_in_schema=False)

_ON_A_PAGE, _SHOWN, _PATHS = 50, 300, 100
_SPANS = (("1", "1 day"), ("7", "7 days"), ("28", "28 days"), ("all", "all"))
_ALL_DAYS = 36_500.0
_DAYS = 7.0
Span = Annotated[Literal["1", "7", "28", "all"], Query()]
Only = Annotated[Literal["", "risky", "everything", "unused"], Query()]


def _is_wanted(row: RightsRow, only: str) -> bool:
    if only == "risky":
        return row.total.risky_unused > 0
    if only == "everything":
        return row.steps is not None
    return not only or (row.total.granted > 0 and not row.total.used)


def _days(span: str) -> float:
    return _ALL_DAYS if span == "all" else float(span)


def _book(request: Request, span: str) -> tuple[RightsBook | None, str]:
    """Rights and their uses; None without a snapshot. The text says why uses are not known."""
    rights: FreshRights = request.app.state.rights
    if rights.known() is None:
        return None, ""
    try:
        return rights.book(_days(span)), ""
    except (ProblemError, QueryError) as error:
        return rights.unread_book(), str(error)


def _without_snapshot(request: Request) -> Response:
    return page(request, "rights_none.html")


def _binding_url(key: ObjectKey) -> str:
    return binding_url(key.name, key.namespace)


@router.get("/console/rights")
def rights(
    request: Request,
    by: Annotated[RightsBy, Query()] = "users",
    q: Annotated[str, Query(max_length=256)] = "",
    only: Only = "",
    days: Span = "7",
    cursor: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:
    """Users, groups or bindings with their rights in numbers, those with most unused rights that lead further first."""
    book, trouble = _book(request, days)
    if book is None:
        return _without_snapshot(request)
    text = q.strip().lower()
    rows = [row for row in book.rows(by) if text in row.name.lower() and _is_wanted(row, only)]
    shown = rows[cursor : cursor + _ON_A_PAGE]
    following = str(cursor + _ON_A_PAGE) if cursor + _ON_A_PAGE < len(rows) else None
    query = {"by": by, "q": q.strip(), "only": only, "days": days}
    query = {name: value for name, value in query.items() if value}
    service: Service = request.app.state.service
    monitor = service.ready().authorization
    return page(
        request,
        "rights.html",
        by=by,
        q=q.strip(),
        only=only,
        days=days,
        spans=_SPANS,
        rows=shown,
        total=len(rows),
        trouble=trouble,
        tabs=[
            (name, "/console/rights?" + urlencode(query | {"by": name}))
            for name in ("users", "groups", "bindings")
        ],
        figures=None if monitor is None else monitor.figures,
        rbac=book.current.rbac,
        current=book.current,
        used=book.usage.used,
        row_url=_row_url(by, days),
        link="/console/rights?" + urlencode({name: value for name, value in query.items() if name != "days"}),
        **page_links("/console/rights", query, cursor, following),
    )


def _row_url(by: RightsBy, days: str) -> Callable[[RightsRow], str]:
    def url(row: RightsRow) -> str:
        if row.binding is not None:
            return f"{_binding_url(row.binding)}&days={days}"
        return f"{subject_url(RightsHolder('user' if by == 'users' else 'group', row.name))}&days={days}"

    return url


@router.get("/console/rights/subject")
def subject(
    request: Request,
    user: Annotated[str, Query(max_length=512)] = "",
    group: Annotated[str, Query(max_length=512)] = "",
    days: Span = "7",
) -> Response:
    """The rights of one user or group: each with its uses and its binding, whom they lead to, and the smallest roles."""
    book, trouble = _book(request, days)
    if book is None:
        return _without_snapshot(request)
    if not user and not group:
        raise ProblemError(400, "Name a user or a group: choose one under Rights.")
    me = RightsHolder("user", user) if user else RightsHolder("group", group)
    index, escalation = book.index, book.escalation
    usage = index.usage.get(user)
    if user:
        groups = usage.groups if usage is not None else escalation.groups_of(user)
        grants, users = list(index.rbac.all_bindings_of(user, groups)), [user]
        paths = escalation.paths(user, groups)
    else:
        groups, users = (), list(index.members(group))
        grants, paths = list(index.rbac.all_bindings_of("", (group,))), escalation.paths_of_group(group)
    if not grants and usage is None:
        raise ProblemError(
            404, "No binding names it, and it did nothing in this time. Look for it under Rights."
        )
    smallest = role_yaml(user, usage, index.rbac, by_name=False, index=index) if usage is not None else ""
    return page(
        request,
        "rights_subject.html",
        me=me,
        days=days,
        spans=_SPANS,
        trouble=trouble,
        groups=groups,
        users=users,
        total=index.total(grants, users),
        own=subject_url(me),
        yaml=smallest,
        **_paths(me, paths),
        **_rights(book, grants, users),
    )


def _rights(book: RightsBook, grants: list[BindingGrant], users: list[str]) -> dict[str, Any]:
    found = rights_by(book.index, grants, users)
    return {"rights": found[:_SHOWN], "more_rights": max(len(found) - _SHOWN, 0), "binding_url": _binding_url}


def _paths(me: RightsHolder, paths: dict[RightsHolder, list[EscalationStep]]) -> dict[str, Any]:
    ordered = sorted(paths.items(), key=lambda item: (item[0] != ADMIN, len(item[1]), item[0]))
    return {
        "picture": draw_paths(me, paths),
        "way": paths.get(ADMIN, []),
        "reached": len(paths),
        "paths": ordered[:_PATHS],
        "more_paths": max(len(ordered) - _PATHS, 0),
        "short": short,
        "subject_url": subject_url,
    }


@router.get("/console/rights/binding")
def binding(
    request: Request,
    binding: Annotated[str, Query(max_length=512)],
    namespace: Annotated[str, Query(max_length=256)] = "",
    days: Span = "7",
) -> Response:
    """One binding: whom it names, what it gives, and what of that each of them used."""
    book, trouble = _book(request, days)
    if book is None:
        return _without_snapshot(request)
    key = ObjectKey("rolebindings" if namespace else "clusterrolebindings", namespace, binding)
    held = book.current.rbac.bindings.get(key)
    if held is None:
        raise ProblemError(404, "There is no such binding any more. Look for it under Rights, by bindings.")
    users = book.index.bound(held)
    grants = [] if held.role is None else [BindingGrant(key, held.role)]
    subjects = [RightsHolder("user", one) for one in sorted(held.users or ())]
    subjects += [RightsHolder("group", one) for one in sorted(held.groups or ())]
    used = {one: sum(book.index.uses(grant, one).values()) for grant in grants for one in users}
    return page(
        request,
        "rights_binding.html",
        key=key,
        role=held.role,
        known=held.users is not None,
        subjects=subjects[:_SHOWN],
        more_subjects=max(len(subjects) - _SHOWN, 0),
        users=sorted(used.items(), key=lambda item: -item[1])[:_SHOWN],
        total=book.index.total(grants, users),
        days=days,
        spans=_SPANS,
        trouble=trouble,
        own=_binding_url(key),
        target="/".join(filter(None, key)),
        short=short,
        subject_url=subject_url,
        **_rights(book, grants, users),
    )


@router.get("/console/rights/who-can")
def who_can_page(
    request: Request,
    verb: Annotated[str, Query(max_length=64)] = "",
    resource: Annotated[str, Query(max_length=512)] = "",
    namespace: Annotated[str, Query(max_length=256)] = "",
    name: Annotated[str, Query(max_length=512)] = "",
) -> Response:
    """Who may do something, and by which binding."""
    rights: FreshRights = request.app.state.rights
    current = rights.known()
    if current is None:
        return _without_snapshot(request)
    given = {
        "verb": verb.strip(),
        "resource": resource.strip(),
        "namespace": namespace.strip(),
        "name": name.strip(),
    }
    found, same = None, ""
    if given["verb"] and given["resource"]:
        wanted = AccessRequest.from_words(given["verb"], given["resource"], given["namespace"], given["name"])
        found = who_can(current.rbac, wanted)
        words = ["kubehabit", "rbac", "who-can", given["verb"], given["resource"]]
        words += ["-n", given["namespace"]] if given["namespace"] else []
        words += ["--name", given["name"]] if given["name"] else []
        same = shlex.join([*words, "--rbac", "rbac.json"])
    return page(request, "rights_who_can.html", given=given, found=found, same=same, most=_SHOWN)


@dataclass(frozen=True, slots=True)
class ProposedText:
    """A change of roles and bindings as it was written.

    Attributes:
        text: objects to put in, as YAML or JSON.
        remove: objects to take out, a line each, as `clusterroles/NAME` or `rolebindings/NAMESPACE/NAME`.
        days: whose use is compared.
    """

    text: str = ""
    remove: str = ""
    days: str = "7"

    def read(self, rbac: Rbac) -> tuple[list[Any], list[ObjectKey]]:
        """The objects and keys.

        Raises:
            KubehabitError: something in it cannot be understood.
        """
        objects = objects_of_text(self.text) if self.text.strip() else []
        for one in objects:
            if str(one.get("kind")) not in KINDS:
                raise KubehabitError(
                    "Only roles and bindings can be tried: the text has an object of another kind."
                )
        removed = []
        for line in filter(None, map(str.strip, self.remove.splitlines())):
            parts = line.split("/")
            key = ObjectKey(parts[0], parts[1] if len(parts) > 2 else "", parts[-1])
            if key not in rbac:
                raise KubehabitError(
                    f"There is no {line}: write clusterroles/NAME, or rolebindings/NAMESPACE/NAME."
                )
            removed.append(key)
        if not objects and not removed:
            raise KubehabitError("Nothing would change: paste roles or bindings, or name what to take out.")
        return objects, removed


@router.get("/console/rights/what-if")
def what_if(request: Request, remove: Annotated[str, Query(max_length=1024)] = "") -> Response:
    """The form of a change to try."""
    rights: FreshRights = request.app.state.rights
    if rights.known() is None:
        return _without_snapshot(request)
    return page(
        request, "rights_what_if.html", given=ProposedText(remove=remove), tried=None, wrong="", spans=_SPANS
    )


@router.post("/console/rights/what-if")
async def try_change(request: Request) -> Response:
    """What a change would have denied of what was done; nothing is changed."""
    form = await read_form(request)
    days = form.get("days")
    days = days if days in dict(_SPANS) else "7"
    given = ProposedText(form.get("text"), form.get("remove"), days)
    return await asyncio.to_thread(_tried, request, given)


def _tried(request: Request, given: ProposedText) -> Response:
    rights: FreshRights = request.app.state.rights
    current = rights.known()
    if current is None:
        return _without_snapshot(request)
    tried: TriedChange | None = None
    wrong = ""
    try:
        tried = rights.what_if(_days(given.days), *given.read(current.rbac))
    except (KubehabitError, ProblemError) as error:
        wrong = str(error)
    denied = tried.found.denied.most_common() if tried is not None else []
    return page(
        request,
        "rights_what_if.html",
        status=422 if wrong else 200,
        given=given,
        tried=tried,
        denied=denied[:_SHOWN],
        more=max(len(denied) - _SHOWN, 0),
        wrong=wrong,
        spans=_SPANS,
        url=lambda name: subject_url(RightsHolder("user", name)),
    )


@router.get("/console/rights/incident")
def of_incident(request: Request, incident: Annotated[str, Query(max_length=64)]) -> Response:
    """Which bindings made an incident possible, and the smallest change that stops it and nothing that is in use."""
    rights: FreshRights = request.app.state.rights
    current = rights.known()
    if current is None:
        return _without_snapshot(request)
    service: Service = request.app.state.service
    story = read_incident(service, incident)
    found = service.forensics.ask(lambda queries: incident_containment(queries, story, current.rbac, _DAYS))
    return page(
        request,
        "rights_incident.html",
        incident=story,
        found=found,
        manifests=["---\n" + _manifest(one) for change in found.changes for one in change.objects],
        removed=[name for change in found.changes for name in change.removed],
        principal_url=principal_url,
        subject_url=lambda name: subject_url(RightsHolder("user", name)),
    )


def _manifest(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=False)
