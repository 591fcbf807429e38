"""The published sequence sets (HDFS, ADFA-LD, OpenStack), ours beside a next-key LSTM and beside rules that only count.

    python -m benchmarks.published FOLDER [--set hdfs] [--seeds 3]

The model is `training.model.Autoencoder` with one field and one principal. Thresholds and the choice of score come from normal
sessions only. docs/published-benchmarks.md has the protocol and the figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.report import RESULTS, Row, at_least, report
from benchmarks.sequences import (
    FOLDER,
    RULES,
    Floats,
    SequenceSet,
    Session,
    auc,
    corrupted,
    f1,
    foreign,
    fresh,
    hold_out,
    read_adfa,
    read_hdfs,
    read_openstack,
    recall_at,
)
from data.vocabulary import MASK, PAD, UNKNOWN
from training.model import Autoencoder, ModelConfig, targets_at

BEGIN, END = MASK + 1, MASK + 2
QUANTILE = 0.995
STRETCH = 60  # calls in a stretch of a long trace; shorter ones are one stretch

Surprise = tuple[Floats, Floats]  # NLL (nats) and rank of every event of a session
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Budget:
    """What every detector gets alike for one view of a set.

    Attributes:
        steps: training steps of one model.
        batch: windows in a step.
        window: events in a window, ends included; longer sessions are cut into overlapping windows.
        members: models trained with different seeds whose surprise is averaged.
    """

    steps: int
    batch: int
    window: int
    members: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a set is run.

    Attributes:
        budgets: view -> budget. `whole` is the session as it is, `kinds` its distinct events in sorted order.
        cloze: whether each event of `whole` is decoded from its neighbours alone.
        metric: "f1" (distinct against distinct, threshold from the hold-out) or "auc" (every trace).
        rules: the counting rules of the table.
        rivals: the learning detectors beside ours.
    """

    budgets: dict[str, Budget]
    cloze: bool
    metric: str
    rules: tuple[str, ...]
    rivals: tuple[str, ...]


OURS = "autoencoder"
LSTM_DISTINCT = "next-key LSTM"
LSTM_REPEATS = "next-key LSTM, repeats learnt as often as they come"
# A detector is read twice: by what it makes of the session alone, and by that and what it makes of the session's set of
# events. The rival as published (DeepLog) has only the first.
ALONE, BOTH = "session", "session and set"
_LOGS = (
    "event never seen",
    "set of events never seen",
    "count vector never seen",
    "length never seen",
    "2-grams never seen",
    "3-grams never seen",
)
PLANS = {
    "hdfs": Plan(
        {"whole": Budget(1500, 64, 48, 1), "kinds": Budget(400, 64, 20, 1)},
        cloze=False,
        metric="f1",
        rules=_LOGS,
        rivals=(LSTM_DISTINCT, LSTM_REPEATS),
    ),
    "openstack": Plan(
        {"whole": Budget(300, 64, 32, 1), "kinds": Budget(200, 64, 32, 1)},
        cloze=False,
        metric="f1",
        rules=_LOGS,
        rivals=(LSTM_DISTINCT, LSTM_REPEATS),
    ),
    "adfa-ld": Plan(
        {"whole": Budget(500, 32, 100, 1), "kinds": Budget(300, 32, 80, 1)},
        cloze=True,
        metric="auc",
        rules=(
            "event never seen",
            "set of events never seen",
            "length never seen",
            "3-grams never seen",
            "6-grams never seen",
            "8-grams never seen",
            "cosine to the nearest set",
        ),
        rivals=(LSTM_DISTINCT,),  # its training traces hardly repeat: 780 of 833 are distinct
    ),
}


def view(name: str, session: Session) -> Session:
    """A session as `whole` or `kinds` sees it."""
    return session if name == "whole" else tuple(sorted(set(session)))


class Alphabet:
    """Event key <-> token of the one field."""

    def __init__(self, learnt: Sequence[Session]) -> None:
        self.ids = {event: END + 1 + i for i, event in enumerate(sorted({e for s in learnt for e in s}))}
        self.size = END + 1 + len(self.ids)

    def encode(self, session: Session) -> list[int]:
        """Tokens of a session, its ends marked."""
        return [BEGIN, *(self.ids.get(event, UNKNOWN) for event in session), END]


