"""`kubehabit retrain`: from stored events to the next champion, in steps that are done once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from data.events.reader import open_lines
from data.paths import tracking_uri
from detection.bundle import Bundle
from kubehabit.client.event_export import EventPages
from kubehabit.client.event_files import answers_of_logs
from kubehabit.client.events import EventAnswers
from kubehabit.main import app
from kubehabit.retraining import retraining
from kubehabit.retraining.progress import Progress
from kubehabit.retraining.retraining import Retraining, RetrainPlan, TooLittleWorkError, span_of_work
from kubehabit.retraining.stored_work import called_normal, write_log
from serving.forensics.queries import EventFilter, EventPage
from tests.conftest import RECORDED, ROOT, SMALL, Trained
from training.lifecycle.promotion import version_of
from training.registry import download

_HOUR = 3_600_000_000
_FEW = (*(one for one in SMALL if "steps" not in one and "interval" not in one), "--trainer.max_steps=10")


class _Records:
    """Answers of a store that holds the records of another, some of them part of an alert."""

    def __init__(self, answers: EventAnswers, flagged: dict[str, str]) -> None:
        self._answers, self._flagged = answers, flagged

    def events(self, wanted: EventFilter, **how: object) -> EventPage:
        page = self._answers.events(wanted, **how)  # type: ignore[arg-type]
        records = [one._replace(alert=self._flagged.get(one.audit_id, "")) for one in page.records]
        return EventPage(records, page.cursor)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, normal_lines: list[bytes]) -> Path:
    """A log of normal work."""
    path = tmp_path_factory.mktemp("log") / "audit.log"
    path.write_bytes(b"\n".join(normal_lines[:6_000]) + b"\n")
    return path


@pytest.fixture(scope="module")
def answers(log: Path) -> Iterator[EventAnswers]:
    """The same in an event store."""
    with answers_of_logs([log]) as found:
        yield found


@pytest.fixture
def home(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the home in which a champion is registered: other tests need that one as it is."""
    copy = tmp_path / "home"
    shutil.copytree(trained.home, copy)
    monkeypatch.setenv("KUBEHABIT_HOME", str(copy))
    return copy


def _span(answers: EventAnswers) -> tuple[int, int]:
    newest = answers.events(EventFilter(), limit=1, newest=True, texts=False).records[0].time
    earliest = answers.earliest()
    assert earliest is not None
    return earliest, newest + 1


def test_what_was_flagged_is_learned_only_if_it_was_called_normal(
    answers: EventAnswers, log: Path, tmp_path: Path
) -> None:
    since, until = _span(answers)
    ids = [json.loads(line)["auditID"] for line in log.read_bytes().splitlines()]
    first, second = list(dict.fromkeys(ids))[:2]
    entry = {"principal": "p", "auditIDs": [first, second], "verdict": "normal"}
    feedback = [json.dumps(entry), json.dumps(entry | {"auditIDs": [second], "verdict": "malicious"})]
    assert called_normal(feedback) == {first}
    store = _Records(answers, {first: "a1", second: "a2"})
    work = write_log(
        store,  # type: ignore[arg-type]
        tmp_path / "train.jsonl.zst",
        since=since,
        until=until,
        normal=called_normal(feedback),
    )
    written = [json.loads(line)["auditID"] for line in open_lines(tmp_path / "train.jsonl.zst")]
    assert work.events == len(written)
    assert work.events + work.flagged == len(ids)
    assert first in written
    assert second not in written
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl.zst"]


def test_a_store_without_normal_work_leaves_nothing_to_go_on_with(
    answers: EventAnswers, tmp_path: Path
) -> None:
    since, until = _span(answers)
    progress = Progress.begin(tmp_path, since, until, until + 1)
    plan = RetrainPlan(tmp_path, "kubehabit", ROOT / "configs" / "train.yaml")
    with pytest.raises(TooLittleWorkError, match=r"no normal work for recent\.jsonl\.zst"):
        Retraining(plan, progress, answers, list, print).run()
    assert list(tmp_path.iterdir()) == []


