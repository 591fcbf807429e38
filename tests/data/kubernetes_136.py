"""Events as Kubernetes 1.36 writes them, of requests that older releases and simpler clusters do not have."""

from __future__ import annotations

from typing import Any, NamedTuple


class Request(NamedTuple):
    """An event with what is to be read from it: verb, resource and traits of the action, its level, and words."""

    name: str
    event: dict[str, Any]
    verb: str
    resource: str
    traits: set[str]
    level: str
    words: str


def event(verb: str, path: str, ref: dict[str, str], **more: Any) -> dict[str, Any]:
    """An event of a person with a bound token, as kube-apiserver 1.36 logs it."""
    extra = {
        "authentication.kubernetes.io/credential-id": ["X509SHA256=7b1ae9ea6b9b9f4f1d2d1b0f9a3c5e7f"],
    }
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Request",
        "auditID": "5f0d8c52-0f4e-4a08-8f0e-2a9f6d7d1c36",
        "stage": "ResponseComplete",
        "requestURI": path,
        "verb": verb,
        "user": {"username": "alice@example.com", "groups": ["dev", "system:authenticated"], "extra": extra},
        "sourceIPs": ["10.0.0.7"],
        "userAgent": "kubectl/v1.36.2 (linux/amd64) kubernetes/3c7c2a1",
        "objectRef": ref,
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": "2026-11-23T14:31:12.575126Z",
        "stageTimestamp": "2026-11-23T14:31:12.583330Z",
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
    } | more


def _of(
    group: str, resource: str, name: str, body: dict[str, Any], verb: str = "create", namespace: str = ""
) -> dict[str, Any]:
    """A request for a custom or cluster-wide object of API version v1."""
    within = f"/namespaces/{namespace}" if namespace else ""
    path = (
        f"/apis/{group}/v1{within}/{resource}?fieldManager=kubectl-client-side-apply&fieldValidation=Strict"
    )
    ref = {"resource": resource, "namespace": namespace, "name": name, "apiGroup": group, "apiVersion": "v1"}
    return event(verb, path, {key: value for key, value in ref.items() if value}, requestObject=body)


def _pod(subresource: str, verb: str, body: Any = None, query: str = "") -> dict[str, Any]:
    ref = {
        "resource": "pods",
        "namespace": "web",
        "name": "web-0",
        "apiVersion": "v1",
        "subresource": subresource,
    }
    more = {} if body is None else {"requestObject": body}
    return event(verb, f"/api/v1/namespaces/web/pods/web-0/{subresource}{query}", ref, **more)


