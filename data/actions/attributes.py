"""Hashes combinations of an action's fields ("verb and resource", "this object"), its attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from data.actions.breadth import SPANS
from data.actions.encoder import ActionBatch, ActionEncoder
from data.actions.fields import STATIC_FIELDS, stable_hash
from data.actions.recent_hashes import Hashes

#: The attribute that says whether the hour is strange to the principal (`detection.own_week`).
HOURS = "hours"
#: Those that are hashed for each action by itself -> the fields that make them.
HASHED_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "verb_resource": ("verb", "resource"),
    "namespace": ("namespace",),
    "resource_namespace": ("resource", "namespace"),
    "verb_resource_namespace": ("verb", "resource", "namespace"),
    "object": ("resource", "namespace", "name"),
    "client": ("client",),
    "place": ("place",),
    "traits": ("verb", "resource", "traits"),
    "images": ("images",),
    "image_of": ("resource", "namespace", "name", "images"),
    "binding": ("resource", "binding"),
    "code": ("verb", "resource", "code"),
    "impersonates": ("impersonates",),
    "uri": ("resource", "uri"),
    **{span: ("verb", "resource", span) for span in SPANS},
}
#: How many these are.
HASHED = len(HASHED_ATTRIBUTES)
#: Attribute -> the fields that make it. Whether an hour is strange is said by the principal's own week (`detection.own_week`), in
#: bundles of a log that spans one.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {**HASHED_ATTRIBUTES, HOURS: ("hour",)}
#: Fields that attributes are made of: those of the model, and how many objects were read, which it does not see.
ATTRIBUTE_FIELDS = (*STATIC_FIELDS, *SPANS)

_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT_A, _SHIFT_B = np.uint64(29), np.uint64(32)


def mix(left: Hashes | np.uint64, right: Hashes | np.uint64) -> Hashes:
    """Order-dependent combination of two 64-bit hashes (multiply-xorshift), element by element."""
    # np.multiply, not the operator: of two numbers that warns where they wrap around, as they are meant to.
    mixed: Hashes = np.multiply(left, _MIX) ^ right
    mixed = np.multiply(mixed ^ (mixed >> _SHIFT_B), _MIX_2)
    return mixed ^ (mixed >> _SHIFT_A)


_SEEDS = np.array([stable_hash(f"attribute:{name}") for name in HASHED_ATTRIBUTES], np.uint64)
#: For each place in an attribute: which attributes have a field there, and which field that is.
_FIELDS_AT = [
    (
        np.array([index for index, fields in enumerate(HASHED_ATTRIBUTES.values()) if len(fields) > at]),
        np.array(
            [ATTRIBUTE_FIELDS.index(fields[at]) for fields in HASHED_ATTRIBUTES.values() if len(fields) > at]
        ),
    )
    for at in range(max(map(len, HASHED_ATTRIBUTES.values())))
]


def attribute_hashes(batch: ActionBatch, encoder: ActionEncoder) -> Hashes:
    """Stable hash of the first HASHED attributes of every action, uint64 [N, HASHED]."""
    columns = np.empty((len(batch), len(ATTRIBUTE_FIELDS)), np.uint64)
    for place, field in enumerate(ATTRIBUTE_FIELDS):
        columns[:, place] = encoder.interners[field].hashes()[batch.codes[field]]
    out = np.empty((len(batch), len(_SEEDS)), np.uint64)
    out[:] = _SEEDS
    for attributes, fields in _FIELDS_AT:
        out[:, attributes] = mix(out[:, attributes], columns[:, fields])
    return out


def attribute_hash(attribute: str, values: Sequence[str]) -> int:
    """As `attribute_hashes`, of one attribute of an action, given the values of its fields."""
    parts = [[stable_hash(part)] for part in (f"attribute:{attribute}", *values)]
    return int(reduce(mix, np.array(parts, np.uint64))[0])
