"""What Prometheus sees of the life of the model: changes, refusals, the registry, and the challenger in shadow."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_DECADES = (-8.0, -4.0, -2.0, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)


class DescribedModel(Protocol):
    """What the metrics say of a model; see `serving.schemas.ModelInfo`."""

    name: str
    version: str
    loaded: datetime
    bundle: dict[str, object]


class CountedActions(Protocol):
    """What the metrics count of the actions of a batch; see `serving.scoring.verdicts.ActionCounts`."""

    @property
    def with_history(self) -> int:
        """Those by principals with enough history."""

    @property
    def surprising(self) -> int:
        """Those that surprise the model."""

    @property
    def unknown(self) -> int:
        """Those of a kind that training never saw."""


def begin_at_zero(counter: Counter, *labels: str | tuple[str, ...]) -> None:
    """Export a counter for these labels from the start: one that is missing until it is not zero cannot be alerted on."""
    for one in labels:
        counter.labels(*([one] if isinstance(one, str) else one))


class ModelMetrics:
    """Counters of the models of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._info = gauge(
            "kubehabit_model_info",
            "1 for each model in memory, by its role: champion or challenger.",
            ["role", "name", "version", "created"],
        )
        self._reloads = counter(
            "kubehabit_model_reload",
            "Looks at the registry that found something: swapped, refused (once for each version), unavailable.",
            ["result"],
        )
        self.swapped = gauge(
            "kubehabit_model_swap_seconds",
            "Time in which batches had to wait for the last change of the model.",
        ).set
        self._registry_up = gauge(
            "kubehabit_model_registry_up", "1 when the registry answered the last look."
        )
        self._refusing = gauge(
            "kubehabit_model_refused", "1 while the registry's champion is a version that was refused."
        )
        self._shadow_events = counter(
            "kubehabit_shadow_events",
            "Events offered to the challenger: scored by both, or dropped because it could not keep up.",
            ["outcome"],
        )
        self.shadow_waiting = gauge(
            "kubehabit_shadow_waiting_events", "Events that the challenger has still to score."
        ).set
        self._shadow_flagged = counter(
            "kubehabit_shadow_flagged", "Actions flagged by both models, or by one of them only.", ["by"]
        )
        self._shadow_incidents = counter(
            "kubehabit_shadow_incidents",
            "What would have been alerts of each model, over the actions that both have scored.",
            ["by"],
        )
        self._shadow_difference = histogram(
            "kubehabit_shadow_evidence_difference",
            "Evidence of the challenger less that of the champion, decades, over actions where either has any.",
            buckets=_DECADES,
        )
        self._actions = counter(
            "kubehabit_actions",
            "Scored actions, by whether their principal had enough history to be judged by: enough or short.",
            ["history"],
        )
        self._surprising = counter(
            "kubehabit_surprising_actions",
            "Scored actions that surprise the model as one in twenty did in calibration; far more than that is drift.",
        )
        self._unknown = counter(
            "kubehabit_unknown_actions",
            "Scored actions with a verb or a resource that training never saw; more than one in a hundred is drift.",
        )
        begin_at_zero(self._actions, "enough", "short")
        begin_at_zero(self._reloads, "swapped", "refused", "unavailable")
        begin_at_zero(self._shadow_events, "scored")
        self.shadow_dropped = self._shadow_events.labels("dropped").inc
        begin_at_zero(self._shadow_flagged, "both", "champion", "challenger")
        begin_at_zero(self._shadow_incidents, "champion", "challenger")

    def scored(self, actions: int, counts: CountedActions) -> None:
        """Count the actions of a scored batch."""
        self._actions.labels("enough").inc(counts.with_history)
        self._actions.labels("short").inc(actions - counts.with_history)
        self._surprising.inc(counts.surprising)
        self._unknown.inc(counts.unknown)

    def champion(self, model: DescribedModel) -> None:
        """Note the model that is served from now on."""
        self._show("champion", model)

    def shadowed(self, model: DescribedModel | None) -> None:
        """Note the challenger that runs in shadow from now on, or that none does."""
        self._show("challenger", model)
        if model is None:
            self.shadow_waiting(0)

    def _show(self, role: str, model: DescribedModel | None) -> None:
        self._info.remove_by_labels({"role": role})
        if model is not None:
            self._info.labels(role, model.name, model.version, str(model.bundle.get("created", ""))).set(1)

    def reload(self, result: str) -> None:
        """Count one look at the registry that found something."""
        self._reloads.labels(result).inc()

    def registry(self, up: bool, *, refusing: bool) -> None:
        """Note whether the registry answered, and whether what it wants served is refused."""
        self._registry_up.set(up)
        if up:
            self._refusing.set(refusing)

    def shadow_compared(
        self, *, scored: int, both: int, champion: int, challenger: int, differences: Iterable[float]
    ) -> None:
        """Count actions that both models have scored: all, those flagged by both or one, and how evidence differs."""
        self._shadow_events.labels("scored").inc(scored)
        for by, count in (("both", both), ("champion", champion), ("challenger", challenger)):
            self._shadow_flagged.labels(by).inc(count)
        for difference in differences:
            self._shadow_difference.observe(difference)

    def shadow_incident(self, by: str) -> None:
        """Count what would have been an alert."""
        self._shadow_incidents.labels(by).inc()
