"""Results of the checks of a deployment: what was seen, as a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from serving.settings import Settings

Level = Literal["ok", "warning", "error"]
#: A check yields one result or more, and changes nothing that a service would not.
Check = Callable[[Settings], Iterator["CheckResult"]]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check saw.

    Attributes:
        check: name of the check.
        level: `error` must be fixed, or the service will not start or not protect; `warning` should be looked at.
        sentence: what was seen, and what to do about it.
    """

    check: str
    level: Level
    sentence: str
