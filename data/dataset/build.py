"""Builds a dataset: vocabulary and principals from the fitting part, all rows sorted by principal, and the card."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTES, HASHED, attribute_hash
from data.actions.breadth import NOT_MANY, SPANS, ReadTracker
from data.actions.encoder import ActionSettings
from data.actions.fields import FIELDS, STATIC_FIELDS, gap_codes
from data.actions.sensitivity import Sensitivity
from data.actions.vocabulary import SPECIALS, UNKNOWN, Vocabulary
from data.arrays import runs
from data.dataset.parts import DatasetPart, encode_all, plan
from data.dataset.pseudonyms import replace_people
from data.dataset.table import FORMAT, ArrowFolder, dataset_features
from data.errors import KubehabitError
from data.events.audit_event import DeadLetter
from data.events.reader import DeadLetterFile, LogPath, log_files
from data.events.remote_log import RemoteLog
from data.paths import shipped
from data.principals.identity import Identity, Principal, describe_folds, fold_report
from data.principals.ownership import OwnerTracker
from data.principals.peer_groups import COMPARED_LIMIT, PrincipalTable
from data.visible_text import visible

#: Last share of the time span kept from fitting, for calibration.
HOLD_OUT = 0.2

#: Requests that were under way when the log began count for at most this share of its length.
_LEAD = 0.25

VOCABULARY_LIMIT = 2000
_CHUNK_ROWS = 1 << 18
#: Requests that have begun and not ended, over all parts: long watches, a few thousand in a busy cluster.
_BEGUN = 1_000_000
#: Principal -> how often it did what: verb and resource, and the same with the namespace.
Profiles = dict[str, tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]]

_DAY = 86_400_000_000


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What a build read and wrote; `card` is the content of the dataset's `card.json`."""

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
        if card["folded_identities"]:
            lines += ["folded identities:"]
            lines += [f"  {line}" for line in describe_folds(card["folded_identities"])]
        if card["skipped"]:
            left_out = ", ".join(f"{count:,} x {reason}" for reason, count in card["skipped"].items())
            lines.append(f"no audit events, left out: {left_out}")
        if card["dead_letters"]:
            reasons = "; ".join(
                f"{count} x {reason}" for reason, count in card["dead_letter_reasons"].items()
            )
            lines.append(f"unreadable: {reasons} -> {card['dead_letter_file']}")
        return "\n".join(map(visible, lines))


def _iso(microseconds: int) -> str:
    time = datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")
    return time.replace("+00:00", "Z")


