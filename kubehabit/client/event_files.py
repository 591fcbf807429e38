"""Answers about events from the files of a service on this machine, or from logs that no service has seen."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from rich.console import Console

from data.errors import KubehabitError
from data.events.left_out import LeftOut
from data.visible_text import visible
from kubehabit.client.batches import batches_of
from serving.forensics.event_store import EventStore
from serving.forensics.principal_habits import compared, habits_of
from serving.forensics.queries import EventQueries
from serving.forensics.store_place import StorePlace
from serving.history.queries import HistoryReader
from serving.history.schema import HistoryError
from serving.settings import EventSettings, Settings

#: A person can press Ctrl-C.
_SECONDS = 300.0
#: Of a temporary store, which nothing is to be dropped from.
_FOREVER_DAYS = 36_500.0


class FileAnswers(EventQueries):
    """The files of a service, or those made of a log.

    Args:
        store: folder of the event store, or its copy.
        history: file that says how unusual each principal was; None without one.
        memory_mb: memory of the database.
    """

    def __init__(self, store: Path | StorePlace, history: Path | None, memory_mb: int = 512) -> None:
        place = store.absolute() if isinstance(store, Path) else store
        super().__init__(place, memory_mb=memory_mb, seconds=_SECONDS)
        self._history = history

    def past(self, principal: str, since: int | None, until: int | None) -> dict[str, Any]:
        """`habits`, `surprise` over time and `peers` of a principal, as the API gives them; None for what is not known."""
        habits = habits_of(self, principal, since, until)
        surprise, others = None, []
        if self._history is not None:
            reader = HistoryReader(self._history)
            found = reader.surprise(principal)
            surprise = None if found is None else found.model_dump(mode="json", by_alias=True)
            others = reader.peers(principal)
        peers = compared(self, principal, others, since, until)
        return msgspec.to_builtins({"habits": habits, "surprise": surprise, "peers": peers})  # type: ignore[no-any-return]

    def names_like(self, principal: str) -> list[str]:
        """Principals whose names resemble this one."""
        query = "SELECT DISTINCT principal FROM {records}"
        names = [str(row[0]) for row in self.answer(None, None, lambda source: source.all(query))]
        parts = [name for name in names if principal.lower() in name.lower()]
        return sorted((parts or difflib.get_close_matches(principal, names, 5, 0.5))[:5])


def answers_of_files(
    settings: Settings, store: Path | StorePlace | None, history: Path | None = None
) -> FileAnswers:
    """The files of a service.

    Args:
        settings: of the service.
        store, history: other places than those of the settings.

    Raises:
        KubehabitError: there is no event store, or the history that was named cannot be read.
    """
    past = history or settings.history.resolved_path(settings.state.resolved_path)
    try:
        HistoryReader(past)
        known = True
    except HistoryError:
        if history is not None:
            raise
        known = False
    return FileAnswers(
        store or settings.events.resolved_path, past if known else None, settings.events.memory_mb
    )


@contextmanager
def answers_of_logs(logs: Sequence[Path]) -> Iterator[FileAnswers]:
    """The events of some logs, files or folders, in a store that lasts as long as the context.

    Raises:
        KubehabitError: a log cannot be read, or none of them holds an event.
    """
    with TemporaryDirectory(prefix="kubehabit-") as folder:
        settings = EventSettings(path=Path(folder), retention_days=_FOREVER_DAYS, max_gb=1e6)
        store = EventStore(settings)
        kept, left_out = 0, LeftOut()
        try:
            for batch in batches_of(logs, "reading"):
                kept += store.append(b"\n".join(batch), left_out=left_out)
                store.tick()
        finally:
            store.close()
        sentence = left_out.sentence()
        if not kept:
            raise KubehabitError(
                f"The logs hold no audit event. {sentence} Check that they are audit.k8s.io logs.".replace(
                    "  ", " "
                )
            )
        if sentence:
            Console(stderr=True).print(visible(f"warning: {sentence}"), markup=False, highlight=False)
        answers = FileAnswers(Path(folder), None, settings.memory_mb)
        try:
            yield answers
        finally:
            answers.close()
