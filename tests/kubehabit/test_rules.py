"""`kubehabit rules`: from files to sentences, with names of a log that an attacker chose."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from data.visible_text import visible
from kubehabit.main import app
from tests.conftest import ROOT
from tests.detection.rules.rules_for_tests import document
from tests.serving.fakes import raw_event
from tests.serving.hostile import EVIL

SHIPPED = ROOT / "configs" / "rules"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["rules", *words])
    assert done.exit_code == status, done.output
    return done.output


def rule_file(folder: Path, name: str = "gets", **spec: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document(name, **spec)))
    return path


def test_the_rules_of_the_service_are_listed_and_those_that_cannot_be_used_named(own_home: Path) -> None:
    assert "anonymous-access" in run("list")
    rule_file(own_home / "rules", "mine", title="One of my own")
    (own_home / "rules" / "broken.yaml").write_text("apiVersion: [")
    shown = run("list", status=1)
    assert "One of my own" in shown
    assert "broken.yaml: it is not valid YAML" in shown
    listed = json.loads(run("list", "--json", status=1))
    assert len(listed["rules"]) == len(list(SHIPPED.iterdir())) + 1


def test_a_rule_is_explained_by_its_name_or_its_file(tmp_path: Path) -> None:
    shown = run("explain", "service-external-ips")
    assert "It hits when" in shown
    assert "its habit" in shown
    path = rule_file(tmp_path, habitDays=0)
    assert "It never becomes a habit." in run("explain", str(path))
    assert json.loads(run("explain", str(path), "--json"))["name"] == "gets"
    assert "There is no rule 'nothing'" in run("explain", "nothing", status=2)
    path.write_text("- 1")
    assert "cannot be used" in run("explain", str(path), status=2)


def test_a_test_that_fails_is_said_and_ends_with_1(tmp_path: Path) -> None:
    tests = [{"name": "it hits", "hits": False, "events": [{"objectRef": {"resource": "pods"}}]}]
    path = rule_file(tmp_path, tests=tests)
    shown = run("test", str(path), status=1)
    assert "1 rules, 1 tests, 1 of them failed." in shown
    assert "gets: it hits: it hits the last event and should not" in shown
    assert "0 of them failed" in run("test", str(rule_file(tmp_path / "b")))


def test_a_log_shows_what_would_have_been_reported(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    events = [raw_event(number, name=EVIL, user=EVIL, seconds=number / 100) for number in range(30)]
    log.write_text("\n".join(map(json.dumps, events)))
    path = rule_file(tmp_path, reason="it read {{ event.objectRef.name }}")
    shown = run("test", str(path), "--log", str(log))
    assert "30 events, 30 requests: 20 hits would have been reported." in shown
    assert visible(shown.replace("\n", "")) == shown.replace("\n", "")
    found = json.loads(run("test", str(path), "--log", str(log), "--json"))["log"]
    assert found["outcomes"] == {"gets": {"new": 20, "over budget": 10}}
    assert found["hits"][0]["reason"].startswith("it read ")


def test_sigma_rules_that_cannot_be_turned_are_said(tmp_path: Path) -> None:
    pytest.importorskip("sigma.rule")
    source = tmp_path / "rule.yml"
    source.write_text("title: x")
    shown = run("import-sigma", str(source), "--out", str(tmp_path / "out"), status=1)
    assert "it is no Sigma rule" in shown
    assert not (tmp_path / "out").exists()


def test_the_rule_that_the_manual_writes_works(tmp_path: Path) -> None:
    manual = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    parts = re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)
    path = tmp_path / "prod-by-hand.yaml"
    path.write_text("".join(parts))
    assert "1 rules, 2 tests, 0 of them failed." in run("test", str(path))


def test_every_shipped_rule_is_in_the_manual() -> None:
    manual = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    assert not [path.stem for path in SHIPPED.iterdir() if f"`{path.stem}`" not in manual]
