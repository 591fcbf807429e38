"""Reads lists of records: EventList, `kind: List`, JSON arrays, and the batches of event buses (`records`)."""

from __future__ import annotations

from operator import attrgetter

import msgspec

from data.events.audit_event import API_VERSIONS, UNREADABLE
from data.events.formats.reading import Reading, holds_event

#: Keys under which an object holds a list of records that can each be read alone.
UNWRAPPED = ("items", "records", "Records", "events")


class _Listed(msgspec.Struct):
    kind: str = ""
    apiVersion: str = ""
    items: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    records: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    Records: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    events: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_LISTED = msgspec.json.Decoder(_Listed)
_ANY_LIST = attrgetter(*UNWRAPPED)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


class Lists:
    """Any list of records."""

    name = "list"

    def read(self, raw: bytes, found: Reading) -> bool:
        """Read each item as a record; see `Format`."""
        version = ""
        try:
            if raw.lstrip()[:1] == b"[":
                items = _ARRAY.decode(raw)
            else:
                listed = _LISTED.decode(raw)
                items = listed.records or listed.Records or listed.events or []
                if isinstance(listed.items, list) or (listed.items is None and listed.kind == "EventList"):
                    if listed.kind not in ("EventList", "List", ""):
                        return False
                    items = listed.items or []
                    version = listed.apiVersion if listed.apiVersion in API_VERSIONS else ""
                elif not items and all(one is msgspec.UNSET for one in _ANY_LIST(listed)):
                    return False
                # A list beside an event, in what is wrapped around it, is not a list of records.
                if listed.kind != "EventList" and not any(map(holds_event, items)) and holds_event(raw):
                    return False
        except UNREADABLE:
            return False
        for position, item in enumerate(items, 1):
            found.at(position)
            found.record(item, version=version)
        return True
