"""What padding hides: the attacks of a labelled log, with the body of each write padded beyond what a platform passes on whole.

Every write of an attack that carries a body gets it padded by its author, at its beginning, and is then cut, or emptied, as the
platform would do it; all else stays. Recall must not be lower than with the whole bodies. Of the log, only what the principals in
question do is judged, before and after, unless --all is given.

Run: python -m benchmarks.bench_padding [--model MODEL] [--log LOG --labels LABELS ...] [--own-table] [--all]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.bench_incidents import trained
from benchmarks.report import Row, at_least, report
from data.actions.sensitivity import Sensitivity
from data.events.audit_event import decode_event
from data.events.reader import open_lines
from data.paths import Recordings, shipped
from detection.bundle import Bundle
from training.audit_log import read_log
from training.baselines.product import ProductDetector
from training.evaluation import metrics
from training.registry import download
from training.stretch import LogEncoder

Event = dict[str, Any]

_WRITES = ("create", "update", "patch")
#: Order in which an API server writes the fields; what comes last is what a cut takes.
_ORDER = (
    *("kind", "apiVersion", "level", "auditID", "stage", "requestURI", "verb", "user", "impersonatedUser"),
    *("sourceIPs", "userAgent", "objectRef", "responseStatus", "requestObject", "responseObject"),
    *("requestReceivedTimestamp", "stageTimestamp", "annotations"),
)
_AKS_BYTES, _CLOUDWATCH_BYTES = 16 << 10, 256 << 10
_TRUNCATED = "audit.k8s.io/truncated"


def padded(event: Event, size: int) -> Event:
    """The event with its body padded, before all else in it that a cut could leave."""
    body, padding = event["requestObject"], "x" * size
    if isinstance(body, list):  # a JSON patch
        body = [{"op": "add", "path": "/metadata/annotations/note", "value": padding}, *body]
    else:
        metadata = {"annotations": {"note": padding}} | (body.get("metadata") or {})
        metadata["annotations"] = {"note": padding} | (metadata["annotations"] or {})
        head = {key: body[key] for key in ("kind", "apiVersion") if key in body}
        body = (
            head | {"metadata": metadata} | {key: value for key, value in body.items() if key != "metadata"}
        )
    made = event | {"requestObject": body}
    return {key: made[key] for key in _ORDER if key in made} | {
        key: value for key, value in made.items() if key not in _ORDER
    }


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def by_aks(event: Event) -> bytes:
    """A diagnostic record of Azure, whose text is cut at 16 KiB."""
    text = _line(padded(event, _AKS_BYTES))[:_AKS_BYTES].decode()
    return _line({"category": "kube-audit", "properties": {"log": text}, "time": event["stageTimestamp"]})


def by_cloudwatch(event: Event) -> bytes:
    """A message of CloudWatch Logs, cut at 256 KiB with a remark."""
    text = _line(padded(event, _CLOUDWATCH_BYTES))[:_CLOUDWATCH_BYTES].decode() + "[Truncated...]"
    moment = datetime.fromisoformat(event["stageTimestamp"])
    return _line({"id": "1", "timestamp": int(moment.timestamp() * 1000), "message": text})


def by_api_server(event: Event) -> bytes:
    """An event whose bodies the API server itself left out."""
    kept = {key: value for key, value in event.items() if key not in ("requestObject", "responseObject")}
    return _line(kept | {"annotations": (event.get("annotations") or {}) | {_TRUNCATED: "true"}})


def by_gke(event: Event) -> bytes:
    """An entry of Cloud Logging, made of what the API server left."""
    reference = event["objectRef"]
    group, version = reference.get("apiGroup", ""), reference["apiVersion"]
    domain = group if "." in group else f"{group or 'core'}.k8s.io"
    place = ["namespaces", reference["namespace"]] if reference.get("namespace") else []
    parts = [reference["resource"], *filter(None, [reference.get("subresource")])]
    name = [group or "core", version, *place, reference["resource"], *filter(None, [reference.get("name")])]
    code = event["responseStatus"]["code"]
    payload = {
        "serviceName": "k8s.io",
        "methodName": ".".join([*reversed(domain.split(".")), version, *parts, event["verb"]]),
        "resourceName": "/".join([*name, *parts[1:]]),
        "authenticationInfo": {"principalEmail": event["user"]["username"]},
        "requestMetadata": {
            "callerIp": event["sourceIPs"][0],
            "callerSuppliedUserAgent": event.get("userAgent", ""),
        },
        "status": {} if code < 400 else {"code": code},
    }
    return _line(
        {
            "protoPayload": payload,
            "insertId": event["auditID"],
            "timestamp": event["requestReceivedTimestamp"],
            "labels": (event.get("annotations") or {}) | {_TRUNCATED: "true"},
        }
    )


def as_remark(event: Event) -> bytes:
    """An event with a remark in place of its bodies, as Azure's tables have it."""
    return _line(event | {"requestObject": "skipped-too-big-size-object"})


