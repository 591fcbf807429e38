"""The published sequence sets as plain lists: reading, splits, stand-ins for anomalies, counting rules and metrics.

Nothing here learns by gradient; `benchmarks.published` holds the models and the protocol.
"""

from __future__ import annotations

import gzip
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Session = tuple[str, ...]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FOLDER = """FOLDER must hold (missing sets are skipped):
  hdfs/train.txt.gz, hdfs/test_normal_distinct.txt.gz, hdfs/test_abnormal.txt.gz
      one session a line: event keys separated by spaces
  openstack/train.txt.gz, openstack/test_normal.txt.gz, openstack/test_abnormal.txt.gz
      one session a line: id, comma, event keys separated by spaces
  adfa-ld/ADFA-LD.zip
      the archive of the data set: Training_Data_Master, Validation_Data_Master, Attack_Data_Master
The data are not part of kubehabit; ADFA-LD is for academic use only."""


@dataclass(frozen=True, slots=True)
class SequenceSet:
    """One set, as its protocol wants it.

    Attributes:
        name: of the set.
        train: normal sessions to learn from; every member of an ensemble leaves out a fold of them.
        normal: normal sessions to be scored.
        abnormal: sessions to be found.
        kinds: the kind of each abnormal session; empty where the set names none.
    """

    name: str
    train: list[Session]
    normal: list[Session]
    abnormal: list[Session]
    kinds: list[str] = field(default_factory=list)


def distinct(normal: Sequence[Session], abnormal: Sequence[Session]) -> tuple[list[Session], list[Session]]:
    """Both lists without repeats and without the sessions that occur in both, sorted."""
    both = set(normal) & set(abnormal)
    return sorted(set(normal) - both), sorted(set(abnormal) - both)


def _lines(path: Path, *, ids: bool = False) -> list[Session]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        lines = [line.partition(",")[2] if ids else line for line in stream]
    return [tuple(line.split()) for line in lines if line.strip()]


def read_hdfs(folder: Path) -> SequenceSet:
    """HDFS sessions, distinct against distinct."""
    normal, abnormal = distinct(
        _lines(folder / "hdfs" / "test_normal_distinct.txt.gz"),
        _lines(folder / "hdfs" / "test_abnormal.txt.gz"),
    )
    return SequenceSet("hdfs", _lines(folder / "hdfs" / "train.txt.gz"), normal, abnormal)


def read_openstack(folder: Path, more: int = 0) -> SequenceSet:
    """OpenStack life cycles, distinct against distinct; with `more` > 0, that many normal test sessions are trained on.

    Sessions moved to the training are drawn with a fixed seed and no longer scored.
    """
    train = _lines(folder / "openstack" / "train.txt.gz", ids=True)
    normal = _lines(folder / "openstack" / "test_normal.txt.gz", ids=True)
    name = "openstack"
    if more:
        order = np.random.default_rng(0).permutation(len(normal))
        train = train + [normal[i] for i in order[:more]]
        normal = [normal[i] for i in order[more:]]
        name = f"openstack+{more}"
    normal, abnormal = distinct(normal, _lines(folder / "openstack" / "test_abnormal.txt.gz", ids=True))
    return SequenceSet(name, train, normal, abnormal)


def read_adfa(folder: Path) -> SequenceSet:
    """ADFA-LD traces, every one of them, repeats included."""
    parts: dict[str, list[tuple[str, Session]]] = {"Training": [], "Validation": [], "Attack": []}
    with zipfile.ZipFile(folder / "adfa-ld" / "ADFA-LD.zip") as archive:
        for name in sorted(archive.namelist()):
            part = re.search(r"(Training|Validation|Attack)_Data_Master/(?:(.+?)_\d+/)?[^/]+\.txt$", name)
            if part:
                parts[part[1]].append((part[2] or "", tuple(archive.read(name).decode("ascii").split())))
    return SequenceSet(
        "adfa-ld",
        [trace for _, trace in parts["Training"]],
        [trace for _, trace in parts["Validation"]],
        [trace for _, trace in parts["Attack"]],
        [kind for kind, _ in parts["Attack"]],
    )


def fresh(held: Sequence[Session], learnt: Sequence[Session]) -> list[Session]:
    """The distinct held-out sessions that were not learnt: to the hold-out what distinct test sessions are to the test."""
    return sorted(set(held) - set(learnt)) or sorted(set(held))


# --- stand-ins for anomalies, made of normal sessions only ---------------------------------------------------------


