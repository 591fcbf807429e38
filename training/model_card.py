"""The model card of a registered version: sections of Markdown in its description, and the main figures as tags.

The card that the bundle carries says what was known when it was made. What is found out later (evaluations, the decision of the
promotion gate) is added to the description of the version, each in a section of its own that a later one replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Longest description that MLflow's stores take.
_MOST = 5_000
_CURVE_POINTS = 6
_CUT = "\n\n(The rest is in `card.md` of the bundle and in the files of the run.)\n"
_HEADING = "## "
#: Figures of an evaluation that become tags and stand in the card: key, in words, how it is written.
_FIGURES = (
    ("recall", "attack runs caught", "{:.0%}"),
    ("strict_recall", "attack runs caught, each alone", "{:.0%}"),
    ("false_per_10k_person_actions", "false incidents per 10,000 actions of people and pipelines", "{:.2f}"),
    ("false_per_1m_system_actions", "false incidents per 1,000,000 actions of machinery", "{:.1f}"),
    ("lookalikes_high", "harmless look-alikes raised as high", "{:.0f}"),
)


def with_section(description: str, title: str, text: str) -> str:
    """A description with a section of that title replaced or added at the end, cut to what MLflow takes."""
    parts = description.split(f"\n{_HEADING}")
    kept = [part for part in parts[1:] if part.partition("\n")[0] != title]
    whole = f"\n{_HEADING}".join([parts[0].rstrip() + "\n", *kept, f"{title}\n\n{text.strip()}\n"])
    return whole if len(whole) <= _MOST else whole[: _MOST - len(_CUT)] + _CUT


def learning_curve(points: Sequence[tuple[int, float]]) -> str:
    """Held-back loss over steps as a table; a sentence where there is none."""
    if not points:
        return "No held-back loss was taken in this training."
    every = max(1, len(points) // _CURVE_POINTS)
    shown = [*points[:-1:every], points[-1]]
    steps = " | ".join(f"{step}" for step, _ in shown)
    nll = " | ".join(f"{loss:.2f}" for _, loss in shown)
    return f"| step | {steps} |\n|---|{'---|' * len(shown)}\n| held-back loss, nats | {nll} |"


def evaluation(figures: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """A section about an evaluation, and its tags (without the name of the log): figures of `training.evaluation.evaluate`."""
    lines, tags = [], {}
    for key, words, form in _FIGURES:
        value = figures.get(key)
        if value is not None:
            tags[key] = f"{value:.4g}"
            lines.append(f"| {words} | {form.format(value)} |")
    runs = sum(run["kind"] == "attack" for run in figures.get("runs", ()))
    judged = (
        f"{figures['actions']:,} actions, {runs} attack runs."
        if runs
        else f"{figures['actions']:,} actions of normal work."
    )
    return f"{judged}\n\n| | |\n|---|---|\n" + "\n".join(lines), tags


def publish(
    client: MlflowClient, name: str, version: str, title: str, text: str, tags: Mapping[str, str]
) -> None:
    """Put a section into the description of a version, and set tags on it."""
    found = client.get_model_version(name, version)
    client.update_model_version(name, version, with_section(found.description or "", title, text))
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def versions_of(client: MlflowClient, run_id: str) -> list[tuple[str, str]]:
    """Name and version of each registered version that a run made."""
    return [(one.name, str(one.version)) for one in client.search_model_versions(f"run_id='{run_id}'")]
