"""Connections that only wait keep nobody out: another address, an authenticated caller and the probes are still served."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from serving.access import connection_limits
from serving.access.places import Places
from serving.app import create_app
from serving.scoring.engine import Engine
from serving.settings import LimitSettings, Settings
from tests.serving.live import Live, read_all

TOKEN = "0123456789abcdef0123456789abcdef"
PROBE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
READ = f"GET /v1/alerts HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
HALF_A_BODY = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n["


@pytest.fixture
def live(engine: Engine) -> Callable[..., Live]:
    def make(total: int, share: int, **settings: object) -> Live:
        limits = {"connections": total, "connections_per_address": share}
        return Live(create_app(Settings(limits=limits, **settings), engine))  # type: ignore[arg-type]

    return make


@contextmanager
def connected(
    server: Live, count: int, source: str = "127.0.0.1", sent: bytes = b""
) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", server.port), 30, (source, 0))
            found.append(stack.enter_context(one))
            if sent:
                one.sendall(sent)
        yield found


@contextmanager
def open_files(count: int) -> Iterator[None]:
    """Room for both ends of many connections in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count), hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def answer(connection: socket.socket, sent: bytes) -> int:
    connection.sendall(sent)
    head = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 "), head
    return int(head[9:12])


def asked(server: Live, sent: bytes, source: str = "127.0.0.1") -> int:
    with connected(server, 1, source) as (one,):
        return answer(one, sent)


def test_idle_connections_of_one_address_keep_nobody_out(live: Callable[..., Live]) -> None:
    with live(20, 8, token=TOKEN) as server, connected(server, 1) as (mine,):
        assert answer(mine, READ) == 200
        with connected(server, 40):
            assert asked(server, PROBE, "127.0.0.2") == 200
            assert asked(server, READ, "127.0.0.2") == 200
            assert asked(server, PROBE) == 200
            assert asked(server, READ) == 200
            assert answer(mine, READ) == 200, "who proved who they are keeps the connection"


def test_idle_connections_of_many_addresses_keep_nobody_out(live: Callable[..., Live]) -> None:
    with live(10, 5, token=TOKEN) as server, connected(server, 1) as (mine,), ExitStack() as stack:
        assert answer(mine, READ) == 200
        for number in range(3, 30):
            stack.enter_context(connected(server, 1, f"127.0.0.{number}"))
        assert asked(server, PROBE, "127.0.0.2") == 200
        assert asked(server, READ, "127.0.0.2") == 200
        assert answer(mine, READ) == 200


def test_under_a_thousand_idle_connections_probes_and_callers_are_answered_at_once(
    live: Callable[..., Live],
) -> None:
    """At the shipped limits, from one address and from many."""
    limits = LimitSettings()
    with open_files(4_000), live(limits.connections, limits.connections_per_address, token=TOKEN) as server:
        for addresses in (1, 10):
            with ExitStack() as stack:
                for number in range(addresses):
                    idle = connected(server, 1_000 // addresses, f"127.0.1.{number + 1}")
                    stack.enter_context(idle)
                began = time.monotonic()
                for _ in range(20):
                    assert asked(server, PROBE) == 200
                    assert asked(server, PROBE, "127.0.1.1") == 200
                    assert asked(server, READ, "127.0.1.1") == 200
                assert time.monotonic() - began < 10


def test_begun_heads_make_room_too(live: Callable[..., Live]) -> None:
    with live(10, 10, token=TOKEN) as server, connected(server, 30, sent=b"GET /healthz HTTP/1.1\r\nX-A: "):
        assert asked(server, PROBE) == 200
        assert asked(server, READ) == 200


def test_with_every_place_at_work_probes_are_answered_and_others_turned_away(
    live: Callable[..., Live],
) -> None:
    with live(4, 3) as server:
        with connected(server, 3, sent=HALF_A_BODY), connected(server, 50):
            assert asked(server, PROBE) == 200
            with connected(server, 1) as (one,):
                assert answer(one, b"GET /v1/alerts HTTP/1.1\r\nHost: localhost\r\n\r\n") == 503
            assert asked(server, READ, "127.0.0.2") == 200
        assert asked(server, READ) == 200


def test_closed_connections_give_their_places_back(live: Callable[..., Live]) -> None:
    with live(4, 4) as server:
        for _ in range(20):
            assert asked(server, PROBE) == 200
        with connected(server, 3) as several:
            for one in several:
                assert answer(one, PROBE) == 200
            for one in several:
                assert answer(one, PROBE) == 200


def test_a_large_body_is_refused_before_it_came_and_the_answer_arrives(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "LINGER_SECONDS", 0.5)
    head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
    with live(4, 4) as server:
        with connected(server, 1, sent=head) as (waiting,):  # sends nothing of the body
            got = read_all(waiting)
            assert got.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in got.lower()
        with connected(server, 1, sent=head) as (sending,):
            try:
                for _ in range(200):
                    sending.sendall(b" " * 65536)
            except OSError:
                pass  # closed meanwhile
            assert sending.recv(65536).startswith(b"HTTP/1.1 413 ")


class Held:
    def __init__(self, idle: bool = True) -> None:
        self.idle = idle
        self.closed = False

    def make_room(self) -> None:
        self.closed = True


def test_room_is_made_by_the_client_with_most_and_by_proven_ones_last() -> None:
    places = Places(LimitSettings(connections=10, connections_per_address=6))
    greedy = [Held() for _ in range(5)]
    modest, mine = [Held() for _ in range(2)], [Held() for _ in range(3)]
    for one in greedy:
        assert places.enter(one, ("address", "10.0.0.1"))
    for one in modest:
        assert places.enter(one, ("address", "10.0.0.2"))
    for one in mine:
        assert places.enter(one, ("token", "pipeline"))
    places.use(greedy[0])
    newcomers = [Held() for _ in range(6)]
    for one in newcomers:
        assert places.enter(one, ("token", "dashboard"))
    # The one in use for longest ago goes first; when both addresses have as many, each gives one.
    assert [one.closed for one in greedy[1:]] == [True] * 4
    assert [one.closed for one in modest].count(True) + greedy[0].closed == 2
    assert not any(one.closed for one in mine)


def test_a_place_follows_its_caller_and_is_counted_once() -> None:
    closed: list[int] = []
    places = Places(LimitSettings(connections=10, connections_per_address=2), lambda: closed.append(1))
    held = [Held() for _ in range(3)]
    for one in held:
        places.enter(one, ("address", "10.0.0.1"))
        places.prove(one, ("token", "a"))
        places.prove(one, ("token", "a"))
    assert not any(one.closed for one in held), "the share of an address is not that of a token"
    more = [Held() for _ in range(3)]
    for one in more:
        places.enter(one, ("address", "10.0.0.1"))
    assert [one.closed for one in more] == [True, False, False]
    assert len(closed) == 1
    held += more
    for one in held:
        places.leave(one)
        places.leave(one)
    assert not places._held
    assert not places._kinds.total()
