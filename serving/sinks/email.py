"""E-mail over SMTP: one message for each update, the updates of one alert in one thread."""

from __future__ import annotations

import smtplib
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.functional_validators import AfterValidator

from serving.schemas import clean
from serving.sinks.base import (
    ConsoleLink,
    DeliveryRefusedError,
    Secret,
    SinkSettings,
    SinkTlsSettings,
    UnavailableError,
    Update,
    alert_link,
    namespaces_of,
    rfc3339,
)
from serving.sinks.http import client_context

_MAX_SUBJECT = 200
_MAX_AUDIT_IDS = 50
#: Answers to a message itself (RFC 5321, 4.2.3): too large, transaction failed. Others are put right at the server.
_NEVER = frozenset((552, 554))


def _is_mail_address(text: str) -> str:
    try:
        Address(addr_spec=text)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{text} is no e-mail address") from error
    return text


MailAddress = Annotated[str, AfterValidator(_is_mail_address)]


class EmailSettings(SinkSettings):
    """Alerts by e-mail; `Message-ID` identifies repeats, and the updates of one alert refer to its first message."""

    type: Literal["email"]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: MailAddress
    to: Annotated[list[MailAddress], Field(min_length=1)]
    user: str = ""
    password: Secret | None = None
    console: ConsoleLink = ""
    tls: SinkTlsSettings = SinkTlsSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> EmailSettings:
        if bool(self.user) != (self.password is not None):
            raise ValueError("give both 'user' and 'password', or neither")
        if self.user and self.security == "none":
            raise ValueError("a password is never sent in the clear: set 'security' to starttls or tls")
        return self

    def open(self) -> EmailSink:
        """The sink."""
        return EmailSink(self)


class EmailSink:
    """Sends one message for each update, over a connection of its own."""

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings

    def send(self, update: Update) -> None:
        """Send one message; it counts as sent when the server has accepted it for every recipient."""
        settings = self._settings
        where = f"{settings.host}:{settings.port}"
        mail = message(update, settings)
        try:
            with self._connection() as server:
                if settings.password is not None:
                    server.login(settings.user, settings.password.read())
                # As a list, so that no header of the message decides who gets it.
                refused = server.send_message(mail, settings.sender, settings.to)
        except smtplib.SMTPDataError as error:
            said = clean(str(error.smtp_error), _MAX_SUBJECT)
            if error.smtp_code in _NEVER:
                raise DeliveryRefusedError(f"{where} answered {error.smtp_code}: {said}") from None
            raise UnavailableError(f"{where} answered {error.smtp_code}") from None
        except (smtplib.SMTPException, OSError) as error:
            # Not the error's text, which may hold the user.
            raise UnavailableError(f"{where} did not take it ({type(error).__name__})") from None
        if refused:
            raise UnavailableError(f"{where} refused {len(refused)} of {len(settings.to)} recipients")

    def _connection(self) -> smtplib.SMTP:
        settings = self._settings
        if settings.security == "tls":
            context = client_context(settings.tls)
            return smtplib.SMTP_SSL(
                settings.host, settings.port, timeout=settings.timeout_seconds, context=context
            )
        server = smtplib.SMTP(settings.host, settings.port, timeout=settings.timeout_seconds)
        if settings.security == "starttls":
            try:
                server.starttls(context=client_context(settings.tls))
            except BaseException:
                server.close()
                raise
        return server

    def close(self) -> None:
        """No connection is kept."""


def message(update: Update, settings: EmailSettings) -> EmailMessage:
    """The alert as plain text, in which a mail program makes nothing of what a client chose but bare addresses."""
    alert = update.alert
    link = alert_link(settings.console, alert)
    domain = settings.sender.rpartition("@")[2]
    mail = EmailMessage()
    goes_on = "" if update.change == "raised" else " goes on"
    mail["Subject"] = f"[kubehabit] {alert.severity.upper()}: {alert.principal}{goes_on}"[:_MAX_SUBJECT]
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.to)
    mail["Date"] = format_datetime(update.moment)
    mail["Message-ID"] = f"<{update.key}@{domain}>"
    thread = f"<{alert.id}@{domain}>"
    mail["References"], mail["In-Reply-To"] = thread, thread
    mail["Auto-Submitted"] = "auto-generated"
    lines = [
        alert.sentence,
        "",
        f"Severity:    {alert.severity}",
        f"Principal:   {alert.principal} ({alert.kind})",
        f"Namespaces:  {', '.join(namespaces_of(alert)) or '-'}",
        f"Time (UTC):  {rfc3339(alert.first_seen)} to {rfc3339(alert.last_seen)}",
        f"Actions:     {alert.action_count:,} unusual ones",
        *(f"ATT&CK:      {one.id} {one.name}" for one in alert.techniques),
        *((f"Console:     {link}",) if link else ()),
        "",
        "What to check:",
        *(f"- {check.text}" + (f"\n    {check.command}" if check.command else "") for check in alert.checks),
        "",
        f"Audit IDs: {', '.join(alert.audit_ids[:_MAX_AUDIT_IDS])}",
        f"Alert {alert.id}, update {update.key}",
    ]
    mail.set_content("\n".join(lines))
    return mail
