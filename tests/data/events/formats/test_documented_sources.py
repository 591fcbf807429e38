"""The examples of docs/sources.md are read as the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data.events.decode import decode_body
from tests.data.samples import event

PAGE = (Path(__file__).parents[4] / "docs" / "sources.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.partition("## Every source")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| from ")
]
EXAMPLES = [
    (row[0], example)
    for row in ROWS
    for example in re.findall(r"`([^`]+)`", row[1])
    if "EVENT" in example or example[0] == "{"
]


def filled(example: str) -> bytes:
    """An example with an event in its place."""
    text = event().decode()
    return example.replace('"EVENT"', json.dumps(text)).replace("EVENT", text).encode()


def test_every_source_has_its_example_and_its_blind_spots() -> None:
    assert len(ROWS) > 25
    assert all(len(row) == 4 for row in ROWS)
    assert len(EXAMPLES) > 30


@pytest.mark.parametrize(
    ("source", "example"), EXAMPLES, ids=[f"{source}-{number}" for number, (source, _) in enumerate(EXAMPLES)]
)
def test_an_example_is_read(source: str, example: str) -> None:
    decoded = decode_body(filled(example))
    assert len(decoded.events) == max(example.count("EVENT"), 1)
    assert (decoded.dead, dict(decoded.skipped)) == ([], {})
    cluster = {"Amazon EKS": "111122223333/shop", "Azure AKS": "0000/shop-rg/shop", "OpenTelemetry": "shop"}
    if source in cluster:
        assert {found.cluster for found in decoded.events} == {cluster[source]}
