"""Keyed names in place of those of people, so that a dataset can be studied and shared by others than those who hold the key.

A pseudonym is an HMAC-SHA256 of the name. The same key gives the same pseudonyms in each dataset; without it nobody can compute
them from a list of names, and with it everybody can. Service accounts, nodes and components keep their names.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.errors import KubehabitError
from data.principals.identity import identify
from data.principals.ownership import NOBODY
from data.principals.person import NoPersonError, Person

LEAST_KEY_BYTES = 32
#: Fields whose values are names of principals.
_NAMING_FIELDS = ("owner", "impersonates")
#: Fields of documents, such as events and alerts, whose values are names of principals, users, or who decided something.
_NAMING_KEYS = frozenset(("principal", "username", "impersonated", "by", "caller"))


def load_key(path: Path) -> bytes:
    """The key in a file, as its bytes.

    Raises:
        KubehabitError: the file cannot be read, or is too short to be a key.
    """
    make = f"Make one with: openssl rand -out {path} {LEAST_KEY_BYTES}"
    try:
        key = path.read_bytes()
    except OSError as error:
        raise KubehabitError(
            f"Cannot read the key of the pseudonyms {path}: {error.strerror}. {make}"
        ) from error
    if len(key) < LEAST_KEY_BYTES:
        raise KubehabitError(
            f"The key of the pseudonyms {path} has {len(key)} bytes, fewer than {LEAST_KEY_BYTES}. {make}"
        )
    return key


def pseudonym(name: str, key: bytes) -> str:
    """What stands for the name of a person."""
    return f"person-{hmac.digest(key, name.encode('utf-8', 'surrogatepass'), 'sha256')[:10].hex()}"


def replace_people(metas: Iterable[dict[str, Any]], key: bytes) -> None:
    """Replace the names of people in what the parts of a dataset know by code: principals, owners, impersonated identities.

    Which user names were folded into a person is forgotten.
    """
    metas = list(metas)
    kinds = {name: kind for meta in metas for name, kind, _ in meta["principals"]}

    def replaced(name: str) -> str:
        is_person = name != NOBODY and (kinds.get(name) or identify(name, ()).kind) == "human"
        return pseudonym(name, key) if is_person else name

    for meta in metas:
        meta["principals"] = [[replaced(name), kind, groups] for name, kind, groups in meta["principals"]]
        for field in _NAMING_FIELDS:
            meta["values"][field] = [*map(replaced, meta["values"][field])]
        meta["folds"] = {name: found for name, found in meta["folds"].items() if kinds.get(name) != "human"}


def without_people(document: Any, key: bytes) -> Any:
    """A document of JSON with pseudonyms for the people that it names as principal, user or author, wherever their names stand.

    A person who is named in free text only keeps the name, and so do addresses.
    """
    for name in sorted(_names_in(document), key=len, reverse=True):
        try:
            document = Person(name).replaced_in(document, pseudonym(name, key))
        except NoPersonError:  # an account of the cluster
            continue
    return document


def _names_in(document: Any) -> set[str]:
    if isinstance(document, list):
        return set().union(*map(_names_in, document)) if document else set()
    if not isinstance(document, dict):
        return set()
    own = {held for field, held in document.items() if field in _NAMING_KEYS and isinstance(held, str)}
    return own.union(*(_names_in(held) for held in document.values()))
