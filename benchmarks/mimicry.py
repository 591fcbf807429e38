"""Attackers who know kubehabit and can ask it: what is left of recall when each run is bent to stand out as little as it can.

    python -m benchmarks.mimicry BUNDLE LOG:LABELS [LOG:LABELS ...] [--json OUT]

Every attack run is replayed alone (`training.evaluation.strict_replay`) by an attacker who holds the victim's credential and

- **session**: forges the address and the client that the victim uses most;
- **daily**: does so, and makes one request a day;
- **patient**: does so, and before each request waits for whichever pause makes it stand out least, asking the detector itself;
- **covered**: does so, behind three hundred harmless requests of the same account that find nothing;
- **approved**: does so, after the mild part of the run was flagged, or was not, and people marked all that was flagged as normal.

Meanwhile the victim goes on with its own work. Clocks are the API server's, which an attacker cannot set.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from data.events.audit_event import AuditEvent, ObjectRef, Status
from training.evaluation.strict_replay import Outcome, StrictReplay
from training.evaluation.transplants import Case, at, originals, received, without_labelled

_SECOND = 1_000_000
_HOUR = 3600 * _SECOND
_DAY = 24 * _HOUR
#: Pauses that a patient attacker weighs against each other.
_PAUSES = (_SECOND, 11 * 60 * _SECOND, 2 * _HOUR, _DAY)
#: Requests whose pause is chosen one by one; those that follow take the last one that was.
_CHOSEN = 12
#: Harmless requests before a covered run, and seconds between two.
_NOISE, _NOISE_EVERY = 300, 1
TRICKS = ("session", "daily", "patient", "covered", "approved")


class Mimicry(StrictReplay):
    """Replays runs as attackers would who know the detector; the rows of `run` are TRICKS."""

    def _replay(
        self, case: Case, place: int, rows: Sequence[str]
    ) -> tuple[Outcome, dict[str, Outcome | None]]:
        first, _ = super()._replay(case, place, ())
        found: dict[str, Outcome | None] = {}
        bent = self.in_session(case)
        tricks = {
            "session": lambda: super(Mimicry, self)._replay(bent, place, ())[0],
            "daily": lambda: self._slowly(bent, _DAY),
            "patient": lambda: self.patiently(bent),
            "covered": lambda: self.covered(bent),
            "approved": lambda: self.approved(bent),
        }
        for name in rows:
            with self.detector.fork():
                found[name] = tricks[name]()
        return first, found

    def in_session(self, case: Case) -> Case:
        """The run from the address and with the client that its first principal uses most; as it is if that never acts."""
        sessions = Counter(
            (self.clean[row].userAgent, self.clean[row].sourceIPs)
            for row in self.by_user.get(case.principals[0], ())
        )
        if not sessions:
            return case
        agent, addresses = sessions.most_common(1)[0][0]
        mine = case.principals[0]
        events = tuple(
            replace(event, userAgent=agent, sourceIPs=addresses) if event.user.username == mine else event
            for event in case.events
        )
        return replace(case, events=events, induced=())

    def patiently(self, case: Case) -> Outcome:
        """Each request after the pause that makes it stand out least."""
        requests: dict[str, list[AuditEvent]] = {}
        for event in case.events:
            requests.setdefault(event.auditID, []).append(event)
        now, pause = int(received(case.events).min()), _PAUSES[0]
        outcomes: list[Outcome] = []
        for number, stages in enumerate(requests.values()):
            if number < _CHOSEN:
                peaks = {}
                for one in _PAUSES:
                    with self.detector.fork():
                        peaks[one] = self._after(case, stages, now, one).peak
                pause = min(_PAUSES, key=lambda one: (peaks[one], one))
            outcomes.append(self._after(case, stages, now, pause))
            now += pause
        return _together(outcomes)

    def _after(self, case: Case, stages: Sequence[AuditEvent], now: int, pause: int) -> Outcome:
        self._bridge(case, now, now + pause)
        return self._show([at(event, now + pause) for event in stages], ())[0]

    def covered(self, case: Case) -> Outcome:
        """The run half a minute after many harmless requests of its own session."""
        begin, first = int(received(case.events).min()), case.events[0]
        reference = next((event.objectRef for event in case.events if event.objectRef is not None), None)
        namespace = (reference.namespace if reference is not None else "") or "default"
        noise = []
        for number in range(_NOISE):
            name = f"check-{number}-of-{number * number + 7}"
            event = replace(
                first,
                verb="get",
                requestURI=f"/api/v1/namespaces/{namespace}/pods/{name}",
                objectRef=ObjectRef(resource="pods", namespace=namespace, name=name, apiVersion="v1"),
                requestObject=type(first.requestObject)(),
                responseStatus=Status(code=404),
                stage="ResponseComplete",
            )
            noise.append(
                at(event, begin + number * _NOISE_EVERY * _SECOND, f"noise-{number}-{event.auditID}")
            )
        self._score(noise)
        shift = (_NOISE * _NOISE_EVERY + 30) * _SECOND
        return self._show(_moved(case.events, shift), ())[0]

    def approved(self, case: Case) -> Outcome:
        """The mild part of the run, what was flagged of it marked as normal, and two hours later the whole."""
        begin = int(received(case.events).min())
        with self.detector.fork():
            _, levels = self._show(case.events, ())
        mild = [
            event for event in case.events if levels.get(event.auditID, 0) < max(levels.values(), default=0)
        ]
        end = begin
        if mild:
            scores = self.detector.score(
                [at(event, time, f"mild-{event.auditID}") for event, time in _timed(mild)]
            )
            end = int(received(mild).max())
            for name in {scores.principal[row] for row in scores.flagged.nonzero()[0].tolist()}:
                rows = [row for row in scores.flagged.nonzero()[0].tolist() if scores.principal[row] == name]
                times = {int(scores.time[row].astype("int64")) for row in rows}
                self.detector.apply_verdict(name, times, "normal")
        self._bridge(case, end, end + 2 * _HOUR)
        return self._show(_moved(case.events, end + 2 * _HOUR - begin), ())[0]


def _timed(events: Sequence[AuditEvent]) -> list[tuple[AuditEvent, int]]:
    return list(zip(events, received(events).tolist(), strict=True))


def _moved(events: Sequence[AuditEvent], shift: int) -> list[AuditEvent]:
    return [at(event, time + shift) for event, time in _timed(events)]


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    seen = [place + 1 for place, one in enumerate(outcomes) if one.seen]
    worst = next((one.severity for one in outcomes if one.seen), "none")
    return Outcome(
        bool(seen),
        seen[0] if seen else None,
        max((one.peak for one in outcomes), default=0.0),
        worst,
        sum(one.requests for one in outcomes),
    )


def measure(bundle: Any, log: Path, labels: Path) -> dict[str, Any]:
    """Recall of each trick on the attack runs of a labelled log, and the outcome of every run."""
    from detection.detector import Detector
    from training.audit_log import read_log
    from training.evaluation.metrics import read_labels

    given = read_labels(labels)
    events = [event for chunk in read_log(log) for event in chunk]
    cases = [case for case in originals(events, given) if case.is_attack]
    replay = Mimicry(Detector(bundle, cached_windows=50_000), without_labelled(events, given))
    found = replay.run(cases, TRICKS)
    runs = []
    for number, case in enumerate(cases):
        outcomes = {name: found.rows[name][number] for name in TRICKS}
        runs.append(
            {
                "scenario": case.scenario,
                "class": case.cls,
                "as it was": asdict(found.first[number]),
                **{name: asdict(one) for name, one in outcomes.items() if one is not None},
            }
        )
    names = ("as it was", *TRICKS)
    recall = {name: sum(run[name]["seen"] for run in runs) / len(runs) for name in names}
    return {"attack_runs": len(runs), "recall": recall, "runs": runs}


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    from detection.bundle import Bundle

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("recordings", nargs="+", help="LOG:LABELS")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    bundle = Bundle.load(options.bundle)
    found = {}
    for recording in options.recordings:
        log, _, labels = recording.partition(":")
        name = Path(log).name.split(".")[0]
        found[name] = measure(bundle, Path(log), Path(labels))
        print(name, f"{found[name]['attack_runs']} runs", flush=True)
        for trick, recall in found[name]["recall"].items():
            print(f"  {trick:10} {recall:.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
