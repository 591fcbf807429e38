"""What the clouds wrap audit events in, written from their documentation and not from our decoder."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

Event = dict[str, Any]


def dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def lines(events: Sequence[Event]) -> bytes:
    return b"".join(dumps(event) + b"\n" for event in events)


def event_list(events: Sequence[Event]) -> dict[str, Any]:
    items = [{k: v for k, v in event.items() if k not in ("kind", "apiVersion")} for event in events]
    return {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items}


def event_list_per_line(events: Sequence[Event]) -> bytes:
    return b"".join(dumps(event_list(events[i : i + 50])) + b"\n" for i in range(0, len(events), 50))


def event_list_pretty(events: Sequence[Event]) -> bytes:
    return json.dumps(event_list(events), indent=2).encode() + b"\n"


def kubectl_list(events: Sequence[Event]) -> bytes:
    whole = {"apiVersion": "v1", "items": list(events), "kind": "List", "metadata": {"resourceVersion": ""}}
    return json.dumps(whole, indent=4).encode() + b"\n"


def json_stream_pretty(events: Sequence[Event]) -> bytes:
    """What `jq .` makes of a log."""
    return b"".join(json.dumps(event, indent=2).encode() + b"\n" for event in events)


def array_one_per_line(events: Sequence[Event]) -> bytes:
    return b"[\n" + b",\n".join(map(dumps, events)) + b"\n]\n"


STREAM = "kube-apiserver-audit-0123456789abcdef0123456789abcdef"


def eks_export(events: Sequence[Event]) -> bytes:
    """An export task's object: time of ingestion, then the message."""
    return b"".join(b"2026-01-05T09:30:01.123Z " + dumps(event) + b"\n" for event in events)


def eks_cli(events: Sequence[Event]) -> bytes:
    """What `aws logs filter-log-events` prints."""
    found = [
        {
            "logStreamName": STREAM,
            "timestamp": 1767605400000 + i,
            "message": dumps(event).decode(),
            "ingestionTime": 1767605401000 + i,
            "eventId": f"{i:056d}",
        }
        for i, event in enumerate(events)
    ]
    return json.dumps({"events": found, "searchedLogStreams": []}, indent=4).encode() + b"\n"


def eks_subscription(events: Sequence[Event]) -> dict[str, Any]:
    return {
        "messageType": "DATA_MESSAGE",
        "owner": "111122223333",
        "logGroup": "/aws/eks/shop/cluster",
        "logStream": STREAM,
        "subscriptionFilters": ["to-firehose"],
        "logEvents": [
            {"id": f"{i:056d}", "timestamp": 1767605400000 + i, "message": dumps(event).decode()}
            for i, event in enumerate(events)
        ],
    }


def _subscriptions(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [eks_subscription(events[i : i + 7]) for i in range(0, len(events), 7)]


def eks_firehose(events: Sequence[Event]) -> bytes:
    """An S3 object that Firehose wrote: records one after the other, without a newline."""
    return b"".join(map(dumps, _subscriptions(events)))


def eks_firehose_gzip(events: Sequence[Event]) -> bytes:
    """The same as CloudWatch packs it: each record a gzip member of its own."""
    return b"".join(gzip.compress(dumps(record)) for record in _subscriptions(events))


def eks_firehose_gzip_twice(events: Sequence[Event]) -> bytes:
    return gzip.compress(eks_firehose_gzip(events))


def _packed(record: object) -> str:
    return base64.b64encode(gzip.compress(dumps(record))).decode()


def eks_firehose_http(events: Sequence[Event]) -> bytes:
    """What Firehose posts to an HTTP endpoint."""
    records = [{"data": _packed(record)} for record in _subscriptions(events)]
    return dumps({"requestId": "r", "timestamp": 1767605400000, "records": records})


def eks_lambda(events: Sequence[Event]) -> bytes:
    return b"".join(dumps({"awslogs": {"data": _packed(r)}}) + b"\n" for r in _subscriptions(events))


def eks_kinesis(events: Sequence[Event]) -> bytes:
    return dumps({"Records": [{"kinesis": {"data": _packed(r)}} for r in _subscriptions(events)]}) + b"\n"


_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 422: 3, 429: 8, 500: 13, 503: 14, 504: 4}


