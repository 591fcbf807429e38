"""Recognises what audit events come wrapped in, and opens it; each format has a file of its own.

To add a format, write a class with the shape of `Format` in a file of its own and name it in `Sources`.
"""

from __future__ import annotations

import re
from collections import Counter

from data.events.formats.aks import AksRecord
from data.events.formats.eks import EksExport, EksRecord
from data.events.formats.event_list import Lists
from data.events.formats.gke import GkeEntry
from data.events.formats.openshift import NodeLine
from data.events.formats.reading import Format, Limits, Reading

#: Between two objects without a comma. Inside JSON it cannot occur: `}{` is found only in a string, where a quote is escaped.
_BETWEEN = re.compile(rb'(?<=\})\s*(?=\{\s*"[^"\\\n]{1,64}"\s*:)')


class Sources:
    """Opens records of any format, and remembers of a stream what later records need."""

    def __init__(self) -> None:
        kinds = (Lists, EksRecord, GkeEntry, AksRecord, EksExport, NodeLine)
        self._formats: list[Format] = [kind() for kind in kinds]
        self.records: Counter[str] = Counter()  # so far, by format; `native` for plain events
        self.limits = Limits()  # on the body that is being read

    def open(self, raw: bytes) -> Reading | None:
        """Read a record that is no plain event, or several without a newline between them; None if its format is unknown."""
        found = self.open_list(raw)
        if found is not None:
            return found
        pieces = _BETWEEN.split(raw)
        if len(pieces) < 2:
            return None
        found = Reading(self._enter, self.limits)
        self.records["objects without newlines"] += 1
        for piece in pieces:
            found.record(piece)
        return found

    def open_list(self, raw: bytes) -> Reading | None:
        """As `open`, for a record that must be one whole."""
        found = Reading(self._enter, self.limits)
        return found if found.enter(raw) else None

    def _enter(self, raw: bytes, found: Reading) -> bool:
        for index, candidate in enumerate(self._formats):
            if candidate.read(raw, found):
                if index:  # a log is mostly of one format: try that first from now on
                    self._formats.insert(0, self._formats.pop(index))
                self.records[candidate.name] += 1
                return True
        return False
