"""What is kept of every principal over time: summed up, once, within bounds; and what other thresholds would have given."""

from __future__ import annotations

import operator
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector, Scores
from detection.evidence import Accumulator
from serving.history.activity import Trained
from serving.history.queries import DriftComparison, HistoryReader, median
from serving.history.recorder import History, Judge
from serving.history.schema import EDGES, HOUR, HistoryError
from serving.history.threshold_preview import Alerts, Previewer
from serving.storage.receipt_clock import ReceiptClock

NOW = int(datetime.now(UTC).timestamp() * 1e6) // HOUR * HOUR
JUDGE = Judge("7", (120.0, 7200.0), (4.0, 6.0), (12.0, 18.0))


def scores(
    names: Sequence[str],
    times: Sequence[int],
    *,
    new: Sequence[float] | None = None,
    wrong: Sequence[float] | None = None,
    evidence: Sequence[float] | None = None,
    error: float = 0.5,
    unknown: Sequence[bool] = (),
    kind: str = "human",
) -> Scores:
    """Scores as the detector gives them, with a threshold of 4."""
    count = len(names)
    reached = np.array(evidence if evidence is not None else [0.0] * count)
    return Scores(
        event=np.arange(count),
        principal=list(names),
        kind=[kind] * count,
        group=["team"] * count,
        time=np.array(times, np.int64).view("M8[us]"),
        nll=np.zeros((count, 1), np.float32),
        surprise=np.zeros(count, np.float32),
        novelty=np.zeros(count),
        error=np.full(count, error),
        evidence=reached,
        threshold=np.full(count, 4.0),
        flagged=reached >= 4.0,
        sensitivity=np.zeros(count, np.int8),
        severity=["none"] * count,
        folded=np.empty(0, np.int64),
        dropped=np.empty(0, np.int64),
        novelty_evidence=np.array(new if new is not None else [0.0] * count),
        error_evidence=np.array(wrong if wrong is not None else [0.0] * count),
        unknown=np.array(unknown, bool),
    )


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    opened = History(tmp_path / "history.db", retention_days=35, max_rows=100_000)
    opened.set_judge(JUDGE)
    yield opened
    opened.close()


def written(history: History, position: int, *batches: Scores) -> HistoryReader:
    for batch in batches:
        history.observe(batch)
    history.write(history.pop(position))
    return HistoryReader(history.path)


def test_hours_and_days_of_a_principal_are_summed_up_over_batches(history: History) -> None:
    reader = written(
        history,
        1,
        scores(["alice"] * 3, [NOW - 2 * HOUR, NOW - 2 * HOUR + 5, NOW - HOUR], evidence=[1.0, 5.0, 0.0]),
        scores(["bob"], [NOW - HOUR], evidence=[2.0]),
    )
    written(history, 2, scores(["alice"], [NOW - HOUR + 7], evidence=[3.0], error=EDGES[4]))
    report = reader.surprise("alice")
    assert report is not None
    assert [(one.actions, one.flagged, one.nearest) for one in report.hours] == [(2, 1, 1.25), (2, 0, 0.75)]
    assert sum(one.actions for one in report.days) == 4
    assert max(one.nearest for one in report.days) == 1.25
    assert reader.surprise("nobody") is None


def test_typical_surprise_is_given_as_a_share_of_what_one_in_twenty_reached(history: History) -> None:
    reader = written(history, 1, scores(["alice"] * 100, [NOW - HOUR] * 100, error=0.9 * EDGES[4]))
    report = reader.surprise("alice")
    assert report is not None
    assert 0.8 <= report.hours[0].typical <= 1.0


def test_the_median_of_bins_lies_in_the_bin_of_the_middle_value() -> None:
    assert median([0] * 9) == 0.0
    assert median([10, 0, 0, 0, 0, 0, 0, 0, 0]) == pytest.approx(EDGES[0] / 2)
    assert EDGES[3] <= median([1, 1, 1, 1, 7, 1, 1, 1, 1]) <= EDGES[4]
    assert median([0] * 8 + [3]) == EDGES[7]


