"""Settings of the service: YAML file, overridden by `KUBEHABIT_*` in the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from datetime import datetime
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from data.errors import KubehabitError
from data.paths import home, shipped_rules
from data.visible_text import visible
from serving.sinks import AnySinkSettings

MEBIBYTE = 1 << 20
# Range of the threshold scale. The history for previews goes down to the same minimum.
LEAST_SCALE, MOST_SCALE = 0.3, 10.0

# Of numbers without a natural maximum: what is more overflows somewhere, and is a slip of the keyboard.
_MOST = 1_000_000_000
_MOST_DAYS = 36_500

#: Name of a cluster: the key of its records in Kafka, and a part of names of files and schemas.
CLUSTER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_TOPIC = re.compile(r"^[A-Za-z0-9._-]{1,249}$")

AccessScope = Literal["ingest", "read", "analyst", "admin"]


def parse_kafka_url(url: str | None) -> str | None:
    """A URL such as `kafka://broker-1:9092,broker-2:9092/topic`, checked; raises ValueError."""
    if url is None:
        return None
    brokers, _, topic = url.removeprefix("kafka://").partition("/")
    if not url.startswith("kafka://") or not brokers or not _TOPIC.fullmatch(topic) or "@" in brokers:
        raise ValueError(
            "give brokers and topic as kafka://broker-1:9092,broker-2:9092/topic; credentials belong into kafka.properties"
        )
    return url


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _WithPath(_Section):
    _default: ClassVar[str]

    path: Path | None = None

    @property
    def resolved_path(self) -> Path:
        """The path, by default in KUBEHABIT_HOME."""
        return self.path or home() / self._default


class ModelSettings(_Section):
    """Which registered model is served, and how."""

    name: str = "kubehabit"
    alias: str = "champion"
    challenger: Annotated[str | None, Field(min_length=1)] = None
    starter: bool = True
    starter_trusted_hops: Annotated[int, Field(ge=0, le=16)] = 0
    watch_seconds: Annotated[float, Field(ge=0, le=_MOST)] = 30
    cache: Path | None = None
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    cached_windows: Annotated[int, Field(ge=0, le=_MOST)] = 0
    public_key: Path | None = None

    @model_validator(mode="after")
    def _two_models(self) -> Self:
        if self.challenger == self.alias:
            raise ValueError("challenger is the alias that is served already: name another one, or null")
        return self

    @property
    def cache_dir(self) -> Path:
        """Folder of downloaded bundles."""
        return self.cache or home() / "models"


class AlertSettings(_Section):
    """What is flagged, and how unusual actions become alerts."""

    threshold_scale: Annotated[float, Field(ge=LEAST_SCALE, le=MOST_SCALE)] = 1.0
    gap_minutes: Annotated[float, Field(gt=0, le=_MOST)] = 10
    probation_days: Annotated[int, Field(ge=1, le=3650)] = 3
    exceptions: Path | None = None
    first_actions: Annotated[int, Field(ge=1, le=1000)] = 50
    top_actions: Annotated[int, Field(ge=0, le=1000)] = 50

    @property
    def exceptions_path(self) -> Path:
        """The file of exceptions; it need not exist."""
        return self.exceptions or home() / "exceptions.yaml"


class AuthorizationSettings(_Section):
    """The cluster's roles and bindings, with which every event is compared."""

    snapshot: Path | None = None
    taken: datetime | None = None
    cluster: str | None = None


class RuleSettings(_Section):
    """Rules beside the model (docs/rules.md)."""

    shipped: bool = True
    folder: Path | None = None
    disabled: list[str] = []

    @property
    def folders(self) -> list[Path]:
        """Folders of rules; those of a later one replace those of the same name."""
        own = self.folder or home() / "rules"
        return [shipped_rules(), own] if self.shipped else [own]


class StoreSettings(_Section):
    """Where alerts are kept, and for how long."""

    url: str | None = None
    retention_days: Annotated[float, Field(gt=0, le=_MOST_DAYS)] = 90
    max_alerts: Annotated[int, Field(ge=1, le=_MOST)] = 100_000
    wait_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60

    @property
    def resolved_url(self) -> str:
        """SQLAlchemy URL of the alert store."""
        return self.url or f"sqlite:///{home() / 'serving.db'}"

    def of_cluster(self, name: str) -> str:
        """URL of the alert store of one of several clusters; raises KubehabitError if they would share one."""
        if self.url is None:
            return f"sqlite:///{home() / 'clusters' / name / 'serving.db'}"
        if "{cluster}" not in self.url:
            raise KubehabitError(
                "store.url must say where {cluster} stands for a cluster's name, for each has alerts of its own: "
                "postgresql://kubehabit@db.example/kubehabit?schema={cluster}"
            )
        return self.url.replace("{cluster}", name)

    @property
    def file(self) -> Path | None:
        """File of a SQLite store."""
        name = self.resolved_url.partition("?")[0].removeprefix("sqlite:///")
        return Path(name) if name and name != self.resolved_url else None


