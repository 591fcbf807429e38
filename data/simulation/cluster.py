"""The cluster's principals and workloads: identities, rights, addresses, ownership. All names are made up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

from data.simulation.config import DAY, CastSettings, SimulationSettings

SAFE = "bcdfghjklmnpqrstvwxz2456789"
_CONSONANTS, _VOWELS = "bdfgjklmnprstvz", "aeiou"
TEAMS = """
    web payments search data checkout catalog billing identity notify media orders shipping pricing reports mobile
    partners fraud support content ads
""".split()
APPS = """
    api front worker gateway sync cache ingest export mailer scheduler ledger indexer crawler render static quota audit
    session feeds rules
""".split()
KUBECTL = (
    "kubectl/v1.20.2 (linux/amd64) kubernetes/faecb19",
    "kubectl/v1.19.7 (linux/amd64) kubernetes/1dd5338",
    "kubectl/v1.20.4 (darwin/amd64) kubernetes/e87da0b",
    "kubectl/v1.18.8 (darwin/amd64) kubernetes/9f2892a",
    "kubectl/v1.21.1 (darwin/arm64) kubernetes/5e58841",
    "kubectl.exe/v1.20.2 (windows/amd64) kubernetes/faecb19",
    "oc/4.7.0 (linux/amd64) kubernetes/c66c03f",
)
# Clients of people, assigned in turn: a few on Windows or with `oc`.
_DECK = (*KUBECTL[:5], KUBECTL[5], *KUBECTL[:5], KUBECTL[6])
# What people upgrade to, and attackers may use.
NEWER = (
    "kubectl/v1.21.0 (linux/amd64) kubernetes/cb303e6",
    "kubectl/v1.27.2 (linux/amd64) kubernetes/7f6f68f",
    "kubectl/v1.30.1 (darwin/arm64) kubernetes/6911225",
    "kubectl/v1.33.3 (linux/amd64) kubernetes/80779bd",
)
SCREENS = (
    "k9s/v0.24.2 (darwin/amd64) kubernetes/$Format",
    "node-fetch/1.0 (+https://github.com/bitinn/node-fetch)",
)
LIBRARIES = """
    okhttp/3.14.9 Go-http-client/2.0 OpenAPI-Generator/12.0.1/python OpenAPI-Generator/12.0.1/python
    kubernetes-client/6.0.1
""".split()
HELM = "Helm/3.5.2"
UNVERSIONED = "v0.0.0 (linux/amd64) kubernetes/$Format"
_VERSION = "v1.20.2 (linux/amd64) kubernetes/faecb19"


def uid_of(text: str) -> str:
    """The UID of an object, derived from its name."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"


class Grant(NamedTuple):
    """One RBAC binding with the authorizer's reason; None instead of a set means everything."""

    reason: str
    verbs: frozenset[str] | None = None
    resources: frozenset[str] | None = None
    namespaces: frozenset[str] | None = None

    def covers(self, *request: str) -> bool:
        """Whether it allows a request: verb, resource and namespace."""
        return all(named is None or one in named for named, one in zip(self[1:], request, strict=True))


READS = frozenset(("get", "list", "watch"))
_DEBUG = frozenset(("pods/exec", "pods/attach", "pods/portforward", "events", "pods/ephemeralcontainers"))
_SECRETS = frozenset(("secrets",))
_VIEW = frozenset(
    """
        pods pods/log services endpoints configmaps deployments replicasets statefulsets daemonsets jobs cronjobs
        ingresses networkpolicies horizontalpodautoscalers persistentvolumeclaims replicationcontrollers serviceaccounts
        namespaces resourcequotas endpointslices servicemonitors poddisruptionbudgets nodes deployments/scale
    """.split()
)
_EDIT = _VIEW | set(
    """
    secrets pods/exec pods/portforward deployments/scale pods/attach events pods/eviction serviceaccounts/token
    rolebindings roles
""".split()
)
_CORE = _VIEW | {"persistentvolumes"}
_SELF = frozenset(("selfsubjectaccessreviews", "selfsubjectrulesreviews"))
_CUSTOM = frozenset(("workflows", "postgresclusters", "volumesnapshots", "applications", "certificates"))


