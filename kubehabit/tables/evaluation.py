"""Terminal tables of an evaluation: the figures, every run by itself, and what was raised without an attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kubehabit.tables.screen import heading, line, new_table

_Figures = Mapping[str, Any]
_SEVERITIES = {"low": "cyan", "medium": "yellow", "high": "red", "critical": "bold red"}


def evaluation_screen(figures: _Figures) -> list[RenderableType]:
    """The result of `evaluate`: figures in words, the detectors compared, each run, and the strict figures if there are some.

    Labels divide runs into attacks, which should be caught, and look-alikes, honest work that should not be raised.
    """
    parts: list[RenderableType] = [new_table("", "", "95 % interval", rows=_rows(figures), show_header=False)]
    others = {**figures.get("ablations", {}), **figures.get("baselines", {})}
    if others:
        compared = [_compared(name, block) for name, block in {"kubehabit": figures, **others}.items()]
        columns = ("detector", "caught", "false /10k", "look-alikes raised")
        parts += [
            heading("Beside others, at the same budget"),
            new_table(*columns, rows=compared, right=(1, 2, 3)),
        ]
    if runs := figures.get("runs"):
        rows = [_run(run) for run in sorted(runs, key=lambda run: run["kind"] != "attack")]
        heads = ("", "", "what", "scenario", "principal")
        parts += [heading("Runs"), new_table(*heads, rows=rows)]
    if "alone" in figures:
        parts += [line(""), alone_screen(figures["alone"])]
    return parts


def _rows(figures: _Figures) -> Iterator[tuple[RenderableType, ...]]:
    """What the figures are called, their values, and their intervals; those that there are."""
    intervals = figures.get("intervals") or {}
    for name, title, form in (
        ("model", "model", "{}"),
        ("events", "events", "{:,}"),
        ("actions", "actions", "{:,}"),
        ("attack_runs", "attack runs", "{:,}"),
        ("recall", "of them caught (recall)", "{:.0%}"),
        ("median_actions_to_detection", "actions until caught, median", "{:g}"),
        ("detected_within_3_actions", "caught within 3 actions", "{:.0%}"),
        ("false_per_10k_person_actions", "false incidents per 10,000 actions of people", "{:.2f}"),
        ("strict_false_per_10k_person_actions", "the same, shadows of attacks counted", "{:.2f}"),
        ("false_per_1m_system_actions", "false incidents per 1,000,000 actions of the system", "{:.1f}"),
        ("lookalikes", "benign look-alikes", "{:,}"),
        ("lookalikes_raised", "of them raised", "{:,}"),
        ("lookalikes_high", "of them raised as high or critical", "{:,}"),
    ):
        value = figures.get(name)
        if value is not None:
            yield title, form.format(value), _interval(intervals.get(name), form)


def _interval(ends: Sequence[float] | None, form: str) -> str:
    return "" if ends is None else " to ".join(form.format(end) for end in ends)


def _compared(name: str, block: _Figures) -> tuple[str, ...]:
    return (
        name,
        "-" if block.get("recall") is None else f"{block['recall']:.0%}",
        f"{block['false_per_10k_person_actions']:.2f}",
        f"{block['lookalikes_raised']} of {block['lookalikes']}",
    )


def _run(run: _Figures) -> tuple[RenderableType, ...]:
    """One run: whether an attack was caught or missed, or a look-alike raised or left alone."""
    attack, seen = run["kind"] == "attack", run["detected"]
    severity = run.get("severity") or ""
    if attack:
        verdict = line("caught", "green") if seen else line("missed", "bold red")
    else:
        verdict = line("raised", "yellow") if seen else line("quiet", "dim")
    what = run["class"] if attack else "look-alike"
    return (
        verdict,
        line(severity if seen else "", _SEVERITIES.get(severity, "")),
        what,
        run["scenario"],
        run["principal"],
    )


def alone_screen(found: _Figures) -> Group:
    """The strict figures (`training.evaluation.alone.judge_alone`) and each false incident with its reason."""
    from training.evaluation.report import alone_rows, false_incident

    table = Table(title="Every run alone", title_justify="left")
    for heading_ in ("", "runs as they were", "transplants"):
        table.add_column(heading_)
    for row in alone_rows(found):
        table.add_row(*row)
    incidents = [false_incident(one) for one in found["false_incidents"]]
    title = f"{len(incidents)} false incidents on the log without attacks"
    return Group(table, Text("\n  ".join([title, *incidents])))
