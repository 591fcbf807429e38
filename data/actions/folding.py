"""Folds machine-made names, clients and addresses to the classes an operator thinks in.

A fold is idempotent and total. `*` stands for a random or numbered part, `N` for a number inside a word: neither occurs in a
Kubernetes name.
"""

from __future__ import annotations

import ipaddress
import re

#: Alphabet of the random suffixes Kubernetes generates (k8s.io/apimachinery/pkg/util/rand).
SAFE = "bcdfghjklmnpqrstvwxz2456789"

#: Words that happen to be written in hexadecimal digits.
_HEX_WORDS = (
    "abed|aced|babe|bade|bead|beef|cafe|cede|dada|dead|deaf|deed|face|fade|feed|added|bedad|ceded|"
    "decaf|faced|faded|accede|beaded|bedded|decade|deface|efface|facade|acceded|defaced|effaced"
)

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_DASHES = 4
_DATE = re.compile(
    r"(?<![0-9])(?:19|20)[0-9]{2}-?(?:0[0-9]|1[0-2])-?(?:[0-2][0-9]|3[01])(?:[-t]?[0-9]{4,6})?(?![0-9])"
)
_RANDOM_PART = rf"""
      [0-9]+                                               # a number
    | (?=[a-f]*[0-9])[0-9a-f]{{4,}} | [0-9a-f]{{8,}}       # hexadecimal
    | (?!(?:{_HEX_WORDS})(?:[-._:/@*]|\Z))[a-f]{{4,7}}   # the same, by chance without a digit
    | [{SAFE}]{{5}}(?=\Z|\.)                               # generateName; an Event adds a part to its object's name
    | (?=[^-._:/@*]*[0-9])[{SAFE}]{{8,}}                   # pod template hash
    | (?=(?:[^-._:/@*0-9]*[0-9]){{3}})[^-._:/@*]{{12,}}    # other identifiers, base32 and the like
"""
_RANDOM = re.compile(rf"(?<=[-._:/@*])(?:{_RANDOM_PART})(?=[-._:/@*]|\Z)", re.VERBOSE)
_NUMBER = re.compile("[0-9]+")
_RUN = re.compile(r"\*(?:[-.]\*)+")
#: Matches a name in which nothing can be folded: most of those that people gave.
_CHOSEN = re.compile(rf"(?!.*(?:[0-9]|[-._:/@*][a-f]{{4}}|[{SAFE}]{{5}}(?:\Z|\.)|\*[-.]\*))", re.DOTALL)


def fold_name(name: str) -> str:
    """Object name without its random, numbered and dated parts: `web-5d4f8c7b9-x2x4z` -> `web-*`."""
    if not name:
        return "-"
    if _CHOSEN.match(name):
        return name
    # Most names have neither a UUID nor a date, and each search costs.
    if name.count("-") >= _UUID_DASHES:
        name = _UUID.sub("*", name)
    if "20" in name or "19" in name:
        name = _DATE.sub("*", name)
    name = _NUMBER.sub("N", _RANDOM.sub("*", name))
    # web-*-* and web-* are the same workload seen through different controllers.
    return _RUN.sub("*", name) if name.count("*") > 1 else name


_AGENT = re.compile(r"(?P<family>[^/ ]+)(?:/v?(?P<version>[^ ]*))?(?: \((?P<os>[a-z]+)/[^)]*\))?(?P<rest>.*)")
_MINOR = re.compile(r"\d+(?:\.\d+)?")
_REST = re.compile(r"^ ?(?P<product>[A-Za-z][\w.-]*)/(?P<hash>[^/ ]*)(?P<role>/[\w-]+)?")


def fold_client(agent: str) -> str:
    """User agent as `family/major.minor os role`: `kubectl/v1.20.2 (linux/amd64) kubernetes/faecb19` -> `kubectl/1.20 linux`."""
    match = _AGENT.match(agent.strip())
    if not match:
        return "-"
    version = _MINOR.match(match["version"] or "")
    family = match["family"].split("_")[0]  # tools append run identifiers: `tool_8f14e45f-ceea`
    text = "-".join(part for part in _RANDOM.sub("*", family).split("-") if part != "*")
    if version:
        text += "/" + version.group()
    if match["os"]:
        text += " " + match["os"]
    if rest := _REST.match(match["rest"]):
        text += "" if rest["product"] == "kubernetes" else " " + rest["product"]
        text += f" {rest['role'][1:]}" if rest["role"] else ""
    return text


def client_family(client: str) -> str:
    """Back-off of a folded client: `kubectl/1.20 linux` -> `kubectl`."""
    return client.partition(" ")[0].partition("/")[0]


def is_loopback(address: str) -> bool:
    """Whether an address is that of a machine's own processes."""
    return address == "::1" or address.startswith(("127.", "[::1]"))


def place_of(source_ips: tuple[str, ...], trusted_hops: int, *, through_loopback: bool = False) -> str:
    """The address that made the request, seen through `trusted_hops` proxies of one's own.

    `sourceIPs` is the X-Forwarded-For chain followed by the peer; a client can forge everything to the left of what
    the first trusted proxy appended. With `through_loopback` a peer on the API server's own machine counts as such a proxy: its
    address would be the same for everybody.
    """
    if not source_ips:
        return "-"
    if through_loopback and is_loopback(source_ips[-1]):
        local = next((hops for hops, one in enumerate(reversed(source_ips)) if not is_loopback(one)), 0)
        trusted_hops = max(trusted_hops, local)
    place = source_ips[max(0, len(source_ips) - 1 - trusted_hops)] or "-"
    return place if _PLAIN_ADDRESS.fullmatch(place) else _plain_address(place)


#: An address as API servers write it: most need no second look.
_PLAIN_ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}|-", re.ASCII)
_WITH_PORT = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9]{1,3}(?:\.[0-9]{1,3}){3}))(?::[0-9]{1,5})?", re.ASCII
)


def _plain_address(text: str) -> str:
    """An address without the port that some proxies add, and IPv4 not in its form for IPv6; other texts as they are."""
    found = _WITH_PORT.fullmatch(text)
    if found is not None:
        text = found[1] or found[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)


#: Networks that are not routed on the internet (RFC 1918, 4193, 6598). Documentation ranges count as public.
_PRIVATE = [
    *map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")),
    *map(ipaddress.ip_network, ("169.254.0.0/16", "fc00::/7", "fe80::/10")),
]


def network_of(place: str) -> str:
    """First back-off of an address: its /24 (IPv4) or /48 (IPv6)."""
    try:
        address = ipaddress.ip_address(place)
    except ValueError:
        return "-"
    return str(ipaddress.ip_network(f"{address}/{24 if address.version == 4 else 48}", strict=False))


def reach_of(place: str) -> str:
    """Second back-off of an address: `loopback`, `private` or `public`."""
    try:
        address = ipaddress.ip_address(place)
    except ValueError:
        return "-"
    if address.is_loopback:
        return "loopback"
    return "private" if any(address in network for network in _PRIVATE) else "public"
