"""What a long command says when it is stopped by Ctrl-C or SIGTERM: what was kept, and how to go on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from kubehabit.options import say


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which unwinds the stack as Ctrl-C does."""


@contextmanager
def interruptible(kept: str | Callable[[], str]) -> Iterator[None]:
    """End with a sentence and the exit status that a shell expects (130, or 143 after SIGTERM).

    Args:
        kept: what was kept, and how to go on; called only when it is asked for.
    """

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        # Lightning answers Ctrl-C with an exit of its own.
        cause = stopped if isinstance(stopped, KeyboardInterrupt) else stopped.__context__
        if not isinstance(cause, KeyboardInterrupt):
            raise
        number = signal.SIGTERM if isinstance(cause, _Terminated) else signal.SIGINT
        said = kept if isinstance(kept, str) else kept()
        say(f"Stopped by {'SIGTERM' if number == signal.SIGTERM else 'Ctrl-C'}. {said}", err=True)
        raise typer.Exit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)
