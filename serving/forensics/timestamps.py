"""Time stamps of an authority (RFC 3161) over heads of the ledger: they prove to others that what it holds existed by then.

A head is the hash of the ledger's last line, and each line is chained to the one before: one stamp covers the whole ledger up to
there, with every event and every export that it notes. Both need the extra `timestamps`; checking needs no network.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384, sha512
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cryptography import x509

from data.errors import KubehabitError
from data.visible_text import visible
from serving.forensics import clock
from serving.forensics.ledger import Head, Ledger, LedgerEntry
from serving.settings import EventSettings, TimestampSettings
from serving.sinks.base import DeliveryRefusedError, SinkSettings, UnavailableError
from serving.sinks.http import Poster

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

_log = logging.getLogger("kubehabit.events")

#: A head of the ledger -> its stamp, the authority's DER answer in base64.
Stamper = Callable[[Head], str]

#: Of a ledger's line that keeps a stamp.
STAMPED = "stamped"

_DIGESTS = {
    "2.16.840.1.101.3.4.2.1": sha256,
    "2.16.840.1.101.3.4.2.2": sha384,
    "2.16.840.1.101.3.4.2.3": sha512,
}


class TimestampError(KubehabitError):
    """A time stamp could not be had, or does not hold."""


@dataclass(frozen=True, slots=True)
class CheckedStamp:
    """A stamp that is over what it should be over.

    Attributes:
        time: that the authority stamped.
        authority: subject of the certificate that signed it.
        is_trusted: whether its signature was checked against roots that were given; else nothing but the content was.
    """

    time: datetime
    authority: str
    is_trusted: bool

    @property
    def sentence(self) -> str:
        """For people."""
        who = f"Time-stamped {self.time:%Y-%m-%d %H:%M:%S} UTC by {self.authority}"
        if self.is_trusted:
            return f"{who}: its signature is that of the authority."
        return f"{who}. Its signature was not checked: name the authority's root certificate with --tsa-ca."


class TimestampAuthority:
    """Asks one authority; `stamp` is a `Stamper`."""

    def __init__(self, settings: TimestampSettings) -> None:
        _library()  # what is missing is said at the start
        self._settings = settings
        self._roots = None if settings.ca is None else load_roots(settings.ca)
        self._poster = Poster(SinkSettings(name="timestamps", timeout_seconds=settings.timeout_seconds))

    def stamp(self, head: Head) -> str:
        """Have a head stamped, and check the answer.

        Raises:
            TimestampError: the authority did not answer, or with something else.
        """
        library = _library()
        builder = library.TimestampRequestBuilder().data(head.content)
        request = builder.hash_algorithm(library.HashAlgorithm.SHA256).build()
        headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
        try:
            answer = self._poster.post(self._settings.url, "", request.as_bytes(), headers)
        except (UnavailableError, DeliveryRefusedError) as error:
            raise TimestampError(f"The time-stamp authority did not stamp: {error}.") from error
        found = _parsed(answer)
        if found.status != 0:
            why = visible(" ".join(found.status_string))[:200]
            raise TimestampError(f"The time-stamp authority refused (status {found.status}): {why}")
        if found.tst_info.nonce != request.nonce:  # an old answer, sent again
            raise TimestampError("The time-stamp authority answered another request than ours.")
        stamp = base64.b64encode(answer).decode()
        check_stamp(stamp, head, self._roots)
        return stamp


def stamper_of(settings: EventSettings) -> Stamper | None:
    """What has the ledger stamped, if the settings name an authority; raises TimestampError if it cannot be used."""
    return None if settings.timestamps is None else TimestampAuthority(settings.timestamps).stamp


def _parsed(answer: bytes) -> TimeStampResponse:
    try:
        found: TimeStampResponse = _library().decode_timestamp_response(answer)
    except ValueError as error:
        raise TimestampError(f"That is no time stamp: {error}.") from error
    return found


def _library() -> ModuleType:
    try:
        return import_module("rfc3161_client")
    except ImportError as error:
        raise TimestampError(
            "Time stamps need the package rfc3161-client: pip install 'kubehabit[timestamps]'."
        ) from error


def load_roots(path: Path) -> list[x509.Certificate]:
    """Certificates of a PEM file; raises TimestampError if there is none in it."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TimestampError(f"{path} holds no certificates in PEM form ({error}).") from error


