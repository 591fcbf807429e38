"""Backtests: the verdicts of one process reading the log, kept over a stop, counted by day, and run side by side."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from data.paths import starter_bundle
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


def test_logs_that_come_in_parts_are_judged_as_if_they_were_there_at_once(
    tmp_path: Path, tiny_bundle: Path, labelled_lines: list[bytes]
) -> None:
    whole = tmp_path / "whole.log"
    whole.write_bytes(b"\n".join(labelled_lines) + b"\n")
    backtest(ClusterLogs("prod", (str(whole),)), BacktestOptions(str(tiny_bundle), str(tmp_path / "one")))
    expected = alerts(tmp_path / "one")
    cuts = _within_alerts(labelled_lines, expected)
    folder = tmp_path / "logs"
    folder.mkdir()
    arguments = ["backtest", f"prod={folder}", "--model", str(tiny_bundle), "--out", str(tmp_path / "four")]
    events = 0
    for part, (begin, end) in enumerate(pairwise([0, *cuts, len(labelled_lines)])):
        lines = [*labelled_lines[begin:end], b"{"]
        (folder / f"part{part}.log").write_bytes(b"\n".join(lines) + b"\n")
        done = CliRunner().invoke(app, [*arguments, "--json"])
        (found,) = json.loads(done.stdout)
        assert found["events"] > events
        assert found["unreadable"] == part + 1
        events = found["events"]
    assert part == 3
    assert alerts(tmp_path / "four") == expected
    for table in ("alert_ties", "incident_alerts"):
        assert _rows(tmp_path / "four", table) == _rows(tmp_path / "one", table) != []
    one = progress_of(tmp_path / "one", "prod")
    assert one is not None
    assert found["days"] == msgspec.to_builtins(one.days)


def _within_alerts(lines: list[bytes], alerts: dict[str, Any]) -> list[int]:
    """Three places to cut a log, each between two actions of an alert."""
    row = {json.loads(line)["auditID"]: number for number, line in enumerate(lines)}
    spans = [sorted({row[name] for name in alert["auditIDs"]}) for alert in alerts.values()]
    cuts = sorted({span[len(span) // 2] for span in spans if len(span) > 1})
    assert len(cuts) > 2
    return [cuts[0], cuts[len(cuts) // 2], cuts[-1]]


def _rows(out: Path, table: str) -> list[tuple[Any, ...]]:
    """What a table of the alert store says, without the order of its writing."""
    with closing(sqlite3.connect(out / "prod" / "alerts.db")) as store:
        cursor = store.execute(f"SELECT * FROM {table}")
        keep = [place for place, column in enumerate(cursor.description) if column[0] != "position"]
        return sorted(tuple(row[place] for place in keep) for row in cursor)


def test_parts_are_only_added_to_those_judged_by_the_same_model_and_these_must_not_change(
    tmp_path: Path, tiny_bundle: Path, labelled_lines: list[bytes]
) -> None:
    files = tuple(str(tmp_path / name) for name in ("a.log", "b.log"))
    for file, lines in zip(files, (labelled_lines[:300], labelled_lines[300:600]), strict=True):
        Path(file).write_bytes(b"\n".join(lines) + b"\n")
    model = tmp_path / "model"
    model.symlink_to(tiny_bundle)
    options = BacktestOptions(str(model), str(tmp_path / "out"))
    backtest(ClusterLogs("prod", files[1:]), options)
    model.unlink()
    model.symlink_to(starter_bundle())
    with pytest.raises(KubehabitError, match="is another version than the one that judged"):
        backtest(ClusterLogs("prod", (*files[1:], files[0])), options)
    with pytest.raises(KubehabitError, match="New files may only follow those that it judged"):
        backtest(ClusterLogs("prod", files), options)
    with Path(files[1]).open("ab") as log:
        log.write(labelled_lines[600] + b"\n")
    with pytest.raises(KubehabitError, match="has changed since it was judged"):
        backtest(ClusterLogs("prod", files[1:]), options)


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
