"""Tables of `kubehabit rbac whatif`, `who-can` and `path`, and the objects that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from detection.authorization.escalation import ADMIN, EscalationStep, RightsHolder
from detection.authorization.least_privilege import WhatIf
from detection.authorization.rbac import Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.subjects import subjects_who_may
from kubehabit.tables.screen import heading, line, new_table

_Object = dict[str, Any]


def whatif_object(found: WhatIf) -> _Object:
    """What a change would have denied."""
    return {
        "considered": found.considered,
        "unsure": found.unsure,
        "denied": [
            {"user": user, "right": str(right), "requests": count}
            for (user, right), count in found.denied.most_common()
        ],
    }


def whatif_screen(found: _Object) -> list[RenderableType]:
    """The result of `rbac whatif`."""
    denied = sum(one["requests"] for one in found["denied"])
    parts: list[RenderableType] = [
        line(
            f"Of {found['considered']:,} requests that RBAC allowed, the change would have denied {denied:,}."
        )
    ]
    if found["unsure"]:
        parts.append(
            line(
                f"Of {found['unsure']:,} that cannot be said: the log does not have the roles they depend on."
            )
        )
    if found["denied"]:
        rows = [(one["user"], one["right"], f"{one['requests']:,}") for one in found["denied"]]
        parts.append(new_table("user", "right", "requests", rows=rows, right=[2]))
    return parts


def who_can_rows(rbac: Rbac, request: AccessRequest) -> list[_Object]:
    """Who may make a request, by which bindings."""
    return [
        {
            "kind": one.kind,
            "name": one.name,
            "binding": None if one.grant is None else str(one.grant.binding),
            "role": None if one.grant is None else str(one.grant.role),
            "sure": one.sure,
        }
        for one in subjects_who_may(rbac, request)
    ]


def who_can_screen(request: str, found: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The result of `rbac who-can`."""
    rows = [
        (
            one["kind"],
            one["name"],
            one["binding"] or "none: its members may do everything",
            one["role"] or "",
            "" if one["sure"] else "unsure",
        )
        for one in found
    ]
    return [line(f"May {request}:"), new_table("", "who", "binding", "role", "", rows=rows)]


def path_rows(paths: Mapping[RightsHolder, Sequence[EscalationStep]]) -> list[_Object]:
    """Whom a user can become, by which steps; everything first, then by number of steps."""
    ordered = sorted(paths.items(), key=lambda item: (item[0] != ADMIN, len(item[1]), item[0]))
    return [
        {
            "target": target.name,
            "kind": target.kind,
            "steps": [
                {
                    "from": step.source,
                    "to": step.target,
                    "how": step.how,
                    "binding": str(step.grant.binding) if step.grant else None,
                    "technique": step.technique,
                }
                for step in steps
            ],
        }
        for target, steps in ordered
    ]


def path_screen(user: str, found: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The result of `rbac path`."""
    if not found:
        return [line(f"{user} can become nobody else by its rights.")]
    parts: list[RenderableType] = [line(f"{user} can become {len(found):,} others.")]
    if found[0]["kind"] == ADMIN.kind:
        steps = [
            (one["from"], one["how"], one["to"], one["binding"] or "", one["technique"])
            for one in found[0]["steps"]
        ]
        parts += [
            heading("The shortest way to everything"),
            new_table("from", "how", "to", "by", "ATT&CK", rows=steps),
        ]
    others = [
        (
            one["target"],
            str(len(one["steps"])),
            one["steps"][-1]["from"],
            one["steps"][-1]["how"],
            one["steps"][-1]["binding"] or "",
        )
        for one in found
        if one["kind"] != ADMIN.kind
    ]
    if others:
        parts += [
            heading("All others"),
            new_table("whom", "steps", "last step from", "how", "by", rows=others, right=[1]),
        ]
    return parts
