"""What a log says about settings that fit it: proxies before the API server, and proxies that act as the people behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from data.actions.folding import is_loopback
from data.events.audit_event import AuditEvent
from data.principals.identity import Identity

#: Steps before the last address that are looked at, and distinct addresses of one that are counted.
_STEPS, _ADDRESSES = 8, 10_000
#: A proxy of one's own has few addresses. Share of requests with more addresses from which on it is one.
_PROXY_ADDRESSES, _SHARE = 16, 0.05
#: Requests for each of its addresses that a proxy must have.
_LEAST_REQUESTS = 20
#: Users from which on an account that acts as them looks like a proxy; accounts, and users of each, that are remembered.
_MANY_USERS, _ACCOUNTS, _USERS = 3, 1_000, 1_000


@dataclass(frozen=True, slots=True)
class Advice:
    """A setting that would fit the log.

    Attributes:
        what: what was found, with figures.
        do: what to set.
    """

    what: str
    do: str


@dataclass(slots=True)
class SettingsAdvice:
    """Collects from events what settings depend on.

    Attributes:
        lengths: requests by their number of addresses.
        steps: for each step before the last address, how many requests with a further address have which there.
    """

    lengths: Counter[int] = field(default_factory=Counter)
    steps: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in range(_STEPS)])
    _acts_as: dict[str, set[str]] = field(default_factory=dict)

    def count(self, events: Sequence[AuditEvent], identity: Identity) -> None:
        """Count a chunk of events."""
        self.lengths.update(min(len(event.sourceIPs), _STEPS + 1) for event in events)
        for chain, times in Counter(
            event.sourceIPs[-_STEPS - 1 :] for event in events if len(event.sourceIPs) > 1
        ).items():
            for step, address in enumerate(reversed(chain[1:])):
                counter = self.steps[step]
                if address in counter or len(counter) < _ADDRESSES:
                    counter[address] += times
        for event in events:
            if event.impersonatedUser is not None:
                self._impersonates(event.user.username, event.impersonatedUser.username, identity)

    def _impersonates(self, username: str, other: str, identity: Identity) -> None:
        known = self._acts_as.get(username)
        if not other or other.startswith("system:") or (known is not None and other in known):
            return
        if known is None:
            if len(self._acts_as) >= _ACCOUNTS or identity.is_proxied(username, other):
                return
            known = self._acts_as[username] = set()
        if len(known) < _USERS:
            known.add(other)

    def trusted_hops(self) -> int:
        """Proxies before the API server that have few addresses of their own, and many requests with another address before."""
        total = sum(count for length, count in self.lengths.items() if length)
        hops = 0
        for step, counter in enumerate(self.steps):
            longer = sum(count for length, count in self.lengths.items() if length > step + 1)
            if not longer or longer < _SHARE * total or len(counter) > _PROXY_ADDRESSES:
                break
            if longer < _LEAST_REQUESTS * len(counter):
                break
            hops = step + 1
        return hops

    def advice(self) -> list[Advice]:
        """SettingsAdvice that would fit, in the order of their weight."""
        return [*self._addresses(), *self._proxies()]

    def _addresses(self) -> Iterator[Advice]:
        chains = sum(count for length, count in self.lengths.items() if length > 1)
        total = sum(self.lengths.values())
        hops = self.trusted_hops()
        if hops and all(is_loopback(address) for step in self.steps[:hops] for address in step):
            return  # those are seen through in any case
        if hops:
            examples = ", ".join(address for address, _ in self.steps[hops - 1].most_common(2))
            yield Advice(
                f"{chains:,} of {total:,} requests came through {hops} {'proxy' if hops == 1 else 'proxies'} with few addresses "
                f"({examples})",
                f"build with --trusted-hops {hops}, so that the address of a request is that of its client; but only if nobody "
                "can reach the API server past the proxy, since a client that can may forge its address",
            )
        elif chains:
            yield Advice(
                f"{chains:,} of {total:,} requests carry addresses that their clients can have written themselves",
                "leave trusted_hops at 0, which takes the address that the API server saw",
            )

    def _proxies(self) -> Iterator[Advice]:
        found = sorted(self._acts_as.items(), key=lambda item: (-len(item[1]), item[0]))
        for username, others in found[:5]:
            if len(others) >= _MANY_USERS:
                examples = ", ".join(sorted(others)[:2])
                yield Advice(
                    f"{username} acts as {len(others):,} users ({examples} ...)",
                    "if people log in to it, name it under `proxies` in identity.yaml: they become principals of their own then",
                )
