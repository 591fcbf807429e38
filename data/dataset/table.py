"""A dataset on disk: memory-mapped Arrow, windows as ranges of rows, and a card that says what is in them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from data.actions.attributes import HASHED
from data.actions.encoder import ActionSettings
from data.actions.fields import FIELDS, stable_hash
from data.actions.vocabulary import Vocabulary
from data.arrays import runs
from data.errors import KubehabitError
from data.principals.peer_groups import PrincipalTable

FORMAT = 4


def dataset_features() -> dict[str, Any]:
    """Columns of each split: `actions`, and the windows of `train` and `calibration`."""
    from datasets import Features, List, Value

    window = Features({"end": Value("int64"), "history": Value("int64")})
    actions = Features(
        {
            **{name: Value("int32") for name in ("who", "principal", "group")},
            **{name: Value("int64") for name in ("time", "arrival")},
            "sensitivity": Value("int8"),
            "tokens": List(Value("int16"), length=len(FIELDS)),
            "attributes": List(Value("uint64"), length=HASHED),
        }
    )
    return {"actions": actions, "train": window, "calibration": window}


class ArrowFolder:
    """Writes a folder that `datasets.load_from_disk` opens memory-mapped, chunk by chunk.

    `Dataset.save_to_disk` wants the whole dataset first; this is the same layout, written as the rows come.

    Args:
        folder: to write.
        features: split -> `datasets.Features`.
    """

    def __init__(self, folder: Path, features: dict[str, Any]) -> None:
        self._folder, self._features = folder, features
        self._stack = contextlib.ExitStack()
        self._writers: dict[str, Any] = {}

    def __enter__(self) -> ArrowFolder:
        import pyarrow as pa

        shutil.rmtree(self._folder, ignore_errors=True)
        for split, features in self._features.items():
            (self._folder / split).mkdir(parents=True)
            sink = self._stack.enter_context(pa.OSFile(str(self._folder / split / _ARROW_FILE), "wb"))
            self._writers[split] = self._stack.enter_context(pa.ipc.new_stream(sink, features.arrow_schema))
        return self

    def __call__(self, split: str, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Append rows: a one-dimensional array for a value, two-dimensional for a list of fixed length."""
        import pyarrow as pa

        schema = self._features[split].arrow_schema
        arrays = []
        for field in schema:
            values = columns[field.name]
            array = pa.array(values.ravel())
            if values.ndim > 1:
                array = pa.FixedSizeListArray.from_arrays(array, values.shape[1])
            arrays.append(array.cast(field.type))
        self._writers[split].write_batch(pa.record_batch(arrays, schema=schema))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from datasets import DatasetInfo

        self._stack.close()
        if kind is not None:
            return
        for split, features in self._features.items():
            DatasetInfo(features=features).write_to_directory(str(self._folder / split))
            state = dict.fromkeys(("_format_columns", "_format_type", "_split")) | {
                "_data_files": [{"filename": _ARROW_FILE}],
                "_fingerprint": f"kubehabit-{split}",
                "_format_kwargs": {},
                "_output_all_columns": False,
            }
            (self._folder / split / "state.json").write_text(json.dumps(state))
        (self._folder / "dataset_dict.json").write_text(json.dumps({"splits": list(self._features)}))


_ARROW_FILE = "data-00000-of-00001.arrow"


