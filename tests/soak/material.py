"""What every run needs, made once before the first fork: a model, its versions in a registry, and the batches of a log."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data.events.decode import decode_body
from data.events.reader import open_lines
from detection.bundle import Bundle, seal
from serving.alerts.explain.explainer import Explainer
from serving.registry.client import Fetched
from serving.rollout.loader import load_model
from serving.scoring.engine import Loaded
from serving.settings import Settings
from tests.conftest import RECORDINGS, ROOT

#: Low, so that a small model raises enough alerts to compare.
_THRESHOLD = 0.5
VERSIONS = ("1", "2")


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that forked processes share.

    Attributes:
        bodies: batches, as a sender posts them.
        events: number of events in all of them.
        principals: whose actions they are.
        bundles: folder of each version's bundle; they give the same verdicts, under different checksums.
        loaded: the first version, which has not scored anything.
    """

    bodies: list[bytes]
    events: int
    principals: list[str]
    bundles: dict[str, Path]
    loaded: Loaded
    explainer: Explainer


def prepare(folder: Path, *, events: int, size: int, bundle: Path | None = None) -> Material:
    """Make the material in an empty folder.

    Args:
        folder: for the bundles.
        events: number of events of the labelled recording.
        size: events of a batch.
        bundle: of the model; the small one that an earlier release registered when None.
    """
    lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), events))
    bodies = [b"\n".join(lines[start : start + size]) for start in range(0, len(lines), size)]
    bundles = bundles_in(folder, bundle)
    first = Fetched(bundles["1"], "kubehabit", "1", "folder")
    loaded = load_model(Bundle.load(bundles["1"]), first, threads=1, cached_windows=0)
    fold = loaded.detector.encoder.identity.fold
    names = {fold(event.user.username) for body in bodies for event in decode_body(body).events}
    return Material(
        bodies,
        len(lines),
        sorted(names),
        bundles,
        loaded,
        Explainer.load(Settings().explain_path),
    )


def bundles_in(folder: Path, bundle: Path | None) -> dict[str, Path]:
    """Copies of a bundle, or of the tests' own, as the versions of a registry, easily surprised."""
    if bundle is None:
        with tarfile.open(ROOT / "tests" / "fixtures" / "registered-d7df1a5.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        bundle = folder / "registered" / "data" / "bundle"
    for version in VERSIONS:
        copy = folder / version
        shutil.copytree(bundle, copy)
        file = copy / "calibration.json"
        calibration = json.loads(file.read_text())
        for name in ("person_thresholds", "system_thresholds"):
            calibration[name] = [_THRESHOLD] * len(calibration["horizons"])
        file.write_text(json.dumps(calibration))
        with (copy / "card.md").open("a") as card:
            card.write(f"\nVersion {version}.\n")
        seal(copy)
    return {version: folder / version for version in VERSIONS}
