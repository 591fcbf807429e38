"""Taking the detector apart: what a variant changes, what it is judged on, and that what is done is not done again."""

import json
from dataclasses import fields
from pathlib import Path

import mlflow
import numpy as np
import pytest

from data.actions.attributes import ATTRIBUTES, HASHED
from data.actions.breadth import SPANS
from data.errors import KubehabitError
from data.events.decode import decode_lines
from data.paths import tracking_uri
from detection.bundle import Bundle
from detection.calibration import Calibration
from detection.detector import Detector
from detection.reconstruction import OnnxModel
from tests.conftest import RECORDINGS, ROOT, SMALL, Trained
from training.ablation.ablate import EXPERIMENT, Where, _ratio, ablate
from training.ablation.exam import Errors, Exam
from training.ablation.report import JudgedVariant, finding, markdown, noise, shipped_recall
from training.ablation.variants import AblateConfig, Ablated, _pooled
from training.calibrate import CalibrationConfig, fit

VARIANTS = """
blocks:
  - title: As shipped
    question: As it is.
    variants: [{name: shipped}]
  - title: Changed
    question: Does it matter?
    variants:
      - {name: blind, blind: [principal, group], train: {model.bottleneck: 4}}
      - {name: novelty alone, judge: {parts: novelty}}
"""