def check_stamp(stamp: str, head: Head, roots: Sequence[x509.Certificate] | None) -> CheckedStamp:
    """Check a stamp without any network.

    Args:
        stamp: as a `Stamper` gives it.
        head: that it has to be over.
        roots: certificates of the authority, root and intermediate ones; None to check the content alone.

    Raises:
        TimestampError: it is damaged, over something else, or not signed by an authority of these roots.
    """
    library = _library()
    try:
        answer = _parsed(base64.b64decode(stamp, validate=True))
        imprint = answer.tst_info.message_imprint
        digest = _DIGESTS.get(imprint.hash_algorithm.dotted_string)
        if digest is None or imprint.message != digest(head.content).digest():
            raise TimestampError("The time stamp is over something else.")
        if roots is not None:
            builder = library.VerifierBuilder(roots=list(roots))
            builder.build().verify_message(answer, head.content)
        return CheckedStamp(answer.tst_info.gen_time.astimezone(UTC), _signer(answer), roots is not None)
    except (library.VerificationError, ValueError) as error:
        raise TimestampError(f"The time stamp does not hold: {error}.") from error


def _signer(answer: TimeStampResponse) -> str:
    """Subject of the certificate that signed a stamp, as the answer names it."""
    infos = list(answer.signed_data.signer_infos)
    for one in map(x509.load_der_x509_certificate, answer.signed_data.certificates):
        if infos and (one.issuer, one.serial_number) == (infos[0].issuer, infos[0].serial_number):
            return visible(one.subject.rfc4514_string())
    return "an authority that it does not name"


def check_stamps(
    entries: Sequence[LedgerEntry], roots: Sequence[x509.Certificate] | None
) -> tuple[list[CheckedStamp], list[tuple[int, str]]]:
    """Check the stamps that a ledger keeps: those that hold, and the numbers of lines with one that does not, and why."""
    found: list[CheckedStamp] = []
    wrong: list[tuple[int, str]] = []
    for entry in entries:
        fields = entry.fields
        if fields.get("kind") != STAMPED:
            continue
        try:
            number, stamp = int(fields["head"]), str(fields["stamp"])
            if not 0 <= number < entry.number:
                raise TimestampError("The time stamp is over a line that is not before it.")
            found.append(check_stamp(stamp, Head(number, entries[number].hash.hex()), roots))
        except (TimestampError, KeyError, ValueError, TypeError) as error:
            wrong.append((entry.number, str(error)))
    return found, wrong


def stamp_ledger(ledger: Ledger, stamper: Stamper, entry: LedgerEntry) -> str:
    """Have the ledger stamped up to a line of it, and keep the stamp in a line; "" where the authority does not stamp.

    What is stamped is not lost without a stamp: the ledger goes on, and the next stamp covers it.
    """
    head = Head(entry.number, entry.hash.hex())
    try:
        stamp = stamper(head)
    except TimestampError as error:
        _log.warning("the ledger was not time-stamped", extra={"reason": str(error)})
        return ""
    ledger.append(STAMPED, head=entry.number, stamp=stamp)
    return stamp


class LedgerClock:
    """Has the head of a ledger stamped at intervals, where lines came after the last stamp.

    Args:
        ledger: of the event store.
        stamper: asks the authority.
        every: time between two stamps.
    """

    def __init__(self, ledger: Ledger, stamper: Stamper, every: timedelta) -> None:
        self._ledger, self._stamper, self._every = ledger, stamper, every

    def step(self) -> None:
        """Stamp the head if it is time."""
        entries = self._ledger.entries
        last = next((one for one in reversed(entries) if one.fields.get("kind") == STAMPED), None)
        if not entries or entries[-1] is last:
            return
        since = None if last is None else datetime.fromisoformat(last.fields["time"])
        if since is None or datetime.fromtimestamp(clock.now() / 1e6, UTC) - since >= self._every:
            stamp_ledger(self._ledger, self._stamper, entries[-1])
