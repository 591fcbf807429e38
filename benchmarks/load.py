"""A load generator: a process of its own that posts prepared bodies at a fixed rate, or as fast as they are answered.

Latency is measured from when a request is due, not from when it is sent, so a slow service does not reduce its own load. Each
time the bodies start again their times are moved on by a day, so that no event counts as a repeat.

Run: python -m benchmarks.load BODIES --port N --path /v1/audit [--rate R] [--requests N | --seconds S] [--connections C]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from itertools import count
from pathlib import Path

_SIZE = struct.Struct("<II")


def write_bodies(path: Path, bodies: Sequence[tuple[bytes, int]]) -> None:
    """Keep bodies for `read_bodies`, each with the number of events in it."""
    with path.open("wb") as file:
        for body, events in bodies:
            file.write(_SIZE.pack(len(body), events))
            file.write(body)


def read_bodies(path: Path) -> list[tuple[bytes, int]]:
    """Inverse of `write_bodies`."""
    raw = path.read_bytes()
    found, at = [], 0
    while at < len(raw):
        size, events = _SIZE.unpack_from(raw, at)
        at += _SIZE.size
        found.append((raw[at : at + size], events))
        at += size
    return found


def moved_on(bodies: Sequence[tuple[bytes, int]], day: date, first: int) -> Iterator[tuple[bytes, int]]:
    """The bodies over and over, the times in them a day later each time.

    Args:
        bodies: with the number of events in each.
        day: that on which all of their events happened.
        first: days by which the first round is moved.
    """
    before = b'Timestamp":"%sT' % day.isoformat().encode()
    for days in count(first):
        after = b'Timestamp":"%sT' % (day + timedelta(days=days)).isoformat().encode()
        for body, events in bodies:
            yield (body if before == after else body.replace(before, after)), events


@dataclass(slots=True)
class Answers:
    """What became of the requests.

    Attributes:
        events: events in the requests that were answered with success.
        statuses: answers by status; 0 for a connection that broke.
        milliseconds: from when each request was due until its answer was complete, in the order of the answers.
        seconds: from the first request until the last answer.
        rounds: days by which the times of the last bodies were moved.
    """

    events: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    rounds: int = 0


async def _post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes
) -> tuple[int, bytes]:
    """One request on a kept connection: status and body of its answer."""
    writer.writelines([head % len(body), body])
    await writer.drain()
    answer = await reader.readuntil(b"\r\n\r\n")
    lines = answer.lower().split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    return int(answer[9:12]), await reader.readexactly(length)


async def send(
    port: int,
    path: str,
    bodies: Iterator[tuple[bytes, int]],
    *,
    requests: int | None = None,
    seconds: float | None = None,
    rate: float = 0.0,
    connections: int = 1,
    content: str = "application/json",
) -> Answers:
    """Post bodies until there were so many or so much time has passed.

    Args:
        port: on loopback.
        path: of the request.
        bodies: with the number of events in each.
        requests: at most so many.
        seconds: none is due later than this.
        rate: requests a second; 0 sends the next when a connection is free.
        connections: kept open; each has one request under way at most.
        content: media type of the bodies.
    """
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {content}\r\n"
        "User-Agent: kube-apiserver-admission\r\nAccept: application/json, */*\r\nContent-Length: %d\r\n\r\n"
    ).encode()
    answers = Answers()
    numbers = iter(range(sys.maxsize if requests is None else requests))
    began = time.perf_counter()

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            due = began + number / rate if rate else time.perf_counter()
            if seconds is not None and due - began > seconds:
                break
            body, events = next(bodies)
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            try:
                status, _ = await _post(reader, writer, head, body)
            except (OSError, asyncio.IncompleteReadError):
                status = 0
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answers.statuses[status] = answers.statuses.get(status, 0) + 1
            answers.milliseconds.append(1000 * (time.perf_counter() - due))
            if 200 <= status < 300:
                answers.events += events
        writer.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    answers.seconds = time.perf_counter() - began
    return answers


def main() -> None:
    """Send, and print the answers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bodies", type=Path, help="file of `write_bodies`")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/audit")
    parser.add_argument("--day", type=date.fromisoformat, required=True, help="that of all events")
    parser.add_argument("--first", type=int, default=0, help="days by which the first round is moved")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0 = as fast as answered")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--connections", type=int, default=1)
    chosen = parser.parse_args()
    bodies = read_bodies(chosen.bodies)
    answers = asyncio.run(
        send(
            chosen.port,
            chosen.path,
            moved_on(bodies, chosen.day, chosen.first),
            requests=chosen.requests,
            seconds=chosen.seconds,
            rate=chosen.rate,
            connections=chosen.connections,
        )
    )
    answers.rounds = chosen.first + len(answers.milliseconds) // len(bodies)
    json.dump(asdict(answers), sys.stdout)


if __name__ == "__main__":
    main()
