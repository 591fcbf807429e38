"""Attacks and benign look-alikes as requests: the scenarios of the catalogue and of further families.

`{ns}` is the victim's namespace, `{t1}` `{t2}` `{t3}` are others, `{pod}` is a pod in the line's namespace; a line that begins
with `12x` is repeated, each time for another pod.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Scenario:
    """One attack or look-alike.

    Attributes:
        who: whose credential: a role of people, `ci`, `app`, `node`, `anonymous`, or a platform account.
        needs: what detection takes (shared/threats/attacks.md).
        wait: seconds between requests.
        slow: spread over days.
        mode: mode dictated by the scenario.
        after: what the principal does next: `keeps` the new client, `joins`, `migrates`.
    """

    name: str
    family: str
    klass: str
    who: str
    lines: tuple[str, ...]
    needs: tuple[str, ...] = ()
    wait: float = 1.4
    slow: bool = False
    mode: str = ""
    after: str = ""

    @property
    def benign(self) -> bool:
        """Whether it is a benign look-alike."""
        return self.klass == "look-alike"


STOLEN, MINING, FLAW = "stolen developer credential", "cryptomining", "API-server vulnerability style"
LATERAL, RBAC = "lateral movement/token theft", "RBAC/privilege escalation"
PERSIST, BENIGN = "persistence/evasion/impact", "benign look-alike"
HABIT, GAP, GENERIC, SPECIFIC, ALIKE = "habit-only", "rule-gap", "generic", "specific", "look-alike"
_LOG = "get pods/log {ns}/{pod} ?follow=false&tailLines=500"
_T1_LOG = "get pods/log {t1}/{pod} ?follow=false&tailLines=500"
_EXEC = "?command=sh&stdin=true&stdout=true&stderr=true&tty=true ~40"


def _s(name: str, family: str, klass: str, who: str, needs: str, *lines: str, **more: Any) -> Scenario:
    return Scenario(name, family, klass, who, lines, tuple(needs.split()), **more)


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        # --- C1 stolen developer credentials
        _s("dev-cred-other-team-configmaps", STOLEN, HABIT, "developer", "NS", "list configmaps {t1} ?limit=500", "get configmaps {t1}/{t1}-app-config", "get configmaps {t1}/db-settings", "list configmaps {t2} ?limit=500", "get configmaps {t2}/feature-flags"),
        _s("dev-cred-secrets-sweep", STOLEN, GENERIC, "developer", "NS RATE CODE", "list secrets - ?limit=500 !403", "list namespaces - ?limit=500", "list secrets {ns} ?limit=500", "list secrets {t1} ?limit=500 !403", "list secrets {t2} ?limit=500 !403", "list secrets kube-system ?limit=500 !403", "list secrets default ?limit=500 !403", wait=0.6),
        _s("dev-log-harvest", STOLEN, HABIT, "developer", "NS RATE", "list pods {ns} ?limit=500", "12x " + _LOG, "6x " + _T1_LOG, wait=0.5),
        _s("imagepull-secret-theft", STOLEN, HABIT, "developer", "RV NAME", "get serviceaccounts {ns}/default", "get secrets {ns}/regcred"),
        _s("dev-exec-prod-db-dump", STOLEN, GENERIC, "developer", "NS RV", "list pods prod ?limit=500", "get pods prod/postgres-0", "create pods/exec prod/postgres-0 ?command=pg_dump&command=-U&command=postgres&command=orders&stdout=true&stderr=true ~90"),
        _s("dev-portforward-datastore", STOLEN, GENERIC, "developer", "NS RV", "list services prod ?limit=500", "get pods prod/redis-0", "create pods/portforward prod/redis-0 ~300"),
        _s("dev-copy-out-tar", STOLEN, GENERIC, "developer", "NS URI", "get pods {t1}/{pod}", "create pods/exec {t1}/{pod} ?command=tar&command=cf&command=-&command=%2Fdata&stdout=true&stderr=true ~60"),
        _s("pod-environment-read", STOLEN, GENERIC, "developer", "NS URI", "list pods {t1} ?limit=500", "3x create pods/exec {t1}/{pod} ?command=env&stdout=true&stderr=true ~0.3"),
        _s("dev-cred-low-slow-secrets", STOLEN, HABIT, "developer", "NS SLOW NAME", *(f"get secrets {{ns}}/{name}" for name in ("db-creds", "api-token", "smtp", "stripe", "tls-wildcard", "oauth", "backup-key", "signing-key")), "get secrets {t1}/db-creds", "get secrets {t1}/api-token", slow=True),
        _s("slow-namespace-creep", STOLEN, HABIT, "developer", "NS SLOW", *(f"{verb} {{{place}}}{rest}" for place in ("t1", "t2", "t3") for verb, rest in (("list pods", " ?limit=500"), ("get configmaps", "/db-settings"), ("list services", " ?limit=500"))), slow=True),
        _s("slow-log-reading", STOLEN, HABIT, "developer", "NS SLOW", "16x " + _T1_LOG, slow=True),
        _s("slow-config-collection", LATERAL, HABIT, "ci", "NS SLOW", "10x get configmaps {t1}/{app}-config", "4x get secrets {t1}/db-creds", slow=True),
        _s("dormant-account-revival", STOLEN, HABIT, "dormant", "NS CLIENT", "discover", "list pods {ns} ?limit=500", "list configmaps {ns} ?limit=500", "get secrets {ns}/db-creds", "list secrets {ns} ?limit=500", mode="new-ip-and-ua"),
        _s("dev-cred-new-place-and-client", STOLEN, HABIT, "developer", "CLIENT ORDER", "discover", "list pods {ns} ?limit=500", "get secrets {ns}/dev-db", "get secrets {ns}/db-creds", "list serviceaccounts {ns} ?limit=500", mode="new-ip-and-ua"),
        # --- C2 mining
        _s("miner-deployment-stealth", MINING, GENERIC, "developer", "RV RATE BODY", "create deployments {ns}/metrics-agent #miner=ghcr.io/x/metrics-agent:1", "patch deployments/scale {ns}/metrics-agent #replicas=40", wait=5),
        _s("miner-daemonset-privileged", MINING, SPECIFIC, "runner", "RV CLIENT XP", "create daemonsets kube-system/kube-proxy-agent #daemonset=docker.io/u/proxy:1"),
        _s("miner-scale-abuse", MINING, HABIT, "developer", "RV BODY", "get horizontalpodautoscalers {ns}/{app}", "patch horizontalpodautoscalers {ns}/{app} #hpa", "get resourcequotas {ns}/quota", "update resourcequotas {ns}/quota #quota"),
        _s("miner-cronjob", MINING, GAP, "developer", "RV BODY", "create cronjobs {ns}/log-rotate #cronjob=ghcr.io/x/rotate:2", "get cronjobs {ns}/log-rotate"),
        _s("miner-image-swap-ci", MINING, HABIT, "ci", "BODY XP", "get deployments {ns}/{app}", "patch deployments {ns}/{app} #image=ghcr.io/x/web:9"),
        _s("miner-gpu-job", MINING, GAP, "data-science", "RV BODY", "create jobs ml/train-gpu-{hex} #gpujob=ghcr.io/x/trainer:1", "get jobs ml/train-gpu-{hex}"),
        _s("miner-campaign-clusterrole", MINING, GENERIC, "app", "RV BODY", "create clusterroles -/kube-controller #adminrole", "create clusterrolebindings -/kube-controller #bind=kube-controller", "create daemonsets kube-system/kube-controller #daemonset=docker.io/kc/kc:1", wait=0.8),
        # --- C3 flaws of the API server
        _s("cve-2020-8554-externalip-mitm", FLAW, GAP, "developer", "RV BODY", "create services {ns}/dns-cache #externalip", "patch services/status {ns}/{app} #ingressip"),
        _s("cve-2023-2728-ephemeral-secret", FLAW, GENERIC, "developer", "RV BODY", "get pods {ns}/{pod}", "patch pods/ephemeralcontainers {ns}/{pod} #ephemeral", "create pods/attach {ns}/{pod} ?container=debugger&stdin=true&stdout=true&tty=true ~30"),
        _s("unauth-probing-kube-hunter", FLAW, SPECIFIC, "anonymous", "RATE CODE", "visit /version", "visit /api !403", "list pods - ?limit=500 !403", "list namespaces - !403", "list roles - !403", "list clusterroles - !403", "list secrets - !403", "list nodes - !403", wait=0.08, mode="new-ip-and-ua"),
        _s("upgrade-aggregation-escalation", FLAW, GAP, "developer", "RV URI", "get services/proxy kube-system/metrics-server >/apis/metrics.k8s.io/v1beta1/ !503", "get services/proxy kube-system/metrics-server >/api/v1/secrets !503", wait=0.5),
        _s("cr-wrong-scope", FLAW, GAP, "developer", "RV NS", "get clusterissuers {ns}/letsencrypt", "patch clusterissuers {ns}/letsencrypt"),
        _s("node-redirect", FLAW, GAP, "node", "URI RV", "get pods/proxy {t1}/{pod} >/run/{t1}/x", "create pods/exec {t1}/{pod} ?command=id&stdout=true ~0.2", wait=0.4),
        _s("node-address-proxy", FLAW, GAP, "sre", "RV BODY URI", "patch nodes/status /{node} #nodeaddress", "get nodes/proxy /{node} >/metrics", "get nodes/proxy /{node}:6443 >/api/v1/secrets"),
        _s("node-admission-bypass", FLAW, GAP, "node", "RV BODY", "update nodes /{node} #cordon", "patch nodes /{node} #rack", wait=0.5),
        _s("cr-cross-read", FLAW, HABIT, "developer", "NS RV", "list externalsecrets {t1}", "get externalsecrets {t1}/db-creds", "get certificates {t2}/{t2}-tls"),
        _s("payload-dos", FLAW, GAP, "app", "RATE BODY", "40x patch services {ns}/{app} #huge", wait=0.05),
        _s("apiservice-redirect", FLAW, SPECIFIC, "sre", "RV BODY", "get apiservices -/v1beta1.metrics.k8s.io", "patch apiservices -/v1beta1.metrics.k8s.io #apiservice"),
        # --- C4 lateral movement
        _s("sa-token-outside-cluster", LATERAL, HABIT, "app", "RV CLIENT", "list pods {ns} ?limit=500", "get configmaps {ns}/{app}-config", "list endpoints {ns} ?limit=500", "list services {ns} ?limit=500", mode="new-ip"),
        _s("ci-token-list-secrets", LATERAL, GENERIC, "ci", "NS RV ORDER", "list secrets {ns} ?labelSelector=app%3D{app}", "list secrets {t1}", "list secrets {t2}", "get secrets {t1}/db-creds"),
        _s("secret-watch-evasion", LATERAL, GAP, "developer", "NS RV", "watch secrets {ns} ?watch=true ~8", "watch secrets {t1} ?watch=true ~8", wait=6),
        _s("ssar-enum-rakkess", LATERAL, GAP, "app", "RV RATE CLIENT", "180x create selfsubjectaccessreviews - #sar", wait=0.05, mode="new-ip-and-ua"),
        _s("nodes-proxy-metrics-path-cover", LATERAL, GAP, "prometheus-k8s", "URI", "get nodes/proxy /{node} >/exec/{t1}/{pod}/app?command=id&x=metrics !400", "get nodes/proxy /{node} >/exec/{t1}/{pod}/app?command=cat%20/etc/shadow&x=metrics !400", wait=3, mode="same"),
        _s("token-through-exec", LATERAL, GENERIC, "developer", "NS URI", "get pods {t1}/{pod}", "create pods/exec {t1}/{pod} ?command=cat&command=%2Fvar%2Frun%2Fsecrets%2Fkubernetes.io%2Fserviceaccount%2Ftoken&stdout=true ~0.3"),
        _s("token-request-mint", LATERAL, GAP, "developer", "RV NS", "list serviceaccounts {ns} ?limit=500", "create serviceaccounts/token {ns}/ci-deployer #tokenrequest"),
        _s("token-secret-longlived", LATERAL, GAP, "developer", "RV NAME", "create secrets {ns}/deployer-token", "get secrets {ns}/deployer-token"),
        _s("cluster-secret-dump", LATERAL, GENERIC, "argocd-server", "RV RATE", "list namespaces -", "list secrets - ?limit=500", "list secrets - ?limit=500&continue=x", wait=0.6),
        _s("release-secret-harvest", LATERAL, HABIT, "release", "NS NAME RATE", "list secrets {t1} ?labelSelector=owner%3Dhelm", "4x get secrets {t1}/sh.helm.release.v1.{app}.v1", "4x get secrets {t2}/sh.helm.release.v1.{app}.v1", wait=0.5),
        _s("nodes-proxy-kubelet-exec", LATERAL, GAP, "prometheus-k8s", "URI", "get nodes/proxy /{node} >/pods", "create nodes/proxy /{node} >/run/{t1}/{pod}/app?cmd=id", wait=2),
        _s("operator-as-proxy", LATERAL, HABIT, "postgres-operator", "NS RV", "list secrets {t1}", "get secrets {t1}/db-creds", "create pods/exec {t1}/{pod} ?command=sh&stdout=true ~5"),
        _s("mass-403-probing", LATERAL, GENERIC, "app", "RATE CODE", *(f"list {resource} {place} !403" for place in ("kube-system", "{t1}") for resource in ("secrets", "configmaps", "pods", "serviceaccounts", "roles", "deployments")), wait=0.15),
        _s("node-credential-abuse", LATERAL, SPECIFIC, "node", "RV CLIENT", "list pods - ?limit=500", "get secrets {t1}/db-creds", "get secrets prod/stripe", "create serviceaccounts/token prod/payments #tokenrequest", wait=0.3, mode="new-ip-and-ua"),
        _s("exec-interactive-then-silent", LATERAL, GENERIC, "developer", "NS RV", "list pods {t1} ?limit=500", f"get pods/exec {{t1}}/{{pod}} {_EXEC}"),
        # --- C4 escalation
        _s("impersonate-quiet-sa", RBAC, HABIT, "developer", "NS NAME IMP", "get secrets {t1}/db-creds &system:serviceaccount:{t1}:worker", "list configmaps {t1} &system:serviceaccount:{t1}:worker", wait=2),
        _s("impersonate-masters", RBAC, SPECIFIC, "sre", "IMP", "list secrets - &system:admin", "get secrets kube-system/etcd-certs &system:admin"),
        _s("rbac-bind-verb-rolebinding", RBAC, GENERIC, "developer", "NS RV XP", "get clusterroles -/admin", "create rolebindings prod/dev-tmp #selfbind=admin"),
        _s("rbac-escalate-patch-role", RBAC, GAP, "developer", "RV BODY", "get clusterroles -/team-{ns}-viewer", "patch clusterroles -/team-{ns}-viewer #widen"),
        _s("pod-with-stronger-sa", RBAC, GENERIC, "developer", "NS RV BODY", "create pods argocd/dbg #podas=argocd-application-controller", "create pods/exec argocd/dbg ?command=sh&stdin=true&stdout=true&tty=true ~30", wait=4),
        _s("privileged-pod", RBAC, SPECIFIC, "developer", "RV BODY", "create pods {ns}/node-debug-{hex} #privileged=busybox:stable"),
        _s("csr-client-cert", RBAC, GAP, "developer", "RV BODY", "create certificatesigningrequests -/{hex}-client #csr=kubernetes.io/kube-apiserver-client", "get certificatesigningrequests -/{hex}-client"),
        _s("csr-signer-approval", RBAC, GAP, "security", "RV BODY", "list certificatesigningrequests - ?limit=500", "update certificatesigningrequests/approval -/{hex}-client #approve"),
        _s("rbac-create-admin-clusterrole", RBAC, SPECIFIC, "sre", "RV BODY", "create clusterroles -/ops-extra #adminrole", "create clusterrolebindings -/ops-extra #bind=ops-extra"),
        _s("binding-subject-append", RBAC, GAP, "iac", "BODY", "get clusterrolebindings -/sre-admin", "patch clusterrolebindings -/sre-admin #subject"),
        _s("aggregation-label", RBAC, GAP, "release", "RV BODY", "get clusterroles -/metrics-extra", "patch clusterroles -/metrics-extra #aggregate"),
        _s("rogue-node", RBAC, GAP, "app", "RV BODY", "create certificatesigningrequests -/node-csr-{hex} #csr=kubernetes.io/kube-apiserver-client-kubelet", "create nodes -/{node}-b #rack", wait=0.6),
        _s("ephemeral-container-debug", RBAC, GENERIC, "developer", "RV BODY NS", "get pods {t1}/{pod}", "patch pods/ephemeralcontainers {t1}/{pod} #netshoot", "create pods/attach {t1}/{pod} ?container=debugger&stdin=true&tty=true ~30"),
        _s("host-path-log-escape", RBAC, SPECIFIC, "developer", "RV BODY", "create pods {ns}/logview-{hex} #hostpath=busybox:stable", "get pods/log {ns}/logview-{hex} ?tailLines=500", wait=4),
        _s("privileged-template", RBAC, SPECIFIC, "ci", "BODY RV", "create daemonsets {ns}/node-tuner #daemonset=registry.corp.example/tools/tuner:1"),
        # --- persistence, evasion, impact
        _s("sidecar-injection", PERSIST, GENERIC, "developer", "NS BODY XP", "get deployments {t1}/{app1}", "patch deployments {t1}/{app1} #sidecar=ghcr.io/x/envoy-helper:1"),
        _s("endpoints-hijack", PERSIST, GAP, "app", "NS RV CLIENT XP", "list endpointslices prod", "get endpointslices prod/checkout-pj4gp", "patch endpointslices prod/checkout-pj4gp #endpoint=10.1.2.3", wait=0.1),
        _s("event-deletion", PERSIST, SPECIFIC, "developer", "RV RATE", "list events {ns} ?limit=500", "6x delete events {ns}/{pod}.18eab17a{hex}", wait=0.8),
        _s("event-bulk-deletion", PERSIST, SPECIFIC, "release", "RV", "deletecollection events {t1}"),
        _s("networkpolicy-delete", PERSIST, GAP, "developer", "NS RV XP", "list networkpolicies prod", "delete networkpolicies prod/default-deny #delete"),
        _s("webhook-admission-backdoor", PERSIST, SPECIFIC, "sre", "RV BODY", "list mutatingwebhookconfigurations -", "create mutatingwebhookconfigurations -/audit-hook #mutate"),
        _s("policy-engine-removal", PERSIST, GAP, "sre", "RV NS", "get validatingwebhookconfigurations -/kyverno-resource-validating-webhook-cfg", "patch validatingwebhookconfigurations -/kyverno-resource-validating-webhook-cfg #hookoff", "patch deployments/scale kyverno/kyverno #replicas=0"),
        _s("cronjob-persistence", PERSIST, GAP, "ci", "RV BODY", "create cronjobs {ns}/cert-refresh #cronjob=ghcr.io/x/refresh:1"),
        _s("coredns-poisoning", PERSIST, SPECIFIC, "sre", "NAME RV", "get configmaps kube-system/coredns", "patch configmaps kube-system/coredns", "delete pods kube-system/{kubepod} #deletepod"),
        _s("cloud-auth-map", PERSIST, SPECIFIC, "iac", "NAME RV", "get configmaps kube-system/aws-auth", "patch configmaps kube-system/aws-auth"),
        _s("look-alike-names", PERSIST, GENERIC, "developer", "NS NAME", "create pods kube-system/kube-proxy-{hex} #pod=docker.io/u/kube-proxy:1", "get pods kube-system/kube-proxy-{hex}"),
        _s("pod-security-label", PERSIST, GAP, "release", "RV BODY", "patch namespaces -/{ns} #psa"),
        _s("namespace-ransom", PERSIST, GENERIC, "sre", "RV RATE", "list persistentvolumeclaims {t1}", "3x delete deployments {t1}/{app} #delete", "delete persistentvolumeclaims {t1}/data-0", "create configmaps {t1}/read-me", wait=0.7),
        _s("workload-deletion-wave", PERSIST, GENERIC, "release", "RATE NS", *(f"delete deployments {{t{i}}}/{{app{i}}} #delete" for i in (1, 2, 3)), wait=0.4),
        _s("snapshot-volume-exfil", PERSIST, GAP, "dba", "RV", "list persistentvolumeclaims prod ?limit=500", "create volumesnapshots prod/s-{hex}", "get volumesnapshots prod/s-{hex}"),
        _s("ingress-hijack", PERSIST, GAP, "developer", "NS BODY", "get ingresses prod/shop", "patch ingresses prod/shop #hijack"),
        _s("exposed-dashboard", PERSIST, GENERIC, "anonymous", "CLIENT", "get services/proxy kube-system/https:kubernetes-dashboard: >/api/v1/secret !403", "get services/proxy kube-system/https:kubernetes-dashboard: >/ !403", wait=0.4, mode="new-ip-and-ua"),
        _s("audit-silence", PERSIST, GAP, "sre", "NS RV", "get configmaps kube-system/audit-policy", "patch configmaps kube-system/audit-policy", "patch deployments/scale logging/loki #replicas=0"),
        _s("sensitive-read-by-insider", PERSIST, HABIT, "release", "NS SLOW NAME", "get secrets prod/gdpr-export-key", "get configmaps prod/customer-map", wait=3, mode="same"),
        # --- look-alikes
        _s("benign-oncall-incident", BENIGN, ALIKE, "sre", "", "list pods prod ?limit=500", "list events prod ?limit=500", "list nodes - ?limit=500", "get configmaps prod/{prodapp}-config", "get pods/log prod/{prodpod} ?tailLines=200", "get pods/log prod/{prodpod} ?tailLines=500", "create pods/exec prod/{prodpod} ?command=sh&stdin=true&stdout=true&tty=true ~20", "patch pods/ephemeralcontainers prod/{prodpod} #netshoot", "patch deployments prod/{prodapp} #restart", "patch deployments/scale prod/{prodapp} #replicas=4", mode="new-ip"),
        _s("benign-new-joiner", BENIGN, ALIKE, "joiner", "", "discover", "6x create selfsubjectaccessreviews - #sar", "create selfsubjectrulesreviews - #rules", "list namespaces - ?limit=500 !403", "list pods {ns} ?limit=500", "list configmaps {ns} ?limit=500", "get secrets {ns}/dev-db", "list pods {t1} ?limit=500 !403", mode="new-ip-and-ua", after="joins"),
        _s("benign-laptop-change", BENIGN, ALIKE, "developer", "", "discover", "list pods {ns} ?limit=500", "get secrets {ns}/dev-db", "list deployments {ns} ?limit=500", "patch deployments {ns}/{app} #image", mode="new-ip-and-ua", after="keeps"),
        _s("benign-ci-migration", BENIGN, ALIKE, "new-ci", "", "get serviceaccounts {ns}/{app}", "get configmaps {ns}/{app}-config", "get secrets {ns}/regcred", "patch deployments {ns}/{app} #image", "patch deployments {t1}/{app1} #image", "create jobs {ns}/migrate-9{hex} #job", mode="new-ip-and-ua", after="migrates"),
        _s("benign-blue-green-deploy", BENIGN, ALIKE, "argocd-application-controller", "", "create deployments prod/web-green #deployment", "create services prod/web-green #service", "create configmaps prod/web-green-cfg", "patch services prod/web #selector", "delete deployments prod/web-blue #delete", "create ingresses prod/web #ingress", "patch roles prod/web #webrole", mode="same"),
        _s("benign-kubectl-upgrade", BENIGN, ALIKE, "developer", "", "list pods {ns} ?limit=500", f"get pods/exec {{ns}}/{{pod}} {_EXEC}", _LOG, mode="new-ua", after="keeps"),
        _s("benign-node-drain", BENIGN, ALIKE, "sre", "", "get nodes /{node}", "patch nodes /{node} #cordon", "list pods - ?fieldSelector=spec.nodeName%3D{node}", "8x create pods/eviction {ns}/{pod} #evict", "delete nodes /{node} #delete", wait=0.3, mode="same"),
        _s("benign-secret-rotation", BENIGN, ALIKE, "new-rotator", "", *(f"{verb} secrets {place}/db-creds" for place in ("{t1}", "{t2}", "prod") for verb in ("get", "update")), "patch deployments prod/{prodapp} #restart", mode="new-ip-and-ua"),
        _s("benign-namespace-onboarding", BENIGN, ALIKE, "iac", "", "create namespaces -/team-{hex} #namespace", "create rolebindings team-{hex}/dev-edit #bind=edit", "create serviceaccounts team-{hex}/deployer #account", "create roles team-{hex}/deployer #deployrole", "create secrets team-{hex}/regcred", "create resourcequotas team-{hex}/quota #hardquota", "create networkpolicies team-{hex}/default-deny #denyall", wait=0.2, mode="same"),
        _s("benign-backup-first-run", BENIGN, ALIKE, "new-backup", "", *(f"list {resource} - ?limit=500" for resource in ("namespaces", "pods", "secrets", "configmaps", "serviceaccounts", "roles", "rolebindings", "clusterroles", "clusterrolebindings", "persistentvolumes")), "create volumesnapshots prod/s", "create pods/exec prod/postgres-0 ?command=%2Fsbin%2Ffsfreeze&command=--freeze&command=%2Fdata&stdout=true ~1", wait=0.2, mode="new-ip-and-ua"),
        _s("benign-helm-upgrade-operator", BENIGN, ALIKE, "sre", "", "discover", "list secrets cert-manager ?labelSelector=owner%3Dhelm", "get secrets cert-manager/sh.helm.release.v1.cm.v4", "patch clusterroles -/cert-manager-edit #certrole", "patch validatingwebhookconfigurations -/cert-manager-webhook #hook", "patch customresourcedefinitions -/certificates.cert-manager.io #crd", "patch deployments cert-manager/cert-manager #image=quay.io/jetstack/cert-manager-controller:v1.3", "create secrets cert-manager/sh.helm.release.v1.cm.v5", wait=0.05, mode="helm"),
        _s("benign-monitoring-rollout", BENIGN, ALIKE, "new-monitoring", "", "create clusterroles -/prom-k8s #reader", "create daemonsets monitoring/node-exporter #exporter=quay.io/prometheus/node-exporter:v1.7", wait=0.5, mode="new-ip-and-ua"),
        _s("benign-security-scan", BENIGN, ALIKE, "new-scanner", "", *(f"list {resource} - ?limit=500" for resource in ("pods", "configmaps", "roles", "clusterroles", "secrets", "serviceaccounts")), *(f"get secrets {place}/regcred" for place in ("{ns}", "{t1}", "{t2}")), wait=0.2, mode="new-ip-and-ua"),
        _s("benign-broken-rbac-controller", BENIGN, ALIKE, "app", "", "60x list configmaps {ns} ?limit=500 !403", "get leases {ns}/lock", "12x create events {ns}/q.{hex}a1b2 !403", wait=3, mode="same"),
        _s("benign-cluster-upgrade", BENIGN, ALIKE, "new-upgrader", "", "patch configmaps kube-system/coredns", "update configmaps kube-system/kubeadm-config", "update clusterroles -/system:node-proxier #proxier", "patch daemonsets kube-system/kube-proxy #image=registry.k8s.io/kube-proxy:v1.30", mode="new-ip-and-ua"),
        _s("benign-breakglass-drill", BENIGN, ALIKE, "admin", "", "create clusterrolebindings -/drill-4711 #bind=cluster-admin", "list secrets - ?limit=500", "delete clusterrolebindings -/drill-4711 #delete", wait=20, mode="new-ip"),
        _s("benign-holiday-release", BENIGN, ALIKE, "developer", "", "patch deployments {ns}/{app} #image", "list pods {ns} ?limit=500", _LOG, "create pods/exec {ns}/{pod} ?command=curl&command=https%3A%2F%2Flocalhost%3A8443%2Fhealthz&stdout=true ~1", mode="night"),
        _s("benign-ordinary-dev-day", BENIGN, ALIKE, "developer", "", "list pods {ns} ?limit=500", "get pods {ns}/{pod}", "get configmaps {ns}/{app}-config", "get namespaces -/{ns}", "get secrets {ns}/dev-db", _LOG, "create pods/portforward {ns}/{pod} ~60", mode="same"),
    )
}  # fmt: skip
SLOW = tuple(name for name, scenario in SCENARIOS.items() if scenario.slow)
