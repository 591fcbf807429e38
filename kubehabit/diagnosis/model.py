"""Check of the model: the registry or the last good download, the bundle, and whether it computes here as in training."""

from __future__ import annotations

from collections.abc import Iterator

from kubehabit.diagnosis.check_result import CheckResult
from serving.settings import Settings


def check_model(settings: Settings) -> Iterator[CheckResult]:
    """The champion can be had, its bundle is unharmed, and it passes its parity check. Downloads it, as a start would.

    Where there is no champion yet, the same of the starter model.
    """
    from serving.registry.client import stop_client
    from serving.rollout.loader import UNTESTED, open_model

    try:
        model = open_model(settings).model
    finally:
        stop_client()
    test = model.self_test
    notice = (model.notice or "").replace(UNTESTED, "").strip()
    if notice:
        yield CheckResult("model", "warning", notice)
    if test is None:
        yield CheckResult("model", "warning", UNTESTED)
        return
    yield CheckResult(
        "model",
        "ok",
        f"{model.name} version {model.version} ({model.source}) is unharmed and computes here as in training: off by "
        f"{test.worst_difference:.2g} nats at most, {test.tolerance:g} allowed.",
    )
