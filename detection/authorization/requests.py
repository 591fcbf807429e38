"""What a request asks for, as an authorizer of the API server sees it: read off its URI and verb.

The `objectRef` of an audit event is not that: the API server fills in names and namespaces from the body afterwards.
Source: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go` and RFC 3986.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, unquote

#: Subresources of a namespace itself; anything else below it is a resource in the namespace.
_OF_NAMESPACE = ("status", "finalize")
_SPECIAL_VERBS = ("proxy", "watch")
#: Verbs for which a field selector of one name stands for that name.
_BY_SELECTOR = ("list", "watch", "deletecollection")
#: Fields by which a node selects what is its own.
_OF_NODE = ("spec.nodeName", "nodeName")
_CACHED = 1 << 15


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """A request as RBAC judges it.

    Attributes:
        verb: audit verb; for a request outside the resource API its HTTP method in lower case.
        path: of a request outside the resource API; None for a resource.
        group, resource, subresource, namespace, name: of a resource; name is empty for list, watch and create.
        selected: the node that a field selector asks for, as (field, node).
    """

    verb: str
    path: str | None = None
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    selected: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_words(cls, verb: str, resource: str, namespace: str = "", name: str = "") -> AccessRequest:
        """A request for RESOURCE[/SUBRESOURCE][.GROUP], or for a path that begins with `/`."""
        if resource.startswith("/"):
            return cls(verb, resource)
        what, _, group = resource.partition(".")
        base, _, subresource = what.partition("/")
        return cls(verb, None, group, base, subresource, namespace, name)

    @property
    def combined(self) -> str:
        """Resource as rules name it: `pods/log`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def __str__(self) -> str:
        """As people write it: `get pods/log web-0 in shop`."""
        if self.path is not None:
            return f"{self.verb} {self.path}"
        what = f"{self.combined}.{self.group}" if self.group else self.combined
        words = (self.verb, what, self.name, f"in {self.namespace}" if self.namespace else "")
        return " ".join(word for word in words if word)


@lru_cache(_CACHED)
def access_request(verb: str, uri: str) -> AccessRequest:
    """What a request asks for.

    Args:
        verb: of the audit event.
        uri: its `requestURI`, path and query.
    """
    path, _, query = uri.partition("?")
    path = unquote(path)
    parts = path.strip("/").split("/")
    if len(parts) < 3 or parts[0] not in ("api", "apis"):
        return AccessRequest(verb, path)
    group = ""
    if parts[0] == "apis":
        if len(parts) < 4:
            return AccessRequest(verb, path)
        group = parts[1]
        parts = parts[3:]
    else:
        parts = parts[2:]
    special = parts[0] if parts[0] in _SPECIAL_VERBS else ""
    if special:
        verb, parts = special, parts[1:]
    namespace = ""
    if parts[:1] == ["namespaces"] and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _OF_NAMESPACE:
            parts = parts[2:]
    resource, name = parts[0] if parts else "", parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 and special != "proxy" else ""
    selected: tuple[tuple[str, str], ...] = ()
    if verb in _BY_SELECTOR and "fieldSelector" in query:
        terms = _selector(query)
        selected = tuple((field, value) for field, value in terms if field in _OF_NODE)
        name = name or _selected_name(terms)
    return AccessRequest(verb, None, group, resource, subresource, namespace, name, selected)


def _selector(query: str) -> list[tuple[str, str]]:
    """What a field selector asks for, as (field, value); empty for what is none, with which the request fails."""
    try:
        selectors = parse_qs(query, max_num_fields=64).get("fieldSelector", ())
    except ValueError:
        return []
    terms = [term.replace("==", "=").partition("=") for one in selectors for term in one.split(",") if term]
    return [(field, value) for field, _, value in terms] if all(sign for _, sign, _ in terms) else []


def _selected_name(terms: list[tuple[str, str]]) -> str:
    """The one name that a field selector asks for; empty if it asks for none, or for more than that."""
    names = {value for field, value in terms if field == "metadata.name"}
    name = names.pop() if len(names) == 1 else ""
    return "" if name in (".", "..") or "/" in name or "%" in name else name