def build(
    logs: Sequence[LogPath],
    out: Path,
    *,
    settings: ActionSettings | None = None,
    sensitivity: Sequence[Mapping[str, Any]] | None = None,
    hold_out: float = HOLD_OUT,
    dead_letters: Path | None = None,
    pseudonyms: bytes | None = None,
    workers: int | None = None,
    progress: bool = True,
    spark: str | None = None,
) -> BuildSummary:
    """Turn audit logs into a dataset, out of core: memory does not grow with the logs.

    A build that was killed continues where it stopped when it is started again with the same logs, settings and `out`.

    Args:
        logs: audit logs, in time order.
        out: folder to write; must not hold a finished dataset already.
        settings: encoding choices; those shipped in `configs/actions.yaml` if not given.
        sensitivity: severity rules; those shipped in `configs/sensitivity.yaml` if not given.
        hold_out: last share of the time span, kept for calibration and never fitted on.
        dead_letters: file for unreadable records; `dead-letters.jsonl` in `out` if not given.
        pseudonyms: key of the names that stand for people (`data.dataset.pseudonyms`); no unreadable record is kept then.
        workers: processes that read logs; all cores if not given.
        spark: master of a Spark cluster whose machines read the logs instead; the dataset is the same.

    Raises:
        KubehabitError: no log, no event, one principal only, or `out` is in use.
    """
    if (out / "card.json").exists():
        raise KubehabitError(f"{out} already holds a dataset. Choose another --out, or delete it first.")
    if not logs:
        raise KubehabitError("No audit log given: name at least one file.")
    settings = settings or ActionSettings.shipped()
    rules = Sensitivity(sensitivity if sensitivity is not None else shipped("sensitivity.yaml")["rules"])
    # A folder or pattern elsewhere is its files, each a job of its own.
    elsewhere = ([*log_files([log])] if isinstance(log, RemoteLog) else [log] for log in logs)
    logs = [file for files in elsewhere for file in files]
    jobs = plan(logs)
    out.mkdir(parents=True, exist_ok=True)
    parts = encode_all(jobs, out / "parts", settings, rules, workers=workers, progress=progress, spark=spark)
    letters = _write_dead_letters(parts, dead_letters or out / "dead-letters.jsonl", pseudonyms is None)
    kept, repeats = _without_repeats(parts)
    counts: Counter[str] = Counter({"events": 0, "folded": repeats, "dropped": 0})
    skipped: Counter[str] = Counter()
    for part in parts:
        counts.update(part.meta["counts"])
        skipped.update(part.meta["skipped"])
    if not counts["events"]:
        shutil.rmtree(out / "parts", ignore_errors=True)
        unreadable = f" ({letters.count} unreadable records are in {letters.path})" if letters.count else ""
        raise KubehabitError(
            f"{', '.join(map(str, logs))}: no audit event found{unreadable}. "
            "Give a log of audit.k8s.io/v1 events, one a line."
        )
    _join_owners(kept, rules)
    _count_reads(kept)
    if pseudonyms is not None:
        replace_people((part.meta for part in parts), pseudonyms)
    span = _Span.from_parts(kept, hold_out)
    fitted = _fit(kept, span, Identity(settings.identity).similar_from)
    card = _write(kept, span, fitted, out)
    card |= {
        "sources": [log.name for log in logs],
        **counts,
        "skipped": dict(skipped),
        "dead_letters": letters.count,
        "dead_letter_reasons": letters.reasons,
        "dead_letter_file": str(letters.path.name) if letters.count else None,
        "folded_identities": fold_report(part.meta["folds"] for part in parts),
    }
    schema = {
        "settings": settings.to_dict(),
        "sensitivity": rules.table,
        "vocabulary": fitted.vocabulary.to_dict(),
        "principals": fitted.table.to_dict(),
        "names": fitted.names,
        "kinds": fitted.kinds,
        "groups": fitted.group_of,
    }
    (out / "schema.json").write_text(json.dumps(schema, indent=1))
    (out / "card.json").write_text(json.dumps(card, indent=1))  # last: its presence says the dataset is whole
    shutil.rmtree(out / "parts")
    return BuildSummary(out, card)


def _write_dead_letters(parts: list[DatasetPart], path: Path, with_records: bool) -> DeadLetterFile:
    letters = DeadLetterFile(path)
    path.unlink(missing_ok=True)  # of an earlier try; its parts bring the same letters again
    for part in parts:
        for line, reason, raw in part.meta["letters"]:
            letters.add(part.meta["log"], DeadLetter(line, reason, raw.encode() if with_records else b""))
    letters.close()
    return letters


