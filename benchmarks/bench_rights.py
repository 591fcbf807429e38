"""How long the console's pages of rights take with 10,000 bindings: the first view after a change of RBAC, and later ones.

The snapshot has 2,000 Roles and 13,000 users and accounts, a few of them with rights that lead to everything; 300 of them used 40
rights each, as the event store would say (its query is not part of the time). Figures are the processor time of the whole
answer, so that other work on the machine does not count.

Run: python -m benchmarks.bench_rights [--bindings 10000] [--repeat 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.report import Row, at_most, report
from data.actions.fields import FIELDS
from detection.authorization.requests import AccessRequest
from detection.authorization.usage import UserUsage
from serving.alerts.explain.explainer import Explainer
from serving.api.fresh_rights import ReadUsage
from serving.app import create_app
from serving.authorization.open import open_monitor
from serving.forensics.rights import UsedRights
from serving.schemas import ModelInfo
from serving.scoring.engine import Engine
from serving.settings import AuthorizationSettings, Settings
from serving.storage.database import AlertStore

SECONDS = 1.0
_ROLES, _NAMESPACES, _USERS = 2_000, 500, 3_000
_GROUP = "rbac.authorization.k8s.io"


def cluster(bindings: int) -> Iterator[dict[str, Any]]:
    """Roles and bindings of a large cluster."""
    for number in range(_ROLES):
        secret = number % 7 == 0
        yield {
            "kind": "Role",
            "metadata": {"name": f"role-{number}", "namespace": f"team-{number % _NAMESPACES}"},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["pods", "secrets"] if secret else ["pods"],
                    "verbs": ["get", "list"],
                },
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "patch"]},
            ],
        }
    for number in range(bindings):
        namespace = f"team-{number % _NAMESPACES}"
        yield {
            "kind": "RoleBinding",
            "metadata": {"name": f"binding-{number}", "namespace": namespace},
            "roleRef": {"kind": "Role", "name": f"role-{number % _ROLES}"},
            "subjects": [
                {"kind": "ServiceAccount", "name": f"account-{number}", "namespace": namespace},
                {"kind": "User", "name": f"user-{number % _USERS}"},
            ],
        }
    for name, verbs, group, resource, account in (
        ("everything", ["*"], "*", "*", "account-3"),
        ("minter", ["create"], "", "serviceaccounts/token", "account-9"),
    ):
        rules = [{"apiGroups": [group], "resources": [resource], "verbs": verbs}]
        yield {"kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
        yield {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": f"team-{account[8:]}"}],
        }


def used() -> dict[str, UserUsage]:
    """What 300 accounts did."""
    found = {}
    for number in range(300):
        namespace = f"team-{number % _NAMESPACES}"
        usage = UserUsage(
            ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        )
        for kind in range(20):
            for verb, resource in (("get", "pods"), ("list", f"widgets-{kind}")):
                request = AccessRequest(verb, None, "", resource, "", namespace, f"name-{kind}")
                usage.add(request, "2026-11-24T10:00:00Z", 7)
        found[f"system:serviceaccount:{namespace}:account-{number}"] = usage
    return found


class _Nobody:
    """A detector that is never asked."""


def measure(bindings: int, repeat: int, folder: Path) -> list[Row]:
    """The rows of the report."""
    from fastapi.testclient import TestClient

    os.environ.setdefault("KUBEHABIT_HOME", str(folder / "home"))
    snapshot = folder / "rbac.json"
    snapshot.write_text(json.dumps({"kind": "List", "items": list(cluster(bindings))}))
    monitor = open_monitor(AuthorizationSettings(snapshot=snapshot))
    assert monitor is not None
    explainer = Explainer.load(Path("configs/explain.yaml"))
    store = AlertStore(f"sqlite:///{folder / 'alerts.db'}", retention_days=90, max_alerts=1_000)
    served = ModelInfo(
        name="none", version="-", source="folder", fields=list(FIELDS), loaded=datetime.now(UTC), bundle={}
    )
    engine = Engine(_Nobody(), FIELDS, served, store, explainer, authorization=monitor)  # type: ignore[arg-type]
    settings = Settings(events={"enabled": False})  # type: ignore[arg-type]
    app = create_app(settings, engine)
    app.state.rights._read = lambda _: ReadUsage(0, UsedRights(used(), 300 * 40 * 7, True), time.monotonic())
    client = TestClient(app, base_url="http://127.0.0.1:8646")
    account = "system:serviceaccount:team-9:account-9"
    pages = {
        "users": "/console/rights",
        "groups": "/console/rights?by=groups",
        "bindings": "/console/rights?by=bindings",
        "an account that can become all others": f"/console/rights/subject?user={account}",
        "a binding": "/console/rights/binding?binding=binding-9&namespace=team-9",
        "who can list secrets": "/console/rights/who-can?verb=list&resource=secrets&namespace=team-0",
    }
    client.get("/console/glossary").raise_for_status()  # the first page of all compiles the templates
    rows = [Row("bindings", len(monitor.oracle.rbac.bindings), "")]
    for name, path in pages.items():
        taken = []
        for _ in range(repeat):
            begin = time.process_time()
            client.get(path).raise_for_status()
            taken.append(time.process_time() - begin)
        rows.append(at_most(f"{name}: first view", taken[0], "s", SECONDS))
        rows.append(at_most(f"{name}: later", statistics.median(taken[1:] or taken), "s", SECONDS))
    return rows


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bindings", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report("rights", measure(options.bindings, options.repeat, Path(folder)))


if __name__ == "__main__":
    main()
