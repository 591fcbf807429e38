"""Datasets on disk: actions as memory-mapped Arrow, windows as ranges of rows, and a card that says what is in them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from data.actions import (
    FIELDS,
    STATIC_FIELDS,
    ActionBatch,
    ActionEncoder,
    ActionSettings,
    gap_codes,
    stable_hash,
)
from data.errors import KubehabitError
from data.habits import ATTRIBUTES, attribute_hashes
from data.principals import Principal, PrincipalTable
from data.reader import DeadLetterFile, read_events
from data.sensitivity import Sensitivity
from data.shipped import shipped
from data.vocabulary import SPECIALS, UNKNOWN, Vocabulary

FORMAT = 1
HOLD_OUT = 0.2
"""Last share of the time span kept from fitting, for calibration."""

VOCABULARY_LIMIT = 2000
_DAY = 86_400_000_000


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What a build read and wrote; `card` is what stands in the dataset's `card.json`."""

    path: Path
    card: dict[str, Any]

    def describe(self) -> str:
        """A few lines for a person."""
        card = self.card
        kinds = ", ".join(f"{count} {kind}" for kind, count in card["principals"].items())
        lines = [
            f"{card['events']:,} events = {card['actions']:,} actions + {card['folded']:,} folded stages and repeats"
            f" + {card['dropped']:,} dropped; {card['dead_letters']:,} unreadable records",
            f"{card['first']} to {card['last']}; calibration from {card['split_at']}",
            f"principals: {kinds}",
            f"vocabulary: {sum(card['vocabulary'].values()):,} tokens over {len(FIELDS)} fields;"
            f" unknown in the calibration part: {card['unknown_share']:.2%}",
            f"fingerprint {card['fingerprint'][:16]}",
        ]
        if card["dead_letters"]:
            reasons = "; ".join(
                f"{count} x {reason}" for reason, count in card["dead_letter_reasons"].items()
            )
            lines.append(f"unreadable: {reasons} -> {card['dead_letter_file']}")
        return "\n".join(lines)


@dataclass(slots=True)
class _Columns:
    """All actions of the logs as arrays, in arrival order."""

    codes: npt.NDArray[np.int32]
    attributes: npt.NDArray[np.uint64]
    principal: npt.NDArray[np.int32]
    time: npt.NDArray[np.int64]
    sensitivity: npt.NDArray[np.int8]


def _read(
    logs: list[Path],
    encoder: ActionEncoder,
    sensitivity: Sensitivity,
    letters: DeadLetterFile,
    progress: bool,
) -> tuple[_Columns, dict[str, int]]:
    """Read and encode every log."""
    counts = Counter(events=0, folded=0, dropped=0)
    batches: list[ActionBatch] = []
    hashed: list[npt.NDArray[np.uint64]] = []
    levels: list[npt.NDArray[np.int8]] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("reading audit log", total=sum(_size(log) for log in logs))
        done = 0
        for log in logs:
            advance = partial(_advance, bar, task, done)
            for events in read_events(log, letters, on_bytes=advance):
                batch = encoder.encode(events)
                batches.append(batch)
                hashed.append(attribute_hashes(batch, encoder))
                levels.append(sensitivity.levels(batch, encoder))
                counts.update(events=len(events), folded=len(batch.folded), dropped=len(batch.dropped))
            done += _size(log)
            bar.update(task, completed=done)
    if not counts["events"]:
        unreadable = f" ({letters.count} unreadable records are in {letters.path})" if letters.count else ""
        raise KubehabitError(
            f"{', '.join(map(str, logs))}: no audit event found{unreadable}. Give a log of audit.k8s.io/v1 events, one a line."
        )
    if encoder.generation != 1:
        raise KubehabitError(
            "Over 2,000,000 distinct field values: build the dataset from fewer logs at a time."
        )
    codes = [
        np.stack([batch.codes[field] for field in STATIC_FIELDS], axis=1) for batch in batches if len(batch)
    ]
    return _Columns(
        codes=np.concatenate(codes) if codes else np.empty((0, len(STATIC_FIELDS)), np.int32),
        attributes=np.concatenate(hashed),
        principal=np.concatenate([batch.principal for batch in batches]),
        time=np.concatenate([batch.time for batch in batches]),
        sensitivity=np.concatenate(levels),
    ), dict(counts)


