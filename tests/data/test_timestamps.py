"""Times: in bulk as one by one, and what does not exist is no time."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.timestamps import are_usual, is_time, parse_times, usual_times

MOMENTS = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(9999, 12, 31))
WRITTEN = MOMENTS.map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0"))
USUAL = "2026-01-05T09:30:00.000001Z"


@given(st.lists(MOMENTS, min_size=1, max_size=20))
def test_times_in_bulk_are_microseconds_since_1970(moments: list[datetime]) -> None:
    texts = [moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for moment in moments]
    since = [moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC) for moment in moments]
    exact = [(part.days * 86_400 + part.seconds) * 1_000_000 + part.microseconds for part in since]
    assert parse_times(texts).tolist() == exact
    found = usual_times(texts)
    assert found is not None
    assert found.tolist() == exact
    assert are_usual(texts)


@pytest.mark.parametrize(
    "texts",
    [
        ["2026-02-31T09:30:00.000000Z"],
        ["2026-00-05T09:30:00.000000Z"],
        ["2026-01-05T24:30:00.000000Z"],
        ["2026-01-05T09:60:00.000000Z"],
        ["2026-01-05 09:30:00.000000Z"],
        ["2026-01-05T09:30:00.00000\u0663Z"],
        ["2026-01-05T09:30:00Z"],
        ["2026-01-05T09:30:00.000000+01:00"],
        [USUAL + USUAL, ""],
        ["", USUAL + USUAL],
        [USUAL + USUAL[:10], USUAL[10:]],
        [USUAL[:-1], "Z" + USUAL],
    ],
)
def test_what_api_servers_do_not_write_is_left_to_the_slow_way(texts: list[str]) -> None:
    for around in ([], [USUAL], 5 * [USUAL], 200 * [USUAL]):  # few, more, and many
        assert not are_usual([*around, *texts, *around])
        assert usual_times([*around, *texts, *around]) is None


def test_many_different_days_are_read_as_one_by_one() -> None:
    texts = [f"{year:04}-{1 + year % 12:02}-05T09:30:00.000000Z" for year in range(1, 2000)]
    assert are_usual(texts)
    assert parse_times(texts).tolist() == [int(parse_times([text])[0]) for text in texts]
    assert not are_usual([*texts, "2026-02-31T09:30:00.000000Z"])


@given(
    st.lists(WRITTEN | st.text("0123456789-:.TZ+", max_size=30) | st.sampled_from([USUAL, ""]), max_size=3)
)
def test_both_ways_agree_on_what_is_a_time(texts: list[str]) -> None:
    if are_usual(texts):
        assert all(map(is_time, texts))
        assert usual_times(texts) is not None


@pytest.mark.parametrize(
    ("text", "exists"),
    [
        ("0001-01-01T00:00:00Z", True),
        ("9999-12-31T23:59:59.999999999Z", True),
        ("0001-01-01T00:00:00+14:00", False),
        ("0001-01-01T13:59:59+14:00", False),
        ("0001-01-01T14:00:00+14:00", True),
        ("9999-12-31T23:59:59-12:00", False),
        ("9999-12-31T11:59:59-12:00", True),
        ("0000-12-31T23:00:00-12:00", False),
        ("2026-01-05T09:30:00+23:59", True),
    ],
)
def test_a_time_has_to_exist_after_its_offset_is_applied(text: str, exists: bool) -> None:
    assert is_time(text) is exists
    if exists:
        datetime(1970, 1, 1) + timedelta(microseconds=int(parse_times([text])[0]))


@given(MOMENTS, st.integers(-23 * 60, 23 * 60))
def test_what_is_a_time_can_be_shown(moment: datetime, minutes: int) -> None:
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f").rjust(26, "0") + f"{sign}{hours:02d}:{rest:02d}"
    if is_time(text):
        expected = moment - timedelta(minutes=minutes)
        assert datetime(1970, 1, 1) + timedelta(microseconds=int(parse_times([text])[0])) == expected
