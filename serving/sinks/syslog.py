"""Syslog (RFC 5424) with a CEF payload, over UDP, TCP (RFC 6587, octet counting) or TLS (RFC 5425)."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serving.sinks.base import SinkSettings, SinkTlsSettings, UnavailableError, Update, namespaces_of, rfc3339
from serving.sinks.http import client_context

_LEVELS = {"low": 5, "medium": 4, "high": 3, "critical": 2}  # notice, warning, error, critical
_CEF_SEVERITIES = {"low": 3, "medium": 5, "high": 8, "critical": 10}
# Characters of CEF's `msg`.
_MAX_MESSAGE = 1023
# Bytes, rsyslog's default limit.
_MAX_DATAGRAM = 8192


class SyslogSettings(SinkSettings):
    """Alerts to a syslog receiver."""

    type: Literal["syslog"]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    transport: Literal["udp", "tcp", "tls"] = "tls"
    facility: Annotated[int, Field(ge=0, le=23)] = 13
    tls: SinkTlsSettings = SinkTlsSettings()

    @model_validator(mode="after")
    def _tls_needs_tls(self) -> SyslogSettings:
        if self.transport != "tls" and self.tls != SinkTlsSettings():
            raise ValueError("'tls' is set but transport is not tls: leave it out, or set 'transport: tls'")
        return self

    def open(self) -> SyslogSink:
        """The sink."""
        return SyslogSink(self)


class SyslogSink:
    """Sends one message an alert. CEF's `externalId` identifies repeats."""

    def __init__(self, settings: SyslogSettings) -> None:
        self._settings = settings

    def send(self, update: Update) -> None:
        """Send one message.

        Syslog has no acknowledgement. Over TCP and TLS the connection is closed after each alert, which counts as sent once the
        receiver, having read everything, closes it as well. Over UDP delivery is unknown.
        """
        text = message(update, self._settings.facility)
        try:
            if self._settings.transport == "udp":
                self._datagram(text[:_MAX_DATAGRAM])
            else:
                self._stream(b"%d %s" % (len(text), text))
        except OSError as error:
            where = f"{self._settings.host}:{self._settings.port}"
            raise UnavailableError(
                f"{where} did not take it over {self._settings.transport} ({type(error).__name__})"
            ) from error

    def _datagram(self, text: bytes) -> None:
        where = self._settings.host, self._settings.port
        family, kind, protocol, _, address = socket.getaddrinfo(*where, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.connect(address)
            connection.send(text)

    def _stream(self, framed: bytes) -> None:
        address = (self._settings.host, self._settings.port)
        with socket.create_connection(address, self._settings.timeout_seconds) as connection:
            if self._settings.transport == "tcp":
                connection.sendall(framed)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
                return
            context = client_context(self._settings.tls)
            with context.wrap_socket(connection, server_hostname=self._settings.host) as secured:
                secured.sendall(framed)
                # Many close the connection without TLS's close_notify.
                with contextlib.suppress(ssl.SSLEOFError):
                    secured.unwrap().close()

    def close(self) -> None:
        """No connection is kept."""


def _header(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("\r", " ")


def _value(text: str) -> str:
    return text.replace("\\", "\\\\").replace("=", "\\=").replace("\r", "").replace("\n", "\\n")


def cef(update: Update) -> str:
    """The alert in ArcSight's Common Event Format, version 0."""
    alert = update.alert
    action = alert.headline
    techniques = ",".join(one.id for one in alert.techniques)
    extension = {
        "externalId": update.key,
        "start": str(int(alert.first_seen.timestamp() * 1000)),
        "end": str(int(alert.last_seen.timestamp() * 1000)),
        "suser": alert.principal,
        "src": action.source_ips[0] if action.source_ips else "",
        "act": action.verb,
        "cnt": str(alert.action_count),
        "requestClientApplication": action.user_agent,
        "cs1Label": "alertID",
        "cs1": alert.id,
        "cs2Label": "namespaces" if namespaces_of(alert) else "",
        "cs2": ",".join(namespaces_of(alert))[:_MAX_MESSAGE],
        "cs3Label": "techniques" if techniques else "",
        "cs3": techniques,
        "cs4Label": "auditID",
        "cs4": action.audit_id,
        "cs5Label": "principalKind",
        "cs5": alert.kind,
        "msg": alert.sentence[:_MAX_MESSAGE],
    }
    head = (
        version("kubehabit"),
        f"alert-{update.change}",
        "Unusual behaviour",
        _CEF_SEVERITIES[alert.severity],
    )
    pairs = " ".join(f"{name}={_value(text)}" for name, text in extension.items() if text)
    return "|".join(("CEF:0", "kubehabit", "kubehabit", *(_header(str(part)) for part in head), pairs))


def message(update: Update, facility: int) -> bytes:
    """The alert as a syslog message: header, no structured data, and CEF as its text."""
    priority = 8 * facility + _LEVELS[update.alert.severity]
    host = socket.gethostname().encode("ascii", "replace").decode()[:255] or "-"
    head = f"<{priority}>1 {rfc3339(update.alert.last_seen)} {host} kubehabit {os.getpid()} alert - "
    return head.encode() + b"\xef\xbb\xbf" + cef(update).encode("utf-8", "replace")
