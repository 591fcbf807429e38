"""How people work: working hours, sessions of commands, and the requests of each command."""

from __future__ import annotations

import zlib
from itertools import accumulate, count

from data.simulation.cluster import HELM, NEWER, ApiClient, SimulatedPerson, home_address, office_address
from data.simulation.config import DAY, SECOND
from data.simulation.kernel import Process
from data.simulation.steps import HELM_UPGRADE, compiled
from data.simulation.world import World

_FOLLOW = "?fieldSelector=metadata.name%3D{app}&watch=true&timeoutSeconds=5&allowWatchBookmarks=true ~3"
_ABOUT = "?fieldSelector=involvedObject.name%3D{pod}%2CinvolvedObject.namespace%3D{ns}"
_ALL = [
    f"list {resource} {{ns}} ?limit=500"
    for resource in """
        pods replicationcontrollers services daemonsets deployments replicasets statefulsets horizontalpodautoscalers
        jobs cronjobs
    """.split()
]
_ALL_LENS = "namespaces deployments events jobs pods statefulsets daemonsets cronjobs replicasets".split()
_APPLY = "?fieldManager=kubectl-client-side-apply"
_TTY = "stdin=true&stdout=true&stderr=true&tty=true"
# Commands that list one resource: of a namespace, or of the whole cluster.
_LISTS = dict.fromkeys("pods deployments cronjobs ingresses events services daemonsets statefulsets roles".split(), "") | {
    "monitors": "servicemonitors", "claims": "persistentvolumeclaims", "snapshots": "volumesnapshots", "netpols": "networkpolicies",
    "accounts": "serviceaccounts", "role-bindings": "rolebindings", "reports": "policyreports",
}  # fmt: skip
_LISTS_OF_ALL = {
    "pods-all": "pods", "namespaces": "namespaces", "nodes": "nodes", "wrong-list": "nodes", "cluster-roles": "clusterroles",
    "webhooks": "validatingwebhookconfigurations", "policies": "clusterpolicies", "csrs": "certificatesigningrequests",
    "audit-secrets": "secrets",
}  # fmt: skip
COMMANDS = {
    name: compiled(lines)
    for name, lines in {
        **{name: [f"list {resource or name} {{ns}} ?limit=500"] for name, resource in _LISTS.items()},
        **{name: [f"list {resource} - ?limit=500"] for name, resource in _LISTS_OF_ALL.items()},
        "deployment": ["get deployments {ns}/{app}", "list pods {ns} +1 ?limit=500"],
        "applications": ["list applications argocd ?limit=500", "get applications argocd/{ns}-{app} +1"],
        "projects": ["visit /apis", "list namespaces - ?limit=500", "get namespaces -/{ns}"],
        "describe": ["list pods {ns} ?limit=500", "get pods {ns}/{pod} +1", f"list events {{ns}} {_ABOUT}"],
        "logs": ["list pods {ns} ?limit=500", "get pods {ns}/{pod} +1", "get pods/log {ns}/{pod} ?follow=false&tailLines={tail}"],
        "logs-again": ["get pods {ns}/{pod}", "get pods/log {ns}/{pod} ?follow=false&tailLines={tail}"],
        "logs-label": ["list pods {ns} ?labelSelector=app%3D{app}", "get pods/log {ns}/{pod} ?tailLines=10"],
        "apply": ["get configmaps {ns}/{app}-config", f"patch configmaps {{ns}}/{{app}}-config {_APPLY}", "get services {ns}/{app}", f"patch services {{ns}}/{{app}} {_APPLY} #rev"],
        "rollout-status": ["list deployments {ns}/{app} ?fieldSelector=metadata.name%3D{app}", f"watch deployments {{ns}}/{{app}} {_FOLLOW}"],
        "set-image": ["get deployments {ns}/{app}", "patch deployments {ns}/{app} #image", "list deployments {ns}/{app} +1.5 ?fieldSelector=metadata.name%3D{app}", f"watch deployments {{ns}}/{{app}} {_FOLLOW}"],
        "restart": ["get deployments {ns}/{app}", "patch deployments {ns}/{app} #restart",],
        "config": ["get configmaps {ns}/{app}-config"],
        "configs": ["list configmaps {ns} ?limit=500", "get configmaps {ns}/{app}-config +1"],
        "edit-flags": ["get configmaps {ns}/feature-flags", "patch configmaps {ns}/feature-flags +1.3"],
        "shell": ["get pods {ns}/{pod}", f"create pods/exec {{ns}}/{{pod}} ?command=sh&{_TTY} ~8"],
        "run-inside": ["get pods {ns}/{pod}", "create pods/exec {ns}/{pod} ?command=curl&command=localhost%3A8080%2Fhealthz&stdout=true&stderr=true ~0.3"],
        "heap": ["get pods {ns}/{pod}", "create pods/exec {ns}/{pod} ?command=tar&command=cf&command=-&command=%2Ftmp%2Fheap.hprof&stdout=true&stderr=true ~2"],
        "forward": ["get pods {ns}/{pod}", "create pods/portforward {ns}/{pod} ~20"],
        "dev-secret": ["get secrets {ns}/dev-db"],
        "feature": ["get deployments staging/feat-{hex} !404", "create deployments staging/feat-{hex} #deployment", "list pods staging +2 ?labelSelector=app%3Dfeat-{hex}", "delete deployments staging/feat-{hex} +6 #delete"],
        "job": ["create jobs {ns}/exp-{hex} #job", "get jobs {ns}/exp-{hex} +2", "list pods {ns} ?labelSelector=job-name%3Dexp-{hex}", "get pods/log {ns}/exp-{hex}-x2x4z ?tailLines=50", "delete jobs {ns}/exp-{hex} +2 #deletejob"],
        "scale": ["get deployments {ns}/{app}", "patch deployments/scale {ns}/{app} #replicas"],
        "kill-pod": ["delete pods {ns}/{pod} #deletepod", "list pods {ns}/{pod} ?fieldSelector=metadata.name%3D{pod}", "watch pods {ns}/{pod} ?fieldSelector=metadata.name%3D{pod}&watch=true&timeoutSeconds=30&allowWatchBookmarks=true ~2"],
        "get-all": _ALL,
        "suspend": ["get cronjobs {ns}/report", "patch cronjobs {ns}/report #suspend"],
        "explain": ["get deployments {ns}/{app}", "list replicasets {ns} ?labelSelector=app%3D{app}", "list events {ns} ?fieldSelector=involvedObject.name%3D{app}%2CinvolvedObject.namespace%3D{ns}"],
        "endpoints": ["list endpoints {ns} ?limit=500", "get endpoints {ns}/{app} +1"],
        "events-watch": ["list events {ns} ?limit=500", "watch events {ns} ?watch=true&timeoutSeconds=20&allowWatchBookmarks=true ~6"],
        "node": ["get nodes /{node}", "list pods - ?fieldSelector=spec.nodeName%3D{node}", "get leases kube-node-lease/{node}", "list events - ?fieldSelector=involvedObject.name%3D{node}"],
        "cordon": ["get nodes /{node}", "patch nodes /{node} #cordon", "get nodes /{node} +9", "patch nodes /{node} #uncordon"],
        "helm-upgrade": [f"{line} @helm" for line in HELM_UPGRADE],
        "helm-list": ["list secrets {ns} ?labelSelector=owner%3Dhelm @helm"],
        "clusters": ["list postgresclusters prod ?limit=500", "get postgresclusters prod/orders +1"],
        "cluster-edit": ["get postgresclusters prod/orders", "patch postgresclusters prod/orders +2"],
        "psql": ["get pods prod/postgres-0", "create pods/exec prod/postgres-0 ?command=psql&command=-U&command=postgres&command=-c&command=select+1&stdout=true&stderr=true ~0.5"],
        "vacuum": ["get pods prod/postgres-0", "create pods/exec prod/postgres-0 ?command=vacuumdb&command=-a&stdout=true&stderr=true ~9"],
        "recovery": ["get pods prod/postgres-0", "create pods/exec prod/postgres-0 ?command=psql&command=-c&command=select+pg_is_in_recovery%28%29&stdout=true&stderr=true ~0.4"],
        "db-secret": ["get secrets {ns}/db-creds"],
        "bindings": ["list clusterrolebindings - ?limit=500", "get clusterrolebindings /system:controller:{app} +1", "get clusterroles /system:controller:{app}"],
        "can-i": ["create selfsubjectaccessreviews - #sar"],
        "workflows": ["list workflows argo ?limit=500"],
        "workflow-new": ["create workflows argo/train-{hex}", "get workflows argo/train-{hex} +3"],
        "jupyter": ["get pods ml/{pod}", f"create pods/exec ml/{{pod}} ?command=jupyter&command=lab&command=list&{_TTY} ~1"],
        "plan": [
            line.replace("{ns}", f"{{t{number}}}")
            for number in (1, 2, 3)
            for line in ("get namespaces -/{ns}", "get rolebindings {ns}/dev-edit", "get serviceaccounts {ns}/ci-deployer", "get resourcequotas {ns}/quota", "get networkpolicies {ns}/default-deny")
        ] + ["patch resourcequotas {t1}/quota #annotate=tf %0.25", "patch rolebindings staging/dev-edit-web #annotate=tf %0.14"],
        "discover": ["discover"],
        "typo-get": ["get configmaps {ns}/wbe !404"],
        "typo-pod": ["get pods {ns}/{app}x !404"],
        "typo-deploy": ["get deployments {ns}/{app}-confg !404"],
        "wrong-place": ["list secrets kube-system ?limit=500 !403"],
    }.items()
}  # fmt: skip
for _turn in range(5):  # Lens asks for everything at once: in any order
    COMMANDS[f"lens-{_turn}"] = compiled(
        [
            "visit /version",
            "create selfsubjectrulesreviews - #rules",
            *(
                f"list {resource} {'-' if resource == 'namespaces' else '{ns}'} ?limit=500 %0.6"
                for resource in sorted(_ALL_LENS, key=lambda name: zlib.crc32(f"{_turn}{name}".encode()))
            ),
            "watch pods {ns} ?watch=true&timeoutSeconds=60&allowWatchBookmarks=true ~9",
        ]
    )
