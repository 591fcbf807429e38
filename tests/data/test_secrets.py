"""No secret leaves a body: whatever stands in data, stringData, env values, arguments or annotations, at any audit level."""

import base64
import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from data.actions.body_traits import read_traits
from data.actions.encoder import ActionEncoder, ActionSettings
from data.dataset.build import build
from data.events.decode import decode_lines
from data.paths import shipped
from detection.bundle import seal
from kubehabit.main import app
from tests.conftest import Trained
from tests.data.samples import event

SECRETS = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=_-.", min_size=12, max_size=60
).map(lambda text: "hunter2" + text)
OBJECTS = (
    "secrets",
    "configmaps",
    "pods",
    "deployments",
    "cronjobs",
    "serviceaccounts",
    "widgets",
    "nodes",
    "roles",
)
SHAPES = ("object", "merge patch", "json patch", "apply", "deep")
LEVELS = ("Metadata", "Request", "RequestResponse")


def container(secret: str) -> dict[str, Any]:
    return {
        "name": "a",
        "image": "registry.example/a:1",
        "env": [{"name": "TOKEN", "value": secret}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}],
        "args": [f"--password={secret}", secret],
        "command": [f"/bin/{secret}", "-c", secret],
    }  # fmt: skip


def body(resource: str, shape: str, secret: str) -> Any:
    """A request body that holds a secret everywhere where one may stand."""
    encoded = base64.b64encode(secret.encode()).decode()
    kept: dict[str, Any] = {
        "data": {"password": encoded, "nested": {"deep": [secret]}},
        "stringData": {"password": secret},
        "binaryData": {"blob": encoded},
    }
    pod = {"containers": [container(secret)], "initContainers": [container(secret)]}
    spec = {
        "pods": pod,
        "deployments": {"template": {"spec": pod}},
        "cronjobs": {"jobTemplate": {"spec": {"template": {"spec": pod}}}},
        "widgets": {"template": {"spec": pod}, "credentials": {"stringData": {"password": secret}}},
    }.get(resource, {})
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(kept), "note": secret}
    whole = {"metadata": {"name": "db", "annotations": annotations}, "type": "Opaque", "spec": spec, **kept}
    if shape == "apply":
        return {"apiVersion": "v1", "kind": "Thing", **whole}
    if shape == "json patch":
        paths = ("/data/password", "/stringData/password", "/metadata/annotations/note")
        env = "/spec/template/spec/containers/0/env"
        return [
            *({"op": "replace", "path": path, "value": secret} for path in paths),
            {"op": "add", "path": env, "value": [{"name": "A", "value": secret}]},
            {"op": "add", "path": f"{env}/0/value", "value": secret},
            {"op": "add", "path": "/spec/template/spec/containers/-", "value": container(secret)},
            {"op": "replace", "path": "", "value": whole},
        ]
    if shape == "deep":
        return {
            "items": [whole, {"spec": {"inner": {"list": [whole]}}}],
            "type": secret if resource == "secrets" else "x",
        }
    return whole


def line(resource: str, shape: str, level: str, secret: str, number: int = 1) -> bytes:
    """An event at an audit level; at the highest the answer holds the secret as well."""
    verb = "create" if shape == "object" else "patch"
    bodies: dict[str, Any] = {}
    if level != "Metadata":
        bodies["requestObject"] = body(resource, shape, secret)
    if level == "RequestResponse":
        bodies["responseObject"] = body(resource, "object", secret)
    return event(
        auditID=f"{number:08d}-0000-4000-8000-000000000000",
        verb=verb,
        level=level,
        requestURI=f"/api/v1/namespaces/web/{resource}/db?number={number}",
        requestReceivedTimestamp=f"2026-01-05T09:{number % 3600 // 60:02d}:{number % 60:02d}.{number:06d}Z",
        objectRef={"resource": resource, "namespace": "web", "name": "db"},
        **bodies,
    )


def leaks(secret: str, text: str) -> bool:
    encoded = base64.b64encode(secret.encode()).decode()
    return any(form in text for form in (secret, encoded, json.dumps(secret)[1:-1], "hunter2"))


