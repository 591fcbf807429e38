"""Alerts and incidents of the store on this machine, in the API's JSON: also while no service runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from data.errors import KubehabitError
from kubehabit.client.remote import Remote
from serving.alerts.explain.explainer import Explainer
from serving.alerts.query import AlertListQuery, AlertPage, AlertQuery, whole
from serving.incidents.incidents import Incidents
from serving.schemas import ApiModel
from serving.settings import Settings, read_settings
from serving.storage.database import AlertStore, missing_file


class LocalStore:
    """What `kubehabit.client.remote.Remote` asks a service for, read by this process.

    Args:
        config: settings of the service whose store it is; the shipped ones when None.

    Raises:
        KubehabitError: the settings cannot be read, or there is no store.
    """

    def __init__(self, config: Path | None) -> None:
        self._settings = read_settings(config)
        _look_for(self._settings)

    def alerts(
        self, wanted: AlertQuery, *, since: datetime | None, limit: int, cursor: int | None
    ) -> dict[str, Any]:
        """A page of alerts, as `GET /v1/alerts` answers; arguments as of `serving.alerts.query.whole`."""
        with self._store() as store:
            return _document(
                AlertPage.from_page(whole(store, wanted, since=since, limit=limit, cursor=cursor))
            )

    def alert(self, name: str) -> dict[str, Any]:
        """One alert, as `GET /v1/alerts/{id}` answers.

        Raises:
            KubehabitError: there is none.
        """
        with self._store() as store:
            found = store.get(name)
        if found is None:
            raise KubehabitError(
                f"There is no alert {name!r} in this store: see `kubehabit alerts list --local`."
            )
        return _document(found)

    def incidents(self, *, state: str | None, limit: int, cursor: int | None) -> dict[str, Any]:
        """A page of incidents, as `GET /v1/incidents` answers."""
        with self._store() as store:
            return _document(self._incidents(store).page(state=state, limit=limit, cursor=cursor))

    def incident(self, name: str) -> dict[str, Any]:
        """One incident, as `GET /v1/incidents/{id}` answers.

        Raises:
            KubehabitError: there is none.
        """
        with self._store() as store:
            found = self._incidents(store).get(name)
        if found is None:
            raise KubehabitError(
                f"There is no incident {name!r} in this store: see `kubehabit incidents list --local`."
            )
        return _document(found)

    @contextmanager
    def _store(self) -> Iterator[AlertStore]:
        store = AlertStore.from_settings(self._settings.store)
        try:
            yield store
        finally:
            store.close()

    def _incidents(self, store: AlertStore) -> Incidents:
        return Incidents(store, Explainer.load(self._settings.explain_path))


def page_of_alerts(query: AlertListQuery, limit: int, cursor: int | None, source: LocalStore | Remote) -> Any:
    """A page of the alerts that match, from a store or a service."""
    names = ("severity", "principal", "namespace", "state", "verdict", "text")
    given = {name: str(getattr(query, name)).strip() for name in names}
    if isinstance(source, LocalStore):
        return source.alerts(AlertQuery(**given), since=query.since, limit=limit, cursor=cursor)
    given["q"] = given.pop("text")
    since = None if query.since is None else query.since.isoformat()
    filters = {name: value or None for name, value in given.items()}
    return source.get("alerts", **filters, since=since, limit=limit, cursor=cursor)


def _look_for(settings: Settings) -> None:
    """Opening a store makes one where there is none, and an empty one would say that nothing ever happened."""
    missing = missing_file(settings.store.resolved_url)
    if missing is not None:
        raise KubehabitError(
            f"There is no store of alerts at {missing}. Name the settings of its service with --config, or its folder as "
            "KUBEHABIT_HOME; or leave out --local, to ask a running service."
        )


def _document(what: ApiModel) -> dict[str, Any]:
    return what.model_dump(mode="json", by_alias=True)
