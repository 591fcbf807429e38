"""What is noted on a registered version as it is promoted, refused, rolled back, or compared with a recent log.

Training writes these records as tags of the version, one each, and serving reads them: nothing that was decided is overwritten by
the next decision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, TypeVar

import msgspec

PROMOTION_TAG, DRIFT_TAG = "promotion.", "drift."

#: Longest reason, and most reasons, of one record: MLflow's stores take tags of some thousand characters.
_LONGEST, _MOST = 300, 10

PromotionOutcome = Literal["promoted", "refused", "rolled back"]


@dataclass(frozen=True, slots=True)
class PromotionRecord:
    """One decision about which version is champion.

    Attributes:
        time: when it was made.
        outcome: promoted, refused or rolled back.
        before: the champion until then; "" if there was none.
        after: the version that became champion, or was refused.
        by: account that ran the command; "" if it is not known.
        note: why, as the person wrote it.
        reasons: why it was refused, one sentence each.
    """

    time: datetime
    outcome: PromotionOutcome
    before: str
    after: str
    by: str = ""
    note: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DriftRecord:
    """One comparison of a version with a recent log, by `kubehabit drift`.

    Attributes:
        time: when it was made.
        log: name of the log.
        actions: in it.
        retrain: whether the advice was to train again.
        surprising: share of actions with an error that one in twenty reached in calibration.
        unknown: share of actions with a verb or a resource that training never saw.
        reasons: why to train again, one sentence each.
    """

    time: datetime
    log: str
    actions: int
    retrain: bool
    surprising: float
    unknown: float
    reasons: tuple[str, ...] = ()


_Record = TypeVar("_Record", PromotionRecord, DriftRecord)


def tag_of(record: PromotionRecord | DriftRecord) -> tuple[str, str]:
    """Name and value of the tag that keeps a record; the name sorts by time."""
    prefix = PROMOTION_TAG if isinstance(record, PromotionRecord) else DRIFT_TAG
    moment = record.time.astimezone(UTC).replace(microsecond=0)
    reasons = tuple(reason[:_LONGEST] for reason in record.reasons[:_MOST])
    cut = replace(record, time=moment, reasons=reasons)
    return f"{prefix}{moment:%Y%m%dT%H%M%SZ}", msgspec.json.encode(cut).decode()


def promotions_in(tags: Mapping[str, str], version: str) -> list[PromotionRecord]:
    """Decisions that the tags of a version hold, the newest first; what cannot be read is left out.

    Versions of earlier releases keep their last decision alone, in tags of other names.
    """
    return _read(PROMOTION_TAG, tags, PromotionRecord) or _earlier(tags, version)


def drift_reports_in(tags: Mapping[str, str]) -> list[DriftRecord]:
    """Comparisons that the tags of a version hold, the newest first; what cannot be read is left out."""
    return _read(DRIFT_TAG, tags, DriftRecord)


def _read(prefix: str, tags: Mapping[str, str], kind: type[_Record]) -> list[_Record]:
    found: list[_Record] = []
    for name, text in tags.items():
        if name.startswith(prefix):
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(text, type=kind))
    return sorted((one for one in found if one.time.tzinfo), key=lambda one: one.time, reverse=True)


def _earlier(tags: Mapping[str, str], version: str) -> list[PromotionRecord]:
    try:
        moment = datetime.fromisoformat(tags["promotion_time"])
        reasons = msgspec.json.decode(tags.get("promotion_reasons", "[]"), type=tuple[str, ...])
    except (KeyError, ValueError, msgspec.DecodeError):
        return []
    if moment.tzinfo is None:
        return []
    outcome: PromotionOutcome = "promoted" if tags.get("promotion") == "promoted" else "refused"
    before = tags.get("promotion_against", "")
    return [PromotionRecord(moment, outcome, before if before.isdecimal() else "", version, reasons=reasons)]
