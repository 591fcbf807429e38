"""Alerts as Alertmanager and rsyslog get them: the real programs, from Debian's packages, on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving.alerts.explain.explainer import Explainer
from tests.serving.fakes import secret_event
from tests.serving.receivers import until
from tests.serving.sinks.test_sinks import an_alert, send

pytestmark = pytest.mark.slow


def program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@contextmanager
def running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
        print(output.decode("utf-8", "replace"))  # shown when a test fails


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_alertmanager_fires_merges_repeats_and_resolves_the_lower_severity(
    explainer: Explainer, tmp_path: Path
) -> None:
    binary = program("prometheus-alertmanager", "prometheus-alertmanager")
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    command = (
        binary,
        f"--config.file={tmp_path}/alertmanager.yml",
        f"--storage.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    )

    def firing() -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{base}/api/v2/alerts") as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())
            return found

    with running(*command):
        until(lambda: answers(port))
        update = replace(an_alert(explainer), moment=datetime.now(UTC))
        low = replace(update, alert=update.alert.model_copy(update={"severity": "medium"}))
        send(low, type="alertmanager", url=base)
        send(low, type="alertmanager", url=base)
        until(lambda: len(firing()) == 1)
        (alert,) = firing()
        assert alert["labels"]["alertname"] == "KubehabitUnusualBehaviour"
        assert alert["labels"]["severity"] == "medium"
        assert alert["annotations"]["summary"] == update.alert.sentence
        risen = replace(update, sent_severity="medium", moment=datetime.now(UTC))
        send(risen, type="alertmanager", url=base)
        until(lambda: [one["labels"]["severity"] for one in firing()] == ["high"])


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_rsyslog_reads_every_message_as_rfc_5424(
    explainer: Explainer, tmp_path: Path, transport: str
) -> None:
    binary = program("rsyslogd", "rsyslog")
    port = free_port()
    out = tmp_path / "out.log"
    (tmp_path / "rsyslog.conf").write_text(
        f"""
        global(workDirectory="{tmp_path}" maxMessageSize="64k")
        module(load="im{transport}")
        input(type="im{transport}" port="{port}" address="127.0.0.1")
        template(name="parts" type="string"
          string="%app-name%\\t%msgid%\\t%syslogfacility%\\t%syslogseverity%\\t%timereported:::date-rfc3339%\\t%msg%\\n")
        action(type="omfile" file="{out}" template="parts")
        """
    )
    command = (binary, "-n", "-f", f"{tmp_path}/rsyslog.conf", "-i", f"{tmp_path}/pid")
    updates = [an_alert(explainer, secret_event(n, user=f"user-{n}")) for n in range(3)]
    with running(*command):
        if transport == "tcp":
            until(lambda: answers(port))
        else:
            until(lambda: (tmp_path / "pid").exists())
            until(lambda: f":{port:04X} " in Path("/proc/net/udp").read_text())
        for update in updates:
            send(update, type="syslog", host="127.0.0.1", port=port, transport=transport)
        until(lambda: out.exists() and len(out.read_text().splitlines()) == 3)
    for update, line in zip(updates, out.read_text().splitlines(), strict=True):
        app, msgid, facility, severity, moment, text = line.split("\t")
        assert (app, msgid, facility, severity) == ("kubehabit", "alert", "13", "3")
        assert moment.startswith(update.alert.last_seen.strftime("%Y-%m-%dT%H:%M:"))
        assert "CEF:0|kubehabit|kubehabit|" in text
        assert f"externalId={update.key} " in text
