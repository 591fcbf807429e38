"""The page of the model's versions: side by side, what was promoted when and why, and what recent logs said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from serving.api.principals import FreshHistory
from serving.api.versions import VersionOverview, VersionSummary, version_overview
from serving.console.render import page
from serving.runtime import Service

router = APIRouter(include_in_schema=False)

#: Columns of the comparison, and records that are shown.
_SIDE_BY_SIDE, _RECORDS = 4, 30
_FIGURES: tuple[tuple[str, str, str], ...] = (
    ("recall", "Attack runs caught", "{:.0%}"),
    ("strict_recall", "Caught, each run alone in the log", "{:.0%}"),
    ("false_per_10k_person_actions", "False incidents per 10,000 actions of people and pipelines", "{:.2f}"),
    ("false_per_1m_system_actions", "False incidents per 1,000,000 actions of machinery", "{:.1f}"),
    ("lookalikes_high", "Harmless look-alikes raised as high", "{:.0f}"),
)


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of several versions.

    Attributes:
        words: what it is.
        cells: the figure of each version as text, "" where it is not known, and how it differs from the champion's.
    """

    words: str
    cells: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class FigureGroup:
    """Figures that belong together, such as those of one evaluation."""

    title: str
    figures: list[ComparedFigure]


@router.get("/console/model/versions")
def versions(
    request: Request,
    compare: Annotated[
        list[Annotated[str, Query(max_length=12)]] | None, Query(max_length=_SIDE_BY_SIDE)
    ] = None,
) -> Response:
    """Versions side by side, and the history of promotions."""
    service: Service = request.app.state.service
    records: FreshHistory = request.app.state.records
    known = version_overview(service, records)
    shown = _chosen(known, compare or [])
    return page(
        request,
        "versions.html",
        known=known,
        shown=shown,
        groups=compared(shown),
        promotions=known.promotions[:_RECORDS],
        reports=sorted(
            ((one.version, report) for one in known.versions for report in one.drift),
            key=lambda pair: pair[1].time,
            reverse=True,
        )[:_RECORDS],
        most=_SIDE_BY_SIDE,
    )


def _chosen(known: VersionOverview, wanted: Sequence[str]) -> list[VersionSummary]:
    """The versions that are compared, the newest first; if none was chosen, those with a role and then the newest ones."""
    if any(one.version in wanted for one in known.versions):
        return [one for one in known.versions if one.version in wanted]
    by_rank = sorted(known.versions, key=lambda one: (not one.served, not one.aliases))
    chosen = {one.version for one in by_rank[:_SIDE_BY_SIDE]}
    return [one for one in known.versions if one.version in chosen]


def compared(shown: Sequence[VersionSummary]) -> list[FigureGroup]:
    """Figures of versions side by side; what none of them has is left out."""
    base = next((place for place, one in enumerate(shown) if "champion" in one.aliases), None)

    def row(words: str, form: str, values: list[float | None]) -> ComparedFigure:
        champion = None if base is None else values[base]
        cells = [
            ("" if value is None else form.format(value), _difference(value, champion, form))
            for value in values
        ]
        return ComparedFigure(words, cells)

    actions = [None if one.learned_from is None else float(one.learned_from.actions) for one in shown]
    groups = [
        FigureGroup(
            "Training",
            [
                row("Actions", "{:,.0f}", actions),
                row(
                    "Mean error on held-back normal actions, nats",
                    "{:.3f}",
                    [one.held_back_surprise for one in shown],
                ),
                row(
                    "Threshold of people and pipelines, decades",
                    "{:.2f}",
                    [one.person_threshold for one in shown],
                ),
                row("Threshold of machinery, decades", "{:.2f}", [one.system_threshold for one in shown]),
            ],
        )
    ]
    for log in sorted({name for one in shown for name in one.evaluations}):
        found = [one.evaluations.get(log, {}) for one in shown]
        rows = [row(words, form, [one.get(key) for one in found]) for key, words, form in _FIGURES]
        groups.append(FigureGroup(f"Evaluation on {log}", rows))
    judged = [one.judged for one in shown]
    shares = [one.flagged / one.actions if one is not None and one.actions else None for one in judged]
    here = [
        row(
            "Actions with evidence",
            "{:,.0f}",
            [None if one is None else float(one.actions) for one in judged],
        ),
        row("Unusual ones among them", "{:.1%}", shares),
    ]
    groups.append(FigureGroup("Here, in the last 28 days", here))
    known = (FigureGroup(group.title, _known(group.figures)) for group in groups)
    return [group for group in known if group.figures]


def _known(figures: Iterable[ComparedFigure]) -> list[ComparedFigure]:
    return [one for one in figures if any(text for text, _ in one.cells)]


def _difference(value: float | None, champion: float | None, form: str) -> str:
    """How a figure differs from the champion's; "" where it does not, as both are written, or one is not known."""
    if value is None or champion is None or form.format(value) == form.format(champion):
        return ""
    return form.replace("{:", "{:+").format(value - champion)
