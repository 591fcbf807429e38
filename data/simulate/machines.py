"""What runs without people: components, controllers, kubelets, operators, pipelines, cron jobs, applications.

Periods are those seen in the shipped recordings; `machines.pace` slows the platform's loops down to life.
"""

# Tables and JSON texts are one thing a line, however long.
# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Sequence

from data.simulate.api import FULL_DISCOVERY
from data.simulate.cast import Account, App, Client, Node, Team, suffix
from data.simulate.kernel import DAY, SECOND, Process
from data.simulate.steps import compiled
from data.simulate.world import World

_MS = 1000


class Loop:
    """A row of requests again and again; a second row follows by `chance`, `rounds` times, each about something else."""

    __slots__ = ("chance", "first", "period", "rounds", "second")

    def __init__(
        self,
        period: float,
        first: Sequence[str],
        second: Sequence[str] = (),
        chance: float = 1.0,
        rounds: int = 1,
    ) -> None:
        self.period = period
        self.first = compiled(first)
        self.second = compiled(second)
        self.chance = chance
        self.rounds = rounds


class Habits:
    """What a kind of account does: informers it keeps open, and loops."""

    __slots__ = ("lease", "loops", "watches")

    def __init__(
        self,
        watches: Sequence[str] = (),
        loops: Sequence[Loop] = (),
        lease: tuple[str, str, float] | None = None,
    ) -> None:
        self.watches = [tuple(watch.split(" ")) for watch in watches]
        self.loops = loops
        self.lease = lease


