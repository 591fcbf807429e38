"""The model of a service and the preview of other thresholds, on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from kubehabit.tables.principals import Json, heading, new_table, when


def _rate(count: float | None) -> str:
    return "-" if count is None else f"{count:,.1f}"


def model_screen(told: Json) -> RenderableType:
    """The model, what it learned from, and whether it still fits."""
    model, drift = told["model"], told["drift"]
    bundle = model["bundle"]
    data = bundle.get("data") or {}
    test = model["selfTest"]
    watch, challenger = model.get("watch"), model.get("challenger")
    lines = [
        ("Serves", f"{model['name']} version {model['version']}" + (f" ({watch['alias']})" if watch else "")),
        ("Loaded", when(model["loaded"]) + f" UTC, from {model['source']}"),
        ("Trained", when(bundle.get("created"))),
        (
            "On",
            f"{data.get('actions', 0):,} actions of {bundle.get('principals', 0):,} principals, {when(data.get('first'))} to "
            f"{when(data.get('last'))}, data {str(data.get('fingerprint', ''))[:12]}",
        ),
        (
            "Self-test",
            "none in this bundle"
            if not test
            else f"{test['windows']} windows, off by {test['worstDifference']:.2g} nats at most ({test['tolerance']:g} allowed)",
        ),
        ("Threshold", f"{told['scale']:g} of the calibrated one (alerts.threshold_scale)"),
    ]
    if model.get("notice"):
        lines.append(("Notice", model["notice"]))
    for refused in (watch or {}).get("refused", []):
        lines.append(("Refused", f"version {refused['version']}: {refused['reason']}"))
    if challenger:
        lines.append(
            (
                "Challenger",
                f"version {challenger['version']}: {challenger['flaggedByBoth']:,} flagged by both, "
                f"{challenger['flaggedByChampionOnly']:,} by the champion only, "
                f"{challenger['flaggedByChallengerOnly']:,} by it alone",
            )
        )
    lines.append(("Drift", drift["sentence"] if drift else "Nothing was scored yet."))
    table = new_table("", "")
    table.show_header = False
    for head, text in lines:
        table.add_row(Text(head, style="bold"), Text(text))
    next_ = Text("\nNext: kubehabit model --preview, for what other thresholds would have given", style="dim")
    return Group(table, next_)


def preview_screen(preview: Json) -> RenderableType:
    """What other thresholds would have given."""
    covered = preview["coveredDays"]
    parts: list[RenderableType] = [
        Text(
            f"What {covered:.1f} days would have given ({when(preview['since'])} to {when(preview['until'])} UTC). This "
            "changes nothing.",
            style="bold",
        ),
        Text(""),
    ]
    table = new_table(
        "threshold", "alerts", "a day", "incidents", "a day", "unusual actions", right=(0, 1, 2, 3, 4, 5)
    )
    for one in preview["curve"]:
        now = one["scale"] == preview["now"]["scale"]
        table.add_row(*_count_row(one), style="bold" if now else "")
    parts.append(table)
    parts.append(Text(f"\nIn force is {preview['now']['scale']:g}.", style="dim"))
    wanted = preview["wanted"]
    if wanted:
        asked = f" for at most {preview['perDay']:g} alerts a day" if preview["perDay"] else ""
        told = f"{wanted['alerts']:,} alerts and {wanted['incidents']:,} incidents"
        parts.append(heading(f"Threshold {wanted['scale']:g}{asked}: {told}"))
        if wanted["loudest"]:
            loud = new_table("loudest", "alerts", "unusual actions", right=(1, 2))
            for one in wanted["loudest"]:
                loud.add_row(Text(one["principal"]), f"{one['alerts']:,}", f"{one['actions']:,}")
            parts.append(loud)
        parts.append(Text(f"\n{preview['setting']}"))
    parts += [Text(f"- {note}", style="dim") for note in preview["notes"]]
    return Group(*parts)


def _count_row(one: Json) -> tuple[str, ...]:
    return (
        f"{one['scale']:g}",
        f"{one['alerts']:,}",
        _rate(one["alertsPerDay"]),
        f"{one['incidents']:,}",
        _rate(one["incidentsPerDay"]),
        f"{one['actions']:,}",
    )
