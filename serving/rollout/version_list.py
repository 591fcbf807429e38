"""The versions in the registry as last seen, asked for in the background: who looks at them never waits for the registry."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from serving.process.resources import lower_priority
from serving.registry.catalog import RegistryCatalog, known_catalog, read_catalog
from serving.registry.client import RegistryError

_log = logging.getLogger("kubehabit.registry")

#: Age of an answer from which on the registry is asked again: by a process of its own, which takes seconds to start.
FRESH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class KnownVersions:
    """What is known at the moment.

    Attributes:
        catalog: the last answer, from this process or one before it; None if there never was one.
        trouble: why the registry did not answer when it was last asked; "" if it did.
        asking: whether it is being asked now.
    """

    catalog: RegistryCatalog | None
    trouble: str
    asking: bool


class VersionList:
    """The versions of one registered model.

    Args:
        name: of the model.
        cache: folder of downloaded bundles, which keeps the last answer.
    """

    def __init__(self, name: str, cache: Path) -> None:
        self._name, self._cache = name, cache
        self._turn = threading.Lock()
        self._catalog: RegistryCatalog | None = None
        self._is_read = False
        self._trouble = ""
        self._asked = -math.inf
        self._thread: threading.Thread | None = None

    def known(self, fresh: float = FRESH_SECONDS) -> KnownVersions:
        """What is known now; the registry is asked again in the background if its answer is as old as `fresh` seconds."""
        with self._turn:
            if not self._is_read:
                self._catalog, self._is_read = known_catalog(self._name, self._cache), True
            if self._thread is None and time.monotonic() - self._asked >= fresh:
                self._thread = threading.Thread(target=self._ask, name="registry-versions", daemon=True)
                self._thread.start()
            return KnownVersions(self._catalog, self._trouble, self._thread is not None)

    def wait(self, seconds: float) -> None:
        """Wait at most so long for the answer to a question that is under way."""
        with self._turn:
            thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _ask(self) -> None:
        lower_priority()
        catalog, trouble = None, ""
        try:
            catalog = read_catalog(self._name, self._cache)
        except RegistryError as error:
            trouble = str(error)
        except Exception as error:  # the next question must not find this one still under way
            _log.exception("reading the versions of the registry failed")
            trouble = f"Reading the registry failed: {error!r}. This is a defect."
        with self._turn:
            self._catalog = catalog or self._catalog
            self._trouble = trouble
            self._asked = time.monotonic()
            self._thread = None
