"""The route of a model's versions: what the registry knows of them, and what each judged here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI
from pydantic import Field

from detection.version_records import PromotionOutcome, PromotionRecord
from serving.api.principals import FreshHistory
from serving.history.queries import DriftComparison, JudgingVersion
from serving.history.schema import HistoryError
from serving.registry.catalog import RegisteredVersion
from serving.runtime import Service
from serving.schemas import ApiModel

_HISTORY_DAYS = 28.0


class TrainingLog(ApiModel):
    """The log that a version learned from."""

    actions: int
    first: Annotated[str, Field(description="time of its first action")]
    last: str
    fingerprint: str


class VersionSummary(ApiModel):
    """One version of the model."""

    version: str
    served: Annotated[bool, Field(description="whether it judges at the moment")]
    registered: datetime
    aliases: list[str]
    learned_from: Annotated[TrainingLog | None, Field(description="null if the registry does not say")] = None
    held_back_surprise: Annotated[
        float | None, Field(description="mean reconstruction error on held-back normal actions, nats")
    ] = None
    person_threshold: Annotated[
        float | None, Field(description="evidence from which actions of people and pipelines are flagged")
    ] = None
    system_threshold: Annotated[
        float | None, Field(description="the same for the cluster's own machinery")
    ] = None
    evaluations: Annotated[
        dict[str, dict[str, float]], Field(description="log -> figure -> value, by `kubehabit evaluate`")
    ]
    drift: Annotated[
        list[DriftComparison], Field(description="recent logs beside it, by `kubehabit drift`; newest first")
    ]
    judged: Annotated[JudgingVersion | None, Field(description="what it judged here in the last 28 days")] = (
        None
    )


class PromotionEntry(ApiModel):
    """A decision about which version is champion."""

    time: datetime
    outcome: PromotionOutcome
    before: Annotated[str, Field(description="the champion until then; empty if there was none")]
    after: Annotated[str, Field(description="the version that became champion, or was refused")]
    by: Annotated[str, Field(description="account that ran the command; empty if it is not known")]
    note: str
    reasons: Annotated[list[str], Field(description="why it was refused")]


class VersionOverview(ApiModel):
    """All versions of the model that is served."""

    name: str
    followed: Annotated[bool, Field(description="false for a model from a folder, which has no registry")]
    asked: Annotated[datetime | None, Field(description="time of the registry's last answer")] = None
    asking: Annotated[bool, Field(description="whether the registry is being asked at the moment")] = False
    trouble: Annotated[str, Field(description="why it did not answer when it was last asked")] = ""
    versions: Annotated[list[VersionSummary], Field(description="the newest first")]
    promotions: Annotated[list[PromotionEntry], Field(description="the newest first")]


def version_overview(service: Service, records: FreshHistory) -> VersionOverview:
    """What is known of all versions; raises ProblemError while no model is served."""
    engine = service.ready()
    try:
        judged = {one.version: one for one in records.reader().versions(_HISTORY_DAYS)}
    except HistoryError:
        judged = {}
    if service.watch is None:
        return VersionOverview(name=engine.model.name, followed=False, versions=[], promotions=[])
    known = service.versions.known()
    catalog = known.catalog
    served = engine.model.version if engine.model.source in ("registry", "cache") else ""
    return VersionOverview(
        name=service.settings.model.name,
        followed=True,
        asked=None if catalog is None else catalog.asked,
        asking=known.asking,
        trouble=known.trouble,
        versions=[_summary(one, served, judged) for one in (catalog.versions if catalog else ())],
        promotions=[_entry(one) for one in (catalog.promotions if catalog else ())],
    )


def _summary(one: RegisteredVersion, served: str, judged: dict[str, JudgingVersion]) -> VersionSummary:
    learned = one.learned
    return VersionSummary(
        version=one.version,
        served=one.version == served,
        registered=one.registered,
        aliases=list(one.aliases),
        learned_from=None
        if learned is None
        else TrainingLog(
            actions=learned.actions, first=learned.first, last=learned.last, fingerprint=learned.fingerprint
        ),
        held_back_surprise=one.held_back_surprise,
        person_threshold=one.person_threshold,
        system_threshold=one.system_threshold,
        evaluations=one.evaluations,
        drift=[DriftComparison.from_record(record) for record in one.drift],
        judged=judged.get(one.version),
    )


def _entry(record: PromotionRecord) -> PromotionEntry:
    return PromotionEntry(
        time=record.time,
        outcome=record.outcome,
        before=record.before,
        after=record.after,
        by=record.by,
        note=record.note,
        reasons=list(record.reasons),
    )


def add_version_routes(app: FastAPI, service: Service) -> None:
    """Add the route."""
    records: FreshHistory = app.state.records

    @app.get("/v1/model/versions", tags=["model"])
    def versions() -> VersionOverview:
        """Compare all versions in the registry, and show which became champion when, by whom and why.

        The registry is asked in the background, at most once a minute: `asked` says when it answered last, `trouble` why it
        did not, and the last answer stays when it is out of reach.
        """
        return version_overview(service, records)
