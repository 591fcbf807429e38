"""What runs by itself: components, controllers, kubelets, operators, pipelines, cron jobs, applications.

Periods are those of the shipped recordings; `machines.pace` slows the platform's loops to realistic ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data.simulation.api import FULL_DISCOVERY
from data.simulation.cluster import Account, ApiClient, App, ClusterNode, suffix
from data.simulation.config import DAY, SECOND
from data.simulation.kernel import Process, watch_query
from data.simulation.steps import HELM_UPGRADE, compiled, owned_job
from data.simulation.world import World

_MS = 1000


class Loop(NamedTuple):
    """Requests repeated with a period; by `chance` a second sequence follows, `rounds` times with other objects."""

    period: float
    first: Sequence[str]
    second: Sequence[str] = ()
    chance: float = 1.0
    rounds: int = 1


class AccountHabits(NamedTuple):
    """Informers (resource, namespace, query), loops and lease of a kind of account."""

    watches: Sequence[str]
    loops: Sequence[Loop]
    lease: tuple[str, str, float] | None = None


_BACKUP = """
    secrets persistentvolumeclaims persistentvolumes pods services serviceaccounts configmaps namespaces
    clusterrolebindings customresourcedefinitions deployments statefulsets cronjobs ingresses applications jobs
    networkpolicies clusterroles