_BACKUP = (
    *("secrets", "persistentvolumeclaims", "persistentvolumes", "pods", "services", "serviceaccounts"),
    *(
        "configmaps",
        "namespaces",
        "clusterrolebindings",
        "customresourcedefinitions",
        "deployments",
        "statefulsets",
    ),
    *("cronjobs", "ingresses", "applications", "jobs", "networkpolicies", "clusterroles"),
)
HABITS: dict[str, Habits] = {
    "cluster-autoscaler": Habits(
        ["pods -", "nodes -", "poddisruptionbudgets -", "replicasets -", "statefulsets -"],
        [Loop(8.25, ["get configmaps kube-system/cluster-autoscaler-status", "update configmaps kube-system/cluster-autoscaler-status"])],
        ("kube-system", "cluster-autoscaler", 1.03),
    ),
    "metrics-server": Habits(["nodes -", "pods -"], [Loop(4.1, ["create subjectaccessreviews - #review"])]),
    "coredns": Habits(["pods -", "namespaces -", "endpoints -", "services -"], [Loop(16.5, ["visit /version"])]),
    "prometheus-k8s": Habits(
        ["services monitoring", "pods kube-system", "endpoints kube-system", "services web", "pods monitoring", "endpoints web", "services kube-system", "pods web", "endpoints monitoring", "nodes -"],
        [
            Loop(4.9, ["get nodes/proxy /{node} >/metrics/cadvisor", "get nodes/proxy /{node} >/metrics"]),
            Loop(40, ["visit /metrics !403"]),
        ],
    ),
    "argocd-application-controller": Habits(
        ["secrets -", "configmaps -", "appprojects argocd", "deployments -", "replicasets -", "services -", "applications argocd", "statefulsets -", "pods -"],
        [Loop(9.9, ["list applications argocd ?resourceVersion=0"], ["get deployments {ns}/{app}", "get services {ns}/{app}", "get configmaps {ns}/{app}-config", "patch deployments {ns}/{app} #argo", "patch applications argocd/{ns}-{app}", "create events argocd/{ns}-{app}.{hex}f59661ffd212"], 0.46, 2)],
    ),
    "argocd-server": Habits(
        ["secrets argocd", "appprojects argocd", "applications argocd", "configmaps argocd"],
        [Loop(7.5, ["list applications argocd ?limit=500"], ["get applications argocd/{ns}-{app}", "get deployments {ns}/{app}", "list pods {ns} ?labelSelector=app%3D{app}", "list events {ns} ?limit=500"], 0.6)],
    ),
    "ingress-nginx": Habits(
        ["secrets -", "ingresses -", "services -", "endpoints -", "configmaps -"],
        [
            Loop(3.3, ["get configmaps ingress-nginx/ingress-controller-leader-nginx", "update configmaps ingress-nginx/ingress-controller-leader-nginx"]),
            Loop(12.3, ["get ingresses {ns}/{app}", "update ingresses/status {ns}/{app} #ingress", "create events {ns}/sync.{hex}14e2a1e4d34b"]),
        ],
    ),
    "cert-manager": Habits(
        ["clusterissuers -", "secrets -", "ingresses -", "certificates -"],
        [Loop(16.2, ["get certificates {ns}/{ns}-tls", "get secrets {ns}/tls-wildcard", "update secrets {ns}/tls-wildcard %0.19", "update certificates/status {ns}/{ns}-tls"])],
        ("kube-system", "cert-manager-controller", 1.03),
    ),
    "kyverno": Habits(
        ["policyreports -", "clusterpolicies -", "namespaces -", "configmaps -"],
        [Loop(5.8, ["get validatingwebhookconfigurations /kyverno-policy-validating-webhook-cfg", "list policyreports {ns} ?limit=500", "create subjectaccessreviews - #review", "get policyreports {ns}/polr-ns-{ns}", "patch policyreports {ns}/polr-ns-{ns}"])],
        ("kyverno", "kyverno", 1.03),
    ),
    "kustomize-controller": Habits(
        ["kustomizations -", "gitrepositories -"],
        [Loop(20.3, [], ["get kustomizations flux-system/apps-{ns}", "patch deployments {ns}/{app} ?fieldManager=kustomize-controller&force=true&dryRun=All #flux", "patch configmaps {ns}/{app}-config ?fieldManager=kustomize-controller&force=true", "patch kustomizations/status flux-system/apps-{ns}"], 1.0, 4)],
        ("flux-system", "kustomize-controller-leader-election", 1.31),
    ),
    "workflow-controller": Habits(
        ["workflows argo", "pods argo"],
        [
            Loop(4.1, ["list workflows argo ?resourceVersion=0"]),
            Loop(33, ["create pods argo/train-{hex}-1 #pod=registry.corp.example/ml/train:29", "patch workflows argo/train-{hex} +0.2"]),
        ],
        ("argo", "workflow-controller", 1.03),
    ),
    "external-secrets": Habits(
        ["externalsecrets -"],
        [Loop(3.3, ["get externalsecrets {ns}/db-creds", "get secrets {ns}/db-creds", "update secrets {ns}/db-creds %0.48", "patch externalsecrets/status {ns}/db-creds"])],
    ),
    "fluent-bit": Habits(["namespaces -", "pods -"], [Loop(7.5, ["list pods {ns} ?limit=50", "get pods {ns}/{pod}", "get pods {ns}/{pod}", "get pods {ns}/{pod}"])]),
    "helm-release-bot": Habits(
        [],
        [Loop(14.9, ["list secrets {ns} ?labelSelector=name%3D{app}%2Cowner%3Dhelm"], ["discover %0.02", "get secrets {ns}/sh.helm.release.v1.{app}.v{rev}", "create secrets {ns}/sh.helm.release.v1.{app}.v{next}", "get serviceaccounts {ns}/default", "get configmaps {ns}/{app}-config", "patch configmaps {ns}/{app}-config", "get services {ns}/{app}", "patch services {ns}/{app} #helm", "get deployments {ns}/{app}", "patch deployments {ns}/{app} #helm", "get deployments {ns}/{app}", "get secrets {ns}/sh.helm.release.v1.{app}.v{next}", "update secrets {ns}/sh.helm.release.v1.{app}.v{next}", "delete secrets {ns}/sh.helm.release.v1.{app}.v{old}"], 0.6)],
    ),
    "postgres-operator": Habits(
        ["postgresclusters -", "statefulsets prod", "pods prod"],
        [Loop(7.4, ["get postgresclusters prod/orders", "get statefulsets prod/postgres", "get secrets prod/db-creds", "get services prod/postgres", "patch postgresclusters/status prod/orders"], ["create pods/exec prod/postgres-0 ?command=patronictl&command=list&stdout=true&stderr=true", "patch statefulsets prod/postgres #statefulset"], 0.073)],
    ),
    "external-dns": Habits([], [Loop(8.3, ["list services - ?limit=500", "list ingresses - ?limit=500", "list nodes - ?limit=500"])]),
    "grafana": Habits(["configmaps monitoring ?labelSelector=grafana_dashboard%3D1", "secrets monitoring ?labelSelector=grafana_datasource%3D1"], [Loop(6.5, ["get configmaps monitoring/grafana-config"])]),
    "velero": Habits(
        [],
        [Loop(138, [*(f"list {resource} - ?limit=500" for resource in _BACKUP), "list backups velero ?limit=500", "create backups velero/hourly-2026112314{rev}"])],
        None,
    ),
    "node-labeler": Habits([], [Loop(14.8, ["list nodes - ?limit=500", *(["get nodes /{node}"] * 4)], ["patch nodes /{node} #rack"], 0.18)]),
    # service accounts of applications
    "reader": Habits([], [Loop(3.3, ["get configmaps {ns}/{app}-config"]), Loop(12.4, ["list endpoints {ns} ?limit=500", "list pods {ns} ?labelSelector=app%3D{app}"])], ("", "lock", 1.03)),
    "leader": Habits(["configmaps {ns}"], [Loop(16.7, ["get secrets {ns}/db-creds"])], ("", "leader", 1.03)),
    "jobber": Habits(
        [],
        [
            Loop(4.95, ["get configmaps {ns}/{app}-config", "get jobs/status {ns}/index-{hex} %0.58", "list jobs {ns} ?limit=500"]),
            Loop(16, ["create jobs {ns}/index-{hex} #job", "delete jobs {ns}/index-{hex} +14 #deletejob"]),
        ],
    ),
    "poller": Habits([], [Loop(6.5, ["get configmaps {ns}/{app}-config", "get secrets {ns}/api-token %0.256", "list pods {ns} ?limit=500"])]),
    "watcher": Habits(["configmaps {ns}", "services {ns}"], [Loop(30, ["get configmaps {ns}/{app}-config"])]),
}  # fmt: skip
_BUILD = compiled(
    [
        "create secrets cicd/{job}",
        "create configmaps cicd/{job}",
        "create pods cicd/{job} #ci",
        *(["get pods cicd/{job} +0.9"] * 6),
        "create pods/exec cicd/{job} ?{shell}",
        "get pods cicd/{job} +0.5",
        "create pods/exec cicd/{job} ?{shell}",
        "get pods cicd/{job} +0.9",
        "get pods/log cicd/{job} +0.8 ?container=build",
        "delete pods cicd/{job} #deletepod",
        "delete secrets cicd/{job}",
        "delete configmaps cicd/{job}",
    ]
)
_SHELL = "command=sh\\u0026command=-c\\u0026command=if+%5B+-x+%2Fusr%2Flocal%2Fbin%2Fbash+%5D%3B+then+exec+bash%3B+fi\\u0026container=build\\u0026stdout=true\\u0026stderr=true"
_DEPLOY = compiled(
    [
        "visit /version?timeout=32s",
        "get serviceaccounts {ns}/default",
        "get configmaps {ns}/{app}-config",
        "get secrets {ns}/regcred",
        "discover %0.045",
        "get configmaps {ns}/{app}-config",
        "patch configmaps {ns}/{app}-config ?fieldManager=kubectl-client-side-apply",
        "get services {ns}/{app}",
        "patch services {ns}/{app} ?fieldManager=kubectl-client-side-apply #labels",
        "get deployments {ns}/{app}",
        "patch deployments {ns}/{app} ?fieldManager=kubectl-client-side-apply #apply",
        "list deployments {ns}/{app} ?fieldSelector=metadata.name%3D{app}",
        "watch deployments {ns}/{app} ?fieldSelector=metadata.name%3D{app}&watch=true&timeoutSeconds=5&allowWatchBookmarks=true ~2",
        "list pods {ns} +2 ?labelSelector=app%3D{app}",
    ]
)
_MIGRATE = compiled(
    [
        "create jobs {ns}/migrate-{hex} #job",
        *(["get jobs {ns}/migrate-{hex} +1.5"] * 3),
        "delete jobs {ns}/migrate-{hex} #deletejob",
    ]
)
_CANARY = compiled(["get deployments {ns}/{app}-canary !404"])
_KCM_WATCHES = (
    *(
        "configmaps",
        "endpoints",
        "namespaces",
        "services",
        "serviceaccounts",
        "poddisruptionbudgets",
        "storageclasses",
    ),
    *(
        "pods",
        "nodes",
        "secrets",
        "replicasets",
        "deployments",
        "statefulsets",
        "daemonsets",
        "jobs",
        "cronjobs",
        "ingresses",
    ),
    *(
        "roles",
        "rolebindings",
        "clusterroles",
        "clusterrolebindings",
        "leases",
        "networkpolicies",
        "resourcequotas",
    ),
    *(
        "applications",
        "certificates",
        "backups",
        "gitrepositories",
        "clusterpolicies",
        "servicemonitors",
        "postgresclusters",
    ),
)
_SCHEDULER_WATCHES = (
    "persistentvolumes",
    "poddisruptionbudgets",
    "pods",
    "nodes",
    "services",
    "statefulsets",
    "storageclasses",
)
_KUBELET_WATCHES = ("pods", "nodes", "services", "csidrivers", "runtimeclasses")
_APISERVER_WATCHES = (
    "pods",
    "apiservices",
    "secrets",
    "services",
    "persistentvolumes",
    "mutatingwebhookconfigurations",
    "customresourcedefinitions",
)


