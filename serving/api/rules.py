"""The route of rules: which are used, what each did, and which files cannot be used."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from pydantic import Field

from serving.runtime import Service
from serving.schemas import ApiModel, Severity, clean


class RuleReport(ApiModel):
    """A rule that is used."""

    name: str
    title: str
    severity: Severity
    techniques: list[str]
    file: str
    evaluations: Annotated[int, Field(description="how often its expression ran since the start")]
    errors: int
    undecided: Annotated[int, Field(description="requests that were too large for it to be checked")]
    problem: Annotated[str, Field(description="the last error")] = ""
    hits: Annotated[
        dict[str, int],
        Field(
            description="by what became of them: new and again are in alerts; habit, over budget and allowed are not"
        ),
    ]


class BrokenRuleFile(ApiModel):
    """A file that cannot be used."""

    file: str
    reason: str


class RuleList(ApiModel):
    """All rules of the service."""

    rules: list[RuleReport]
    broken: list[BrokenRuleFile]


def add_rule_routes(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.get("/v1/rules", tags=["alerts"])
    def rules() -> RuleList:
        """List the rules beside the model, what each did since the start, and files that cannot be used, with the reason.

        They are those of the settings `rules`; the service reads them again when a file changes.
        """
        alerts = service.ready().rules
        if alerts is None:
            return RuleList(rules=[], broken=[])
        used = alerts.rules
        found = []
        for one in alerts.figures():
            rule = used.rules.get(one["name"])
            if rule is None:  # it was taken away a moment ago
                continue
            counted = {name: one[name] for name in ("evaluations", "errors", "undecided", "hits")}
            report = RuleReport(
                name=rule.name,
                title=clean(rule.spec.title),
                severity=rule.spec.severity,
                techniques=list(rule.spec.techniques),
                file=clean(rule.source),
                problem=clean(one["problem"]),
                **counted,
            )
            found.append(report)
        broken = [BrokenRuleFile(file=clean(one.path.name), reason=clean(one.reason)) for one in used.broken]
        return RuleList(rules=found, broken=broken)
