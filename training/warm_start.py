"""Starting from another model: its weights, mapped by token, principal and peer-group name onto another vocabulary.

The weights lie in the bundle as plain arrays (`weights.npz`). Those of models made before lie in their MLflow run
(`weights/weights.npz`), with their checksum as a tag. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from data.actions.fields import FIELDS
from data.actions.vocabulary import SPECIALS, UNKNOWN, Vocabulary, back_offs
from data.arrays import Ints
from data.dataset.table import ActionTable
from data.errors import KubehabitError
from detection.bundle import Bundle
from training.registry import connected, download

ARTIFACT = "weights/weights.npz"
CHECKSUM_TAG = "weights_sha256"

#: Parameters with one row for each token, principal or peer group. All others are carried over whole if their shape fits.
ROWS: Mapping[str, str] = {
    **dict.fromkeys(("tokens.weight", "heads.weight", "heads.bias"), "token"),
    **dict.fromkeys(("next_heads.weight", "next_heads.bias"), "token"),
    "principal.weight": "principal",
    "group.weight": "group",
}
#: What is set and not learned: a new model keeps its own, whatever that of an earlier release was.
_SET = ("rebuilt_share",)


@dataclass(slots=True)
class Carried:
    """Parameters that a warm start took over from `champion`.

    Attributes:
        tokens, principals, groups: [carried by name, all of the new model].
        whole: parameters carried over as they were.
        fresh: parameters that start at random, because the champion has none of that name and shape.
    """

    champion: str
    tokens: tuple[int, int]
    principals: tuple[int, int]
    groups: tuple[int, int]
    whole: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """One line for a person."""
        fresh = f"; at random: {', '.join(self.fresh)}" if self.fresh else ""
        return (
            f"warm start from {self.champion}: {self.tokens[0]} of {self.tokens[1]} tokens, "
            f"{self.principals[0]} of {self.principals[1]} principals and {self.groups[0]} of {self.groups[1]} peer groups "
            f"known by name{fresh}"
        )


def parameters_of(model: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """A model's parameters, by name, as `weights_of` returns them."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def weights_of(bundle: Bundle, model_uri: str) -> dict[str, npt.NDArray[Any]]:
    """The weights of a model, by name; KubehabitError if they are gone or were changed."""
    path = bundle.weights_path
    content = _weights_of_run(bundle, model_uri) if path is None else path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise KubehabitError(
            f"The weights of {model_uri} cannot be read: {error}. Train without --warm-start."
        ) from error


def _weights_of_run(bundle: Bundle, model_uri: str) -> bytes:
    """The file of weights in the MLflow run of a model that was made before they lay in the bundle."""
    import mlflow

    run_id = bundle.meta["run_id"]
    try:
        with connected():
            tags = mlflow.MlflowClient().get_run(run_id).data.tags
            path = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=ARTIFACT))
        content = path.read_bytes()
    except Exception as error:
        raise KubehabitError(
            f"MLflow run {run_id} that made {model_uri} keeps no weights ({error}). Models made before weights were kept "
            "cannot be started from: train once without --warm-start."
        ) from error
    if hashlib.sha256(content).hexdigest() != tags.get(CHECKSUM_TAG):
        raise KubehabitError(
            f"The weights of {model_uri} (MLflow run {run_id}) do not match their checksum; they were changed. "
            "Train without --warm-start."
        )
    return content


def token_sources(old: Vocabulary, new: Vocabulary) -> tuple[Ints, Ints]:
    """Row of the old model for each token of the new one, and whether the value itself was known, int64 [V_new] each.

    A value that was not known has the row of its back-off, else of "unknown".
    """
    rows, known = [], []
    start = 0
    for name in FIELDS:
        ids = {value: index for index, value in enumerate(old.tokens[name])}
        for index, value in enumerate(new.tokens[name]):
            if index < len(SPECIALS):
                row, own = index, 1
            elif value in ids:
                row, own = ids[value], 1
            else:
                wider = (ids[broad] for broad in back_offs(name, value) if broad in ids)
                row, own = next(wider, UNKNOWN), 0
            rows.append(start + row)
            known.append(own)
        start += len(old.tokens[name])
    return np.array(rows, np.int64), np.array(known, np.int64)


def name_sources(old: Mapping[str, int], new: Mapping[str, int]) -> tuple[Ints, int]:
    """Row of the old model for each name of the new one, int64 [names + 1], and how many were known; a new name has row 0."""
    rows = np.zeros(len(new) + 1, np.int64)
    for name, index in new.items():
        rows[index] = old.get(name, 0)
    return rows, sum(name in old for name in new)


def start_from(model_uri: str, model: nn.Module, table: ActionTable) -> Carried:
    """Fill a new model with the weights of a registered one, in place; KubehabitError if nothing in it fits.

    A token, principal or peer group that both know by name keeps its row. A new token begins as its back-off or as "unknown",
    a new principal as one never seen, which the champion has learned to expect (principal dropout).
    """
    bundle = Bundle.load(download(model_uri))
    weights = weights_of(bundle, model_uri)
    token_rows, tokens_known = token_sources(bundle.vocabulary, table.vocabulary)
    principal_rows, principals_known = name_sources(bundle.principals.ids, table.principals.ids)
    group_rows, groups_known = name_sources(bundle.principals.groups, table.principals.groups)
    sources = {"token": token_rows, "principal": principal_rows, "group": group_rows}
    carried = Carried(
        model_uri,
        (int(tokens_known.sum()), len(tokens_known)),
        (principals_known, len(table.principals.ids)),
        (groups_known, len(table.principals.groups)),
    )
    state = model.state_dict()
    learned = {name: value for name, value in state.items() if name not in _SET}
    for name, current in learned.items():
        saved = weights.get(name)
        if saved is not None and name in ROWS:
            saved = saved[sources[ROWS[name]]]
        if saved is None or tuple(saved.shape) != tuple(current.shape):
            carried.fresh.append(name)
            continue
        state[name] = torch.from_numpy(np.ascontiguousarray(saved)).to(current.dtype)
        if name not in ROWS:
            carried.whole.append(name)
    if len(carried.fresh) == len(learned):
        raise KubehabitError(
            f"No weight of {model_uri} fits the new model: their architectures differ. Train without --warm-start, or with the "
            "champion's model settings."
        )
    model.load_state_dict(state)
    return carried