@pytest.fixture(scope="module")
def where(trained: Trained, labelled_lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Where:
    """The first minutes of the labelled recording, with the runs that lie in them."""
    folder = tmp_path_factory.mktemp("ablate")
    (folder / "slice.jsonl").write_bytes(b"\n".join(labelled_lines) + b"\n")
    ids = {json.loads(line)["auditID"] for line in labelled_lines}
    labels = json.loads((RECORDINGS / "labels.json").read_text())
    (folder / "labels.json").write_text(json.dumps([r for r in labels if ids.issuperset(r["audit_ids"])]))
    return Where(trained.dataset, folder / "slice.jsonl", folder / "labels.json")


@pytest.fixture(scope="module")
def exam(where: Where) -> Exam:
    return Exam.prepare(where.data, where.log, json.loads(where.labels.read_text()))


def variants(path: Path, text: str = VARIANTS) -> AblateConfig:
    path.write_text(text)
    return AblateConfig.load(path)


def test_an_exam_scores_the_log_exactly_as_the_detector_does(
    trained: Trained, exam: Exam, labelled_lines: list[bytes]
) -> None:
    bundle = Bundle.load(trained.bundle)
    errors = Errors.compute(OnnxModel(str(bundle.model_path)), bundle.window, exam, ())
    scores = Detector(bundle).score(decode_lines(labelled_lines).events)
    np.testing.assert_allclose(errors.whole, scores.nll, atol=1e-4)
    calibration = fit(exam.table, exam.held, errors.held, CalibrationConfig()).calibration
    assert calibration.person_thresholds == pytest.approx(bundle.calibration.person_thresholds, rel=1e-3)
    ratio = _ratio(bundle.calibration, exam.whole, errors.whole)
    # The detector keeps what was flagged out of its principal's habits, which an exam does not replay: so it flags what
    # follows more often, never less.
    suspects: set[str] = set()
    fresh = np.empty(len(ratio), bool)
    for row, (name, flagged) in enumerate(zip(scores.principal, scores.flagged.tolist(), strict=True)):
        fresh[row] = name not in suspects
        if flagged:
            suspects.add(name)
    assert fresh.mean() > 0.9
    np.testing.assert_array_equal((ratio >= 1)[fresh], scores.flagged[fresh])
    assert scores.flagged[ratio >= 1].all()
    np.testing.assert_allclose(ratio[fresh], (scores.evidence / scores.threshold)[fresh], atol=1e-3)


def test_the_clean_replay_is_the_log_had_there_been_no_attack(exam: Exam) -> None:
    done = {
        audit_id
        for label in (run.label for run in exam.truth.runs)
        for key in ("audit_ids", "induced_audit_ids", "ignore_audit_ids")
        for audit_id in label.get(key) or ()
    }
    whole, clean = exam.whole.actions.audit_id, exam.clean.actions.audit_id
    assert done & set(whole)
    assert clean == [audit_id for audit_id in whole if audit_id not in done]
    # What an attacker did first is no longer known when the owner does it afterwards.
    kept = np.isin(whole, clean)
    # How many objects were read is another count without the attacker's reads.
    same = [name not in SPANS for name in list(ATTRIBUTES)[:HASHED]]
    assert (exam.clean.deeds.levels >= exam.whole.deeds.levels[kept])[:, same].all()
    assert exam.clean.deeds.actions.sum() < exam.whole.deeds.actions[kept].sum()


def test_with_nothing_changed_the_calibration_is_the_shipped_one(trained: Trained, exam: Exam) -> None:
    shipped = Bundle.load(trained.bundle).calibration
    same = Ablated(**{one.name: getattr(shipped, one.name) for one in fields(Calibration)})
    nll = np.random.default_rng(0).exponential(2.0, (len(exam.whole.tokens), exam.whole.tokens.shape[1]))
    np.testing.assert_allclose(
        same.error(nll.astype(np.float32), exam.whole.deeds),
        shipped.error(nll.astype(np.float32), exam.whole.deeds),
    )


def test_each_way_of_judging_changes_what_it_says(trained: Trained, exam: Exam) -> None:
    shipped = Bundle.load(trained.bundle).calibration
    own = {one.name: getattr(shipped, one.name) for one in fields(Calibration)}
    nll = np.random.default_rng(0).exponential(2.0, (len(exam.whole.tokens), exam.whole.tokens.shape[1]))
    nll, deeds = nll.astype(np.float32), exam.whole.deeds
    three = shipped.error(nll, deeds)
    assert (Ablated(**own, fields=1).error(nll, deeds) <= three).all()
    assert (Ablated(**own, fields=0).error(nll, deeds) >= three - 1e-9).all()
    assert (Ablated(**own, own_counts=False).error(nll, deeds) >= three - 1e-9).all()
    novelty, error = (
        Ablated(**own, parts="novelty").weigh(nll, deeds),
        Ablated(**own, parts="error").weigh(nll, deeds),
    )
    np.testing.assert_array_equal(novelty.error_evidence, shipped.weigh(nll, deeds).novelty_evidence)
    np.testing.assert_array_equal(error.novelty_evidence, error.error_evidence)


def test_pooling_reads_a_principals_own_last_actions() -> None:
    error = np.array([1.0, 10.0, 3.0, 5.0])
    assert _pooled(error, ["a", "b", "a", "a"], 2, "mean").tolist() == [1.0, 10.0, 2.0, 4.0]
    assert _pooled(error, ["a", "b", "a", "a"], 3, "max").tolist() == [1.0, 10.0, 3.0, 5.0]


@pytest.mark.slow
def test_variants_become_runs_a_table_and_are_not_run_twice(where: Where, tmp_path: Path) -> None:
    chosen = variants(tmp_path / "variants.yaml")
    small = [option for option in SMALL if "max_steps" not in option and "val_check" not in option]

    def run() -> str:
        return ablate(
            where,
            config=ROOT / "configs" / "train.yaml",
            variants=chosen,
            options=["--trainer.max_steps=5", *small],
            out=tmp_path / "table.md",
        )

    run_id = run()
    client = mlflow.MlflowClient(tracking_uri=tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None

    def judged() -> dict[str, mlflow.entities.Run]:
        found = client.search_runs([experiment.experiment_id])
        return {run.info.run_name: run for run in found if "ablation_key" in run.data.tags}

    first = judged()
    assert set(first) == {"shipped", "blind", "novelty alone"}
    assert first["blind"].data.params["blind"] == "principal,group"
    assert {"recall", "strict_per_10k", "recall_at_1", "system_incidents"} <= set(
        first["shipped"].data.metrics
    )
    # The same model judged in another way, and another model.
    nll = {name: one.data.metrics["held_back_nll"] for name, one in first.items()}
    assert nll["shipped"] == nll["novelty alone"] != nll["blind"]
    text = (tmp_path / "table.md").read_text()
    assert all(f"| {name} |" in text for name in ("**shipped**", "blind", "novelty alone"))
    assert {item.path for item in client.list_artifacts(run_id)} == {"ablations.md", "ablations.png"}
    run()
    assert {name: one.info.run_id for name, one in judged().items()} == {
        name: one.info.run_id for name, one in first.items()
    }
    assert (tmp_path / "table.md").read_text() == text


def test_variants_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    for text, sentence in (
        (VARIANTS.replace("name: shipped", "name: mine"), "one must be named shipped"),
        (VARIANTS.replace("name: blind", "name: shipped"), "a name of its own"),
        (VARIANTS.replace("blind: [", "blnd: ["), "Cannot read the variants"),
        ("blocks: 3", "Cannot read the variants"),
    ):
        with pytest.raises(KubehabitError, match=sentence):
            variants(path, text)
    with pytest.raises(KubehabitError, match="No variant other"):
        variants(path).chosen(["other"])
    with pytest.raises(KubehabitError, match="belong together"):
        Where.from_options(None, tmp_path / "log", None)


def test_the_shipped_variants_name_options_that_exist() -> None:
    config = AblateConfig.load(ROOT / "configs" / "ablate.yaml")
    own = {one.name for one in fields(Calibration)}
    asked = {one.name for one in fields(Ablated)} - own
    for variant in config.chosen([]):
        assert set(variant.judge) <= asked, variant.name
        assert set(variant.calibration) <= {one.name for one in fields(CalibrationConfig)}, variant.name
        assert set(variant.blind) <= {"principal", "group"}, variant.name


def row(name: str, recall: float) -> JudgedVariant:
    figures = {f"recall_at_{rate}": recall for rate in (1, 3, 10)} | dict.fromkeys(
        ("recall", "false_per_10k", "strict_per_10k", "system_incidents", "held_back_nll"), 0.0
    )
    return JudgedVariant(name, "b", "q?", figures | {"attack_runs": 34.0})


def test_no_sentence_claims_a_difference_that_two_runs_or_two_seeds_make() -> None:
    rows = [row("shipped", 0.9), row("shipped, seed 8", 0.8)]
    assert noise(rows[:1]) == pytest.approx(2 / 34)
    assert noise(rows) == pytest.approx(0.1)
    others = [row("a", 0.95), row("b", 0.5), row("c", 0.76)]
    assert shipped_recall([*rows, *others]) == pytest.approx(0.85)
    sentence = finding(others, shipped_recall(rows), noise(rows))
    assert sentence == "Worse by more than noise: b (-35); no different that this log could show: a, c."
    text = markdown(
        [*rows, *others],
        steps=9,
        log="l",
        fingerprint="f",
        commits=["c"],
        person_budget=3.0,
        normal_actions=10_000,
        waiting=["d"],
    )
    assert "- Not judged yet: d." in text
    assert "| b | 0% | - | 0.0 | 0.0 | 50% / 50% / 50% | - | 0 | 0.00 |" in text
