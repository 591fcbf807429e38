"""What time it is, and whether anybody vouches for it: evidence says by which clock its times were taken."""

from __future__ import annotations

import ctypes
import socket
import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMEX_BYTES = 512
"""More than `struct timex` has on any Linux."""
_TIME_ERROR = 5


def now() -> int:
    """Microseconds since 1970 UTC by this machine's clock."""
    return time.time_ns() // 1000


def written(moment: int) -> str:
    """Microseconds since 1970 UTC as RFC 3339, always with microseconds, always in UTC."""
    return (_EPOCH + timedelta(microseconds=moment)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def is_synchronised() -> bool | None:
    """Whether the kernel says that a time service keeps its clock right (ntp_adjtime(3)); None where it cannot be asked."""
    try:
        state = ctypes.CDLL(None, use_errno=True).ntp_adjtime(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)


def source() -> dict[str, object]:
    """The clocks that an export rests on, in words fit to be printed."""
    return {
        "zone": "UTC",
        "events": "requestReceivedTimestamp (else stageTimestamp), set by the clock of the API server that wrote the event",
        "records": f"received, ledger and custody times: the system clock (CLOCK_REALTIME) of {socket.gethostname()}",
        "synchronised": is_synchronised(),
        "read": written(now()),
    }
