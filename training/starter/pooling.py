"""Joins the datasets of several clusters to one, in which no principal, peer group or value of a single cluster is left.

The clusters stay apart: a principal of each has a name and habits of its own, also where two clusters use the same name.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import mix
from data.actions.fields import FIELDS, stable_hash
from data.actions.vocabulary import Vocabulary
from data.arrays import runs
from data.dataset.table import FORMAT, ActionTable, ArrowFolder, dataset_features
from data.errors import KubehabitError
from data.principals.identity import KINDS
from data.principals.peer_groups import PrincipalTable
from detection.state_transfer import translation
from training.starter.general import shared_vocabulary

_CHUNK_ROWS = 1 << 18


def nobody_known() -> PrincipalTable:
    """Principals of a model that knows none: each is compared with all of its kind."""
    return PrincipalTable(groups={f"kind:{kind}": index for index, kind in enumerate(KINDS, 1)})


def pool(tables: Sequence[ActionTable], out: Path) -> dict[str, Any]:
    """Write the joined dataset, as `kubehabit data build` writes one; returns its card.

    The logs are shifted in time so that all end together: what was held back of each lies at the end of the whole.

    Args:
        tables: datasets of different clusters, encoded with the same settings.
        out: folder to write; must not hold a finished dataset already.

    Raises:
        KubehabitError: no dataset, different settings, or `out` is in use.
    """
    if not tables:
        raise KubehabitError("A starter model needs the log of one cluster at least.")
    if (out / "card.json").exists():
        raise KubehabitError(f"{out} already holds a dataset. Choose another folder, or delete it first.")
    if any(table.settings.identity != tables[0].settings.identity for table in tables):
        raise KubehabitError(
            "The datasets were built with different identity rules: build them with the same settings."
        )
    vocabulary, principals = shared_vocabulary([table.vocabulary for table in tables]), nobody_known()
    last = max(int(table.time.max()) for table in tables)
    digest = hashlib.sha256()
    names: list[str] = []
    kinds: list[str] = []
    rows = held_back = 0
    with ArrowFolder(out / "arrow", dataset_features()) as write:
        for cluster, table in enumerate(tables):
            starts, sizes = runs(table.name)
            later = np.repeat(np.arange(len(starts)), sizes)
            columns = _columns(table, cluster, vocabulary, principals, last)
            columns["who"] = (len(names) + later).astype(np.int32)
            names += [f"{cluster}:{table.name[start]}" for start in starts.tolist()]
            kinds += [str(table.kind[start]) for start in starts.tolist()]
            for part in _chunks(columns):
                for name in ("tokens", "time", "attributes", "sensitivity"):
                    digest.update(np.ascontiguousarray(part[name]).tobytes())
                write("actions", part)
            for split, windows in table.windows.items():
                write(split, {"end": windows[:, 0] + rows, "history": windows[:, 1]})
            held_back += len(table.windows["calibration"])
            rows += len(table.tokens)
    schema = {
        # How many proxies can be trusted is for each cluster to say.
        "settings": tables[0].settings.to_dict() | {"trusted_hops": 0},
        "sensitivity": tables[0].rules,
        "vocabulary": vocabulary.to_dict(),
        "principals": principals.to_dict(),
        "names": names,
        "kinds": kinds,
        "groups": [f"kind:{kind}" for kind in kinds],
    }
    (out / "schema.json").write_text(json.dumps(schema, indent=1))
    card = _card(tables, kinds, vocabulary, digest.hexdigest(), rows, held_back)
    (out / "card.json").write_text(json.dumps(card, indent=1))  # last: its presence says the dataset is whole
    return card


def _columns(
    table: ActionTable, cluster: int, vocabulary: Vocabulary, principals: PrincipalTable, last: int
) -> dict[str, npt.NDArray[Any]]:
    """Columns of one cluster under the joined vocabulary, N rows each."""
    tokens = np.empty_like(table.tokens)
    for column, new in enumerate(translation(table.vocabulary, vocabulary)):
        tokens[:, column] = new[table.tokens[:, column]]
    groups: dict[str, int] = {kind: principals.groups[f"kind:{kind}"] for kind in KINDS}
    starts, sizes = runs(table.kind)
    of_kind = np.array([groups[table.kind[start]] for start in starts.tolist()], np.int32)
    # Two clusters must not know each other's habits.
    salt = np.full(table.attributes.shape, stable_hash(f"cluster:{cluster}"), np.uint64)
    shift = last - int(table.time.max())
    # Where a log is not quite in the order of time, the order of its own arrival holds.
    order = np.argsort(table.arrival, kind="stable")
    arrival = np.empty_like(table.time)
    arrival[order] = np.maximum.accumulate(table.time[order]) + shift
    return {
        "principal": np.zeros(len(tokens), np.int32),
        "group": np.repeat(of_kind, sizes),
        "time": table.time + shift,
        "arrival": arrival,
        "sensitivity": table.sensitivity,
        "tokens": tokens,
        "attributes": mix(salt, table.attributes),
    }


def _chunks(columns: dict[str, npt.NDArray[Any]]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    for begin in range(0, len(columns["time"]), _CHUNK_ROWS):
        yield {name: column[begin : begin + _CHUNK_ROWS] for name, column in columns.items()}


def _card(
    tables: Sequence[ActionTable],
    kinds: Sequence[str],
    vocabulary: Vocabulary,
    fingerprint: str,
    rows: int,
    held_back: int,
) -> dict[str, Any]:
    cards = [table.card for table in tables]
    return {
        "format": FORMAT,
        "actions": rows,
        **{key: min(card[key] for card in cards) for key in ("first", "split_at")},
        "last": max(card["last"] for card in cards),
        "train_actions": rows - held_back,
        "calibration_actions": held_back,
        "principals": dict(sorted(Counter(kinds).items())),
        "vocabulary": dict(zip(FIELDS, vocabulary.sizes, strict=True)),
        "unknown_share": 0.0,
        "fingerprint": fingerprint,
        "sources": [source for card in cards for source in card["sources"]],
        "clusters": [
            {key: card[key] for key in ("sources", "actions", "fingerprint", "principals")} for card in cards
        ],
    }
