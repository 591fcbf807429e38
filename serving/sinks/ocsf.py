"""OCSF 1.4 Detection Finding (class 2004), to an HTTP endpoint or into a file."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from serving.schemas import Action
from serving.sinks.base import Secret, Sink, SinkTlsSettings, Update, Url
from serving.sinks.file import FileSink, RotationSettings
from serving.sinks.http import HttpSink

_SEVERITY_IDS = {"low": 2, "medium": 3, "high": 4, "critical": 5}
_CREATE, _UPDATE = 1, 2
_NEW, _IN_PROGRESS = 1, 2
_LEARNING = 4  # analytic.type_id: machine or deep learning
_DETECTION_FINDING = 2004
_EVIDENCES = 20


class OcsfSettings(RotationSettings):
    """Alerts as OCSF findings, to either `url` or `path`; `metadata.uid` identifies repeats, `finding_info.uid` the alert."""

    type: Literal["ocsf"]
    url: Url | None = None
    token: Secret | None = None
    tls: SinkTlsSettings = SinkTlsSettings()
    path: Path | None = None

    @model_validator(mode="after")
    def _one_target(self) -> OcsfSettings:
        if (self.url is None) == (self.path is None):
            raise ValueError("give either 'url' or 'path', one of the two")
        return self

    def open(self) -> Sink:
        """The sink."""
        if self.path is not None:
            return FileSink(self, self.path, finding)
        assert self.url is not None
        return HttpSink(self, self.url, finding, token=self.token, tls=self.tls)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def finding(update: Update) -> dict[str, Any]:
    """The alert as a Detection Finding."""
    alert = update.alert
    activity = _CREATE if update.change == "raised" else _UPDATE
    shown = sorted(alert.actions, key=lambda action: action.weight, reverse=True)[:_EVIDENCES]
    return {
        "class_uid": _DETECTION_FINDING,
        "class_name": "Detection Finding",
        "category_uid": 2,
        "category_name": "Findings",
        "activity_id": activity,
        "activity_name": "Create" if activity == _CREATE else "Update",
        "type_uid": _DETECTION_FINDING * 100 + activity,
        "time": _milliseconds(alert.last_seen),
        "start_time": _milliseconds(alert.first_seen),
        "end_time": _milliseconds(alert.last_seen),
        "count": alert.action_count,
        "severity_id": _SEVERITY_IDS[alert.severity],
        "severity": alert.severity.capitalize(),
        "status_id": _NEW if activity == _CREATE else _IN_PROGRESS,
        "is_alert": True,
        "message": alert.sentence,
        "metadata": {
            "version": "1.4.0",
            "uid": update.key,
            "product": dict.fromkeys(("name", "vendor_name"), "kubehabit")
            | {"version": version("kubehabit")},
        },
        "finding_info": {
            "uid": alert.id,
            "title": f"Unusual behaviour of {alert.principal}",
            "desc": alert.sentence,
            "types": ["Unusual behaviour"],
            "created_time": _milliseconds(alert.first_seen),
            "modified_time": _milliseconds(alert.last_seen),
            "first_seen_time": _milliseconds(alert.first_seen),
            "last_seen_time": _milliseconds(alert.last_seen),
            "analytic": {
                "type_id": _LEARNING,
                "type": "Learning (ML/DL)",
                "name": alert.model.name,
                "version": alert.model.version,
            },
            "attacks": [
                {
                    "technique": {"uid": one.id, "name": one.name, "src_url": one.url},
                    "tactic": {"name": one.tactic},
                }
                for one in alert.techniques
            ],
        },
        "evidences": [_evidence(action, alert.principal) for action in shown],
        "observables": [{"name": "evidences.actor.user.name", "type_id": 4, "value": alert.principal}],
        "remediation": {"desc": "\n".join(check.text for check in alert.checks)},
    }


def _evidence(action: Action, principal: str) -> dict[str, Any]:
    api: dict[str, Any] = {
        "operation": action.verb,
        "request": {"uid": action.audit_id},
        "service": {"name": "kube-apiserver"},
    }
    if action.response_status is not None:
        api["response"] = {"code": action.response_status.code}
    evidence: dict[str, Any] = {
        "actor": {"user": {"name": principal}},
        "api": api,
        "data": {
            "did": action.description,
            "time": _milliseconds(action.time),
            "evidence": action.evidence,
            "userAgent": action.user_agent,
        },
    }
    if action.source_ips:
        evidence["src_endpoint"] = {"ip": action.source_ips[0]}
    if (ref := action.object_ref) is not None:
        kind = ref.resource + (f"/{ref.subresource}" if ref.subresource else "")
        evidence["resources"] = [
            {
                "type": kind,
                "name": ref.name or "*",
                "namespace": ref.namespace,
                "group": {"name": ref.api_group},
            }
        ]
    return evidence
