"""Looks up values in decoded JSON of which nothing is certain, and turns them into words of traits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from data.actions.folding import fold_name

Json = Any  # a decoded JSON value
Object = dict[str, Json]


def as_object(value: Json) -> Object:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_objects(value: Json) -> Iterable[Object]:
    """The items of a list as objects."""
    return map(as_object, as_list(value))


def object_at(value: Json, *keys: str) -> Object:
    """The object below nested keys; empty if there is none."""
    for key in keys:
        value = as_object(value).get(key)
    return as_object(value)


TraitFields = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


def trait_fields(text: str, path: str = "") -> TraitFields:
    """Fields below a path that become traits: `flag!` if it is true, `key` or `key:trait` if it has a value.

    A trait that ends in `=` goes on with the value, one that ends in `=*` with each item of the list.
    """
    pairs = (field.partition(":") for field in text.split())
    return tuple(path.split(".") if path else ()), tuple(
        (key.rstrip("!"), trait or key) for key, _, trait in pairs
    )


def given_traits(source: Object, *fields: TraitFields) -> Iterator[str]:
    """Traits of the fields that are there."""
    for path, traits in fields:
        inner = object_at(source, *path)
        for key, trait in traits:
            value = inner.get(key)
            if trait[-1] == "!":
                if value is True:
                    yield key
            elif trait[-1] == "*":
                yield from (trait[:-1] + folded_word(item) for item in as_list(value))
            elif value:
                yield trait + folded_word(value) if trait[-1] == "=" else trait


def folded_word(value: Json, limit: int = 63) -> str:
    """A chosen name, folded and bounded; `?` when it is no name."""
    return fold_name(value[:limit]) if isinstance(value, str) and value else "?"


def magnitude(value: Json) -> str:
    """A count as its power of two, so that 3 and 4 replicas are alike and 4 and 200 are not."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return "?"
    return str(0 if value == 0 else 1 << (value.bit_length() - 1))


_QUANTITY = re.compile(r"(\d{1,15})(?:\.\d+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_UNITS = dict(zip("mkMGTP", (1e-3, 1e3, 1e6, 1e9, 1e12, 1e15), strict=True)) | {
    f"{unit}i": 2.0**power for unit, power in zip("KMGTP", (10, 20, 30, 40, 50), strict=True)
}


#: Larger numbers in a body are no quantities, and a sum of them would be infinite.
_MOST = 1e30


def quantity(value: Json) -> float:
    """A Kubernetes quantity (`500m`, `2`, `4Gi`) as a number; 0 when it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(min(max(value, -_MOST), _MOST))
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) * _UNITS.get(match[2] or "", 1.0) if match else 0.0
