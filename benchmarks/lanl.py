"""The LANL authentication data (Kent 2015) as audit logs: who logs on from where to what, with the red team's logons as labels.

    python -m benchmarks.lanl FOLDER --out OUT [--learn-days 7] [--judge-days 21]

FOLDER holds `auth.txt` and `redteam.txt` as they are published (`.gz` as well): "Comprehensive, Multi-Source Cyber-Security
Events", Los Alamos National Laboratory, 58 days, 1.6 billion events. They are not part of kubehabit: fetch them from there.
What comes out is learned and judged by the product's own commands (docs/published-benchmarks.md); nothing is fitted to it.

A line of `auth.txt`:     time,source user@domain,destination user@domain,source computer,destination computer,
                          authentication type,logon type,authentication orientation,success or failure
A line of `redteam.txt`:  time,user@domain,source computer,destination computer
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import zstandard

from data.errors import KubehabitError

_DAY = 86_400
#: The published times are seconds since an undisclosed moment; this one begins a day, and a week.
_EPOCH = datetime(2015, 1, 5, tzinfo=UTC)
_FIELDS, _RED_FIELDS = 9, 4
#: Logons of one stolen account at most this far apart (seconds) are one run.
_RUN_GAP = 4 * 3600
_NOBODY = frozenset(("ANONYMOUS LOGON", "?"))


@dataclass(frozen=True, slots=True)
class Logon:
    """One authentication."""

    time: int
    source_user: str
    destination_user: str
    source: str
    destination: str
    kind: str
    logon: str
    orientation: str
    success: bool

    @classmethod
    def parse(cls, line: str) -> Logon | None:
        """From a line of `auth.txt`; None for one that is damaged."""
        parts = line.rstrip("\n").split(",")
        if len(parts) != _FIELDS or not parts[0].isdigit():
            return None
        return cls(int(parts[0]), *parts[1:8], parts[8] == "Success")

    @property
    def key(self) -> tuple[int, str, str, str]:
        """What `redteam.txt` names it by."""
        return self.time, self.source_user, self.source, self.destination

    def event(self, number: int) -> dict[str, Any]:
        """As an audit event: the account creates a logon on a computer.

        A computer's own account (`C12$`) is a service account of its domain. The computer that it comes from is the address.
        """
        name, _, domain = self.source_user.partition("@")
        moment = (_EPOCH + timedelta(seconds=self.time)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        digest = hashlib.sha256(f"{number}:{self.key}".encode()).hexdigest()
        place = int(hashlib.sha256(self.source.encode()).hexdigest()[:6], 16)
        user = (
            f"system:serviceaccount:{domain.lower()}:{name.lower()}"
            if name.endswith("$")
            else self.source_user
        )
        return {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}",
            "stage": "ResponseComplete",
            "requestURI": f"/apis/logon/v1/namespaces/{domain.lower()}/{self.orientation.lower()}s/{self.destination.lower()}",
            "verb": "create",
            "user": {
                "username": user.replace("$", ""),
                "groups": [f"domain:{domain.lower()}", "system:authenticated"],
            },
            "sourceIPs": [f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}"],
            "userAgent": f"{self.kind or '?'}/1.0 ({self.logon or '?'})",
            "objectRef": {
                "apiGroup": "logon",
                "apiVersion": "v1",
                "resource": f"{self.orientation.lower() or 'unknown'}s",
                "namespace": self.destination_user.partition("@")[2].lower() or "-",
                "name": self.destination.lower(),
            },
            "responseStatus": {"code": 201 if self.success else 403},
            "requestReceivedTimestamp": moment,
            "stageTimestamp": moment,
        }


@dataclass(slots=True)
class Converted:
    """Numbers of a conversion: logons to learn from and to judge, red-team logons found and not, lines that are damaged."""

    learned: int = 0
    judged: int = 0
    red: int = 0
    red_missing: int = 0
    damaged: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)


def _open(folder: Path, name: str) -> TextIO:
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        return plain.open(encoding="utf-8", errors="replace")
    if packed.is_file():
        return gzip.open(packed, "rt", encoding="utf-8", errors="replace")
    raise KubehabitError(
        f"{folder} holds neither {name} nor {name}.gz: fetch both files of the LANL data into it."
    )


def red_team(folder: Path) -> frozenset[tuple[int, str, str, str]]:
    """The logons of the red team: time, user, source and destination computer."""
    with _open(folder, "redteam.txt") as lines:
        rows = [line.rstrip("\n").split(",") for line in lines if line.strip()]
    if any(len(row) != _RED_FIELDS or not row[0].isdigit() for row in rows):
        raise KubehabitError(
            "redteam.txt must have lines of time,user@domain,source computer,destination computer."
        )
    return frozenset((int(time), user, source, to) for time, user, source, to in rows)


def logons(folder: Path, until: int, found: Converted) -> Iterator[Logon]:
    """Logons before a time, in the order of the file; those of nobody are left out, damaged lines are counted."""
    with _open(folder, "auth.txt") as lines:
        for line in lines:
            logon = Logon.parse(line)
            if logon is None:
                found.damaged += 1
                continue
            if logon.time >= until:
                return
            if logon.source_user.partition("@")[0] not in _NOBODY:
                yield logon


def convert(folder: Path, out: Path, learn_days: int, judge_days: int) -> Converted:
    """Write `normal.jsonl.zst` (learn from it), `labelled.jsonl.zst` and `labels.json` (judge by them).

    Logons of the red team in the days to learn from are left out; in those to judge, logons of one account at most four hours
    apart are one run.
    """
    red, found = red_team(folder), Converted()
    split, until = learn_days * _DAY, (learn_days + judge_days) * _DAY
    stolen: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    seen = set()
    out.mkdir(parents=True, exist_ok=True)
    packer = zstandard.ZstdCompressor(level=3)
    with (
        (out / "normal.jsonl.zst").open("wb") as first,
        (out / "labelled.jsonl.zst").open("wb") as second,
        packer.stream_writer(first) as normal,
        zstandard.ZstdCompressor(level=3).stream_writer(second) as labelled,
    ):
        for number, logon in enumerate(logons(folder, until, found)):
            is_red = logon.key in red
            if is_red:
                seen.add(logon.key)
            event = logon.event(number)
            line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
            if logon.time >= split:
                labelled.write(line)
                found.judged += 1
                if is_red:
                    found.red += 1
                    stolen[event["user"]["username"]].append((logon.time, event["auditID"]))
            elif not is_red:
                normal.write(line)
                found.learned += 1
    found.red_missing = sum(split <= key[0] < until for key in red - seen)
    found.runs = [run for user, times in sorted(stolen.items()) for run in _runs(user, times)]
    (out / "labels.json").write_text(json.dumps(found.runs, indent=1))
    return found


def _runs(user: str, times: list[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    part: list[tuple[int, str]] = []
    for moment, audit_id in [*sorted(times), (2**62, "")]:
        if part and moment - part[-1][0] > _RUN_GAP:
            yield {
                "scenario": "lanl-red-team",
                "family": "stolen-credential",
                "class": "habit-only",
                "kind": "attack",
                "mode": "new-ip",
                "principal": user,
                "principals": [user],
                "audit_ids": [one for _, one in part],
                "calls": len(part),
            }
            part = []
        part.append((moment, audit_id))


def main() -> None:
    """Convert, and say what to do next."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--learn-days", type=int, default=7)
    parser.add_argument("--judge-days", type=int, default=21)
    options = parser.parse_args()
    found = convert(options.folder, options.out, options.learn_days, options.judge_days)
    print(
        f"{found.learned:,} logons to learn from, {found.judged:,} to judge with {found.red:,} of the red team in "
        f"{len(found.runs)} runs ({found.red_missing:,} named and not found); {found.damaged:,} damaged lines.\n"
        f"Next: kubehabit data build {options.out}/normal.jsonl.zst --out {options.out}/dataset; kubehabit train --data "
        f"{options.out}/dataset; kubehabit evaluate --log {options.out}/labelled.jsonl.zst --labels {options.out}/labels.json "
        f"--data {options.out}/dataset"
    )


if __name__ == "__main__":
    main()
