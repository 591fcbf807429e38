"""Times as Kubernetes writes them (RFC 3339), one by one and in bulk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_HOUR = r"(?:[01]\d|2[0-3]):[0-5]\d"
_TIMESTAMP = re.compile(rf"(\d{{4}}-\d\d-\d\d)T{_HOUR}:[0-5]\d(?:\.\d{{1,9}})?(?:Z|[+-]{_HOUR})", re.ASCII)

# What every API server writes (metav1.MicroTime): always 27 characters, always UTC.
_USUAL = "0000-00-00T00:00:00.000000Z"
_DIGITS = np.array([i for i, char in enumerate(_USUAL) if char == "0"])
_MARKS = np.array([i for i, char in enumerate(_USUAL) if char != "0"])
_MARKS_ARE = np.frombuffer(_USUAL.encode(), np.uint8)[_MARKS]
_DATE = 8  # digits of the date
_LARGEST = np.array([*map(int, "99991939295959999999")], np.uint8)
_IN_DAY = np.array([36e9, 36e8, 6e8, 6e7, 1e7, 1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1e0])
_IN_DATE = 10.0 ** np.arange(7, -1, -1)
_DAY = 86_400_000_000


@lru_cache(maxsize=4096)
def _day(digits: int) -> int | None:
    """Microseconds from 1970 to the day written as 20260105; None if there is no such day."""
    try:
        return (date(digits // 10_000, digits // 100 % 100, digits % 100) - date(1970, 1, 1)).days * _DAY
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _is_date(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False


def is_time(text: str) -> bool:
    """Whether a text is an RFC 3339 time that exists (no 31 February), in the years 1 to 9999 UTC."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None or not _is_date(match[1]):
        return False
    if text[-1] == "Z" or text[:4] not in ("0001", "9999"):
        return True
    local = datetime.fromisoformat(text[:19])
    try:  # an offset may carry the first and the last day out of what datetime can hold
        return local - timedelta(microseconds=_offset(text)) is not None
    except OverflowError:
        return False


_WRITTEN = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?\s?(Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
#: Microseconds in one unit, by the digits before the point that the years 2001 to 2286 have in it.
_UNITS = {10: 1_000_000.0, 13: 1_000.0, 16: 1.0, 19: 0.001}
_EPOCH = re.compile(r"(\d{10}|\d{13}|\d{16}|\d{19})(?:\.\d{1,9})?", re.ASCII)


def rfc3339(text: str) -> str:
    """A time as databases and exports write it, as RFC 3339: `2026-11-13 18:34:10 UTC`, or a number since 1970.

    A time without a zone is in UTC, as all of them write it; a number is in seconds, milliseconds, microseconds or nanoseconds,
    which its length says. Any other text, such as `3/2/2026`, which may be a day in March or in February, stays as it is.
    """
    if is_time(text):
        return text
    found = _WRITTEN.fullmatch(text)
    if found is not None:
        day, clock, fraction, zone = found.groups()
        if zone in (None, "Z", "z", "UTC", "GMT"):
            zone = "Z"
        elif len(zone) == 3:
            zone += ":00"
        elif zone[3] != ":":
            zone = f"{zone[:3]}:{zone[3:]}"
        return f"{day}T{clock}.{fraction}{zone}" if fraction else f"{day}T{clock}{zone}"
    number = _EPOCH.fullmatch(text)
    if number is None:
        return text
    whole = int(number[1]) if len(number[1]) > 10 else float(text)
    moment = datetime(1970, 1, 1) + timedelta(microseconds=round(whole * _UNITS[len(number[1])]))
    return moment.isoformat(timespec="microseconds") + "Z"


_ARE_USUAL = re.compile(
    r"(?:[0-9]{4}-[0-9][0-9]-[0-9][0-9]T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z)*+"
)


def are_usual(texts: Sequence[str]) -> bool:
    """Whether all texts are times as API servers write them, and exist. Quicker than reading them, if they are not many."""
    if len(texts) >= _MANY:
        return usual_times(texts) is not None
    joined = "".join(texts)
    # Each that begins with a date begins where the pattern does, and so all of them end there too.
    return (
        len(joined) == len(_USUAL) * len(texts)
        and _ARE_USUAL.fullmatch(joined) is not None
        and all(map(_is_date, {text[:10] for text in texts}))
    )


#: Times from which on reading all at once is quicker than a pattern.
_MANY = 256
#: Times up to which one after the other is quicker than all at once.
_FEW = 8


def _usual_time(text: str) -> int | None:
    if len(text) != len(_USUAL) or _ARE_USUAL.fullmatch(text) is None:
        return None
    day = _day(int(text[:4] + text[5:7] + text[8:10]))
    if day is None:
        return None
    minutes = int(text[11:13]) * 60 + int(text[14:16])
    return day + (minutes * 60 + int(text[17:19])) * 1_000_000 + int(text[20:26])


def usual_times(texts: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """Times as microseconds since 1970 UTC, int64 [N], if all are as API servers write them and exist; else None."""
    if len(texts) <= _FEW:
        few = [_usual_time(text) for text in texts]
        return None if None in few else np.array(few, np.int64)
    written = "".join(texts).encode("utf-8", "surrogatepass")
    if len(written) != len(_USUAL) * len(texts) or set(map(len, texts)) - {len(_USUAL)}:
        return None
    characters = np.frombuffer(written, np.uint8).reshape(-1, len(_USUAL))
    digits = characters[:, _DIGITS] - 48  # what is below "0" wraps around
    if (digits > _LARGEST).any() or (characters[:, _MARKS] != _MARKS_ARE).any():
        return None
    if ((digits[:, 8] == 2) & (digits[:, 9] > 3)).any():  # 24 o'clock
        return None
    values = digits.astype(np.float64)  # exact: less than 2**53
    dates = values[:, :_DATE] @ _IN_DATE
    time: npt.NDArray[np.int64] = (values[:, _DATE:] @ _IN_DAY).astype(np.int64)
    distinct, which = (
        np.unique(dates, return_inverse=True) if (dates != dates[0]).any() else (dates[:1], np.intp(0))
    )
    days = [_day(int(digits)) for digits in distinct.tolist()]
    return None if None in days else time + np.array(days, np.int64)[which]


def parse_times(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """RFC 3339 times as microseconds since 1970 UTC, int64 [N]."""
    usual = usual_times(texts)
    if usual is not None:
        return usual
    local = np.array([(text[:-1] if text[-1:] == "Z" else text[:-6])[:26] for text in texts], "M8[us]")
    return local.astype(np.int64) - np.array([_offset(text) for text in texts], np.int64)


def _offset(text: str) -> int:
    """Microseconds that a time's zone is ahead of UTC."""
    if text[-1:] == "Z":
        return 0
    minutes = int(text[-5:-3]) * 60 + int(text[-2:])
    return (-minutes if text[-6] == "-" else minutes) * 60_000_000
