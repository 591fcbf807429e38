"""Knows the lines that programs of a cluster write about themselves, which share streams with the audit log."""

from __future__ import annotations

import re

#: Why they are left out.
OTHER_PROGRAM = "line of another program's log"
#: How they begin: klog's header, logfmt of the authenticator and others, Go's own log, a time and a level, a trace of a crash.
_BEGINS = re.compile(
    rb'[IWEF]\d{4} \d\d:\d\d:\d\d|time="|(?:level|ts|logger)=|goroutine \d|Trace\[\d|Flag --\w'
    rb"|\d{4}/\d\d/\d\d \d\d:\d\d:\d\d "
    rb"|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S{0,12}[ \t]+\[?(?:DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL)\b",
    re.IGNORECASE,
)
_HEAD = 64


def is_program_log(line: bytes) -> bool:
    """Whether a line is of such a log, and holds no JSON near its beginning. Space in front is of a message that goes on."""
    return b"{" not in line[:_HEAD] and _BEGINS.match(line.lstrip()) is not None