def _advance(bar: Progress, task: TaskID, before: int, read: int) -> None:
    bar.update(task, completed=before + read)


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError as error:
        raise KubehabitError(f"Cannot read the audit log {log}: {error.strerror}. Check the path.") from error


def _iso(microseconds: int) -> str:
    return (
        datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )


def build(
    logs: list[Path],
    out: Path,
    *,
    settings: ActionSettings | None = None,
    sensitivity: Sequence[Mapping[str, Any]] | None = None,
    hold_out: float = HOLD_OUT,
    dead_letters: Path | None = None,
    progress: bool = True,
) -> BuildSummary:
    """Turn audit logs into a dataset.

    Args:
        logs: audit logs, in time order.
        out: folder to write; must not hold a dataset already.
        settings: encoding choices; those shipped in `configs/actions.yaml` if not given.
        sensitivity: severity rules; those shipped in `configs/sensitivity.yaml` if not given.
        hold_out: last share of the time span, kept for calibration and never fitted on.
        dead_letters: file for unreadable records; `dead-letters.jsonl` in `out` if not given.

    Raises:
        KubehabitError: no log, no event, one principal only, or `out` is in use.
    """
    from datasets import Dataset, DatasetDict, Features, List, Value, disable_progress_bars

    if (out / "card.json").exists():
        raise KubehabitError(f"{out} already holds a dataset. Choose another --out, or delete it first.")
    if not logs:
        raise KubehabitError("No audit log given: name at least one file.")
    encoder = ActionEncoder(settings or ActionSettings.from_dict(shipped("actions.yaml")))
    rules = Sensitivity(sensitivity if sensitivity is not None else shipped("sensitivity.yaml")["rules"])
    letters = DeadLetterFile(dead_letters or out / "dead-letters.jsonl")
    try:
        columns, counts = _read(logs, encoder, rules, letters, progress)
    finally:
        letters.close()
    names = [principal.name for principal in encoder.principals]
    seen = [encoder.principals[code] for code in np.unique(columns.principal)]
    if len({principal.name for principal in seen}) < 2:
        raise KubehabitError(
            f"The log holds one principal only ({seen[0].name if seen else 'none'}): habits are learned by comparison. "
            "Give a log of the whole cluster, not one filtered to a user."
        )
    first, last = int(columns.time.min()), int(columns.time.max())
    split_at = last - int((last - first) * hold_out)
    fitting = columns.time < split_at
    if not fitting.any() or fitting.all():
        raise KubehabitError(
            "All events bear the same time, so nothing can be held back for calibration: give a longer log."
        )
    vocabulary = Vocabulary.fit(
        {
            field: _count(columns.codes[fitting, i], encoder.interners[field].values)
            for i, field in enumerate(STATIC_FIELDS)
        },
        span_days=(split_at - first) / _DAY,
        limit=VOCABULARY_LIMIT,
    )
    table = PrincipalTable.fit(
        _merge(encoder.principals[code] for code in np.unique(columns.principal[fitting]))
    )

    # One block of rows per principal, each in arrival order: a window is then a slice.
    by_name = {name: rank for rank, name in enumerate(sorted(set(names)))}
    rank = np.array([by_name[name] for name in names], np.int64)[columns.principal]
    order = np.argsort(rank, kind="stable")
    rank, time = rank[order], columns.time[order]
    tokens = _tokens(columns.codes[order], encoder, vocabulary)
    starts = np.flatnonzero(np.r_[True, rank[1:] != rank[:-1]])
    first_row = np.repeat(starts, np.diff(np.r_[starts, len(rank)]))
    gaps = np.maximum(np.diff(time, prepend=time[:1]), 0)
    gaps[starts] = -1
    tokens[:, -1] = gap_codes(gaps) + len(SPECIALS)

    by_code = [encoder.principals[code] for code in columns.principal[order][starts]]
    sizes = np.diff(np.r_[starts, len(rank)])
    rows = {
        "principal": np.repeat(np.array([table.ids.get(p.name, 0) for p in by_code], np.int32), sizes),
        "group": np.repeat(np.array([table.groups[table.group(p)] for p in by_code], np.int32), sizes),
        "name": np.repeat(np.array([p.name for p in by_code], object), sizes),
        "kind": np.repeat(np.array([p.kind for p in by_code], object), sizes),
        "time": time,
        "arrival": order,
        "sensitivity": columns.sensitivity[order],
    }
    features = Features(
        {
            **{name: Value("int32") for name in ("principal", "group")},
            **{name: Value("string") for name in ("name", "kind")},
            **{name: Value("int64") for name in ("time", "arrival")},
            "sensitivity": Value("int8"),
            "tokens": List(Value("int16"), length=len(FIELDS)),
            "attributes": List(Value("uint64"), length=len(ATTRIBUTES)),
        }
    )
    import pyarrow as pa

    arrow = pa.table(
        {
            **{name: pa.array(column) for name, column in rows.items()},
            "tokens": pa.FixedSizeListArray.from_arrays(
                pa.array(tokens.astype(np.int16).ravel()), len(FIELDS)
            ),
            "attributes": pa.FixedSizeListArray.from_arrays(
                pa.array(columns.attributes[order].ravel()), len(ATTRIBUTES)
            ),
        },
        schema=features.arrow_schema,
    )
    end = np.arange(len(rank), dtype=np.int64)
    in_calibration = time >= split_at
    windows = {
        split: Dataset.from_dict({"end": end[chosen], "history": (end - first_row)[chosen]})
        for split, chosen in (("train", ~in_calibration), ("calibration", in_calibration))
    }
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bars()  # the reader's own bar covers the long part
    DatasetDict({"actions": Dataset(arrow, fingerprint="actions"), **windows}).save_to_disk(
        str(out / "arrow")
    )
    kinds = Counter({p.name: p.kind for p in by_code}.values())
    digest = hashlib.sha256()
    for column in (
        tokens.astype("<i2"),
        time.astype("<i8"),
        columns.attributes[order].astype("<u8"),
        rows["sensitivity"],
    ):
        digest.update(np.ascontiguousarray(column).tobytes())
    unknown = tokens[in_calibration][:, : -1 if vocabulary.uses_hour else -2] == UNKNOWN
    card = {
        "format": FORMAT,
        "sources": [log.name for log in logs],
        **counts,
        "actions": len(rank),
        "dead_letters": letters.count,
        "dead_letter_reasons": letters.reasons,
        "dead_letter_file": str(letters.path.name) if letters.count else None,
        "first": _iso(first),
        "last": _iso(last),
        "split_at": _iso(split_at),
        "train_actions": int((~in_calibration).sum()),
        "calibration_actions": int(in_calibration.sum()),
        "principals": dict(sorted(kinds.items())),
        "vocabulary": dict(zip(FIELDS, vocabulary.sizes, strict=True)),
        "unknown_share": float(unknown.mean()) if unknown.size else 0.0,
        "fingerprint": digest.hexdigest(),
    }
    schema = {
        "settings": encoder.settings.to_dict(),
        "sensitivity": rules.table,
        "vocabulary": vocabulary.to_dict(),
        "principals": table.to_dict(),
    }
    (out / "schema.json").write_text(json.dumps(schema, indent=1))
    (out / "card.json").write_text(json.dumps(card, indent=1))  # last: its presence says the dataset is whole
    return BuildSummary(out, card)


