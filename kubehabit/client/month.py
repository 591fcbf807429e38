"""What an auditor asks of a month of log review, gathered from a running service or its files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from data.errors import KubehabitError
from kubehabit.client.local import LocalStore
from kubehabit.client.remote import Remote
from serving.forensics import clock
from serving.forensics.evidence.export import exporter
from serving.forensics.ledger import LedgerEntry, LedgerReader
from serving.forensics.queries import EventQueries, QueryError, moment_of
from serving.forensics.verify import Report

_SEVERITIES = ("critical", "high", "medium", "low")
_VERDICTS = ("none", "normal", "malicious")
_PAGE = 200
_MAX_PAGES = 500
_LISTED = 200
_MOST_ACTIVE = 10


class Month(NamedTuple):
    """A calendar month in UTC: its name, begin, and end (which is outside)."""

    name: str
    begin: datetime
    end: datetime

    @classmethod
    def named(cls, name: str | None, now: datetime) -> Month:
        """The month `2026-11`; the one before `now` when None.

        Raises:
            KubehabitError: it is no month, or has not begun.
        """
        if name is None:
            last = now.replace(day=1) - timedelta(days=1)
            name = f"{last:%Y-%m}"
        found = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", name)
        if found is None:
            raise KubehabitError(f"{name[:40]!r} is no month: write it as 2026-11.")
        begin = datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)
        if begin > now:
            raise KubehabitError(f"{name} has not begun yet.")
        return cls(name, begin, (begin + timedelta(days=32)).replace(day=1))

    def holds(self, written: str | None) -> bool:
        """Whether a time of the API lies in it."""
        return written is not None and self.begin <= _time(written) < self.end


def gather(source: LocalStore | Remote, month: Month, now: datetime) -> dict[str, Any]:
    """What of a month's report comes from alerts and incidents."""
    incidents = list(_incidents(source, month))
    decided = [
        entry | {"incidentID": one["id"]}
        for one in incidents
        for entry in one["trail"]
        if entry["by"] != "kubehabit" and month.holds(entry["time"])
    ]
    opened = [one for one in incidents if month.holds(_opened(one))]
    return {
        "month": month.name,
        "begin": f"{month.begin:%Y-%m-%d}",
        "end": f"{month.end - timedelta(days=1):%Y-%m-%d}",
        "complete": month.end <= now,
        "created": clock.written(clock.now()),
        "by": exporter(),
        "alerts": _alerts(source, month),
        "review": _review(decided, month, min(now, month.end)),
        "incidents": {
            "opened": len(opened),
            "closed": sum(
                any(entry["action"] == "closed" for entry in _decisions(one, month)) for one in incidents
            ),
            "stillOpen": sum(one["state"] == "open" for one in opened),
            "hoursToClose": _hours_to_close(opened),
            "listed": [_line(one) for one in sorted(opened, key=lambda one: one["firstSeen"])[:_LISTED]],
            "leftOut": max(0, len(opened) - _LISTED),
        },
    }


def gather_events(
    queries: EventQueries, month: Month, verified: Report, retention_days: float
) -> dict[str, Any]:
    """What of a month's report comes from the event store: days with events, gaps, exports, and the result of `verify`."""
    begin, end = (moment_of(clock_time.isoformat()) for clock_time in (month.begin, month.end))
    query = (
        "SELECT strftime(time, '%Y-%m-%d') AS day, count(*) FROM {records} WHERE epoch_us(time) >= ? AND epoch_us(time) < ? "
        "GROUP BY day ORDER BY day"
    )
    rows, trouble = [], ""
    try:
        rows = queries.answer(begin, end, lambda records: records.all(query, (begin, end)))
    except QueryError as error:  # what is wrong with the store is in the report, not in place of it
        trouble = str(error)
    days = {str(day): int(count) for day, count in rows}
    exports = [entry.fields for entry in _ledger(queries) if entry.fields.get("kind") == "exported"]
    return {
        "coverage": {
            "events": sum(days.values()),
            "days": days,
            "trouble": trouble,
            "gaps": [
                {"after": gap.after, "before": gap.before, "minutes": round(gap.seconds / 60), "why": gap.why}
                for gap in verified.gaps
                if month.holds(gap.before or gap.after)
            ],
            "retentionDays": retention_days,
        },
        "exports": [
            {name: one.get(name) for name in ("time", "by", "note", "events", "sha256")}
            for one in exports
            if month.holds(one.get("time"))
        ],
        "integrity": {
            "sound": verified.is_sound,
            "findings": [f"{one.where}: {one.what}" for one in verified.findings],
            "records": verified.records,
            "lines": verified.lines,
            "signedBy": verified.signed,
            "head": verified.head,
            "erasures": [
                f"{one.time}: {one.records} records, by {one.by}: {one.why}" for one in verified.erasures
            ],
        },
    }