@lru_cache(4096)
def binding(kind: str, name: str, role: str, subject: str) -> str:
    """The reason an RBAC authorizer gives, escaped for JSON."""
    return f'RBAC: allowed by {kind} \\"{name}\\" of ClusterRole \\"{role}\\" to {subject}'


def _allowed(extra: str, reason: str) -> str:
    return f'{{{extra}"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"{reason}"}}'


class Rights:
    """The bindings of one or more principals, with a memo of decisions."""

    __slots__ = ("_memo", "extra", "grants", "refused", "too_wide")

    def __init__(self, grants: Sequence[Grant], subject: str, extra: str = "") -> None:
        self.grants = tuple(grants)
        self.extra = extra
        self.too_wide = _allowed(extra, binding("ClusterRoleBinding", "legacy-edit", "edit", subject))
        self.refused = f'{{{extra}"authorization.k8s.io/decision":"forbid","authorization.k8s.io/reason":""}}'
        self._memo: dict[tuple[str, str, str], tuple[bool, str]] = {}

    def authorize(self, verb: str, full: str, namespace: str) -> tuple[bool, str]:
        """Whether a request is allowed, and the annotations that say why."""
        key = (verb, full, namespace)
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) > 20_000:
                self._memo.clear()
            grant = next((grant for grant in self.grants if grant.covers(*key)), None)
            found = (False, self.refused) if grant is None else (True, _allowed(self.extra, grant.reason))
            self._memo[key] = found
        return found


class ActorIdentity:
    """A principal: its user block and its rights."""

    __slots__ = ("authorize", "name", "outside_reason", "refused", "rights", "too_wide", "user")

    def __init__(self, name: str, groups: Sequence[str], rights: Rights, uid: bool = False) -> None:
        self.name = name
        listed = ",".join(f'"{group}"' for group in groups)
        self.user = (
            f'{{"username":"{name}",' + (f'"uid":"{uid_of(name)}",' if uid else "") + f'"groups":[{listed}]}}'
        )
        self.rights, self.authorize = rights, rights.authorize
        self.refused, self.too_wide = rights.refused, rights.too_wide
        name, subject = "system:discovery", 'Group \\"system:authenticated\\"'
        reason = "" if "system:masters" in groups else binding("ClusterRoleBinding", name, name, subject)
        self.outside_reason = _allowed(rights.extra, reason)

    def outside(self, code: int) -> str:
        """Annotations of a request outside the resource API."""
        return self.outside_reason if code != 403 else self.refused


class ApiClient:
    """An identity with a source address and a user agent."""

    __slots__ = ("_head", "account", "address", "agent", "busy", "done", "machine", "who")

    def __init__(self, who: ActorIdentity, address: str, agent: str, machine: bool = False) -> None:
        self.who, self.address, self.agent, self.machine = who, address, agent, machine
        self.account = who.name.startswith("system:serviceaccount:")
        self.done = 0
        # Microseconds after its last response until it may ask again: most controllers have several workers.
        single = who.name.endswith((":horizontal-pod-autoscaler", ":cronjob-controller", ":job-controller"))
        self.busy = 1500 if address else 100 if single else -2500
        ips = f'"{address}","127.0.0.1"' if address else '"127.0.0.1"'
        self._head = (f'"user":{who.user},', f'"sourceIPs":[{ips}],"userAgent":"{agent}",')

    def head(self, impersonated: str) -> str:
        """The event's caller fields, with the impersonated user in its place."""
        return f"{self._head[0]}{impersonated}{self._head[1]}"

    def other(self, address: str = "", agent: str = "") -> ApiClient:
        """The same identity from elsewhere or with another agent."""
        return ApiClient(self.who, address or self.address, agent or self.agent, self.machine)


@dataclass(slots=True)
class App:
    """A deployed workload with its current pods."""

    namespace: str
    name: str
    image: str
    replicas: int
    template: str
    account: str = ""
    pods: list[tuple[str, int]] = field(default_factory=list)
    revision: int = 1
    busy: bool = False
    blame: list[str] | None = None
    history: list[str] = field(default_factory=list)

    @property
    def replica_set(self) -> str:
        """Name of the current replica set."""
        return f"{self.name}-{self.template}"


@dataclass(slots=True)
class Team:
    """A team with its namespace and its applications."""

    name: str
    namespace: str
    apps: list[App]
    cronjobs: list[str]


