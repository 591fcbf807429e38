"""Audit logs in the shapes that people report in public: each is read, or says in one sentence what it is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from data.actions.encoder import ActionEncoder
from data.errors import KubehabitError
from tests.data.events.formats.cases import FOLDER, SETTINGS, read_alike, read_body

with (FOLDER / "index.tsv").open(encoding="utf-8") as index:
    CASES = list(csv.DictReader(index, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_every_case_is_in_the_index() -> None:
    assert {case["file"] for case in CASES} == {path.name for path in FOLDER.iterdir()} - {"index.tsv"}


@pytest.mark.parametrize("case", CASES, ids=[case["file"] for case in CASES])
def test_a_case_has_the_events_that_are_expected_as_a_file_and_as_a_body(case: dict[str, str]) -> None:
    found = read_alike(FOLDER / case["file"])
    assert str(len(found.events)) in case["events"].split("|")
    assert str(len(found.dead)) in case["dead"].split("|")
    assert found.skipped.total() == int(case["skipped"])
    if case["reason"] != "-":
        assert all(case["reason"] in letter.reason for letter in found.dead)
    if case["principals"] != "-":
        encoder = ActionEncoder(SETTINGS)
        batch = encoder.encode(found.events)
        principals = [encoder.principals[place] for place in sorted(set(batch.principal.tolist()))]
        assert len(principals) == int(case["principals"])
        assert ",".join(sorted({principal.kind for principal in principals})) == case["kinds"].strip("-")


REFUSED = {
    "37-gcloud-default-yaml.yaml": "--format=json",
    "59-legacy-text.log": "--audit-log-format=json",
    "74-log-analytics.csv": "export JSON",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_body_of_which_nothing_is_json_is_refused_with_what_to_do(name: str) -> None:
    refused = read_body((FOLDER / name).read_bytes())
    assert isinstance(refused, KubehabitError)
    assert REFUSED[name] in str(refused)


def test_the_fields_of_wrapped_events_are_those_of_the_plain_one() -> None:
    """Every case that holds the same three requests gives the same actions, whatever is around them."""
    wrapped = [
        *("01-fluentbit-log-field.jsonl", "03-cri-stdout.log", "05-syslog-rfc3164.log", "08-vector-message.jsonl"),
        *("10-elastic-agent-kubernetes-audit.jsonl", "11-elastic-search-hits.json", "12-loki-push.json"),
        *("14-splunk-hec.jsonl", "17-fluentd-out-file.log", "60-bom-crlf.log", "64-pretty-several-events.json"),
        *("73-audit.log.xz", "71-audit.zip", "79-cloudwatch-json-line-with-ingestion-offset.log"),
        *("32-siem-category-envelope.jsonl", "99-cloudwatch-message-as-object.jsonl"),
    ]  # fmt: skip
    plain = read_alike(FOLDER / "91-crlf-only.log").events
    assert len(plain) == 3
    for name in wrapped:
        assert read_alike(FOLDER / name).events == plain, name


def test_a_path_is_no_part_of_what_is_read(tmp_path: Path) -> None:
    """A log is known by its content: the same bytes under any name are the same log."""
    for name in ("70-must-gather.tar.gz", "71-audit.zip", "73-audit.log.xz", "60-bom-crlf.log"):
        (tmp_path / "log").write_bytes((FOLDER / name).read_bytes())
        assert read_alike(tmp_path / "log") == read_alike(FOLDER / name)