_RULES = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
_POLICY = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingAdmissionPolicy",
    "metadata": {"name": "sidecar"},
    "spec": {
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": {
            "matchPolicy": "Equivalent",
            "resourceRules": _RULES,
            "namespaceSelector": {"matchLabels": {"a": "b"}},
        },
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}],
    },
}
_BINDING = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingAdmissionPolicyBinding",
    "metadata": {"name": "sidecar-all"},
    "spec": {"policyName": "sidecar", "matchResources": {"resourceRules": _RULES}},
}
_CLIENT = {"service": {"namespace": "tools", "name": "convert", "path": "/convert"}, "caBundle": "LS0t"}
_DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "conversion": {
            "strategy": "Webhook",
            "webhook": {"clientConfig": _CLIENT, "conversionReviewVersions": ["v1"]},
        },
    },
}
_INGRESS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "Ingress",
    "metadata": {
        "name": "web",
        "annotations": {
            "nginx.ingress.kubernetes.io/configuration-snippet": "more_set_headers 'a: b';",
            "nginx.ingress.kubernetes.io/mirror-target": "https://elsewhere.example",
        },
    },
    "spec": {
        "rules": [{"host": "shop.example", "http": {"paths": []}}],
        "tls": [{"hosts": ["shop.example"]}],
    },
}
_ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "shop", "namespace": "web"},
    "spec": {
        "parentRefs": [{"name": "edge", "namespace": "infra"}],
        "hostnames": ["shop.example"],
        "rules": [
            {
                "filters": [
                    {
                        "type": "RequestMirror",
                        "requestMirror": {"backendRef": {"name": "tap", "namespace": "tools", "port": 80}},
                    }
                ],
                "backendRefs": [{"name": "shop", "port": 80}],
            }
        ],
    },
}
_GATEWAY = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "edge", "namespace": "infra"},
    "spec": {
        "gatewayClassName": "istio",
        "listeners": [
            {"name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": {"namespaces": {"from": "All"}}}
        ],
    },
}
_STORE = {
    "apiVersion": "external-secrets.io/v1",
    "kind": "ClusterSecretStore",
    "metadata": {"name": "vault"},
    "spec": {
        "provider": {
            "vault": {
                "server": "https://vault.elsewhere.example:8200",
                "path": "secret",
                "auth": {"tokenSecretRef": {"name": "vault-token", "namespace": "payments", "key": "token"}},
            }
        }
    },
}
_EXTERNAL = {
    "apiVersion": "external-secrets.io/v1",
    "kind": "ExternalSecret",
    "metadata": {"name": "db", "namespace": "web"},
    "spec": {
        "secretStoreRef": {"kind": "ClusterSecretStore", "name": "vault"},
        "target": {"name": "db"},
        "data": [{"secretKey": "password", "remoteRef": {"key": "payments/db", "property": "password"}}],
        "dataFrom": [{"find": {"name": {"regexp": ".*"}}}],
    },
}
_NODE_POOL = {
    "apiVersion": "karpenter.sh/v1",
    "kind": "NodePool",
    "metadata": {"name": "gpu"},
    "spec": {
        "limits": {"cpu": "1000"},
        "template": {
            "spec": {
                "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
                "taints": [{"key": "gpu", "effect": "NoSchedule"}],
                "requirements": [],
            }
        },
    },
}
_NODE_CLASS = {
    "apiVersion": "karpenter.k8s.aws/v1",
    "kind": "EC2NodeClass",
    "metadata": {"name": "gpu"},
    "spec": {
        "userData": "#!/bin/bash\ncurl x | sh",
        "metadataOptions": {"httpPutResponseHopLimit": 2, "httpTokens": "optional"},
    },
}
_PRIORITY = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "first"},
    "value": 1_000_000,
    "globalDefault": True,
}
_RESIZE = {
    "spec": {
        "containers": [{"name": "web", "resources": {"requests": {"cpu": "64"}, "limits": {"cpu": "64"}}}]
    }
}
_DEBUG = {
    "spec": {
        "ephemeralContainers": [
            {
                "name": "debugger",
                "image": "busybox:1.36",
                "command": ["sh"],
                "targetContainerName": "web",
                "securityContext": {"privileged": True},
            }
        ]
    }
}
_APPLY = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "web"},
    "spec": {
        "replicas": 3,
        "template": {
            "spec": {"containers": [{"name": "web", "image": "registry.example/web:2"}], "hostNetwork": True}
        },
    },
}
_EVICTION = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web-0", "namespace": "web"}}