def as_text(event: Event) -> bytes:
    """An event whose body is a text, as some shippers make it; nothing of it is missing."""
    return _line(event | {"requestObject": json.dumps(event["requestObject"])})


PLATFORMS: dict[str, Callable[[Event], bytes]] = {
    "cut by AKS at 16 KiB": by_aks,
    "cut by CloudWatch (EKS) at 256 KiB": by_cloudwatch,
    "bodies left out by the API server": by_api_server,
    "bodies left out by GKE": by_gke,
    "a remark in place of bodies": as_remark,
    "body as text": as_text,
}


def lines_of(log: Path, principals: frozenset[str] | None) -> list[bytes]:
    """The lines of a log; those of some principals only, by user name."""
    lines = open_lines(log)
    if principals is None:
        return list(lines)
    return [line for line in lines if decode_event(line).user.username in principals]


def transformed(
    lines: list[bytes], attacks: frozenset[str], change: Callable[[Event], bytes]
) -> Iterator[bytes]:
    """Lines of a log; writes with a body among `attacks` (audit IDs) as a platform passes them on."""
    for line in lines:
        event = json.loads(line) if b'"requestObject"' in line else {}
        wanted = event.get("auditID") in attacks and event.get("verb") in _WRITES
        yield change(event) if wanted and isinstance(event.get("requestObject"), dict | list) else line


def judged(bundle: Bundle, log: Path, labels: Path) -> dict[str, Any]:
    """Figures of the product on a log."""
    runs = metrics.read_labels(labels)
    detector = ProductDetector(bundle)
    encoder = LogEncoder(
        *(bundle.settings, bundle.vocabulary, bundle.principals),
        *(bundle.sensitivity.table, bundle.warmup.last),
    )
    parts, flagged, severities = [], [], []
    for events in read_log(log):
        stretch, audit_ids = encoder.encode(events)
        found = detector.predict(stretch)
        parts.append(metrics.Actions(audit_ids, stretch.name, stretch.kind, stretch.time, len(events)))
        flagged.append(found.flagged)
        severities += list(found.severity)
    actions = metrics.Actions.concatenate(parts)
    rows = np.concatenate(flagged)
    severity = {row: severities[row] for row in np.flatnonzero(rows).tolist()}
    return metrics.verdict(actions, metrics.join(actions, runs), rows, severity)


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model; one is trained on the shipped recording by default")
    parser.add_argument("--log", type=Path, action="append")
    parser.add_argument("--labels", type=Path, action="append")
    parser.add_argument("--all", action="store_true", help="keep what all principals do")
    parser.add_argument("--own-table", action="store_true", help="keep the sensitivity table of the model")
    options = parser.parse_args()
    recordings = Recordings.shipped()
    pairs = list(
        zip(options.log or [recordings.labelled], options.labels or [recordings.labels], strict=True)
    )
    rows: list[Row] = []
    with TemporaryDirectory() as scratch:
        bundle = Bundle.load(download(options.model or trained(Path(scratch))))
        if not options.own_table:
            bundle = replace(bundle, sensitivity=Sensitivity(shipped("sensitivity.yaml")["rules"]))
        for log, labels in pairs:
            found = [run for run in json.loads(labels.read_text()) if run["kind"] == "attack"]
            attacks = frozenset(one for run in found for one in run["audit_ids"])
            principals = frozenset(one for run in found for one in run["principals"])
            lines = lines_of(log, None if options.all else principals)
            path = Path(scratch) / "log.jsonl"
            path.write_bytes(b"\n".join(lines) + b"\n")
            whole = judged(bundle, path, labels)
            name = log.name.split(".")[0]
            rows.append(Row(f"{name}: whole", whole["recall"], f"of {whole['attack_runs']} attack runs"))
            missed = {run["scenario"] for run in whole["runs"] if not run["detected"]}
            for platform, change in PLATFORMS.items():
                path.write_bytes(b"\n".join(transformed(lines, attacks, change)) + b"\n")
                figures = judged(bundle, path, labels)
                unit = f"of {figures['attack_runs']} attack runs"
                rows.append(at_least(f"{name}: {platform}", figures["recall"], unit, whole["recall"]))
                lost = sorted(
                    {
                        run["scenario"]
                        for run in figures["runs"]
                        if run["kind"] == "attack" and not run["detected"]
                    }
                    - missed
                )
                print(
                    f"{name}: {platform}: {figures['recall']:.3f}, newly missed: {', '.join(lost) or '-'}",
                    flush=True,
                )
    report("padding", rows)


if __name__ == "__main__":
    main()
