"""Settings of the service: YAML file, overridden by `KUBEHABIT_*` in the environment."""

from __future__ import annotations

import ipaddress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from data.errors import KubehabitError
from data.paths import home
from serving.sinks import AnySinkSettings

MEBIBYTE = 1 << 20
LEAST_SCALE, MOST_SCALE = 0.3, 10.0
"""Of the thresholds. Nearer to nothing almost everything is flagged; what is kept for a preview goes down to the same share."""

AccessScope = Literal["ingest", "read", "admin"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelSettings(_Section):
    """Which registered model is served, and how."""

    name: str = "kubehabit"
    alias: str = "champion"
    challenger: Annotated[str | None, Field(min_length=1)] = None
    watch_seconds: Annotated[float, Field(ge=0)] = 30
    cache: Path | None = None
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    cached_windows: Annotated[int, Field(ge=0)] = 0

    @property
    def cache_dir(self) -> Path:
        """Folder of downloaded bundles."""
        return self.cache or home() / "models"


class AlertSettings(_Section):
    """What is flagged, and how unusual actions become alerts."""

    threshold_scale: Annotated[float, Field(ge=LEAST_SCALE, le=MOST_SCALE)] = 1.0
    gap_minutes: Annotated[float, Field(gt=0)] = 10
    first_actions: Annotated[int, Field(ge=1, le=1000)] = 50
    top_actions: Annotated[int, Field(ge=0, le=1000)] = 50


class StoreSettings(_Section):
    """Where alerts are kept, and for how long."""

    url: str | None = None
    retention_days: Annotated[float, Field(gt=0)] = 90
    max_alerts: Annotated[int, Field(ge=1)] = 100_000

    @property
    def resolved_url(self) -> str:
        """SQLAlchemy URL of the alert store."""
        return self.url or f"sqlite:///{home() / 'serving.db'}"


class LimitSettings(_Section):
    """What one caller may ask of the process."""

    body_mb: Annotated[float, Field(gt=0)] = 16
    decompressed_mb: Annotated[float, Field(gt=0)] = 64
    waiting_requests: Annotated[int, Field(ge=1)] = 64

    @property
    def body_bytes(self) -> int:
        """Largest body as sent, bytes."""
        return int(self.body_mb * MEBIBYTE)

    @property
    def decompressed_bytes(self) -> int:
        """Largest body after decompression, bytes."""
        return int(self.decompressed_mb * MEBIBYTE)


class JournalSettings(_Section):
    """Where batches are kept until they are scored, and how much of them."""

    path: Path | None = None
    max_mb: Annotated[float, Field(gt=0)] = 1024
    remembered_events: Annotated[int, Field(ge=1)] = 2_000_000

    @property
    def resolved_path(self) -> Path:
        """Folder of the journal."""
        return self.path or home() / "journal"

    @property
    def max_bytes(self) -> int:
        """Most the journal may take, bytes."""
        return int(self.max_mb * MEBIBYTE)


class RateSettings(_Section):
    """What each caller may send on average, and how much of it at once."""

    requests_per_second: Annotated[float, Field(gt=0)] = 1000
    megabytes_per_second: Annotated[float, Field(gt=0)] = 64
    burst_seconds: Annotated[float, Field(gt=0)] = 2
    refused_per_second: Annotated[float, Field(gt=0)] = 20


class CertificateSettings(_Section):
    """What the holder of a client certificate may do."""

    common_name: str | None = None
    uri: str | None = None
    scopes: Annotated[tuple[AccessScope, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if (self.common_name is None) == (self.uri is None):
            raise ValueError("name the holder by common_name or by uri, one of them")
        return self


class AccessLogSettings(_Section):
    """Where it is written down who used the service."""

    path: Path | None = None
    max_mb: Annotated[float, Field(gt=0)] = 16
    files: Annotated[int, Field(ge=2, le=1000)] = 10

    @property
    def resolved_path(self) -> Path:
        """File of the log."""
        return self.path or home() / "access.jsonl"


class AccessSettings(_Section):
    """Who may come in, and for what."""

    tokens: Path | None = None
    certificates: list[CertificateSettings] = []
    rates: RateSettings = RateSettings()
    log: AccessLogSettings = AccessLogSettings()

    @property
    def tokens_path(self) -> Path:
        """File of the tokens; need not exist unless it was named."""
        return self.tokens or home() / "tokens.json"

    @property
    def has_tokens(self) -> bool:
        """Whether tokens are asked for: the file was named, or is there."""
        return self.tokens is not None or self.tokens_path.exists()


class ConsoleSettings(_Section):
    """The pages for people, under /console/, and how long a browser stays signed in."""

    enabled: bool = True
    idle_minutes: Annotated[float, Field(gt=0)] = 60
    session_hours: Annotated[float, Field(gt=0)] = 12


class TlsSettings(_Section):
    """Certificate of the service, and whose client certificates it believes."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    client_crl: Path | None = None

    @model_validator(mode="after")
    def _certificate_first(self) -> Self:
        if self.certificate is None and (self.key is not None or self.client_ca is not None):
            raise ValueError("key and client_ca need a certificate: name it too")
        if self.client_ca is None and self.client_crl is not None:
            raise ValueError("client_crl needs client_ca, whose certificates it revokes: name it too")
        return self


class StateSettings(_Section):
    """How what is learned survives a restart, and how much of it is in memory."""

    path: Path | None = None
    snapshot_seconds: Annotated[float, Field(gt=0)] = 60
    snapshot_events: Annotated[int, Field(ge=1)] = 100_000
    hot_principals: Annotated[int, Field(ge=1)] = 20_000
    max_principals: Annotated[int, Field(ge=1)] = 2_000_000

    @property
    def resolved_path(self) -> Path:
        """Folder of snapshots and of quiet principals."""
        return self.path or home() / "state"


class DeadLetterSettings(_Section):
    """Where events go that could not be read."""

    path: Path | None = None
    max_mb: Annotated[float, Field(gt=0)] = 64

    @property
    def resolved_path(self) -> Path:
        """File of the dead letters."""
        return self.path or home() / "dead-letters.jsonl"


class EventSettings(_Section):
    """The store of every event received: where it is, and how much it may hold."""

    enabled: bool = True
    path: Path | None = None
    retention_days: Annotated[float, Field(gt=0)] = 90
    max_gb: Annotated[float, Field(gt=0)] = 20
    seal_seconds: Annotated[float, Field(gt=0)] = 60
    memory_mb: Annotated[int, Field(ge=256)] = 512
    query_seconds: Annotated[float, Field(gt=0)] = 20
    signing_key: Path | None = None

    @property
    def resolved_path(self) -> Path:
        """Folder of the store."""
        return (self.path or home() / "events").absolute()

    @property
    def max_bytes(self) -> int:
        """Size of the Parquet files above which the oldest go."""
        return int(self.max_gb * (1 << 30))


class HistorySettings(_Section):
    """How unusual each principal was over time: what is kept for pictures and for previews of other thresholds."""

    path: Path | None = None
    retention_days: Annotated[float, Field(ge=1)] = 35
    max_rows: Annotated[int, Field(ge=1000)] = 2_000_000

    def resolved_path(self, state: Path) -> Path:
        """The file; beside the state unless it is named."""
        return self.path or state / "history.db"


class LogSettings(_Section):
    """The service's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class TraceSettings(_Section):
    """OpenTelemetry traces; `OTEL_*` in the environment says the rest."""

    enabled: bool = False


class Settings(BaseSettings):
    """All settings of `kubehabit serve`; `configs/serve.yaml` explains each."""

    model_config = SettingsConfigDict(
        env_prefix="KUBEHABIT_",
        env_nested_delimiter="__",
        extra="forbid",
        validate_assignment=True,
        # A wrong value must not be echoed: it could be the token.
        hide_input_in_errors=True,
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8646
    token: Annotated[SecretStr | None, Field(min_length=16)] = None
    access: AccessSettings = AccessSettings()
    tls: TlsSettings = TlsSettings()
    console: ConsoleSettings = ConsoleSettings()
    model: ModelSettings = ModelSettings()
    alerts: AlertSettings = AlertSettings()
    store: StoreSettings = StoreSettings()
    limits: LimitSettings = LimitSettings()
    journal: JournalSettings = JournalSettings()
    state: StateSettings = StateSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    events: EventSettings = EventSettings()
    history: HistorySettings = HistorySettings()
    explain: Path | None = None
    sinks: list[AnySinkSettings] = []
    log: LogSettings = LogSettings()
    traces: TraceSettings = TraceSettings()

    @field_validator("sinks")
    @classmethod
    def _names_are_unique(cls, sinks: list[AnySinkSettings]) -> list[AnySinkSettings]:
        names = [sink.name for sink in sinks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]} is given to more than one sink; each needs its own")
        return sinks

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose values come in as arguments."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _certificates_can_come(self) -> Self:
        if self.access.certificates and self.tls.client_ca is None:
            raise ValueError(
                "access.certificates needs tls.client_ca, which says whose certificates are believed"
            )
        return self

    @property
    def guarded(self) -> bool:
        """Whether callers have to say who they are: there is a token, a file of tokens, or a list of certificates."""
        return self.token is not None or self.access.has_tokens or bool(self.access.certificates)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)

    @property
    def explain_path(self) -> Path:
        """File of words, techniques and next steps."""
        return self.explain or Path(str(files("configs") / "explain.yaml"))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine only. The empty host means every address, so it is not."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        KubehabitError: the file is missing, is no YAML, or holds something else than a mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KubehabitError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        raise KubehabitError(f"{path} is not valid YAML{line}: correct it there.") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise KubehabitError(
            f"{path} must hold settings as 'name: value' lines; it holds a {type(loaded).__name__}."
        )
    return loaded


def read_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read settings from a YAML file (the shipped one when None) and the environment.

    Args:
        path: YAML file.
        overrides: top-level values that win over both (command-line options); None means not given.

    Raises:
        KubehabitError: the file cannot be read, or a setting is unknown or wrong.
    """
    source = path or Path(str(files("configs") / "serve.yaml"))
    try:
        settings = Settings(**read_yaml(source))
        for name, value in overrides.items():
            if value is not None:
                setattr(settings, name, value)  # validated: see model_config
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        more = f" ({error.error_count() - 1} more like it)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        what = "is no setting" if first["type"] == "extra_forbidden" else f"is wrong: {message}"
        subject = f"Setting '{name}'" if name else "One setting"
        raise KubehabitError(f"{subject} in {source} or in KUBEHABIT_* {what}{more}. Correct it.") from error
    return settings


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read settings that a service can run with.

    Args:
        path: YAML file; the shipped one when None.
        overrides: as `read_settings` has them.

    Raises:
        KubehabitError: as `read_settings`; or the host is open and nobody has to say who they are.
    """
    settings = read_settings(path, **overrides)
    if not settings.on_loopback and not settings.guarded:
        raise KubehabitError(
            f"Refusing to listen on {settings.host or 'every address'!r} without a token: alerts would be readable, and "
            "scores writable, by anybody who reaches it. Make one with 'kubehabit token create', or set KUBEHABIT_TOKEN (16 "
            "characters or more), or list client certificates (docs/access.md); or use 127.0.0.1."
        )
    return settings