def _spread(world: World, seconds: float, by: float = 0.12) -> int:
    """A period with a little jitter, microseconds."""
    return int(seconds * (1 + by * (2 * world.random.random() - 1)) * SECOND)


def informer(
    world: World, client: Client, resource: str, namespace: str, pace: float, select: str = ""
) -> Process:
    """List once, then a watch that is renewed when the server ends it."""
    random, kernel = world.random, world.kernel
    own = (
        (client.machine and "kube-controller-manager" in client.agent)
        or "scheduler" in client.agent
        or "apiserver" in client.agent
    )
    yield random.randrange(20 * SECOND)
    extra = f"\\u0026{select}" if select else ""
    kernel.call(client, "list", resource, namespace, query=f"limit=500\\u0026resourceVersion=0{extra}")
    yield 4 * _MS
    while True:
        seconds = int((5 + 5 * random.random()) * 60) if own or pace < 1 else int(50 + 60 * random.random())
        if own:
            query = f"allowWatchBookmarks=true\\u0026resourceVersion={kernel.revision}\\u0026timeout={seconds // 60}m{seconds % 60}s\\u0026timeoutSeconds={seconds}\\u0026watch=true"
        else:
            query = (
                f"{select}\\u0026" * bool(select)
                + f"watch=true\\u0026timeoutSeconds={seconds}\\u0026allowWatchBookmarks=true\\u0026resourceVersion={kernel.revision}"
            )
        hold = seconds * SECOND + random.randrange(900)
        if not kernel.call(client, "watch", resource, namespace, query=query, hold=hold):
            return
        yield hold + 2 * _MS


