"""Traits of what extends a cluster: admission policies, conversion webhooks, gateways and routes, stores of secrets, node pools.

As of any body, traits name what was chosen (kinds, namespaces, hosts, providers); what may hold a secret is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from data.actions.body_values import (
    Json,
    Object,
    as_list,
    as_objects,
    folded_word,
    given_traits,
    magnitude,
    object_at,
    quantity,
    trait_fields,
)

#: Names of one body that become traits; more are as good as these.
_MOST_NAMES = 8
_MATCHED = ("*", "*/*", "secrets", "pods")
_MUTATIONS = (
    trait_fields("failurePolicy:failurePolicy= reinvocationPolicy:reinvocation= policyName:policy=", "spec"),
    trait_fields("kind:parameters=", "spec.paramKind"),
)


def _mutating_policy(body: Object, _actor: str) -> Iterator[str]:
    """MutatingAdmissionPolicies and their bindings: what is changed in whose objects, and what is left out."""
    yield from given_traits(body, *_MUTATIONS)
    spec = object_at(body, "spec")
    yield from (f"mutation={folded_word(one.get('patchType'))}" for one in as_objects(spec.get("mutations")))
    for key in ("matchConstraints", "matchResources"):
        match = object_at(spec, key)
        if any(match.get(name) for name in ("namespaceSelector", "objectSelector", "excludeResourceRules")):
            yield "webhookExempts"
        for rule in as_objects(match.get("resourceRules")):
            resources = as_list(rule.get("resources"))
            yield from (f"resource={one}" for one in _MATCHED if one in resources)
    if spec.get("matchConditions"):
        yield "webhookExempts"


_CONVERSION = (
    trait_fields("url:webhookURL", "spec.conversion.webhook.clientConfig"),
    trait_fields("namespace:webhookService=", "spec.conversion.webhook.clientConfig.service"),
)


def _definition(body: Object, _actor: str) -> Iterator[str]:
    """CustomResourceDefinitions: a conversion webhook sees, and may change, every object of the kind."""
    if object_at(body, "spec", "conversion").get("strategy") == "Webhook":
        yield "conversionWebhook"
    yield from given_traits(body, *_CONVERSION)


def _hosts(names: Iterable[Json]) -> Iterator[str]:
    for name in names:
        yield "wildcardHost" if not name or str(name).startswith("*") else "host=" + folded_word(name)


def _route(body: Object, _actor: str) -> Iterator[str]:
    """HTTPRoutes and the like: hosts, backends in other namespaces, and filters that copy or redirect requests."""
    spec = object_at(body, "spec")
    yield from _hosts(as_list(spec.get("hostnames"))[:_MOST_NAMES])
    yield from (
        f"parentIn={folded_word(parent['namespace'])}"
        for parent in as_objects(spec.get("parentRefs"))
        if parent.get("namespace")
    )
    for rule in as_objects(spec.get("rules")):
        backends = list(as_objects(rule.get("backendRefs")))
        filters = [one for place in (rule, *backends) for one in as_objects(place.get("filters"))]
        for one in filters:
            yield "filter=" + folded_word(one.get("type"))
            backends.append(object_at(one, "requestMirror", "backendRef"))
            if host := object_at(one, "requestRedirect").get("hostname"):
                yield "redirectTo=" + folded_word(host)
        yield from (
            f"backendIn={folded_word(backend['namespace'])}"
            for backend in backends
            if backend.get("namespace")
        )


def _gateway(body: Object, _actor: str) -> Iterator[str]:
    """Gateways: which hosts they take, from which namespaces, and whose certificates they show."""
    spec = object_at(body, "spec")
    yield from given_traits(body, trait_fields("gatewayClassName:gatewayClass=", "spec"))
    for listener in list(as_objects(spec.get("listeners")))[:_MOST_NAMES]:
        yield from _hosts([listener.get("hostname")])
        if not listener.get("tls") and listener.get("protocol") in ("HTTP", "TCP"):
            yield "noTLS"
        if object_at(listener, "allowedRoutes", "namespaces").get("from") == "All":
            yield "routesFromAll"
        for reference in as_objects(object_at(listener, "tls").get("certificateRefs")):
            if reference.get("namespace"):
                yield "certificateIn=" + folded_word(reference["namespace"])


def _grant(body: Object, _actor: str) -> Iterator[str]:
    """ReferenceGrants: who may refer to what in this namespace."""
    spec = object_at(body, "spec")
    yield from (f"grantsFrom={folded_word(one.get('namespace'))}" for one in as_objects(spec.get("from")))
    yield from (f"grantsTo={folded_word(one.get('kind'))}" for one in as_objects(spec.get("to")))


def _secret_store(body: Object, _actor: str) -> Iterator[str]:
    """SecretStores: which service secrets are read from, and with whose account."""
    provider = object_at(body, "spec", "provider")
    for name in list(provider)[:_MOST_NAMES]:
        yield "provider=" + folded_word(name)
        settings = object_at(provider, name)
        host = next((settings[key] for key in ("server", "url", "vaultUrl") if settings.get(key)), None)
        if host is not None:
            yield "server=" + folded_word(
                str(host).partition("://")[2].partition("/")[0].rpartition("@")[2] or host
            )
        for reference in _references(settings, 4):
            yield "credentialIn=" + folded_word(reference)


def _references(value: Json, depth: int) -> Iterator[str]:
    """Namespaces that references below an object name."""
    if not isinstance(value, dict) or not depth:
        return
    for key, inner in value.items():
        if isinstance(inner, dict):
            namespace = inner.get("namespace")
            if key.endswith("Ref") and isinstance(namespace, str) and namespace:
                yield namespace
            yield from _references(inner, depth - 1)


def _external_secret(body: Object, _actor: str) -> Iterator[str]:
    """ExternalSecrets and PushSecrets: which store, which of its secrets, and into which Secret."""
    spec = object_at(body, "spec")
    spec = object_at(spec, "externalSecretSpec") or spec
    stores = [object_at(spec, "secretStoreRef"), *as_objects(spec.get("secretStoreRefs"))]
    yield from (
        f"store={folded_word(one.get('kind') or 'SecretStore')}:{folded_word(one['name'])}"
        for one in stores
        if one.get("name")
    )
    sources = list(as_objects(spec.get("dataFrom")))
    if any(source.get("find") for source in sources):
        yield "readsAll"
    entries = list(as_objects(spec.get("data")))
    remotes = [
        *(object_at(one, "remoteRef") for one in entries),
        *(object_at(one, "extract") for one in sources),
    ]
    remotes += [object_at(one, "match", "remoteRef") for one in entries]
    keys = [one.get("key") or one.get("remoteKey") for one in remotes]
    yield from (f"reads={folded_word(key)}" for key in [key for key in keys if key][:_MOST_NAMES])


def _provider_class(body: Object, _actor: str) -> Iterator[str]:
    """SecretProviderClasses of the CSI driver."""
    spec = object_at(body, "spec")
    yield from given_traits(body, trait_fields("provider:provider=", "spec"))
    if spec.get("secretObjects"):
        yield "secretObjects"


def _node_pool(body: Object, _actor: str) -> Iterator[str]:
    """NodePools of Karpenter and the claims made of them: how many nodes, of which class, with which taints."""
    spec = object_at(body, "spec")
    node = object_at(spec, "template", "spec") or spec
    limits = object_at(spec, "limits")
    for name in list(limits)[:_MOST_NAMES]:
        yield f"hard.{folded_word(name)}=" + magnitude(int(quantity(limits[name])))
    yield from given_traits(node, trait_fields("name:nodeClass=", "nodeClassRef"))
    for taint in [*as_objects(node.get("taints")), *as_objects(node.get("startupTaints"))]:
        yield "taint=" + folded_word(taint.get("effect"))


_NODE_CLASS = (
    trait_fields("userData instanceProfile associatePublicIPAddress!:publicAddress", "spec"),
    trait_fields("httpTokens:instanceTokens=", "spec.metadataOptions"),
)


def _node_class(body: Object, _actor: str) -> Iterator[str]:
    """Node classes of Karpenter's providers: what a node runs when it starts, and what its pods may ask of the cloud."""
    yield from given_traits(body, *_NODE_CLASS)
    hops = object_at(body, "spec", "metadataOptions").get("httpPutResponseHopLimit")
    if isinstance(hops, int) and hops > 1:
        yield "instanceTokensForPods"


