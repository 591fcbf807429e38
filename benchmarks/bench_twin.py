"""Can a classifier distinguish the twin from the recording, and by what? (docs/twin.md)

Run: python -m benchmarks.bench_twin [--seeds 3] [--details]

Both logs go through the product's own encoding. Names of principals, namespaces and objects are replaced by what they are
to the principal (its main namespace, another, the system's), so that only behaviour is left. A window is 16 consecutive
actions of one principal; features are how often each value of each field, each pair of neighbouring requests and each pause
occurs in it. Training is on the first part of both logs, judging on the rest. Two controls give the figure its scale: the
recording against its own continuation (what time alone gives away), and one twin against another (what other people with
other habits in a cluster of the same make give away). The figure without gaps leaves the pauses out: what is done, not how fast.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from benchmarks.report import Row, report
from data.actions.encoder import ActionEncoder
from data.actions.fields import GAPS, gap_codes
from data.actions.folding import client_family, reach_of
from data.events.reader import DeadLetterFile, read_events
from data.simulation import load_settings, simulate
from training.evaluation.metrics import named_by, read_labels

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ROOT / "data" / "recordings" / "normal.jsonl.zst"
LATER = ROOT / "data" / "recordings" / "labelled.jsonl.zst"
LABELS = ROOT / "data" / "recordings" / "labels.json"
KINDS = ("human", "serviceaccount", "controller", "node", "component")
WINDOW = 16
TOKENS = 500
FIELDS = (
    "request",
    "code",
    "uri",
    "traits",
    "namespace",
    "name",
    "gap",
    "client",
    "binding",
    "place",
    "pair",
)
TRAIN = 0.6
# As many principals as the recording has, and a normal part as long as the recording: half an hour.
PRINCIPALS, DAYS = 64, 0.0347
ACCOUNT = re.compile(r"serviceAccount=[^,]*")
SYSTEM = {"kube-system", "kube-node-lease", "default"}


class Windows:
    """Windows of one log: who made each, when (0..1 of the log), and how often each token occurs."""

    def __init__(self) -> None:
        self.kind: list[str] = []
        self.when: list[float] = []
        self.tokens: list[Counter[str]] = []


def _shape(name: str) -> str:
    return "-" if name == "-" else ("numbered" if "*" in name or "N" in name else "plain")


def read_windows(log: Path, leave_out: frozenset[str] = frozenset()) -> Windows:
    """Windows of a log, labelled actions left out."""
    encoder = ActionEncoder()
    columns: dict[str, list[str]] = {field: [] for field in FIELDS[:-1] if field != "gap"}
    who: list[int] = []
    times: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        letters = DeadLetterFile(Path(folder) / "dead-letters.jsonl")
        for events in read_events(log, letters):
            batch = encoder.encode([event for event in events if event.auditID not in leave_out])
            value = {field: encoder.interners[field].values for field in batch.codes}
            for row in range(len(batch)):
                principal = int(batch.principal[row])
                text = {field: value[field][batch.codes[field][row]] for field in batch.codes}
                who.append(principal)
                times.append(int(batch.time[row]))
                namespace = text["namespace"]
                columns["request"].append(f"{text['verb']} {text['resource']}")
                columns["code"].append(text["code"])
                columns["uri"].append(text["uri"])
                columns["traits"].append(ACCOUNT.sub("serviceAccount", text["traits"]))
                columns["namespace"].append(
                    namespace if namespace in SYSTEM or namespace == "-" else "*" + namespace
                )
                columns["name"].append(_shape(text["name"]))
                columns["client"].append(client_family(text["client"]).removesuffix("-crfix"))
                columns["binding"].append(text["binding"].split(" ")[0])
                columns["place"].append(reach_of(text["place"]))
    names = np.array(who)
    clock = np.array(times)
    span = clock.max() - clock.min() + 1
    found = Windows()
    for code in range(len(encoder.principals)):
        kind = encoder.principals[code].kind
        if kind not in KINDS:
            continue
        rows = np.flatnonzero(names == code)
        rows = rows[np.argsort(clock[rows], kind="stable")]
        gaps = gap_codes(np.diff(clock[rows], prepend=clock[rows[0]] + 1 if len(rows) else 0))
        homes = Counter(columns["namespace"][row] for row in rows if columns["namespace"][row][0] == "*")
        main = homes.most_common(1)[0][0] if homes else ""
        for start in range(0, len(rows) - WINDOW, WINDOW):
            tokens: Counter[str] = Counter()
            previous = ""
            for position in range(start, start + WINDOW):
                row = rows[position]
                for field, column in columns.items():
                    value_here = column[row]
                    if field == "namespace" and value_here[0] == "*":
                        value_here = "main" if value_here == main else "other"
                    tokens[f"{field}={value_here}"] += 1
                tokens[f"gap={GAPS[gaps[position]]}"] += 1
                request = columns["request"][row]
                if previous:
                    tokens[f"pair={previous} > {request}"] += 1
                previous = request
            found.kind.append(kind)
            found.when.append(float((clock[rows[start]] - clock.min()) / span))
            found.tokens.append(tokens)
    return found


def _matrix(windows: Windows, rows: Sequence[int], index: dict[str, int]) -> npt.NDArray[np.float32]:
    matrix = np.zeros((len(rows), len(index)), np.float32)
    for position, row in enumerate(rows):
        for token, count in windows.tokens[row].items():
            column = index.get(token)
            if column is not None:
                matrix[position, column] = count
    return matrix


class Verdict(NamedTuple):
    """What a classifier made of two logs.

    Attributes:
        auc: area under the ROC curve; 0.5 is a coin.
        auc_without_gaps: the same without the pauses between actions.
        fields: field -> AUC lost when its columns are shuffled.
        tokens: (token, AUC lost, mean count in a window of the left log, in one of the right), the heaviest first.
    """

    auc: float
    auc_without_gaps: float
    fields: dict[str, float]
    tokens: list[tuple[str, float, float, float]]


def tell_apart(left: Windows, right: Windows, kind: str, seed: int, limit: int = 1500) -> Verdict:
    """How well windows of one kind of principal can be separated, and by what."""
    random = np.random.default_rng(seed)
    chosen: list[dict[bool, list[int]]] = []
    for windows in (left, right):
        rows = [row for row in range(len(windows.kind)) if windows.kind[row] == kind]
        parts = {
            True: [r for r in rows if windows.when[r] < TRAIN],
            False: [r for r in rows if windows.when[r] >= TRAIN],
        }
        chosen.append({key: random.permutation(value).tolist() for key, value in parts.items()})
    sizes = {key: min(len(chosen[0][key]), len(chosen[1][key]), limit) for key in (True, False)}
    if min(sizes.values()) < 20:
        return Verdict(float("nan"), float("nan"), {}, [])
    counts: Counter[str] = Counter()
    for windows, parts in ((left, chosen[0]), (right, chosen[1])):
        for row in parts[True][: sizes[True]]:
            counts.update(windows.tokens[row].keys())
    index = {token: column for column, (token, _) in enumerate(counts.most_common(TOKENS))}

    def both(key: bool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        size = sizes[key]
        x = np.vstack(
            [_matrix(left, chosen[0][key][:size], index), _matrix(right, chosen[1][key][:size], index)]
        )
        return x, np.repeat([0, 1], size)

    x, y = both(True)
    still = [column for token, column in index.items() if not token.startswith("gap=")]
    model = HistGradientBoostingClassifier(max_iter=80, random_state=seed, early_stopping=False).fit(x, y)
    timeless = HistGradientBoostingClassifier(max_iter=80, random_state=seed, early_stopping=False)
    timeless.fit(x[:, still], y)
    x, y = both(False)
    auc = float(roc_auc_score(y, model.predict_proba(x)[:, 1]))
    auc_without_gaps = float(roc_auc_score(y, timeless.predict_proba(x[:, still])[:, 1]))

    def without(columns: Sequence[int]) -> float:
        shuffled = x.copy()
        shuffled[:, columns] = shuffled[random.permutation(len(x))][:, columns]
        return auc - float(roc_auc_score(y, model.predict_proba(shuffled)[:, 1]))

    fields = {
        field: without([c for token, c in index.items() if token.startswith(field + "=")]) for field in FIELDS
    }
    differ = np.abs(x[y == 0].mean(0) - x[y == 1].mean(0)) / (x.std(0) + 1e-6)
    tokens = list(index)
    top = [
        (tokens[c], without([c]), float(x[y == 0][:, c].mean()), float(x[y == 1][:, c].mean()))
        for c in np.argsort(-differ)[:40]
    ]
    top.sort(key=lambda entry: (-entry[1], -abs(entry[2] - entry[3])))
    return Verdict(auc, auc_without_gaps, fields, top[:12])


def main() -> None:
    """Simulate, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="twins to compare")
    parser.add_argument("--details", action="store_true", help="print the heaviest tokens of every kind")
    options = parser.parse_args()
    settings = load_settings(profile="recording")
    recording = read_windows(RECORDING)
    later = read_windows(LATER, named_by(read_labels(LABELS)))
    twins = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, options.seeds + 1):
            simulate(Path(folder) / str(seed), PRINCIPALS, DAYS, seed, attacks="none", settings=settings)
            twins.append(read_windows(Path(folder) / str(seed) / "normal.jsonl.zst"))
    rows: list[Row] = []
    for kind in KINDS:
        verdicts = [tell_apart(recording, twin, kind, seed) for seed, twin in enumerate(twins)]
        other = tell_apart(twins[0], twins[-1], kind, 0).auc if len(twins) > 1 else float("nan")
        later_auc = tell_apart(recording, later, kind, 0).auc
        figures = {
            "twin/recording": float(np.mean([verdict.auc for verdict in verdicts])),
            "twin/recording without gaps": float(np.mean([verdict.auc_without_gaps for verdict in verdicts])),
            "twin/twin": other,
            "recording/later": later_auc,
        }
        rows += [Row(f"{kind}: {name}", round(value, 4), "AUC") for name, value in figures.items()]
        lost = {
            field: float(np.mean([verdict.fields.get(field, 0.0) for verdict in verdicts]))
            for field in FIELDS
        }
        heavy = sorted(lost, key=lambda field: -lost[field])[:4]
        rows += [Row(f"{kind}: AUC lost without {field}", round(lost[field], 4), "AUC") for field in heavy]
        if options.details:
            print(kind)
            for token, weight, mean, mean_twin in verdicts[0].tokens:
                print(f"  {weight:6.3f}  recording {mean:6.3f}  twin {mean_twin:6.3f}  {token}")
    report("twin", rows)


if __name__ == "__main__":
    main()
