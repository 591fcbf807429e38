"""What an alert keeps, and what it never does."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.schemas import Action, Alert, ServedModel, add_actions, clean
from tests.serving.fakes import START


def action(number: int, evidence: float = 5.0, severity: str = "low") -> Action:
    return Action.model_validate(
        {
            "audit_id": f"id-{number}",
            "time": START + timedelta(seconds=number),
            "did": f"did {number % 3}",
            "verb": "get",
            "severity": severity,
            "sensitivity": 1,
            "evidence": evidence,
            "surprise": 1.0,
        }
    )


def empty_alert() -> Alert:
    return Alert(
        id="a",
        principal="alice",
        kind="human",
        peer_group="kind:human",
        first_seen=START,
        last_seen=START,
        severity="low",
        evidence=0,
        sentence="",
        model=ServedModel(name="m", version="1"),
    )


def test_an_alert_shows_its_first_and_its_most_surprising_actions_and_counts_all() -> None:
    alert = empty_alert()
    numbers = list(range(200))
    for start in range(0, 200, 20):
        batch = [action(number, evidence=float(number % 50)) for number in numbers[start : start + 20]]
        add_actions(alert, batch, first=10, top=5)
        assert len(alert.actions) <= 15
    assert alert.action_count == 200
    shown = [int(one.audit_id[3:]) for one in alert.actions]
    assert shown == sorted(shown)
    assert shown[:10] == list(range(10))
    assert {number % 50 for number in shown[10:]} == {49, 48}
    assert sum(deed.count for deed in alert.repeated) == 200


def test_an_alert_takes_the_gravest_severity_and_the_whole_span() -> None:
    alert = empty_alert()
    add_actions(alert, [action(60), action(30, 9.0, "critical")], first=50, top=50)
    add_actions(alert, [action(-30, 2.0, "medium")], first=50, top=50)
    assert (alert.severity, alert.evidence) == ("critical", 9.0)
    assert alert.first_seen == START - timedelta(seconds=30)
    assert alert.last_seen == START + timedelta(seconds=60)
    assert alert.headline.audit_id == "id-30"


def test_names_are_those_of_kubernetes() -> None:
    written = action(1).model_dump(by_alias=True)
    assert {"auditID", "sourceIPs", "objectRef", "responseStatus", "impersonatedUser", "userAgent"} <= set(
        written
    )
    assert "auditIDs" in empty_alert().model_dump(by_alias=True)
    assert "actionCount" in empty_alert().model_dump(by_alias=True)


def test_tokens_query_values_and_control_characters_are_taken_out() -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJl"
    assert clean(f"agent {token} x") == "agent [token] x"
    assert "abcdefgh12" not in clean("Authorization: Bearer abcdefgh12")
    assert clean("/api/v1/x?password=hunter2&y=1") == "/api/v1/x?…"
    assert clean("one\x1b[2Jtwo\nthree\u202efour\u200b") == "one\\x1b[2Jtwo three\\u202efour\\u200b"
    assert clean("Bearer\tabcdefgh12") == "Bearer [token]"
    assert clean("kubectl/v1.29.3 (linux/amd64)") == "kubectl/v1.29.3 (linux/amd64)"


@given(st.text(max_size=2000), st.integers(2, 300))
def test_cleaned_text_is_short_and_printable_and_stays_as_it_is(text: str, limit: int) -> None:
    once = clean(text, limit)
    assert len(once) <= limit
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in once)
    assert clean(once, limit) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("eyJ.eyJaaaaa.eyJbbbbb.sig+", "eyJ.[token]+"),
        ("x.eyJaaaaa.eyJbbbbb", "x.[token]"),
        ("abeyJaaaaa.eyJbbbbb. eyJaaaaa.eyJbbbbb.c", "ab[token] [token]"),
        ("eyJaaaa.eyJbbbbb eyJaaaaa.eyJbbbb", "eyJaaaa.eyJbbbbb eyJaaaaa.eyJbbbb"),
        ("/a?b?c=secret??d=secret", "/a?b?…"),
        ("/a??b=secret", "/a?…"),
    ],
)
def test_tokens_and_queries_are_found_wherever_they_begin(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    "text", ["eyJ", ".eyJaaaaa ", "eyJaaaaa.", "?a", "bearer + ", "bearer=", "\x1b", "?=?", "a.eyJaaaaa"]
)
def test_cleaning_the_worst_text_takes_linear_time(text: str) -> None:
    def seconds(size: int) -> float:
        begun = time.process_time()
        clean(text * (size // len(text)), size // 8)
        return time.process_time() - begun

    # A machine that is slow is slow for a tenth of the text, too; a quadratic pattern takes a hundred times as long.
    assert (whole := seconds(1_000_000)) < 2 or whole < 40 * seconds(100_000)


@given(st.text(alphabet="abc/?&=._-", max_size=60), st.from_regex(r"[a-z]{12}", fullmatch=True))
def test_the_value_of_a_query_never_survives(path: str, secret: str) -> None:
    assert secret not in clean(f"/x{path.replace('?', '')}?token={secret}&b={secret}")
