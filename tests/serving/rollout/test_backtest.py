"""Backtests: the verdicts of one process reading the log, kept over a stop, counted by day, and run side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from kubehabit.main import app
from serving.rollout.backtest import BacktestOptions, ClusterLogs, backtest, progress_of
from serving.rollout.backtest_runners import run_here, run_on_spark
from serving.rollout.score_file import score_log
from serving.settings import load_settings

#: When the service looked, not what it saw.
_CLOCKS = ("raised", "updated", "raisedAt", "updatedAt")


@pytest.fixture(autouse=True)
def touchy(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is something to compare."""
    monkeypatch.setenv("KUBEHABIT_ALERTS__THRESHOLD_SCALE", "0.6")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory, labelled_lines: list[bytes]) -> ClusterLogs:
    """Two files of one cluster."""
    folder = tmp_path_factory.mktemp("logs")
    for name, lines in (("a.log", labelled_lines[:3500]), ("b.log", labelled_lines[3500:])):
        (folder / name).write_bytes(b"\n".join(lines) + b"\n")
    return ClusterLogs("prod", (str(folder / "a.log"), str(folder / "b.log")))


def alerts(out: Path, name: str = "prod") -> dict[str, Any]:
    found = [json.loads(line) for line in (out / name / "alerts.jsonl").read_bytes().splitlines()]
    return {
        alert["id"]: {key: value for key, value in alert.items() if key not in _CLOCKS} for alert in found
    }


class _StoppedError(Exception):
    pass


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, tiny_bundle: Path, logs: ClusterLogs, labelled_lines: list[bytes]
) -> None:
    whole = tmp_path / "whole.log"
    whole.write_bytes(b"\n".join(labelled_lines) + b"\n")
    scored = score_log(whole, str(tiny_bundle))
    assert len(scored.alerts) > 3

    def stop(events: int) -> None:
        if events > 4000:
            raise _StoppedError

    options = BacktestOptions(str(tiny_bundle), str(tmp_path / "out"), checkpoint=1000)
    with pytest.raises(_StoppedError):
        backtest(logs, options, stop)
    begun = progress_of(tmp_path / "out", "prod")
    assert begun is not None
    assert 0 < begun.events < len(labelled_lines)
    done = backtest(logs, options)

    found = alerts(tmp_path / "out")
    expected = {alert.id: json.loads(alert.model_dump_json(by_alias=True)) for alert in scored.alerts}
    assert found == {
        name: {key: value for key, value in alert.items() if key not in _CLOCKS}
        for name, alert in expected.items()
    }
    total = done.total()
    assert (total.events, total.actions) == (scored.events, scored.actions)
    assert sum(total.alerts.values()) == len(found)
    assert backtest(logs, options) == done  # nothing is judged twice


def test_only_what_is_within_the_time_asked_for_is_judged_and_the_rest_is_counted(
    tmp_path: Path, tiny_bundle: Path, logs: ClusterLogs
) -> None:
    first = json.loads(Path(logs.files[0]).read_bytes().splitlines()[0])["requestReceivedTimestamp"]
    last = json.loads(Path(logs.files[1]).read_bytes().splitlines()[-1])["requestReceivedTimestamp"]
    arguments = [
        "backtest",
        f"prod={Path(logs.files[0]).parent}",
        "--model",
        str(tiny_bundle),
        "--out",
        str(tmp_path),
    ]
    done = CliRunner().invoke(app, [*arguments, "--from", first, "--to", last, "--json"])
    assert done.exit_code == 0, done.output
    (cluster,) = json.loads(done.stdout)
    assert cluster["outside"] > 0
    assert cluster["events"] + cluster["outside"] == 6000
    assert sum(day["events"] for day in cluster["days"].values()) == cluster["events"]
    other = CliRunner().invoke(app, arguments)
    assert other.exit_code == 1
    assert "holds a backtest of other logs, another model or another time" in " ".join(other.output.split())


@pytest.mark.slow
def test_clusters_side_by_side_are_judged_as_one_after_the_other(
    tmp_path: Path, tiny_bundle: Path, logs: ClusterLogs
) -> None:
    clusters = [
        logs,
        ClusterLogs("test", logs.files[:1]),
        ClusterLogs("gone", (str(tmp_path / "no.log"),)),
    ]
    options = BacktestOptions(str(tiny_bundle), str(tmp_path / "both"))
    outcomes = dict(run_here(clusters, options, 2))
    assert "no.log" in str(outcomes["gone"])
    alone = BacktestOptions(str(tiny_bundle), str(tmp_path / "alone"))
    for one in clusters[:2]:
        backtest(one, alone)
        assert alerts(tmp_path / "both", one.name) == alerts(tmp_path / "alone", one.name)


@pytest.mark.slow
def test_spark_gives_the_same(tmp_path: Path, tiny_bundle: Path, logs: ClusterLogs) -> None:
    pytest.importorskip("pyspark", reason="pip install 'kubehabit[spark]', and Java 17")
    options = BacktestOptions(str(tiny_bundle), str(tmp_path / "spark"))
    clusters = [logs, ClusterLogs("test", logs.files[:1])]
    outcomes = dict(run_on_spark(clusters, options, "local[2]"))
    assert set(outcomes) == {"prod", "test"}
    alone = BacktestOptions(str(tiny_bundle), str(tmp_path / "alone"))
    for one in clusters:
        backtest(one, alone)
        assert alerts(tmp_path / "spark", one.name) == alerts(tmp_path / "alone", one.name)


def test_a_damaged_progress_and_a_second_run_are_named(
    tmp_path: Path, tiny_bundle: Path, logs: ClusterLogs
) -> None:
    (tmp_path / "prod").mkdir()
    (tmp_path / "prod" / "progress.json").write_bytes(b"{")
    with pytest.raises(KubehabitError, match="is damaged"):
        backtest(logs, BacktestOptions(str(tiny_bundle), str(tmp_path)))
    assert load_settings().store.max_alerts == 100_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a=HERE/audit.log", "a=HERE/audit.log"], "is the name of two clusters"),
        (["a/b=HERE/audit.log"], "is no name of a cluster"),
        (["prod=HERE/none.log"], "There is no log"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    arguments = [text.replace("HERE", str(tmp_path)) for text in arguments]
    (tmp_path / "audit.log").write_text("{}")
    done = CliRunner().invoke(app, ["backtest", *arguments, "--out", str(tmp_path)])
    assert done.exit_code != 0
    assert sentence in " ".join((done.output + str(done.exception)).split())