@dataclass(frozen=True, slots=True)
class _KeptPart:
    """A part without the later stages and repeats of requests in earlier parts; it has one action at least."""

    part: DatasetPart
    mask: npt.NDArray[np.bool_]

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of the actions that stay."""
        column: npt.NDArray[Any] = np.asarray(self.part.column(name))[self.mask]
        return column


def _without_repeats(parts: list[DatasetPart]) -> tuple[list[_KeptPart], int]:
    """What stays of each part, and how many actions went: later stages or repeats of a request in an earlier part.

    Within a part the encoder has seen to that. Across parts a request is known by its hash: those of the two parts
    before, as the encoder's memory would hold them, and those that had only begun, however long ago.
    """
    kept: list[_KeptPart] = []
    repeats = 0
    before: list[npt.NDArray[np.uint64]] = []
    begun = np.empty(0, np.uint64)
    for part in parts:
        if not part.meta["rows"]:
            continue
        request = np.asarray(part.column("request"))
        again = _are_among(request, np.concatenate([begun, *before]))
        repeats += int(again.sum())
        if not again.all():
            kept.append(_KeptPart(part, ~again))
        started = request[np.asarray(part.column("started"))]
        begun = np.concatenate([begun[~_are_among(begun, request)], started])[-_BEGUN:]
        before = [*before[-1:], request]
    return kept, repeats


def _are_among(values: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """What `np.isin` says, in a third of its time."""
    if not len(others):
        return np.zeros(len(values), bool)
    ordered = np.sort(others)
    place = np.searchsorted(ordered, values)
    place[place == len(ordered)] = 0
    found: npt.NDArray[np.bool_] = ordered[place] == values
    return found


def _join_owners(parts: list[_KeptPart], rules: Sensitivity) -> None:
    """Fill in the owner of each action, and rate work on one's own: links are followed in the order of the log.

    Codes and levels are written in place; doing it again, after a kill, gives the same.
    """
    tracker = OwnerTracker()
    column = STATIC_FIELDS.index("owner")
    for kept in parts:
        stays = kept.mask.tolist()
        links = [(row, link) for row, link in kept.part.links if stays[row]]
        found = tracker.join(links)
        if own := tracker.own_work(links, kept.part.column("time")):
            levels = np.load(kept.part.path / "sensitivity.npy", mmap_mode="r+", allow_pickle=False)
            rules.cap_own_work(levels, own)
            levels.flush()
        if not found:
            continue
        values = kept.part.meta["values"]["owner"]
        code_of = {value: code for code, value in enumerate(values)}
        for _, owner in found:
            if owner not in code_of:
                code_of[owner] = len(values)
                values.append(owner)
        codes = np.load(kept.part.path / "codes.npy", mmap_mode="r+", allow_pickle=False)
        codes[[row for row, _ in found], column] = [code_of[owner] for _, owner in found]
        codes.flush()


def _count_reads(parts: list[_KeptPart]) -> None:
    """Fill in how many objects each person has read, which attributes hold, in the order of the log; as `_join_owners`."""
    tracker = ReadTracker()
    hashed = cache(attribute_hash)
    columns = [list(ATTRIBUTES).index(span) for span in SPANS]
    for kept in parts:
        reads = [(row, read) for row, read in kept.part.reads if kept.mask[row]]
        if not reads:
            continue
        time = kept.part.column("time")
        attributes = np.load(kept.part.path / "attributes.npy", mmap_mode="r+", allow_pickle=False)
        for row, read in reads:
            values = zip(columns, SPANS, tracker.follow(read, int(time[row])), strict=True)
            for column, span, value in values:
                if value != NOT_MANY:
                    attributes[row, column] = hashed(span, (read.verb, read.resource, value))
        attributes.flush()


@dataclass(frozen=True, slots=True)
class _Span:
    """Time of the first and last action and of the split, microseconds since 1970 UTC.

    Where requests began long before the log, `first` is the first that did not.
    """

    first: int
    last: int
    split_at: int

    @classmethod
    def from_parts(cls, parts: list[_KeptPart], hold_out: float) -> _Span:
        if not parts:
            raise KubehabitError(
                "Every event of the log is left out by the settings (drop_principals): nothing to learn."
            )
        times = [kept.column("time") for kept in parts]
        first, last = int(min(time.min() for time in times)), int(max(time.max() for time in times))
        # A watch that was under way when the log began may have begun hours before, and would leave nothing to fit on.
        begin = min(kept.part.meta["completed"] for kept in parts)
        earliest = begin - int(max(last - begin, 0) * _LEAD)
        if first < earliest:
            first = int(min(time[time >= earliest].min(initial=last) for time in times))
        if first == last:
            raise KubehabitError(
                "All events bear the same time, so nothing can be held back for calibration: give a longer log."
            )
        return cls(first, last, last - int((last - first) * hold_out))


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What is learned before anything is written; `names` lists the principals in the order of their blocks of rows."""

    vocabulary: Vocabulary
    table: PrincipalTable
    names: list[str]
    kinds: list[str]
    group_of: list[str]


