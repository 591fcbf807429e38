"""The contract of sinks: input, errors and common settings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.functional_validators import AfterValidator

from data.visible_text import visible
from serving.schemas import SEVERITIES, Alert, Severity


class UnavailableError(Exception):
    """The receiver could not take the alert now; it is retried. The text is logged and holds no secret."""


class DeliveryRefusedError(Exception):
    """The receiver will never take this alert; it is dropped, and the next one is sent."""


@dataclass(frozen=True, slots=True)
class Update:
    """The current state of an alert, with its first 1,000 audit IDs, and the severity last sent to this sink, if any.

    Where there are several clusters, its sentence begins with the name of its own.

    Every text in it is visible: what a client chose must forge nothing at a receiver, whatever the alert was made from.
    """

    alert: Alert
    sent_severity: str | None
    moment: datetime
    cluster: str = ""

    def __post_init__(self) -> None:
        shown = Alert.model_validate(_shown(self.alert.model_dump()))
        if self.cluster:
            shown.sentence = f"[{self.cluster}] {shown.sentence}"
        object.__setattr__(self, "alert", shown)  # the class is frozen

    @property
    def key(self) -> str:
        """Idempotency key of this state of this alert; alerts only grow."""
        return f"{self.alert.id}-{self.alert.action_count}"

    @property
    def change(self) -> Literal["raised", "grown"]:
        """Whether the receiver gets the alert for the first time."""
        return "raised" if self.sent_severity is None else "grown"

    def document(self) -> dict[str, Any]:
        """The form of the sinks file and stdout: `key` identifies repeats, `alert` is that of `GET /v1/alerts/{id}`.

        `cluster` is there where there are several.
        """
        alert = self.alert.model_dump(mode="json", by_alias=True)
        named = {"cluster": self.cluster} if self.cluster else {}
        return {"key": self.key, "change": self.change, **named, "alert": alert}


def _shown(value: Any) -> Any:
    """A document with every text in it, keys too, made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _shown(one) for key, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, list) else value


class Sink(Protocol):
    """A receiver of alerts. Used by one thread."""

    def send(self, update: Update) -> None:
        """Deliver an alert; on return the receiver has it.

        Raises:
            UnavailableError: retry later.
            DeliveryRefusedError: do not retry.
        """

    def close(self) -> None:
        """Release connections and files."""


class SinkSection(BaseModel):
    """Base of settings: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"it is no regular expression ({error})") from error
    return pattern


class Filter(SinkSection):
    """Which alerts a sink gets. All conditions must hold; empty ones are ignored."""

    severity: Severity = "low"
    kinds: list[Literal["human", "serviceaccount", "controller", "component", "node", "anonymous"]] = []
    namespaces: list[str] = []
    principals: Annotated[str, AfterValidator(_compiles)] = ""

    def passes(self, alert: Alert) -> bool:
        """Whether an alert is for this sink."""
        return (
            SEVERITIES.index(alert.severity) >= SEVERITIES.index(self.severity)
            and (not self.kinds or alert.kind in self.kinds)
            and (not self.namespaces or not set(self.namespaces).isdisjoint(namespaces_of(alert)))
            and re.search(self.principals, alert.principal) is not None
        )


def namespaces_of(alert: Alert) -> list[str]:
    """Namespaces of an alert's listed actions, sorted."""
    return sorted({action.object_ref.namespace for action in alert.actions if action.object_ref} - {""})


def rfc3339(moment: datetime) -> str:
    """A time in UTC, as RFC 3339 writes it."""
    return moment.isoformat().replace("+00:00", "Z")


class Secret(SinkSection):
    """A value kept outside the settings file, in an environment variable or a file.

    A file is read for each alert, so it can be replaced while the service runs.
    """

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("name either 'env' (an environment variable) or 'file', one of the two")
        if self.env is not None and not os.environ.get(self.env):
            raise ValueError(f"the environment variable {self.env} is not set: set it, or name another")
        return self

    def read(self) -> str:
        """The value; raises UnavailableError if the file cannot be read, or is empty."""
        if self.env is not None:
            return os.environ.get(self.env, "")
        assert self.file is not None
        try:
            value = self.file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnavailableError(f"{self.file} cannot be read ({type(error).__name__})") from error
        if not value:
            raise UnavailableError(f"{self.file} is empty")
        return value


def _is_web_address(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", url):
        raise ValueError(
            "it must be an address like https://host/path, without user and password (a token goes into 'token')"
        )
    return url


# An address, or a secret that holds it.
Url = Annotated[
    Annotated[str, AfterValidator(_is_web_address), Tag("address")] | Annotated[Secret, Tag("secret")],
    # So that an error names only the form that was used.
    Discriminator(lambda given: "address" if isinstance(given, str) else "secret"),
]


def _without_slash(url: str) -> str:
    return _is_web_address(url).rstrip("/") if url else ""


#: Address of the service as people reach it, which messages link to; empty: no links.
ConsoleLink = Annotated[str, AfterValidator(_without_slash)]


def alert_link(console: str, alert: Alert) -> str:
    """Address of an alert's page; empty without a console."""
    return f"{console}/console/alerts/{alert.id}" if console else ""


def read_url(url: str | Secret) -> str:
    """The address itself; raises UnavailableError if it cannot be read, or is none."""
    if isinstance(url, str):
        return url
    try:
        return _is_web_address(url.read())
    except ValueError:
        raise UnavailableError("what 'url' names holds no address like https://host/path") from None


class SinkTlsSettings(SinkSection):
    """CA of the receiver and our client certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class SinkSettings(SinkSection):
    """Settings of every sink."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    filter: Filter = Filter()
    repeat_minutes: Annotated[float, Field(ge=0, le=1e7)] = 60
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    max_wait_seconds: Annotated[float, Field(gt=0, le=1e6)] = 300
    max_queued: Annotated[int, Field(ge=1, le=10**9)] = 10_000

    def open(self) -> Sink:
        """The sink."""
        raise NotImplementedError