_ADMISSION, _GATEWAYS = "admissionregistration.k8s.io", "gateway.networking.k8s.io"
_DEPLOYMENT = {
    "resource": "deployments",
    "namespace": "web",
    "name": "web",
    "apiGroup": "apps",
    "apiVersion": "v1",
}
REQUESTS = (
    Request(
        "MutatingAdmissionPolicy",
        _of(_ADMISSION, "mutatingadmissionpolicies", "sidecar", _POLICY),
        "create",
        f"{_ADMISSION}/mutatingadmissionpolicies",
        {
            "failurePolicy=Ignore",
            "reinvocation=IfNeeded",
            "mutation=ApplyConfiguration",
            "resource=pods",
            "webhookExempts",
        },
        "high",
        "created MutatingAdmissionPolicy sidecar",
    ),
    Request(
        "binding of a policy",
        _of(_ADMISSION, "mutatingadmissionpolicybindings", "sidecar-all", _BINDING),
        "create",
        f"{_ADMISSION}/mutatingadmissionpolicybindings",
        {"policy=sidecar", "resource=pods"},
        "high",
        "created MutatingAdmissionPolicyBinding sidecar-all",
    ),
    Request(
        "conversion webhook",
        _of("apiextensions.k8s.io", "customresourcedefinitions", "widgets.example.com", _DEFINITION),
        "create",
        "apiextensions.k8s.io/customresourcedefinitions",
        {"conversionWebhook", "webhookService=tools", "scope=Namespaced"},
        "high",
        "created custom resource definition widgets.example.com",
    ),
    Request(
        "ingress with a snippet",
        _of("networking.k8s.io", "ingresses", "web", _INGRESS, namespace="web"),
        "create",
        "networking.k8s.io/ingresses",
        {"snippet", "mirror", "host=shop.example"},
        "high",
        "created Ingress web in web",
    ),
    Request(
        "HTTPRoute",
        _of(_GATEWAYS, "httproutes", "shop", _ROUTE, namespace="web"),
        "create",
        f"{_GATEWAYS}/httproutes",
        {"host=shop.example", "parentIn=infra", "filter=RequestMirror", "backendIn=tools"},
        "medium",
        "created HTTPRoute shop in web",
    ),
    Request(
        "Gateway",
        _of(_GATEWAYS, "gateways", "edge", _GATEWAY, namespace="infra"),
        "create",
        f"{_GATEWAYS}/gateways",
        {"gatewayClass=istio", "wildcardHost", "noTLS", "routesFromAll"},
        "medium",
        "created Gateway edge in infra",
    ),
    Request(
        "ClusterSecretStore",
        _of("external-secrets.io", "clustersecretstores", "vault", _STORE),
        "create",
        "external-secrets.io/clustersecretstores",
        {"provider=vault", "server=vault.elsewhere.example:*", "credentialIn=payments"},
        "high",
        "created ClusterSecretStore vault",
    ),
    Request(
        "ExternalSecret",
        _of("external-secrets.io", "externalsecrets", "db", _EXTERNAL, namespace="web"),
        "create",
        "external-secrets.io/externalsecrets",
        {"store=ClusterSecretStore:vault", "reads=payments/db", "readsAll"},
        "medium",
        "created ExternalSecret db in web",
    ),
    Request(
        "NodePool",
        _of("karpenter.sh", "nodepools", "gpu", _NODE_POOL),
        "create",
        "karpenter.sh/nodepools",
        {"hard.cpu=512", "nodeClass=gpu", "taint=NoSchedule"},
        "medium",
        "created NodePool gpu",
    ),
    Request(
        "EC2NodeClass",
        _of("karpenter.k8s.aws", "ec2nodeclasses", "gpu", _NODE_CLASS),
        "create",
        "karpenter.k8s.aws/ec2nodeclasses",
        {"userData", "instanceTokens=optional", "instanceTokensForPods"},
        "high",
        "created EC2NodeClass gpu",
    ),
    Request(
        "PriorityClass",
        _of("scheduling.k8s.io", "priorityclasses", "first", _PRIORITY),
        "create",
        "scheduling.k8s.io/priorityclasses",
        {"value=524288", "globalDefault"},
        "medium",
        "created PriorityClass first",
    ),
    Request(
        "resize",
        _pod("resize", "patch", _RESIZE),
        "patch",
        "pods/resize",
        {"cpu=64", "containers=1", "spec.containers.name"},
        "medium",
        "resized Pod web-0 in web",
    ),
    Request(
        "ephemeral container",
        _pod("ephemeralcontainers", "patch", _DEBUG),
        "patch",
        "pods/ephemeralcontainers",
        {"ephemeralContainer", "targetContainer", "privileged", "command=sh"},
        "high",
        "added a debug container to Pod web-0 in web",
    ),
    Request(
        "exec over a WebSocket",
        _pod("exec", "get", None, "?command=sh&container=web&stdin=true&stdout=true&tty=true")
        | {"stage": "ResponseStarted", "responseStatus": {"metadata": {}, "code": 101}},
        "connect",
        "pods/exec",
        set(),
        "high",
        "executed a command inside Pod web-0 in web",
    ),
    Request(
        "eviction within a budget",
        _pod("eviction", "create", _EVICTION),
        "create",
        "pods/eviction",
        set(),
        "low",
        "evicted Pod web-0 in web",
    ),
    Request(
        "server-side apply",
        event(
            "patch",
            "/apis/apps/v1/namespaces/web/deployments/web?fieldManager=kubectl&force=false",
            _DEPLOYMENT,
            requestObject=_APPLY,
        ),
        "patch",
        "apps/deployments",
        {"apply", "hostNetwork", "replicas=2"},
        "medium",
        "changed Deployment web in web",
    ),
)
