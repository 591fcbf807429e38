"""The model bundle: everything serving needs, as plain files with checksums. Nothing in it is unpickled.

bundle.json       format, fields, architecture, vocabulary, principals, settings, provenance
calibration.json  tails and thresholds
sensitivity.json  severity rules
model.onnx        reconstruction error per action and field
newest.onnx       the same for the newest action only, laid out for speed; absent where the architecture does not allow it
habits.npy        counts of past actions, uint64 [K, 2]
warmup.npz        last actions of each principal in training: the context of its first live action
card.md           model card
self_test.npz     a few windows with the errors that torch computed; absent from older bundles
checksums.json    SHA-256 of each file above; written last
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTES
from data.actions.encoder import ActionSettings
from data.actions.fields import FIELDS
from data.actions.sensitivity import Sensitivity
from data.actions.vocabulary import Vocabulary
from data.errors import BundleError
from data.principals.peer_groups import PrincipalTable
from detection.calibration import Calibration
from detection.novelty import Habits
from detection.parity_check import NAME as SELF_TEST
from detection.parity_check import SelfTest

FORMAT = 2
FILES = (
    "bundle.json",
    "calibration.json",
    "sensitivity.json",
    "model.onnx",
    "habits.npy",
    "warmup.npz",
    "card.md",
)
OPTIONAL = ("newest.onnx", SELF_TEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(sums: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def seal(directory: Path) -> str:
    """Write `checksums.json` over the bundle's files; returns the checksum of the whole."""
    present = [name for name in OPTIONAL if (directory / name).is_file()]
    sums = {name: _sha256(directory / name) for name in (*FILES, *present)}
    (directory / "checksums.json").write_text(json.dumps(sums, indent=1))
    return _checksum(sums)


@dataclass(frozen=True, slots=True)
class Warmup:
    """Context each principal starts with.

    Attributes:
        tokens: name -> int16 [<= W-1, fields], its last actions in training, oldest first.
        last: name -> microseconds since 1970 UTC of the last of them.
    """

    tokens: dict[str, npt.NDArray[np.int16]]
    last: dict[str, int]

    def save(self, path: Path) -> None:
        """Write as an `.npz` without object arrays."""
        names = sorted(self.tokens)
        blocks = [self.tokens[name] for name in names]
        np.savez_compressed(
            path,
            names=np.array(names, np.str_),
            sizes=np.array([len(block) for block in blocks], np.int64),
            tokens=np.concatenate(blocks) if blocks else np.empty((0, len(FIELDS)), np.int16),
            last=np.array([self.last[name] for name in names], np.int64),
        )

    @classmethod
    def load(cls, path: Path) -> Warmup:
        """Inverse of `save`."""
        with np.load(path, allow_pickle=False) as saved:
            names, ends = saved["names"].tolist(), np.cumsum(saved["sizes"])
            blocks = np.split(saved["tokens"], ends[:-1]) if names else []
            return cls(
                dict(zip(names, blocks, strict=True)), dict(zip(names, saved["last"].tolist(), strict=True))
            )


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; the module's docstring lists its files.

    Attributes:
        self_test: None in older bundles.
    """

    path: Path
    meta: dict[str, Any]
    vocabulary: Vocabulary
    principals: PrincipalTable
    settings: ActionSettings
    calibration: Calibration
    sensitivity: Sensitivity
    habits: Habits
    warmup: Warmup
    self_test: SelfTest | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of an action, in the order of the model's last axis."""
        return FIELDS

    @property
    def window(self) -> int:
        """Actions in a window."""
        return int(self.meta["model"]["window"])

    @property
    def checksum(self) -> str:
        """Checksum of the whole, as `seal` returned it."""
        return _checksum(json.loads((self.path / "checksums.json").read_text()))

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.path / "model.onnx"

    @property
    def newest_path(self) -> Path | None:
        """The ONNX graph for the newest action only, if there is one."""
        path = self.path / "newest.onnx"
        return path if path.is_file() else None

    @classmethod
    def load(cls, directory: Path) -> Bundle:
        """Open and verify a bundle.

        Raises:
            BundleError: a file is missing or differs from its checksum, or the bundle is of another format.
        """
        again = "Fetch the model version again, or train and register a new one: kubehabit train"
        try:
            sums = json.loads((directory / "checksums.json").read_text())
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{directory} is no finished model bundle (checksums.json: {error}). {again}"
            ) from error
        present = [name for name in OPTIONAL if name in sums or (directory / name).exists()]
        for name in (*FILES, *present):
            if not (directory / name).is_file() or name not in sums:
                raise BundleError(f"Model bundle {directory} lacks {name}. {again}")
            if _sha256(directory / name) != sums[name]:
                raise BundleError(
                    f"Model bundle {directory}: the checksum of {name} does not match; it was changed. {again}"
                )
        try:
            meta = json.loads((directory / "bundle.json").read_text())
            if (
                meta["format"] != FORMAT
                or tuple(meta["fields"]) != FIELDS
                or tuple(meta["attributes"]) != tuple(ATTRIBUTES)
            ):
                raise BundleError(
                    f"Model bundle {directory} was written for another version of kubehabit (format {meta.get('format')}). "
                    "Train a new one with this version, or serve it with the one that made it."
                )
            return cls(
                path=directory,
                meta=meta,
                vocabulary=Vocabulary.from_dict(meta["vocabulary"]),
                principals=PrincipalTable.from_dict(meta["principals"]),
                settings=ActionSettings.from_dict(meta["settings"], strict=False),
                calibration=Calibration.from_dict(json.loads((directory / "calibration.json").read_text())),
                sensitivity=Sensitivity(
                    json.loads((directory / "sensitivity.json").read_text()), strict=False
                ),
                habits=Habits.from_array(np.load(directory / "habits.npy", allow_pickle=False)),
                warmup=Warmup.load(directory / "warmup.npz"),
                self_test=SelfTest.load(directory / SELF_TEST) if SELF_TEST in sums else None,
            )
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"Model bundle {directory} cannot be read: {error!r}. {again}") from error