""".split()
HABITS: dict[str, AccountHabits] = {
    "cluster-autoscaler": AccountHabits(
        ["pods -", "nodes -", "poddisruptionbudgets -", "replicasets -", "statefulsets -"],
        [Loop(6.68, ["get configmaps kube-system/cluster-autoscaler-status", "update configmaps kube-system/cluster-autoscaler-status"])],
        ("kube-system", "cluster-autoscaler", 0.82),
    ),
    "metrics-server": AccountHabits(["nodes -", "pods -"], [Loop(3.32, ["create subjectaccessreviews - #review"])]),
    "coredns": AccountHabits(["pods -", "namespaces -", "endpoints -", "services -"], [Loop(9.9, ["visit /version"])]),
    "prometheus-k8s": AccountHabits(
        ["services monitoring", "pods kube-system", "endpoints kube-system", "services web", "pods monitoring", "endpoints web", "services kube-system", "pods web", "endpoints monitoring", "nodes -"],
        [
            Loop(3.35, ["get nodes/proxy /{node} >/metrics/cadvisor", "get nodes/proxy /{node} >/metrics"]),
            Loop(120, ["visit /metrics !403"]),
        ],
    ),
    "argocd-application-controller": AccountHabits(
        ["secrets -", "configmaps -", "appprojects argocd", "deployments -", "replicasets -", "services -", "applications argocd", "statefulsets -", "pods -"],
        [Loop(8.02, ["list applications argocd ?resourceVersion=0"], ["get deployments {ns}/{app}", "get services {ns}/{app}", "get configmaps {ns}/{app}-config", "patch deployments {ns}/{app} #argo", "patch applications argocd/{ns}-{app}", "create events argocd/{ns}-{app}.{hex}f59661ffd212"], 0.46, 2)],
    ),
    "argocd-server": AccountHabits(
        ["secrets argocd", "appprojects argocd", "applications argocd", "configmaps argocd"],
        [Loop(6.08, ["list applications argocd ?limit=500"], ["get applications argocd/{ns}-{app}", "get deployments {ns}/{app}", "list pods {ns} ?labelSelector=app%3D{app}", "list events {ns} ?limit=500"], 0.6)],
    ),
    "ingress-nginx": AccountHabits(
        ["secrets -", "ingresses -", "services -", "endpoints -", "configmaps -"],
        [
            Loop(2.67, ["get configmaps ingress-nginx/ingress-controller-leader-nginx", "update configmaps ingress-nginx/ingress-controller-leader-nginx"]),
            Loop(9.96, ["get ingresses {ns}/{app}", "update ingresses/status {ns}/{app} #ingress", "create events {ns}/sync.{hex}14e2a1e4d34b"]),
        ],
    ),
    "cert-manager": AccountHabits(
        ["clusterissuers -", "secrets -", "ingresses -", "certificates -"],
        [Loop(13.1, ["get certificates {ns}/{ns}-tls", "get secrets {ns}/tls-wildcard", "update certificates/status {ns}/{ns}-tls", "update secrets {ns}/tls-wildcard %0.19"])],
        ("kube-system", "cert-manager-controller", 0.98),
    ),
    "kyverno": AccountHabits(
        ["policyreports -", "clusterpolicies -", "namespaces -", "configmaps -"],
        [Loop(4.7, ["get validatingwebhookconfigurations /kyverno-policy-validating-webhook-cfg", "list policyreports {ns} ?limit=500", "create subjectaccessreviews - #review", "get policyreports {ns}/polr-ns-{ns}", "patch policyreports {ns}/polr-ns-{ns}"])],
        ("kyverno", "kyverno", 0.98),
    ),
    "kustomize-controller": AccountHabits(
        ["kustomizations -", "gitrepositories -"],
        [Loop(16.4, [], ["get kustomizations flux-system/apps-{ns}", "patch deployments {ns}/{app} ?fieldManager=kustomize-controller&force=true&dryRun=All #flux", "patch configmaps {ns}/{app}-config ?fieldManager=kustomize-controller&force=true", "patch kustomizations/status flux-system/apps-{ns}"], 1.0, 4)],
        ("flux-system", "kustomize-controller-leader-election", 1.31),
    ),
    "workflow-controller": AccountHabits(
        ["workflows argo", "pods argo"],
        [Loop(3.3, ["list workflows argo ?resourceVersion=0"], ["create pods argo/train-{hex}-1 #step=registry.corp.example/ml/train:29", "patch workflows argo/train-{hex}"], 0.124)],
        ("argo", "workflow-controller", 0.98),
    ),
    "external-secrets": AccountHabits(
        ["externalsecrets -"],
        [Loop(2.67, ["get externalsecrets {ns}/db-creds", "get secrets {ns}/db-creds", "update secrets {ns}/db-creds %0.48", "patch externalsecrets/status {ns}/db-creds"])],
    ),
    "fluent-bit": AccountHabits(["namespaces -", "pods -"], [Loop(6.08, ["list pods {ns} ?limit=50", "get pods {ns}/{pod}", "get pods {ns}/{pod}", "get pods {ns}/{pod}"])]),
    "helm-release-bot": AccountHabits([], [Loop(12.1, HELM_UPGRADE[:1], ["discover %0.02", *HELM_UPGRADE[1:]], 0.6)]),
    "postgres-operator": AccountHabits(
        ["postgresclusters -", "statefulsets prod", "pods prod"],
        [Loop(5.99, ["get postgresclusters prod/orders", "get statefulsets prod/postgres", "get secrets prod/db-creds", "get services prod/postgres", "patch postgresclusters/status prod/orders"], ["patch statefulsets prod/postgres #statefulset", "create pods/exec prod/postgres-0 ?command=patronictl&command=list&stdout=true&stderr=true"], 0.073)],
    ),
    "external-dns": AccountHabits([], [Loop(6.72, ["list services - ?limit=500", "list ingresses - ?limit=500", "list nodes - ?limit=500"])]),
    "grafana": AccountHabits(["configmaps monitoring ?labelSelector=grafana_dashboard%3D1", "secrets monitoring ?labelSelector=grafana_datasource%3D1"], [Loop(5.27, ["get configmaps monitoring/grafana-config"])]),
    "velero": AccountHabits(
        [],
        [Loop(83, [*(f"list {resource} - ?limit=500" for resource in _BACKUP), "list backups velero ?limit=500", "create backups velero/hourly-2026112314{rev}"])],
    ),
    "node-labeler": AccountHabits([], [Loop(12, ["list nodes - ?limit=500", *(["get nodes /{node}"] * 4)], ["patch nodes /{node} #rack"], 0.18)]),
    # service accounts of applications
    "reader": AccountHabits([], [Loop(2.67, ["get configmaps {ns}/{app}-config"]), Loop(10, ["list endpoints {ns} ?limit=500", "list pods {ns} ?labelSelector=app%3D{app}"])], ("", "lock", 0.98)),
    "leader": AccountHabits(["configmaps {ns}"], [Loop(13.5, ["get secrets {ns}/db-creds"])], ("", "leader", 0.82)),
    "jobber": AccountHabits(
        [],
        [
            Loop(3.8, ["list jobs {ns} ?limit=500", "get configmaps {ns}/{app}-config"]),
            Loop(17, ["create jobs {ns}/index-{hex} #job", "get jobs/status {ns}/index-{hex}", *(["get jobs/status {ns}/index-{hex} +2.2"] * 3), "delete jobs {ns}/index-{hex} +2.2 #deletejob"]),
        ],
    ),
    "poller": AccountHabits([], [Loop(5.27, ["get configmaps {ns}/{app}-config", "get secrets {ns}/api-token %0.256", "list pods {ns} ?limit=500"])]),
    "watcher": AccountHabits(["configmaps {ns}", "services {ns}"], [Loop(24.3, ["get configmaps {ns}/{app}-config"])]),
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
        "delete pods cicd/{job}",
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
        "discover %0.03",
        "visit /openapi/v2?timeout=32s %0.27",
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
_JOB = "jobs {ns}/migrate-{hex}"
_MIGRATE = compiled([f"create {_JOB} #job", *([f"get {_JOB} +1.5"] * 3), f"delete {_JOB} #deletejob"])
_CANARY = compiled(["get deployments {ns}/{app}-canary !404"])
_KCM_WATCHES = """
    configmaps endpoints namespaces services serviceaccounts poddisruptionbudgets storageclasses pods nodes secrets
    replicasets deployments statefulsets daemonsets jobs cronjobs ingresses roles rolebindings clusterroles
    clusterrolebindings leases networkpolicies resourcequotas applications certificates backups gitrepositories
    clusterpolicies servicemonitors postgresclusters