def lease(world: World, client: Client, namespace: str, name: str, period: float, query: str = "") -> Process:
    """Leader election: read and renew a lease."""
    kernel = world.kernel
    read = kernel.prepare(client, "get", "leases", namespace, name, query)
    renew = kernel.prepare(client, "update", "leases", namespace, name, query)
    if read is None or renew is None:
        return
    step = int(period * SECOND)
    wander = max(1, step // 30)
    yield world.random.randrange(step)
    while True:
        kernel.fire(read, False)
        yield 5 * _MS
        kernel.fire(renew, True)
        yield step - 5 * _MS + world.random.randrange(wander)


def loop(world: World, account: Account, habit: Loop, homes: Sequence[str], pace: float) -> Process:
    """A loop of an account, each time about one of the applications it cares for."""
    random = world.random
    client, who = account.client, account.client.who
    period = habit.period / pace
    fixed = all(step.plain for step in habit.first) and not habit.second
    scene = world.scene(who, homes[0])
    mine = _own_app(account)
    yield random.randrange(max(1, int(period * SECOND)))
    while True:
        if not fixed:
            namespace = homes[random.randrange(len(homes))]
            scene = world.scene(who, namespace, mine if mine is not None else None)
            if mine is None:
                revision = 3 + random.randrange(40)
                scene["rev"], scene["next"], scene["old"] = (
                    str(revision),
                    str(revision + 1),
                    str(revision - 2),
                )
        yield from world.play(client, habit.first, scene)
        if habit.second and random.random() < habit.chance:
            for _ in range(habit.rounds):
                if habit.rounds > 1:
                    scene |= world.scene(who, homes[random.randrange(len(homes))], mine)
                yield from world.play(client, habit.second, scene)
        yield _spread(world, period)


def _own_app(account: Account) -> App | None:
    if account.team is None:
        return None
    name = account.client.who.name.rpartition(":")[2]
    return next((app for app in account.team.apps if app.name == name), account.team.apps[0])


def build_runner(world: World, account: Account, pace: float) -> Process:
    """A CI runner: pods that come, are looked at, entered and deleted."""
    random = world.random
    while True:
        yield int(random.expovariate(1) * 14 / pace * SECOND) + SECOND
        tag = f"runner-{random.getrandbits(32):08x}-project-{random.randrange(1, 40)}-concurrent-{random.randrange(4)}"
        scene = world.scene(account.client.who, "cicd")
        scene["job"], scene["shell"] = tag, _SHELL
        yield from world.play(account.client, _BUILD, scene)


def pipeline(world: World, account: Account, pace: float) -> Process:
    """A team's deployer: applies a version, waits for the rollout, sometimes migrates; more on release days."""
    random, people = world.random, world.settings.people
    team = account.team
    assert team is not None
    while True:
        busy = 1.0
        if people.calendar == "office":
            day = world.kernel.now // DAY
            hour = world.kernel.now % DAY / (DAY / 24)
            weekday = (day + 3) % 7
            busy = (0.12 if weekday >= 5 else 1.0) * (1.0 if 7 <= hour <= 18 else 0.1)
            busy *= people.release_boost if weekday in people.release_days else 1.0
        yield int(min(random.expovariate(1) * 22 / pace / busy, 6 * 3600) * SECOND) + SECOND
        staging = world.app_of.get(("staging", f"{team.name}-stg"))
        app = (
            staging
            if staging is not None and random.random() < 0.3
            else team.apps[random.randrange(len(team.apps))]
        )
        scene = world.scene(account.client.who, app.namespace, app)
        if random.random() < 0.025:
            yield from world.play(account.client, _CANARY, scene)
        yield from world.play(account.client, _DEPLOY, scene)
        if random.random() < 0.15:
            yield from world.play(account.client, _MIGRATE, scene)


def cron(world: World, team: Team, name: str, index: int, count: int) -> Process:
    """A cron job: a job every so often; the controller looks at it all the time."""
    random, kernel = world.random, world.kernel
    minutes = world.settings.machines.cronjob_minutes
    keeper = world.by("cronjob-controller")
    period = int(minutes * 60 * SECOND)
    body = f'{{"kind":"CronJob","apiVersion":"batch/v1beta1","metadata":{{"name":"{name}"}},"status":{{}}}}'
    slow = world.settings.policy != "everything"
    look = period if slow else int(6.2 * SECOND)
    due = kernel.now + period * (index + 1) // count
    yield random.randrange(look)
    done: list[str] = []
    while True:
        if kernel.now >= due:
            due += period
            job = f"{name}-{kernel.now // SECOND}"
            kernel.call(
                keeper, "create", "jobs", team.namespace, job, body=body.replace('"status"', '"spec"')
            )
            world.kernel.spawn(
                world.job(team.namespace, job, f"registry.corp.example/batch/{name}", None), 8 * _MS
            )
            yield 6 * _MS
            world.event(keeper, team.namespace, name, None)
            yield 4 * _MS
            kernel.call(keeper, "update", "cronjobs/status", team.namespace, name, body=body, code=409)
            done.append(job)
            if len(done) > 3:
                old = done.pop(0)
                yield 5 * _MS
                kernel.call(
                    keeper,
                    "delete",
                    "jobs",
                    team.namespace,
                    old,
                    body='{"kind":"DeleteOptions","apiVersion":"batch/v1","propagationPolicy":"Background"}',
                )
                kernel.spawn(world.sweep(team.namespace, f"{old}-{suffix(random, 5)}", None), 9 * _MS)
        yield 2 * _MS
        kernel.call(keeper, "update", "cronjobs/status", team.namespace, name, body=body)
        yield look + random.randrange(SECOND // 2)


def cron_lister(world: World) -> Process:
    """The first cron job controller lists everything every ten seconds."""
    keeper, kernel = world.by("cronjob-controller"), world.kernel
    lists = [kernel.prepare(keeper, "list", resource, query="limit=500") for resource in ("jobs", "cronjobs")]
    while True:
        for prepared in lists:
            if prepared is not None:
                kernel.fire(prepared, False)
            yield 6 * _MS
        yield int(12.4 * SECOND)


def kubelet(world: World, node: Node) -> Process:
    """A kubelet that has nothing to report but that it lives."""
    kernel, settings = world.kernel, world.settings.machines
    client = node.client
    look = kernel.prepare(client, "get", "nodes", "", node.name, "resourceVersion=0\\u0026timeout=10s")
    renew = kernel.prepare(client, "update", "leases", "kube-node-lease", node.name, "timeout=10s")
    status = (
        '{"status":{"conditions":[{"type":"MemoryPressure","status":"False"},{"type":"DiskPressure","status":"False"},'
        '{"type":"Ready","status":"True","reason":"KubeletReady"}]}}'
    )
    period = int((12.4 if look is not None or renew is not None else settings.node_status_seconds) * SECOND)
    due = kernel.now + world.random.randrange(int(settings.node_status_seconds * SECOND))
    yield world.random.randrange(period)
    while True:
        if renew is not None:
            kernel.fire(renew, True)
            yield 5 * _MS + world.random.randrange(SECOND)
        if look is not None:
            kernel.fire(look, False)
            yield 3 * _MS
        if kernel.now >= due:
            due += int(settings.node_status_seconds * SECOND)
            kernel.call(client, "patch", "nodes/status", "", node.name, query="timeout=10s", body=status)
        yield period - SECOND // 2 + world.random.randrange(40 * _MS)


def volumes(world: World, node: Node, number: int) -> Process:
    """A kubelet's watch on one secret or config map of its pods."""
    random, kernel = world.random, world.kernel
    app = world.cast.apps[(node.index * 7 + number * 3) % len(world.cast.apps)]
    resource = "secrets" if number % 2 else "configmaps"
    name = f"{app.name}-token-{suffix(random, 5)}" if number % 2 else f"{app.name}-config"
    yield random.randrange(400 * SECOND)
    while True:
        seconds = 300 + random.randrange(300)
        query = f"fieldSelector=metadata.name%3D{name}\\u0026watch=true\\u0026timeoutSeconds={seconds}\\u0026allowWatchBookmarks=true\\u0026resourceVersion={kernel.revision}"
        kernel.call(node.client, "watch", resource, app.namespace, name, query=query, hold=seconds * SECOND)
        yield seconds * SECOND + 3 * _MS


def visits(world: World, client: Client, paths: Sequence[str], period: float) -> Process:
    """Requests outside the resource API, in turn."""
    yield world.random.randrange(int(period * SECOND))
    while True:
        if not world.kernel.visit(client, paths[world.random.randrange(len(paths))]):
            return
        yield _spread(world, period, 0.02)


def discovery(world: World, client: Client, period: float) -> Process:
    """A controller that refreshes its idea of the API."""
    yield world.random.randrange(int(period * SECOND))
    random = world.random
    while True:
        paths = [
            path
            for _, path in sorted(
                (number + 4 * random.random(), path) for number, path in enumerate(FULL_DISCOVERY)
            )
        ]
        for number, path in enumerate(paths):
            if not world.kernel.visit(client, f"{path}?timeout=32s"):
                return
            # client-go lets a burst through, then twenty requests a second.
            yield 60 + random.randrange(500) if number < 30 else 45 * _MS + random.randrange(9 * _MS)
        yield int(period * SECOND)


def apiserver(world: World) -> Process:
    """The API server looks after its own service."""
    client, kernel = world.by("apiserver"), world.kernel
    first = [kernel.prepare(client, "get", "namespaces", "default", "default")]
    first += [
        kernel.prepare(client, "get", resource, "default", "kubernetes")
        for resource in ("services", "endpoints", "endpointslices")
    ]
    if world.settings.policy != "everything":
        return
    turn = 0
    while True:
        for prepared in first:
            if prepared is not None:
                kernel.fire(prepared, False)
            yield 3 * _MS
        turn += 1
        if turn % 3 == 0:
            for resource in ("flowschemas", "prioritylevelconfigurations"):
                kernel.call(
                    client, "get", resource, "", "exempt" if resource == "flowschemas" else "catch-all"
                )
                yield 2 * _MS
        if turn % 2 == 0:
            kernel.call(
                client, "list", "resourcequotas", world.cast.teams[turn % len(world.cast.teams)].namespace
            )
            yield 2 * _MS
        yield int(12.3 * SECOND)


def autoscaler(world: World) -> Process:
    """The horizontal pod autoscaler without metrics: looks, fails, looks again."""
    client, kernel, random = world.by("horizontal-pod-autoscaler"), world.kernel, world.random
    apps = [app for app in world.cast.apps if app.namespace not in ("kube-system", "staging")][
        :: max(1, len(world.cast.apps) // 12)
    ][:3]
    metrics = kernel.route(client, "list", "pods.metrics", "web").level
    period = 18.4 if metrics else 600.0
    while True:
        for app in apps:
            kernel.call(client, "get", "deployments/scale", app.namespace, app.name)
            yield 2 * _MS
            kernel.call(
                client,
                "list",
                "pods.metrics",
                app.namespace,
                query=f"labelSelector=app%3D{app.name}",
                code=404,
            )
            yield 3 * _MS
            if random.random() < 0.05:
                world.event(client, app.namespace, app.name, None, "patch")
                yield 3 * _MS
        yield int(period * SECOND)


def new_apps(world: World) -> Process:
    """Drift: now and then a team gets another application."""
    rate = world.settings.machines.new_apps_a_week
    while rate:
        yield int(world.random.expovariate(rate / 7) * DAY) + SECOND
        team = world.cast.teams[world.random.randrange(len(world.cast.teams))]
        name = f"{world.random.choice(team.apps).name}-v{len(team.apps)}"
        app = App(
            team.namespace,
            name,
            f"registry.corp.example/{team.name}/{name}",
            2,
            suffix(world.random, 10),
            "",
            [],
        )
        team.apps.append(app)
        world.by_namespace[team.namespace].append(app)
        world.app_of[(app.namespace, app.name)] = app
        yield from world.rollout(app, None)


def start_machines(world: World) -> None:
    """Start everything that runs by itself."""
    kernel, cast, settings = world.kernel, world.cast, world.settings
    pace = settings.machines.pace
    manager = cast.controllers["kube-controller-manager"]
    election = manager.other(agent=manager.agent + "/leader-election")
    shared = manager.other(agent=manager.agent + "/shared-informers")
    scheduler = cast.controllers["kube-scheduler"]
    cast.controllers["kube-scheduler"] = binder = scheduler.other(agent=scheduler.agent + "/scheduler")
    query = "timeout=5s"
    seconds = settings.machines.lease_seconds * 1.24
    kernel.spawn(lease(world, election, "kube-system", "kube-controller-manager", seconds, query))
    kernel.spawn(
        lease(
            world,
            scheduler.other(agent=scheduler.agent + "/leader-election"),
            "kube-system",
            "kube-scheduler",
            seconds,
            query,
        )
    )
    for resource in _KCM_WATCHES:
        kernel.spawn(informer(world, shared, resource, "", 0.1))
    for resource in _SCHEDULER_WATCHES:
        kernel.spawn(informer(world, binder, resource, "", 0.1))
    for resource in _APISERVER_WATCHES:
        kernel.spawn(informer(world, cast.controllers["apiserver"], resource, "", 0.1))
    for name, period in (("generic-garbage-collector", 28.8), ("resourcequota-controller", 28.8)):
        kernel.spawn(discovery(world, cast.controllers[name], period))
    kernel.spawn(discovery(world, manager.other(agent=manager.agent + "/controller-discovery"), 27.6))
    health = Client(
        cast.controllers["anonymous"].who, "35.191.0.9", "GoogleHC/1.0", settings.policy != "everything"
    )
    cast.controllers["anonymous"] = health
    kernel.spawn(visits(world, health, ("/readyz", "/healthz", "/livez"), 4.9))
    kernel.spawn(apiserver(world))
    kernel.spawn(autoscaler(world))
    if settings.policy == "everything":
        kernel.spawn(cron_lister(world))
    kernel.spawn(new_apps(world))
    jobs = [(team, name) for team in cast.teams for name in team.cronjobs]
    for index, (team, name) in enumerate(jobs):
        kernel.spawn(cron(world, team, name, index, len(jobs)))
    for node in cast.nodes:
        kernel.spawn(kubelet(world, node))
        for resource in _KUBELET_WATCHES:
            kernel.spawn(informer(world, node.client, resource, "", 0.1))
        for number in range(settings.machines.watched_volumes):
            kernel.spawn(volumes(world, node, number))
    namespaces = [team.namespace for team in cast.teams] + ["prod", "staging"]
    releases = ["prod", *namespaces[:2]]
    for account in cast.accounts:
        if account.role == "gitlab-runner":
            kernel.spawn(build_runner(world, account, settings.machines.pipeline_pace))
            continue
        if account.role == "ci-deployer":
            kernel.spawn(pipeline(world, account, settings.machines.pipeline_pace))
            continue
        habits = HABITS[account.role]
        homes = (
            [account.namespace]
            if account.team
            else (releases if account.role == "helm-release-bot" else namespaces[:60])
        )
        for watch in habits.watches:
            where = "" if watch[1] == "-" else watch[1].replace("{ns}", account.namespace)
            kernel.spawn(
                informer(world, account.client, watch[0], where, pace, watch[2][1:] if len(watch) > 2 else "")
            )
        for habit in habits.loops:
            kernel.spawn(loop(world, account, habit, homes, pace))
        if habits.lease:
            namespace, name, ratio = habits.lease
            name = name if namespace else f"{account.client.who.name.rpartition(':')[2]}-{name}"
            kernel.spawn(
                lease(
                    world,
                    account.client,
                    namespace or account.namespace,
                    name,
                    ratio * settings.machines.lease_seconds,
                )
            )