def _ledger(queries: EventQueries) -> list[LedgerEntry]:
    reader = LedgerReader(queries.folder)
    reader.read_on()
    return list(reader.entries)


def _alerts(source: LocalStore | Remote, month: Month) -> dict[str, Any]:
    """Alerts that were raised in the month, by severity and last verdict."""
    counts: dict[str, Counter[str]] = {severity: Counter() for severity in _SEVERITIES}
    models: Counter[str] = Counter()
    principals: Counter[str] = Counter()
    for verdict in _VERDICTS:
        for alert in _paged(source, "alerts", verdict=verdict, since=f"{month.begin:%Y-%m-%dT%H:%M:%SZ}"):
            if month.holds(alert["firstSeen"]):
                counts[alert["severity"]][verdict] += 1
                models[f"{alert['model']['name']} version {alert['model']['version']}"] += 1
                principals[alert["principal"]] += 1
    return {
        "total": sum(sum(one.values()) for one in counts.values()),
        "bySeverity": {
            severity: {verdict: found[verdict] for verdict in _VERDICTS} for severity, found in counts.items()
        },
        "principals": principals.most_common(_MOST_ACTIVE),
        "models": models.most_common(),
    }


def _incidents(source: LocalStore | Remote, month: Month) -> Iterator[dict[str, Any]]:
    """Incidents that began in the month or were decided about in it, in full."""
    for brief in _paged(source, "incidents"):
        if brief["firstSeen"] is None or _time(brief["firstSeen"]) >= month.end:
            continue
        whole = source.get("incidents", brief["id"])
        if month.holds(_opened(whole)) or _decisions(whole, month):
            yield whole


def _paged(source: LocalStore | Remote, kind: str, **filters: Any) -> Iterator[dict[str, Any]]:
    cursor: Any = None
    for _ in range(_MAX_PAGES):
        page = source.get(kind, limit=_PAGE, cursor=cursor, **filters)
        yield from page[kind]
        if page["cursor"] is None:
            return
        cursor = int(page["cursor"])
    raise KubehabitError(
        f"There are more than {_PAGE * _MAX_PAGES:,} {kind}: that is more than a report can hold."
    )


def _opened(incident: dict[str, Any]) -> str | None:
    """When an incident was opened: what it holds happened before."""
    opened: str | None = next(
        (entry["time"] for entry in incident["trail"] if entry["action"] in ("opened", "split-from")), None
    )
    first: str | None = incident["firstSeen"]
    return opened or first


def _decisions(incident: dict[str, Any], month: Month) -> list[dict[str, Any]]:
    return [one for one in incident["trail"] if one["by"] != "kubehabit" and month.holds(one["time"])]


def _review(decided: Sequence[dict[str, Any]], month: Month, upto: datetime) -> dict[str, Any]:
    """What people decided, by day and by person; days without a decision are those with nothing to decide, or no review."""
    days = max(1, -((month.begin - upto) // timedelta(days=1)))
    by_day = Counter(entry["time"][:10] for entry in decided)
    return {
        "decisions": len(decided),
        "days": days,
        "daysWithDecisions": len(by_day),
        "byDay": dict(sorted(by_day.items())),
        "people": Counter(entry["by"] or entry["caller"] or "unnamed" for entry in decided).most_common(),
    }


def _hours_to_close(incidents: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Median and longest time from the opening of an incident to its closing; None if none was closed."""
    hours = sorted(
        (_time(closed) - _time(_opened(one) or closed)).total_seconds() / 3600
        for one in incidents
        if (closed := _closed(one)) is not None
    )
    return {"median": hours[len(hours) // 2], "longest": hours[-1]} if hours else None


def _closed(incident: dict[str, Any]) -> str | None:
    times: list[str] = [entry["time"] for entry in incident["trail"] if entry["action"] == "closed"]
    return times[-1] if times else None


def _line(incident: dict[str, Any]) -> dict[str, Any]:
    last = next((one for one in reversed(incident["trail"]) if one["action"] == "closed"), None)
    return {
        "id": incident["id"],
        "opened": _opened(incident),
        "severity": incident["severity"],
        "sentence": incident["sentence"],
        "state": incident["state"],
        "closed": last["time"] if last else None,
        "closedBy": (last["by"] or last["caller"]) if last else None,
        "note": last["note"] if last else "",
    }


def _time(written: str) -> datetime:
    return datetime.fromisoformat(written)
