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
weights.npz       parameters of the network by name, for a warm start; absent from older bundles, not read by serving
checksums.json    SHA-256 of each file above; written last
checksums.json.sig  raw Ed25519 signature of checksums.json, in a bundle that was signed; `openssl pkeyutl -rawin` makes the same

A bundle may come from another machine: its files are bounded in size, must lie in its folder, and cannot name files elsewhere.
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
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from data.actions.attributes import ATTRIBUTES
from data.actions.encoder import ActionSettings
from data.actions.fields import FIELDS
from data.actions.sensitivity import Sensitivity
from data.actions.vocabulary import Vocabulary
from data.errors import BundleError
from data.principals.peer_groups import PrincipalTable
from detection.calibration import Calibration
from detection.novelty import HabitTable
from detection.parity_check import PARITY_FILE, ParityCheck

FORMAT = 2
FILES = (
    *("bundle.json", "calibration.json", "sensitivity.json", "model.onnx", "habits.npy", "warmup.npz"),
    "card.md",
)
#: Parameters of the network, by name.
WEIGHTS = "weights.npz"
OPTIONAL = ("newest.onnx", PARITY_FILE, WEIGHTS)


CHECKSUMS, SIGNATURE = "checksums.json", "checksums.json.sig"
#: Largest size of a file, and of all arrays of an archive unpacked: a graph can have no more, as protobuf cannot.
_MOST_BYTES = 2 << 30
_MOST_JSON_BYTES = 256 << 20
#: The key under which an ONNX graph names the file that holds a tensor's data. Ours hold their data themselves.
_EXTERNAL_DATA = b"location"
#: Attributes that every bundle knows; one that was made before the others knows the first so many.
_LEAST_ATTRIBUTES = 14
_AGAIN = "Fetch the model version again, or train and register a new one: kubehabit train"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(sums: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def seal(directory: Path) -> str:
    """Write `checksums.json` over the bundle's files; returns the checksum of the whole."""
    present = [name for name in OPTIONAL if (directory / name).is_file()]
    sums = {name: _sha256(directory / name) for name in (*FILES, *present)}
    (directory / CHECKSUMS).write_text(json.dumps(sums, indent=1))
    return _checksum(sums)


def sign(directory: Path, key: Ed25519PrivateKey) -> None:
    """Sign a sealed bundle: writes `checksums.json.sig` into it."""
    (directory / SIGNATURE).write_bytes(key.sign((directory / CHECKSUMS).read_bytes()))


def verify_signature(directory: Path, key: Ed25519PublicKey) -> None:
    """Check that the owner of a key signed a bundle's checksums.

    Raises:
        BundleError: there is no signature, or it is another key's or of other checksums.
    """
    try:
        signature = (directory / SIGNATURE).read_bytes()
    except OSError as error:
        raise BundleError(
            f"Model bundle {directory} is not signed ({SIGNATURE}: {error.strerror}), and model.public_key asks for a signature. "
            "Sign it with the private key, or serve a version that is signed."
        ) from error
    try:
        key.verify(signature, (directory / CHECKSUMS).read_bytes())
    except (InvalidSignature, OSError) as error:
        raise BundleError(
            f"The signature of model bundle {directory} is not by the key in model.public_key over these checksums: the bundle "
            "was changed after it was signed, or signed with another key. Do not serve it before you know which."
        ) from error


def _checksums(directory: Path) -> dict[str, str]:
    try:
        sums = json.loads(_bounded(directory / CHECKSUMS, _MOST_JSON_BYTES).read_text())
        if not isinstance(sums, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{directory} is no finished model bundle (checksums.json: {error}). {_AGAIN}"
        ) from error
    return sums


def _bounded(path: Path, most: int) -> Path:
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path.name} has {size:,} bytes, more than the {most:,} that a bundle may have")
    return path