def gke_entry(event: Event) -> dict[str, Any]:
    """A LogEntry of service k8s.io, as Cloud Logging prints it: what is false or empty is left out."""
    reference, verb = event.get("objectRef"), event["verb"]
    if reference:
        group = reference.get("apiGroup", "")
        domain = "core.k8s.io" if not group else group if "." in group else group + ".k8s.io"
        method = [*domain.split(".")[::-1], reference["apiVersion"], reference["resource"]]
        name = [group or "core", reference["apiVersion"]]
        if reference.get("namespace") and reference["resource"] != "namespaces":
            name += ["namespaces", reference["namespace"]]
        name += [reference["resource"]]
        if reference.get("name"):
            name += [reference["name"]]
        if reference.get("subresource"):
            method += [reference["subresource"]]
            name += [reference["subresource"]]
            behind = event["requestURI"].partition("?")[0].partition("/proxy/")[2]
            name += behind.split("/") if behind else []
        method_name, resource_name = ".".join([*method, verb]), "/".join(name)
    else:
        method_name, resource_name = f"io.k8s.{verb}", event["requestURI"].partition("?")[0].lstrip("/")
    annotations = event.get("annotations") or {}
    allowed = annotations.get("authorization.k8s.io/decision") == "allow"
    code = event.get("responseStatus", {}).get("code", 200)
    payload: dict[str, Any] = {
        "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
        "authenticationInfo": {},
        "authorizationInfo": [
            {"permission": method_name, "resource": resource_name} | ({"granted": True} if allowed else {})
        ],
        "methodName": method_name,
        "requestMetadata": {"callerSuppliedUserAgent": event.get("userAgent", "")},
        "resourceName": resource_name,
        "serviceName": "k8s.io",
        "status": {"code": _GRPC[code], "message": "refused"} if code >= 400 else {},
    }
    if event.get("user", {}).get("username"):
        payload["authenticationInfo"]["principalEmail"] = event["user"]["username"]
    if event.get("impersonatedUser"):
        payload["authenticationInfo"]["authoritySelector"] = event["impersonatedUser"]["username"]
    if event.get("sourceIPs"):
        payload["requestMetadata"]["callerIp"] = event["sourceIPs"][0]
    body = event.get("requestObject")
    if isinstance(body, dict):
        kind = "k8s.io/Patch" if verb == "patch" else f"core.k8s.io/v1.{body.get('kind', 'Object')}"
        payload["request"] = {"@type": kind} | body
    elif isinstance(body, list):
        payload["request"] = {"@type": "k8s.io/Patch", "value": body}
    if code >= 400:
        payload["response"] = {"@type": "core.k8s.io/v1.Status", "kind": "Status", "code": code}
    stages = {"ResponseStarted": {"first": True}, "ResponseComplete": {"first": True, "last": True}}
    return {
        "insertId": event["auditID"],
        "labels": annotations,
        "logName": "projects/example-project/logs/cloudaudit.googleapis.com%2Fdata_access",
        "operation": {"id": event["auditID"], "producer": "k8s.io"} | stages[event["stage"]],
        "protoPayload": payload,
        "receiveTimestamp": event["stageTimestamp"],
        "resource": {
            "type": "k8s_cluster",
            "labels": {
                "cluster_name": "shop",
                "location": "europe-west1",
                "project_id": "example-project",
            },
        },
        "timestamp": event["requestReceivedTimestamp"],
    }


def gke_sink(events: Sequence[Event]) -> bytes:
    """An object of a Cloud Storage sink."""
    return lines(list(map(gke_entry, events)))


def gke_cli(events: Sequence[Event]) -> bytes:
    """What `gcloud logging read --format=json` prints."""
    return json.dumps(list(map(gke_entry, events)), indent=2).encode() + b"\n"


def gke_pubsub(events: Sequence[Event]) -> bytes:
    return b"".join(
        dumps({"message": {"data": base64.b64encode(dumps(gke_entry(e))).decode(), "messageId": "1"}}) + b"\n"
        for e in events
    )


AKS_ID = (
    "/SUBSCRIPTIONS/00000000-1111-2222-3333-444444444444/RESOURCEGROUPS/SHOP-RG"
    "/PROVIDERS/MICROSOFT.CONTAINERSERVICE/MANAGEDCLUSTERS/SHOP"
)


def aks_record(event: Event, category: str = "kube-audit") -> dict[str, Any]:
    return {
        "category": category,
        "operationName": "Microsoft.ContainerService/managedClusters/diagnosticLogs/Read",
        "properties": {
            "containerID": "c0ffee",
            "log": dumps(event).decode() + "\n",
            "pod": "kube-apiserver-0",
        },
        "resourceId": AKS_ID,
        "serviceBuild": "na",
        "time": event["stageTimestamp"],
    }


def aks_blob(events: Sequence[Event]) -> bytes:
    """An append blob (PT1H.json)."""
    return b"\r\n".join(dumps(aks_record(event, "kube-audit-admin")) for event in events)


def aks_event_hub(events: Sequence[Event]) -> bytes:
    return dumps({"records": [aks_record(event) for event in events]}) + b"\n"


def aks_old_blob(events: Sequence[Event]) -> bytes:
    """A block blob of old: the header on a line of its own."""
    return b'{"records":[\n' + b",\n".join(dumps(aks_record(e)) for e in events) + b"\n]}\n"


def aks_log_analytics(events: Sequence[Event]) -> bytes:
    return lines(
        [
            {
                "TimeGenerated": event["stageTimestamp"],
                "Category": "kube-audit",
                "log_s": dumps(event).decode(),
                "_ResourceId": AKS_ID.lower(),
            }
            for event in events
        ]
    )


def openshift_node_log(events: Sequence[Event]) -> bytes:
    return b"".join(b"master-0.example.com " + dumps(event) + b"\n" for event in events)


LOSSLESS = (
    *(lines, event_list_per_line, event_list_pretty, kubectl_list, json_stream_pretty, array_one_per_line),
    *(eks_export, eks_cli, eks_firehose, eks_firehose_gzip, eks_firehose_gzip_twice, eks_firehose_http),
    *(eks_lambda, eks_kinesis, aks_blob, aks_event_hub, aks_old_blob, aks_log_analytics, openshift_node_log),
)
GKE = (gke_sink, gke_cli, gke_pubsub)
