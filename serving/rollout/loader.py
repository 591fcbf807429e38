"""Loads an engine from settings: the bundle, its detector, the store and the vocabulary."""

from __future__ import annotations

import contextlib
import importlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.principals.identity import Identity
from serving.access.reloading_file import ReloadingFile
from serving.alerts.exceptions import read_exceptions
from serving.alerts.explain.explainer import Explainer
from serving.authorization.monitor import AuthorizationMonitor
from serving.authorization.open import open_monitor
from serving.delivery.outbox import Outbox
from serving.history.activity import MOST_SEEN, Principals, Trained
from serving.incidents.context import ContextTracker
from serving.process.instance_id import instance_id
from serving.registry.client import (
    Fetched,
    ModelReference,
    NoRegistryError,
    NoSuchModelError,
    open_bundle,
    open_starter,
    stop_client,
)
from serving.schemas import ModelInfo, SelfTestResult
from serving.scoring.deduplication import KEY_BYTES
from serving.scoring.engine import Engine, Loaded
from serving.scoring.rule_alerts import RuleAlerts, RuleFolders
from serving.settings import Settings
from serving.storage.database import AlertStore

if TYPE_CHECKING:
    from detection.bundle import Bundle
    from detection.detector import Detector
    from detection.exceptions import HabitExceptions

_WARM_ROWS = 512
UNTESTED = (
    "The model's bundle was made before bundles had a self-test, so nothing proves that this machine computes the same numbers "
    "as training did; the next kubehabit train adds one."
)


def load_engine(
    settings: Settings, wanted: ModelReference | Path | None = None, *, store_url: str | None = None
) -> Engine:
    """Fetch and verify the model and make an engine of it.

    Args:
        settings: which model, where alerts go.
        wanted: a model to use instead.
        store_url: a store to use instead; nothing is delivered from it.

    Raises:
        KubehabitError: no model can be had, or the store or the words cannot be opened; UnreachableError if only the server of
            the store is not there.
    """
    # Another process asks the registry meanwhile. No daemon: cutting off an import of C++ aborts the process.
    threading.Thread(target=_import_ahead, name="imports").start()
    # First, as it costs least and may have to be tried again and again.
    store = AlertStore.from_settings(settings.store, store_url)
    try:
        return make_engine(
            settings,
            open_model(settings, wanted),
            Explainer.load(settings.explain_path),
            store,
            outbox=outbox_of(settings, store) if store_url is None else None,
            authorization=open_monitor(settings.authorization),
            rules=RuleFolders(settings.rules),
            exceptions=exceptions_of(settings),
        )
    except BaseException:
        store.close()
        raise
    finally:
        stop_client()


def make_engine(
    settings: Settings,
    loaded: Loaded,
    explainer: Explainer,
    store: AlertStore,
    *,
    outbox: Outbox | None,
    authorization: AuthorizationMonitor | None,
    rules: RuleFolders,
    exceptions: Callable[[], HabitExceptions],
) -> Engine:
    """An engine that has not scored yet, of a model whose detector no other engine has."""
    encoder, gap = loaded.detector.encoder, round(settings.alerts.gap_minutes * 60e6)
    context = ContextTracker(
        explainer,
        gap,
        fold=encoder.identity.fold,
        place=encoder.settings.place,
        is_proxied=encoder.identity.is_proxied,
    )
    return Engine(
        loaded.detector,
        loaded.model.fields,
        loaded.model,
        store,
        explainer,
        settings.alerts,
        # More than are ever in memory: none is forgotten here before it is put on disk.
        principals=Principals(loaded.trained, most=max(MOST_SEEN, 2 * settings.state.hot_principals)),
        context=context,
        loaded=loaded,
        outbox=outbox,
        exceptions=exceptions,
        authorization=authorization,
        rules=RuleAlerts(rules.current),
    )


def sibling(loaded: Loaded, settings: Settings) -> Loaded:
    """The same model with another detector, which begins with what training knew; both run the same graphs."""
    from data.actions.stage_folding import StageFolder
    from detection.detector import Detector

    first = loaded.detector
    detector = Detector(
        first.bundle,
        model=first.model,
        newest=first.reconstruction.newest,
        cached_windows=settings.model.cached_windows,
        folder=StageFolder(key=secrets.token_bytes(KEY_BYTES)),
        probation_days=settings.alerts.probation_days,
    )
    return replace(loaded, detector=detector)


def open_model(settings: Settings, wanted: ModelReference | Path | None = None) -> Loaded:
    """The model that is wanted; if nothing is, the champion, or the starter model where there is none yet.

    Raises:
        KubehabitError: no model can be had.
    """
    champion = ModelReference(settings.model.name, alias=settings.model.alias)
    load = model_loader(settings)
    try:
        return open_bundle(wanted or champion, settings.model.cache_dir, load)[0]
    except (NoRegistryError, NoSuchModelError) as error:
        if wanted is not None or not settings.model.starter or settings.model.public_key is not None:
            raise
        return open_starter(str(error), load, settings.model.starter_trusted_hops)