for _kind in ("pods", "services", "deployments", "jobs", "events", "configmaps"):
    COMMANDS[f"screen-{_kind}"] = compiled(
        [
            "create selfsubjectaccessreviews - #sar %0.55",
            f"list {_kind} {{ns}} ?resourceVersion=0",
            f"watch {_kind} {{ns}} ?watch=true&timeoutSeconds=60&allowWatchBookmarks=true ~9",
        ]
    )
_REVIEW = "create selfsubjectaccessreviews - #sar"
COMMANDS["screen-can"] = compiled(["visit /version", _REVIEW, *([f"{_REVIEW} %0.5"] * 3)])

MIXES: dict[str, dict[str, float]] = {
    "developer": {
        "pods": 26, "logs": 13, "describe": 5, "deployment": 4, "rollout-status": 3, "apply": 8, "set-image": 5,
        "restart": 2, "config": 4, "configs": 2, "edit-flags": 2.5, "shell": 3, "run-inside": 3, "heap": 0.6,
        "forward": 3, "dev-secret": 4, "feature": 2, "deployments": 5, "explain": 3, "scale": 1.2, "kill-pod": 0.8,
        "get-all": 4, "cronjobs": 1.5, "job": 2, "logs-label": 5, "events": 2, "suspend": 0.4, "discover": 1.6,
    },
    "k9s": {
        "screen-pods": 18, "screen-can": 8, "screen-services": 5, "screen-deployments": 5, "screen-jobs": 4,
        "screen-events": 4, "screen-configmaps": 3, "pods": 10, "logs": 12, "describe": 3, "ingresses": 2,
        "run-inside": 3, "heap": 0.3, "scale": 1, "kill-pod": 1, "discover": 0.5,
    },
    "lens": {
        "lens-0": 2, "lens-1": 2, "lens-2": 2, "lens-3": 2, "lens-4": 2, "logs": 5, "forward": 6, "services": 3, "scale": 2.5,
        "dev-secret": 2, "pods": 4, "discover": 1.2, "feature": 0.3,
    },
    "sre": {
        "pods": 18, "logs": 9, "nodes": 9, "node": 1, "get-all": 4, "explain": 4, "scale": 4, "cordon": 1.8,
        "configs": 3, "config": 2, "kill-pod": 2.4, "events": 3, "pods-all": 2, "endpoints": 3, "shell": 1.8,
        "events-watch": 3, "daemonsets": 5, "monitors": 2, "rollout-status": 3, "apply": 2, "services": 1, "edit-flags": 1.5,
        "restart": 1, "discover": 0.7, "cluster-edit": 0.05, "can-i": 0.2, "audit-secrets": 0.05,
    },
    "release": {
        "helm-upgrade": 4.5, "rollout-status": 4, "applications": 4, "projects": 4, "set-image": 5, "pods": 8, "helm-list": 3, "explain": 5,
        "scale": 2.4, "edit-flags": 2, "restart": 1.5, "forward": 0.3, "discover": 0.8, "logs": 1, "deployments": 1,
    },
    "dba": {
        "clusters": 10, "cluster-edit": 4, "psql": 3, "vacuum": 2.5, "recovery": 2, "db-secret": 3, "logs": 3.5,
        "statefulsets": 6, "claims": 5, "snapshots": 3, "pods": 6, "events": 2, "discover": 1, "describe": 1.5,
    },
    "security": {
        "bindings": 7, "accounts": 12, "cluster-roles": 8, "roles": 7, "role-bindings": 5, "namespaces": 5,
        "webhooks": 5, "reports": 5, "policies": 5, "netpols": 5, "pods": 3, "can-i": 2, "csrs": 2, "audit-secrets": 1.3,
        "discover": 0.6,
    },
    "data-science": {
        "pods": 8, "logs": 7, "workflows": 8, "workflow-new": 5, "job": 6, "claims": 3, "forward": 3, "jupyter": 1.6, "discover": 0.25, "describe": 2,
    },
    "iac": {"plan": 1},
    "admin": {"pods": 6, "get-all": 4, "events": 5, "explain": 3, "configs": 3, "namespaces": 2, "nodes": 2},
}  # fmt: skip
_MISTAKES = (*("typo-get", "typo-pod", "typo-deploy") * 3, "wrong-place")
_FIRST_DAY = tuple("can-i can-i can-i namespaces pods configs dev-secret wrong-place discover".split())
_INCIDENT = """
    pods events nodes logs logs-again describe config shell explain logs restart scale rollout-status
""".split()