@dataclass(slots=True)
class ActionTable:
    """A built dataset, opened; the large columns are memory-mapped views of Arrow.

    Attributes:
        tokens: int16 [N, fields]; rows of one principal lie together in arrival order.
        attributes: uint64 [N, attributes], stable hashes for habits.
        principal, group: int32 [N], ids of the principal table (0 = not in the fitting part).
        name, kind: object [N], of the principal.
        time: int64 [N], microseconds since 1970 UTC.
        arrival: int64 [N], position in the log.
        sensitivity: int8 [N], level in data.actions.sensitivity.LEVELS.
        windows: split -> int64 [M, 2]: last row of a window and number of earlier rows of that principal.
    """

    tokens: npt.NDArray[np.int16]
    attributes: npt.NDArray[np.uint64]
    principal: npt.NDArray[np.int32]
    group: npt.NDArray[np.int32]
    name: npt.NDArray[np.object_]
    kind: npt.NDArray[np.object_]
    time: npt.NDArray[np.int64]
    arrival: npt.NDArray[np.int64]
    sensitivity: npt.NDArray[np.int8]
    windows: dict[str, npt.NDArray[np.int64]]
    card: dict[str, Any]
    settings: ActionSettings
    rules: list[dict[str, Any]]
    vocabulary: Vocabulary
    principals: PrincipalTable

    @property
    def pauses(self) -> npt.NDArray[np.int64]:
        """Microseconds since the previous action of the principal of each row, 0 for its first, int64 [N]."""
        pauses = np.diff(self.time, prepend=self.time[:1])
        pauses[runs(self.name)[0]] = 0
        return np.maximum(pauses, 0)

    @property
    def width(self) -> int:
        """How many of ATTRIBUTES are news in this log, the first so many."""
        return HASHED + self.vocabulary.uses_hour

    @property
    def name_hashes(self) -> npt.NDArray[np.uint64]:
        """Stable hash of each row's principal name, uint64 [N]."""
        unique, inverse = np.unique(self.name.astype(str), return_inverse=True)
        return np.array([stable_hash(str(value)) for value in unique], np.uint64)[inverse]

    @property
    def group_hashes(self) -> npt.NDArray[np.uint64]:
        """Stable hash of each row's peer group, uint64 [N]."""
        groups = {index: group for group, index in self.principals.groups.items()}
        table = np.array([0, *(stable_hash(groups[i]) for i in range(1, len(groups) + 1))], np.uint64)
        return table[self.group]


def load(path: Path) -> ActionTable:
    """Open a dataset written by `build`.

    Raises:
        KubehabitError: there is none, or it was written by another format version.
    """
    from datasets import load_from_disk

    if not (path / "card.json").exists():
        raise KubehabitError(
            f"{path} holds no finished dataset. Build one: kubehabit data build LOG --out {path}"
        )
    card = json.loads((path / "card.json").read_text())
    if card.get("format") != FORMAT:
        raise KubehabitError(
            f"{path} was written in dataset format {card.get('format')}; build it again for format {FORMAT}."
        )
    schema = json.loads((path / "schema.json").read_text())
    stored = load_from_disk(str(path / "arrow"))
    actions = stored["actions"].data.table.combine_chunks()
    who = actions.column("who").to_numpy()

    def column(name: str) -> npt.NDArray[Any]:
        return cast(npt.NDArray[Any], actions.column(name).to_numpy(zero_copy_only=False))

    def matrix(name: str, width: int) -> npt.NDArray[Any]:
        chunks = [chunk.flatten().to_numpy() for chunk in actions.column(name).chunks]
        return (chunks[0] if len(chunks) == 1 else np.concatenate(chunks)).reshape(-1, width)

    return ActionTable(
        tokens=matrix("tokens", len(FIELDS)),
        attributes=matrix("attributes", HASHED),
        **{name: column(name) for name in ("principal", "group", "time", "arrival", "sensitivity")},
        name=np.array(schema["names"], object)[who],
        kind=np.array(schema["kinds"], object)[who],
        windows={
            split: np.stack([np.asarray(stored[split]["end"]), np.asarray(stored[split]["history"])], axis=1)
            for split in ("train", "calibration")
        },
        card=card,
        settings=ActionSettings.from_dict(schema["settings"], strict=False),
        rules=schema["sensitivity"],
        vocabulary=Vocabulary.from_dict(schema["vocabulary"]),
        principals=PrincipalTable.from_dict(schema["principals"]),
    )


def cut_windows(
    table: ActionTable, windows: npt.NDArray[np.int64], window: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token windows int64 [B, W, F], padded with 0 at the end, and their lengths int64 [B]."""
    end = windows[:, 0]
    lengths = np.minimum(windows[:, 1] + 1, window)
    steps = np.arange(window)
    rows = np.minimum(end[:, None] - lengths[:, None] + 1 + steps, len(table.tokens) - 1)
    tokens = table.tokens[rows].astype(np.int64)
    tokens[steps >= lengths[:, None]] = 0
    return tokens, lengths
