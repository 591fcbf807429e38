"""All checks of a deployment, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from data.errors import KubehabitError
from kubehabit.diagnosis.access import check_tls, check_tokens
from kubehabit.diagnosis.check_result import Check, CheckResult
from kubehabit.diagnosis.host import check_clock, check_home, check_open_files, check_port
from kubehabit.diagnosis.model import check_model
from kubehabit.diagnosis.stores import check_events, check_explanations, check_sinks, check_store
from serving.settings import read_settings

CHECKS: dict[str, Check] = {
    "home": check_home,
    "clock": check_clock,
    "open files": check_open_files,
    "port": check_port,
    "tokens": check_tokens,
    "tls": check_tls,
    "store": check_store,
    "events": check_events,
    "sinks": check_sinks,
    "explanations": check_explanations,
    "model": check_model,
}


def diagnose(config: Path | None, on_check: Callable[[str], None] = lambda _: None) -> Iterator[CheckResult]:
    """Check a deployment.

    Args:
        config: settings of its service; the shipped ones when None.
        on_check: called with the name of each check when it begins.

    Yields:
        Findings. Settings that cannot be read end the checks: nothing else can be said then.
    """
    on_check("settings")
    source = config or "the shipped serve.yaml"
    try:
        settings = read_settings(config)
    except KubehabitError as error:
        yield CheckResult("settings", "error", str(error))
        return
    yield CheckResult("settings", "ok", f"{source} and KUBEHABIT_* are valid.")
    for name, check in CHECKS.items():
        on_check(name)
        try:
            yield from check(settings)
        except (KubehabitError, OSError) as error:
            yield CheckResult(name, "error", str(error))
