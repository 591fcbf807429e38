"""A real Prometheus that asks a real service: it is up, figures rise, rules and every query of the dashboard hold."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.alerts.explain.explainer import Explainer
from tests.deploy.programs import program, running
from tests.deploy.served import Served, free_port
from tests.serving.fakes import ndjson, raw_event, secret_event
from tests.serving.receivers import until

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "kubehabit.json").read_text(encoding="utf-8"))
RULES: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
NAME = re.compile(r"\b(?:kubehabit|process)_[a-z_]+\b")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """Every query of the dashboard and every rule, as Grafana would send it."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    found += [note["expr"] for note in DASHBOARD["annotations"]["list"]]
    found += [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    values = {"$__rate_interval": "1m", "$instance": ".*", "$job": ".*"}
    for name, value in values.items():
        found = [query.replace(name, value) for query in found]
    assert not [query for query in found if "$" in query]
    return found


def names(metrics: str) -> set[str]:
    """Names of all samples of an exposition."""
    return {re.split(r"[{ ]", line)[0] for line in metrics.splitlines() if line and line[0] != "#"}


@pytest.fixture
def served(tmp_path: Path, explainer: Explainer) -> Iterator[Served]:
    """A service with a sink, that has seen something of everything."""
    sink = {"name": "hook", "type": "webhook", "url": "http://127.0.0.1:9"}
    service = Served(tmp_path / "served", explainer, sinks=[sink])
    service.start()
    body = ndjson([raw_event(0), secret_event(1)]) + b"\nnonsense"
    urllib.request.urlopen(urllib.request.Request(service.url + "/v1/score", body)).read()
    yield service
    service.stop()


def test_every_metric_that_the_dashboard_and_the_rules_name_exists(served: Served) -> None:
    with urllib.request.urlopen(served.url + "/metrics") as answer:
        there = names(answer.read().decode())
    for query in queries():
        for name in NAME.findall(query):
            assert name in there, f"{name} in {query}"


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert DASHBOARD["uid"] == "kubehabit"
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_every_rule_says_what_is_wrong_and_what_to_do() -> None:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "action"}
            assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_rule_is_in_the_manual() -> None:
    manual = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(Kubehabit\w+)`", manual))
    assert named == {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [program("promtool", "prometheus"), *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_finds_no_fault_and_every_rule_has_a_test() -> None:
    alerts = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
    assert f"{len(alerts)} rules found" in promtool("check", "rules", "rules.yml")
    assert "SUCCESS" in promtool("test", "rules", "rules-test.yml")
    assert "SUCCESS" in promtool("check", "config", "scrape.yml")
    tests = (DEPLOY / "prometheus" / "rules-test.yml").read_text(encoding="utf-8")
    assert [alert for alert in alerts if alert not in tests] == []


@pytest.mark.slow
def test_prometheus_scrapes_loads_the_rules_and_answers_every_query(served: Served, tmp_path: Path) -> None:
    binary = program("prometheus", "prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text(encoding="utf-8"))
    config["rule_files"] = [str(DEPLOY / "prometheus" / "rules.yml")]
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["scrape_interval"] = "200ms"
    job["static_configs"][0]["targets"] = [f"127.0.0.1:{served.port}"]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    command = (
        binary,
        f"--config.file={file}",
        f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    )

    def api(path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.loads(answer.read())["data"]
        except OSError:
            return None

    def value(query: str) -> float | None:
        data = api("query", query=query)
        return float(data["result"][0]["value"][1]) if data and data["result"] else None

    scored = 'kubehabit_events_total{outcome="scored"}'
    with running(*command):
        until(lambda: value('up{job="kubehabit"}') == 1)
        until(lambda: value(scored) == 2)
        body = ndjson([raw_event(number) for number in range(10, 30)])
        urllib.request.urlopen(urllib.request.Request(served.url + "/v1/score", body)).read()
        until(lambda: value(scored) == 22)
        until(lambda: (value("increase(" + scored + "[1m])") or 0) > 0)
        groups = api("rules")["groups"]
        loaded = [rule["name"] for group in groups for rule in group["rules"]]
        assert loaded == [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
        until(
            lambda: all(rule["health"] == "ok" for group in api("rules")["groups"] for rule in group["rules"])
        )
        failed = [query for query in queries() if api("query", query=query) is None]
        assert failed == []
        # What a dashboard shows of a healthy service is there and not "no data".
        for panel in panels():
            for target in panel["targets"]:
                query = target["expr"]
                for name, with_ in {"$__rate_interval": "1m", "$instance": ".*", "$job": ".*"}.items():
                    query = query.replace(name, with_)
                until(lambda query=query: bool(api("query", query=query)["result"]))
        served.stop()
        until(lambda: value('up{job="kubehabit"}') == 0)
