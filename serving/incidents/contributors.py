"""Milder actions that add up: a bounded memory of each principal's actions with evidence, and which of them led to a flag."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec
import zstandard

from detection.evidence import FLOOR
from serving.schemas import Contributor

_PER_PRINCIPAL = 64

#: Contributions of all principals, 400 bytes each; those of the principals quiet longest go first, half at a time.
_LIMIT = 50_000

#: Actions of a burst that are kept because they are its first.
_FIRST_OF_BURST = 8

_SAMPLES = 32

#: Seconds looked back for what led to a flag: an incident, then the longer horizons at which evidence adds up.
_SPANS = (600, 3_600, 86_400)

_MICRO = 1_000_000

#: With four bytes of length it begins an array in MessagePack.
_ARRAY = b"\xdd"

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Contribution:
    """One action that added evidence.

    Attributes:
        time: microseconds since 1970 UTC.
        new, wrong: its evidence, decades (`detection.detector.Scores`).
        short: its `serving.schemas.Contributor` as JSON, compressed once remembered; None if it was flagged: the alert has it.
        elsewhere: whether the address is new to its principal.
    """

    time: int
    audit_id: str
    new: float
    wrong: float
    short: bytes | None
    address: str
    client: str
    elsewhere: bool = False


def weight_of(new: float, wrong: float) -> float:
    """Evidence of one action alone, decades: the sum that `detection.evidence` would make of it."""
    return math.sqrt(new * max(wrong, FLOOR)) if new > 0 else 0.0


def _dispensable(held: Sequence[Contribution]) -> int:
    """Place of the contribution that is given up of too many: the oldest; in a burst, one of the burst.

    Otherwise a burst of suspicious actions would evict what led up to it. Its first actions and its worst stay; of the others,
    flagged ones go first, because their alert has them.
    """
    since = held[-1].time - _SPANS[0] * _MICRO
    burst = [at for at, one in enumerate(held) if one.time >= since]
    if len(burst) <= _PER_PRINCIPAL // 2:
        return 0
    later = burst[_FIRST_OF_BURST:]
    return min(later, key=lambda at: (held[at].short is not None, weight_of(held[at].new, held[at].wrong)))


class _Shortener:
    """Compresses similar texts: the first of them are the dictionary of all others."""

    def __init__(self) -> None:
        self._samples: list[bytes] = []
        self._compress: Callable[[bytes], bytes] = bytes
        self._expand: Callable[[bytes], bytes] = bytes

    def short(self, text: bytes) -> bytes:
        """A text, compressed if there is a dictionary yet."""
        if len(self._samples) < _SAMPLES:
            self._samples.append(text)
            if len(self._samples) == _SAMPLES:
                self._train()
            return text
        # A copy: what zstandard returns keeps the room that it might have needed.
        return bytes(bytearray(self._compress(text)))

    def copy(self) -> _Shortener:
        """One with the same dictionary: two threads must not share one."""
        other = _Shortener()
        other._samples = list(self._samples)
        if len(other._samples) == _SAMPLES:
            other._train()
        return other

    def _train(self) -> None:
        known = zstandard.ZstdCompressionDict(
            b"".join(self._samples), dict_type=zstandard.DICT_TYPE_RAWCONTENT
        )
        self._compress = zstandard.ZstdCompressor(level=1, dict_data=known).compress
        self._expand = zstandard.ZstdDecompressor(dict_data=known).decompress

    def long(self, short: bytes) -> bytes:
        """Inverse of `short`."""
        return short if short.startswith(b"{") else self._expand(short)


class Contributors:
    """Recent actions of each principal that added evidence."""

    def __init__(self) -> None:
        self._shortener = _Shortener()
        self._of: dict[str, deque[Contribution]] = {}
        self._held = 0

    def expanded(self, one: Contribution) -> Contributor | None:
        """The contributor in a remembered contribution."""
        return None if one.short is None else Contributor.model_validate_json(self._shortener.long(one.short))

    def append(self, principal: str, contribution: Contribution) -> Contribution:
        """Remember a contribution; returns it as remembered."""
        if contribution.short is not None:
            contribution = replace(contribution, short=self._shortener.short(contribution.short))
        held = self._of.pop(principal, None) or deque()
        held.append(contribution)
        self._held += 1
        if len(held) > _PER_PRINCIPAL:
            del held[_dispensable(held)]
            self._held -= 1
        self._of[principal] = held  # at the end: the order is that of the last contribution
        if self._held > _LIMIT:
            while self._held > _LIMIT // 2:
                self._held -= len(self._of.pop(next(iter(self._of))))
        return contribution

    def snapshot(self) -> Callable[[], msgspec.Raw]:
        """Everything as it is now.

        Returns:
            A function for any thread that encodes it as MessagePack: (principal, contributions as tuples of fields), the
            principal with the last contribution last. It works piecewise: as a whole it would take several times the memory.
        """
        of = {principal: tuple(held) for principal, held in self._of.items()}
        long = self._shortener.copy().long

        def make() -> msgspec.Raw:
            packed = bytearray(_ARRAY + len(of).to_bytes(4, "big"))
            for principal, held in of.items():
                rows = [
                    (
                        one.time,
                        one.audit_id,
                        one.new,
                        one.wrong,
                        None if one.short is None else long(one.short),
                        one.address,
                        one.client,
                        one.elsewhere,
                    )
                    for one in held
                ]
                packed += _encode((principal, rows))
            return msgspec.Raw(packed)

        return make

    def within(self, principal: str, since: int, until: int) -> list[Contribution]:
        """Contributions of a principal in a span of time, both ends included, by time."""
        held: Iterable[Contribution] = self._of.get(principal, ())
        found = [one for one in held if since <= one.time <= until]
        return sorted(found, key=lambda one: one.time)

    def leading_to(self, principal: str, moment: int, threshold: float) -> list[Contribution]:
        """What led up to a flag, the flagged action included, by time.

        From further back than an incident's length only if that does not reach the threshold.

        Args:
            moment: of the flagged action, microseconds since 1970 UTC.
            threshold: evidence at which it was flagged, decades.
        """
        found: list[Contribution] = []
        for seconds in _SPANS:
            found = self.within(principal, moment - seconds * _MICRO, moment)
            new, wrong = sum(one.new for one in found), sum(one.wrong for one in found)
            if math.sqrt(new * max(wrong, FLOOR)) >= threshold:
                break
        return found
