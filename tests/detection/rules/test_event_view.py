"""What expressions see of an event."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from detection.rules.event_view import MAX_CHARACTERS, MAX_VALUES, body_view, event_view, patched_object
from tests.detection.rules.rules_for_tests import events, of_object


def body(resource: str, content: Any, **more: Any) -> tuple[dict[str, Any], bool]:
    return body_view(events(of_object(resource, requestObject=content, **more))[0])


def test_the_command_of_an_exec_is_decoded() -> None:
    uri = "/api/v1/namespaces/a/pods/b/exec?command=sh&command=-c&command=cat%20%2Fetc%2Fshadow&stdout=true"
    view = event_view(events(of_object(subresource="exec", requestURI=uri))[0], ("command", "path", "verb"))
    assert view == {
        "verb": "get",
        "path": "/api/v1/namespaces/a/pods/b/exec",
        "command": "sh -c cat /etc/shadow",
    }


@pytest.mark.parametrize(
    ("resource", "content"),
    [
        ("pods", {"spec": {"containers": [{"image": "a"}]}}),
        ("deployments", {"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}),
        (
            "cronjobs",
            {"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}}},
        ),
        ("pods", [{"op": "add", "path": "/spec/containers/-", "value": {"image": "a"}}]),
        ("deployments", [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "a"}]),
    ],
)
def test_containers_are_found_wherever_a_workload_has_them(resource: str, content: Any) -> None:
    assert body(resource, content)[0]["containers"] == [{"image": "a"}]


def test_what_secrets_and_config_maps_hold_is_never_seen() -> None:
    view, _ = body(
        "secrets", {"type": "Opaque", "data": {"password": "aHVudGVyMg=="}, "stringData": {"a": "hunter2"}}
    )
    assert view["requestObject"] == {"type": "Opaque", "data": {"password": ""}, "stringData": {"a": ""}}
    patched, _ = body("configmaps", [{"op": "add", "path": "/data/key", "value": "hunter2"}])
    assert "hunter2" not in json.dumps(patched)


def test_padding_does_not_hide_what_decides() -> None:
    """Breadth first, so that thousands of annotations come after the field of the specification."""
    content = {
        "metadata": {"annotations": {f"a{number}": "x" * 50 for number in range(20_000)}},
        "spec": {"externalIPs": ["8.8.8.8"]},
    }
    view, is_cut = body("services", content)
    assert view["requestObject"]["spec"] == {"externalIPs": ["8.8.8.8"]}
    assert is_cut


def test_the_last_of_very_many_containers_is_seen() -> None:
    content = {"spec": {"containers": [{"image": str(number)} for number in range(3_000)]}}
    view, is_cut = body("pods", content)
    assert view["containers"][-1] == {"image": "2999"}
    assert is_cut


@pytest.mark.parametrize(
    "content",
    [
        {"a": [[[[["x"] * 50] * 50] * 50]]},
        {"a": "x" * 1_000_000},
        {str(number): "y" * 4_000 for number in range(1_000)},
    ],
)
def test_a_body_of_any_size_becomes_a_small_view(content: Any) -> None:
    view, _ = body("pods", content)

    def count(value: Any) -> tuple[int, int]:
        if isinstance(value, dict | list):
            below = [count(one) for one in (value.values() if isinstance(value, dict) else value)]
            return 1 + sum(one for one, _ in below), sum(text for _, text in below)
        return 1, len(value) if isinstance(value, str) else 0

    values, characters = count(view["requestObject"])
    assert values <= MAX_VALUES + 2
    assert characters <= MAX_CHARACTERS + 8_192


def test_a_body_nested_a_thousand_deep_and_odd_numbers_are_taken_as_they_come() -> None:
    event = events(of_object("pods"))[0]
    event.requestObject = msgspec.Raw(b'{"a":' * 900 + b"1" + b"}" * 900)
    _, is_cut = body_view(event)
    assert is_cut
    event.requestObject = msgspec.Raw(b'{"a":123456789012345678901234567890,"b":1e300,"c":null}')
    view, _ = body_view(event)
    assert view["requestObject"] == {"a": 0, "b": 1e300, "c": None}


def test_nul_and_lone_surrogates_do_not_end_a_text() -> None:
    """In C++ a NUL ends a text, so that `admin\\0x` would be equal to `admin`."""
    event = events(of_object(user={"username": "admin\0x"}))[0]
    assert event_view(event, ("user",))["user"]["username"] == "admin\ufffdx"
    event.userAgent = "a\ud800b"
    assert event_view(event, ("userAgent",))["userAgent"].encode()


def test_a_json_patch_that_makes_no_sense_describes_nothing() -> None:
    odd = [1, {"op": "add"}, {"op": "remove", "path": "/a"}, {"op": "add", "path": "/a/b", "value": 1}]
    assert patched_object(odd)["a"] == {"b": 1}
    assert patched_object([{"op": "add", "path": "/x/0/y", "value": 1}]) == {"x": [{"y": 1}]}