@dataclass(slots=True)
class SimulatedPerson:
    """A human principal.

    Attributes:
        role: key of the command mix.
        clients: usual clients, the main one first.
        homes: namespaces worked in, the main one first.
        shift: start and end of the working day, hours UTC.
        first, last: days of the first and last appearance.
    """

    who: ActorIdentity
    role: str
    team: Team
    clients: list[ApiClient]
    homes: list[str]
    shift: tuple[float, float]
    energy: float
    first: int = 0
    last: int = 1 << 30
    on_call: bool = False

    def hours(self, day: int) -> tuple[int, int]:
        """When work begins and ends on a day, microseconds since 1970 UTC."""
        begin = day * DAY + int(self.shift[0] * DAY / 24)
        return begin, begin + int((self.shift[1] - self.shift[0]) * DAY / 24)


@dataclass(slots=True)
class Account:
    """A service account that works by itself."""

    client: ApiClient
    role: str
    namespace: str
    team: Team | None = None


@dataclass(slots=True)
class ClusterNode:
    """A node and its kubelet."""

    name: str
    client: ApiClient
    index: int


@dataclass(slots=True)
class Cast:
    """All principals and workloads of a cluster."""

    teams: list[Team]
    people: list[SimulatedPerson]
    accounts: list[Account]
    nodes: list[ClusterNode]
    controllers: dict[str, ApiClient]
    apps: list[App]
    production: list[App]

    def size(self) -> int:
        """Number of principals."""
        return len(self.people) + len(self.accounts) + len(self.nodes) + len(self.controllers)


def suffix(random: Random, length: int) -> str:
    """A random suffix in Kubernetes' alphabet."""
    return "".join(random.choices(SAFE, k=length))


def _word(random: Random, syllables: int) -> str:
    return "".join(random.choice(_CONSONANTS) + random.choice(_VOWELS) for _ in range(syllables))


def service_account(namespace: str, account: str, grants: Sequence[Grant]) -> ActorIdentity:
    """Identity of a service account with a legacy token secret."""
    name = f"system:serviceaccount:{namespace}:{account}"
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    extra = f'"authentication.k8s.io/legacy-token":"{name}",'
    return ActorIdentity(name, groups, Rights(grants, _subject(namespace, account), extra), uid=True)


Names = frozenset[str] | None


def _subject(namespace: str, account: str) -> str:
    return f'ServiceAccount \\"{account}/{namespace}\\"'


def _cluster_grant(
    name: str, role: str, subject: str, verbs: Names = None, resources: Names = None, namespaces: Names = None
) -> Grant:
    return Grant(binding("ClusterRoleBinding", name, role, subject), verbs, resources, namespaces)


def _local_grant(name: str, role: str, subject: str, resources: Names, namespaces: Names) -> Grant:
    return Grant(binding("RoleBinding", name, role, subject), None, resources, namespaces)


def _wide(name: str, role: str, namespace: str, account: str) -> Grant:
    return _cluster_grant(name, role, _subject(namespace, account))


