"""Alerts and incidents of the store on this machine, in the API's JSON: also while no service runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from data.errors import KubehabitError
from serving.alerts.explain.explainer import Explainer
from serving.alerts.query import AlertListQuery, AlertPage, whole
from serving.incidents.incidents import Incidents
from serving.incidents.query import IncidentListQuery
from serving.schemas import ApiModel
from serving.settings import read_settings
from serving.storage.database import AlertStore, missing_file


class LocalStore:
    """Answers `GET /v1/alerts` and `/v1/incidents` as a service does, from the store of one.

    Args:
        config: settings of the service whose store it is; the shipped ones when None.

    Raises:
        KubehabitError: the settings cannot be read, or there is no store.
    """

    def __init__(self, config: Path | None) -> None:
        self._settings = read_settings(config)
        # Opening a store makes one where there is none, and an empty one would say that nothing ever happened.
        missing = missing_file(self._settings.store.resolved_url)
        if missing is not None:
            raise KubehabitError(
                f"There is no store of alerts at {missing}. Name the settings of its service with --config, or its folder as "
                "KUBEHABIT_HOME; or leave out --local, to ask a running service."
            )

    def get(self, kind: str, identity: str | None = None, **query: Any) -> Any:
        """The answer to a GET, as of `kubehabit.client.remote.Remote.get`.

        Args:
            kind: alerts, or incidents.
            identity: ID of one; None for a page of them.
            query: parameters of the page.

        Raises:
            KubehabitError: there is no such alert or incident.
        """
        with closing(AlertStore.from_settings(self._settings.store)) as store:
            if kind == "alerts":
                found = _alert_page(store, **query) if identity is None else store.get(identity)
            else:
                incidents = Incidents(store, Explainer.load(self._settings.explain_path))
                found = _incident_page(incidents, **query) if identity is None else incidents.get(identity)
        if found is None:
            raise KubehabitError(
                f"There is no {kind[:-1]} {identity!r} in this store: see `kubehabit {kind} list --local`."
            )
        return found.model_dump(mode="json", by_alias=True)

    def feedback(self) -> list[str]:
        """Verdicts on alerts as JSON, oldest first, as `GET /v1/feedback` gives them."""
        with closing(AlertStore.from_settings(self._settings.store)) as store:
            return [*store.feedback()]


def _alert_page(store: AlertStore, limit: int, cursor: int | None, **filters: Any) -> ApiModel:
    wanted = AlertListQuery.model_validate(filters)
    return AlertPage.from_page(
        whole(store, wanted, since=wanted.since, until=wanted.until, limit=limit, cursor=cursor)
    )


def _incident_page(
    incidents: Incidents, limit: int, cursor: str | int | None = None, **filters: Any
) -> ApiModel:
    wanted = IncidentListQuery.model_validate(
        {name: value for name, value in filters.items() if value is not None}
    )
    return incidents.page(wanted, since=wanted.since, until=wanted.until, limit=limit, cursor=cursor)
