"""The padding benchmark passes writes on as platforms do: what it makes of them is read, and differs in the body only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.bench_padding import PLATFORMS, padded
from data.actions.encoder import ActionEncoder
from data.events.decode import decode_lines
from tests.data.samples import event

POD = {"kind": "Pod", "metadata": {"name": "x"}, "spec": {"hostPID": True, "containers": [{"image": "x"}]}}
WRITES = {
    "create": {"verb": "create", "requestObject": POD},
    "merge patch": {"verb": "patch", "requestObject": {"spec": {"hostPID": True}}},
    "JSON patch": {"verb": "patch", "requestObject": [{"op": "add", "path": "/spec/hostPID", "value": True}]},
}


def action(line: bytes) -> dict[str, Any]:
    decoded = decode_lines([line])
    assert not decoded.dead
    encoder = ActionEncoder()
    batch = encoder.encode(decoded.events)
    found = {field: encoder.interners[field].values[codes[0]] for field, codes in batch.codes.items()}
    return found | {"who": batch.principals[batch.principal[0]].name, "id": decoded.events[0].auditID}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_padded_write_is_the_same_action_whose_body_is_withheld(platform: str, write: str) -> None:
    whole = json.loads(event(level="Request", sourceIPs=["10.1.2.3"], **WRITES[write]))
    expected = action(json.dumps(whole).encode())
    found = action(PLATFORMS[platform](whole))
    same = ("verb", "resource", "namespace", "name", "client", "place", "who", "id")
    assert [found[field] for field in same] == [expected[field] for field in same]
    if platform == "body as text":
        assert found["traits"] == expected["traits"]
    else:
        assert "hostPID" in expected["traits"]
        assert "withheld" in found["traits"].split(",")
        assert "hostPID" not in found["traits"].split(",")


def test_the_padding_stands_before_what_it_is_to_hide() -> None:
    text = json.dumps(padded(json.loads(event(**WRITES["create"])), 1000)["requestObject"])
    assert text.index("xxxx") < text.index("hostPID")