def test_what_is_scored_again_after_a_crash_counts_once(history: History) -> None:
    batch = scores(["alice"], [NOW - HOUR], evidence=[1.0])
    written(history, 5, batch)
    history.close()
    again = History(history.path, retention_days=35, max_rows=100_000)
    again.resume(restored=3, journal=9)  # the snapshot that belonged to position 5 never came to disk
    again.observe(batch)
    again.after(5)
    again.observe(scores(["alice"], [NOW - HOUR + 1]))
    again.after(6)
    again.write(again.pop(6))
    report = HistoryReader(again.path).surprise("alice")
    assert report is not None
    assert report.hours[0].actions == 2
    history._file = again._file  # for the fixture to close


def test_a_history_of_another_journal_hides_nothing(history: History) -> None:
    written(history, 500, scores(["alice"], [NOW - HOUR]))
    history.resume(restored=0, journal=2)
    history.observe(scores(["alice"], [NOW - HOUR]))
    history.after(1)
    reader = written(history, 2)
    report = reader.surprise("alice")
    assert report is not None
    assert report.hours[0].actions == 2


def test_principals_are_listed_searched_and_paged(history: History) -> None:
    trained = Trained(
        {f"user-{n}": "team" for n in range(5)} | {"system:node:n1": "nodes"}, {}, {"user-0": NOW - 9 * HOUR}
    )
    history.set_judge(JUDGE, trained)
    reader = written(history, 1, scores(["user-3", "eve"], [NOW - HOUR, NOW - 2 * HOUR], evidence=[1.0, 3.0]))
    page = reader.principals(limit=3)
    assert [row.principal for row in page.principals] == ["user-3", "eve", "user-0"]
    assert (page.total, page.cursor) == (7, "3")
    assert page.principals[1].nearest == 0.75
    rest = reader.principals(limit=50, cursor=page.cursor)
    assert len(rest.principals) == 4
    assert rest.cursor is None
    assert [row.principal for row in reader.principals(order="nearest", limit=1).principals] == ["eve"]
    assert [row.principal for row in reader.principals(search="NODE").principals] == ["system:node:n1"]
    assert reader.principals(search="_").total == 0  # a wildcard of SQL is none here
    assert reader.principals(kind="node").total == 1
    assert set(reader.peers("user-3")) == {"user-0", "user-1", "user-2", "user-4", "eve"}


