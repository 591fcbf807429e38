"""The published sequence sets (HDFS, ADFA-LD, OpenStack): our model compared with a next-key LSTM and with counting rules.

    python -m benchmarks.published FOLDER [--set hdfs] [--seeds 3]

The model is `training.model.Autoencoder` with one field and one principal. Thresholds and the choice of score come from normal
sessions only. docs/published-benchmarks.md has the protocol and the figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import crossfit
from benchmarks.crossfit import ALPHA, FOLDS, calibrated, flagged, joined, merged
from benchmarks.report import RESULTS, Row, at_least, report
from benchmarks.sequence_models import (
    DETECTORS,
    LSTM,
    OURS,
    Budget,
    Fitted,
    Surprise,
    Tick,
)
from benchmarks.sequences import (
    FOLDER,
    RULES,
    Floats,
    SequenceSet,
    Session,
    auc,
    corrupted,
    f1,
    fresh,
    read_adfa,
    read_hdfs,
    read_openstack,
    recall_at,
)

STRETCH = 60  # calls in a stretch of a long trace; shorter ones are one stretch

# A detector is read by what it makes of a session alone, and by that joined with how new the session is, as the product joins
# error and novelty. On traces what it makes of the set of events comes between. DeepLog has only the first.
ALONE, WITH_SET, WITH_NOVELTY = "alone", "with the set", "with novelty"
NOVELTY = "novelty"  # the rules together, calibrated like the learners


@dataclass(frozen=True, slots=True)
class Plan:
    """How a set is run.

    Attributes:
        budgets: view -> budget. `whole` is the session as it is, `kinds` its distinct events in sorted order; without
            `kinds` there is no reading with the set.
        cloze: whether each event of `whole` is decoded from its neighbours alone.
        metric: "f1" (distinct against distinct, threshold from the folds) or "auc" (every trace).
        rules: the counting rules of the table.
        members: models of an ensemble, each without another of the FOLDS.
    """

    budgets: dict[str, Budget]
    cloze: bool
    metric: str
    rules: tuple[str, ...]
    members: int

    @property
    def readings(self) -> tuple[str, ...]:
        """How each learning detector is read."""
        return (ALONE, WITH_SET, WITH_NOVELTY) if "kinds" in self.budgets else (ALONE, WITH_NOVELTY)


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
        {"whole": Budget(1000, 64, 48, 64, 8e-3)},
        cloze=False,
        metric="f1",
        rules=_LOGS,
        members=FOLDS,
    ),
    "openstack": Plan(
        {"whole": Budget(500, 64, 32, 64, 8e-3)},
        cloze=False,
        metric="f1",
        rules=_LOGS,
        members=FOLDS,
    ),
    "adfa-ld": Plan(
        {"whole": Budget(1500, 16, 100, 64, 8e-3), "kinds": Budget(300, 32, 80, 64, 8e-3)},
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
        members=2,
    ),
}


# --- scores of one member ----------------------------------------------------------------------------------------


def _stretches(nll: Floats) -> Floats:
    if len(nll) <= STRETCH:
        return np.array([nll.mean()])
    return np.convolve(nll, np.ones(STRETCH) / STRETCH, "valid")


SCORES: dict[str, Callable[[Surprise], float]] = {
    "worst NLL": lambda s: float(s.nll.max()),
    "two worst NLLs": lambda s: float(np.sort(s.nll)[-2:].sum()),
    "worst rank": lambda s: float(s.rank.max() + s.nll.max() / 1000),  # ranks are coarse: NLL breaks ties
    "mean NLL": lambda s: float(s.nll.mean()),
    "most familiar stretch": lambda s: float(_stretches(s.nll).min()),
}
NEAREST = "nearest code"


def nearest(known: Floats, asked: Floats) -> Floats:
    """Cosine distance of each asked code [N, Z] to the nearest known one [K, Z], seen from the middle of the known ones.

    Sun et al. 2022, Out-of-distribution detection with deep nearest neighbours, arXiv 2204.06507.
    """

    def unit(codes: Floats) -> Floats:
        centred = codes - known.mean(axis=0)
        return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9))

    return np.asarray(1.0 - (unit(asked) @ unit(known).T).max(axis=1))


# What a member scores: sessions of its own fold ("held", every one; "fresh", the distinct ones that it hasn't learnt), stand-ins
# for anomalies made of the fresh ones ("odd"), and the test sessions ("normal", "abnormal").
Parts = Mapping[str, Sequence[Session]]
Scores = dict[str, dict[str, Floats]]  # part -> "view: score" -> score of each session


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one member gave: its scores and the processor time, in seconds."""

    scores: Scores
    seconds: float


