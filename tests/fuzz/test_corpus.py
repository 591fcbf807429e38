"""What fuzzing found stays found: each input of the corpus, and mutations of it, break no promise of its target."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.fuzz import CORPUS, Recorder, read_figures
from benchmarks.fuzz_decoders import mutate
from benchmarks.fuzzing.targets import TARGETS

MUTATIONS = 250
LARGEST_CORPUS = 300_000


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_the_corpus_and_no_mutation_of_it_breaks_a_promise(name: str, tmp_path: Path) -> None:
    inputs = corpus(name)
    assert inputs, "a target without a corpus is not tested"
    recorder = Recorder({name: TARGETS[name]()}, tmp_path)
    (tmp_path / "crashes").mkdir()
    chance = random.Random(name)
    for content in (*inputs, *(mutate(chance.choice(inputs), chance, inputs) for _ in range(MUTATIONS))):
        recorder(b"\0" + content)
    said = [path.read_text() for path in (tmp_path / "crashes").glob("*.txt")]
    assert not said, said[0]
    recorder.write()
    assert read_figures(tmp_path)[name]["inputs"] == len(inputs) + MUTATIONS


def test_the_corpus_is_small_and_of_known_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < LARGEST_CORPUS


def test_a_broken_promise_is_kept_and_does_not_end_the_search(tmp_path: Path) -> None:
    def breaks(data: bytes) -> None:
        assert data != b"bad", "broken"

    (tmp_path / "crashes").mkdir()
    recorder = Recorder({"good": lambda data: None, "breaks": breaks}, tmp_path)
    for data in (b"\1bad", b"\1fine", b"\0bad", b"\1bad", b""):
        recorder(data)
    recorder.write()
    kept = [path for path in (tmp_path / "crashes").iterdir() if not path.suffix]
    assert [path.read_bytes() for path in kept] == [b"bad"]
    assert "AssertionError: broken" in kept[0].with_suffix(".txt").read_text()
    figures = read_figures(tmp_path)
    assert (figures["breaks"]["inputs"], figures["breaks"]["crashes"], figures["good"]["inputs"]) == (3, 2, 2)
    later = Recorder({"breaks": breaks}, tmp_path)  # a later search adds to what was counted
    later(b"\0fine")
    later.write()
    assert read_figures(tmp_path)["breaks"]["inputs"] == 4


def test_a_target_can_be_left_out(tmp_path: Path) -> None:
    fed: list[bytes] = []
    recorder = Recorder({"left out": fed.append, "kept": fed.append}, tmp_path, skip=["left out"])
    for data in (b"\0a", b"\1b"):
        recorder(data)
    assert fed == [b"b"]
    assert (recorder.figures["left out"]["inputs"], recorder.figures["kept"]["inputs"]) == (0, 1)
