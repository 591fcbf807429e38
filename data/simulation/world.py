"""How the cluster reacts to changes: rollouts, pods, jobs, quotas, endpoints.

Order and delays follow the shipped recordings: deployment -> replica set -> pod -> binding -> kubelet -> status -> endpoints,
with conflicts and repeats in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import count
from typing import Any

from data.simulation.api import DISCOVERY
from data.simulation.cluster import ActorIdentity, ApiClient, App, Cast, ClusterNode, Team, suffix, uid_of
from data.simulation.config import DAY, SECOND, SimulationSettings
from data.simulation.kernel import Kernel, Process, watch_query
from data.simulation.steps import Scene, Step, body_of, owner_reference, pod_body

_STATUS = {
    "Deployment": ("deployment-controller", "deployments/status"),
    "ReplicaSet": ("replicaset-controller", "replicasets/status"),
    "DaemonSet": ("daemon-set-controller", "daemonsets/status"),
}
_MS = 1000
_MANAGED = (
    '"managedFields":[{"manager":"kube-controller-manager","operation":"Update","fieldsType":"FieldsV1",'
    '"fieldsV1":{"f:metadata":{"f:annotations":{".":{}},"f:labels":{".":{}}},"f:spec":{"f:replicas":{}},"f:status":{}}}]'
)


class World:
    """A running cluster: kernel, cast, and the reactions of controllers, scheduler and kubelets.

    Attributes:
        blame: collects the audit IDs of the reactions to an attack; None for normal work.
    """

    def __init__(self, kernel: Kernel, cast: Cast, settings: SimulationSettings) -> None:
        self.kernel = kernel
        self.cast = cast
        self.settings = settings
        self.random = kernel.random
        self.app_of = {(app.namespace, app.name): app for app in cast.apps}
        self.by_namespace: dict[str, list[App]] = {}
        for app in cast.apps:
            self.by_namespace.setdefault(app.namespace, []).append(app)
        self.start_day = kernel.now // DAY
        self.blame: list[str] | None = None
        self._ticks = count()
        self._limits: dict[tuple[str, str], int] = {}

    def blaming(self, blame: list[str] | None) -> World:
        """The same cluster, whose reactions are noted in `blame`."""
        other = copy(self)
        other.blame = blame
        return other

    def scene(self, who: ActorIdentity, namespace: str, app: App | None = None) -> Scene:
        """A scene in a namespace: an app, one of its pods, a node, a fresh name."""
        random = self.random
        if app is None:
            apps = self.by_namespace.get(namespace) or self.cast.apps
            app = apps[random.randrange(len(apps))]
        pod = app.pods[random.randrange(len(app.pods))][0] if app.pods else f"{app.name}-0"
        return {
            "ns": namespace,
            "app": app.name,
            "pod": pod,
            "image": app.image,
            "me": who.name,
            "node": self.node().name,
            "hex": f"{random.getrandbits(20):05x}",
            "tail": random.choice(("50", "100", "100", "200", "500")),
            "now": self.kernel.stamp(self.kernel.now) + "Z",
        }

    def play(
        self,
        client: ApiClient,
        steps: Sequence[Step],
        scene: Scene,
        *,
        ids: list[str] | None = None,
        think: float = 1.0,
        others: dict[str, ApiClient] | None = None,
    ) -> Process:
        """Send the requests of a habit one after another.

        Args:
            ids: collects the audit IDs of these requests.
            think: factor on the waits in the steps.
            others: further clients, named in steps with `@`.
        """
        ids = [] if ids is None else ids
        random = self.random.random
        for step in steps:
            if step.chance < 1 and random() >= step.chance:
                continue
            if step.wait >= 0:
                yield int(step.wait * think * self.random.lognormvariate(0.0, 0.5) * SECOND)
            asking = others.get(step.client, client) if others and step.client else client
            if step.verb == "discover":
                for path in DISCOVERY:
                    ids.append(self.kernel.visit(asking, f"{path}?timeout=32s"))
                    yield int((2 + 9 * random() ** 2) * _MS)
                if random() < 0.7:
                    ids.append(self.kernel.visit(asking, "/openapi/v2?timeout=32s"))
                    yield 20 * _MS
                continue
            if step.verb == "visit":
                audit_id = self.kernel.visit(asking, step.full, step.code or 200)
            else:
                audit_id = self.request(asking, step, scene)
            if audit_id:
                ids.append(audit_id)
            yield self.lag(2.3 + 6 * random() ** 2)

    def request(self, client: ApiClient, step: Step, scene: Scene) -> str:
        """Send one request of a habit now and start the cluster's reaction. Returns its audit ID."""
        texts = [step.namespace, step.name, step.query, step.behind, step.impersonate]
        if not step.plain:
            texts = [text.format_map(scene) for text in texts]
        namespace, name, query, behind, impersonate = texts
        body = ""
        if step.body:
            scene["name"] = name
            body = body_of(step.body.format_map(scene) if "{" in step.body else step.body, scene, self.random)
        if impersonate:
            groups = '"system:serviceaccounts","system:authenticated"'
            impersonate = f'{{"username":"{impersonate}","groups":[{groups}]}}'
        audit_id = self.kernel.call(
            client,
            step.verb,
            step.full,
            namespace,
            name,
            query=query,
            body=body,
            code=step.code,
            hold=int(step.hold * (0.5 + self.random.random()) * SECOND) if step.hold >= 0 else -1,
            hidden_name=step.hidden,
            impersonate=impersonate,
            behind=behind,
        )
        if step.code < 400 and step.verb in ("create", "patch", "delete"):
            self.react(step, namespace, name, scene)
        return audit_id

    def react(self, step: Step, namespace: str, name: str, scene: Scene) -> None:
        """Start the controllers' reaction to a write."""
        verb, full, spawn = step.verb, step.full, self.kernel.spawn
        key, _, value = step.body.partition("=")
        app = self.app_of.get((namespace, name))
        if full == "deployments" and verb == "create":
            image = (value or f"{scene.get('image', '')}:dev").rpartition(":")[0]
            app = App(namespace, name, image, 1, suffix(self.random, 9), blame=self.blame)
            self.app_of[(namespace, name)] = app
            spawn(self.rollout(app), 6 * _MS)
        elif full in ("deployments", "deployments/scale") and app is not None:
            blaming = self.blaming(self.blame or app.blame)
            if full == "deployments/scale":
                if key == "replicas":
                    spawn(blaming.scale(app, int(value or self.random.choice((1, 2, 3, 4)))), 7 * _MS)
            elif verb == "delete":
                if app not in self.cast.apps:
                    del self.app_of[(namespace, name)]
                spawn(blaming.collect(app), 12 * _MS)
            elif key in ("apply", "image", "restart", "sidecar"):
                spawn(self.rollout(app), 6 * _MS)
            else:
                spawn(self.touch(app), 9 * _MS)
        elif full == "jobs" and verb == "create":
            spawn(self.job(namespace, name, scene.get("image", "")), 9 * _MS)
        elif full == "jobs" and verb == "delete":
            spawn(self.sweep(namespace, f"{name}-{suffix(self.random, 5)}"), 15 * _MS)
        elif full == "pods" and verb == "create":
            spawn(self.pod_starts(namespace, name, self.node()), 11 * _MS)
        elif (full == "pods" and verb == "delete") or full == "pods/eviction":
            spawn(self.replaced(namespace, name), 12 * _MS)
        elif full == "daemonsets" and verb == "create":
            spawn(self.daemons(namespace, name, value, key == "daemonset"), 12 * _MS)
        elif full == "services" and verb in ("create", "patch") and self.random.random() < 0.5:
            spawn(self.endpoints(namespace, name), 11 * _MS)

    def revision(self) -> Scene:
        """A random revision of a Helm release: the newest, the next, and the one that is dropped."""
        newest = 3 + self.random.randrange(40)
        return {"rev": str(newest), "next": str(newest + 1), "old": str(newest - 2)}

    def lag(self, milliseconds: float) -> int:
        """Microseconds until the next request in an immediate sequence: one in five finds the server busy."""
        luck = self.random.random()
        return int(milliseconds * _MS * (1.0 if luck > 0.2 else 2 + 20 * luck))

    def call(
        self,
        who: str | ApiClient,
        verb: str,
        full: str,
        namespace: str,
        name: str = "",
        then: int = 0,
        **more: Any,
    ) -> int:
        """One request of a client, or of a controller by its name; its audit ID goes to `blame`.

        Returns:
            `then`, for a process to yield: the microseconds until its next step.
        """
        client = self.by(who) if isinstance(who, str) else who
        audit_id = self.kernel.call(client, verb, full, namespace, name, **more)
        if self.blame is not None and audit_id:
            self.blame.append(audit_id)
        return then

    def by(self, controller: str) -> ApiClient:
        """Client of a controller."""
        return self.cast.controllers[controller]

    def node(self) -> ClusterNode:
        """A random node."""
        return self.cast.nodes[self.random.randrange(len(self.cast.nodes))]

    def event(
        self, who: str | ApiClient, namespace: str, about: str, verb: str = "create", resource: str = "events"
    ) -> None:
        """Write an Event about an object."""
        name = f"{about}.{self.kernel.now * 1000 + self.random.randrange(1000):x}"
        self.call(who, verb, resource, namespace, name)

    def _status(self, kind: str, namespace: str, name: str) -> Process:
        """A status update by the kind's controller; some hit a conflict, read again and repeat."""
        client, full = _STATUS[kind]
        tick = next(self._ticks)
        body = (
            f'{{"kind":"{kind}","apiVersion":"apps/v1","metadata":{{"name":"{name}","namespace":"{namespace}",{_MANAGED}}},'
            f'"spec":{{"replicas":{1 + tick % 3}}},"status":{{"observedGeneration":{2 + tick % 30}}}}}'
        )
        if self.random.random() < self.settings.machines.conflicts:
            self.call(client, "update", full, namespace, name, body=body, code=409)
            yield self.lag(3 + 5 * self.random.random())
            if full == "replicasets/status":
                self.call(client, "get", "replicasets", namespace, name)
                yield self.lag(3 + 4 * self.random.random())
        self.call(client, "update", full, namespace, name, body=body)
        yield self.lag(4 + 9 * self.random.random())

    def quota(self, namespace: str) -> Process:
        """Admission reads quotas and limits, cached for half a minute, and writes the new pod count."""
        kernel, server = self.kernel, "apiserver"
        counted = namespace not in tuple("kube-system argo ml logging ingress-nginx kyverno cicd".split())
        for resource in ("limitranges",) if counted else ("resourcequotas", "limitranges"):
            if kernel.now - self._limits.get((namespace, resource), -DAY) > 30 * SECOND:
                self._limits[(namespace, resource)] = kernel.now
                self.call(server, "list", resource, namespace)
                yield 1500 + self.random.randrange(7 * _MS)
        if not counted:
            return
        body = f'{{"kind":"ResourceQuota","apiVersion":"v1","metadata":{{"name":"quota","namespace":"{namespace}",{_MANAGED}}},"spec":{{"hard":{{"pods":"300"}}}}}}'
        self.call(server, "update", "resourcequotas/status", namespace, "quota", body=body)
        kernel.spawn(self._recount(namespace, body), 30 * _MS + self.random.randrange(SECOND))

    def _recount(self, namespace: str, body: str) -> Process:
        codes = (409, 0) if self.random.random() < 0.13 else (0,)
        for code in codes:
            target = "resourcequotas/status", namespace, "quota"
            yield self.call("resourcequota-controller", "update", *target, body=body, code=code, then=8 * _MS)

    def endpoints(self, namespace: str, name: str) -> Process:
        """Update endpoints and endpoint slices."""
        body = f'{{"kind":"Endpoints","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{namespace}",{_MANAGED}}},"subsets":[]}}'
        self.call("endpoint-controller", "update", "endpoints", namespace, name, body=body)
        yield 1 * _MS + self.random.randrange(6 * _MS)
        slice_name = f"{name}-{uid_of(namespace + name)[:5].translate(_SLICE)}"
        self.call("endpointslice-controller", "update", "endpointslices", namespace, slice_name, body=body)

    def bind(self, namespace: str, pod: str, node: ClusterNode) -> Process:
        """The scheduler chooses a node."""
        body = f'{{"kind":"Binding","apiVersion":"v1","metadata":{{"name":"{pod}","namespace":"{namespace}"}},"target":{{"kind":"Node","name":"{node.name}"}}}}'
        self.call("kube-scheduler", "create", "pods/binding", namespace, pod, body=body)
        yield 7 * _MS + self.random.randrange(5 * _MS)
        self.event("kube-scheduler", namespace, pod, resource="events.new")

    def _report(self, node: ClusterNode, namespace: str, pod: str, phase: str) -> Process:
        """The kubelet reads a pod and writes its status."""
        body = (
            f'{{"metadata":{{"uid":"{uid_of(pod)}"}},"status":{{"phase":"{phase}","conditions":[{{"type":"Ready","status":"True"}}],'
            f'"hostIP":"{node.client.address}"}}}}'
        )
        self.call(node.client, "get", "pods", namespace, pod)
        yield self.lag(2.5 + 3 * self.random.random())
        self.call(node.client, "patch", "pods/status", namespace, pod, body=body)
        yield self.lag(5 + 4 * self.random.random())

    def pod_starts(
        self,
        namespace: str,
        pod: str,
        node: ClusterNode,
        service: str = "",
        config: str = "",
        ready: float = 0.0,
    ) -> Process:
        """A pod from binding to ready, `ready` seconds after pulling its images."""
        yield from self.quota(namespace)
        yield 6 * _MS
        yield from self.bind(namespace, pod, node)
        for resource, name, chance in (
            ("configmaps", config, 0.14),
            ("secrets", f"{service}-token-{suffix(self.random, 5)}", 0.09),
        ):
            if service and self.random.random() < chance:
                yield from self._mount(node.client, resource, namespace, name)
        yield 40 * _MS + self.random.randrange(90 * _MS)
        yield from self._report(node, namespace, pod, "Pending")
        self.event(node.client, namespace, pod)
        yield int((ready or self.settings.machines.pod_seconds * (0.4 + self.random.random())) * SECOND)
        for _ in range(3):
            self.event(node.client, namespace, pod)
            yield self.lag(4.5 + 3 * self.random.random())
        yield from self._report(node, namespace, pod, "Running")
        if service:
            yield from self.endpoints(namespace, service)

    def _mount(self, client: ApiClient, resource: str, namespace: str, name: str) -> Process:
        """A kubelet lists and watches a volume's object; sometimes the authorizer does not know the pod yet."""
        code = 403 if self.random.random() < 0.2 else 0
        select = f"fieldSelector=metadata.name%3D{name}"
        query = f"limit=500\\u0026resourceVersion=0\\u0026{select}"
        yield self.call(client, "list", resource, namespace, name, query=query, code=code, then=5 * _MS)
        if not code:
            seconds = 300 + self.random.randrange(300)
            query = f"{select}\\u0026{watch_query(seconds, self.kernel.revision)}"
            self.call(client, "watch", resource, namespace, name, query=query, hold=seconds * SECOND)
            yield 4 * _MS

    def pod_stops(self, namespace: str, pod: str, node: ClusterNode) -> Process:
        """A pod from its deletion to its end."""
        yield 20 * _MS + self.random.randrange(900 * _MS)
        self.event(node.client, namespace, pod)
        yield 5 * _MS
        yield from self._report(node, namespace, pod, "Running")
        self.call(node.client, "delete", "pods", namespace, pod, body=_at_once(pod))
        if self.random.random() < 0.02:
            yield 9 * _MS
            yield from self._gone(node, namespace, pod)

    def _stop_pod(self, app: App, pod: str, index: int, delay: int) -> None:
        node = self.cast.nodes[index % len(self.cast.nodes)]
        self.kernel.spawn(self.pod_stops(app.namespace, pod, node), delay)

    def _new_pod(self, app: App, ready: float = 0.0) -> None:
        """The replica set controller creates one pod of an app."""
        replica_set = app.replica_set
        pod, node = f"{replica_set}-{suffix(self.random, 5)}", self.node()
        owner = owner_reference("ReplicaSet", "apps/v1", replica_set, uid_of(replica_set))
        labels = f'"app":"{app.name}","pod-template-hash":"{app.template}"'
        image, config = f"{app.image}:{app.revision}", f"{app.name}-config"
        body = pod_body(f"{replica_set}-", image, owner, labels, config, _as(app))
        self.call("replicaset-controller", "create", "pods", app.namespace, body=body)
        app.pods.append((pod, node.index))
        service = app.name if self.blame is None or app.blame is None else ""
        self.kernel.spawn(self.pod_starts(app.namespace, pod, node, service, config, ready), 4 * _MS)

    def _noted(self, namespace: str, name: str) -> Process:
        """The replica set controller writes an Event and its status, in either order."""
        maker, late = "replicaset-controller", self.random.random() < 0.7
        if not late:
            self.event(maker, namespace, name)
        yield from self._status("ReplicaSet", namespace, name)
        if late:
            self.event(maker, namespace, name)
            yield 2 * _MS

    def _drop_pod(self, app: App, replica_set: str) -> Process:
        if not app.pods:
            return
        pod, index = app.pods.pop(0)
        options = '{"kind":"DeleteOptions","apiVersion":"v1"}'
        self.call("replicaset-controller", "delete", "pods", app.namespace, pod, body=options)
        self._stop_pod(app, pod, index, 8 * _MS)
        self.kernel.spawn(self.endpoints(app.namespace, app.name), 9 * _MS)
        yield 7 * _MS
        yield from self._noted(app.namespace, replica_set)
        if self.random.random() < 0.8:
            yield from self._status("ReplicaSet", app.namespace, replica_set)

    def touch(self, app: App) -> Process:
        """A change outside the template: the deployment controller only updates the status."""
        yield from self._status("Deployment", app.namespace, app.name)

    def rollout(self, app: App) -> Process:
        """A new template: a new replica set replaces the old pods one by one."""
        if app.busy:
            yield from self.touch(app)
            return
        app.busy = True
        kernel, namespace, deployer = self.kernel, app.namespace, "deployment-controller"
        old = app.replica_set
        leaving = len(app.pods)
        app.template = suffix(self.random, self.random.choice((9, 10)))
        app.revision += 1
        new = app.replica_set
        wanted = max(1, app.replicas)
        owner = owner_reference("Deployment", "apps/v1", app.name, uid_of(namespace + app.name))
        body = (
            f'{{"kind":"ReplicaSet","apiVersion":"apps/v1","metadata":{{"name":"{new}","namespace":"{namespace}","labels":{{"app":"{app.name}",'
            f'"pod-template-hash":"{app.template}"}},{owner}}},"spec":{{"replicas":1,"template":{{"spec":{{"containers":[{{"name":"app",'
            f'"image":"{app.image}:{app.revision}"}}]{_as(app)}}}}}}},"status":{{"replicas":0}}}}'
        )

        def sized(count: int) -> str:
            return body.replace('"spec":{"replicas":1', f'"spec":{{"replicas":{count}', 1)

        self.call(deployer, "create", "replicasets", namespace, new, body=body)
        yield 7 * _MS + self.random.randrange(5 * _MS)
        yield from self._status("Deployment", namespace, app.name)
        if self.random.random() < 0.25:
            self.event(deployer, namespace, app.name)
            yield 5 * _MS
        for number in range(wanted):
            ready = self.settings.machines.pod_seconds * (0.4 + self.random.random())
            seen = kernel.now + int((ready + 0.19) * SECOND)
            self._new_pod(app, ready)
            yield 9 * _MS + self.random.randrange(9 * _MS)
            yield from self._noted(namespace, new)
            if self.random.random() < 0.65:
                yield from self._status("ReplicaSet", namespace, new)
            yield from self._status("Deployment", namespace, app.name)
            yield max(5 * _MS, seen - kernel.now) + self.random.randrange(20 * _MS)
            yield from self._status("ReplicaSet", namespace, new)
            if leaving:
                resized = "update", "replicasets", namespace, old
                self.call(deployer, *resized, body=sized(max(0, leaving - 1)))
                if self.random.random() < 0.15:
                    yield 7 * _MS
                    self.call(deployer, *resized, body=sized(leaving), code=409)
                yield self.lag(5)
                yield from self._status("Deployment", namespace, app.name)
                if self.random.random() < 0.12:
                    self.event(deployer, namespace, app.name, "patch")
                    yield 4 * _MS
                yield from self._drop_pod(app, old)
                leaving -= 1
            yield from self._status("Deployment", namespace, app.name)
            if number + 1 < wanted:
                self.call(deployer, "update", "replicasets", namespace, new, body=sized(number + 2))
                yield 8 * _MS
        while leaving > 0 and len(app.pods) > wanted:
            yield from self._drop_pod(app, old)
            leaving -= 1
        app.history.append(old)
        if len(app.history) > 6 and app in self.cast.apps:
            options = '{"kind":"DeleteOptions","apiVersion":"apps/v1"}'
            self.call(deployer, "delete", "replicasets", namespace, app.history.pop(0), body=options)
        app.busy = False

    def scale(self, app: App, wanted: int) -> Process:
        """Change the number of replicas."""
        app.replicas = max(1, wanted) if self.blame is None else app.replicas
        name = app.replica_set
        body = f'{{"kind":"ReplicaSet","apiVersion":"apps/v1","metadata":{{"name":"{name}",{_MANAGED}}},"spec":{{"replicas":{wanted},"template":{{"spec":{{"containers":[{{"name":"app","image":"{app.image}:{app.revision}"}}]{_as(app)}}}}}}}}}'
        self.call("deployment-controller", "update", "replicasets", app.namespace, name, body=body)
        yield 9 * _MS
        self.event("deployment-controller", app.namespace, app.name, "patch")
        yield from self._status("Deployment", app.namespace, app.name)
        while len(app.pods) < wanted:
            self._new_pod(app)
            yield 9 * _MS + self.random.randrange(12 * _MS)
            self.event("replicaset-controller", app.namespace, name)
            yield from self._status("ReplicaSet", app.namespace, name)
        while len(app.pods) > wanted:
            yield from self._drop_pod(app, name)
        yield from self._status("Deployment", app.namespace, app.name)

    def collect(self, app: App) -> Process:
        """The garbage collector deletes replica set and pods of a deleted deployment."""
        collector, name = "generic-garbage-collector", app.replica_set
        options = _background(name)
        yield self.call(collector, "get", "replicasets", app.namespace, name, then=4 * _MS)
        self.call(collector, "delete", "replicasets", app.namespace, name, body=options)
        for pod, index in app.pods:
            yield 9 * _MS
            yield self.call(collector, "get", "pods", app.namespace, pod, then=4 * _MS)
            self.call(collector, "delete", "pods", app.namespace, pod, body=options)
            self._stop_pod(app, pod, index, 10 * _MS)
        app.pods = []
        if app in self.cast.apps:  # GitOps or its team brings it back
            self.kernel.spawn(self.rollout(app), 30 * SECOND)

    def sweep(self, namespace: str, pod: str) -> Process:
        """The garbage collector deletes the pod of a deleted job."""
        collector, options = "generic-garbage-collector", _background(pod)
        yield self.call(collector, "get", "pods", namespace, pod, then=3 * _MS)
        yield self.call(collector, "delete", "pods", namespace, pod, body=options, then=13 * _MS)
        node = self.node()
        self.call(node.client, "delete", "pods", namespace, pod, body=_at_once(pod), code=404)

    def _gone(self, node: ClusterNode, namespace: str, pod: str) -> Process:
        """A kubelet tries to stop a pod that is already gone."""
        self.event(node.client, namespace, pod)
        yield 4 * _MS
        yield self.call(node.client, "get", "pods", namespace, pod, code=404, then=3 * _MS)
        self.call(node.client, "delete", "pods", namespace, pod, body=_at_once(pod), code=404)

    def job(self, namespace: str, name: str, image: str) -> Process:
        """A job runs its pod to the end."""
        keeper = "job-controller"
        owner = owner_reference("Job", "batch/v1", name, uid_of(name))
        image = f"{image or 'registry.corp.example/batch/job'}:2"
        body = pod_body(f"{name}-", image, owner, f'"job-name":"{name}"', policy="Never")
        yield self.call(keeper, "create", "pods", namespace, body=body, then=9 * _MS)
        pod, node = f"{name}-{suffix(self.random, 5)}", self.node()
        self.kernel.spawn(self.pod_starts(namespace, pod, node), 2 * _MS)
        status = f'{{"kind":"Job","apiVersion":"batch/v1","metadata":{{"name":"{name}",{_MANAGED}}},"status":{{"active":1}}}}'
        for wait in (0.011, self.settings.machines.pod_seconds * 4 * (0.6 + self.random.random())):
            yield int(wait * SECOND)
            if wait > 1:
                yield from self._report(node, namespace, pod, "Succeeded")
            yield self.call(keeper, "get", "jobs", namespace, name, then=300 + self.random.randrange(1500))
            self.event(keeper, namespace, name)
            yield 4 * _MS + self.random.randrange(5 * _MS)
            self.call(keeper, "update", "jobs/status", namespace, name, body=status)
            if self.random.random() < 0.3:
                yield self.lag(7)
                yield self.call(keeper, "get", "jobs", namespace, name, then=self.lag(4))
                self.call(keeper, "update", "jobs/status", namespace, name, body=status)

    def replaced(self, namespace: str, pod: str) -> Process:
        """The replica set replaces a deleted or evicted pod."""
        apps = self.by_namespace.get(namespace, ())
        app, index = next(((app, at) for app in apps for name, at in app.pods if name == pod), (None, 0))
        if app is None:
            return
        app.pods = [entry for entry in app.pods if entry[0] != pod]
        self._stop_pod(app, pod, index, 5 * _MS)
        self._new_pod(app)
        yield 15 * _MS
        name = app.replica_set
        self.event("replicaset-controller", namespace, name)
        yield from self._status("ReplicaSet", namespace, name)
        yield from self._status("Deployment", namespace, app.name)

    def daemons(self, namespace: str, name: str, image: str, privileged: bool) -> Process:
        """A new daemon set: a pod on every node."""
        keeper = "daemon-set-controller"
        owner = owner_reference("DaemonSet", "apps/v1", name, uid_of(name))
        extra = ',"hostPID":true' if privileged else ',"hostNetwork":true,"hostPID":true'
        for node in self.cast.nodes[:12]:
            body = pod_body(f"{name}-", image, owner, f'"app":"{name}"', extra=extra)
            if privileged:
                body = body.replace('"resources":{}', '"resources":{},"securityContext":{"privileged":true}')
            yield self.call(keeper, "create", "pods", namespace, body=body, then=8 * _MS)
            self.event(keeper, namespace, name)
            self.kernel.spawn(self.pod_starts(namespace, f"{name}-{suffix(self.random, 5)}", node), 9 * _MS)
            yield 6 * _MS
        yield from self._status("DaemonSet", namespace, name)

    def team_of(self, namespace: str) -> Team:
        """The team that owns a namespace, else the first."""
        return next((team for team in self.cast.teams if team.namespace == namespace), self.cast.teams[0])


def _as(app: App) -> str:
    """The pod template's service account."""
    return f',"serviceAccountName":"{app.account}","serviceAccount":"{app.account}"' if app.account else ""


def _at_once(pod: str) -> str:
    """Delete options of a kubelet that has stopped a pod."""
    return f'{{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"preconditions":{{"uid":"{uid_of(pod)}"}}}}'


def _background(name: str) -> str:
    """Delete options of the garbage collector."""
    return f'{{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{{"uid":"{uid_of(name)}"}},"propagationPolicy":"Background"}}'


_SLICE = str.maketrans("0123456789abcdef-", "bcdfghjklmnpqrstv")