def one_member(data: SequenceSet, plan: Plan, label: str, seed: int, member: int, tick: Tick) -> Outcome:
    """Train one member of a detector (or fit the rules) without its fold, and score with it."""
    began = time.process_time()
    fold = set(crossfit.folds(len(data.train), seed)[member].tolist())
    learnt = [session for i, session in enumerate(data.train) if i not in fold]
    held = [session for i, session in enumerate(data.train) if i in fold]
    unlearnt = fresh(held, learnt)
    parts = {
        "held": held,
        "fresh": unlearnt,
        "odd": corrupted(unlearnt, learnt, seed) if plan.metric == "f1" else [],
        "normal": data.normal,
        "abnormal": data.abnormal,
    }
    scores: Scores = {part: {} for part in parts}
    if label == NOVELTY:
        _rule_scores(plan, learnt, parts, scores)
    else:
        for name, budget in plan.budgets.items():
            cloze = plan.cloze or name == "kinds"
            fitted = Fitted(label, name, budget, cloze, learnt, seed * 100 + member, tick)
            _learnt_scores(fitted, learnt if plan.cloze else (), parts, scores)
    return Outcome(scores, time.process_time() - began)


def _learnt_scores(fitted: Fitted, known: Sequence[Session], parts: Parts, scores: Scores) -> None:
    everything = sorted({session for some in (known, *parts.values()) for session in some})
    found = dict(zip(everything, fitted.surprise(everything), strict=True))
    codes = np.array([found[session].code for session in sorted(set(known))])
    for part, some in parts.items():
        for name, score in SCORES.items():
            scores[part][f"{fitted.name}: {name}"] = np.array([score(found[session]) for session in some])
        if some and len(codes):
            asked = np.array([found[session].code for session in some])
            scores[part][f"{fitted.name}: {NEAREST}"] = nearest(codes, asked)


def _rule_scores(plan: Plan, learnt: Sequence[Session], parts: Parts, scores: Scores) -> None:
    everything = {session for some in parts.values() for session in some}
    for name in plan.rules:
        score = RULES[name](learnt)
        found = {session: score(session) for session in everything}
        for part, some in parts.items():
            scores[part][name] = np.array([found[session] for session in some])


# --- scores of an ensemble ---------------------------------------------------------------------------------------

_PARTS = ("fresh", "held", "odd", "normal", "abnormal")
Decades = dict[str, list[Floats]]  # part -> decades of its sessions by each member


@dataclass(frozen=True, slots=True)
class Candidate:
    """One score of a session: readings and how they are joined ("sum", "either", "every")."""

    how: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return self.parts[0] if len(self.parts) == 1 else f"{self.how}: {', '.join(self.parts)}"


def candidates(plan: Plan, reading: str) -> list[Candidate]:
    """The scores among which normal data choose for one reading; on traces there is no choice.

    What is familiar in any reading is taken for normal on traces ("every"), as with stretches of a trace: what is held out of the
    training is not like the normal traces of the test there, so that there is nothing to choose by.
    """
    if plan.metric == "auc":
        parts: tuple[str, ...] = ("whole: most familiar stretch", f"whole: {NEAREST}")
        if reading != ALONE and "kinds" in plan.budgets:
            parts += ("kinds: mean NLL",)
        if reading == WITH_NOVELTY:
            parts += ("8-grams never seen", "cosine to the nearest set")
        return [Candidate("every", parts)]
    whole = [f"whole: {score}" for score in ("worst NLL", "two worst NLLs", "worst rank", "mean NLL")]
    if reading == ALONE:
        return [Candidate("sum", (one,)) for one in whole]
    return [Candidate(how, (one, NOVELTY)) for one in whole for how in ("sum", "either")]