def _check_files(directory: Path, sums: dict[str, str]) -> None:
    """Raise BundleError for a file that is missing, was changed, lies elsewhere, is too large or names another file."""
    present = [name for name in OPTIONAL if name in sums or (directory / name).exists()]
    for name in (*FILES, *present):
        path = directory / name
        if not path.is_file() or name not in sums:
            raise BundleError(f"Model bundle {directory} lacks {name}. {_AGAIN}")
        if not path.resolve().is_relative_to(directory.resolve()):
            raise BundleError(
                f"Model bundle {directory}: {name} is a link to a file outside the bundle. {_AGAIN}"
            )
        _bounded(path, _MOST_JSON_BYTES if path.suffix in (".json", ".md") else _MOST_BYTES)
        if _sha256(path) != sums[name]:
            raise BundleError(
                f"Model bundle {directory}: the checksum of {name} does not match; it was changed. {_AGAIN}"
            )
        if path.suffix == ".onnx" and _EXTERNAL_DATA in path.read_bytes():
            raise BundleError(
                f"Model bundle {directory}: {name} keeps data in another file (external data). {_AGAIN}"
            )
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _MOST_BYTES:
                raise ValueError(f"{name} would unpack to {unpacked:,} bytes")


def _habits(path: Path) -> HabitTable:
    # Mapped, because an array that claims to be larger than its file is then refused before memory is reserved for it.
    saved = np.load(path, mmap_mode="r", allow_pickle=False)
    if saved.dtype != np.uint64 or saved.ndim != 2 or saved.shape[1] != 2:
        raise ValueError(f"{path.name} is {saved.dtype} {saved.shape}, not uint64 [K, 2]")
    return HabitTable.from_array(np.array(saved))


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
            sizes=np.array([*map(len, blocks)], np.int64),
            tokens=np.concatenate(blocks) if blocks else np.empty((0, len(FIELDS)), np.int16),
            last=np.array([self.last[name] for name in names], np.int64),
        )

    @classmethod
    def load(cls, path: Path) -> Warmup:
        """Inverse of `save`."""
        with np.load(path, allow_pickle=False) as saved:
            names, ends = saved["names"].tolist(), np.cumsum(saved["sizes"])
            blocks = np.split(saved["tokens"], ends[:-1]) if names else []
            last = saved["last"].tolist()
            return cls(dict(zip(names, blocks, strict=True)), dict(zip(names, last, strict=True)))


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; the module's docstring lists its files.

    Attributes:
        parity_check: None in older bundles.
    """

    path: Path
    meta: dict[str, Any]
    vocabulary: Vocabulary
    principals: PrincipalTable
    settings: ActionSettings
    calibration: Calibration
    sensitivity: Sensitivity
    habits: HabitTable
    warmup: Warmup
    parity_check: ParityCheck | None = None

    @property
    def window(self) -> int:
        """Actions in a window."""
        return int(self.meta["model"]["window"])

    @property
    def checksum(self) -> str:
        """Checksum of the whole, as `seal` returned it."""
        return _checksum(_checksums(self.path))

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.path / "model.onnx"

    @property
    def weights_path(self) -> Path | None:
        """The parameters of the network, an `.npz` of arrays; None in older bundles."""
        path = self.path / WEIGHTS
        return path if path.is_file() else None

    @property
    def attributes(self) -> int:
        """How many of ATTRIBUTES it knows: the first so many, fewer than all if it was made before the others were."""
        return len(self.meta["attributes"])

    @property
    def is_starter(self) -> bool:
        """Whether it is for clusters that it was not trained on: it knows no principal."""
        return bool(self.meta.get("starter"))

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
        sums = _checksums(directory)
        try:
            _check_files(directory, sums)
            meta = json.loads((directory / "bundle.json").read_text())
            known = [*FIELDS, *list(ATTRIBUTES)[: max(len(meta["attributes"]), _LEAST_ATTRIBUTES)]]
            if (meta["format"], *meta["fields"], *meta["attributes"]) != (FORMAT, *known):
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
                habits=_habits(directory / "habits.npy"),
                warmup=Warmup.load(directory / "warmup.npz"),
                parity_check=ParityCheck.load(directory / PARITY_FILE) if PARITY_FILE in sums else None,
            )
        except BundleError:
            raise
        except Exception as error:  # whatever another machine wrote into it
            raise BundleError(f"Model bundle {directory} cannot be read: {error!r}. {_AGAIN}") from error
