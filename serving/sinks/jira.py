"""Jira: an issue for each alert, and a comment when it grows; Cloud and Data Center, by their REST API version 2."""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import Any, Literal

import msgspec
from pydantic import model_validator

from serving.sinks.base import (
    ConsoleLink,
    Secret,
    SinkSettings,
    SinkTlsSettings,
    UnavailableError,
    Update,
    Url,
    alert_link,
    namespaces_of,
    rfc3339,
)
from serving.sinks.http import Poster

#: Characters that Jira takes of a summary and, with room to spare, of a description.
_MAX_SUMMARY, _MAX_TEXT = 255, 20_000
_MAX_AUDIT_IDS = 50


class JiraSettings(SinkSettings):
    """Alerts as issues of a project; an alert's issue is found again by its label `kubehabit-ID`.

    With `user` (Jira Cloud: an e-mail address) the token is sent as its password, without as a bearer token (Data Center).
    """

    type: Literal["jira"]
    url: Url
    project: str
    issue_type: str = "Task"
    user: str = ""
    token: Secret
    labels: list[str] = []
    console: ConsoleLink = ""
    tls: SinkTlsSettings = SinkTlsSettings()

    @model_validator(mode="after")
    def _labels_are_words(self) -> JiraSettings:
        if any(not label or " " in label for label in self.labels):
            raise ValueError("a label of Jira is one word, without spaces")
        return self

    def open(self) -> JiraSink:
        """The sink."""
        return JiraSink(self)


class JiraSink:
    """Creates issues, and comments on those that exist."""

    def __init__(self, settings: JiraSettings) -> None:
        self._settings = settings
        self._poster = Poster(settings, settings.tls)

    def send(self, update: Update) -> None:
        """Create the alert's issue, or add a comment to it; a repeat of the same update adds nothing."""
        settings, alert = self._settings, update.alert
        label = f"kubehabit-{alert.id}"
        # The path of the search is that of Cloud; Data Center answers it with 404.
        query = {
            "jql": f'project = "{settings.project}" AND labels = "{label}"',
            "fields": ["comment"],
            "maxResults": 1,
        }
        found = self._ask("search/jql", query, ok=HTTPStatus.NOT_FOUND)
        if "issues" not in found:
            found = self._ask("search", query)
        issues = found.get("issues")
        if not isinstance(issues, list):
            raise UnavailableError("Jira's search gave no list of issues")
        if not issues:
            fields = {
                "project": {"key": settings.project},
                "issuetype": {"name": settings.issue_type},
                "summary": f"{alert.severity.upper()}: {alert.sentence}"[:_MAX_SUMMARY],
                "description": description(update, settings.console),
                "labels": ["kubehabit", label, *settings.labels],
            }
            self._ask("issue", {"fields": fields})
            return
        comments = issues[0].get("fields", {}).get("comment", {}).get("comments", [])
        mark = f"update {update.key}"
        if update.change == "raised" or any(mark in str(comment.get("body")) for comment in comments):
            return  # its answer got lost the first time
        text = f"{alert.severity.upper()}, {alert.action_count:,} unusual actions by now ({mark}).\n{literal(alert.sentence)}"
        self._ask(f"issue/{issues[0]['key']}/comment", {"body": text})

    def _ask(self, path: str, body: object, ok: int = 0) -> dict[str, Any]:
        settings = self._settings
        token = settings.token.read()
        basic = base64.b64encode(f"{settings.user}:{token}".encode()).decode()
        headers = {
            "Authorization": f"Basic {basic}" if settings.user else f"Bearer {token}",
            "Content-Type": "application/json",
        }
        answer = self._poster.post(
            settings.url, f"/rest/api/2/{path}", msgspec.json.encode(body), headers, ok=ok
        )
        try:
            read = msgspec.json.decode(answer or b"{}")
        except msgspec.DecodeError:
            read = {}
        return read if isinstance(read, dict) else {}

    def close(self) -> None:
        """Close the connections."""
        self._poster.close()


def literal(text: str) -> str:
    """Text that Jira shows as it is, without links, mentions or macros."""
    return "{noformat}" + text[:_MAX_TEXT].replace("{", "{\u200b") + "{noformat}"


def description(update: Update, console: str) -> str:
    """The issue's text; what comes from the log is shown as it is."""
    alert = update.alert
    lines = [
        alert.sentence,
        "",
        f"Principal: {alert.principal} ({alert.kind})",
        f"Namespaces: {', '.join(namespaces_of(alert)) or '-'}",
        f"From {rfc3339(alert.first_seen)} to {rfc3339(alert.last_seen)}, {alert.action_count:,} unusual actions",
        *(f"ATT&CK {one.id} {one.name}" for one in alert.techniques),
        "",
        *(f"- {check.text}" + (f"\n  {check.command}" if check.command else "") for check in alert.checks),
        "",
        f"Audit IDs: {', '.join(alert.audit_ids[:_MAX_AUDIT_IDS])}",
        f"update {update.key}",
    ]
    link = alert_link(console, alert)
    return (f"{link}\n" if link else "") + literal("\n".join(lines))