def in_decades(outcomes: Sequence[Outcome], name: str) -> Decades:
    """Decades of one score by every member, on one scale."""
    fresh_, *others = ([one.scores[part].get(name, np.empty(0)) for one in outcomes] for part in _PARTS)
    return dict(zip(_PARTS, calibrated(fresh_, *others), strict=True))


def join(how: str, parts: Sequence[Decades]) -> Decades:
    """Several scores as one, calibrated again."""
    if len(parts) == 1:
        return parts[0]
    members = range(len(parts[0]["fresh"]))
    raw = [[joined(how, [one[part][m] for one in parts]) for m in members] for part in _PARTS]
    return dict(zip(_PARTS, calibrated(raw[0], *raw[1:]), strict=True))


class Ensemble:
    """All members of one detector with one seed, every score of theirs calibrated.

    Args:
        plan: of the set.
        learnt: outcomes of the members of a learning detector; none for the rules alone.
        counted: outcomes of the rules on the same folds.
    """

    def __init__(self, plan: Plan, learnt: Sequence[Outcome], counted: Sequence[Outcome]) -> None:
        self.scores = {
            name: in_decades(outcomes, name)
            for outcomes in (learnt, counted)
            for name in (outcomes[0].scores["fresh"] if outcomes else ())
        }
        self.scores[NOVELTY] = join("either", [self.scores[name] for name in plan.rules])

    def decades(self, candidate: Candidate) -> Decades:
        """Decades of a candidate score."""
        return join(candidate.how, [self.scores[name] for name in candidate.parts])


def validation(found: Decades) -> float:
    """Share of the stand-ins for anomalies above the threshold, each by the member that learnt nothing like it."""
    return float(flagged(np.concatenate(found["odd"])).mean())


def figures(found: Decades, data: SequenceSet, metric: str) -> dict[str, float]:
    """What a score makes of the test sessions."""
    normal, abnormal = merged(found["normal"]), merged(found["abnormal"])
    results = {"auc": auc(normal, abnormal)}
    if metric == "f1":
        results |= zip(("f1", "recall", "false"), f1(flagged(normal), flagged(abnormal)), strict=True)
        plain = np.quantile(np.concatenate(found["held"]), 1 - ALPHA)
        results["f1, threshold from all held-out"] = f1(normal > plain, abnormal > plain)[0]
        results["false, fresh"] = float(flagged(np.concatenate(found["fresh"])).mean())
        return results
    return results | _traces(normal, abnormal, data.kinds)


def _traces(normal: Floats, abnormal: Floats, kinds: Sequence[str]) -> dict[str, float]:
    return {
        "recall at 1 %": recall_at(normal, abnormal, 0.01),
        "recall": recall_at(normal, abnormal, 0.05),
    } | {kind: auc(normal, abnormal[np.array(kinds) == kind]) for kind in sorted(set(kinds))}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, for the table."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"


Key = tuple[str, int, int]  # detector, seed, member


def trainings(plan: Plan, seeds: int) -> list[Key]:
    """Every member of every detector of a set, the rules among them."""
    return [
        (label, seed, member)
        for label in (NOVELTY, *DETECTORS)
        for seed in range(seeds)
        for member in range(plan.members)
    ]


