"""Places of connections: how many there are, who may hold how many, and which idle one makes room for a new one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from serving.access.rate_limit import network_of
from serving.settings import LimitSettings

#: Whom a connection counts for: an address until its caller is known, then the token or certificate.
Client = tuple[str, str]

#: Share of all places that is kept for callers who proved who they are.
_RESERVED = 0.1
#: Further places for connections that find no other: they are answered if they are probes or bring credentials.
_OVERFLOW: Client = ("overflow", "")
_OVERFLOW_PLACES = 32


def client_of(transport: asyncio.BaseTransport) -> Client:
    """The client of a connection on which nobody proved anything yet."""
    peer = transport.get_extra_info("peername")
    return "address", network_of(str(peer[0])) if peer else ""


class HeldPlace(Protocol):
    """A connection that holds a place."""

    @property
    def idle(self) -> bool:
        """Whether closing it cuts off neither an answer nor a body."""

    def make_room(self) -> None:
        """Close it."""


class Places:
    """The places of one server.

    A new connection for which none is free gets an idle one's: of its own address if that has its share, else of the address
    with most connections, and of a caller who proved who they are only if there is no other. So connections that only wait keep
    nobody out, and the newest always has time for a request.

    Args:
        limits: number of connections, in all and of one address.
        count: called for each connection that is closed or refused.
    """

    def __init__(self, limits: LimitSettings, count: Callable[[], object] = lambda: None) -> None:
        self._total = limits.connections
        self._share = limits.connections_per_address
        self._unproven = max(1, int(self._total * (1 - _RESERVED)))
        self._count = count
        self._held: dict[Client, dict[HeldPlace, None]] = {}
        self._clients: dict[HeldPlace, Client] = {}
        self._kinds: Counter[str] = Counter()

    def enter(self, connection: HeldPlace, client: Client) -> bool:
        """Give a connection a place; False if there is none."""
        room = True
        if client[0] == "address" and len(self._held.get(client, ())) >= self._share:
            room = self._close_idle([client])
        elif client[0] == "address" and self._kinds["address"] >= self._unproven:
            room = self._close_idle(self._largest(proven=False))
        elif self._kinds.total() - self._kinds[_OVERFLOW[0]] >= self._total:
            room = self._close_idle([*self._largest(proven=False), *self._largest(proven=True)])
        if not room:
            client = _OVERFLOW
            if self._kinds[_OVERFLOW[0]] >= _OVERFLOW_PLACES and not self._close_idle([client]):
                self._count()
                return False
        self._hold(connection, client)
        return True

    def prove(self, connection: HeldPlace, client: Client) -> None:
        """Let a connection count for the caller of its latest request."""
        if self._clients.get(connection) in (None, client):
            return
        self.leave(connection)
        self._hold(connection, client)

    def use(self, connection: HeldPlace) -> None:
        """Note that a request began: of idle connections, the one unused for longest makes room."""
        if (client := self._clients.get(connection)) is not None:
            self._held[client].pop(connection)
            self._held[client][connection] = None

    def leave(self, connection: HeldPlace) -> None:
        """Free the place of a connection, if it holds one."""
        client = self._clients.pop(connection, None)
        if client is None:
            return
        self._kinds[client[0]] -= 1
        self._held[client].pop(connection)
        if not self._held[client]:
            del self._held[client]

    def is_overflow(self, connection: HeldPlace) -> bool:
        """Whether it holds one of the further places."""
        return self._clients.get(connection) == _OVERFLOW

    def _hold(self, connection: HeldPlace, client: Client) -> None:
        self._held.setdefault(client, {})[connection] = None
        self._clients[connection] = client
        self._kinds[client[0]] += 1

    def _largest(self, *, proven: bool) -> list[Client]:
        clients = (one for one in self._held if one != _OVERFLOW and (one[0] != "address") == proven)
        return sorted(clients, key=lambda one: -len(self._held[one]))

    def _close_idle(self, clients: Iterable[Client]) -> bool:
        for client in clients:
            for connection in self._held.get(client, ()):
                if connection.idle:
                    self.leave(connection)
                    connection.make_room()
                    self._count()
                    return True
        return False
