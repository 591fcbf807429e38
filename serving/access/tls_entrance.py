"""TLS connections that hold a place from the first byte of their handshake on."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import sys
from functools import cache
from typing import Any

from serving.access import connection_limits
from serving.access.connection_limits import Connection
from serving.access.places import Places
from serving.access.tls import ServerTls


def tls_entrance(tls: ServerTls, places: Places, **named: Any) -> asyncio.BaseProtocol:
    """The protocol of a plain connection: a handshake, then a `Connection`.

    An event loop's own TLS listener hands a connection over after the handshake only, so clients that begin none could use up the
    file descriptors uncounted, for a minute each.
    """
    loop = asyncio.get_running_loop()
    made: asyncio.BaseProtocol = _counted(type(loop).__module__ == "uvloop")(
        loop,
        Connection(places, **named),
        tls.context,
        None,
        server_side=True,
        ssl_handshake_timeout=connection_limits.HEAD_SECONDS,
    )
    return made


@cache
def _counted(on_uvloop: bool) -> Any:
    """The event loop's protocol of TLS over a plain transport, with a place for it."""
    base: Any = sys.modules["uvloop.loop"].SSLProtocol if on_uvloop else asyncio.sslproto.SSLProtocol

    class CountedTls(base):  # type: ignore[misc]
        def __init__(self, loop: Any, connection: Connection, *arguments: Any, **named: Any) -> None:
            super().__init__(loop, connection, *arguments, **named)
            self._kubehabit_connection = connection

        def connection_made(self, transport: asyncio.Transport) -> None:
            if self._kubehabit_connection.take_place(transport):
                super().connection_made(transport)
            else:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._kubehabit_connection.free_place()
            super().connection_lost(exc)

    return CountedTls
