"""The filters of alerts as parameters of a query: the same names for the API and for the console."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import Depends, Query

from serving.alert_list import Wanted

_LONGEST = 512
_EMPTY = "empty: any"


def _text(description: str) -> object:
    return Query(description=f"{description}; {_EMPTY}", max_length=_LONGEST)


async def _happening(
    severity: Annotated[
        Literal["", "low", "medium", "high", "critical"],
        Query(description=f"This severity and graver; {_EMPTY}"),
    ] = "",
    principal: Annotated[str, _text("Only those of this principal, by its whole name")] = "",
    namespace: Annotated[str, _text("Only those that touched this namespace")] = "",
    q: Annotated[
        str,
        _text(
            "Only those with this in their sentence, principal, namespaces or ID, in capitals or not, such as `listed Secrets`"
        ),
    ] = "",
) -> Wanted:
    return Wanted(severity, principal.strip(), namespace.strip(), text=q.strip())


async def _kept(
    happening: Annotated[Wanted, Depends(_happening)],
    state: Annotated[
        Literal["", "open", "closed"],
        Query(description=f"Only those whose incident is open, or closed; {_EMPTY}"),
    ] = "",
    verdict: Annotated[
        Literal["", "none", "normal", "malicious"],
        Query(description=f"By what was last said of them in feedback, none: nothing yet; {_EMPTY}"),
    ] = "",
) -> Wanted:
    return replace(happening, state=state, verdict=verdict)


AskedHappening = Annotated[Wanted, Depends(_happening)]
"""What can be asked of an alert that was just raised: it is in an open incident, and nobody has judged it."""

Asked = Annotated[Wanted, Depends(_kept)]
"""What can be asked of those that are kept."""
