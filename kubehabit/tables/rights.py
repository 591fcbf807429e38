"""Page of `kubehabit incidents containment`."""

from __future__ import annotations

import yaml
from rich.console import RenderableType

from kubehabit.tables.screen import Json, heading, line, new_table


def containment_page(answer: Json) -> list[RenderableType]:
    """Which bindings made an incident possible, and what would have stopped it."""
    rows = [
        (one["user"], one["request"], "; ".join(one["allowedBy"]) or "nothing any more", one["notStopped"])
        for one in answer["requests"]
    ]
    parts: list[RenderableType] = [
        heading(f"Incident {answer['incident']} was possible by"),
        new_table("user", "request", "allowed by", "cannot be stopped, because", rows=rows),
    ]
    if answer["missing"]:
        parts.append(line(f"{answer['missing']} of its requests are not in the event store any more."))
    if not answer["changes"]:
        parts.append(line("No change of roles and bindings stops it without stopping what is in use."))
        return parts
    parts.append(heading("The smallest change that stops it"))
    for change in answer["changes"]:
        parts.append(line(f"- {change['words']}"))
        parts += (line(f"  # kubectl delete {_target(name)}") for name in change["removed"])
        for content in change["objects"]:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=False)
            parts += (line(f"  {row}") for row in ("---", *text.splitlines()))
    whole = "" if answer["complete"] else " (the most frequent of it: there was more than is read)"
    parts.append(
        line(f"All {answer['kept']:,} rights in use since {answer['since'][:10]} stay allowed{whole}.")
    )
    return parts


def _target(name: str) -> str:
    """`rolebindings/web/ci` as kubectl takes it."""
    resource, *rest = name.split("/")
    return f"{resource} {rest[-1]}" + (f" -n {rest[0]}" if len(rest) > 1 else "")
