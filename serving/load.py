"""From settings to a running engine: the bundle, its detector, the store and the words."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from serving.engine import Engine, ModelInfo
from serving.explain import Explainer
from serving.principals import Principals, Trained
from serving.registry import Reference, open_bundle
from serving.repeats import KEY_BYTES
from serving.settings import Settings
from serving.store import AlertStore
from serving.surroundings import Surroundings


def load_engine(
    settings: Settings, wanted: Reference | Path | None = None, *, store_url: str | None = None
) -> Engine:
    """Fetch and verify the model and make an engine of it.

    Args:
        settings: which model, where alerts go.
        wanted: another model than that of the settings.
        store_url: another store than that of the settings.

    Raises:
        KubehabitError: no model can be had, or the store or the words cannot be opened.
    """
    explainer = Explainer.load(settings.explain_path)
    bundle, fetched = open_bundle(
        wanted or Reference(settings.model.name, alias=settings.model.alias), settings.model.cache_dir
    )
    store = AlertStore(
        store_url or settings.store.resolved_url,
        retention_days=settings.store.retention_days,
        max_alerts=settings.store.max_alerts,
    )
    from data.actions import StageFolder
    from data.detector import Detector, describe

    model = ModelInfo(
        name=fetched.name,
        version=fetched.version,
        source=fetched.source,
        notice=fetched.notice,
        fields=list(bundle.fields),
        loaded=datetime.now(UTC),
        bundle=describe(bundle),
    )
    detector = Detector(bundle, threads=settings.model.threads, cached_windows=settings.model.cached_windows)
    # Its memory of requests is to be continued by another process.
    detector.encoder.folder = StageFolder(key=secrets.token_bytes(KEY_BYTES))
    trained = Trained(bundle.principals.group_of, bundle.principals.sizes, bundle.warmup.last)
    surroundings = Surroundings(
        explainer,
        round(settings.alerts.gap_minutes * 60e6),
        fold=detector.encoder.identity.fold,
        trusted_hops=bundle.settings.trusted_hops,
    )
    return Engine(
        detector,
        bundle.fields,
        model,
        store,
        explainer,
        settings.alerts,
        principals=Principals(trained),
        surroundings=surroundings,
    )