class LimitSettings(_Section):
    """Limits of requests and connections."""

    body_mb: Annotated[float, Field(gt=0, le=_MOST)] = 16
    decompressed_mb: Annotated[float, Field(gt=0, le=_MOST)] = 64
    waiting_requests: Annotated[int, Field(ge=1, le=_MOST)] = 64
    connections: Annotated[int, Field(ge=1, le=50_000)] = 1000
    connections_per_address: Annotated[int, Field(ge=1, le=50_000)] = 250

    @property
    def body_bytes(self) -> int:
        """Maximum size of a body as sent, bytes."""
        return int(self.body_mb * MEBIBYTE)

    @property
    def decompressed_bytes(self) -> int:
        """Maximum size of a decompressed body, bytes."""
        return int(self.decompressed_mb * MEBIBYTE)


class JournalSettings(_WithPath):
    """The folder of batches that wait to be scored, and its size."""

    _default = "journal"
    max_mb: Annotated[float, Field(gt=0, le=_MOST)] = 1024
    remembered_events: Annotated[int, Field(ge=1, le=_MOST)] = 2_000_000

    @property
    def max_bytes(self) -> int:
        """Maximum size of the journal, bytes."""
        return int(self.max_mb * MEBIBYTE)


class RateSettings(_Section):
    """Average rates of each caller, and how much may come at once."""

    requests_per_second: Annotated[float, Field(gt=0, le=_MOST)] = 1000
    megabytes_per_second: Annotated[float, Field(gt=0, le=_MOST)] = 64
    burst_seconds: Annotated[float, Field(gt=0, le=_MOST)] = 2
    refused_per_second: Annotated[float, Field(gt=0, le=_MOST)] = 20


