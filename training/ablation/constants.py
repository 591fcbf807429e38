"""Constants of the decision with other values, for as long as a variant is judged."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from data.errors import KubehabitError

_ROOMS = ("data.", "detection.", "training.")


@contextmanager
def changed(constants: Mapping[str, Any]) -> Iterator[None]:
    """Meanwhile module constants have other values, also in the modules that imported them by name.

    Args:
        constants: `module.NAME` -> value. A mask is set to the value in all places; of a list of lists, `[]` empties each.

    Raises:
        KubehabitError: there is no such constant.
    """
    with ExitStack() as restore:
        for path, value in constants.items():
            module, _, name = path.rpartition(".")
            try:
                shipped = getattr(import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise KubehabitError(
                    f"{path} names no constant of the source: {error}. Correct the variant."
                ) from error
            for holder in [held for key, held in sys.modules.items() if key.startswith(_ROOMS)]:
                if vars(holder).get(name) is shipped:
                    setattr(holder, name, _like(shipped, value))
                    restore.callback(setattr, holder, name, shipped)
        yield


def _like(shipped: Any, value: Any) -> Any:
    if isinstance(shipped, np.ndarray):
        return np.full_like(shipped, value)
    if isinstance(shipped, list) and value == []:
        return [[] for _ in shipped]
    return value
