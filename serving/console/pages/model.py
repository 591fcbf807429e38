"""The page of the model: what it is, whether it still fits, and what other thresholds would have given."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup

from serving.api.principals import FreshHistory
from serving.console import charts
from serving.console.render import page
from serving.history.queries import Drift
from serving.history.threshold_preview import SCALES, Preview
from serving.rollout.watcher import ModelStatus
from serving.runtime import Service
from serving.schemas import ModelInfo
from serving.settings import LEAST_SCALE, MOST_SCALE

router = APIRouter(include_in_schema=False)

_SPANS = (("7", "1 week"), ("14", "2 weeks"), ("28", "4 weeks"))
_MOST_PER_DAY = 1e6
_HISTORY_DAYS = 28

Number = Annotated[str, Query(max_length=12)]


@router.get("/console/model")
def model(
    request: Request,
    days: Annotated[Literal["7", "14", "28"], Query()] = "7",
    per_day: Number = "",
    scale: Number = "",
) -> Response:
    """The model that is served, and a preview that changes nothing."""
    service: Service = request.app.state.service
    records: FreshHistory = request.app.state.records
    engine = service.ready()
    status = (
        service.watch.status()
        if service.watch is not None
        else ModelStatus(**{name: getattr(engine.model, name) for name in ModelInfo.model_fields})
    )
    wanted, wrong = _wanted(per_day, scale)
    preview = records.preview(float(days), **wanted)
    reader = records.reader()
    drift, history = records.drift(7), reader.drift(_HISTORY_DAYS)
    return page(
        request,
        "model.html",
        served=status,
        learned=_learned(status),
        preview=preview,
        curve=_curve(preview) if preview is not None else None,
        drift=drift,
        surprising=_surprising(history) if history is not None else None,
        versions=reader.versions(_HISTORY_DAYS),
        days=days,
        spans=_SPANS,
        per_day=per_day.strip(),
        scale=scale.strip(),
        least=LEAST_SCALE,
        most=MOST_SCALE,
        wrong=wrong,
        same=_same(days, wanted),
        bar=charts.bar,
    )


def _wanted(per_day: str, scale: str) -> tuple[dict[str, float], str]:
    """What was asked for, and what is wrong with it; if both are given, alerts a day count."""
    text = per_day.strip() or scale.strip()
    if per_day.strip():
        name, least, most = "per_day", 0.01, _MOST_PER_DAY
        wrong = "Alerts a day are a number above 0, such as 2 or 0.5."
    else:
        name, least, most = "scale", LEAST_SCALE, MOST_SCALE
        wrong = f"The multiplier is a number from {LEAST_SCALE:g} to {MOST_SCALE:g}; 1 is the calibrated threshold."
    try:
        value = float(text) if text else None
    except ValueError:
        return {}, wrong
    if value is None:
        return {}, ""
    return ({name: value}, "") if least <= value <= most else ({}, wrong)


def _same(days: str, wanted: dict[str, float]) -> str:
    """The command that asks the same."""
    words = ["kubehabit", "model", "--preview", "--days", days]
    for name, value in wanted.items():
        words += [f"--{name.replace('_', '-')}", f"{value:g}"]
    return shlex.join(words)


def _learned(status: ModelInfo) -> dict[str, Any]:
    """What the model was trained on, out of its bundle; what a bundle does not say is empty."""
    bundle = status.bundle
    data = _section(bundle.get("data"))
    return {
        "created": _moment(bundle.get("created")),
        "principals": bundle.get("principals"),
        "actions": data.get("actions"),
        "first": _moment(data.get("first")),
        "last": _moment(data.get("last")),
        "kinds": _section(data.get("principals")),
        "sources": data.get("sources") or [],
        "fingerprint": data.get("fingerprint"),
        "commit": bundle.get("git_commit"),
        "budget": _section(bundle.get("budget")),
    }


def _section(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _curve(preview: Preview) -> Markup:
    """Alerts and incidents by threshold."""
    whole = preview.covered_days >= 1
    unit = "a day" if whole else f"in {24 * preview.covered_days:.1f} hours"
    alerts, incidents = (
        [getattr(one, f"{name}_per_day" if whole else name) or 0.0 for one in preview.curve]
        for name in ("alerts", "incidents")
    )
    nearest = min(range(len(SCALES)), key=lambda place: abs(SCALES[place] - preview.now.scale))
    now = preview.now.alerts_per_day if whole else preview.now.alerts
    steps = range(0, len(SCALES), (len(SCALES) - 1) // 3)
    return charts.lines(
        "curve",
        [
            charts.ChartLine("alerts", "one", alerts),
            charts.ChartLine("incidents", "two", incidents),
        ],
        title=f"Alerts and incidents {unit}, by multiplier of the threshold",
        summary=f"With the multiplier in force, ×{preview.now.scale:g}, there were {_figure(now)} alerts {unit}.",
        places=[f"multiplier ×{scale:g}" for scale in SCALES],
        ticks=[f"×{SCALES[place]:g}" for place in steps],
        mark=nearest,
        marked=f"in force: ×{preview.now.scale:g}",
        heads=("Multiplier", "Alerts", f"Alerts {unit}", "Incidents", f"Incidents {unit}", "Unusual actions"),
        rows=[
            (
                f"{one.scale:g}",
                f"{one.alerts:,}",
                _figure(a),
                f"{one.incidents:,}",
                _figure(i),
                f"{one.actions:,}",
            )
            for one, a, i in zip(preview.curve, alerts, incidents, strict=True)
        ],
        shown=_figure,
    )


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def _surprising(drift: Drift) -> Markup | None:
    """Surprising and unknown actions by day; None for a single day, of which there is nothing to draw."""
    if len(drift.days) < 2:
        return None
    surprising, unknown = ([getattr(day, name) for day in drift.days] for name in ("surprising", "unknown"))
    names = [f"{day.day.day} {day.day:%b}" for day in drift.days]
    return charts.lines(
        "drift",
        [
            charts.ChartLine("surprising", "one", surprising),
            charts.ChartLine("unknown verb or resource", "two", unknown),
        ],
        title="Share of actions, by day",
        summary=f"Calibration expected {drift.beyond[0].expected:.0%} to be as surprising.",
        places=names,
        ticks=[names[0], names[-1]],
        mark=None,
        marked="",
        heads=("Day (UTC)", "Surprising", "Unknown", "Unusual actions", "Actions"),
        rows=[
            (name, f"{day.surprising:.2%}", f"{day.unknown:.2%}", f"{day.flagged:,}", f"{day.actions:,}")
            for name, day in zip(names, drift.days, strict=True)
        ],
        shown=lambda share: f"{share:.1%}",
    )
