"""The LANL authentication data as audit logs, on a made file of its format: the data themselves are not here."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.lanl import Logon, convert
from data.actions.encoder import ActionEncoder, ActionSettings
from data.errors import KubehabitError
from data.events.decode import decode_lines
from data.events.reader import open_lines

_DAY = 86_400
AUTH = [
    "1,C625$@DOM1,U147@DOM1,C625,C625,Negotiate,Batch,LogOn,Success",
    "2,U22@DOM1,U22@DOM1,C506,C586,Kerberos,Network,LogOn,Success",
    "3,ANONYMOUS LOGON@C586,ANONYMOUS LOGON@C586,C1250,C586,NTLM,Network,LogOn,Success",
    "4,broken line",
    "5,U66@DOM1,U66@DOM1,C17693,C728,NTLM,Network,LogOn,Fail",
    f"{_DAY + 10},U22@DOM1,U22@DOM1,C506,C586,Kerberos,Network,LogOn,Success",
    f"{_DAY + 20},U66@DOM1,U66@DOM1,C17693,C1003,NTLM,Network,LogOn,Success",
    f"{_DAY + 30},U66@DOM1,U66@DOM1,C17693,C305,NTLM,Network,LogOn,Success",
    f"{_DAY + 30_000},U66@DOM1,U66@DOM1,C17693,C305,NTLM,Network,LogOn,Success",
    f"{2 * _DAY + 1},U22@DOM1,U22@DOM1,C506,C586,Kerberos,Network,LogOn,Success",
]
RED = [
    "5,U66@DOM1,C17693,C728",
    f"{_DAY + 20},U66@DOM1,C17693,C1003",
    f"{_DAY + 30},U66@DOM1,C17693,C305",
    f"{_DAY + 30_000},U66@DOM1,C17693,C305",
    f"{_DAY + 99},U9@DOM1,C17693,C305",
    f"{9 * _DAY},U9@DOM1,C17693,C305",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the data are published, packed and plain."""
    with gzip.open(tmp_path / "auth.txt.gz", "wt") as file:
        file.write("\n".join(AUTH) + "\n")
    (tmp_path / "redteam.txt").write_text("\n".join(RED) + "\n")
    return tmp_path


def test_days_to_learn_from_hold_no_red_team_and_runs_are_joined(folder: Path, tmp_path: Path) -> None:
    found = convert(folder, tmp_path / "out", learn_days=1, judge_days=1)
    assert (found.learned, found.judged, found.red, found.red_missing, found.damaged) == (2, 4, 3, 1, 1)
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [(run["principal"], run["calls"]) for run in labels] == [("U66@DOM1", 2), ("U66@DOM1", 1)]
    judged = [json.loads(line) for line in open_lines(tmp_path / "out" / "labelled.jsonl.zst")]
    assert {one for run in labels for one in run["audit_ids"]} == {event["auditID"] for event in judged[1:]}


def test_what_comes_out_is_read_as_audit_events_with_principals(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "out", learn_days=1, judge_days=1)
    lines = [
        *open_lines(tmp_path / "out" / "normal.jsonl.zst"),
        *open_lines(tmp_path / "out" / "labelled.jsonl.zst"),
    ]
    decoded = decode_lines(lines)
    assert len(decoded.events) == 6
    batch = ActionEncoder(ActionSettings.shipped()).encode(decoded.events)
    who = {(principal.name, principal.kind) for principal in batch.principals}
    assert who == {
        ("system:serviceaccount:dom1:c625", "serviceaccount"),
        ("U22@DOM1", "human"),
        ("U66@DOM1", "human"),
    }


def test_a_failed_logon_is_a_refused_one() -> None:
    logon = Logon.parse(AUTH[4])
    assert logon is not None
    event = logon.event(0)
    assert event["responseStatus"]["code"] == 403
    assert (event["objectRef"]["name"], event["objectRef"]["namespace"]) == ("c728", "dom1")
    assert event["auditID"] != logon.event(1)["auditID"]


def test_a_folder_without_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match=r"neither redteam\.txt nor redteam\.txt\.gz"):
        convert(tmp_path, tmp_path / "out", 1, 1)
    (tmp_path / "redteam.txt").write_text("yesterday,U1@DOM1,C1\n")
    with pytest.raises(KubehabitError, match=r"must have lines of"):
        convert(tmp_path, tmp_path / "out", 1, 1)