#: Resource -> what yields the traits of its body; the second argument is the caller's user name.
EXTENSION_READERS: Mapping[str, Callable[[Object, str], Iterable[str]]] = {
    **dict.fromkeys(("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"), _mutating_policy),
    "customresourcedefinitions": _definition,
    **dict.fromkeys(("httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes"), _route),
    "gateways": _gateway,
    "referencegrants": _grant,
    **dict.fromkeys(("secretstores", "clustersecretstores"), _secret_store),
    **dict.fromkeys(("externalsecrets", "clusterexternalsecrets", "pushsecrets"), _external_secret),
    "secretproviderclasses": _provider_class,
    **dict.fromkeys(("nodepools", "nodeclaims"), _node_pool),
    **dict.fromkeys(("ec2nodeclasses", "aksnodeclasses", "nodeclasses"), _node_class),
}
#: What an annotation of an ingress does -> parts of the names of such annotations, of several controllers.
_INGRESS = {
    "snippet": ("snippet", "/config-backend", "/config-frontend", "/config-global", "/backend-config"),
    "mirror": ("/mirror-target", "/mirror-uri"),
    "redirect": ("/permanent-redirect", "/temporal-redirect"),
    "authURL": ("/auth-url", "/auth-signin", "/auth-proxy-set-headers"),
    "middlewares": ("/router.middlewares",),
    "upstreamHost": ("/upstream-vhost", "/proxy-redirect-to"),
}


def ingress_annotations(body: Object) -> Iterator[str]:
    """What the annotations of an ingress make its controller do, by their names alone."""
    for key in object_at(body, "metadata", "annotations"):
        yield from (trait for trait, parts in _INGRESS.items() if any(part in key for part in parts))