def _merge(principals: Any) -> list[Principal]:
    """One entry a name: groups logged at different times are joined, narrow ones first."""
    merged: dict[str, Principal] = {}
    for principal in principals:
        known = merged.get(principal.name)
        groups = tuple(dict.fromkeys([*(known.groups[:-1] if known else ()), *principal.groups]))
        merged[principal.name] = Principal(principal.name, principal.kind, groups)
    return list(merged.values())


def _count(codes: npt.NDArray[np.int32], values: list[str]) -> dict[str, int]:
    counted = np.bincount(codes, minlength=len(values))
    return {value: int(count) for value, count in zip(values, counted, strict=True) if count}


def _tokens(
    codes: npt.NDArray[np.int32], encoder: ActionEncoder, vocabulary: Vocabulary
) -> npt.NDArray[np.int32]:
    batch = ActionBatch(
        event=np.arange(len(codes)),
        codes={field: codes[:, i] for i, field in enumerate(STATIC_FIELDS)},
        principal=np.zeros(len(codes), np.int32),
        time=np.zeros(len(codes), np.int64),
        principals=[],
        folded=np.empty(0, np.int64),
        dropped=np.empty(0, np.int64),
    )
    return vocabulary.encode(batch, encoder)


@dataclass(slots=True)
class ActionTable:
    """A built dataset, opened; the large columns are memory-mapped views of Arrow.

    Attributes:
        tokens: int16 [N, fields]; rows of one principal lie together in arrival order.
        attributes: uint64 [N, attributes], stable hashes for habits.
        principal, group: int32 [N], ids of the principal table (0 = not in the fitting part).
        name, kind: object [N].
        time: int64 [N], microseconds since 1970 UTC.
        arrival: int64 [N], position in the log.
        sensitivity: int8 [N], level in data.sensitivity.LEVELS.
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
    def name_hashes(self) -> npt.NDArray[np.uint64]:
        """Stable hash of each row's principal name, uint64 [N]."""
        return _hash_column(self.name)

    @property
    def group_hashes(self) -> npt.NDArray[np.uint64]:
        """Stable hash of each row's peer group, uint64 [N]."""
        groups = {index: group for group, index in self.principals.groups.items()}
        table = np.array([0, *(stable_hash(groups[i]) for i in range(1, len(groups) + 1))], np.uint64)
        return table[self.group]


