"""Fixtures that every room's tests share: a slice of the real recording, and a small model trained on it for real."""

from __future__ import annotations

import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from data.actions.encoder import ActionSettings
from data.events.reader import open_lines
from data.paths import Recordings

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = ROOT / "data" / "recordings"
#: How the recordings are encoded: they were made behind a load balancer.
RECORDED = ActionSettings.shipped(trusted_hops=Recordings.TRUSTED_HOPS)
#: A model small enough to train in seconds; nothing else about it is different.
SMALL = (
    "--trainer.max_steps=60",
    "--trainer.val_check_interval=30",
    "--data.batch_size=128",
    "--model.hidden=48",
    "--model.embedding=8",
    "--model.bottleneck=16",
    "--model.condition=16",
    "--register.threads=1",
)


# A job that a shell put into the background ignores Ctrl-C, and so would what tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests take long come first: at the end, no process has one left that the others would wait for."""
    long = {item.path for item in items if _takes_long(item)}
    items.sort(key=lambda item: item.path not in long)


def _takes_long(item: pytest.Item) -> bool:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    return item.get_closest_marker("slow") is not None or not {"trained", "browser"}.isdisjoint(fixtures)


@pytest.fixture(autouse=True)
def no_client_left() -> Iterator[None]:
    """A test that leaves MLflow's client running would have later ones ask the wrong registry."""
    yield
    client = sys.modules.get("serving.registry.client")
    assert client is None or client._started is None


@pytest.fixture(scope="session")
def normal_lines() -> list[bytes]:
    """The first 12,000 lines of the normal recording."""
    return list(islice(open_lines(RECORDINGS / "normal.jsonl.zst"), 12_000))


@pytest.fixture(scope="session")
def labelled_lines() -> list[bytes]:
    """The first 6,000 lines of the labelled recording: about two minutes, with the first attacks."""
    return list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 6_000))


@dataclass(frozen=True, slots=True)
class Trained:
    """A home folder in which a small model is registered as champion, and what led to it."""

    home: Path
    dataset: Path
    bundle: Path
    run_id: str
    version: str


@pytest.fixture(scope="session")
def few_parity_batches() -> Iterator[None]:
    """Two hundred batches take a third of such a training; tests/training/test_model.py has tests of its own for the graphs."""
    from training import export

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "PARITY_BATCHES", 20)
        yield


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, normal_lines: list[bytes], few_parity_batches: None
) -> Iterator[Trained]:
    """Dataset, training, export and registration, as `kubehabit train` does them."""
    from data.dataset.build import build
    from training.registry import download
    from training.train import train

    folder = tmp_path_factory.mktemp("trained")
    log = folder / "normal.jsonl"
    log.write_bytes(b"\n".join(normal_lines) + b"\n")
    before = {
        name: os.environ.pop(name, None)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "KUBEHABIT_HOME")
    }
    os.environ["KUBEHABIT_HOME"] = str(folder / "home")
    try:
        build([log], folder / "dataset", settings=RECORDED, progress=False)
        result = train(ROOT / "configs" / "train.yaml", folder / "dataset", list(SMALL))
        bundle = download("models:/kubehabit@champion")
        yield Trained(folder / "home", folder / "dataset", bundle, result.run_id, result.version)
    finally:
        os.environ.pop("KUBEHABIT_HOME")
        os.environ.update({name: value for name, value in before.items() if value is not None})


@pytest.fixture(scope="session")
def tiny_bundle(trained: Trained) -> Path:
    """Folder of a real, small model bundle."""
    return trained.bundle


@pytest.fixture(scope="session")
def registered_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small version that commit d7df1a5 registered, whose code is a package called `data`."""
    folder = tmp_path_factory.mktemp("registered")
    with tarfile.open(ROOT / "tests" / "fixtures" / "registered-d7df1a5.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "registered"