def test_too_little_work_is_an_answer_of_its_own() -> None:
    now = 1_000 * _HOUR
    assert span_of_work(now - 100 * _HOUR, now, 1, 0.25, 24) == (now - 24 * _HOUR, now - 6 * _HOUR)
    for earliest in (None, now - 2 * _HOUR):
        with pytest.raises(TooLittleWorkError, match=r"hours of work") as raised:
            span_of_work(earliest, now, 14, 0.2, 24)
        assert raised.value.exit_code == 3


def test_progress_is_found_again_until_there_is_a_decision(tmp_path: Path) -> None:
    assert Progress.unfinished(tmp_path, 4) is None
    progress = Progress.begin(tmp_path, 1, 2, 3)
    progress.finish("events", {"a": 1})
    (tmp_path / "20990101T000000Z").mkdir()
    (tmp_path / "20990101T000000Z" / "progress.json").write_text("{")
    assert Progress.unfinished(tmp_path, 4 + 3 * 24 * _HOUR) is None
    found = Progress.unfinished(tmp_path, 4)
    assert found is not None
    assert (found.folder, found.split, found.done) == (progress.folder, 2, {"events": {"a": 1}})
    (progress.folder / "train.jsonl.zst").write_bytes(b"what people did")
    found.finish("decision", {"promoted": False})
    found.clear(tmp_path)
    assert Progress.unfinished(tmp_path, 4) is None
    assert [path.name for path in progress.folder.iterdir()] == ["progress.json"]


@pytest.mark.slow
def test_stored_work_becomes_a_challenger_that_is_compared(
    answers: EventAnswers, trained: Trained, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, root = version_of("kubehabit", "champion"), home / "retrain"
    since, until = _span(answers)
    pages = EventPages(answers, EventFilter(), limit=None, cursor=None, newest=False)
    times = sorted(record.time for record in pages.records(texts=False))
    # Not by the clock: watches that were under way began long before all others.
    progress = Progress.begin(root, since, times[4 * len(times) // 5], until)
    plan = RetrainPlan(
        root, "kubehabit", ROOT / "configs" / "train.yaml", [*_FEW, "--trainer.val_check_interval=10"]
    )
    said: list[str] = []

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as change:
        change.setattr("training.train.train", stopped)
        with pytest.raises(KeyboardInterrupt):
            Retraining(plan, progress, answers, list, said.append).run()
    found = Progress.unfinished(root, until)
    assert found is not None
    assert set(found.done) == {"events", "warm_start", "dataset", "training"}

    def read_again(*_: object, **__: object) -> None:
        raise AssertionError("what is done must not be done again")

    monkeypatch.setattr(retraining, "write_log", read_again)
    result = Retraining(plan, found, answers, list, said.append).run()
    assert result.warm_start == f"models:/kubehabit/{champion}"
    assert result.work["train.jsonl.zst"].events > result.work["recent.jsonl.zst"].events > 0
    assert result.decision["champion"] == champion
    assert result.decision["challenger"] == result.version
    assert any(check["name"].startswith("false incidents") for check in result.decision["checks"])
    assert "train.jsonl.zst" not in [path.name for path in progress.folder.iterdir()]

    client = mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=tracking_uri())
    version = client.get_model_version("kubehabit", result.version)
    sections = [line for line in version.description.splitlines() if line.startswith("## ")]
    assert sections == ["## Learning curve", "## Promotion"]
    run = client.get_run(version.run_id)
    assert run.info.run_name.startswith("train 20")
    assert run.info.run_name != client.get_run(trained.run_id).info.run_name
    (dataset,) = run.inputs.dataset_inputs
    assert result.dataset["fingerprint"].startswith(dataset.dataset.digest)
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    made = Bundle.load(download(f"models:/kubehabit/{result.version}"))
    assert made.settings.trusted_hops == RECORDED.trusted_hops


class _Nothing:
    """Answers of an empty store."""

    def earliest(self) -> None:
        """None."""

    def events(self, *_: object, **__: object) -> EventPage:
        return EventPage([], None)


def test_the_command_says_that_the_store_is_too_young(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubehabit.client.events.answers_of", lambda *_: _Nothing())
    done = CliRunner().invoke(app, ["retrain", "--local"])
    assert done.exit_code == 3
    assert "hours of work" in done.output
    assert not (own_home / "retrain").exists()