def _hash_column(values: npt.NDArray[np.object_]) -> npt.NDArray[np.uint64]:
    unique, inverse = np.unique(values.astype(str), return_inverse=True)
    return np.array([stable_hash(str(value)) for value in unique], np.uint64)[inverse]


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

    def column(name: str) -> npt.NDArray[Any]:
        return cast(npt.NDArray[Any], actions.column(name).to_numpy(zero_copy_only=False))

    def matrix(name: str, width: int) -> npt.NDArray[Any]:
        chunks = [chunk.flatten().to_numpy() for chunk in actions.column(name).chunks]
        return (chunks[0] if len(chunks) == 1 else np.concatenate(chunks)).reshape(-1, width)

    return ActionTable(
        tokens=matrix("tokens", len(FIELDS)),
        attributes=matrix("attributes", len(ATTRIBUTES)),
        **{
            name: column(name)
            for name in ("principal", "group", "name", "kind", "time", "arrival", "sensitivity")
        },
        windows={
            split: np.stack([np.asarray(stored[split]["end"]), np.asarray(stored[split]["history"])], axis=1)
            for split in ("train", "calibration")
        },
        card=card,
        settings=ActionSettings.from_dict(schema["settings"]),
        rules=schema["sensitivity"],
        vocabulary=Vocabulary.from_dict(schema["vocabulary"]),
        principals=PrincipalTable.from_dict(schema["principals"]),
    )
