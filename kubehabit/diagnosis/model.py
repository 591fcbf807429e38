"""Check of the model: the registry or the last good download, the bundle, and whether it computes here as in training."""

from __future__ import annotations

from collections.abc import Iterator

from kubehabit.diagnosis.check_result import CheckResult
from serving.settings import Settings


def check_model(settings: Settings) -> Iterator[CheckResult]:
    """The champion can be had, its bundle is unharmed, and it passes its parity check. Downloads it, as a start would."""
    from serving.registry.client import ModelReference, open_bundle, stop_client
    from serving.rollout.loader import UNTESTED, model_loader

    wanted = ModelReference(settings.model.name, alias=settings.model.alias)
    try:
        loaded, fetched = open_bundle(wanted, settings.model.cache_dir, model_loader(settings))
    finally:
        stop_client()
    if fetched.notice:
        yield CheckResult("model", "warning", fetched.notice)
    test = loaded.model.self_test
    if test is None:
        yield CheckResult("model", "warning", UNTESTED)
        return
    yield CheckResult(
        "model",
        "ok",
        f"{fetched.name} version {fetched.version} ({fetched.source}) is unharmed and computes here as in training: off by "
        f"{test.worst_difference:.2g} nats at most, {test.tolerance:g} allowed.",
    )
