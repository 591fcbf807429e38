"""Owner join: what controllers make is traced to the principal who asked for it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from data.actions.encoder import ActionEncoder
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.events.reader import open_lines
from data.principals.identity import identify
from data.principals.ownership import NOBODY, OwnerTracker, read_link
from tests.data.samples import event

ROOT = Path(__file__).resolve().parents[3]
SYSTEM = "system:serviceaccount:kube-system:"
DEV, OTHER = "dev-1@corp.example", "dev-2@corp.example"
_APPS = {"deployments": "apps", "replicasets": "apps", "daemonsets": "apps", "statefulsets": "apps"}
_GROUP = _APPS | {"jobs": "batch", "cronjobs": "batch", "horizontalpodautoscalers": "autoscaling"}


def write(
    who: str,
    verb: str,
    resource: str,
    name: str = "",
    *,
    of: tuple[str, str] | None = None,
    prefix: str = "",
    sub: str = "",
    code: int = 201,
    namespace: str = "web",
    group: str | None = None,
    spec: dict[str, Any] | None = None,
) -> AuditEvent:
    """One write; `of` is (kind, name) of the controlling owner, `prefix` the generateName."""
    metadata: dict[str, Any] = {"namespace": namespace}
    if name:
        metadata["name"] = name
    if prefix:
        metadata["generateName"] = prefix
    if of:
        api = {"Deployment": "apps/v1", "ReplicaSet": "apps/v1", "DaemonSet": "apps/v1"}.get(
            of[0], "batch/v1"
        )
        api = {"Database": "db.example/v1", "StatefulSet": "apps/v1"}.get(of[0], api)
        metadata["ownerReferences"] = [{"apiVersion": api, "kind": of[0], "name": of[1], "controller": True}]
    reference = {"resource": resource, "namespace": namespace, "name": name, "subresource": sub}
    reference["apiGroup"] = _GROUP.get(resource, "") if group is None else group
    body = {"metadata": metadata, "spec": spec or {}} if verb != "delete" else {"kind": "DeleteOptions"}
    (decoded,) = decode_lines(
        [
            event(
                verb=verb,
                user={"username": who, "groups": []},
                objectRef=reference,
                requestObject=body,
                responseStatus={"code": code},
            )
        ]
    ).events
    return decoded


def owners(*events: AuditEvent, tracker: OwnerTracker | None = None) -> list[str]:
    tracker = tracker or OwnerTracker()
    return [tracker.owner(e, identify(e.user.username, e.user.groups)) for e in events]


def rollout(name: str = "app") -> list[AuditEvent]:
    """What controllers do with a new Deployment."""
    replicas = f"{name}-5d4f8c7b9"
    return [
        write(SYSTEM + "deployment-controller", "create", "replicasets", replicas, of=("Deployment", name)),
        write(SYSTEM + "replicaset-controller", "create", "pods", prefix=f"{replicas}-", of=("ReplicaSet", replicas)),
        write("system:kube-scheduler", "create", "pods", f"{replicas}-x2x4z", sub="binding"),
        write("system:node:node-1", "delete", "pods", f"{replicas}-x2x4z"),
    ]  # fmt: skip


def test_a_pod_is_traced_through_its_replica_set_to_who_wrote_the_deployment() -> None:
    found = owners(write(DEV, "create", "deployments", "app"), *rollout())
    assert found == [NOBODY, DEV, DEV, DEV, DEV]


def test_the_last_writer_counts() -> None:
    first = [write(DEV, "create", "deployments", "app"), *rollout()]
    then = [write(OTHER, "patch", "deployments", "app", sub="scale", code=200), *rollout()]
    assert owners(*first, *then)[-4:] == [OTHER] * 4


@pytest.mark.parametrize(
    ("resource", "kind", "pod"),
    [
        ("daemonsets", "DaemonSet", {"prefix": "app-"}),
        ("statefulsets", "StatefulSet", {"name": "app-0"}),
        ("jobs", "Job", {"prefix": "app-"}),
    ],
)
def test_every_workload_is_traced(resource: str, kind: str, pod: dict[str, str]) -> None:
    controller = SYSTEM + {
        "daemonsets": "daemon-set-controller",
        "statefulsets": "statefulset-controller",
    }.get(resource, "job-controller")
    made = write(controller, "create", "pods", of=(kind, "app"), **pod)  # type: ignore[arg-type]
    assert owners(write(DEV, "create", resource, "app"), made) == [NOBODY, DEV]


def test_a_cron_jobs_pods_are_traced_through_its_jobs() -> None:
    job = write(
        SYSTEM + "cronjob-controller", "create", "jobs", "nightly-28934720", of=("CronJob", "nightly")
    )
    pod = write(
        SYSTEM + "job-controller",
        "create",
        "pods",
        prefix="nightly-28934720-",
        of=("Job", "nightly-28934720"),
    )
    assert owners(write(DEV, "create", "cronjobs", "nightly"), job, pod) == [NOBODY, DEV, DEV]


def test_an_operator_acts_for_who_wrote_its_custom_resource() -> None:
    operator = "system:serviceaccount:db:operator"
    made = write(operator, "create", "statefulsets", "orders", of=("Database", "orders"))
    pod = write(SYSTEM + "statefulset-controller", "create", "pods", "orders-0", of=("StatefulSet", "orders"))
    found = owners(write(DEV, "create", "databases", "orders", group="db.example"), made, pod)
    assert found == [NOBODY, DEV, DEV]


def test_an_autoscaler_acts_for_who_set_it() -> None:
    target = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
        "maxReplicas": 200,
    }
    scaled = write(
        SYSTEM + "horizontal-pod-autoscaler", "update", "deployments", "app", sub="scale", code=200
    )
    found = owners(
        write(DEV, "create", "deployments", "app"),
        write(OTHER, "update", "horizontalpodautoscalers", "app", spec=target, code=200),
        scaled,
        *rollout(),
    )
    assert found[2:] == [OTHER] * 5


def test_who_deletes_a_workload_is_behind_the_collector() -> None:
    collected = write(SYSTEM + "generic-garbage-collector", "delete", "pods", "app-5d4f8c7b9-x2x4z", code=200)
    found = owners(
        write(DEV, "create", "deployments", "app"),
        *rollout(),
        write(OTHER, "delete", "deployments", "app", code=200),
        collected,
    )
    assert found[-1] == OTHER


def test_names_help_where_the_log_began_too_late_to_see_the_replica_set() -> None:
    deployment = write(DEV, "patch", "deployments", "app", code=200)
    pod = write(
        SYSTEM + "replicaset-controller",
        "create",
        "pods",
        prefix="app-5d4f8c7b9-",
        of=("ReplicaSet", "app-5d4f8c7b9"),
    )
    assert owners(deployment, pod) == [NOBODY, DEV]


def test_what_failed_changes_nothing() -> None:
    found = owners(
        write(DEV, "create", "deployments", "app"),
        write(OTHER, "patch", "deployments", "app", code=403),
        *rollout(),
    )
    assert set(found[2:]) == {DEV}


def test_the_unknown_and_other_namespaces_are_nobodys() -> None:
    assert owners(*rollout()) == [NOBODY] * 4
    elsewhere = write(DEV, "create", "deployments", "app", namespace="other")
    assert owners(elsewhere, *rollout())[1:] == [NOBODY] * 4


def test_a_circle_of_owners_ends() -> None:
    controller = SYSTEM + "deployment-controller"
    first = write(controller, "create", "replicasets", "a", of=("ReplicaSet", "b"))
    second = write(controller, "create", "replicasets", "b", of=("ReplicaSet", "a"))
    assert owners(first, second, first) == [NOBODY] * 3


def test_memory_is_bounded_and_what_is_used_stays() -> None:
    tracker = OwnerTracker(capacity=50)
    owners(write(DEV, "create", "deployments", "kept"), tracker=tracker)
    for number in range(400):
        owners(write(OTHER, "create", "deployments", f"x{number}"), *rollout("kept")[:1], tracker=tracker)
        assert len(tracker.to_list()) <= 100
    assert owners(*rollout("kept"), tracker=tracker)[0] == DEV


def test_a_tracker_continues_where_it_was_saved() -> None:
    tracker = OwnerTracker()
    owners(write(DEV, "create", "deployments", "app"), rollout()[0], tracker=tracker)
    again = OwnerTracker.from_list(json.loads(json.dumps(tracker.to_list())))
    assert owners(rollout()[1], tracker=again) == [DEV]


def test_reading_in_parts_and_joining_later_is_the_same(normal_lines: list[bytes]) -> None:
    events = decode_lines(normal_lines).events
    encoder = ActionEncoder()
    batch = encoder.encode(events)
    whole = [encoder.interners["owner"].values[code] for code in batch.codes["owner"]]
    tracker, joined = OwnerTracker(), []
    parts = ActionEncoder(join_owners=False)
    for begin in range(0, len(events), 2500):
        part = parts.encode(events[begin : begin + 2500])
        found = dict(tracker.join(part.links))
        joined += [found.get(row, NOBODY) for row in range(len(part))]
    assert len(joined) == len(whole)
    assert joined == whole
    assert len(set(whole)) > 5


def test_only_writes_that_may_tell_something_make_a_link() -> None:
    person, node = identify(DEV, ()), identify("system:node:node-1", ())
    assert read_link(decode_lines([event()]).events[0], person) is None
    assert read_link(write("system:node:node-1", "patch", "pods", "app-x2x4z", sub="status"), node) is None
    assert read_link(write("system:node:node-1", "update", "leases", "node-1"), node) is None


@pytest.mark.slow
def test_pods_made_because_of_labelled_attacks_trace_to_the_attacker() -> None:
    """All that controllers made while the attacker was the workload's last writer; nobody's is none of them."""
    recordings = ROOT / "data" / "recordings"
    labels = json.loads((recordings / "labels.json").read_text())
    attacks = [run for run in labels if run["kind"] == "attack"]
    run_of = {audit_id: run for run in attacks for audit_id in run["induced_audit_ids"]}
    own = {audit_id for run in attacks for audit_id in run["audit_ids"]}
    last_writer: dict[tuple[str, str], str] = {}
    traced: Counter[str] = Counter()
    encoder = ActionEncoder()
    for name in ("normal", "labelled"):
        events = decode_lines(open_lines(recordings / f"{name}.jsonl.zst")).events
        batch = encoder.encode(events)
        for row, index in enumerate(batch.event.tolist()):
            e = events[index]
            ref = e.objectRef
            if ref is None:
                continue
            who = e.user.username
            if (
                ref.resource in ("deployments", "daemonsets")
                and e.verb != "get"
                and not who.startswith(SYSTEM)
            ):
                last_writer[ref.namespace, ref.name] = "attacker" if e.auditID in own else who
            if e.auditID in run_of and e.verb == "create" and (ref.resource, ref.subresource) == ("pods", ""):
                owner = encoder.interners["owner"].values[batch.codes["owner"][row]]
                workload = json.loads(bytes(e.requestObject))["metadata"]["labels"]["app"]
                expected = last_writer[ref.namespace, workload]
                if expected == "attacker":
                    expected = run_of[e.auditID]["principal"]
                    traced["of the attacker"] += 1
                assert owner == expected
                traced["all"] += 1
    assert traced == {"all": 29, "of the attacker": 21}


def test_a_name_that_no_api_server_accepts_is_not_remembered() -> None:
    tracker = OwnerTracker()
    long = "x" * 300
    assert owners(write(DEV, "create", "deployments", long), *rollout(long), tracker=tracker) == 5 * [NOBODY]
    assert all(len(text) < 300 for key, _ in tracker.to_list() for text in key)


DAY = 86_400_000_000


def own_work(*asked: tuple[AuditEvent, int], tracker: OwnerTracker | None = None) -> list[int]:
    """Places of what is own work among events and the times, in days, at which they came."""
    tracker = tracker or OwnerTracker()
    links = [read_link(event, identify(event.user.username, event.user.groups)) for event, _ in asked]
    rows = [(row, link) for row, link in enumerate(links) if link is not None]
    return tracker.own_work(rows, np.array([int(day * DAY) for _, day in asked]))


def test_what_one_created_within_the_last_day_is_ones_own_to_remove_also_where_that_is_refused() -> None:
    created, gone = write(DEV, "create", "pods", "tmp-1"), write(DEV, "delete", "pods", "tmp-1")
    refused = write(DEV, "delete", "pods", "tmp-1", code=403)
    assert own_work((created, 0), (refused, 0.5), (gone, 1)) == [1, 2]
    assert own_work((created, 0), (gone, 1.01)) == []
    assert own_work((gone, 0), (created, 0.5)) == []


@pytest.mark.parametrize(
    ("created", "gone"),
    [
        (write(DEV, "create", "pods", "tmp-1"), write(OTHER, "delete", "pods", "tmp-1")),
        (write(DEV, "create", "pods", "tmp-1"), write(DEV, "delete", "pods", "tmp-2")),
        (write(DEV, "create", "pods", "tmp-1"), write(DEV, "delete", "pods", "tmp-1", namespace="other")),
        (write(DEV, "create", "pods", "tmp-1", code=403), write(DEV, "delete", "pods", "tmp-1")),
        (write(DEV, "patch", "deployments", "app"), write(DEV, "delete", "deployments", "app")),
        (write(DEV, "create", "pods", "tmp-1", sub="exec"), write(DEV, "delete", "pods", "tmp-1")),
        (write(DEV, "create", "pods", prefix="tmp-"), write(DEV, "delete", "pods", "tmp-")),
    ],
    ids=["another's", "another object", "another place", "it failed", "only changed", "an exec", "no name"],
)
def test_nothing_else_is_ones_own_to_remove(created: AuditEvent, gone: AuditEvent) -> None:
    assert own_work((created, 0), (gone, 0.1)) == []


def test_who_created_an_object_is_known_after_others_changed_it_and_after_a_restart() -> None:
    tracker = OwnerTracker()
    changed = write(OTHER, "patch", "deployments", "app")
    assert own_work((write(DEV, "create", "deployments", "app"), 0), (changed, 0.1), tracker=tracker) == []
    again = OwnerTracker.from_list(json.loads(json.dumps(tracker.to_list())))
    gone = write(DEV, "delete", "deployments", "app"), 0.2
    assert own_work(gone, tracker=again) == [0]


def test_the_encoder_names_own_work_and_forgets_what_is_undone() -> None:
    created, gone = write(DEV, "create", "pods", "tmp-1"), write(DEV, "delete", "pods", "tmp-1")
    encoder = ActionEncoder()
    undo = encoder.checkpoint()
    assert encoder.encode([created]).own_work == []
    undo()
    assert encoder.encode([replace(gone, auditID="gone")]).own_work == []
    encoder.encode([replace(created, auditID="again")])
    assert encoder.encode([replace(gone, auditID="gone again")]).own_work == [0]


def test_the_log_of_ones_own_pod_is_ones_own_to_read_also_in_one_call_with_its_creation() -> None:
    created = write(DEV, "create", "pods", "tmp-1")
    mine, theirs = (write(who, "get", "pods", "tmp-1", sub="log", code=200) for who in (DEV, OTHER))
    shell = write(DEV, "create", "pods", "tmp-1", sub="exec")
    events = [replace(one, auditID=str(number)) for number, one in enumerate((created, mine, theirs, shell))]
    assert ActionEncoder().encode(events).own_work == [1]
    assert ActionEncoder().encode(events[1:]).own_work == []