CONTROLLERS = """
    replicaset-controller deployment-controller resourcequota-controller generic-garbage-collector cronjob-controller
    endpointslice-controller endpoint-controller job-controller horizontal-pod-autoscaler node-controller
    daemon-set-controller statefulset-controller persistent-volume-binder
""".split()
ADD_ONS = (
    ("kube-system", "cluster-autoscaler", "cluster-autoscaler/" + UNVERSIONED),
    ("kube-system", "metrics-server", "metrics-server/v0.4.1 (linux/amd64) kubernetes/$Format"),
    ("kube-system", "coredns", "coredns/v1.7.0 (linux/amd64) coredns"),
)
# Platform service accounts, the most usual first: namespace, account, agent.
PLATFORM = (
    ("monitoring", "prometheus-k8s", "Prometheus/2.24.1"),
    ("argocd", "argocd-application-controller", "argocd-application-controller/" + UNVERSIONED),
    ("cicd", "gitlab-runner", "gitlab-runner 13.9.0 linux/amd64"),
    ("ingress-nginx", "ingress-nginx", "nginx-ingress-controller/v0.44.0 (linux/amd64) ingress-nginx/f802554ccfadf828f7eb6d3f9a9333686706d613"),
    ("cert-manager", "cert-manager", "controller/v1.2.0 (linux/amd64) cert-manager/969b678f330c68a6429b7a71b271761c59651a85"),
    ("kyverno", "kyverno", "kyverno/" + UNVERSIONED),
    ("flux-system", "kustomize-controller", "kustomize-controller/" + UNVERSIONED),
    ("argo", "workflow-controller", "workflow-controller/" + UNVERSIONED),
    ("vault", "external-secrets", "kubernetes-client/6.0.1"),
    ("logging", "fluent-bit", "Fluent-Bit"),
    ("cicd", "helm-release-bot", HELM),
    ("db-operator", "postgres-operator", "postgres-operator/" + UNVERSIONED),
    ("argocd", "argocd-server", "argocd-server/" + UNVERSIONED),
    ("external-dns", "external-dns", "external-dns/" + UNVERSIONED),
    ("monitoring", "grafana", "OpenAPI-Generator/11.0.0/python"),
    ("velero", "velero", "velero-server/v1.5.3 (linux/amd64) 123109a3bcac11dbb6783d2758207bac0d0817cb"),
    ("ops", "node-labeler", "Go-http-client/2.0"),
)  # fmt: skip
# Bindings of platform accounts: name, verbs, resources. `platform-writers` allows the rest: too wide, as in practice.
_BOUND: dict[str, tuple[tuple[str, frozenset[str] | None, frozenset[str] | None], ...]] = {
    "prometheus-k8s": (("debug-node-proxy", None, frozenset(("nodes/proxy",))), ("infra-readers", READS, frozenset(("nodes", "services"))), ("prom-view", READS, frozenset(("pods", "endpoints")))),
    "argocd-application-controller": (("gitops-all", None, None),),
    "gitlab-runner": (("gitlab-runner-admin", None, None),),
    "ingress-nginx": (("infra-readers", READS, frozenset(("services", "endpoints", "configmaps", "ingresses"))),),
    "cert-manager": (("infra-readers", READS, frozenset(("ingresses", "leases"))),),
    "kyverno": (("kyverno-webhooks", READS, frozenset(("validatingwebhookconfigurations",))), ("infra-readers", READS, frozenset(("configmaps", "namespaces")))),
    "kustomize-controller": (("gitops-all", None, None),),
    "workflow-controller": (("wf-edit", frozenset(("create",)), frozenset(("pods",))), ("infra-readers", READS, frozenset(("pods", "leases")))),
    "fluent-bit": (("prom-view", READS, frozenset(("pods", "namespaces"))),),
    "helm-release-bot": (("ci-view", READS, frozenset(("configmaps", "services"))), ("gitops-all", None, None)),
    "postgres-operator": (("infra-readers", READS, frozenset(("services", "statefulsets"))), ("gitops-all", None, None)),
    "argocd-server": (("argocd-server", READS, frozenset(("applications", "appprojects", "secrets"))), ("ci-view", READS, None)),
    "external-dns": (("infra-readers", READS, _CORE),),
    "grafana": (("ci-secrets-legacy", READS, frozenset(("secrets",))), ("prom-view", READS, frozenset(("configmaps",)))),
    "velero": (("infra-readers", READS, _CORE), ("gitops-all", None, None)),
    "node-labeler": (("node-labeler", None, frozenset(("nodes",))),),
}  # fmt: skip
# Groups of roles whose group is not named like the role.
_GROUPS = {
    "admin": ("system:masters",),
    "release": ("release-managers",),
    "data-science": ("data-science", "corp:devs"),
}


def _rights_of(role: str, team: Team) -> Rights:
    """Rights of a person, too wide in places, as in practice."""
    if role == "admin":
        return Rights([Grant("")], 'Group \\"system:masters\\"')
    basic = "system:basic-user"
    grants = [_cluster_grant(basic, basic, 'Group \\"system:authenticated\\"', None, _SELF)]
    group = f"dev:{team.name}" if role == "developer" else _GROUPS.get(role, (role,))[0]
    subject = f'Group \\"{group}\\"'
    if role in ("sre", "iac"):
        grants.append(_cluster_grant("sre-admin", "cluster-admin", subject))
        return Rights(grants, subject)
    devs = 'Group \\"corp:devs\\"'
    if role == "release":
        grants.append(_cluster_grant("release-edit", "edit", subject, None, _EDIT))
    if role == "security":
        grants.append(_cluster_grant("security-audit", "security-audit", subject, READS))
    grants += [
        _cluster_grant("corp-devs-view", "view", devs, READS, _VIEW),
        _cluster_grant("corp-devs-debug", "debug-everywhere", devs, None, _DEBUG),
        _cluster_grant("corp-crd-editor", "crd-editor", devs, None, _CUSTOM),
    ]
    for place in ("ml", "argo", "data") if role == "data-science" else ():
        grants.append(_local_grant(f"ds-edit/{place}", "edit", subject, None, frozenset((place,))))
    homes = frozenset((team.namespace, *(("prod", "data") if role == "dba" else ())))
    grants += [
        _local_grant(f"dev-edit/{team.namespace}", "edit", subject, _EDIT, homes),
        _local_grant(f"dev-edit-{team.name}/staging", "edit", subject, _EDIT, frozenset(("staging",))),
        _cluster_grant("legacy-secrets", "secret-reader", devs, READS, _SECRETS, homes),
    ]  # fmt: skip
    return Rights(grants, subject)