def run_set(
    data: SequenceSet, plan: Plan, seeds: int, outcomes: Mapping[Key, Outcome]
) -> tuple[list[Row], dict[str, Any]]:
    """The rows to report on one set, and everything else worth keeping."""
    detail: dict[str, Any] = {"detectors": {}, "every score": {}, "rules": {}, "seconds": {}}

    def members(label: str, seed: int) -> list[Outcome]:
        return [outcomes[label, seed, member] for member in range(plan.members)]

    for label in DETECTORS:
        ensembles = [Ensemble(plan, members(label, seed), members(NOVELTY, seed)) for seed in range(seeds)]
        for reading in plan.readings:
            asked = candidates(plan, reading)
            chosen, checked = asked[0], float("nan")
            if plan.metric == "f1":
                checks = [statistics.fmean(validation(one.decades(c)) for one in ensembles) for c in asked]
                checked = max(checks)
                chosen = asked[checks.index(checked)]
            detail["detectors"][f"{label}, {reading}"] = {
                "score": str(chosen),
                "validation": checked,
                "seeds": [figures(one.decades(chosen), data, plan.metric) for one in ensembles],
            }
        detail["every score"][label] = {
            str(c): [figures(one.decades(c), data, plan.metric) for one in ensembles] for c in _all(plan)
        }
        detail["seconds"][label] = round(
            sum(o.seconds for (one, _, _), o in outcomes.items() if one == label), 1
        )
    for name in plan.rules:
        detail["rules"][name] = [_rule(name, data, plan.metric)]
    if plan.metric == "f1":
        together = [Ensemble(plan, (), members(NOVELTY, seed)) for seed in range(seeds)]
        for name in (*_GRADED, NOVELTY):
            detail["rules"][f"{name}, threshold from the folds"] = [
                figures(one.scores[name], data, plan.metric) for one in together
            ]
    return _rows(data, plan, detail), detail


_GRADED = (
    "event never seen",
    "2-grams never seen",
    "3-grams never seen",
)  # rules that have a share of a session


def _all(plan: Plan) -> list[Candidate]:
    """Every score worth a look afterwards; the choice is made among `candidates`."""
    names = [f"{view}: {score}" for view in plan.budgets for score in SCORES]
    names += [f"{view}: {NEAREST}" for view in plan.budgets if plan.cloze]
    found = [Candidate("sum", (name,)) for name in names]
    for reading in plan.readings:
        for one in candidates(plan, reading):
            found += [one] if plan.metric == "f1" else [Candidate(how, one.parts) for how in ("every", "sum")]
    return list(dict.fromkeys(found))


def _rule(name: str, data: SequenceSet, metric: str) -> dict[str, float]:
    """A rule as it stands: it learns from every training session and flags whatever is new at all."""
    score = RULES[name](data.train)
    normal, abnormal = (
        np.array([score(session) for session in some]) for some in (data.normal, data.abnormal)
    )
    results = {"auc": auc(normal, abnormal)}
    if metric == "f1":
        return results | dict(zip(("f1", "recall", "false"), f1(normal > 0, abnormal > 0), strict=True))
    return results | _traces(normal, abnormal, data.kinds)


def _rows(data: SequenceSet, plan: Plan, detail: dict[str, Any]) -> list[Row]:
    metric = plan.metric

    def mean(group: str, name: str) -> float:
        some = detail[group][name]
        return statistics.fmean(one[metric] for one in (some["seeds"] if group == "detectors" else some))

    rules = {name: mean("rules", name) for name in detail["rules"]}
    learners = {name: mean("detectors", name) for name in detail["detectors"]}
    title = f"{data.name} {'F1' if metric == 'f1' else 'ROC AUC'}"
    bar = {"hdfs": 0.96, "adfa-ld": 0.90}.get(data.name, max(rules.values()))
    mine = [f"{OURS}, {reading}" for reading in plan.readings]
    # Where normal data can choose, they choose the reading as well.
    shipped = (
        mine[-1] if metric == "auc" else max(mine, key=lambda name: detail["detectors"][name]["validation"])
    )
    rows = [at_least(f"{title}, {shipped}, mean of all seeds", learners[shipped], metric, bar)]
    rows.append(Row(f"{title}, above the best rule", learners[shipped] - max(rules.values()), metric))
    for reading in plan.readings:
        margin = learners[f"{OURS}, {reading}"] - learners[f"{LSTM}, {reading}"]
        row = at_least(f"{title}, above the next-key LSTM, both {reading}", margin, metric, 0.02)
        rows.append(row if data.name == "hdfs" and reading == ALONE else Row(row.name, row.value, row.unit))
    hindsight = max(
        statistics.fmean(one[metric] for one in some) for some in detail["every score"][LSTM].values()
    )
    name = f"{title}, above the next-key LSTM's best score in hindsight"
    rows.append(Row(name, learners[shipped] - hindsight, metric))
    rows += [Row(f"{title}, {name}", value, metric) for name, value in learners.items() if name != shipped]
    rows += [Row(f"{title}, rule: {name}", value, metric) for name, value in rules.items()]
    return rows