def _mix(world: World, person: SimulatedPerson) -> tuple[list[str], list[float]]:
    """Commands and their cumulated weights, varied for each person."""
    key = person.role
    if key == "developer":
        agent = person.clients[0].agent.partition("/")[0]
        key = {"k9s": "k9s", "node-fetch": "lens"}.get(agent, key)
    weights = (weight * world.random.lognormvariate(0, 0.55) for weight in MIXES[key].values())
    return list(MIXES[key]), list(accumulate(weights))


def _luck(text: str) -> float:
    """From 0 to 1, the same for the same text."""
    return zlib.crc32(text.encode()) / (1 << 32)


def at_work(world: World, person: SimulatedPerson, day: int) -> bool:
    """Whether a person works on a day (days since 1970)."""
    settings = world.settings.people
    start = world.start_day
    if not person.first <= day - start <= person.last or day - start in settings.holidays:
        return False
    luck = _luck(f"{person.who.name}{day}")
    if (day + 3) % 7 >= 5:
        return luck < settings.weekend_work
    return luck >= settings.absence


def next_session(world: World, person: SimulatedPerson) -> int:
    """Microseconds until a person's next session, or -1 if there is none."""
    settings = world.settings.people
    now = world.kernel.now
    if settings.calendar == "always":
        return 1 + int(world.random.random() * 3 * settings.think_median * SECOND)
    day = now // DAY
    for later in range(70):
        if not at_work(world, person, day + later):
            continue
        begin, end = person.hours(day + later)
        rate = settings.sessions_a_day * person.energy
        if (day + later + 3) % 7 in settings.release_days and person.role in ("release", "sre"):
            rate *= settings.release_boost
        gap = world.random.expovariate(rate) * (end - begin)
        when = max(now, begin) + int(gap)
        if when < end:
            return max(1, when - now)
    return -1