""".split()
_SCHEDULER_WATCHES = (
    "persistentvolumes poddisruptionbudgets pods nodes services statefulsets storageclasses".split()
)
_KUBELET_WATCHES = ("pods", "nodes", "services", "csidrivers", "runtimeclasses")
_APISERVER_WATCHES = "pods apiservices secrets services persistentvolumes mutatingwebhookconfigurations customresourcedefinitions".split()


def _spread(world: World, seconds: float, by: float = 0.12) -> int:
    """A period with a little jitter, microseconds."""
    return int(seconds * (1 + by * (2 * world.random.random() - 1)) * SECOND)


def informer(
    world: World, client: ApiClient, resource: str, namespace: str, pace: float, select: str = ""
) -> Process:
    """List once, then renew a watch whenever the server ends it."""
    random, kernel = world.random, world.kernel
    agent = client.agent
    own = (
        (client.machine and "kube-controller-manager" in agent)
        or "scheduler" in agent
        or "apiserver" in agent
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
            query = (f"{select}\\u0026" if select else "") + watch_query(seconds, kernel.revision)
        hold = seconds * SECOND + random.randrange(900)
        if not kernel.call(client, "watch", resource, namespace, query=query, hold=hold):
            return
        yield hold + 2 * _MS


def lease(
    world: World, client: ApiClient, namespace: str, name: str, period: float, query: str = ""
) -> Process:
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
        wait = world.lag(3 + 3 * world.random.random())
        yield wait
        kernel.fire(renew, True)
        yield step - wait + world.random.randrange(wander)


def loop(world: World, account: Account, habit: Loop, homes: Sequence[str], pace: float) -> Process:
    """A loop of an account, each round about one of its applications."""
    random = world.random
    client, who = account.client, account.client.who
    period = habit.period / pace
    first, second = compiled(habit.first), compiled(habit.second)
    fixed = all(step.plain for step in first) and not second
    scene = world.scene(who, homes[0])
    mine = _own_app(account)
    yield random.randrange(max(1, int(period * SECOND)))
    while True:
        if not fixed:
            namespace = homes[random.randrange(len(homes))]
            scene = world.scene(who, namespace, mine)
            if mine is None:
                scene |= world.revision()
        yield from world.play(client, first, scene)
        if second and random.random() < habit.chance:
            for _ in range(habit.rounds):
                if habit.rounds > 1:
                    scene |= world.scene(who, homes[random.randrange(len(homes))], mine)
                yield from world.play(client, second, scene)
        yield _spread(world, period)


def _own_app(account: Account) -> App | None:
    if account.team is None:
        return None
    apps, name = account.team.apps, account.client.who.name.rpartition(":")[2]
    return next((app for app in apps if app.name == name), apps[0])


def build_runner(world: World, account: Account, pace: float) -> Process:
    """A CI runner: creates, polls, enters and deletes build pods."""
    random = world.random
    while True:
        yield int(random.expovariate(1) * 7.6 / pace * SECOND) + SECOND
        tag = f"runner-{random.getrandbits(32):08x}-project-{random.randrange(1, 40)}-concurrent-{random.randrange(4)}"
        scene = world.scene(account.client.who, "cicd")
        scene["job"], scene["shell"] = tag, _SHELL
        yield from world.play(account.client, _BUILD, scene)


def pipeline(world: World, account: Account, pace: float) -> Process:
    """A team's deployer: applies a version, watches the rollout, sometimes migrates; busier on release days."""
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
        yield int(min(random.expovariate(1) * 18 / pace / busy, 6 * 3600) * SECOND) + SECOND
        staging = world.app_of.get(("staging", f"{team.name}-stg"))
        app = staging if staging is not None and random.random() < 0.3 else None
        app = app or team.apps[random.randrange(len(team.apps))]
        scene = world.scene(account.client.who, app.namespace, app)
        if random.random() < 0.025:
            yield from world.play(account.client, _CANARY, scene)
        yield from world.play(account.client, _DEPLOY, scene)
        if random.random() < 0.15:
            yield from world.play(account.client, _MIGRATE, scene)


