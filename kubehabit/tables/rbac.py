"""Tables of `kubehabit rbac check`, `report` and `role`, and the objects that `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from detection.authorization.agreement import CONTRADICTIONS, Agreement
from detection.authorization.least_privilege import GrantedRight
from kubehabit.tables.screen import few, heading, line, new_table, number

_Object = dict[str, Any]


def check_object(found: Agreement) -> _Object:
    """What comparing a log came to."""
    return {
        "requests": sum(found.counts.values()),
        "compared": found.compared,
        "agreed": found.agreed,
        "outcomes": dict(found.counts.most_common()),
        "decidedBy": dict(found.decided.most_common()),
        "contradictions": [
            {
                "auditID": event.auditID,
                "time": event.requestReceivedTimestamp,
                "outcome": one.outcome,
                "meaning": CONTRADICTIONS[one.outcome],  # type: ignore[index]
                "user": one.user,
                "request": str(one.request),
                "recorded": str(one.recorded.binding) if one.recorded else None,
                "rules": one.ruling.reason if one.ruling else None,
            }
            for event, one in found.contradictions
        ],
    }


def check_screen(found: _Object) -> list[RenderableType]:
    """The result of `rbac check`."""
    share = found["agreed"] / found["compared"] if found["compared"] else 1.0
    parts: list[RenderableType] = [
        line(
            f"{found['requests']:,} finished requests. The rules could be asked about {found['compared']:,} of them, and agree "
            f"with the log on {found['agreed']:,} ({share:.3%})."
        ),
        new_table(
            "outcome", "requests", rows=[(k, f"{v:,}") for k, v in found["outcomes"].items()], right=[1]
        ),
    ]
    if found["contradictions"]:
        rows = [
            (one["time"][:19].replace("T", " "), one["user"], one["request"], one["meaning"], one["auditID"])
            for one in found["contradictions"]
        ]
        parts += [
            heading("Contradictions"),
            new_table("time (UTC)", "user", "request", "why", "audit ID", rows=rows),
        ]
    return parts


def report_object(user: str, rights: Sequence[GrantedRight]) -> _Object:
    """Rights of one user, used and not."""
    unused = [one for one in rights if not one.uses]
    return {
        "user": user,
        "granted": len(rights),
        "used": len(rights) - len(unused),
        "unused": len(unused),
        "riskyUnused": sum(bool(one.risk) for one in unused),
        "rights": [
            {
                "right": one.rule.words,
                "namespace": one.grant.binding.namespace,
                "uses": one.uses,
                "risk": one.risk,
                "binding": str(one.grant.binding),
                "role": str(one.grant.role),
            }
            for one in rights
        ],
    }


def report_screen(found: Sequence[_Object], *, whole: bool) -> list[RenderableType]:
    """The result of `rbac report`: users, and with `whole` each right of them."""
    rows = [
        (
            one["user"],
            number(one["granted"]),
            number(one["used"]),
            number(one["unused"]),
            few(sorted({right["risk"] for right in one["rights"] if right["risk"] and not right["uses"]})),
        )
        for one in found
    ]
    parts: list[RenderableType] = [
        new_table(
            "user",
            "rights",
            "used",
            "never used",
            "never used, and leads further",
            rows=rows,
            right=[1, 2, 3],
        )
    ]
    for one in found if whole else ():
        rights = [
            (
                right["right"],
                right["namespace"] or "everywhere",
                number(right["uses"]) or "never",
                right["risk"],
                right["binding"],
            )
            for right in one["rights"]
        ]
        parts += [
            heading(one["user"]),
            new_table("right", "where", "uses", "leads to", "binding", rows=rights, right=[2]),
        ]
    if not whole:
        parts.append(line("With --user NAME: each right, its uses, and the binding that gives it.", "dim"))
    return parts