def markdown(data: SequenceSet, plan: Plan, detail: dict[str, Any]) -> str:
    """The table of one set for docs/published-benchmarks.md."""
    columns = (
        ["f1", "recall", "false", "auc", "f1, threshold from all held-out"]
        if plan.metric == "f1"
        else ["auc", "recall at 1 %", "recall", *sorted(set(data.kinds))]
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
        f"{len(data.train)} training sessions (each of {plan.members} members without another fifth); scored: "
        f"{len(data.normal)} normal, {len(data.abnormal)} abnormal.",
        "",
        "| detector | score | " + " | ".join(heads.get(c, c) for c in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    table = [(name, one["score"], one["seeds"]) for name, one in detail["detectors"].items()]
    table += [(f"rule: {name}", "", some) for name, some in detail["rules"].items()]
    for name, score, some in table:
        cells = [spread([one[c] for one in some]) if c in some[0] else "" for c in columns]
        lines.append(f"| {name} | {score} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


READERS: dict[str, tuple[str, Callable[[Path], SequenceSet]]] = {
    "adfa-ld": ("adfa-ld/ADFA-LD.zip", read_adfa),
    "hdfs": ("hdfs/train.txt.gz", read_hdfs),
    "openstack": ("openstack/train.txt.gz", read_openstack),
    "openstack+500": ("openstack/train.txt.gz", lambda folder: read_openstack(folder, 500)),
}


def steps(plan: Plan, seeds: int) -> int:
    """Training steps of all detectors on one set."""
    learners = sum(label != NOVELTY for label, _, _ in trainings(plan, seeds))
    return learners * sum(budget.steps for budget in plan.budgets.values())


# --- the command -------------------------------------------------------------------------------------------------

_done: Any = None


def _start_worker(done: Any, stop: Any) -> None:
    global _done
    _done = done
    torch.set_num_threads(1)  # models this small only lose by waiting for each other
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group: the command decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_command, args=(stop,), daemon=True).start()


def _end_with_the_command(stop: Any) -> None:
    """End this worker in the middle of a training when the command stops or is no more."""
    command = multiprocessing.parent_process()
    while command and command.is_alive() and not stop.wait(0.5):
        pass
    os._exit(1)


def _work(data: SequenceSet, plan: Plan, label: str, seed: int, member: int) -> Outcome:
    def tick() -> None:
        with _done.get_lock():
            _done.value += 1

    return one_member(data, plan, label, seed, member, tick)


def _terminated(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


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
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        _measure(sets, options.seeds, options.workers)
    except KeyboardInterrupt:
        print("Stopped; sets that were done keep their results.", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _measure(sets: Sequence[SequenceSet], seeds: int, workers: int) -> None:
    plans = [PLANS[data.name.partition("+")[0]] for data in sets]
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    with (
        Progress(*columns) as progress,
        ProcessPoolExecutor(workers, context, _start_worker, (done, stop)) as pool,
    ):
        try:
            task = progress.add_task("", total=sum(steps(plan, seeds) for plan in plans))
            jobs = [
                {key: pool.submit(_work, data, plan, *key) for key in trainings(plan, seeds)}
                for data, plan in zip(sets, plans, strict=True)
            ]
            for data, plan, asked in zip(sets, plans, jobs, strict=True):
                while wait(asked.values(), timeout=1, return_when=FIRST_EXCEPTION).not_done:
                    progress.update(task, completed=done.value)
                    for job in asked.values():
                        if job.done():
                            job.result()  # raises what went wrong in it
                outcomes = {key: job.result() for key, job in asked.items()}
                rows, detail = run_set(data, plan, seeds, outcomes)
                report(f"published-{data.name}", rows)
                (RESULTS / f"published-{data.name}.md").write_text(markdown(data, plan, detail))
                (RESULTS / f"published-{data.name}-detail.json").write_text(
                    json.dumps(detail, indent=1) + "\n"
                )
            progress.update(task, completed=done.value)
        except BaseException:
            stop.set()  # the pool would wait for trainings that nobody needs any more
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    raise SystemExit(main())
