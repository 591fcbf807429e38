"""Current time, its spelling, and whether the clock is synchronised: evidence names the clock of its times."""

from __future__ import annotations

import ctypes
import socket
import time
from datetime import datetime, timedelta

_EPOCH = datetime(1970, 1, 1)
# More than the size of `struct timex` on any Linux.
_TIMEX_BYTES = 512
_TIME_ERROR = 5


def now() -> int:
    """Microseconds since 1970 UTC by this machine's clock."""
    return time.time_ns() // 1000


def written(moment: int) -> str:
    """Microseconds since 1970 UTC as RFC 3339, always with microseconds, always in UTC."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat(timespec="microseconds") + "Z"


def is_synchronised() -> bool | None:
    """Whether the kernel considers its clock synchronised (ntp_adjtime(3)); None where that is unknown."""
    try:
        state = ctypes.CDLL(None, use_errno=True).ntp_adjtime(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)


def source() -> dict[str, object]:
    """Description of the clocks behind an export, for print."""
    return {
        "zone": "UTC",
        "events": "requestReceivedTimestamp (else stageTimestamp), set by the clock of the API server that wrote the event",
        "records": f"received, ledger and custody times: the system clock (CLOCK_REALTIME) of {socket.gethostname()}",
        "synchronised": is_synchronised(),
        "read": written(now()),
    }
