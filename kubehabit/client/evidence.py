"""Evidence exported from the stores on this machine or by a running service, and written to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from data.errors import KubehabitError
from data.signing_keys import load_signing_key
from kubehabit.client.event_files import answers_of_files
from kubehabit.client.events import span
from kubehabit.client.remote import Remote
from serving.alerts.explain.explainer import Explainer
from serving.forensics import clock
from serving.forensics.evidence.csv_table import as_csv
from serving.forensics.evidence.export import Subject, export, exporter
from serving.forensics.evidence.incident import alerts_named
from serving.forensics.evidence.model_card import describe_model
from serving.forensics.evidence.page import render
from serving.forensics.ledger import Ledger
from serving.forensics.timestamps import stamper_of
from serving.incidents.incidents import Incidents
from serving.schemas import clean
from serving.settings import Settings, load_settings
from serving.storage.database import AlertStore, shown_url

_MAX_NOTE = 2000


def from_files(wanted: Subject, store: Path | None, config: Path | None) -> bytes:
    """A file of evidence, exported from the stores on this machine.

    Args:
        wanted: what to export.
        store: folder of the event store; that of the settings when None.
        config: settings of the service whose stores they are; the shipped ones when None.

    Raises:
        KubehabitError: there is no such incident or alert, or a store cannot be read.
    """
    settings = load_settings(config)
    questions = answers_of_files(settings, store)
    alerts: list[dict[str, Any]] = []
    judges: dict[tuple[str, str], None] = {}
    incident, words = None, None
    wanted = msgspec.structs.replace(wanted, note=clean(wanted.note, _MAX_NOTE))
    if wanted.incident is not None or wanted.alerts:
        kept = AlertStore.from_settings(settings.store)
        incidents = Incidents(kept, Explainer.load(settings.explain_path))
        words = incidents.words
        if wanted.incident is not None:
            incident = _incident(incidents, wanted.incident, settings)
            wanted = msgspec.structs.replace(wanted, alerts=tuple(alerts_named(incident)))
        for alert_id in wanted.alerts:
            alert = kept.get(alert_id)
            if alert is None:
                raise KubehabitError(
                    f"There is no alert {alert_id!r} in {shown_url(settings.store.resolved_url)}."
                )
            alerts.append(alert.model_dump(mode="json", by_alias=True))
            judges[alert.model.name, alert.model.version] = None
        kept.close()
    signing_key = settings.events.with_key().signing_key
    key = None if signing_key is None else load_signing_key(signing_key)
    return export(
        questions,
        Ledger(questions.folder, key),
        wanted,
        by=exporter(),
        incident=incident,
        alerts=alerts,
        models=[describe_model(settings.model.cache_dir, *judge) for judge in judges],
        words=words,
        stamper=stamper_of(settings.events),
    )


def _incident(incidents: Incidents, name: str, settings: Settings) -> dict[str, Any]:
    """An incident of the alert store, as the API gives it."""
    found = incidents.get(name)
    if found is None:
        raise KubehabitError(
            f"There is no incident {name!r} in {shown_url(settings.store.resolved_url)}. See `kubehabit incidents`; "
            "--url asks a service elsewhere."
        )
    if found.state == "merged":
        raise KubehabitError(f"Incident {name} was merged into {found.merged_into}: export that one.")
    if not found.alerts:
        raise KubehabitError(f"Incident {name} holds no alert any more: they were deleted by age.")
    return found.model_dump(mode="json", by_alias=True)


def from_service(wanted: Subject, service: Remote) -> bytes:
    """A file of evidence, exported by a running service; raises as `Remote.get`."""
    said: dict[str, Any] = {"note": wanted.note, "by": exporter()}
    if wanted.incident is not None:
        return service.post_for_file("incidents", wanted.incident, "evidence", body=said)
    subject = {"alerts": wanted.alerts, "auditIDs": wanted.audit_ids, "principal": wanted.principal}
    return service.post_for_file("evidence", body=said | subject | span(wanted.since, wanted.until))


def write(made: bytes, incident: str | None, out: Path) -> tuple[Path, int, int]:
    """Write a file of evidence, its page and its table to a folder, readable by their owner only.

    Args:
        made: the file.
        incident: ID of the incident that it is about.
        out: the folder.

    Returns:
        Path of all without its suffix, and how many events they hold and lack.
    """
    content = msgspec.json.decode(made)["content"]
    out.mkdir(parents=True, exist_ok=True)
    of = f"{incident}-" if incident is not None else ""
    name = f"evidence-{of}{clock.written(clock.now())[:19].replace(':', '').replace('-', '')}Z"
    files = ((".json", made), (".html", render(made).encode()), (".csv", as_csv(made).encode()))
    for suffix, text in files:
        path = out / (name + suffix)
        path.write_bytes(text)
        path.chmod(0o600)
    return out / name, len(content["events"]), len(content["missing"])