def cut(length: int, window: int) -> list[tuple[int, int, int, int]]:
    """Overlapping windows over a session: (begin, end, first scored, after the last scored).

    Every event is scored once, in the window in which it stands furthest from an edge.
    """
    if length <= window:
        return [(0, length, 0, length)]
    begins = [*range(0, length - window, max(1, window * 3 // 4)), length - window]
    borders = [0, *((a + b + window) // 2 for a, b in pairwise(begins)), length]
    return [(b, b + window, borders[i], borders[i + 1]) for i, b in enumerate(begins)]


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(tokens int64 [B, W], lengths int64 [B])."""
    lengths = [len(row) for row in rows]
    tokens = np.full((len(rows), max(lengths)), PAD, np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return torch.from_numpy(tokens), torch.tensor(lengths)


class Reconstruction(nn.Module):
    """Ours: the product's autoencoder over one field. Gives logits of every event of a window, oldest first."""

    def __init__(self, size: int, budget: Budget, cloze: bool) -> None:
        super().__init__()
        self.model = Autoencoder(
            ModelConfig(
                vocabulary=(size,),
                principals=1,
                groups=1,
                window=budget.window,
                embedding=32 if cloze else 16,
                bottleneck=64 if cloze else 32,
                condition=8,
                depth=budget.window,
                mask=0.2,
                cloze=cloze,
            )
        )

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(logits [B, W, V], targets [B, W], real [B, W]) for tokens [B, W]; newest first."""
        events = tokens.unsqueeze(-1)  # [B, W, 1]
        positions = torch.arange(tokens.shape[1])
        one = torch.ones(len(tokens), dtype=torch.int64)
        read = self.model.corrupt(events) if self.training else events
        logits = self.model(read, lengths, one, one, positions)  # [B, W, V]
        return (
            logits,
            targets_at(events, lengths, positions).squeeze(-1),
            positions.unsqueeze(0) < lengths.unsqueeze(1),
        )


class NextKey(nn.Module):
    """The rival: an LSTM that predicts the next event from all before it (Du et al. 2017, DeepLog), as wide as ours."""

    def __init__(self, size: int, budget: Budget, cloze: bool) -> None:  # noqa: ARG002
        super().__init__()
        self.tokens = nn.Embedding(size, 32)
        self.lstm = nn.LSTM(32, 128, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(128, size)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As for `Reconstruction`, newest first; the first event of a window has nothing before it and stays unscored."""
        states, _ = self.lstm(self.dropout(self.tokens(tokens)))
        logits = self.head(self.dropout(states))  # [B, W, V], of the event after each
        positions = torch.arange(tokens.shape[1])
        index = (lengths.unsqueeze(1) - 1 - positions.unsqueeze(0)).clamp(min=0)  # [B, W]
        before = (index - 1).clamp(min=0).unsqueeze(-1).expand(-1, -1, logits.shape[2])
        return (
            logits.gather(1, before),
            tokens.gather(1, index),
            positions.unsqueeze(0) < lengths.unsqueeze(1) - 1,
        )


Make = Callable[[int, Budget, bool], nn.Module]


@dataclass(frozen=True, slots=True)
class Detector:
    """A kind of model and how sessions are drawn for it.

    Attributes:
        make: builds the model.
        repeats: whether a session that occurs often is drawn often; else every distinct one alike.
    """

    make: Make
    repeats: bool


DETECTORS = {
    OURS: Detector(Reconstruction, repeats=False),
    LSTM_DISTINCT: Detector(NextKey, repeats=False),
    LSTM_REPEATS: Detector(NextKey, repeats=True),
}


class Fitted:
    """The models of one detector on one view."""

    def __init__(
        self, detector: Detector, name: str, plan: Plan, learnt: Sequence[Session], seed: int, tick: Tick
    ) -> None:
        self.name, self.budget = name, plan.budgets[name]
        seen = [view(name, session) for session in learnt]
        drawn = seen if detector.repeats else sorted(set(seen))
        self.alphabet = Alphabet(seen)
        rows = [self.alphabet.encode(session) for session in drawn]
        windows = [row[a:b] for row in rows for a, b, _, _ in cut(len(row), self.budget.window)]
        cloze = plan.cloze or name == "kinds"
        self.models = []
        for member in range(self.budget.members):
            torch.manual_seed(seed * 100 + member)
            model = detector.make(self.alphabet.size, self.budget, cloze)
            self._train(model, windows, seed * 100 + member, tick)
            self.models.append(model.eval())

    def _train(self, model: nn.Module, windows: list[list[int]], seed: int, tick: Tick) -> None:
        rng = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=self.budget.steps)
        model.train()
        for _ in range(self.budget.steps):
            tokens, lengths = pad([windows[i] for i in rng.integers(len(windows), size=self.budget.batch)])
            logits, targets, real = model(tokens, lengths)
            loss = functional.cross_entropy(logits[real], targets[real])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            tick()

    @torch.no_grad()
    def surprise(self, sessions: Sequence[Session]) -> list[Surprise]:
        """NLL and rank of every event, averaged over the members; alike sessions are scored once."""
        seen = [view(self.name, session) for session in sessions]
        unlike = sorted(set(seen))
        rows = [self.alphabet.encode(session) for session in unlike]
        parts = [(i, *part) for i, row in enumerate(rows) for part in cut(len(row), self.budget.window)]
        parts.sort(key=lambda part: part[2] - part[1])
        nll, rank = ([np.full(len(row), np.nan) for row in rows] for _ in range(2))
        for start in range(0, len(parts), 256):
            some = parts[start : start + 256]
            tokens, lengths = pad([rows[i][a:b] for i, a, b, _, _ in some])
            losses, ranks = [], []
            for model in self.models:
                logits, targets, real = model(tokens, lengths)
                log_probs = functional.log_softmax(logits, dim=-1)
                truth = log_probs.gather(-1, targets.unsqueeze(-1))
                losses.append((-truth.squeeze(-1)).masked_fill(~real, torch.nan))
                ranks.append((log_probs > truth).sum(-1).float().masked_fill(~real, torch.nan))
            mean_nll, mean_rank = (torch.stack(x).mean(0).numpy() for x in (losses, ranks))  # [B, W]
            for row, (i, _, b, first, last) in enumerate(some):
                newest = slice(b - last, b - first)  # newest first -> oldest first
                nll[i][first:last] = mean_nll[row, newest][::-1]
                rank[i][first:last] = mean_rank[row, newest][::-1]
        found = {
            session: (nll[i][~np.isnan(nll[i])], rank[i][~np.isnan(rank[i])])
            for i, session in enumerate(unlike)
        }
        return [found[session] for session in seen]


def _stretches(nll: Floats) -> Floats:
    if len(nll) <= STRETCH:
        return np.array([nll.mean()])
    return np.convolve(nll, np.ones(STRETCH) / STRETCH, "valid")


SCORES: dict[str, Callable[[Surprise], float]] = {
    "worst NLL": lambda s: float(s[0].max()),
    "worst rank": lambda s: float(s[1].max() + s[0].max() / 1000),  # ranks are coarse: NLL breaks ties
    "two worst NLLs": lambda s: float(np.sort(s[0])[-2:].sum()),
    "mean NLL": lambda s: float(s[0].mean()),
    "median NLL": lambda s: float(np.median(s[0])),
    "most familiar stretch": lambda s: float(_stretches(s[0]).min()),
    "least familiar stretch": lambda s: float(_stretches(s[0]).max()),
}
JOINS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "strange in either": np.maximum,
    "strange in both": np.minimum,
    "sum": np.add,
}


def all_scores(held: dict[str, list[Surprise]], asked: dict[str, list[Surprise]]) -> dict[str, Floats]:
    """Every candidate score of the asked sessions, higher = stranger.

    Views are joined on one scale: standard deviations of the held-out sessions' log score.
    """
    plain = {
        (name, score): np.array([fn(s) for s in asked[name]])
        for name in asked
        for score, fn in SCORES.items()
    }
    scaled = {}
    for (name, score), values in plain.items():
        reference = np.log(np.array([SCORES[score](s) for s in held[name]]) + 0.05)
        scaled[name, score] = (np.log(values + 0.05) - reference.mean()) / max(1e-6, reference.std())
    found = {f"{name}: {score}": values for (name, score), values in plain.items() if "kinds" not in name}
    for score in ("worst NLL", "mean NLL"):
        found[f"kinds: {score}"] = plain["kinds", score]
        for other in SCORES:
            for join, fn in JOINS.items():
                found[f"{join}: whole {other}, kinds {score}"] = fn(
                    scaled["whole", other], scaled["kinds", score]
                )
    return found


class Run:
    """A detector fitted on all views, ready to score."""

    def __init__(
        self,
        detector: Detector,
        plan: Plan,
        learnt: Sequence[Session],
        held: Sequence[Session],
        seed: int,
        tick: Tick,
    ) -> None:
        self.fitted = {name: Fitted(detector, name, plan, learnt, seed, tick) for name in plan.budgets}
        self.held = {name: fitted.surprise(held) for name, fitted in self.fitted.items()}

    def scores(self, sessions: Sequence[Session]) -> dict[str, Floats]:
        """Every candidate score of the sessions."""
        return all_scores(self.held, {name: f.surprise(sessions) for name, f in self.fitted.items()})


def validation(
    run: Run, normal: Sequence[Session], strange: Sequence[Session], metric: str
) -> dict[str, float]:
    """How well each candidate score tells held-out normal sessions from stand-ins for anomalies.

    "f1": share of the stand-ins above the threshold that the hold-out sets; "auc": area under the ROC curve.
    """
    usual, odd = run.scores(normal), run.scores(strange)
    if metric == "f1":
        return {name: float((odd[name] > np.quantile(usual[name], QUANTILE)).mean()) for name in usual}
    return {name: auc(usual[name], odd[name]) for name in usual}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, for the table."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one training of one detector gave.

    Attributes:
        check: validation figure of every score; empty where this training was not for that.
        test: figures of every score on the test sessions; empty for the training that only validates.
        seconds: processor time.
    """

    check: dict[str, float]
    test: dict[str, dict[str, float]]
    seconds: float


def one_training(data: SequenceSet, plan: Plan, label: str, seed: int | None, tick: Tick) -> Outcome:
    """Train a detector once and score with it. Seed None: whole families held out, to validate, test sessions untouched."""
    began = time.process_time()
    detector = DETECTORS[label]
    check: dict[str, float] = {}
    if seed is None:
        learnt, held, outside = foreign(data.train, 0)
        check = validation(Run(detector, plan, learnt, held, 99, tick), held, outside, "auc")
        return Outcome(check, {}, time.process_time() - began)
    learnt, held = hold_out(data.train, seed)
    unlike = fresh(held, learnt)
    run = Run(detector, plan, learnt, held, seed, tick)
    if plan.metric == "f1":
        check = validation(run, unlike, corrupted(unlike, learnt, seed), "f1")
    test = _test(run, data, plan.metric, held, unlike)
    return Outcome(check, test, time.process_time() - began)


def trainings(plan: Plan, seeds: int) -> list[tuple[str, int | None]]:
    """(detector, seed) of every training of a set."""
    rounds: list[int | None] = [*([None] if plan.metric == "auc" else []), *range(seeds)]
    return [(label, seed) for label in (OURS, *plan.rivals) for seed in rounds]


def run_set(
    data: SequenceSet, plan: Plan, seeds: int, outcomes: dict[tuple[str, int | None], Outcome]
) -> tuple[list[Row], dict[str, Any]]:
    """The rows to report on one set, and everything else worth keeping."""
    detail: dict[str, Any] = {"detectors": {}, "every score": {}, "rules": {}}
    chosen: dict[str, str] = {}
    runs: dict[str, list[dict[str, dict[str, float]]]] = {}
    for label in (OURS, *plan.rivals):
        mine = [one for (name, _), one in outcomes.items() if name == label]
        checks = [one.check for one in mine if one.check]
        results = [one.test for one in mine if one.test]
        means = {name: statistics.fmean(check[name] for check in checks) for name in checks[0]}
        for reading in (ALONE, BOTH):
            row = f"{label} ({reading})"
            chosen[row] = max(
                (name for name in means if reading == BOTH or "kinds" not in name), key=means.__getitem__
            )
            runs[row] = results
            detail["detectors"][row] = {"score": chosen[row], "validation": means[chosen[row]]}
        detail["every score"][label] = {
            "seconds": round(sum(one.seconds for one in mine), 1),
            "validation": means,
            "seeds": results,
        }
    for name in plan.rules:
        detail["rules"][name] = _rule(name, data, plan.metric, seeds)
    return _rows(data, plan, chosen, runs, detail), detail


def _test(
    run: Run, data: SequenceSet, metric: str, held: Sequence[Session], unlike: Sequence[Session]
) -> dict[str, dict[str, float]]:
    """Every candidate score on the test sessions. Which one counts is decided elsewhere, without these figures."""
    normal, abnormal = run.scores(data.normal), run.scores(data.abnormal)
    found: dict[str, dict[str, float]] = {}
    if metric == "f1":
        by_distinct, by_all = run.scores(unlike), run.scores(held)
    for name in normal:
        figures = {"auc": auc(normal[name], abnormal[name])}
        if metric == "f1":
            threshold = np.quantile(by_distinct[name], QUANTILE)
            figures["f1"], figures["recall"], figures["false"] = f1(
                normal[name] > threshold, abnormal[name] > threshold
            )
            threshold = np.quantile(by_all[name], QUANTILE)
            figures["f1, threshold from all held-out"] = f1(
                normal[name] > threshold, abnormal[name] > threshold
            )[0]
        else:
            figures["recall"] = recall_at(normal[name], abnormal[name], 0.05)
            figures["recall at 1 %"] = recall_at(normal[name], abnormal[name], 0.01)
            for kind in sorted(set(data.kinds)):
                figures[kind] = auc(normal[name], abnormal[name][np.array(data.kinds) == kind])
        found[name] = figures
    return found


def _rule(name: str, data: SequenceSet, metric: str, seeds: int) -> list[dict[str, float]]:
    found = []
    for seed in range(seeds):
        learnt, _ = hold_out(data.train, seed)
        score = RULES[name](learnt)
        normal, abnormal = (
            np.array([score(session) for session in some]) for some in (data.normal, data.abnormal)
        )
        figures = {"auc": auc(normal, abnormal)}
        if metric == "f1":
            figures["f1"], figures["recall"], figures["false"] = f1(normal > 0, abnormal > 0)
        else:
            figures["recall"] = recall_at(normal, abnormal, 0.05)
            figures["recall at 1 %"] = recall_at(normal, abnormal, 0.01)
            for kind in sorted(set(data.kinds)):
                figures[kind] = auc(normal, abnormal[np.array(data.kinds) == kind])
        found.append(figures)
    return found


def _rows(
    data: SequenceSet,
    plan: Plan,
    chosen: dict[str, str],
    runs: dict[str, list[dict[str, dict[str, float]]]],
    detail: dict[str, Any],
) -> list[Row]:
    metric = plan.metric

    def mean(label: str, figure: str) -> float:
        return statistics.fmean(one[chosen[label]][figure] for one in runs[label])

    rules = {
        name: statistics.fmean(one[metric] for one in figures) for name, figures in detail["rules"].items()
    }
    ours = f"{OURS} ({BOTH})"
    rivals = {
        reading: max(
            mean(row, metric) for row in runs if LSTM_DISTINCT in row and row.endswith(f"({reading})")
        )
        for reading in (ALONE, BOTH)
    }
    title = f"{data.name} {'F1' if metric == 'f1' else 'ROC AUC'}"
    bar = {"hdfs": 0.96, "adfa-ld": 0.90}.get(data.name, max(rules.values()))
    value = mean(ours, metric)
    rows = [at_least(f"{title}, {ours}, mean of {len(runs[ours])} seeds", value, metric, bar)]
    margin = at_least(f"{title}, above the next-key LSTM ({ALONE})", value - rivals[ALONE], metric, 0.02)
    rows.append(margin if data.name == "hdfs" else Row(margin.name, margin.value, margin.unit))
    rows.append(Row(f"{title}, above the next-key LSTM ({BOTH})", value - rivals[BOTH], metric))
    rows += [Row(f"{title}, {row}", mean(row, metric), metric) for row in runs if row != ours]
    rows += [Row(f"{title}, rule: {name}", value, metric) for name, value in rules.items()]
    return rows


def markdown(data: SequenceSet, plan: Plan, detail: dict[str, Any]) -> str:
    """The table of one set for docs/published-benchmarks.md."""
    kinds = sorted(set(data.kinds))
    columns = (
        ["f1", "recall", "false", "auc", "f1, threshold from all held-out"]
        if plan.metric == "f1"
        else ["auc", "recall at 1 %", "recall", *kinds]
    )
    heads = {
        "f1": "F1",
        "false": "false positives",
        "auc": "AUC",
        "recall": "recall" if plan.metric == "f1" else "recall at 5 %",
    }
    lines = [
        f"### {data.name}",
        "",
        f"{len(data.train)} training sessions (a fifth held out); scored: {len(data.normal)} normal, "
        f"{len(data.abnormal)} abnormal.",
        "",
        "| detector | score chosen | " + " | ".join(heads.get(c, c) for c in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for label, one in detail["detectors"].items():
        figures = [seed[one["score"]] for seed in detail["every score"][label.partition(" (")[0]]["seeds"]]
        cells = [spread([figure[c] for figure in figures]) for c in columns]
        lines.append(f"| {label} | {one['score']} | " + " | ".join(cells) + " |")
    for name, figures in detail["rules"].items():
        cells = [spread([figure[c] for figure in figures]) if c in figures[0] else "" for c in columns]
        lines.append(f"| rule: {name} | | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


READERS: dict[str, tuple[str, Callable[[Path], SequenceSet]]] = {
    "adfa-ld": ("adfa-ld/ADFA-LD.zip", read_adfa),
    "hdfs": ("hdfs/train.txt.gz", read_hdfs),
    "openstack": ("openstack/train.txt.gz", read_openstack),
    "openstack+500": ("openstack/train.txt.gz", lambda folder: read_openstack(folder, 500)),
}


def steps(plan: Plan, seeds: int) -> int:
    """Training steps of all detectors on one set."""
    return len(trainings(plan, seeds)) * sum(b.steps * b.members for b in plan.budgets.values())


_done: Any = None


def _start_worker(done: Any) -> None:
    global _done
    _done = done
    torch.set_num_threads(1)  # models this small only lose by waiting for each other


def _work(data: SequenceSet, plan: Plan, label: str, seed: int | None) -> Outcome:
    def tick() -> None:
        with _done.get_lock():
            _done.value += 1

    return one_training(data, plan, label, seed, tick)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=FOLDER, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--set", choices=sorted(READERS), action="append", help="only this set; may be repeated"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    options = parser.parse_args(arguments)
    wanted = options.set or list(READERS)
    sets = [
        READERS[name][1](options.folder) for name in wanted if (options.folder / READERS[name][0]).exists()
    ]
    if not sets:
        print(f"There is nothing to measure in {options.folder}. {FOLDER}", file=sys.stderr)
        return 2
    plans = [PLANS[data.name.partition("+")[0]] for data in sets]
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    with (
        Progress(*columns) as progress,
        ProcessPoolExecutor(options.workers, context, _start_worker, (done,)) as pool,
    ):
        task = progress.add_task("", total=sum(steps(plan, options.seeds) for plan in plans))
        jobs = [
            {key: pool.submit(_work, data, plan, *key) for key in trainings(plan, options.seeds)}
            for data, plan in zip(sets, plans, strict=True)
        ]
        for data, plan, asked in zip(sets, plans, jobs, strict=True):
            while wait(asked.values(), timeout=1, return_when=FIRST_EXCEPTION).not_done:
                progress.update(task, completed=done.value)
                if any(job.done() and job.exception() for job in asked.values()):
                    pool.shutdown(cancel_futures=True)
                    break
            outcomes = {key: job.result() for key, job in asked.items()}
            rows, detail = run_set(data, plan, options.seeds, outcomes)
            report(f"published-{data.name}", rows)
            (RESULTS / f"published-{data.name}.md").write_text(markdown(data, plan, detail))
            (RESULTS / f"published-{data.name}-detail.json").write_text(json.dumps(detail, indent=1) + "\n")
        progress.update(task, completed=done.value)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
