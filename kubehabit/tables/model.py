"""The model of a service and the preview of other thresholds, on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType

from kubehabit.tables.screen import Json, heading, line, new_table, when

_MINUTE = 16


def _rate(count: float | None) -> str:
    return "-" if count is None else f"{count:,.1f}"


def model_screen(answer: Json) -> RenderableType:
    """The model, what it learned from, and whether it still fits."""
    model, drift = answer["model"], answer["drift"]
    bundle, test = model["bundle"], model["selfTest"]
    data = bundle.get("data") or {}
    watch, challenger = model.get("watch") or {}, model.get("challenger")
    alias = f" ({watch['alias']})" if watch else ""
    span = f"{when(data.get('first'), _MINUTE)} to {when(data.get('last'), _MINUTE)}"
    rows = [
        ("Serves", f"{model['name']} version {model['version']}{alias}"),
        ("Loaded", f"{when(model['loaded'], _MINUTE)} UTC, from {model['source']}"),
        ("Trained", when(bundle.get("created"), _MINUTE)),
        (
            "On",
            f"{data.get('actions', 0):,} actions of {bundle.get('principals', 0):,} principals, {span}, "
            f"data {str(data.get('fingerprint', ''))[:12]}",
        ),
        (
            "Self-test",
            "none in this bundle"
            if not test
            else f"{test['windows']} windows, off by {test['worstDifference']:.2g} nats at most ({test['tolerance']:g} allowed)",
        ),
        ("Threshold", f"{answer['scale']:g} of the calibrated one (alerts.threshold_scale)"),
    ]
    if model.get("history"):
        rows.append(("History", model["history"]["sentence"]))
    if model.get("notice"):
        rows.append(("Notice", model["notice"]))
    rows += [("Refused", f"version {one['version']}: {one['reason']}") for one in watch.get("refused", [])]
    if challenger:
        rows.append(
            (
                "Challenger",
                f"version {challenger['version']}: {challenger['flaggedByBoth']:,} flagged by both, "
                f"{challenger['flaggedByChampionOnly']:,} by the champion only, "
                f"{challenger['flaggedByChallengerOnly']:,} by it alone",
            )
        )
    rows.append(("Drift", drift["sentence"] if drift else "Nothing was scored yet."))
    table = new_table("", "", rows=[(line(head, "bold"), text) for head, text in rows], show_header=False)
    return Group(
        table, heading("Next: kubehabit model --preview, for what other thresholds would have given", "dim")
    )


def preview_screen(preview: Json) -> RenderableType:
    """What other thresholds would have given."""
    span = f"{when(preview['since'], _MINUTE)} to {when(preview['until'], _MINUTE)} UTC"
    title = f"What {preview['coveredDays']:.1f} days would have given ({span}). This changes nothing."
    heads = ("multiplier", "alerts", "a day", "incidents", "a day", "unusual actions")
    table = new_table(*heads, right=range(6))
    for one in preview["curve"]:
        in_force = one["scale"] == preview["now"]["scale"]
        table.add_row(*_count_row(one), style="bold" if in_force else "")
    parts = [line(title, "bold"), "", table, heading(f"In force is ×{preview['now']['scale']:g}.", "dim")]
    wanted = preview["wanted"]
    if wanted:
        limit = f" for at most {preview['perDay']:g} alerts a day" if preview["perDay"] else ""
        counts = f"{wanted['alerts']:,} alerts and {wanted['incidents']:,} incidents"
        parts.append(heading(f"Multiplier ×{wanted['scale']:g}{limit}: {counts}"))
        if wanted["loudest"]:
            rows = [
                (one["principal"], f"{one['alerts']:,}", f"{one['actions']:,}") for one in wanted["loudest"]
            ]
            parts.append(
                new_table(
                    "principals with the most alerts", "alerts", "unusual actions", rows=rows, right=(1, 2)
                )
            )
        parts.append(heading(preview["setting"], ""))
    return Group(*parts, *(line(f"- {note}", "dim") for note in preview["notes"]))


def _count_row(one: Json) -> tuple[str, ...]:
    return (
        f"{one['scale']:g}",
        f"{one['alerts']:,}",
        _rate(one["alertsPerDay"]),
        f"{one['incidents']:,}",
        _rate(one["incidentsPerDay"]),
        f"{one['actions']:,}",
    )