def cron_jobs(world: World) -> Process:
    """The first cron job controller: every ten seconds it lists everything and writes the status of each cron job twice."""
    random, kernel, settings = world.random, world.kernel, world.settings
    keeper = world.by("cronjob-controller")
    lists = [kernel.prepare(keeper, "list", resource, query="limit=500") for resource in ("jobs", "cronjobs")]
    period = int(settings.machines.cronjob_minutes * 60 * SECOND)
    look = (10 if settings.policy == "everything" else 60) * SECOND
    jobs = [(team.namespace, name) for team in world.cast.teams for name in team.cronjobs]
    due = [kernel.now + period * (index + 1) // len(jobs) for index in range(len(jobs))]
    done: list[list[str]] = [[] for _ in jobs]
    options = '{"kind":"DeleteOptions","apiVersion":"batch/v1","propagationPolicy":"Background"}'

    def written(namespace: str, name: str, code: int = 0) -> int:
        kind = '"kind":"CronJob","apiVersion":"batch/v1beta1"'
        body = f'{{{kind},"metadata":{{"name":"{name}"}},"status":{{}}}}'
        kernel.call(keeper, "update", "cronjobs/status", namespace, name, body=body, code=code)
        return world.lag(2 + 3 * random.random())

    yield random.randrange(look)
    while True:
        for prepared in lists:
            kernel.fire(prepared, False)
            yield 4 * _MS
            keeper.done = kernel.now
        for index, (namespace, name) in enumerate(jobs):
            yield written(namespace, name)
            old = done[index][:-2]
            if kernel.now >= due[index]:
                due[index] += period
                image = f"registry.corp.example/batch/{name}"
                job = f"{name}-{kernel.now // (60 * SECOND) * 60}"
                kernel.call(keeper, "create", "jobs", namespace, job, body=owned_job(job, name, image))
                kernel.spawn(world.job(namespace, job, image), 8 * _MS)
                done[index].append(job)
                yield 3 * _MS + random.randrange(2 * _MS)
                yield written(namespace, name)
                world.event(keeper, namespace, name)
                yield 8 * _MS
                yield written(namespace, name, 409)
            elif old and random.random() < 0.3:
                world.event(keeper, namespace, name)
                yield 9 * _MS
                gone = done[index].pop(0)
                kernel.call(keeper, "delete", "jobs", namespace, gone, body=options)
                kernel.spawn(world.sweep(namespace, f"{gone}-{suffix(random, 5)}"), 9 * _MS)
                yield 12 * _MS
                yield written(namespace, name)
                world.event(keeper, namespace, name)
                yield 8 * _MS
            else:
                yield written(namespace, name)
        yield look


def kubelet(world: World, node: ClusterNode) -> Process:
    """The heartbeats of a kubelet."""
    kernel, settings = world.kernel, world.settings.machines
    client = node.client
    look = kernel.prepare(client, "get", "nodes", "", node.name, "resourceVersion=0\\u0026timeout=10s")
    renew = kernel.prepare(client, "update", "leases", "kube-node-lease", node.name, "timeout=10s")
    status = (
        '{"status":{"conditions":[{"type":"MemoryPressure","status":"False"},{"type":"DiskPressure","status":"False"},'
        '{"type":"Ready","status":"True","reason":"KubeletReady"}]}}'
    )
    period = int((10.0 if look is not None or renew is not None else settings.node_status_seconds) * SECOND)
    due = kernel.now + world.random.randrange(int(settings.node_status_seconds * SECOND))
    yield world.random.randrange(period)
    while True:
        if kernel.fire(renew, True):
            yield 5 * _MS + world.random.randrange(3 * _MS)
        if kernel.fire(look, False):
            yield 3 * _MS
        if kernel.now >= due:
            due += int(settings.node_status_seconds * SECOND)
            kernel.call(client, "patch", "nodes/status", "", node.name, query="timeout=10s", body=status)
        yield period + world.random.randrange(40 * _MS)


def volumes(world: World, node: ClusterNode, number: int) -> Process:
    """A kubelet's watch on one secret or config map of its pods."""
    random, kernel = world.random, world.kernel
    app = world.cast.apps[(node.index * 7 + number * 3) % len(world.cast.apps)]
    resource = "secrets" if number % 2 else "configmaps"
    name = f"{app.name}-token-{suffix(random, 5)}" if number % 2 else f"{app.name}-config"
    yield random.randrange(400 * SECOND)
    while True:
        seconds = 300 + random.randrange(300)
        query = f"fieldSelector=metadata.name%3D{name}\\u0026{watch_query(seconds, kernel.revision)}"
        kernel.call(node.client, "watch", resource, app.namespace, name, query=query, hold=seconds * SECOND)
        yield seconds * SECOND + 3 * _MS


def visits(world: World, client: ApiClient, paths: Sequence[str], period: float) -> Process:
    """Requests outside the resource API, in turn."""
    yield world.random.randrange(int(period * SECOND))
    while world.kernel.visit(client, paths[world.random.randrange(len(paths))]):
        yield _spread(world, period, 0.02)


def discovery(world: World, client: ApiClient, period: float) -> Process:
    """A controller that refreshes its discovery cache."""
    yield world.random.randrange(int(period * SECOND))
    random = world.random
    while True:
        paths = list(FULL_DISCOVERY[2:])
        if random.random() < 0.35:  # a block that waited together stays together
            cut = random.randrange(8, len(paths))
            paths = paths[:1] + paths[cut:] + paths[1:cut]
        for _ in range(random.randrange(2, 8)):
            paths.insert(random.randrange(len(paths)), paths.pop(random.randrange(len(paths))))
        paths = [*FULL_DISCOVERY[:2], *paths]
        for number, path in enumerate(paths):
            if not world.kernel.visit(client, f"{path}?timeout=32s"):
                return
            # client-go allows a burst, then twenty requests a second.
            if number < 2:
                yield 5 * _MS
            else:
                yield 900 + random.randrange(1500) if number < 30 else 49 * _MS + random.randrange(2 * _MS)
        yield int(period * SECOND)


def apiserver(world: World) -> Process:
    """The API server maintains its own service."""
    client, kernel = world.by("apiserver"), world.kernel
    first = [kernel.prepare(client, "get", "namespaces", "default", "default")]
    for resource in ("services", "endpoints", "endpointslices"):
        first.append(kernel.prepare(client, "get", resource, "default", "kubernetes"))
    if world.settings.policy != "everything":
        return
    kernel.spawn(apiserver_reviews(world))
    while True:
        for prepared in first:
            kernel.fire(prepared, False)
            yield 3 * _MS
        yield 10 * SECOND


def apiserver_reviews(world: World) -> Process:
    """Once a minute the API server checks address ranges, flow control and its own namespaces."""
    client, kernel, random = world.by("apiserver"), world.kernel, world.random
    yield random.randrange(60 * SECOND)
    while True:
        if random.random() < 0.35:
            for _ in range(2):
                kernel.call(client, "list", "services")
                yield 5 * _MS
            yield 45 * _MS
        for resource in ("flowschemas", "prioritylevelconfigurations"):
            names = ["exempt", "catch-all"]
            random.shuffle(names)
            for name in names:
                kernel.call(client, "get", resource, "", name)
                yield 3 * _MS
        yield 40 * _MS
        for namespace in ("kube-system", "kube-public", "kube-node-lease"):
            kernel.call(client, "get", "namespaces", namespace, namespace)
            yield 2 * _MS
        yield 60 * SECOND


def autoscaler(world: World) -> Process:
    """The horizontal pod autoscaler without metrics: every attempt fails."""
    client, kernel, random = world.by("horizontal-pod-autoscaler"), world.kernel, world.random
    apps = [app for app in world.cast.apps if app.namespace not in ("kube-system", "staging")]
    apps = apps[:: max(1, len(world.cast.apps) // 12)][:3]
    metrics = kernel.route(client, "list", "pods.metrics", "web").level
    period = 15.0 if metrics else 600.0
    while True:
        for app in apps:
            kernel.call(client, "get", "deployments/scale", app.namespace, app.name)
            yield 2 * _MS + int(9 * random.random() ** 3 * _MS)
            selector = f"labelSelector=app%3D{app.name}"
            kernel.call(client, "list", "pods.metrics", app.namespace, query=selector, code=404)
            yield 2 * _MS + int(11 * random.random() ** 3 * _MS)
            if random.random() < 0.05:
                world.event(client, app.namespace, app.name, "patch")
                yield 3 * _MS
        yield int(period * SECOND)


def new_apps(world: World) -> Process:
    """Drift: from time to time a team gets another application."""
    rate = world.settings.machines.new_apps_a_week
    while rate:
        yield int(world.random.expovariate(rate / 7) * DAY) + SECOND
        team = world.cast.teams[world.random.randrange(len(world.cast.teams))]
        name = f"{world.random.choice(team.apps).name}-v{len(team.apps)}"
        image = f"registry.corp.example/{team.name}/{name}"
        app = App(team.namespace, name, image, 2, suffix(world.random, 10))
        team.apps.append(app)
        world.by_namespace[team.namespace].append(app)
        world.app_of[(app.namespace, app.name)] = app
        yield from world.rollout(app)


_PIPELINES = {"gitlab-runner": build_runner, "ci-deployer": pipeline}


def start_machines(world: World) -> None:
    """Start all of these processes."""
    kernel, cast, settings = world.kernel, world.cast, world.settings
    pace = settings.machines.pace
    manager = cast.controllers["kube-controller-manager"]
    shared = manager.other(agent=manager.agent + "/shared-informers")
    scheduler = cast.controllers["kube-scheduler"]
    cast.controllers["kube-scheduler"] = binder = scheduler.other(agent=scheduler.agent + "/scheduler")
    seconds = settings.machines.lease_seconds
    for component, name in ((manager, "kube-controller-manager"), (scheduler, "kube-scheduler")):
        election = component.other(agent=component.agent + "/leader-election")
        kernel.spawn(lease(world, election, "kube-system", name, seconds, "timeout=5s"))
    watches = (
        (shared, _KCM_WATCHES),
        (binder, _SCHEDULER_WATCHES),
        (cast.controllers["apiserver"], _APISERVER_WATCHES),
    )
    for client, resources in watches:
        for resource in resources:
            kernel.spawn(informer(world, client, resource, "", 0.1))
    for name in ("generic-garbage-collector", "resourcequota-controller"):
        kernel.spawn(discovery(world, cast.controllers[name], 28.8))
    kernel.spawn(discovery(world, manager.other(agent=manager.agent + "/controller-discovery"), 27.6))
    health = cast.controllers["anonymous"]
    health.machine = settings.policy != "everything"
    kernel.spawn(visits(world, health, ("/readyz", "/healthz", "/livez"), 4.0))
    for process in (apiserver, autoscaler, new_apps, cron_jobs):
        kernel.spawn(process(world))
    for node in cast.nodes:
        kernel.spawn(kubelet(world, node))
        for resource in _KUBELET_WATCHES:
            kernel.spawn(informer(world, node.client, resource, "", 0.1))
        for number in range(settings.machines.watched_volumes):
            kernel.spawn(volumes(world, node, number))
    namespaces = [team.namespace for team in cast.teams] + ["prod", "staging"]
    releases = ["prod", *namespaces[:2]]
    for account in cast.accounts:
        if account.role in _PIPELINES:
            kernel.spawn(_PIPELINES[account.role](world, account, settings.machines.pipeline_pace))
            continue
        habits = HABITS[account.role]
        homes = releases if account.role == "helm-release-bot" else namespaces[:60]
        if account.team:
            homes = [account.namespace]
        for watch in habits.watches:
            resource, place, *select = watch.split()
            where = "" if place == "-" else place.replace("{ns}", account.namespace)
            kernel.spawn(
                informer(world, account.client, resource, where, pace, select[0][1:] if select else "")
            )
        for habit in habits.loops:
            kernel.spawn(loop(world, account, habit, homes, pace))
        if habits.lease:
            namespace, name, ratio = habits.lease
            name = name if namespace else f"{account.client.who.name.rpartition(':')[2]}-{name}"
            kernel.spawn(lease(world, account.client, namespace or account.namespace, name, ratio * seconds))