def test_old_hours_become_days_and_old_days_go(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db", retention_days=20, max_rows=100_000)
    history.set_judge(JUDGE)
    ages = (0, 5, 10, 15, 25)
    reader = written(
        history,
        1,
        scores(["alice"] * 5, [NOW - age * 24 * HOUR - HOUR for age in ages], new=[1.0] * 5, wrong=[1.0] * 5),
    )
    report = reader.surprise("alice")
    assert report is not None
    assert (len(report.hours), len(report.days)) == (2, 4)
    assert reader.rows("SELECT count(*) AS n FROM additions")[0]["n"] == 4
    history.close()


def test_a_clock_that_jumps_ahead_deletes_no_history_even_after_an_event_of_2099(tmp_path: Path) -> None:
    wall, ticks = [time.time_ns()], [0]
    clock = ReceiptClock(lambda: wall[0], lambda: ticks[0])
    history = History(tmp_path / "history.db", retention_days=35, max_rows=100_000, clock=clock.now)
    history.set_judge(JUDGE)
    far = NOW + 73 * 365 * 24 * HOUR
    reader = written(history, 1, scores(["alice", "bob"], [NOW - HOUR, far]))
    wall[0] += 400 * 24 * HOUR * 1000
    history.prune()
    kept = reader.surprise("alice")
    assert kept is not None
    assert len(kept.hours) == 1
    wall[0] -= 300 * 24 * HOUR * 1000  # 100 days have passed
    ticks[0] += 100 * 24 * HOUR * 1000
    history.prune()
    assert reader.surprise("alice") is None
    history.close()


def test_there_are_never_more_rows_than_allowed_and_the_oldest_go_first(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db", retention_days=35, max_rows=1000)
    history.set_judge(JUDGE)
    names = [f"user-{number}" for number in range(50)]
    for age in range(30, -1, -1):
        history.observe(scores(names, [NOW - age * 24 * HOUR - HOUR] * 50))
    reader = written(history, 1)
    assert history._rows() <= 1000
    report = reader.surprise("user-7")
    assert report is not None
    assert 0 < len(report.days) < 25
    assert report.days[-1].at >= datetime.now(UTC) - timedelta(days=2)
    history.close()


def test_who_has_not_acted_for_long_is_forgotten_unless_training_knows_it(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db", retention_days=10, max_rows=1000)
    history.set_judge(JUDGE, Trained({"alice": "team"}, {}, {"alice": NOW - 90 * 24 * HOUR}))
    reader = written(
        history, 1, scores(["bob", "carol"], [NOW - 20 * 24 * HOUR, NOW - HOUR], new=[1, 1], wrong=[1, 1])
    )
    assert {row.principal for row in reader.principals().principals} == {"alice", "carol"}
    crowd = [f"user-{number}" for number in range(1500)]
    history.observe(scores(crowd, [NOW - HOUR + number for number in range(1500)]))
    history.write(history.pop(2))
    history.prune()
    page = reader.principals(limit=2)
    assert page.total == 1000
    assert page.principals[0].principal == "user-1499"
    assert reader.principals(search="alice").total == 1
    assert history._rows() <= 1000
    history.close()


def test_a_file_of_another_version_starts_empty(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "history.db") as file:
        file.execute("CREATE TABLE hours (other INTEGER)")
    history = History(tmp_path / "history.db", retention_days=10, max_rows=1000)
    assert written(history, 1, scores(["alice"], [NOW - HOUR])).surprise("alice") is not None
    history.close()


def test_a_file_of_the_release_before_goes_on(tmp_path: Path) -> None:
    """It lacks what evidence by actions needs: its rows fade with time alone, as they did."""
    path = tmp_path / "history.db"
    before = History(path, retention_days=35, max_rows=100_000)
    rows = random_service(before, 1.0, seed=4)
    before.close()
    with sqlite3.connect(path) as file:
        file.execute("ALTER TABLE additions DROP COLUMN actions")
        file.execute("ALTER TABLE judges DROP COLUMN activity")
        file.execute("PRAGMA user_version = 2")
    History(path, retention_days=35, max_rows=100_000).close()
    preview = Previewer(HistoryReader(path), gap_minutes=10, scale=1.0).preview(7, scale=0.5)
    assert preview is not None
    assert preview.wanted is not None
    assert preview.wanted.alerts == len(alerts_of(rows, 0.5, 600_000_000)) > 0


def test_memory_is_bounded_while_the_file_cannot_be_written(history: History) -> None:
    for _ in range(3):
        history.observe(scores(["alice"] * 200_000, [NOW] * 200_000))
    assert history._pending.held <= 400_000


def test_a_file_that_cannot_be_written_costs_history_only(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.observe(scores(["alice"], [NOW]))
    history._file.execute("DROP TABLE hours")
    history.write(history.pop(1))
    assert "history is lost" in caplog.text


def test_drift_tells_unknown_and_surprising_actions_and_judges_only_enough_of_them(history: History) -> None:
    reader = written(history, 1, scores(["a"] * 10, [NOW - HOUR] * 10, unknown=[True] * 10))
    few = reader.drift()
    assert few is not None
    assert few.verdict == "too few"
    reader = written(history, 2, scores(["a"] * 5000, [NOW - HOUR] * 5000, unknown=[False] * 5000))
    steady = reader.drift()
    assert steady is not None
    assert (steady.verdict, steady.actions) == ("steady", 5010)
    compared = DriftComparison(
        time=datetime(2026, 11, 28, tzinfo=UTC),
        log="today.jsonl",
        actions=5000,
        retrain=True,
        surprising=0.05,
        unknown=0.0,
        reasons=["3 principals behave differently."],
    )
    advised = reader.drift(compared=compared)
    assert advised is not None
    assert advised.verdict == "changed", "The service may not contradict `kubehabit drift`"
    assert "today.jsonl on 2026-11-28 and said to train again: 3 principals" in advised.sentence
    unadvised = reader.drift(compared=compared.model_copy(update={"retrain": False}))
    assert unadvised is not None
    assert unadvised.verdict == "steady"
    assert steady.unknown == pytest.approx(10 / 5010)
    reader = written(history, 3, scores(["a"] * 1000, [NOW - HOUR] * 1000, error=2.5))
    changed = reader.drift()
    assert changed is not None
    assert changed.verdict == "changed"
    assert [(one.one_in, round(one.seen, 3)) for one in changed.beyond] == [
        (20, 0.166),
        (100, 0.166),
        (1000, 0),
        (10000, 0),
    ]
    assert "17% of all actions" in changed.sentence or "16.6% of all actions" in changed.sentence


def test_no_history_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="kubehabit serve"):
        HistoryReader(tmp_path / "none.db")
    (tmp_path / "bad.db").write_bytes(b"no database" * 100)
    with pytest.raises(HistoryError, match=r"bad\.db"):
        HistoryReader(tmp_path / "bad.db").principals()
    with pytest.raises(HistoryError, match="move that file away"):
        History(tmp_path / "bad.db", retention_days=1, max_rows=1000)


def test_tables_of_something_else_are_never_dropped(tmp_path: Path) -> None:
    """As when history.path names the alert store, whose tables were dropped before."""
    other = sqlite3.connect(tmp_path / "serving.db")
    other.execute("CREATE TABLE alerts (id TEXT)")
    other.execute("CREATE TABLE meta (key TEXT)")
    other.commit()
    with pytest.raises(HistoryError, match="it is no history, as it has a table alerts"):
        History(tmp_path / "serving.db", retention_days=1, max_rows=1000)
    tables = other.execute("SELECT name FROM sqlite_schema ORDER BY name").fetchall()
    assert tables == [("alerts",), ("meta",)]


# -- other thresholds -------------------------------------------------------------------------------------------


def random_service(history: History, scale: float, seed: int) -> list[tuple[str, int, float, float]]:
    """Let a service with a scale score made-up actions over three days; returns all that added anything."""
    rng = np.random.default_rng(seed)
    accumulator = Accumulator(JUDGE.horizons)
    history.set_judge(replace(JUDGE, scale=scale))
    limits = scale * np.array(JUDGE.person)
    rows = []
    moment = NOW - 72 * HOUR
    for position in range(60):
        count = int(rng.integers(1, 30))
        names = [f"user-{number}" for number in rng.integers(0, 6, count)]
        times = moment + np.sort(rng.integers(0, HOUR // 8, count))
        moment += int(rng.integers(HOUR // 8, HOUR))
        new, wrong = rng.exponential(1.2, (2, count)) * (rng.random((2, count)) < 0.6)
        each = np.tile(limits, (count, 1))
        sums = accumulator.add(names, times, new, wrong, each)
        share = (sums / each).max(axis=1)
        history.observe(scores(names, times.tolist(), new=new, wrong=wrong, evidence=share * 4.0))
        history.write(history.pop(position + 1))
        rows += [row for row in zip(names, times.tolist(), new, wrong, strict=True) if row[2] or row[3]]
    return rows


def alerts_of(rows: Sequence[tuple[str, int, float, float]], scale: float, gap: int) -> list[tuple[str, int]]:
    """What a service with a scale raises over the same actions, counted plainly: who, and how many actions in each alert."""
    accumulator = Accumulator(JUDGE.horizons)
    limits = scale * np.array([JUDGE.person])
    open_: dict[str, list[int]] = {}
    made = []
    for name, moment, new, wrong in rows:
        sums = accumulator.add([name], np.array([moment]), np.array([new]), np.array([wrong]), limits)
        if not (sums >= limits).any():
            continue
        held = open_.get(name)
        if held is not None and moment - held[0] <= gap:
            held[0], held[1] = moment, held[1] + 1
        else:
            open_[name] = held = [moment, 1]
            made.append((name, held))
    return [(name, held[1]) for name, held in made]


@pytest.mark.parametrize("in_force", [0.5, 1.0, 2.5])
def test_a_preview_is_what_a_service_with_that_threshold_would_have_raised(
    history: History, in_force: float
) -> None:
    rows = random_service(history, in_force, seed=round(10 * in_force))
    previewer = Previewer(HistoryReader(history.path), gap_minutes=10, scale=in_force)
    gap = 600_000_000
    counts = set()
    for scale in (0.3, 0.45, 0.5, 0.8, 1.0, 1.3, 2.0, 2.5, 4.0, 10.0):
        expected = alerts_of(rows, scale, gap)
        preview = previewer.preview(7, scale=scale)
        assert preview is not None
        assert preview.wanted is not None
        counts.add(preview.wanted.alerts)
        assert preview.wanted.alerts == len(expected)
        assert preview.wanted.actions == sum(actions for _, actions in expected)
        loudest = {loud.principal: (loud.alerts, loud.actions) for loud in preview.wanted.loudest}
        for name in {name for name, _ in expected}:
            mine = [actions for who, actions in expected if who == name]
            assert loudest[name] == (len(mine), sum(mine))
    assert len(counts) > 5  # else the thresholds made no difference
    assert preview.now.scale == in_force
    assert preview.now.alerts == len(alerts_of(rows, in_force, gap))


def test_a_preview_of_a_real_recording_is_what_a_detector_with_that_threshold_flags(
    tmp_path: Path, tiny_bundle: Path, labelled_lines: list[bytes]
) -> None:
    bundle = Bundle.load(tiny_bundle)
    history = History(tmp_path / "history.db", retention_days=10_000, max_rows=100_000)
    history.set_judge(Judge.from_calibration("1", bundle.calibration))
    batches = [
        decode_lines(labelled_lines[at : at + 500]).events for at in range(0, len(labelled_lines), 500)
    ]
    detector = Detector(bundle)
    for batch in batches:
        history.observe(detector.score(batch))
    history.write(history.pop(1))
    previewer = Previewer(HistoryReader(history.path), gap_minutes=10, scale=1.0)
    flagged = []
    # A preview does not know what would be on probation under another threshold: with a lower one it shows too little.
    for scale, compared in ((0.5, operator.le), (1.0, operator.eq), (2.0, operator.ge)):
        other = Detector(replace(bundle, calibration=bundle.calibration.scaled(scale)))
        hits = sum(int(other.score(batch).flagged.sum()) for batch in batches)
        preview = previewer.preview(28, scale=scale)
        assert preview is not None
        assert preview.wanted is not None
        assert compared(preview.wanted.actions, hits), (scale, preview.wanted.actions, hits)
        flagged.append(hits)
    assert flagged[0] > flagged[1] > flagged[2]
    history.close()


def test_a_model_is_loaded_with_the_threshold_that_the_settings_ask_for(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    from serving.rollout.loader import load_engine
    from serving.settings import Settings

    as_set = Bundle.load(tiny_bundle).calibration
    settings = Settings(alerts={"threshold_scale": 1.5}, model={"cache": tmp_path})  # type: ignore[arg-type]
    engine = load_engine(settings, tiny_bundle, store_url="sqlite://")
    assert engine.model.threshold_scale == 1.5
    assert engine.loaded is not None
    scaled = engine.loaded.detector.bundle.calibration
    assert scaled.person_thresholds == pytest.approx([1.5 * one for one in as_set.person_thresholds])
    assert Judge.from_calibration("1", scaled).person == pytest.approx(as_set.person_thresholds)
    engine.close()


def test_the_least_threshold_is_found_that_keeps_to_a_number_of_alerts_a_day(history: History) -> None:
    random_service(history, 1.0, seed=3)
    previewer = Previewer(HistoryReader(history.path), gap_minutes=10, scale=1.0)
    preview = previewer.preview(7, per_day=2)
    assert preview is not None
    assert preview.wanted is not None
    assert preview.wanted.alerts_per_day is not None
    assert preview.wanted.alerts_per_day <= 2
    louder = [one for one in preview.curve if one.scale < preview.wanted.scale]
    assert louder
    assert all(one.alerts_per_day is not None and one.alerts_per_day > 2 for one in louder)
    assert f"KUBEHABIT_ALERTS__THRESHOLD_SCALE={preview.wanted.scale:g}" in preview.setting
    assert any("of history so far" in note for note in preview.notes)


def test_alerts_of_a_principal_within_twelve_hours_are_one_incident() -> None:
    first = np.array([0, 13, 26, 1]) * HOUR
    last = np.array([1, 13, 26, 1]) * HOUR
    alerts = Alerts(np.array([0, 0, 0, 1]), first, last, np.ones(4, np.int64))
    assert alerts.incidents().tolist() == [0, 26 * HOUR, HOUR]
    assert alerts.since(HOUR).incidents().tolist() == [13 * HOUR, 26 * HOUR, HOUR]


def test_a_preview_of_nothing_is_none(history: History) -> None:
    assert Previewer(HistoryReader(history.path), gap_minutes=10, scale=1.0).preview(7) is None


def test_the_file_is_for_its_owner_only_and_readers_cannot_change_it(history: History) -> None:
    assert history.path.stat().st_mode & 0o077 == 0
    with pytest.raises(HistoryError, match="readonly"):
        HistoryReader(history.path).rows("DELETE FROM principals")
