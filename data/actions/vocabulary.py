"""Token ids of each field, fitted on training data only; rare values fall back on broader ones before "unknown"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.encoder import ActionBatch, ActionEncoder
from data.actions.fields import FIELDS, GAPS, STATIC_FIELDS
from data.actions.folding import client_family, network_of, reach_of

PAD, UNKNOWN, MASK = 0, 1, 2
SPECIALS = ("<pad>", "<unknown>", "<mask>")
#: A value seen once in training is as good as unknown; its own token would teach the model nothing.
MIN_COUNT = 2

#: Steps from a value to "unknown" at most: an image, its folder, its registry. Names in a log may be made to go in circles.
BACK_OFF_STEPS = 3

#: Hours are learned only from data that holds every weekday; otherwise each new hour would look like an attack.
HOUR_NEEDS_DAYS = 7.0


def back_offs(field: str, value: str) -> tuple[str, ...]:
    """Broader values of a value, narrowest first: a new kubectl version is still kubectl, a new object of `web` is of `web`."""
    if field == "client":
        return (f"{client_family(value)}/?",)
    if field == "place":
        address = value.partition("/")[0]  # of a network as well
        return (network_of(address), reach_of(address))
    if field == "name":
        return (*_stem(value), "<named>") if value != "-" else ()
    if field == "resource":
        parts = value.split("/")
        return (f"{parts[0]}/?",) if len(parts) > 1 and not value.startswith("/") else ()
    if field == "traits":
        return (*_kinds_of_traits(value), "<traits>")
    pieces = _PIECES.get(field)
    return pieces(value) if pieces is not None else ()


@lru_cache(maxsize=1 << 14)
def is_kind(field: str, value: str) -> bool:
    """Whether a value stands for a kind of values, which falls back on itself; no action has it."""
    return value in back_offs(field, value)


def _stem(value: str) -> tuple[str, ...]:
    """The first word of a name: `web?` of `web-frontend` and of `web`."""
    word = value.rstrip("?")
    for separator in "-._:/@":
        word = word.partition(separator)[0]
    return (f"{word}?",) if word else ()


def _kinds_of_traits(value: str) -> tuple[str, ...]:
    """Traits without what they are set to: `containers,replicas ?` of `containers=1,replicas=2`."""
    kinds = sorted({trait.partition("=")[0] for trait in value.removesuffix(" ?").split(",")})
    return (f"{','.join(kinds)} ?",) if value != "-" else ()


def _image_folders(value: str) -> tuple[str, ...]:
    """Where images come from, without the last part of their repositories, and their registries."""
    paths = [image.split("/") for image in value.split(",")]
    folders = sorted({"/".join(path[:-1]) for path in paths if len(path) > 1})
    registries = sorted({path[0] for path in paths if len(path) > 1})
    return (f"{','.join(folders)}/?", f"{','.join(registries)}/?") if folders else ()


def _binding_places(value: str) -> tuple[str, ...]:
    """Any binding of a namespace, and any of a kind: `RoleBinding ?/web`, `RoleBinding ?`."""
    kind, is_named, name = value.partition(" ")
    _, slash, namespace = name.rpartition("/")
    if not is_named:
        return ()
    return (f"{kind} ?/{namespace}", f"{kind} ?") if slash else (f"{kind} ?",)


def _account_places(value: str) -> tuple[str, ...]:
    """Any service account of a namespace, and any at all; any person of a domain."""
    if value.startswith(_SERVICE_ACCOUNT):
        namespace = value.removeprefix(_SERVICE_ACCOUNT).partition(":")[0]
        return (f"{_SERVICE_ACCOUNT}{namespace}:?", f"{_SERVICE_ACCOUNT}?")
    _, at, domain = value.rpartition("@")
    return (f"?@{domain}",) if at else ()


def _any_program(value: str) -> tuple[str, ...]:
    """An exec with the same query, of whatever program."""
    query, is_program, _ = value.rpartition(" ")
    return (f"{query} ?",) if is_program else ()


#: Fields of a fixed set of values, and the words of others for "none": these are always known.
_CLOSED = frozenset(("verb", "code", "hour", "gap"))
_NONE = frozenset(("-", "denied"))
#: Fields whose back-offs are tokens also where they stand for one value alone.
_ALWAYS = frozenset(("client", "place", "resource"))
_SERVICE_ACCOUNT = "system:serviceaccount:"
#: Broader values of the fields that have only such as are worth a token if several values share them.
_PIECES: Mapping[str, Callable[[str], tuple[str, ...]]] = {
    "namespace": _stem,
    "images": _image_folders,
    "binding": _binding_places,
    "impersonates": _account_places,
    "owner": _account_places,
    "uri": _any_program,
}


def _worth_a_token(field: str, values: Iterable[str], limit: int) -> set[str]:
    """Back-offs of some values: those that tell more than "unknown" by themselves, and others that two values share."""
    shared = Counter(wider for value in values for wider in set(back_offs(field, value)))
    always = {wider for wider in shared if field in _ALWAYS or wider.startswith("<")}
    ranked = sorted(shared.items(), key=lambda pair: (-pair[1], pair[0]))
    return always | {wider for wider, count in ranked[:limit] if count >= MIN_COUNT}


class Vocabulary:
    """Maps field values to token ids."""

    def __init__(self, tokens: Mapping[str, list[str]], uses_hour: bool) -> None:
        self.tokens = {field: list(tokens[field]) for field in FIELDS}  # by id, the SPECIALS first
        self.uses_hour = uses_hour  # whether the hour carries information: the training data spans days
        self._ids = {name: dict(zip(ids, range(len(ids)), strict=True)) for name, ids in self.tokens.items()}
        self._tables: dict[str, npt.NDArray[np.int32]] = {}
        self._generation = -1

    @classmethod
    def fit(cls, counts: Mapping[str, Mapping[str, int]], *, span_days: float, limit: int) -> Vocabulary:
        """Fit on the training part.

        Args:
            counts: static field -> value -> occurrences.
            span_days: time span.
            limit: most tokens a field may have; the rarest values beyond it fall back.
        """
        tokens: dict[str, list[str]] = {}
        uses_hour = span_days >= HOUR_NEEDS_DAYS
        for field in STATIC_FIELDS:
            if field == "hour" and not uses_hour:
                tokens[field] = [*SPECIALS]
                continue
            values = sorted(counts[field].items(), key=lambda pair: (-pair[1], pair[0]))
            kept = [value for value, count in values if count >= MIN_COUNT][: limit - len(SPECIALS)]
            # Back-offs come last so that the limit of values never drops them: they are what an unseen value becomes.
            broad = _worth_a_token(field, counts[field], limit)
            tokens[field] = [*SPECIALS, *kept, *sorted(broad - set(kept))]
        tokens["gap"] = [*SPECIALS, *GAPS]
        return cls(tokens, uses_hour)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of tokens of each field, in the order of FIELDS."""
        return tuple(len(self.tokens[field]) for field in FIELDS)

    def broader(self, field: str) -> npt.NDArray[np.int64]:
        """Token that each token of a field would fall back on were it not known, int64 [tokens]; itself for what always is."""
        ids = self._ids[field]
        out = np.arange(len(ids))
        for value, index in ids.items() if field not in _CLOSED else ():
            if index >= len(SPECIALS) and value not in _NONE:
                wider = (
                    one for one in back_offs(field, value) if one in ids and one not in _NONE and one != value
                )
                out[index] = next((ids[one] for one in wider), UNKNOWN)
        return out

    @property
    def kind_sizes(self) -> list[int]:
        """How many tokens fall back on each token, of all fields side by side; 1 where none does."""
        sizes: list[int] = []
        for field in FIELDS:
            broader = self.broader(field)
            found = np.zeros(len(broader), np.int64)
            at = np.arange(len(broader))
            for _ in range(BACK_OFF_STEPS):
                moving = broader[at] != at
                at = broader[at]
                np.add.at(found, at, moving)
            sizes += np.maximum(found, 1).tolist()
        return sizes

    def token(self, field: str, value: str) -> int:
        """Token id of a value: its own, else that of its narrowest known back-off, else UNKNOWN."""
        if field == "hour" and not self.uses_hour:
            return UNKNOWN
        ids = self._ids[field]
        return next((ids[known] for known in (value, *back_offs(field, value)) if known in ids), UNKNOWN)

    def table(self, field: str, values: Sequence[str]) -> npt.NDArray[np.int32]:
        """Token ids of values, int32 [values]."""
        return np.array([self.token(field, value) for value in values], np.int32)

    def encode(self, batch: ActionBatch, encoder: ActionEncoder) -> npt.NDArray[np.int32]:
        """Token ids of the static fields, int32 [N, fields]; the gap column is left at 0 for the sequence to fill."""
        if encoder.generation != self._generation:
            self._generation = encoder.generation
            self._tables = {field: np.empty(0, np.int32) for field in STATIC_FIELDS}
        out = np.zeros((len(batch), len(FIELDS)), np.int32)
        for column, field in enumerate(STATIC_FIELDS):
            table = self._tables[field]
            values = encoder.interners[field].values
            if len(table) < len(values):
                table = self._tables[field] = np.concatenate([table, self.table(field, values[len(table) :])])
            out[:, column] = table[batch.codes[field]]
        return out

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"tokens": self.tokens, "uses_hour": self.uses_hour}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Vocabulary:
        """Inverse of `to_dict`."""
        return cls(saved["tokens"], bool(saved["uses_hour"]))
