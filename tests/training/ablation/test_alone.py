"""The decision taken apart around one model's errors: constants that change and come back, and what is judged."""

import json
from pathlib import Path

import numpy as np
import pytest

import detection.novelty
import training.calibrate
from data.dataset.table import load
from data.errors import KubehabitError
from data.paths import shipped
from detection.bundle import Bundle
from tests.conftest import RECORDINGS, ROOT, Trained
from training.ablation.alone import HEADS, DecisionVariants, is_decision, line
from training.ablation.constants import changed
from training.ablation.variants import AblateConfig, Variant
from training.calibrate import calibration_config
from training.evaluation.learning_curve import relearned, shortened


@pytest.fixture(scope="module")
def variants() -> list[Variant]:
    return AblateConfig.load(ROOT / "configs" / "ablate.yaml").chosen([])


def test_every_constant_that_is_varied_exists(variants: list[Variant]) -> None:
    varied = [variant for variant in variants if variant.constants]
    assert len(varied) > 10
    for variant in varied:
        with changed(variant.constants):
            pass
    with pytest.raises(KubehabitError, match="names no constant"), changed({"detection.novelty.OLD": 1}):
        pass


def test_a_constant_changes_wherever_it_was_imported_and_comes_back() -> None:
    mature, places = detection.novelty.MATURE, detection.novelty._PLACES
    with changed({"detection.novelty.MATURE": 7, "detection.novelty._PLACES": False}):
        assert detection.novelty.MATURE == training.calibrate.MATURE == 7
        assert not detection.novelty._PLACES.any()
    assert detection.novelty.MATURE == training.calibrate.MATURE == mature
    assert detection.novelty._PLACES is places
    assert places.any()


def test_variants_that_need_a_training_are_not_judged_alone(variants: list[Variant]) -> None:
    left_out = {variant.name for variant in variants if not is_decision(variant)}
    assert {"no conditioning", "shipped, seed 8", "window 4", "mean of the window"} <= left_out
    assert not {"shipped", "novelty alone", "floor 1", "no gate"} & left_out


def test_a_variant_is_calibrated_and_replayed_by_the_product(
    trained: Trained, labelled_lines: list[bytes], tmp_path: Path
) -> None:
    bundle = Bundle.load(trained.bundle)
    config = calibration_config(shipped("train.yaml")["calibration"])
    judged = DecisionVariants(bundle, trained.dataset, config)
    as_shipped = Variant("shipped", "As shipped")
    again = judged.calibrated(as_shipped).calibration
    np.testing.assert_allclose(again.person_thresholds, bundle.calibration.person_thresholds, rtol=1e-3)
    lines = labelled_lines[:4000]
    ids = {json.loads(line)["auditID"] for line in lines}
    labels = [
        r for r in json.loads((RECORDINGS / "labels.json").read_text()) if ids.issuperset(r["audit_ids"])
    ]
    log = tmp_path / "slice.jsonl"
    log.write_bytes(b"\n".join(lines) + b"\n")
    open_gate = Variant("open", "b", calibration={"gate": 0.0}, constants={"detection.novelty.MATURE": 0})
    plain, other = (judged.judge(variant, log, labels, transplants=0) for variant in (as_shipped, open_gate))
    peaks = [[run["peak"] for run in found["strict"]["runs"]] for found in (plain, other)]
    assert len(peaks[0]) == len(labels)
    assert peaks[0] != peaks[1]
    assert line("shipped", plain).count("|") == HEADS.split("\n")[0].count("|")


def test_a_shorter_log_teaches_less(trained: Trained) -> None:
    table, bundle = load(trained.dataset), Bundle.load(trained.bundle)
    minutes = (int(table.time.max()) - int(table.time.min())) / 60e6
    short = shortened(table, minutes / 2)
    assert 0 < len(short.tokens) < len(table.tokens)
    for split, windows in short.windows.items():
        end, history = windows[0]
        assert short.name[end] == short.name[end - history], split
    late = short.time[short.windows["calibration"][:, 0]].min()
    assert late > short.time[short.windows["train"][:, 0]].max()
    config = calibration_config(shipped("train.yaml")["calibration"])
    assert len(relearned(bundle, table, config, minutes / 2).habits) < len(bundle.habits)
    with pytest.raises(KubehabitError, match="nothing to learn"):
        shortened(table, 0.0)
