"""Sinks of alerts, one file each; to add one, copy a file and list its settings here."""

from typing import Annotated

from pydantic import Field

from serving.sinks.alertmanager import AlertmanagerSettings
from serving.sinks.email import EmailSettings
from serving.sinks.file import FileSettings
from serving.sinks.jira import JiraSettings
from serving.sinks.kubernetes import KubernetesSettings
from serving.sinks.ocsf import OcsfSettings
from serving.sinks.pagerduty import PagerDutySettings
from serving.sinks.slack import SlackSettings
from serving.sinks.stdout import StdoutSettings
from serving.sinks.syslog import SyslogSettings
from serving.sinks.teams import TeamsSettings
from serving.sinks.webhook import WebhookSettings

AnySinkSettings = Annotated[
    AlertmanagerSettings
    | EmailSettings
    | FileSettings
    | JiraSettings
    | KubernetesSettings
    | OcsfSettings
    | PagerDutySettings
    | SlackSettings
    | StdoutSettings
    | SyslogSettings
    | TeamsSettings
    | WebhookSettings,
    Field(discriminator="type"),
]

__all__ = ["AnySinkSettings"]
