"""Tools that read: alerts, incidents, events and habits of a running service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from kubehabit.assistant.quoting import answer, unquote
from kubehabit.client.remote import Remote

Answer = dict[str, Any]
AlertID = Annotated[str, Field(description="ID of an alert: 16 hexadecimal digits", max_length=64)]
IncidentID = Annotated[str, Field(description="ID of an incident: 16 hexadecimal digits", max_length=64)]
Principal = Annotated[
    str,
    Field(
        description="Full name as the log has it; a service account is system:serviceaccount:NAMESPACE:NAME",
        max_length=512,
    ),
]
Text = Annotated[str, Field(max_length=512)]
When = Annotated[
    str,
    Field(description="How long ago (7d, 12h), a time of day in UTC, a day, or RFC 3339", max_length=40),
]
Limit = Annotated[int, Field(ge=1, le=100, description="Largest number of items")]
Cursor = Annotated[str, Field(description="`cursor` of the answer before, for the next page", max_length=40)]
_SHOWN_OF_ALERT = (
    *("id", "principal", "kind", "severity", "severityReasons", "sentence", "firstSeen", "lastSeen"),
    *("techniques", "did", "actionCount", "contributorCount", "timesAgain", "expected", "checks", "auditIDs"),
)
_SHOWN_OF_ACTION = (
    *("auditID", "time", "did", "verb", "objectRef", "responseStatus", "sourceIPs", "userAgent", "severity"),
    *("sensitivityReason", "evidence"),
)
_SHOWN_OF_INCIDENT = (
    *("id", "state", "severity", "severityReasons", "sentence", "firstSeen", "lastSeen", "principals"),
    *("source", "addresses", "clients", "alerts", "ties", "consequences", "techniques", "checks", "trail"),
    *("alertCount", "actionCount", "auditIDs"),
)
_SHOWN_OF_STEP = (
    *("time", "auditID", "principal", "role", "did", "verb", "objectRef", "responseStatus", "address"),
    *("userAgent", "confidence", "why", "news"),
)


class ReadTools:
    """Asks a running service, with the token that it was given; each public method is one tool."""

    def __init__(self, service: Remote) -> None:
        self._service = service

    def list_alerts(
        self,
        severity: Literal["", "low", "medium", "high", "critical"] = "",
        principal: Text = "",
        namespace: Text = "",
        state: Literal["", "open", "closed"] = "",
        verdict: Literal["", "none", "normal", "malicious"] = "",
        text: Text = "",
        since: When = "",
        limit: Limit = 20,
        cursor: Cursor = "",
    ) -> Answer:
        """List alerts, newest first: who did what unusual, and how bad it is. Severity means that one and above."""
        query = {"severity": severity, "principal": principal, "namespace": namespace, "state": state}
        query |= {"verdict": verdict, "q": text, "since": _moment(since) or "", "cursor": cursor}
        found = self._service.get("alerts", limit=limit, **given(query))
        shown = [only(one, _SHOWN_OF_ALERT) for one in found["alerts"]]
        for alert in shown:
            alert["auditIDs"] = alert["auditIDs"][:10]
        return answer({"alerts": shown, "cursor": found["cursor"]})

    def show_alert(self, alert_id: AlertID) -> Answer:
        """Show one alert: its unusual actions, what is new about each, what was expected, and the next steps."""
        found = self._service.get("alerts", unquote(alert_id))
        shown = only(found, _SHOWN_OF_ALERT)
        shown["actions"] = [
            only(one, _SHOWN_OF_ACTION) | {"habits": one["habits"]} for one in found["actions"]
        ]
        shown["contributors"] = [only(one, _SHOWN_OF_ACTION) for one in found["contributors"]]
        return answer(shown)

    def list_incidents(
        self,
        state: Literal["", "open", "closed", "merged"] = "open",
        severity: Literal["", "low", "medium", "high", "critical"] = "",
        principal: Text = "",
        namespace: Text = "",
        since: When = "",
        limit: Annotated[int, Field(ge=1, le=20, description="Largest number of incidents")] = 10,
        cursor: Cursor = "",
    ) -> Answer:
        """List incidents, newest first: alerts that belong together, over time and across credentials."""
        query = {"state": state, "severity": severity, "principal": principal, "namespace": namespace}
        query |= {"since": _moment(since) or "", "cursor": cursor}
        found = self._service.get("incidents", limit=limit, **given(query))
        for incident in found["incidents"]:
            incident["auditIDs"] = self._service.get("incidents", incident["id"])["auditIDs"][:5]
        return answer(found)

    def show_incident(self, incident_id: IncidentID) -> Answer:
        """Show one incident: where it began, how it spread and how sure that is, what followed, next steps, what was decided."""
        return answer(only(self._service.get("incidents", unquote(incident_id)), _SHOWN_OF_INCIDENT))

    def incident_timeline(self, incident_id: IncidentID, limit: Limit = 50, skip: int = 0) -> Answer:
        """List the suspicious actions of an incident in order of time, each with its audit ID, address and client."""
        found = self._service.get("incidents", unquote(incident_id))
        steps = found["timeline"][max(skip, 0) :][:limit]
        return answer(
            {
                "incident": found["id"],
                "steps": [only(one, _SHOWN_OF_STEP) for one in steps],
                "total": len(found["timeline"]),
                "skipped": max(skip, 0),
            }
        )

    def find_events(
        self,
        principal: Text = "",
        verb: Text = "",
        resource: Text = "",
        namespace: Text = "",
        name: Text = "",
        address: Text = "",
        code: Annotated[str, Field(description="403, 4xx or 400-499", max_length=40)] = "",
        audit_id: Text = "",
        alert_id: Annotated[str, Field(description="Only events of this alert", max_length=64)] = "",
        since: When = "",
        until: When = "",
        newest: bool = True,
        limit: Limit = 30,
        cursor: Cursor = "",
    ) -> Answer:
        """List requests that were received, newest first unless `newest` is false. All filters must match."""
        query = {
            "principal": principal,
            "verb": verb,
            "resource": resource,
            "namespace": namespace,
            "name": name,
        }
        query |= {"address": address, "code": code, "auditID": audit_id, "alert": alert_id, "cursor": cursor}
        query |= {"since": since, "until": until}
        order = "newest" if newest else "oldest"
        return answer(self._service.get("events", limit=limit, order=order, **given(query)))

    def who_touched(
        self,
        resource: Annotated[str, Field(description="As kubectl takes it, such as secret", max_length=256)],
        namespace: Text = "",
        name: Text = "",
        since: When = "7d",
        until: When = "",
        listings: Annotated[
            bool, Field(description="Include those that listed or watched the whole kind")
        ] = True,
    ) -> Answer:
        """List who read, wrote or tried an object or a kind of objects: how, how often, from where, with which client."""
        query = {"resource": resource, "namespace": namespace, "name": name, "since": since, "until": until}
        found = self._service.get("events", "touched", listings=str(listings).lower(), **given(query))
        touching = self._service.get("events", order="newest", limit=100, **given(query))["events"]
        if listings:
            kind = given({"resource": resource, "since": since, "until": until})
            listed = self._service.get("events", order="newest", limit=100, verb=["list", "watch"], **kind)[
                "events"
            ]
            places = ("", unquote(namespace))
            touching += [
                one for one in listed if not namespace or (one["objectRef"] or {}).get("namespace") in places
            ]
        return answer(found, audit_ids=[one["auditID"] for one in touching])

    def who_is_new(self, namespace: Text, since: When = "7d", until: When = "") -> Answer:
        """List principals that came to a namespace and were never seen in it before, as far back as the store goes."""
        query = given({"namespace": namespace, "since": since, "until": until})
        found = self._service.get("events", "newcomers", **query)
        cited = [
            one["auditID"]
            for newcomer in found["newcomers"][:10]
            for one in self._service.get("events", principal=newcomer["principal"], limit=5, **query)[
                "events"
            ]
        ]
        return answer(found, audit_ids=cited)

    def principal_habits(self, principal: Principal, since: When = "", until: When = "") -> Answer:
        """Show what a principal normally does: when, where, what, from where and with what, and what it was refused."""
        query = given({"since": since, "until": until})
        name = unquote(principal)
        found = self._service.get("habits", name, **query)
        recent = self._service.get("events", principal=name, order="newest", limit=20, **query)
        alerts = self._service.get("alerts", principal=name, limit=10)["alerts"]
        shown = [only(one, ("id", "severity", "sentence", "firstSeen")) for one in alerts]
        return answer(found | {"alerts": shown}, audit_ids=[one["auditID"] for one in recent["events"]])


def given(query: Mapping[str, str | None]) -> dict[str, Any]:
    """The parameters that were given, without the brackets that they may be quoted in."""
    return {name: unquote(value) for name, value in query.items() if value}


def _moment(text: str) -> str | None:
    """A time as `GET /v1/alerts` takes it."""
    from serving.forensics import clock
    from serving.forensics.queries import moment_of

    return clock.written(moment_of(unquote(text))) if text else None


def only(document: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Some fields of a document, without those that are empty."""
    return {name: document[name] for name in names if document.get(name) not in (None, "", [])}