def client_of(world: World, person: SimulatedPerson) -> ApiClient:
    """The client a person uses today."""
    usual = [client for client in person.clients if client.agent != HELM]
    day = world.kernel.now // (DAY if world.settings.people.calendar == "office" else 600 * SECOND)
    at_home = _luck(f"{day}{person.who.name}") < world.settings.people.home_office_days
    return usual[-1 if at_home else 0]


def command(world: World, person: SimulatedPerson, name: str, namespace: str, client: ApiClient) -> Process:
    """Run one command of a person."""
    scene = world.scene(person.who, namespace)
    if "{rev}" in _TEXT.get(name, ""):
        scene |= world.revision()
    if person.role == "iac":
        places = [team.namespace for team in world.cast.teams[:3]]
        scene["t1"], scene["t2"], scene["t3"] = (places * 3)[:3]
    helm = client.other(agent=HELM)
    think = world.settings.people.think_median / 4
    return world.play(client, COMMANDS[name], scene, others={"helm": helm}, think=min(think, 8.0))


_TEXT = {name: "".join(step.name for step in steps) for name, steps in COMMANDS.items()}


def work(world: World, person: SimulatedPerson) -> Process:
    """All sessions of a person."""
    random, settings = world.random, world.settings.people
    commands, weights = _mix(world, person)
    fresh = person.first > 0
    namespace = person.homes[0]
    while True:
        wait = next_session(world, person)
        if wait < 0:
            return
        yield wait
        client = client_of(world, person)
        count = 1 + int(random.expovariate(1 / settings.session_commands))
        first_day, fresh = fresh, False
        for number in range(count):
            if random.random() < 0.08:
                namespace = random.choice(person.homes)
            name = random.choices(commands, cum_weights=weights)[0]
            if first_day and number < len(_FIRST_DAY):
                name = _FIRST_DAY[number]
            elif random.random() < settings.mistakes * 0.35 and person.role not in ("iac", "admin"):
                name = random.choice(_MISTAKES)
            yield from command(world, person, name, namespace, client)
            think = settings.think_median * random.lognormvariate(0, settings.think_spread)
            think *= 9 if random.random() < settings.pauses else 1
            think *= 9 if person.role == "iac" else 1
            if name.startswith(("screen", "lens")):
                think *= 0.6
            yield int(think * SECOND)
            if settings.calendar == "always" and number % 60 == 59:
                client = client_of(world, person)


