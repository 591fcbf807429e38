"""Reads OpenShift: plain audit events, which `oc adm node-logs` prints with the node's name in front.

The events themselves are Kubernetes' own (API server, oauth-server and openshift-apiserver alike), with more annotations.
"""

from __future__ import annotations

import re

from data.events.formats.reading import Reading

_LINE = re.compile(rb"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})[ \t]+(\{.*)", re.DOTALL)


class NodeLine:
    """A line of `oc adm node-logs --path=kube-apiserver/audit.log`."""

    name = "OpenShift node log"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        line = _LINE.match(raw)
        if line is not None:
            found.record(line[1])
        return line is not None
