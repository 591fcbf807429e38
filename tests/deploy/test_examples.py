"""The rest of deploy/: what kube-apiserver is given, the units of systemd, and that each file is in the table."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from data.errors import KubehabitError
from detection.authorization.authorizer import Authorizer
from detection.authorization.least_privilege import granted_rights
from detection.authorization.rbac import API_GROUP, Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.usage import UserUsage
from kubehabit.main import app
from kubehabit.retraining.retraining import TooLittleWorkError
from serving.authorization.open import open_monitor
from serving.settings import AuthorizationSettings, Settings
from tests.deploy.programs import program
from tests.serving.fakes import decoded, raw_event

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))

# From k8s.io/apiserver/pkg/server/options/audit.go
KNOWN_FLAGS = {
    *("audit-policy-file", "audit-log-path", "audit-log-maxage", "audit-log-maxbackup", "audit-log-maxsize"),
    *("audit-log-compress", "audit-log-format", "audit-log-mode", "audit-webhook-config-file"),
    *("audit-webhook-initial-backoff", "audit-webhook-version", "audit-webhook-mode"),
    *("audit-webhook-batch-buffer-size", "audit-webhook-batch-max-size", "audit-webhook-batch-max-wait"),
    *("audit-webhook-batch-throttle-enable", "audit-webhook-batch-throttle-qps"),
    *("audit-webhook-batch-throttle-burst", "audit-webhook-truncate-enabled"),
    *("audit-webhook-truncate-max-batch-size", "audit-webhook-truncate-max-event-size"),
}


def test_the_table_names_each_file_once() -> None:
    table = re.findall(r"^\| \[(\S+)\]\((\S+)\)", (DEPLOY / "README.md").read_text(encoding="utf-8"), re.M)
    assert all(shown == target for shown, target in table)
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()} - {"README.md"}
    assert sorted(shown for shown, _ in table) == sorted(files)


def flags() -> dict[str, str]:
    document = yaml.safe_load((DEPLOY / "kube-apiserver" / "flags.yaml").read_text(encoding="utf-8"))
    (container,) = document["spec"]["containers"]
    given = [flag.removeprefix("--").partition("=") for flag in container["command"][1:]]
    found = {name: value for name, _, value in given}
    assert len(found) == len(given)
    return found


def test_the_flags_exist_and_fit_what_kubehabit_takes() -> None:
    found, limits = flags(), Settings().limits
    assert set(found) <= KNOWN_FLAGS
    assert found["audit-webhook-mode"] == "batch"
    assert int(found["audit-webhook-truncate-max-batch-size"]) <= limits.body_bytes
    assert int(found["audit-webhook-truncate-max-event-size"]) <= int(
        found["audit-webhook-truncate-max-batch-size"]
    )
    assert int(found["audit-webhook-batch-max-size"]) <= int(found["audit-webhook-batch-buffer-size"])


def test_what_the_flags_name_is_mounted() -> None:
    document = yaml.safe_load((DEPLOY / "kube-apiserver" / "flags.yaml").read_text(encoding="utf-8"))
    (container,) = document["spec"]["containers"]
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in document["spec"]["volumes"]
    }
    for name in ("audit-policy-file", "audit-webhook-config-file", "audit-log-path"):
        assert str(Path(flags()[name]).parent) in mounted


def test_the_kubeconfig_leads_from_its_context_to_the_webhook() -> None:
    config = yaml.safe_load(
        (DEPLOY / "kube-apiserver" / "audit-webhook.kubeconfig.yaml").read_text(encoding="utf-8")
    )
    (context,) = config["contexts"]
    assert config["current-context"] == context["name"]
    (cluster,) = config["clusters"]
    (user,) = config["users"]
    assert (context["context"]["cluster"], context["context"]["user"]) == (cluster["name"], user["name"])
    assert cluster["cluster"]["server"].endswith("/v1/audit")
    assert set(user["user"]) == {"tokenFile"}  # a token in the file itself would end up in a repository


def test_the_units_run_commands_that_exist() -> None:
    for unit in UNITS:
        (line,) = re.findall(r"^ExecStart=(.+)$", unit.read_text(encoding="utf-8"), re.M)
        binary, *words = shlex.split(line)
        assert Path(binary).name == "kubehabit"
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):  # a group, whichever library's
            command = command.commands[words.pop(0)]
        parameters = command.get_params(typer.Context(command))
        known = {option for parameter in parameters for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_the_timer_starts_a_unit_at_a_time_that_exists(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    for timer in (DEPLOY / "systemd").glob("*.timer"):
        assert timer.with_suffix(".service") in UNITS
        (when,) = re.findall(r"^OnCalendar=(.+)$", timer.read_text(encoding="utf-8"), re.M)
        done = subprocess.run([analyze, "calendar", when], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_cronjob_runs_a_command_that_exists_with_what_it_mounts() -> None:
    job, claim = yaml.safe_load_all(
        (DEPLOY / "kubernetes" / "retrain-cronjob.yaml").read_text(encoding="utf-8")
    )
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command, *words = container["args"]
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    known = {option for parameter in parameters for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (rule,) = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert TooLittleWorkError.exit_code in rule["onExitCodes"]["values"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_no_fault_and_little_exposure(unit: Path, tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    copy = tmp_path / unit.name  # its program is not installed here
    text = unit.read_text(encoding="utf-8")
    copy.write_text(text.replace("/opt/kubehabit/bin/kubehabit", f"{sys.executable} -m kubehabit"))
    checked = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    rated = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(copy)], capture_output=True, text=True
    )
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d)", rated.stdout)
    assert exposure is not None, rated.stdout + rated.stderr
    assert float(exposure[1]) < 2  # of 10; "OK" in its words


def test_the_snapshot_of_roles_is_read_by_the_service_and_its_job_may_list_what_it_asks_for(
    tmp_path: Path,
) -> None:
    objects = list(
        yaml.safe_load_all((DEPLOY / "kubernetes" / "rbac-snapshot.yaml").read_text(encoding="utf-8"))
    )
    of_kind = {one["kind"]: one for one in objects}
    pod = of_kind["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    # The account may list all of it, and nothing else.
    (asked,) = re.findall(r"kubectl get (\S+) -A", container["args"][0])
    groups = {"pods": "", "pv": "", "volumeattachments": "storage.k8s.io"}
    user = "system:serviceaccount:{namespace}:{name}".format_map(of_kind["ServiceAccount"]["metadata"])
    authorizer = Authorizer(Rbac(objects))
    for name in asked.split(","):
        resource = {"pv": "persistentvolumes"}.get(name, name)
        request = AccessRequest("list", None, groups.get(name, API_GROUP), resource)
        assert authorizer.decide(user, (), request).opinion == "allow", name
    assert authorizer.decide(user, (), AccessRequest("list", None, "", "secrets")).opinion == "no opinion"
    assert not any(one.risk for one in granted_rights(authorizer.rbac, user, UserUsage()))
    # The script, with a kubectl that prints roles.
    stand_in = tmp_path / "bin" / "kubectl"
    stand_in.parent.mkdir()
    item = of_kind["ClusterRole"]
    stand_in.write_text(f"#!/bin/sh\necho '{json.dumps({'kind': 'List', 'items': [item]})}'\n")
    stand_in.chmod(0o755)
    folder = tmp_path / "snapshot"
    folder.mkdir()
    environment = {"PATH": f"{stand_in.parent}:/usr/bin:/bin", "SNAPSHOT": str(folder)}
    subprocess.run([*container["command"], *container["args"]], env=environment, check=True)
    assert {one.name for one in folder.iterdir()} == {"rbac.json", "taken"}
    monitor = open_monitor(AuthorizationSettings(snapshot=folder))
    assert monitor is not None
    assert [key.name for key in monitor.oracle.rbac.roles] == [item["metadata"]["name"]]
    (early,) = decoded([raw_event(0, requestReceivedTimestamp="2020-01-01T00:00:00Z")])
    assert monitor.compare([early]) == [None]
    (folder / "taken").write_text("yesterday")
    with pytest.raises(KubehabitError, match="does not hold a time"):
        open_monitor(AuthorizationSettings(snapshot=folder))
