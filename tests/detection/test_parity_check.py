"""The self-test in the bundle: the shipped model passes, a wrong one is refused, an older bundle without it stays usable."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import BundleError
from detection.bundle import Bundle, seal
from detection.parity_check import PARITY_FILE, TOLERANCE, ParityCheck, verify_parity
from detection.reconstruction import NewestOnnxModel, OnnxModel, Reconstruction


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def asked(bundle: Bundle) -> ParityCheck:
    assert bundle.parity_check is not None
    return bundle.parity_check


def graphs(bundle: Bundle) -> Reconstruction:
    """Both graphs of a bundle."""
    assert bundle.newest_path is not None
    return Reconstruction(OnnxModel(str(bundle.model_path)), NewestOnnxModel(str(bundle.newest_path)))


def test_onnxruntime_gives_what_torch_gave(bundle: Bundle) -> None:
    test = asked(bundle)
    assert len(test) >= 64
    assert (test.principal == 0).any()
    assert (test.principal > 0).any()
    assert verify_parity(test, graphs(bundle), "This model") <= 1e-4


def test_another_answer_is_refused_and_the_sentence_says_by_how_much(bundle: Bundle) -> None:
    nll = asked(bundle).nll.copy()
    nll[3, 1] += 0.25
    with pytest.raises(
        BundleError, match=r"kubehabit version 4 fails its self-test.*0\.25 nats.*kubehabit train"
    ):
        verify_parity(replace(asked(bundle), nll=nll), graphs(bundle), "kubehabit version 4")


def test_each_of_the_two_graphs_is_held_to_it(bundle: Bundle) -> None:
    whole = graphs(bundle)

    class Shifted(NewestOnnxModel):
        def __call__(self, *given: Any) -> Any:
            return super().__call__(*given) + np.float32(0.5)

    def shifted(*given: Any) -> Any:
        nll, log_probs = whole.model(*given)
        return nll + np.float32(0.5), log_probs

    assert bundle.newest_path is not None
    for wrong in (
        Reconstruction(whole.model, Shifted(str(bundle.newest_path))),
        Reconstruction(shifted, whole.newest),
    ):
        with pytest.raises(BundleError, match=r"0\.5 nats"):
            verify_parity(asked(bundle), wrong, "This model")


def test_a_model_that_gives_no_number_is_refused(bundle: Bundle) -> None:
    def silent(tokens: Any, *_: Any) -> Any:
        return np.full((len(tokens), 1, tokens.shape[2]), np.nan, np.float32), None

    with pytest.raises(BundleError, match="inf nats"):
        verify_parity(asked(bundle), Reconstruction(silent), "This model")


def test_a_graph_that_cannot_be_run_is_refused(bundle: Bundle) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions")

    with pytest.raises(BundleError, match="cannot be run by the onnxruntime of this machine"):
        verify_parity(asked(bundle), Reconstruction(broken), "This model")


def test_a_bundle_of_an_earlier_version_has_none_and_opens(copied: Path) -> None:
    (copied / PARITY_FILE).unlink()
    seal(copied)
    assert Bundle.load(copied).parity_check is None


def test_a_self_test_cannot_be_taken_out_put_in_or_changed_unnoticed(copied: Path) -> None:
    whole = (copied / PARITY_FILE).read_bytes()
    (copied / PARITY_FILE).unlink()
    with pytest.raises(BundleError, match=f"lacks {PARITY_FILE}"):
        Bundle.load(copied)
    (copied / PARITY_FILE).write_bytes(whole[:-1] + b"?")
    with pytest.raises(BundleError, match=f"checksum of {PARITY_FILE}"):
        Bundle.load(copied)
    sums = json.loads((copied / "checksums.json").read_text())
    del sums[PARITY_FILE]
    (copied / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(BundleError, match=f"lacks {PARITY_FILE}"):
        Bundle.load(copied)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_an_unreadable_self_test_is_an_error(copied: Path, content: bytes) -> None:
    (copied / PARITY_FILE).write_bytes(content)
    seal(copied)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.load(copied)


def test_one_whose_columns_do_not_fit_is_an_error(bundle: Bundle, copied: Path) -> None:
    test = asked(bundle)
    for wrong in (
        replace(test, lengths=test.lengths[:-1]),
        replace(test, nll=test.nll.astype(np.float64)),  # type: ignore[arg-type]
        ParityCheck(
            *(getattr(test, name)[:0] for name in ("tokens", "lengths", "principal", "group", "nll"))
        ),
    ):
        wrong.save(copied / PARITY_FILE)
        seal(copied)
        with pytest.raises(BundleError, match="cannot be read"):
            Bundle.load(copied)


def test_it_tells_models_apart(bundle: Bundle) -> None:
    """The tolerance lies far above rounding and far below what another model differs by."""
    test, model = asked(bundle), graphs(bundle)
    assert test.difference(model) < TOLERANCE / 10
    shifted = replace(test, principal=np.roll(test.principal, 1))
    assert shifted.difference(model) > 10 * TOLERANCE
