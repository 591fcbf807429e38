"""The versions of a model in the registry, on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType

from kubehabit.tables.screen import Json, heading, line, new_table, when

_MINUTE = 16
_MOST = 20


def versions_screen(answer: Json) -> RenderableType:
    """Versions, each in a line, and what was promoted, refused and rolled back."""
    if not answer["followed"]:
        return line(
            "The model was loaded from a folder, or is the starter model: there is no registry to ask."
        )
    table = new_table("version", "roles", "registered (UTC)", "learned from", "caught", "drift")
    for one in answer["versions"][:_MOST]:
        roles = [*one["aliases"], *(["serves now"] if one["served"] else [])]
        table.add_row(
            one["version"],
            ", ".join(roles),
            when(one["registered"], _MINUTE),
            _learned(one["learnedFrom"]),
            _caught(one["evaluations"]),
            _drift(one["drift"]),
        )
    parts: list[RenderableType] = [table] if answer["versions"] else []
    if answer["trouble"]:
        parts.append(heading(answer["trouble"], "red"))
    if answer["asked"]:
        parts.append(heading(f"As the registry answered {when(answer['asked'], _MINUTE)} UTC.", "dim"))
    elif answer["asking"]:
        parts.append(heading("The registry is being asked: run this again in a few seconds.", "dim"))
    if answer["promotions"]:
        parts.append(heading("Promotions", "bold"))
        parts += [line(_decision(one)) for one in answer["promotions"][:_MOST]]
    return Group(*parts)


def _learned(learned: Json | None) -> str:
    if learned is None:
        return "-"
    return f"{learned['actions']:,} actions, {when(learned['first'], 10)} to {when(learned['last'], 10)}"


def _caught(evaluations: dict[str, dict[str, float]]) -> str:
    return (
        ", ".join(
            f"{log} {figures['recall']:.0%}" for log, figures in evaluations.items() if "recall" in figures
        )
        or "-"
    )


def _drift(reports: list[Json]) -> str:
    if not reports:
        return "-"
    return ("train again" if reports[0]["retrain"] else "still fits") + f" ({when(reports[0]['time'], 10)})"


def _decision(one: Json) -> str:
    done = {
        "promoted": f"version {one['after']} became champion"
        + (f" in place of version {one['before']}" if one["before"] else ""),
        "refused": f"version {one['after']} was refused",
        "rolled back": f"rolled back from version {one['before']} to version {one['after']}",
    }[one["outcome"]]
    who = f", by {one['by']}" if one["by"] else ""
    why = " ".join([one["note"], *one["reasons"]]).strip()
    return f"{when(one['time'], _MINUTE)}  {done}{who}" + (f": {why}" if why else ".")