def _fit(parts: list[_KeptPart], span: _Span, similar_from: float) -> _Fitted:
    """Vocabulary and principals, from the fitting part alone."""
    counts: dict[str, Counter[str]] = {field: Counter() for field in STATIC_FIELDS}
    fitting_principals: list[Principal] = []
    principals: list[Principal] = []
    for kept in parts:
        meta, fitting = kept.part.meta, kept.column("time") < span.split_at
        codes = kept.column("codes")[fitting]
        for i, field in enumerate(STATIC_FIELDS):
            values = meta["values"][field]
            counted = np.bincount(codes[:, i], minlength=len(values)).tolist()
            counts[field] += Counter(dict(zip(values, counted, strict=True)))
        listed = [Principal(name, kind, tuple(groups)) for name, kind, groups in meta["principals"]]
        who = kept.column("principal")
        fitting_principals += [listed[code] for code in np.unique(who[fitting]).tolist()]
        principals += [listed[code] for code in np.unique(who).tolist()]
    merged = sorted(_merge(principals), key=lambda p: p.name)
    if len(merged) < 2:  # one has nobody to be compared with
        raise KubehabitError(
            f"The log holds one principal only ({merged[0].name}): habits are learned by comparison. "
            "Give a log of the whole cluster, not one filtered to a user."
        )
    fitting_principals = _merge(fitting_principals)
    alone = PrincipalTable.fit(fitting_principals).alone()
    profiles = _profiles(parts, span, alone) if len(alone) > 1 else {}
    table = PrincipalTable.fit(fitting_principals, profiles, similar_from)
    days = (span.split_at - span.first) / _DAY
    return _Fitted(
        vocabulary=Vocabulary.fit(counts, span_days=days, limit=VOCABULARY_LIMIT),
        table=table,
        names=[p.name for p in merged],
        kinds=[p.kind for p in merged],
        group_of=[table.group(p) for p in merged],
    )


def _profiles(parts: list[_KeptPart], span: _Span, names: list[str]) -> Profiles:
    """What some principals did in the fitting part: verb and resource, and the same with the namespace.

    Of very many the busiest are taken, so that memory stays bounded.
    """
    columns = [STATIC_FIELDS.index(field) for field in ("verb", "resource", "namespace")]
    actions: Counter[str] = Counter()
    for counting in (True, False):
        chosen = set(names) if counting else {name for name, _ in actions.most_common(COMPARED_LIMIT)}
        profiles: Profiles = {name: (Counter(), Counter()) for name in chosen}
        for kept in parts:
            listed = [name for name, _, _ in kept.part.meta["principals"]]
            wanted = np.array([name in chosen for name in listed])
            who = kept.column("principal")
            rows = (kept.column("time") < span.split_at) & wanted[who]
            if counting:
                for code, times in enumerate(np.bincount(who[rows], minlength=len(listed)).tolist()):
                    actions[listed[code]] += times
                continue
            codes = kept.column("codes")[rows][:, columns]
            values = [kept.part.meta["values"][STATIC_FIELDS[column]] for column in columns]
            distinct, times_of = np.unique(np.c_[who[rows], codes], axis=0, return_counts=True)
            for (code, *row), times in zip(distinct.tolist(), times_of.tolist(), strict=True):
                action = tuple(value[i] for value, i in zip(values, row, strict=True))
                broad, narrow = profiles[listed[code]]
                broad[action[:2]] += times
                narrow[action] += times
    return profiles


def _merge(principals: list[Principal]) -> list[Principal]:
    """One entry a name: groups logged at different times are joined, narrow ones first."""
    merged: dict[str, Principal] = {}
    for principal in principals:
        known = merged.get(principal.name)
        groups = tuple(dict.fromkeys([*(known.groups[:-1] if known else ()), *principal.groups]))
        merged[principal.name] = Principal(principal.name, principal.kind, groups)
    return list(merged.values())


#: Columns of the rows: type and width.
_RAW: Mapping[str, tuple[type[np.generic], int]] = {
    "who": (np.int32, 1),
    "time": (np.int64, 1),
    "arrival": (np.int64, 1),
    "sensitivity": (np.int8, 1),
    "tokens": (np.int16, len(FIELDS)),
    "attributes": (np.uint64, HASHED),
}


def _write(parts: list[_KeptPart], span: _Span, fitted: _Fitted, out: Path) -> dict[str, Any]:
    """Sort all actions by principal and write them as Arrow; returns the measured half of the card.

    How many rows each principal has is known, so every part's rows can be put where they belong at once (a counting sort on
    disk), and no more than a part and a chunk are ever in memory.
    """
    rank = {name: index for index, name in enumerate(fitted.names)}
    sizes = np.zeros(len(rank), np.int64)
    for kept in parts:
        sizes += np.bincount(_ranks(kept, rank), minlength=len(rank))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    _scatter(parts, rank, starts.copy(), fitted.vocabulary, out / "parts" / "rows")
    return _to_arrow(out, int(sizes.sum()), starts, span, fitted)