def _app(random: Random, namespace: str, name: str, team: str) -> App:
    replicas = random.choice((1, 2, 2, 2, 2, 2, 3))
    image, template = f"registry.corp.example/{team}/{name}", suffix(random, 10)
    account = name if random.random() < 0.75 else ""
    pods = [(f"{name}-{template}-{suffix(random, 5)}", random.randrange(1 << 16)) for _ in range(replicas)]
    return App(namespace, name, image, replicas, template, account, pods)


def _teams(settings: SimulationSettings, random: Random, count: int) -> list[Team]:
    teams = []
    for index in range(count):
        name = TEAMS[index % len(TEAMS)] + (str(index // len(TEAMS) + 1) if index >= len(TEAMS) else "")
        words = random.sample(APPS, min(settings.cast.apps_per_team, len(APPS)))
        apps = [_app(random, name, word, name) for word in words]
        jobs = ["cleanup", "reindex", "report", "sitemap", "nightly-etl"]
        teams.append(Team(name, name, apps, jobs[: settings.cast.cronjobs_per_team]))
    return teams


def office_address(random: Random, site: int) -> str:
    """An address of the company network."""
    return f"10.20.{site % 200}.{random.randrange(2, 250)}"


def home_address(random: Random) -> str:
    """An address from the documentation ranges."""
    return f"{random.choice(('203.0.113', '198.51.100', '192.0.2'))}.{random.randrange(1, 255)}"


def _person(
    settings: SimulationSettings, random: Random, role: str, team: Team, index: int, rights: Rights
) -> SimulatedPerson:
    name = "kubernetes-admin" if role == "admin" else (
        "terraform@corp.example" if role == "iac" and index == 0 else f"{_word(random, 3)}.{_word(random, 2)}@corp.example"
    )  # fmt: skip
    dev = role == "developer"
    groups: tuple[str, ...] = (f"dev:{team.name}", "corp:devs") if dev else _GROUPS.get(role, (role,))
    who = ActorIdentity(name, (*groups, "system:authenticated"), rights)
    screens = settings.people.screens
    if role == "iac":
        agents = ["HashiCorp/1.0 Terraform/0.14.7"]
    elif role == "data-science" and index % 2:
        agents = ["OpenAPI-Generator/12.0.1/python"]
    elif role == "developer" and int((index + 1) * screens) > int(index * screens):
        agents = [SCREENS[int(index * screens) % 2]]
    else:
        agents = [_DECK[index % len(_DECK)]]
    if role == "release":
        agents.append(HELM)
    site = {"developer": 3, "sre": 1, "release": 2, "dba": 8, "security": 9, "data-science": 7}.get(role, 0)
    office = office_address(random, site + (index % 40 if role == "developer" else 0))
    clients = [ApiClient(who, office, agent) for agent in agents]
    if random.random() < settings.people.home_office and role != "iac":
        clients += [client.other(address=home_address(random)) for client in clients[:1]]
    homes = {
        "developer": [team.namespace, team.namespace, team.namespace, "staging"],
        "sre": ["prod", "kube-system", team.namespace, "logging", "ingress-nginx"],
        "release": ["prod", team.namespace, "staging"],
        "dba": ["prod", "data"],
        "security": ["kyverno", "kube-system"],
        "iac": [team.namespace, "prod", "staging"],
        "admin": ["kube-system"],
        "data-science": ["ml", "argo", "data"],
    }[role]
    offset = random.choice(settings.people.timezones)
    start = 9 - offset + random.gauss(0, 0.8)
    return SimulatedPerson(who, role, team, clients, homes, (start, start + random.gauss(8.3, 0.7)), random.lognormvariate(0, 0.45))  # fmt: skip


def _controllers() -> dict[str, ApiClient]:
    def local(name: str, groups: tuple[str, ...], agent: str, reason: str) -> ApiClient:
        rights = Rights([Grant(reason)], f'User \\"{name}\\"')
        uid = name.startswith("system:serviceaccount:") or name == "system:apiserver"
        return ApiClient(ActorIdentity(name, groups, rights, uid), "", agent, True)

    controllers: dict[str, ApiClient] = {}
    for account in CONTROLLERS:
        name = f"system:serviceaccount:kube-system:{account}"
        role = f"system:controller:{account}"
        reason = binding("ClusterRoleBinding", role, role, f'ServiceAccount \\"{account}/kube-system\\"')
        groups = ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")
        controllers[account] = local(name, groups, f"kube-controller-manager/{_VERSION}/{name}", reason)
    for short in ("kube-controller-manager", "kube-scheduler"):
        name = f"system:{short}"
        reason = binding("ClusterRoleBinding", name, name, f'User \\"{name}\\"')
        controllers[short] = local(name, ("system:authenticated",), f"{short}/{_VERSION}", reason)
    controllers["apiserver"] = local(
        "system:apiserver", ("system:masters",), f"kube-apiserver/{_VERSION}", ""
    )
    anonymous = Rights([], 'User \\"system:anonymous\\"')
    health = ActorIdentity("system:anonymous", ("system:unauthenticated",), anonymous)
    health.outside_reason = _allowed("", binding("ClusterRoleBinding", "system:public-info-viewer", "system:public-info-viewer", 'Group \\"system:unauthenticated\\"'))  # fmt: skip
    controllers["anonymous"] = ApiClient(health, "35.191.0.9", "GoogleHC/1.0", True)
    return controllers


def _nodes(count: int) -> list[ClusterNode]:
    nodes = []
    for index in range(count):
        name = f"node-{index + 1}"
        rights = Rights([Grant("")], f'User \\"system:node:{name}\\"')
        identity = ActorIdentity(f"system:node:{name}", ("system:nodes", "system:authenticated"), rights)
        address = f"10.128.{index // 240}.{11 + index % 240}"
        nodes.append(ClusterNode(name, ApiClient(identity, address, f"kubelet/{_VERSION}", True), index))
    return nodes


def _accounts(
    settings: CastSettings, random: Random, teams: list[Team], nodes: int, principals: int, others: int
) -> list[Account]:
    """Service accounts of add-ons, of the platform, of pipelines and, as many as there is room for, of applications.

    Args:
        teams: the last one has no pipeline.
        principals: of the whole cluster.
        others: principals that are no service accounts of the kinds above.
    """
    platform = PLATFORM[: max(3, min(len(PLATFORM), settings.platform or principals // 6))]

    def pod_address() -> str:
        return f"10.244.{random.randrange(nodes) % 250}.{random.randrange(2, 250)}"

    accounts = []
    for namespace, account, agent in ADD_ONS:
        grant = _wide("infra-readers", "infra-reader", namespace, account)
        accounts.append(Account(ApiClient(service_account(namespace, account, [grant]), pod_address(), agent, True), account, namespace))  # fmt: skip
    for namespace, account, agent in platform:
        subject = f'ServiceAccount \\"{account}/{namespace}\\"'
        grants = [_cluster_grant(role, role, subject, verbs, resources) for role, verbs, resources in _BOUND.get(account, ())]  # fmt: skip
        grants.append(_wide("platform-writers", "platform-writer", namespace, account))
        identity = service_account(namespace, account, grants)
        accounts.append(Account(ApiClient(identity, pod_address(), agent), account, namespace))
    rest = principals - others - len(accounts)
    pipelines = min(len(teams) - 1, max(1, round(principals * settings.pipeline_share)))
    for team in teams[:pipelines]:
        subject = f'ServiceAccount \\"ci-deployer/{team.namespace}\\"'
        wide = _cluster_grant("ci-view", "view", subject, READS, _VIEW)
        edit = _wide("release-edit", "edit", team.namespace, "ci-deployer")
        own = [
            _cluster_grant("ci-secrets-legacy", "secret-reader", subject, READS, _SECRETS),
            _local_grant(f"ci-edit/{team.namespace}", "edit", subject, None, frozenset((team.namespace,))),
            _local_grant(f"ci-edit-{team.name}/staging", "edit", subject, None, frozenset(("staging",))),
        ]  # fmt: skip
        who = service_account(team.namespace, "ci-deployer", [wide, *own, edit])
        accounts.append(Account(ApiClient(who, pod_address(), random.choice(KUBECTL[:2])), "ci-deployer", team.namespace, team))  # fmt: skip
    kinds = settings.app_accounts
    for index in range(max(1, rest - pipelines)):
        team = teams[index % len(teams)]
        app = team.apps[(index // len(teams)) % len(team.apps)]
        number = index // (len(teams) * len(team.apps))
        account = app.name + (f"-{number}" if number else "")
        holder = _cluster_grant("lease-holder", "lease-holder", f'ServiceAccount \\"{account}/{team.namespace}\\"', None, frozenset(("leases", "endpoints")))  # fmt: skip
        grant = _local_grant(f"app-{account}/{team.namespace}", "edit", f'ServiceAccount \\"{account}/{team.namespace}\\"', None, frozenset((team.namespace,)))  # fmt: skip
        who = service_account(team.namespace, account, [holder, grant])
        accounts.append(Account(ApiClient(who, pod_address(), LIBRARIES[index % len(LIBRARIES)]), kinds[index % len(kinds)], team.namespace, team))  # fmt: skip
    return accounts


def _crowd(
    settings: SimulationSettings, random: Random, teams: list[Team], people: int
) -> list[SimulatedPerson]:
    """People by role; the last team is that of data science."""
    *teams, ml = teams
    shares = settings.cast
    roles = ["developer"] * (people - min(people, max(3, round(people * (1 - shares.developers)))))
    roles += islice(cycle(shares.specialists), people - len(roles))
    if "admin" in roles:  # one is enough
        first = roles.index("admin") + 1
        roles[first:] = ["developer" if role == "admin" else role for role in roles[first:]]
    crowd: list[SimulatedPerson] = []
    shared: dict[tuple[str, str], Rights] = {}
    seen: set[str] = set()
    for index, role in enumerate(roles):
        team = ml if role == "data-science" else teams[index % len(teams)]
        rights = shared.setdefault((role, team.name), _rights_of(role, team))
        number = roles[:index].count(role) if role == "iac" else index
        person = _person(settings, random, role, team, number, rights)
        while person.who.name in seen:
            person = _person(settings, random, role, team, index + 1, rights)
        seen.add(person.who.name)
        person.on_call = role == "sre"
        crowd.append(person)
    return crowd


def make_cast(settings: SimulationSettings, principals: int, random: Random) -> Cast:
    """A cluster of about `principals` principals: configured shares plus a fixed set of components."""
    shares = settings.cast
    nodes = max(2, shares.nodes or round(principals * shares.node_share))
    people = max(3, round(principals * shares.people_share))
    count = max(1, round(people * shares.developers / shares.team_size))
    teams = _teams(settings, random, count)
    ml = Team("ml", "ml", [_app(random, "ml", word, "ml") for word in ("trainer", "notebook")], ["retrain"])
    production = [_app(random, "prod", word, "prod") for word in ("shop", "orders", "checkout", "redis")]
    staging = [_app(random, "staging", f"{team.name}-stg", team.name) for team in teams[:40]]
    teams.append(ml)
    support = [
        *(_app(random, "kube-system", word, "k8s") for word in ("coredns", "metrics-server", "cluster-autoscaler")),
        *(_app(random, place, word, place) for place, word in (("logging", "loki"), ("data", "warehouse"), ("kyverno", "kyverno"), ("ingress-nginx", "ingress-nginx"))),
    ]  # fmt: skip
    apps = [app for team in teams for app in team.apps] + production + staging + support
    controllers, all_nodes = _controllers(), _nodes(nodes)
    others = len(controllers) + nodes + people
    accounts = _accounts(shares, random, teams, nodes, principals, others)
    crowd = _crowd(settings, random, teams, people)
    return Cast(teams, crowd, accounts, all_nodes, controllers, apps, production)
