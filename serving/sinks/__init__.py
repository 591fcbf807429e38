"""Sinks of alerts, one file each; to add one, copy a file and list its settings here."""

from typing import Annotated

from pydantic import Field

from serving.sinks.alertmanager import AlertmanagerSettings
from serving.sinks.file import FileSettings
from serving.sinks.kubernetes import KubernetesSettings
from serving.sinks.ocsf import OcsfSettings
from serving.sinks.slack import SlackSettings
from serving.sinks.stdout import StdoutSettings
from serving.sinks.syslog import SyslogSettings
from serving.sinks.webhook import WebhookSettings

AnySinkSettings = Annotated[
    AlertmanagerSettings
    | FileSettings
    | KubernetesSettings
    | OcsfSettings
    | SlackSettings
    | StdoutSettings
    | SyslogSettings
    | WebhookSettings,
    Field(discriminator="type"),
]

__all__ = ["AnySinkSettings"]