def corrupted(sessions: Sequence[Session], learnt: Sequence[Session], seed: int) -> list[Session]:
    """Held-out sessions with a fault each: cut short, a stretch lost, foreign or rare events put in, a stretch shuffled.

    Those that came out as something that was learnt, or unchanged, are left out.
    """
    rng = np.random.default_rng(seed)
    alphabet = sorted({event for session in learnt for event in session})
    known, made = set(learnt) | set(sessions), set[Session]()
    for session in sessions:
        length = len(session)
        begin = int(rng.integers(length))
        end = min(length, begin + 2 + int(rng.integers(max(1, length // 3))))
        middle = list(session[begin:end])
        rng.shuffle(middle)
        strange = str(rng.choice(alphabet))
        made |= {
            session[: 1 + begin],
            session[:begin] + session[end:],
            (*session[:begin], strange, *session[begin:]),
            (*session[:begin], strange, *session[begin + 1 :]),
            session[:begin] + tuple(middle) + session[end:],
        }
    return sorted(made - known - {()})


# --- rules that count ---------------------------------------------------------------------------------------------


def ngrams(session: Session, n: int) -> list[Session]:
    """The n-grams of a session with its ends marked, in order."""
    marked = ("^", *session, "$")
    return [marked[i : i + n] for i in range(max(1, len(marked) - n + 1))]


Rule = Callable[[Sequence[Session]], Callable[[Session], float]]


def _unseen(key: Callable[[Session], object]) -> Rule:
    def fit(learnt: Sequence[Session]) -> Callable[[Session], float]:
        seen = {key(session) for session in learnt}
        return lambda session: float(key(session) not in seen)

    return fit


def _unseen_events(learnt: Sequence[Session]) -> Callable[[Session], float]:
    seen = {event for session in learnt for event in session}
    return lambda session: sum(event not in seen for event in session) / len(session)


def _unseen_ngrams(n: int) -> Rule:
    def fit(learnt: Sequence[Session]) -> Callable[[Session], float]:
        seen = set[Session]().union(*(ngrams(session, n) for session in set(learnt)))

        def score(session: Session) -> float:
            grams = ngrams(session, n)
            return sum(gram not in seen for gram in grams) / len(grams)

        return score

    return fit


def _nearest_set(learnt: Sequence[Session]) -> Callable[[Session], float]:
    alphabet = {event: i for i, event in enumerate(sorted({event for s in learnt for event in s}))}
    sets = sorted({tuple(sorted(set(session))) for session in learnt})
    known = np.zeros((len(sets), len(alphabet)))
    for row, events in enumerate(sets):
        known[row, [alphabet[event] for event in events]] = len(events) ** -0.5

    def score(session: Session) -> float:
        events = set(session)
        here = [alphabet[event] for event in events if event in alphabet]
        nearest: float = known[:, here].sum(1).max()
        return 1.0 - nearest / math.sqrt(len(events))

    return score


RULES: dict[str, Rule] = {
    "event never seen": _unseen_events,
    "set of events never seen": _unseen(frozenset),
    "count vector never seen": _unseen(lambda session: frozenset(Counter(session).items())),
    "length never seen": _unseen(len),
    "2-grams never seen": _unseen_ngrams(2),
    "3-grams never seen": _unseen_ngrams(3),
    "6-grams never seen": _unseen_ngrams(6),
    "8-grams never seen": _unseen_ngrams(8),
    "cosine to the nearest set": _nearest_set,
}


# --- metrics ------------------------------------------------------------------------------------------------------


def f1(normal: Bools, abnormal: Bools) -> tuple[float, float, float]:
    """(F1, recall, false-positive rate) from what was flagged among the normal and among the abnormal."""
    hits, false = int(abnormal.sum()), int(normal.sum())
    return 2 * hits / max(1, hits + false + len(abnormal)), hits / len(abnormal), false / len(normal)


def auc(normal: Floats, abnormal: Floats) -> float:
    """Area under the ROC curve: chance that an abnormal score is above a normal one, ties counted half."""
    ranked = np.sort(normal)
    below = np.searchsorted(ranked, abnormal, "left")
    level = np.searchsorted(ranked, abnormal, "right") - below
    return float((below + 0.5 * level).mean() / len(normal))


def recall_at(normal: Floats, abnormal: Floats, share: float) -> float:
    """Share of the abnormal above the score that only `share` of the normal exceed."""
    return float((abnormal > np.quantile(normal, 1 - share)).mean())