def _ranks(kept: _KeptPart, rank: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """Rank of the principal of each action of a part, int32 [N]."""
    local = np.array([rank.get(name, -1) for name, _, _ in kept.part.meta["principals"]], np.int32)
    ranks: npt.NDArray[np.int32] = local[kept.column("principal")]
    return ranks


def _scatter(
    parts: list[_KeptPart],
    rank: Mapping[str, int],
    place: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    folder: Path,
) -> None:
    """Write every part's rows to their final places in raw column files. `place`: next free row of each principal."""
    folder.mkdir(exist_ok=True)
    last = np.full(len(place), -1, np.int64)
    arrival = 0
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in _RAW}
        for kept in parts:
            who = _ranks(kept, rank)
            order = np.argsort(who, kind="stable")
            who, time, codes = who[order], kept.column("time")[order], kept.column("codes")[order]
            tokens = np.empty((len(who), len(FIELDS)), np.int16)
            for i, field in enumerate(STATIC_FIELDS):
                tokens[:, i] = vocabulary.table(field, kept.part.meta["values"][field])[codes[:, i]]
            first, sizes = runs(who)
            gaps = np.maximum(np.diff(time, prepend=time[:1]), 0)
            gaps[first] = np.where(last[who[first]] < 0, -1, np.maximum(time[first] - last[who[first]], 0))
            tokens[:, -1] = gap_codes(gaps) + len(SPECIALS)
            rows: dict[str, npt.NDArray[Any]] = {
                "who": who,
                "time": time,
                "arrival": arrival + order,
                "sensitivity": kept.column("sensitivity")[order],
                "tokens": tokens,
                "attributes": kept.column("attributes")[order],
            }
            for begin, end in zip(first.tolist(), (first + sizes).tolist(), strict=True):
                row = int(place[who[begin]])
                for name, (kind, width) in _RAW.items():
                    block = np.ascontiguousarray(rows[name][begin:end], kind)
                    files[name].seek(row * width * block.itemsize)
                    files[name].write(block.tobytes())
                place[who[begin]] += end - begin
                last[who[begin]] = time[end - 1]
            arrival += len(who)


def _to_arrow(
    out: Path, total: int, starts: npt.NDArray[np.int64], span: _Span, fitted: _Fitted
) -> dict[str, Any]:
    """Raw columns -> a `datasets` folder, chunk by chunk; returns what was measured on the way."""
    table, vocabulary = fitted.table, fitted.vocabulary
    principal_of = np.array([table.ids.get(name, 0) for name in fitted.names], np.int32)
    group_of = np.array([table.groups[group] for group in fitted.group_of], np.int32)
    digest = hashlib.sha256()
    unknown = np.zeros(2, np.int64)
    held_back = 0
    known_fields = slice(None, -1) if vocabulary.uses_hour else slice(None, -2)
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(ArrowFolder(out / "arrow", dataset_features()))
        files = {name: stack.enter_context((out / "parts" / "rows" / name).open("rb")) for name in _RAW}
        for begin in range(0, total, _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, total - begin)
            rows = {}
            for name, (kind, width) in _RAW.items():
                column = np.fromfile(files[name], kind, count * width)
                rows[name] = column.reshape(count, width) if width > 1 else column
            for name in ("tokens", "time", "attributes", "sensitivity"):
                digest.update(rows[name].astype(rows[name].dtype.newbyteorder("<"), copy=False).tobytes())
            who, end = rows["who"], np.arange(begin, begin + count)
            late = rows["time"] >= span.split_at
            held_back += int(late.sum())
            judged = rows["tokens"][late][:, known_fields]
            unknown += [(judged == UNKNOWN).sum(), judged.size]
            write("actions", rows | {"principal": principal_of[who], "group": group_of[who]})
            history = end - starts[who]
            for split, chosen in (("train", ~late), ("calibration", late)):
                write(split, {"end": end[chosen], "history": history[chosen]})
    kinds = Counter(fitted.kinds)
    if not 0 < held_back < total:
        raise KubehabitError("Nothing lies before or after the split: give a longer log.")
    return {
        "format": FORMAT,
        "actions": total,
        "first": _iso(span.first),
        "last": _iso(span.last),
        "split_at": _iso(span.split_at),
        "train_actions": total - held_back,
        "calibration_actions": held_back,
        "principals": dict(sorted(kinds.items())),
        "vocabulary": dict(zip(FIELDS, vocabulary.sizes, strict=True)),
        "unknown_share": float(unknown[0] / max(unknown[1], 1)),
        "fingerprint": digest.hexdigest(),
    }