class CertificateSettings(_Section):
    """Scopes of the holder of a client certificate."""

    common_name: str | None = None
    uri: str | None = None
    scopes: Annotated[tuple[AccessScope, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if (self.common_name is None) == (self.uri is None):
            raise ValueError("name the holder by common_name or by uri, one of them")
        return self


class OidcSettings(_Section):
    """Sign-in to the console by OpenID Connect: the provider, and which scopes its groups give."""

    issuer: str
    client_id: Annotated[str, Field(min_length=1, max_length=512)]
    client_secret: Annotated[SecretStr | None, Field(min_length=1)] = None
    public_url: str
    name: Annotated[str, Field(min_length=1, max_length=64)] = "single sign-on"
    request: tuple[str, ...] = ("profile", "email", "groups")
    name_claim: Annotated[str, Field(min_length=1)] = "email"
    groups_claim: Annotated[str, Field(min_length=1)] = "groups"
    groups: dict[str, tuple[AccessScope, ...]] = {}
    everyone: tuple[AccessScope, ...] = ()
    ca: Path | None = None

    @field_validator("issuer", "public_url")
    @classmethod
    def _is_https(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.query or parts.fragment or not parts.hostname:
            raise ValueError("give an address such as https://login.example, without query and fragment")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
            raise ValueError("must be https: names and codes would cross the network in the clear")
        return url

    @model_validator(mode="after")
    def _anyone_may(self) -> Self:
        if not self.groups and not self.everyone:
            raise ValueError("nobody could sign in: give groups with their scopes, or scopes for everyone")
        return self


class AccessLogSettings(_WithPath):
    """The access log."""

    _default = "access.jsonl"
    max_mb: Annotated[float, Field(gt=0, le=_MOST)] = 16
    files: Annotated[int, Field(ge=2, le=1000)] = 10


class AccessSettings(_Section):
    """Who may use the service for what."""

    tokens: Path | None = None
    certificates: list[CertificateSettings] = []
    oidc: OidcSettings | None = None
    rates: RateSettings = RateSettings()
    log: AccessLogSettings = AccessLogSettings()

    @property
    def tokens_path(self) -> Path:
        """The tokens file; must exist only if it was named."""
        return self.tokens or home() / "tokens.json"

    @property
    def has_tokens(self) -> bool:
        """Whether tokens are required: the file was named, or exists."""
        return self.tokens is not None or self.tokens_path.exists()


class ConsoleSettings(_Section):
    """The web console, and how long a browser stays signed in."""

    enabled: bool = True
    idle_minutes: Annotated[float, Field(gt=0, le=_MOST)] = 60
    session_hours: Annotated[float, Field(gt=0, le=_MOST)] = 12
    cluster_url: Annotated[str | None, Field(pattern=r"^https?://[^\s]*\{cluster\}[^\s]*$")] = None


class TlsSettings(_Section):
    """The service's certificate and the authority of client certificates."""

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


class StateSettings(_WithPath):
    """The folder of snapshots and inactive principals, and how much stays in memory."""

    _default = "state"
    snapshot_seconds: Annotated[float, Field(gt=0, le=_MOST)] = 60
    snapshot_events: Annotated[int, Field(ge=1, le=_MOST)] = 100_000
    hot_principals: Annotated[int, Field(ge=1, le=_MOST)] = 20_000
    max_principals: Annotated[int, Field(ge=1, le=_MOST)] = 2_000_000


class DeadLetterSettings(_WithPath):
    """The file of events that could not be read."""

    _default = "dead-letters.jsonl"
    max_mb: Annotated[float, Field(gt=0, le=_MOST)] = 64


class TimestampSettings(_Section):
    """A time-stamp authority (RFC 3161) that stamps the event store's ledger."""

    url: str
    ca: Path | None = None
    every_hours: Annotated[float, Field(gt=0, le=8784)] = 24
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError("name the authority by an address that begins with http:// or https://")
        return url


class ArchiveSettings(_Section):
    """Where copies of the event store's files are kept besides: object storage, as Hive partitions."""

    url: Annotated[str, Field(pattern=r"^[a-z0-9]+://")]
    cluster: Annotated[str, Field(pattern=CLUSTER_NAME)]
    retention_days: Annotated[float | None, Field(gt=0, le=_MOST_DAYS)] = None

    @property
    def resolved_url(self) -> str:
        """URL of this cluster's part."""
        return f"{self.url.rstrip('/')}/cluster={self.cluster}"


class EventSettings(_WithPath):
    """The store of every event received."""

    _default = "events"
    enabled: bool = True
    retention_days: Annotated[float, Field(gt=0, le=_MOST_DAYS)] = 90
    max_gb: Annotated[float, Field(gt=0, le=_MOST)] = 20
    seal_seconds: Annotated[float, Field(gt=0, le=_MOST)] = 60
    memory_mb: Annotated[int, Field(ge=256, le=_MOST)] = 512
    query_seconds: Annotated[float, Field(gt=0, le=_MOST)] = 20
    signing_key: Path | None = None
    timestamps: TimestampSettings | None = None
    archive: ArchiveSettings | None = None

    @property
    def resolved_path(self) -> Path:
        """Folder of the store."""
        return super().resolved_path.absolute()

    @property
    def default_signing_key(self) -> Path:
        """The key that the service makes for itself at its first start, if none is named."""
        return home() / "ledger.key"

    def with_key(self) -> Self:
        """The same settings, which name the default key if none is named and it exists."""
        key = self.signing_key or self.default_signing_key
        return self.model_copy(update={"signing_key": key}) if key.exists() else self

    @property
    def max_bytes(self) -> int:
        """Maximum size of all Parquet files, bytes."""
        return int(self.max_gb * (1 << 30))


class HistorySettings(_Section):
    """Scores of each principal over time, for charts and for previews of other thresholds."""

    path: Path | None = None
    retention_days: Annotated[float, Field(ge=1, le=_MOST_DAYS)] = 35
    max_rows: Annotated[int, Field(ge=1000, le=_MOST)] = 2_000_000

    def resolved_path(self, state: Path) -> Path:
        """The file, by default in the folder of the state."""
        return self.path or state / "history.db"


class KafkaSettings(_Section):
    """How Kafka is reached, beyond the addresses: librdkafka's own properties, such as `security.protocol`."""

    properties: Annotated[dict[str, str | int | float | bool], Field(repr=False)] = {}


class IngestSettings(_Section):
    """Where batches go that the service receives: to its own scoring, or to Kafka, for workers."""

    publish: Annotated[str | None, AfterValidator(parse_kafka_url)] = None
    cluster: Annotated[str | None, Field(pattern=CLUSTER_NAME)] = None


class WorkerSettings(_Section):
    """`kubehabit worker`: the topic that it scores, and where what it learns is kept."""

    source: Annotated[str | None, AfterValidator(parse_kafka_url)] = None
    group: Annotated[str, Field(min_length=1, max_length=200)] = "kubehabit"
    start: Literal["earliest", "latest"] = "earliest"
    clusters: list[Annotated[str, Field(pattern=CLUSTER_NAME)]] = []
    clusters_in_memory: Annotated[int, Field(ge=1, le=_MOST)] = 64
    state: str | None = None
    dead_letters: Annotated[str | None, Field(pattern=_TOPIC.pattern)] = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8647

    @property
    def state_url(self) -> str:
        """Folder or URL of the snapshots."""
        return self.state or str(home() / "fleet")


class LogSettings(_Section):
    """The service's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class TraceSettings(_Section):
    """OpenTelemetry traces; `OTEL_*` in the environment configures them."""

    enabled: bool = False


class Settings(BaseSettings):
    """All settings of `kubehabit serve`; `configs/serve.yaml` explains each."""

    model_config = SettingsConfigDict(
        env_prefix="KUBEHABIT_",
        env_nested_delimiter="__",
        extra="forbid",
        validate_assignment=True,
        # An invalid value is not shown: it could be the token.
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
    authorization: AuthorizationSettings = AuthorizationSettings()
    rules: RuleSettings = RuleSettings()
    store: StoreSettings = StoreSettings()
    limits: LimitSettings = LimitSettings()
    journal: JournalSettings = JournalSettings()
    state: StateSettings = StateSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    events: EventSettings = EventSettings()
    history: HistorySettings = HistorySettings()
    kafka: KafkaSettings = KafkaSettings()
    ingest: IngestSettings = IngestSettings()
    worker: WorkerSettings = WorkerSettings()
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
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file, whose values are arguments."""
        return sources["env_settings"], sources["init_settings"]

    @model_validator(mode="after")
    def _certificates_can_come(self) -> Self:
        if self.access.certificates and self.tls.client_ca is None:
            raise ValueError(
                "access.certificates needs tls.client_ca, which says whose certificates are believed"
            )
        return self

    @model_validator(mode="after")
    def _places_differ(self) -> Self:
        state = self.state.resolved_path
        used: dict[Path, str] = {}
        for name, path in (
            ("journal.path", self.journal.resolved_path),
            ("state.path", state),
            ("events.path", self.events.resolved_path),
            ("model.cache", self.model.cache_dir),
            ("dead_letters.path", self.dead_letters.resolved_path),
            ("access.log.path", self.access.log.resolved_path),
            ("access.tokens", self.access.tokens_path),
            ("alerts.exceptions", self.alerts.exceptions_path),
            ("history.path", self.history.resolved_path(state)),
            ("store.url", self.store.file),
            *((f"path of the sink {one.name}", getattr(one, "path", None)) for one in self.sinks),
        ):
            if path is None:
                continue
            other = used.setdefault(path.absolute(), name)
            if other != name:
                raise ValueError(f"{other} and {name} are the same, {path}: each needs its own")
        return self

    @property
    def guarded(self) -> bool:
        """Whether callers must authenticate: there is a token, a tokens file, a list of certificates, or a sign-in."""
        access = self.access
        return (
            self.token is not None
            or access.has_tokens
            or bool(access.certificates)
            or access.oidc is not None
        )

    @property
    def on_loopback(self) -> bool:
        """Whether the service listens on loopback only."""
        return is_loopback(self.host)

    @property
    def explain_path(self) -> Path:
        """The file of phrases, techniques and next steps."""
        return self.explain or Path(str(files("configs") / "explain.yaml"))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is loopback. The empty host, which means every address, is not."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _DuplicateKeyError(yaml.MarkedYAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Refuses a name that is given twice, of which YAML's own loader drops the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        names: set[str] = set()
        for key, _ in node.value:
            if key.value in names:
                raise _DuplicateKeyError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            names.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raises KubehabitError if the file is missing, no YAML, or no mapping."""
    try:
        loaded = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise KubehabitError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        what = f", {error.problem}" if isinstance(error, _DuplicateKeyError) else ""
        raise KubehabitError(f"{path} is not valid YAML{line}{what}: correct it there.") from error
    if not isinstance(loaded, dict | None):
        raise KubehabitError(
            f"{path} must hold settings as 'name: value' lines; it holds a {type(loaded).__name__}."
        )
    return {str(name): value for name, value in (loaded or {}).items()}


def read_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read settings from a YAML file (default: the shipped one), the environment, and command-line options that are not None.

    Raises:
        KubehabitError: the file cannot be read, or a setting is unknown or wrong.
    """
    source = path or Path(str(files("configs") / "serve.yaml"))
    for variable in os.environ:
        _check_variable(variable)
    try:
        settings = Settings(**read_yaml(source))
        for name, value in overrides.items():
            if value is not None:
                setattr(settings, name, value)  # validated: see model_config
    except ValidationError as error:
        first = error.errors()[0]
        name = visible(".".join(str(part) for part in first["loc"]))
        more = f" ({error.error_count() - 1} more like it)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        what = "is no setting" if first["type"] == "extra_forbidden" else f"is wrong: {message}"
        subject = f"Setting '{name}'" if name else "One setting"
        hint = _hint(str(first["loc"][-1])) if first["type"] == "extra_forbidden" else ""
        if name == "port" and os.environ.get("KUBEHABIT_PORT", "").startswith("tcp://"):
            hint = " KUBEHABIT_PORT is of a Kubernetes Service of that name: set enableServiceLinks: false."
        raise KubehabitError(
            f"{subject} in {source} or in KUBEHABIT_* {what}{more}. Correct it.{hint}"
        ) from error
    except SettingsError as error:
        field = str(error).partition('"')[2].partition('"')[0]
        raise KubehabitError(
            f"KUBEHABIT_{field.upper()} is not valid JSON, which a list or a group of settings must be. Correct it."
        ) from error
    return settings


def _hint(name: str) -> str:
    known = {*Settings.model_fields}
    for field in Settings.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            known |= {*field.annotation.model_fields}
    return "".join(f" Did you mean {close!r}?" for close in get_close_matches(name, known, 1))


def _check_variable(variable: str) -> None:
    """Refuse what is nearly a setting: pydantic ignores variables that are none, and a cluster may set others with our prefix."""
    name, prefix = variable.lower(), "kubehabit_"
    first = name.removeprefix(prefix).partition("__")[0]
    if name == first or first in Settings.model_fields or first in ("home", "url"):
        return
    if close := get_close_matches(first, Settings.model_fields, 1, 0.75):
        raise KubehabitError(
            f"The variable {visible(variable)} is no setting. Did you mean {(prefix + close[0]).upper()}? Correct or unset it."
        )


def _check_places(settings: Settings) -> None:
    """Refuse a file where a folder must be, and a folder where a file must be: it would show only when something is written."""
    folders = {
        "journal.path": settings.journal.resolved_path,
        "state.path": settings.state.resolved_path,
        "events.path": settings.events.resolved_path,
        "model.cache": settings.model.cache_dir,
    }
    files = {
        "dead_letters.path": settings.dead_letters.resolved_path,
        "access.log.path": settings.access.log.resolved_path,
    }
    for sink in settings.sinks:
        if isinstance(place := getattr(sink, "path", None), Path):
            files[f"path of the sink {sink.name}"] = place
    for name, path in files.items():
        if _is_there(path) and path.is_dir():
            raise KubehabitError(f"{name} names {path}, which is a folder: name a file.")
    for name, folder in folders.items() | {(name, path.parent) for name, path in files.items()}:
        above = (folder.absolute(), *folder.absolute().parents)
        existing = next(place for place in above if _is_there(place))
        if not existing.is_dir():
            raise KubehabitError(
                f"{name} needs a folder {folder}, and {existing} is a file: name another one."
            )


def _is_there(path: Path) -> bool:
    """Whether a path is known to exist: not of one below a folder that this user may not search."""
    try:
        return path.exists()
    except OSError:
        return False


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Like `read_settings`, and refuses places of the wrong kind, and to listen beyond loopback without authentication."""
    settings = read_settings(path, **overrides)
    _check_places(settings)
    if not settings.on_loopback and not settings.guarded:
        raise KubehabitError(
            f"Refusing to listen on {settings.host or 'every address'!r} without a token: alerts would be readable, and "
            "scores writable, by anybody who reaches it. Make one with 'kubehabit token create', or set KUBEHABIT_TOKEN (16 "
            "characters or more), or list client certificates (docs/access.md); or use 127.0.0.1."
        )
    return settings
