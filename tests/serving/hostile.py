"""Events whose texts attack what shows them."""

from __future__ import annotations

from typing import Any

from tests.serving.fakes import raw_event, secret_event

#: A colour, a window title, a one-character introducer, line breaks of four kinds, an override of direction, a zero-width
#: space, a tag, a variation selector, and markup.
EVIL = "mal\x1b[31mlory\x1b]0;owned\x07\x9b1m\x08\r\nFORGED\u2028FORGED\x85\x0bFORGED\u202e\u200b\U000e0041\ufe0f[red]loud[/red]"


def hostile_events() -> list[dict[str, Any]]:
    hostile = {"userAgent": EVIL, "sourceIPs": [EVIL], "requestURI": "/api/v1/" + EVIL}
    return [
        *(raw_event(number, user="alice@corp") for number in range(5)),
        raw_event(5, user=EVIL, name=EVIL, namespace=EVIL, subresource=EVIL, **hostile),
        raw_event(6, user="bob@corp", resource="secrets", namespace="payments", name="db", **hostile),
        secret_event(7, user=EVIL, **hostile),
        secret_event(8, user="bob@corp", namespace=EVIL),
        raw_event(9, user=EVIL, verb=EVIL, resource=EVIL, code=403) | {"auditID": EVIL},
    ]
