"""Which values of a field mean the same in every cluster; all others a starter model sees as unknown, as it will in yours."""

from __future__ import annotations

from collections.abc import Sequence

from data.actions.fields import FIELDS
from data.actions.vocabulary import SPECIALS, Vocabulary

#: API groups without a dot that are Kubernetes' own, beside the core group; those with one end in `.k8s.io`.
_GROUPS = frozenset(("apps", "batch", "autoscaling", "policy", "extensions"))
#: First words of the paths of Kubernetes' own API server.
_PATHS = frozenset(("api", "healthz", "livez", "metrics", "openapi", "readyz", "version"))
_NAMESPACES = frozenset(("-", "default", "kube-system", "kube-public", "kube-node-lease"))
_BINDINGS = ("ClusterRoleBinding system:", "ClusterRoleBinding cluster-admin")
_PLACES = frozenset(("loopback", "private", "public"))
#: Fields of which no value but "none" means the same elsewhere.
_OWN = frozenset(("images", "owner"))


def _is_kubernetes_resource(value: str) -> bool:
    if value.startswith("/"):
        first, _, rest = value[1:].partition("/")
        return first in _PATHS or (first == "apis" and _is_kubernetes_group(rest.split("/")[0]))
    group, slash, _ = value.partition("/")
    # `pods`, and `pods/log`: a resource of the core group has no dot, and its group is not written.
    return _is_kubernetes_group(group) if slash else "." not in value


def _is_kubernetes_group(group: str) -> bool:
    # Digits in a path are folded (`k8s` is `kNs`).
    return "." not in group or group.endswith((".k8s.io", ".kNs.io"))


def is_general(field: str, value: str) -> bool:
    """Whether a value of a field means the same in every cluster."""
    match field:
        case "resource":
            return _is_kubernetes_resource(value)
        case "namespace":
            return value in _NAMESPACES
        case "name":
            return value in ("-", "<named>")
        case "client":  # versions come and go, families stay
            return value.endswith("/?")
        case "place":
            return value in _PLACES
        case "binding":
            return value in ("-", "denied", "ClusterRoleBinding ?", "RoleBinding ?") or value.startswith(
                _BINDINGS
            )
        case "traits":  # labels, annotations and account names are the cluster's own
            return not any(part in value for part in ("serviceAccount=", "metadata.labels", "annotations"))
    return field not in _OWN or value == "-"


def shared_vocabulary(vocabularies: Sequence[Vocabulary], *, least: int = 2) -> Vocabulary:
    """The vocabulary of values that mean the same everywhere and that at least `least` clusters know (all, if there are fewer).

    Hours are not learned: they are those of the people of a cluster.
    """
    least = min(least, len(vocabularies))
    tokens: dict[str, list[str]] = {}
    for field in FIELDS:
        if field == "hour":
            tokens[field] = [*SPECIALS]
            continue
        found: dict[str, int] = {}
        for vocabulary in vocabularies:
            for value in vocabulary.tokens[field][len(SPECIALS) :]:
                found[value] = found.get(value, 0) + 1
        kept = [
            value
            for value, clusters in found.items()
            if field == "gap" or (clusters >= least and is_general(field, value))
        ]
        tokens[field] = [*SPECIALS, *kept]
    return Vocabulary(tokens, uses_hour=False)
