"""Folding of machine-made names, clients and addresses to the classes an operator thinks in.

A fold is idempotent and total. `*` stands for a random or numbered part, `N` for a number inside a word: neither occurs in a
Kubernetes name.
"""

from __future__ import annotations

import ipaddress
import re

SAFE = "bcdfghjklmnpqrstvwxz2456789"
"""Alphabet of the random suffixes Kubernetes generates (k8s.io/apimachinery/pkg/util/rand)."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DATE = re.compile(r"(?<!\d)(?:19|20)\d\d-?(?:0\d|1[0-2])-?(?:[0-2]\d|3[01])(?:[-t]?\d{4,6})?(?!\d)")
_PART = re.compile(r"[^-._:/@*]+")
_DIGITS = re.compile(r"\d+")
_SAFE_PART = re.compile(f"[{SAFE}]+")
_HEX = re.compile(r"[0-9a-f]+")
_HEX_MIN = 4
_HASH_MIN = 8
_OPAQUE_MIN = 12


def _is_random(part: str, last: bool) -> bool:
    """Whether one dash- or dot-separated part looks generated rather than chosen."""
    digits = sum(character.isdigit() for character in part)
    if digits == len(part):
        return True
    if _HEX.fullmatch(part) and len(part) >= _HEX_MIN and (digits or len(part) >= _HASH_MIN):
        return True
    if _SAFE_PART.fullmatch(part):
        if last and len(part) == 5:
            return True
        return len(part) >= _HASH_MIN and bool(digits)
    return len(part) >= _OPAQUE_MIN and digits >= 3


def fold_name(name: str) -> str:
    """Object name without its random, numbered and dated parts: `web-5d4f8c7b9-x2x4z` -> `web-*`."""
    if not name:
        return "-"
    name = _UUID.sub("*", name)
    name = _DATE.sub("*", name)
    parts = list(_PART.finditer(name))
    folded: list[str] = []
    end = 0
    for index, match in enumerate(parts):
        folded.append(name[end : match.start()])
        part = match.group()
        end = match.end()
        last = (
            end == len(name) or name[end] == "."
        )  # an Event is named after its object: `web-x2x4z.17a2b3c4d5e6f7a8`
        folded.append("*" if index and _is_random(part, last) else _DIGITS.sub("N", part))
    folded.append(name[end:])
    # web-*-* and web-* are the same workload seen through different controllers.
    return re.sub(r"\*(?:[-.]\*)+", "*", "".join(folded))


_AGENT = re.compile(r"(?P<family>[^/ ]+)(?:/v?(?P<version>[^ ]*))?(?: \((?P<os>[a-z]+)/[^)]*\))?(?P<rest>.*)")
_REST = re.compile(r"^ ?(?P<product>[A-Za-z][\w.-]*)/(?P<hash>[^/ ]*)(?P<role>/[\w-]+)?")


def fold_client(agent: str) -> str:
    """User agent as `family/major.minor os role`: `kubectl/v1.20.2 (linux/amd64) kubernetes/faecb19` -> `kubectl/1.20 linux`."""
    match = _AGENT.match(agent.strip())
    if not match:
        return "-"
    version = re.match(r"\d+(?:\.\d+)?", match["version"] or "")
    family = match["family"].split("_")[0]  # tools append run identifiers: `tool_8f14e45f-ceea`
    text = "-".join(
        part for index, part in enumerate(family.split("-")) if not (index and _is_random(part, False))
    )
    if version:
        text += "/" + version.group()
    if match["os"]:
        text += " " + match["os"]
    rest = _REST.match(match["rest"] or "")
    if rest and rest["product"] != "kubernetes":
        text += " " + rest["product"]
    if rest and rest["role"]:
        text += " " + rest["role"][1:]
    return text


def client_family(client: str) -> str:
    """Back-off of a folded client: `kubectl/1.20 linux` -> `kubectl`."""
    return re.split(r"[/ ]", client, maxsplit=1)[0]


def place_of(source_ips: tuple[str, ...], trusted_hops: int) -> str:
    """The address that made the request, seen through `trusted_hops` proxies of one's own.

    `sourceIPs` is the X-Forwarded-For chain followed by the peer; a client can forge everything to the left of what
    the first trusted proxy appended.
    """
    if not source_ips:
        return "-"
    return source_ips[max(0, len(source_ips) - 1 - trusted_hops)] or "-"


def network_of(place: str) -> str:
    """First back-off of an address: its /24 (IPv4) or /48 (IPv6)."""
    try:
        address = ipaddress.ip_address(place)
    except ValueError:
        return "-"
    prefix = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))


def reach_of(place: str) -> str:
    """Second back-off of an address: `loopback`, `private` or `public`."""
    try:
        address = ipaddress.ip_address(place)
    except ValueError:
        return "-"
    if address.is_loopback:
        return "loopback"
    return "private" if any(address in network for network in _PRIVATE) else "public"


_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
        *("fc00::/7", "fe80::/10"),
    )
)
"""Networks that are not routed on the internet (RFC 1918, 4193, 6598). Documentation ranges count as public."""
