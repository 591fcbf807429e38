"""Names the fields of an action, and turns raw values of a request into them."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from data.actions.folding import fold_name

FIELDS: tuple[str, ...] = (
    "verb",  # what was done; exec, attach and port-forward are `connect` whichever verb the client used
    "resource",  # group/resource/subresource, or the path of a request outside the resource API
    "namespace",
    "name",  # object name, folded
    "code",  # class of the answer
    "client",  # user-agent family, version step, system
    "place",  # address, seen through the trusted proxies
    "binding",  # the RBAC binding that allowed it
    "impersonates",  # effective identity, if not the caller's own
    "traits",  # what in the body matters
    "images",  # repositories of the images in the body
    "uri",  # shape of the query, or the path behind a proxy
    "owner",  # for whom a controller acts: who last wrote what its object belongs to
    "hour",  # hour of day and weekday or weekend; only used when training data spans days
    "gap",  # time since the principal's previous action, set by the sequence, not by the event
)
STATIC_FIELDS = FIELDS[:-1]
GAPS = ("first", "<10ms", "<100ms", "<1s", "<10s", "<1m", "<10m", "<1h", "<8h", ">=8h")
_GAP_EDGES = np.array([10, 100, 1000, 10_000, 60_000, 600_000, 3_600_000, 28_800_000]) * 1000  # microseconds
_QUERY_NOISE = {"timeout", "timeoutSeconds", "resourceVersion", "resourceVersionMatch"}
_QUERY_NOISE |= {"allowWatchBookmarks", "watch", "pretty"}
_BY = re.compile(r'by (ClusterRoleBinding|RoleBinding) "([^"]*)"')
_FIRST_ARGUMENT = re.compile(r"[?&]command=([^&]*)")
_PROXY_DEPTH = 4


def stable_hash(text: str) -> int:
    """64-bit hash that is the same in every process (Python's own is salted)."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def gap_codes(gaps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Index into GAPS of gaps in microseconds; a negative gap means there was no earlier action."""
    return np.where(gaps < 0, 0, 1 + np.searchsorted(_GAP_EDGES, gaps, side="right"))


def hour_of_week(time: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Hour, UTC, of times in microseconds since 1970: 0 to 23 on weekdays, 24 to 47 on weekends."""
    hours = time // 3_600_000_000
    return np.asarray(hours % 24 + 24 * (((hours // 24 + 3) % 7) >= 5), np.int64)


def code_class(code: int) -> str:
    """Answer class: success is one class, refusals and failures keep their number."""
    if 100 <= code < 400:
        return "ok"
    if code >= 500:
        return "5xx"
    return str(code) if code else "-"


def uri_shape(uri: str, subresource: str) -> str:
    """Query keys that say how the request was made; for proxies the path behind them; for exec the program."""
    path, _, query = uri.partition("?")
    keys = {part.partition("=")[0] for part in query.split("&") if part} - _QUERY_NOISE
    shape = "&".join(sorted(fold_name(unquote(key)) for key in keys))
    if subresource == "proxy":
        behind = path.partition("/proxy")[2].split("/")[1 : 1 + _PROXY_DEPTH]
        shape = "/".join(fold_name(unquote(part)) for part in behind) + "?" + shape
    if subresource == "exec" and (argument := _FIRST_ARGUMENT.search("?" + query)):
        shape += " " + fold_name(unquote(argument[1]).rpartition("/")[2][:40])
    return shape or "-"


def non_resource_path(uri: str) -> str:
    """Path of a request outside the resource API, folded to four segments."""
    return "/" + "/".join(fold_name(part) for part in uri.partition("?")[0].split("/")[1:5])


def resource_name(group: str, resource: str, subresource: str) -> str:
    """`group/resource/subresource`, without the parts that are empty."""
    return "/".join(part for part in (group, resource, subresource) if part)


def binding_of(decision: str | None, reason: str | None) -> str:
    """The RBAC binding that allowed a request, `denied`, or `-` where the log does not say."""
    if match := _BY.search(reason or ""):
        return f"{match[1]} {fold_name(match[2])}"
    return {"forbid": "denied", "allow": "-"}.get(decision or "", decision or "-")