def exceptions_of(settings: Settings) -> Callable[[], HabitExceptions]:
    """The exceptions of the settings' file as it is; raises KubehabitError if it cannot be used now.

    The file is looked at for each batch, so that an exception holds for all that is received after it was added.
    """
    path = settings.alerts.exceptions_path
    read = partial(read_exceptions, path)
    return ReloadingFile("the file of exceptions", [path], read, seconds=0).current


def outbox_of(settings: Settings, store: AlertStore) -> Outbox | None:
    """The outbox for the sinks of the settings, if there are any."""
    folder = settings.journal.resolved_path
    return Outbox(store, settings.sinks, instance_id(folder)) if settings.sinks else None


def _import_ahead() -> None:
    """Import what the start needs later, beside what it does now."""
    for name in ("detection.detector", "onnxruntime"):
        with contextlib.suppress(ImportError):  # reported where it is needed
            importlib.import_module(name)


def model_loader(settings: Settings) -> Callable[[Bundle, Fetched], Loaded]:
    """`load_model` with the arguments that the settings give."""
    model, alerts = settings.model, settings.alerts
    return partial(
        load_model,
        threads=model.threads,
        cached_windows=model.cached_windows,
        threshold_scale=alerts.threshold_scale,
        probation_days=alerts.probation_days,
        public_key=model.public_key,
    )


def load_model(
    bundle: Bundle,
    fetched: Fetched,
    *,
    threads: int,
    cached_windows: int,
    threshold_scale: float = 1.0,
    probation_days: int = 3,
    public_key: Path | None = None,
) -> Loaded:
    """Make a bundle's detector, prove that it computes here what training computed, and warm it.

    Raises:
        KubehabitError: the public key cannot be read.
        BundleError: the bundle is not signed with that key, its graph cannot be run here, or fails the bundle's self-test.
    """
    from data.actions.fields import FIELDS
    from data.actions.stage_folding import StageFolder
    from data.errors import BundleError
    from data.signing_keys import load_public_key
    from detection.bundle import verify_signature
    from detection.detector import Detector, describe
    from detection.parity_check import TOLERANCE, verify_parity

    if public_key is not None:
        verify_signature(bundle.path, load_public_key(public_key))
    what = f"{fetched.name} version {fetched.version}"
    bundle = replace(bundle, calibration=bundle.calibration.scaled(threshold_scale))
    try:
        # The memory of requests has a key, so that another process can continue it.
        folder = StageFolder(key=secrets.token_bytes(KEY_BYTES))
        detector = Detector(
            bundle,
            threads=threads,
            cached_windows=cached_windows,
            folder=folder,
            probation_days=probation_days,
        )
    except Exception as error:  # onnxruntime has an exception of its own for each way a file can be wrong
        reason = (str(error).splitlines() or [""])[0][:200]
        raise BundleError(
            f"{what} is no graph that onnxruntime can read ({type(error).__name__}: {reason}). "
            "Fetch the model version again, or train and register a new one: kubehabit train"
        ) from error
    tested = None
    if bundle.parity_check is not None:
        worst = verify_parity(bundle.parity_check, detector.reconstruction, what)
        tested = SelfTestResult(windows=len(bundle.parity_check), worst_difference=worst, tolerance=TOLERANCE)
    _warm(detector)
    notices = [fetched.notice, None if tested is not None else UNTESTED]
    info = ModelInfo(
        name=fetched.name,
        version=fetched.version,
        source=fetched.source,
        notice=" ".join(notice for notice in notices if notice) or None,
        fields=list(FIELDS),
        loaded=datetime.now(UTC),
        bundle=describe(bundle),
        self_test=tested,
        threshold_scale=threshold_scale,
    )
    trained = Trained(
        bundle.principals.group_of,
        bundle.principals.sizes,
        bundle.warmup.last,
        Identity(bundle.settings.identity, strict=False),
    )
    return Loaded(detector, info, trained, fetched.directory)


def _warm(detector: Detector) -> None:
    """Let onnxruntime reserve what a full batch needs, so that the first caller does not wait for it."""
    from data.actions.fields import FIELDS
    from detection.reconstruction import Reconstruction
    from detection.windows import Cut

    bundle = detector.bundle
    none = np.zeros(_WARM_ROWS, np.int64)
    tokens = np.zeros((_WARM_ROWS, len(FIELDS)), np.int16)
    first = np.maximum(np.arange(_WARM_ROWS) - bundle.window + 1, 0)
    cut = Cut(tokens, first, np.arange(_WARM_ROWS) - first + 1, none, bundle.window)
    graphs = Reconstruction(detector.model, detector.reconstruction.newest)
    graphs.nll(cut, none, none)
    graphs.log_probs(cut, none, none, none[:1])