@settings(max_examples=300, deadline=None)
@given(SECRETS, st.sampled_from(OBJECTS), st.sampled_from(SHAPES), st.sampled_from(LEVELS))
def test_no_field_of_an_action_holds_a_secret(secret: str, resource: str, shape: str, level: str) -> None:
    encoder = ActionEncoder(ActionSettings.from_dict(shipped("actions.yaml")))
    batch = encoder.encode(decode_lines([line(resource, shape, level, secret)]).events)
    assert len(batch) == 1
    said = json.dumps({name: interner.values for name, interner in encoder.interners.items()})
    assert not leaks(secret, said)
    assert not leaks(secret, repr(batch.links))


@given(SECRETS, st.sampled_from(("create", "update", "patch", "delete")), st.sampled_from(OBJECTS))
def test_a_secret_at_any_depth_of_any_kind_stays_unread(secret: str, verb: str, resource: str) -> None:
    for inner in (body(resource, shape, secret) for shape in SHAPES):
        for _ in range(3):
            found = read_traits(verb, resource, "", "dev-1", json.dumps(inner).encode())
            assert not leaks(secret, ",".join(found))
            inner = {"spec": {"template": inner}}


def recorded(rng: random.Random) -> tuple[list[str], list[bytes]]:
    """Secrets and a log that is full of them, one event for each kind, shape and level."""
    secrets, lines = [], []
    for resource in OBJECTS:
        for shape in SHAPES:
            for level in LEVELS:
                secrets.append("hunter2" + "".join(rng.choices("abcdefghijkmnpqrstuvwxyz23456789", k=24)))
                lines.append(line(resource, shape, level, secrets[-1], len(secrets)))
    return secrets, lines


def damaged(text: bytes) -> list[bytes]:
    """An event broken in ways of which half or more make it a dead letter; of the others what is left is read."""
    return [
        text[:-9],
        text.replace(b'"auditID"', b'"auditId"'),
        b"x" + text,
        json.dumps(text.decode()).encode(),
    ]


def test_no_file_of_a_dataset_holds_a_secret(tmp_path: Path, normal_lines: list[bytes]) -> None:
    secrets, lines = recorded(random.Random(7))
    log = tmp_path / "log"
    broken = [bad for text in lines for bad in damaged(text)]
    log.write_bytes(b"\n".join([*normal_lines[:1500], *lines, *broken]) + b"\n")
    card = build([log], tmp_path / "out", workers=1, progress=False).card
    assert card["dead_letters"] >= len(lines)
    assert (tmp_path / "out" / card["dead_letter_file"]).stat().st_size > 1000
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        content = path.read_bytes()
        assert b"hunter2" not in content, path
        assert not any(base64.b64encode(secret.encode())[:16] in content for secret in secrets), path


def touchy(bundle: Path, copy: Path) -> Path:
    """A copy of a bundle that flags whatever adds any evidence."""
    shutil.copytree(bundle, copy)
    file = copy / "calibration.json"
    calibration = json.loads(file.read_text())
    calibration["person_thresholds"] = [0.01] * len(calibration["horizons"])
    file.write_text(json.dumps(calibration))
    seal(copy)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [True, False])
def test_no_alert_and_no_log_line_holds_a_secret(
    trained: Trained,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    as_json: bool,
) -> None:
    """A stranger writes secrets of all kinds: alerts with reasons come out, none with what was written."""
    _, lines = recorded(random.Random(11))
    log = tmp_path / "log"
    stranger = [text.replace(b"dev-1@example.com", b"stranger@example.com") for text in lines]
    log.write_bytes(b"\n".join(stranger) + b"\n")
    with caplog.at_level(logging.DEBUG):
        bundle = touchy(trained.bundle, tmp_path / "bundle")
        options = ["--json"] if as_json else []
        printed = CliRunner().invoke(app, ["score", str(log), "--model", str(bundle), *options])
    assert "stranger@example.com" in printed.stdout
    for text in (printed.stdout, printed.stderr, caplog.text):
        assert "hunter2" not in text
