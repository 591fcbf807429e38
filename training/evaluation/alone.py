"""The strict figures of the product: every run alone, transplants to other principals, and what patience or a rehearsal gain.

No alert of one run can help another here, so that these are the figures to go by (docs/evaluation.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.arrays import Flags, Names
from data.principals.identity import PEOPLE_AND_PIPELINES
from detection.bundle import Bundle
from detection.detector import Detector
from detection.rules.rule import Rule
from training.audit_log import read_log
from training.evaluation import transplants
from training.evaluation.bootstrap import clustered_interval
from training.evaluation.metrics import HIGH, Label
from training.evaluation.strict_replay import GAPS, ROWS, Outcome, Replayed, StrictReplay
from training.evaluation.transplants import Case

Figures = dict[str, Any]

#: Transplants of a recording, unless asked otherwise.
ATTACKS, LOOKALIKES = 320, 80
#: Same windows of the owner's own actions are scored in many forks.
_CACHED_WINDOWS = 50_000


def judge_alone(
    bundle: Bundle,
    log: Path,
    labels: Sequence[Label],
    *,
    attacks: int = ATTACKS,
    lookalikes: int = LOOKALIKES,
    rows: Sequence[str] = ROWS,
    progress: bool = False,
    detector: Detector | None = None,
    rules: Iterable[Rule] = (),
) -> Figures:
    """Figures of a bundle on a labelled log, every run by itself.

    Args:
        detector: in place of the bundle's, as it is before the log.
        attacks, lookalikes: transplants to make of attack runs and of benign look-alikes; 0 for none.
        rows: the harder questions to ask of transplants (`training.evaluation.strict_replay.ROWS`).
        rules: run beside the model; what they report has figures of its own (`with_rules`).

    Returns:
        `strict`: figures of the runs as they were; `transplants`: of transplants, with `rows`; `false_incidents`: each
        incident on the log without attacks, with its reason; rates of those.
    """
    events = [event for chunk in read_log(log, "reading", progress=progress) for event in chunk]
    runs = transplants.originals(events, labels)
    moved = (
        transplants.cached(log, events, labels, attacks=attacks, lookalikes=lookalikes)
        if attacks or lookalikes
        else []
    )
    detector = detector or Detector(bundle, cached_windows=_CACHED_WINDOWS)
    replay = StrictReplay(detector, transplants.without_labelled(events, labels), rules)
    asked = [row for row in ROWS if row in rows]
    found = replay.run([*runs, *moved], asked, progress)
    return figures(runs, moved, found)


def figures(runs: Sequence[Case], moved: Sequence[Case], found: Replayed) -> Figures:
    """Figures from outcomes; `found` is of the runs as they were and then of the transplants."""
    split = len(runs)
    person = sum(count for kind, count in found.actions.items() if kind in PEOPLE_AND_PIPELINES)
    system = sum(found.actions.values()) - person
    false = Counter(one.kind in PEOPLE_AND_PIPELINES for one in found.false)
    # What only repeats lets an earlier incident grow.
    notified = Counter(one.kind in PEOPLE_AND_PIPELINES for one in found.false if one.repeats < one.actions)
    ruled = Counter[bool]()
    for kind, count in found.false_with_rules.items():
        ruled[kind in PEOPLE_AND_PIPELINES] += count
    return {
        "strict_false_per_10k_person_actions": false[True] * 1e4 / max(person, 1),
        "strict_false_per_1m_system_actions": false[False] * 1e6 / max(system, 1),
        "notified_false_per_10k_person_actions": notified[True] * 1e4 / max(person, 1),
        "notified_false_per_1m_system_actions": notified[False] * 1e6 / max(system, 1),
        "with_rules_false_per_10k_person_actions": ruled[True] * 1e4 / max(person, 1),
        "with_rules_false_per_1m_system_actions": ruled[False] * 1e6 / max(system, 1),
        "person_actions": person,
        "system_actions": system,
        "false_incidents": [asdict(one) for one in found.false],
        "strict": _block(runs, found.first[:split], {k: v[:split] for k, v in found.rows.items()}),
        "transplants": _block(moved, found.first[split:], {k: v[split:] for k, v in found.rows.items()}),
    }


def summary(found: Figures) -> Figures:
    """The single figures of `judge_alone` that stand beside those of the whole log."""
    return {
        "strict_recall": found["strict"]["recall"],
        "strict_recall_interval": found["strict"]["recall_interval"],
        "transplant_runs": found["transplants"]["attack_runs"],
        "transplant_recall": found["transplants"]["recall"],
        "transplant_recall_interval": found["transplants"]["recall_interval"],
    }


def _block(
    cases: Sequence[Case], outcomes: Sequence[Outcome], rows: dict[str, list[Outcome | None]]
) -> Figures:
    """Figures of some cases; those of attacks, except where a name says otherwise."""
    attack = np.array([case.is_attack for case in cases], bool)
    seen = np.array([one.seen for one in outcomes], bool)
    high = np.array([one.severity in HIGH for one in outcomes], bool)
    either = seen | np.array([bool(one.rules) for one in outcomes], bool)
    either_high = high | np.array([one.rule_severity in HIGH for one in outcomes], bool)
    scenario = np.array([case.scenario for case in cases], object)
    after = sorted(one.after for one, mine in zip(outcomes, attack, strict=True) if mine and one.after)
    return {
        "attack_runs": int(attack.sum()),
        "scenarios": len(set(scenario[attack])),
        "victims": len({case.principals[0] for case in cases if case.is_attack and case.moved}),
        **_share("recall", seen, attack, scenario),
        **{
            f"recall_by_{key}": _by(cases, seen, attack, attribute)
            for key, attribute in (("class", "cls"), ("mode", "mode"), ("family", "family"))
        },
        "recall_by_scenario": _by(cases, seen, attack, "scenario"),
        **_share("high_of_detected", high, attack & seen, scenario),
        "median_actions_to_detection": float(np.median(after)) if after else None,
        "lookalikes": int((~attack).sum()),
        **_share("lookalikes_high", high, ~attack, scenario),
        **_share("lookalikes_raised", seen, ~attack, scenario),
        "with_rules": {
            **_share("recall", either, attack, scenario),
            **{
                f"recall_by_{key}": _by(cases, either, attack, attribute)
                for key, attribute in (("class", "cls"), ("mode", "mode"), ("family", "family"))
            },
            **_share("high_of_detected", either_high, attack & either, scenario),
            **_share("lookalikes_high", either_high, ~attack, scenario),
        },
        "rows": {name: _row(name, found, seen, attack, scenario) for name, found in rows.items()},
        "runs": [
            {
                **{name: getattr(case, name) for name in ("scenario", "kind", "mode", "moved")},
                "class": case.cls,
                "principal": case.principals[0],
                **asdict(one),
                "rows": {name: each.seen for name in rows if (each := rows[name][i]) is not None},
            }
            for i, (case, one) in enumerate(zip(cases, outcomes, strict=True))
        ],
    }


def _share(name: str, hit: Flags, among: Flags, scenario: Names) -> Figures:
    chosen = hit[among]
    return {
        name: float(chosen.mean()) if len(chosen) else None,
        f"{name}_interval": clustered_interval(chosen, scenario[among]),
    }


def _by(cases: Sequence[Case], seen: Flags, among: Flags, attribute: str) -> dict[str, float]:
    names = np.array([getattr(case, attribute) for case in cases], object)
    return {name: float(seen[among & (names == name)].mean()) for name in sorted(set(names[among]))}


def _row(name: str, found: Sequence[Outcome | None], first: Flags, attack: Flags, scenario: Names) -> Figures:
    """One of the harder questions: share seen, and of what was seen in the plain form, the share that still is."""
    asked = attack & np.array([one is not None for one in found], bool)
    seen = np.array([one is not None and one.seen for one in found], bool)
    whole = {} if name in GAPS else _share("recall", seen, asked, scenario)
    return {"runs": int(asked.sum()), **whole, **_share("of_first", seen, asked & first, scenario)}
