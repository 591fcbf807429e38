"""Real log pipelines calling the API with recorded lines, over a restart of the service; and what the others would send."""

from __future__ import annotations

import gzip
import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest
import yaml

from kubehabit.client.remote import Remote
from kubehabit.client.send import Sender
from tests.deploy.programs import program, running, syslog_ng
from tests.deploy.served import Served, free_port
from tests.serving.receivers import DEADLINE, HttpReceiver, until

DEPLOY = Path(__file__).parents[2] / "deploy"


def keys(lines: list[bytes]) -> list[tuple[str, str]]:
    return [(event["auditID"], event["stage"]) for event in map(json.loads, lines)]


def append(log: Path, lines: list[bytes]) -> None:
    with log.open("ab") as file:
        file.write(b"\n".join(lines) + b"\n")


def seen(served: Served) -> list[tuple[str, str]]:
    """What the service was given, each event once, in the order in which it came first."""
    return list(dict.fromkeys(served.seen))


def with_values(text: str, values: dict[str, str]) -> str:
    """A shipped configuration with the paths and addresses of a test; each has to be there."""
    for old, new in values.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.mark.slow
def test_syslog_ng_ships_every_line_in_order_and_loses_none_over_a_restart_of_the_service(
    served: Served, normal_lines: list[bytes], tmp_path: Path
) -> None:
    command, environment = syslog_ng()
    log, buffers = tmp_path / "audit.log", tmp_path / "buffers"
    buffers.mkdir()
    config = tmp_path / "syslog-ng.conf"
    config.write_text(
        with_values(
            (DEPLOY / "syslog-ng" / "kubehabit.conf").read_text(encoding="utf-8"),
            {
                "/var/log/kubernetes/audit/audit.log": str(log),
                "http://127.0.0.1:8646": served.url,
                "/var/lib/syslog-ng": str(buffers),
                "time-reopen(2)": "time-reopen(1)",
            },
        )
    )
    lines = normal_lines[:2400]
    append(log, lines[:800])
    own = [f"--{name}={tmp_path}/{name}" for name in ("persist-file", "pidfile", "control")]
    with running(*command, f"--cfgfile={config}", *own, environment=environment):
        until(lambda: seen(served) == keys(lines[:800]))
        served.stop()
        with HttpReceiver([503], port=served.port) as busy:  # what a proxy says meanwhile
            append(log, lines[800:1600])
            busy.attempts.wait(2)
        served.start()
        append(log, lines[1600:])
        until(lambda: len(seen(served)) == len(lines))
    assert seen(served) == keys(lines)
    assert served.metrics()['kubehabit_events_total{outcome="rejected"}'] == 0


@pytest.mark.slow
def test_rsyslog_gathers_lines_whole_and_in_order(
    served: Served, normal_lines: list[bytes], tmp_path: Path
) -> None:
    binary = program("rsyslogd", "rsyslog")
    port, log = free_port(), tmp_path / "audit.log"
    config = tmp_path / "rsyslog.conf"
    config.write_text(
        f'global(workDirectory="{tmp_path}")\n'
        + with_values(
            (DEPLOY / "rsyslog" / "kubehabit.conf").read_text(encoding="utf-8"),
            {
                "/var/log/kubehabit/audit.log": str(log),
                'port="6514" ruleset': f'port="{port}" address="127.0.0.1" ruleset',
            },
        )
    )
    long = json.loads(normal_lines[0]) | {"auditID": "long", "requestObject": {"data": "x" * 1_000_000}}
    lines = [*normal_lines[:500], json.dumps(long).encode(), *normal_lines[500:1000]]
    with running(binary, "-n", "-f", str(config), "-i", str(tmp_path / "pid")):
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as node:
            for line in lines:
                message = b"<134>1 - - kube-audit - - - " + line
                node.sendall(b"%d %s" % (len(message), message))
        until(lambda: log.exists() and log.read_bytes().count(b"\n") == len(lines))
    sent = Sender(Remote(served.url), print).send([log])
    assert seen(served) == keys(lines)
    assert (sent.events, sent.rejected) == (len(lines), 0)


def post(served: Served, body: bytes, **headers: str) -> dict[str, int]:
    request = urllib.request.Request(
        served.url + "/v1/score", body, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        counts: dict[str, int] = json.loads(answer.read())["counts"]
        return counts


def test_what_fluent_bit_vector_and_logstash_send_is_taken(served: Served, normal_lines: list[bytes]) -> None:
    """Their bodies as their configurations here make them: Debian has none of the three."""
    events = [json.loads(line) for line in normal_lines[:300]]
    # Fluent Bit: json_lines without a date, keys in the order of its own tables, gzip
    lines = b"".join(json.dumps(event, sort_keys=True).encode() + b"\n" for event in events[:100])
    fluent = post(served, gzip.compress(lines), Content_Type="application/x-ndjson", Content_Encoding="gzip")
    # Vector: the lines as they are
    vector = post(served, gzip.compress(b"\n".join(normal_lines[100:200]) + b"\n"), Content_Encoding="gzip")
    # Logstash: a list, with keys of its own in each event
    added = {
        "@timestamp": "2026-11-23T14:31:13.001Z",
        "@version": "1",
        "host": {"name": "cp-1"},
        "log": {"file": {"path": "/var/log/kubernetes/audit/audit.log"}},
        "event": {"original": "..."},
    }
    body = json.dumps([event | added for event in events[200:]]).encode()
    logstash = post(served, gzip.compress(body), Content_Type="application/json", Content_Encoding="gzip")
    for counts in (fluent, vector, logstash):
        assert counts["scored"] + counts["folded"] == 100
        assert counts["rejected"] == 0
    assert served.seen == keys(normal_lines[:300])


def test_the_examples_are_well_formed_and_name_the_api() -> None:
    fluent = yaml.safe_load((DEPLOY / "fluent-bit" / "fluent-bit.yaml").read_text(encoding="utf-8"))
    (output,) = fluent["pipeline"]["outputs"]
    assert (output["uri"], output["format"], output["json_date_key"]) == ("/v1/score", "json_lines", False)
    (source,) = fluent["pipeline"]["inputs"]
    assert source["parser"] in [parser["name"] for parser in fluent["parsers"]]
    vector = yaml.safe_load((DEPLOY / "vector" / "vector.yaml").read_text(encoding="utf-8"))
    sink = vector["sinks"]["kubehabit"]
    assert sink["uri"].endswith("/v1/score")
    assert set(sink["inputs"]) <= set(vector["sources"])
    logstash = (DEPLOY / "logstash" / "kubehabit.conf").read_text(encoding="utf-8")
    code = re.sub(r"#.*|\"[^\"]*\"", "", logstash)
    assert code.count("{") == code.count("}")
    assert 'url => "http://127.0.0.1:8646/v1/score"' in logstash
