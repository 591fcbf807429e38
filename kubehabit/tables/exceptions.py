"""What `kubehabit allow list` prints."""

from __future__ import annotations

from rich.console import RenderableType

from kubehabit.tables.screen import Json, new_table, when


def exceptions_table(answer: Json) -> RenderableType:
    """A table of exceptions; those that have expired say so."""
    if not answer["exceptions"]:
        return "No exceptions."
    rows = []
    for one in answer["exceptions"]:
        parts = (one["verbs"], one["resources"], one["namespaces"], one["names"])
        what = " ".join(",".join(part) or "*" for part in parts)
        who = one["principal"] or f"group {one['group']}"
        until = when(one["expires"]) + (" (expired)" if one["expired"] else "")
        why = one["reason"] + (f" ({one['by']})" if one["by"] else "")
        rows.append((one["name"], who, what, until, str(one["uses"]), when(one["lastUsed"]), why))
    heads = ("Name", "Who", "What", "Until", "Allowed", "Last", "Why")
    return new_table(*heads, rows=rows, right=(4,))