def incidents(world: World) -> Process:
    """Incidents at any hour, handled by the person on call."""
    rate = world.settings.people.incidents_a_week
    crew = [person for person in world.cast.people if person.on_call]
    while rate and crew and world.settings.people.calendar == "office":
        yield int(world.random.expovariate(rate / 7) * DAY) + SECOND
        week = world.kernel.now // (7 * DAY)
        yield from _handle(world, crew[week % len(crew)])


def _handle(world: World, person: SimulatedPerson) -> Process:
    """One incident in production."""
    client = client_of(world, person)
    app = world.random.choice(world.cast.production)
    for name in _INCIDENT:
        yield from command(world, person, name, app.namespace, client)
        yield int(world.settings.people.think_median * world.random.lognormvariate(0, 0.8) * SECOND)


def night_pages(world: World, person: SimulatedPerson) -> Process:
    """Nights on which a pager wakes one person of the rota, between midnight and six, UTC; the same commands as by day."""
    settings, random = world.settings.people, world.random
    first = world.kernel.now // DAY
    for day in count(first):
        night = day * DAY + random.randrange(DAY // 4)
        yield max(1, night - world.kernel.now)
        if (
            not person.first <= day - first <= person.last
            or random.random() >= settings.night_pages_a_week / 7
        ):
            continue
        yield from _handle(world, person)


def changes(world: World, days: float) -> Process:
    """People upgrade their clients or change their addresses."""
    random, settings = world.random, world.settings.people
    plans = []
    for person in world.cast.people:
        if random.random() < settings.upgrades and person.clients[0].agent.startswith("kubectl"):
            plans.append((random.random() * days, person, "agent"))
        if random.random() < settings.moves:
            plans.append((random.random() * days, person, "address"))
    plans.sort(key=lambda plan: plan[0])
    start = world.kernel.now
    for when, person, what in plans:
        yield max(1, start + int(when * DAY) - world.kernel.now)
        if what == "agent":
            agent = random.choice(NEWER)
            person.clients = [one if one.agent == HELM else one.other(agent=agent) for one in person.clients]
        else:
            address = office_address(random, 30) if random.random() < 0.5 else home_address(random)
            person.clients = [person.clients[0].other(address=address), *person.clients[1:]]


def start_people(world: World, days: float) -> None:
    """Start all people, incidents and changes."""
    random, settings = world.random, world.settings.people
    for person in world.cast.people:
        luck = random.random()
        if luck < settings.newcomers and person.role == "developer":
            person.first = 1 + int(random.random() * max(1.0, days - 1))
        elif luck > 1 - settings.leavers and days > 2:
            person.last = int(days * (0.3 + 0.7 * random.random()))
        world.kernel.spawn(work(world, person), 1 + random.randrange(SECOND))
    world.kernel.spawn(incidents(world), SECOND)
    if settings.night_pages_a_week and settings.calendar == "office":
        for person in world.cast.people:
            if person.on_call:
                world.kernel.spawn(night_pages(world, person), SECOND)
    world.kernel.spawn(changes(world, days), SECOND)
