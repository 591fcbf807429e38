"""Terminal tables of the models' life: drift of a cluster, and the trials of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from data.visible_text import visible

if TYPE_CHECKING:
    from training.lifecycle.drift import DriftReport


def drift_screen(report: DriftReport, most: int = 12) -> Group:
    """A drift report: principals, unknown values, incidents, and the advice."""
    compared = [one for one in report.principals if one.verdict != "too few"]
    changed = Table(title="Surprise of each principal, then and now (nats)", title_justify="left")
    for column in ("principal", "kind", "actions", "then", "now", "PSI", "noise", ""):
        changed.add_column(column, justify="left" if column in ("principal", "kind", "") else "right")
    for one in compared[:most]:
        numbers = (f"{value:.2f}" for value in (one.median_before, one.median_now, one.psi, one.noise))
        changed.add_row(one.name, one.kind, f"{one.actions:,}", *numbers, one.verdict)
    values = Table(title="Share of values the model does not know", title_justify="left")
    for column in ("field", "then", "now", "such as"):
        values.add_column(column, justify="right" if column in ("then", "now") else "left")
    for name, (before, now) in sorted(report.unknown.items(), key=lambda item: item[1][0] - item[1][1]):
        if before or now:
            examples = ", ".join(list(report.unseen.get(name, {}))[:3])
            values.add_row(name, f"{before:.2%}", f"{now:.2%}", examples)
    lines = [
        f"{sum(one.verdict == 'steady' for one in compared)} principals are steady, "
        f"{len(report.principals) - len(compared)} acted too little to tell; "
        f"{min(most, len(compared))} of {len(compared)} are shown",
        f"new principals: {_named(report.new)}",
        f"vanished principals: {_named(report.vanished)}",
        *(
            f"incidents of {rate.what}: {rate.incidents} in {rate.actions:,} actions, budget {rate.allowed:.2f}"
            f" (chance of as many within the budget: {rate.chance:.3f})"
            for rate in report.rates
        ),
    ]
    return Group(changed, values, Text("\n".join(map(visible, lines))), Text(report.advice, style="bold"))


def _named(principals: Mapping[str, int], most: int = 5) -> str:
    if not principals:
        return "none"
    ordered = sorted(principals.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} ({count:,})" for name, count in ordered[:most])
    return shown + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def trials_table(study: Any, most: int = 10) -> Table:
    """The best trials of an Optuna study."""
    title = f"{study.study_name}: best of {len(study.trials)} trials, judged on held-back normal data"
    table = Table(title=title)
    for column in ("trial", "objective", "swaps caught", "nats", "settings"):
        table.add_column(column, justify="left" if column == "settings" else "right")
    finished = [trial for trial in study.trials if trial.value is not None]
    for trial in sorted(finished, key=lambda one: -one.value)[:most]:
        settings = (
            f"{name.partition('.')[2]}={value:{'.3g' if isinstance(value, float) else ''}}"
            for name, value in trial.params.items()
        )
        table.add_row(
            str(trial.number),
            f"{trial.value:.3f}",
            f"{trial.user_attrs['swaps_caught']:.1%}",
            f"{trial.user_attrs['held_back_surprise']:.2f}",
            " ".join(settings),
        )
    return table
